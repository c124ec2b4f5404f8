"""What the ranks of the chapter 4 tests run. Functions of a team, importable by name in every process."""
import contextlib
import copy
import os
import time

import torch
import torch.distributed as dist

from collectives import (
    Team,
    all_to_all,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
    tree_all_reduce,
    tree_broadcast,
)
from cross_entropy import IGNORE, cross_entropy
from data_parallel import OverlappedGradients, average_gradients_bucketed, average_gradients_naive, shard
from parallel_3d import Layout, Mesh, Trainer3D
from strategies import measured_run, one_process, optimizer_for, random_batches, start, start_mesh
from tensor_parallel import cut
from transformer import Config, Transformer
from zero import Zero

# 53 does not divide
SMALL = dict(vocab_size=53, d_model=32, n_layers=4, n_heads=8, n_kv_heads=8, d_ff=48, max_len=32)


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
    """Train; the largest difference of losses (this rank's), gradients and weights from one process."""
    losses, last = [], len(batches) - 1
    for i, (ids, targets) in enumerate(batches):
        losses.append(running.backward(ids, targets))
        if i == last:
            gradients = running.full_gradients() if running.full_gradients else \
                {n: p.grad.clone() for n, p in running.model.named_parameters() if p.grad is not None}
        running.update()
    with running.gathered():
        weights = {n: p.detach().clone() for n, p in running.model.named_parameters()}

    def apart(mine, theirs):
        return max(((mine[n] - cut(n, theirs[n], *running.slice)).abs().max().item() for n in mine),
                   default=0.0)

    return {"losses": losses, "gradients": apart(gradients, expected[1]),
            "weights": apart(weights, expected[2]),
            "names": sorted(weights), "with gradient": sorted(gradients)}


def equality(team: Team, names, dtype, n_layers=4, n_steps=2) -> dict:
    """{strategy: differences} for every strategy."""
    model, batches = small_model(dtype, n_layers=n_layers), small_batches(n_steps)
    expected, out = one_process(copy.deepcopy(model), batches), {}
    for name in names:
        found = differences(start(name, copy.deepcopy(model), team), batches, expected)
        out[name] = {**found, "wanted losses": expected[0]}
    return out


def layouts(team: Team, which) -> list[dict]:
    """The same for meshes given as Layouts."""
    model, batches = small_model(), small_batches()
    expected = one_process(copy.deepcopy(model), batches)
    return [{**differences(start_mesh(copy.deepcopy(model), team, layout), batches, expected),
             "wanted losses": expected[0]}
            for layout in which]


def uneven_batches() -> list:
    """8 rows of which the first two count no target at all and the others between 1 and 16; then 8 rows that
    count none but the first token of the first row."""
    (ids, first), (other_ids, second) = [(ids, targets.clone()) for ids, targets in small_batches(2)]
    for row, kept in enumerate((0, 0, 1, 16, 3, 0, 8, 16)):
        first[row, kept:] = IGNORE
    second.view(-1)[1:] = IGNORE
    return [(ids, first), (other_ids, second)]


FROZEN = {   # parts whose names begin or end so
    "a block and a norm":
        lambda n: any(s in n for s in (".layers.1.", "layers.2.input_layernorm.weight", "q_norm")),
    "the first half": lambda n: "embed" in n or ".layers.0." in n or ".layers.1." in n,
    "all but the last norm": lambda n: n != "model.norm.weight",
}


def frozen_model(which: str) -> Transformer:
    """small_model with some parameters frozen."""
    model = small_model()
    for name, p in model.named_parameters():
        p.requires_grad_(not FROZEN[which](name))
    return model


def lopsided(team: Team, names, meshes) -> dict:
    """Every strategy and mesh on unequal numbers of targets, then with frozen parameters, by (what, name)."""
    out = {}
    for what, model, batches in [("uneven", small_model(), uneven_batches())] + \
            [(which, frozen_model(which), small_batches(1)) for which in FROZEN]:
        expected = one_process(copy.deepcopy(model), batches)
        for name in [*names, *meshes]:
            copied = copy.deepcopy(model)
            running = start(name, copied, team) if isinstance(name, str) else start_mesh(copied, team, name)
            out[what, str(name)] = {**differences(running, batches, expected), "wanted losses": expected[0],
                                    "wanted gradients": sorted(expected[1])}
    return out


def skip_some(model: Transformer, skipped: set[int]) -> None:
    """From now on the blocks with these numbers do not use their feed-forward layer."""
    def without(layer, x, cos, sin, cache=None):
        return x + layer.self_attn(layer.input_layernorm(x), cos, sin, cache)

    for i, layer in enumerate(model.model.layers):
        layer.forward = (without if i in skipped else type(layer).forward).__get__(layer)


SKIPPED = [[{1, 2}, {2}], [{2}, {2, 3}]]   # [rank][micro-batch]: block 2 is used by nobody, 1 and 3 by some


def skipping_alone(steps: int = 2) -> tuple[dict, dict]:
    """What two ranks with two micro-batches each must give, in one process: last gradients and weights."""
    model = small_model()
    optimizer = optimizer_for(model.parameters())
    for ids, targets in small_batches(steps, batch=4):
        for p in model.parameters():
            p.grad = None
        for row, skipped in enumerate(SKIPPED[0] + SKIPPED[1]):
            skip_some(model, skipped)
            (cross_entropy(model(ids[row:row + 1]), targets[row:row + 1]) / 4).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return gradients, {n: p.detach().clone() for n, p in model.named_parameters()}


def skipping(team: Team, names) -> dict:
    """The same with each strategy: {name: (gradients, weights)}."""
    out = {}
    for name in names:
        model = small_model()
        running = Zero(model, team, int(name[-1]), optimizer_for) if name.startswith("zero") else None
        optimizer = None if running else optimizer_for(model.parameters())
        overlap = OverlappedGradients(model, team) if name == "data_overlapped" else None
        for ids, targets in small_batches(2, batch=4):
            for p in model.parameters() if optimizer else ():
                p.grad = None
            for i, skipped in enumerate(SKIPPED[team.rank]):
                skip_some(model, skipped)
                row = slice(2 * team.rank + i, 2 * team.rank + i + 1)
                with overlap.no_sync() if overlap and i == 0 else contextlib.nullcontext():
                    (cross_entropy(model(ids[row]), targets[row]) / 2).backward()
            if overlap:
                overlap.finish()
            elif optimizer:
                {"data_naive": average_gradients_naive,
                 "data_bucketed": average_gradients_bucketed}[name](model, team)
            gradients = running.full_gradients() if running else \
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            (running or optimizer).step()
        with running.gathered() if running else contextlib.nullcontext():
            out[name] = gradients, {n: p.detach().clone() for n, p in model.named_parameters()}
    return out


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
        self.left, self.right, self.never = (torch.nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
                                             for _ in range(3))

    def forward(self, x, side):
        own = self.left if side == "left" else self.right
        return (x @ self.shared @ own @ self.shared).square().mean()


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
    return {"grads": {n: p.grad for n, p in model.named_parameters()}, "started in no_sync": started[0],
            "early": early}


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
