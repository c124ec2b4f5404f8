"""What the ranks of the chapter 4 tests run. Functions of a team, importable by name in every process."""
import copy
import os
import time

import torch
import torch.distributed as dist

from collectives import (Team, all_to_all, ring_all_gather, ring_all_reduce, ring_reduce_scatter, tree_all_reduce,
                         tree_broadcast)
from cross_entropy import cross_entropy
from data_parallel import OverlappedGradients, shard
from parallel_3d import Layout, Mesh, Trainer3D
from strategies import measured_run, one_process, optimizer_for, random_batches, start, start_mesh
from tensor_parallel import cut
from transformer import Config, Transformer
from zero import Zero

SMALL = dict(vocab_size=53, d_model=32, n_layers=4, n_heads=8, n_kv_heads=8, d_ff=48, max_len=32)   # 53 does not divide


def small_model(dtype=torch.float64, **changes) -> Transformer:
    """A small model with tied embeddings whose weights are large enough to matter; the same every time."""
    torch.manual_seed(0)
    model = Transformer(Config(**{**SMALL, **changes})).to(dtype)
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    return model


def small_batches(n=2, batch=8, length=16):
    return random_batches(Config(**SMALL), n, batch, length, seed=1)


def differences(running, batches, expected) -> dict[str, float]:
    """Train, and return the largest difference of losses (this rank's), gradients and weights from one process."""
    losses, last = [], len(batches) - 1
    for i, (ids, targets) in enumerate(batches):
        losses.append(running.backward(ids, targets))
        if i == last:
            gradients = running.full_gradients() if running.full_gradients else \
                {n: p.grad.clone() for n, p in running.model.named_parameters()}
        running.update()
    with running.gathered():
        weights = {n: p.detach().clone() for n, p in running.model.named_parameters()}

    def apart(mine, theirs):
        return max((mine[n] - cut(n, theirs[n], *running.slice)).abs().max().item() for n in mine)

    return {"losses": losses, "gradients": apart(gradients, expected[1]), "weights": apart(weights, expected[2]),
            "names": sorted(weights)}


def equality(team: Team, names, dtypes, n_layers=4, n_steps=2) -> dict:
    """{(strategy, dtype): differences} for every strategy."""
    out = {}
    for dtype in dtypes:
        model, batches = small_model(dtype, n_layers=n_layers), small_batches(n_steps)
        expected = one_process(copy.deepcopy(model), batches)
        for name in names:
            found = differences(start(name, copy.deepcopy(model), team), batches, expected)
            out[name, str(dtype)] = {**found, "wanted losses": expected[0]}
    return out


def layouts(team: Team, which) -> list[dict]:
    """The same for meshes given as Layouts."""
    model, batches = small_model(), small_batches()
    expected = one_process(copy.deepcopy(model), batches)
    return [{**differences(start_mesh(copy.deepcopy(model), team, layout), batches, expected), "wanted losses": expected[0]}
            for layout in which]


def measured(team: Team, names, config, batch, length) -> list:
    """Memory and bytes of each strategy on a given shape."""
    torch.manual_seed(0)
    model, batches = Transformer(config), random_batches(config, 1, batch, length, 0)
    expected = one_process(copy.deepcopy(model), batches)[2]
    return [measured_run(team, name, copy.deepcopy(model), batches, expected) for name in names]


def collectives_agree(team: Team) -> list[str]:
    """Every collective against torch's own, sizes that do not divide included; returns what differs."""
    wrong, p = [], team.size
    for n in (1, 7, 64):
        generator = torch.Generator().manual_seed(100 + team.rank)
        x = torch.randn(n, dtype=torch.float64, generator=generator)
        total = x.clone()
        dist.all_reduce(total)
        root = x.clone()
        dist.broadcast(root, p - 1)
        part = total.tensor_split(p)[team.rank]
        for name, got, want in (("reduce-scatter", ring_reduce_scatter(x, team), part),
                                ("all-gather", ring_all_gather(part, n, team), total),
                                ("all-reduce", ring_all_reduce(x, team), total),
                                ("tree all-reduce", tree_all_reduce(x, team), total),
                                ("broadcast", tree_broadcast(x, p - 1, team), root)):
            if got.shape != want.shape or not torch.allclose(got, want, rtol=0, atol=1e-12):
                wrong.append(f"{name} of {n}")
    blocks = [torch.tensor([10.0 * team.rank + i]) for i in range(p)]
    if torch.cat(all_to_all(blocks, team)).tolist() != [10.0 * i + team.rank for i in range(p)]:
        wrong.append("all-to-all")
    return wrong


class Forked(torch.nn.Module):
    """Two branches of which a step uses one, and a weight that is used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.shared = torch.nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
        self.left, self.right, self.never = (torch.nn.Parameter(torch.randn(4, 4, dtype=torch.float64)) for _ in range(3))

    def forward(self, x, side):
        return ((x @ self.shared @ (self.left if side == "left" else self.right)) @ self.shared).square().mean()


def overlap_cases(team: Team) -> dict:
    """Gradients of OverlappedGradients when ranks use different branches, and bytes with accumulation."""
    model = Forked()
    overlap = OverlappedGradients(model, team, bucket_bytes=1)
    x = torch.arange(8.0, dtype=torch.float64).view(2, 4) / 8 + team.rank
    side = "left" if team.rank == 0 else "right"
    started = []
    with overlap.no_sync():
        model(x, side).backward()
        started.append(len(overlap.sent))
    model(x, side).backward()
    early = overlap.finish()
    return {"grads": {n: p.grad for n, p in model.named_parameters()}, "started in no_sync": started[0], "early": early}


def zero_unused(team: Team, stage: int) -> dict:
    """ZeRO on the real model with gradient accumulation in two halves: gradients of the whole batch."""
    model = small_model()
    zero = Zero(model, team, stage, optimizer_for)
    (ids, targets), = small_batches(1)
    for half_ids, half_targets in zip(shard(ids, team).chunk(2), shard(targets, team).chunk(2)):
        (cross_entropy(zero.model(half_ids), half_targets) / 2).backward()
    return zero.full_gradients()


def save_mesh(team: Team, layout: Layout, folder, n_steps: int) -> None:
    """Train on a mesh and save."""
    trainer = Trainer3D(small_model(), Mesh(team, layout), layout, 1e-4, 0.1)
    batches = small_batches(4)
    step = trainer.load(folder)
    while step < n_steps:
        trainer.step(*batches[step])
        step += 1
    trainer.save(folder, step)
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}


def fails(team: Team, how: str):
    """Rank 1 fails in the named way; the others wait for it."""
    if team.rank == 1:
        if how == "raises":
            raise RuntimeError("the disk of rank one is on fire")
        if how == "refuses":
            raise ValueError("choose a smaller number")
        if how == "dies":
            os.kill(os.getpid(), 9)
        if how == "hangs":
            time.sleep(600)
    return ring_all_reduce(torch.ones(3), team)
