"""Every way to train the same model on several ranks, behind one small interface, measured the same way.

For each strategy: the same two steps on the same batches; memory and bytes counted on every rank; weights
compared with those of one process. `run.py` prints the table; torchrun shows one strategy alone:

    torchrun --nproc-per-node 4 04_systems/strategies.py --strategy zero3
"""
import contextlib
import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adamw import AdamW
from collectives import Team
from cross_entropy import cross_entropy
from data_parallel import (
    OverlappedGradients,
    average_gradients_bucketed,
    average_gradients_naive,
    shard,
    share_parameters,
    weight_of_mine,
)
from measure import tcp_bytes_sent, tensor_bytes
from memory_model import Placement
from parallel_3d import Layout, Mesh, Trainer3D
from peak_memory import PeakMemory
from ranks import joined
from tensor_parallel import cut
from transformer import Config, Transformer
from zero import Zero

LR, DECAY = 1e-4, 0.1   # small: Adam turns rounding of a gradient near 0 into a step of up to LR


@dataclass
class Running:
    """One rank's part of a strategy."""
    model: nn.Module                               # what this rank computes with
    backward: Callable[[Tensor, Tensor], float]    # forward and backward of a batch (B, T); returns a loss
    update: Callable[[], object]                   # the optimizer step
    keeps: list                                    # tensors that live from step to step, besides the model's
    slice: tuple[int, int] = (0, 1)                # which slice of each matrix this rank has, of how many
    gathered: Callable = contextlib.nullcontext    # with gathered(): the model's weights are in memory
    full_gradients: Callable | None = None         # averaged gradients by name, if not in the parameters


def optimizer_for(parameters) -> AdamW:
    """The same optimizer for all."""
    return AdamW(parameters, LR, weight_decay=DECAY)


def start_data(model: Transformer, team: Team, kind: str) -> Running:
    """Plain data parallelism: naive, bucketed or overlapped."""
    share_parameters(model, team)
    optimizer = optimizer_for(model.parameters())
    overlap = OverlappedGradients(model, team) if kind == "overlapped" else None

    def backward(ids: Tensor, targets: Tensor) -> float:
        for p in model.parameters():
            p.grad = None
        mine = shard(targets, team)
        loss = cross_entropy(model(shard(ids, team)), mine) * weight_of_mine(mine, team)
        loss.backward()
        if overlap is not None:
            overlap.finish()
        else:
            {"naive": average_gradients_naive, "bucketed": average_gradients_bucketed}[kind](model, team)
        return loss.item()

    return Running(model, backward, optimizer.step, [optimizer.m, optimizer.v])


def start_zero(model: Transformer, team: Team, stage: int) -> Running:
    """Sharded data parallelism."""
    zero = Zero(model, team, stage, optimizer_for)

    def backward(ids: Tensor, targets: Tensor) -> float:
        mine = shard(targets, team)
        loss = cross_entropy(model(shard(ids, team)), mine) * weight_of_mine(mine, team)
        loss.backward()
        return loss.item()

    return Running(model, backward, zero.step,
                   [zero.optimizer.m, zero.optimizer.v, zero.parts, zero.grads,
                    [unit.full for unit in zero.units]],
                   gathered=zero.gathered, full_gradients=zero.full_gradients)


def start_mesh(model: Transformer, team: Team, layout: Layout) -> Running:
    """Tensor and pipeline parallelism, alone or together."""
    trainer = Trainer3D(model, Mesh(team, layout), layout, LR, DECAY)
    return Running(trainer.model, trainer.gradients, trainer.optimizer.step,
                   [trainer.optimizer.m, trainer.optimizer.v], (trainer.mesh.tensor.rank, layout.tensor))


def layout_of(name: str, n_ranks: int) -> Layout:
    """The mesh of a named strategy on so many ranks."""
    if name == "mesh":
        if n_ranks % 4:
            raise ValueError(f"a mesh of data x 2 x 2 needs a multiple of 4 ranks, not {n_ranks}")
        return Layout(n_ranks // 4, 2, 2, 2)
    return {"tensor": Layout(tensor=n_ranks), "tensor_sequence": Layout(tensor=n_ranks, sequence=True),
            "pipeline_gpipe": Layout(pipeline=n_ranks, micro_batches=4, schedule="gpipe"),
            "pipeline_1f1b": Layout(pipeline=n_ranks, micro_batches=4)}[name]


STRATEGIES = ("data_naive", "data_bucketed", "data_overlapped", "zero1", "zero2", "zero3", "tensor",
              "tensor_sequence", "pipeline_gpipe", "pipeline_1f1b", "mesh")


def start(name: str, model: Transformer, team: Team) -> Running:
    """Set up the named strategy; all ranks call this together with the same full model."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy {name!r} is unknown: choose one of {', '.join(STRATEGIES)}")
    if name.startswith("data"):
        return start_data(model, team, name.split("_")[1])
    if name.startswith("zero"):
        return start_zero(model, team, int(name[-1]))
    return start_mesh(model, team, layout_of(name, team.size))


def place_of(name: str, n_ranks: int, batch: int) -> tuple[Placement, int]:
    """The same strategy in the planner's terms, and its number of micro-batches."""
    if name.startswith(("data", "zero")):
        return Placement(data=n_ranks, zero=int(name[-1]) if "zero" in name else 0,
                         micro_rows=batch // n_ranks), 1
    x = layout_of(name, n_ranks)
    return Placement(x.data, x.pipeline, x.tensor, x.sequence, micro_rows=batch // x.data // x.micro_batches,
                     schedule=x.schedule), x.micro_batches


@dataclass
class Result:
    """What one rank saw."""
    losses: list[float]
    error: float          # largest difference of a weight from one process
    state: int            # bytes after the backward pass: weights, gradients, moments
    peak: int             # most bytes at one time in a step
    sent: int | None      # bytes sent in a step, by the kernel's count


def one_process(model: Transformer, batches: list[tuple[Tensor, Tensor]]) -> tuple[list[float], dict, dict]:
    """The reference: losses before each step, gradients of the last step and weights after it, by name."""
    optimizer, losses = optimizer_for(model.parameters()), []
    for ids, targets in batches:
        for p in model.parameters():
            p.grad = None
        loss = cross_entropy(model(ids), targets)
        loss.backward()
        losses.append(loss.item())
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return losses, gradients, {name: p.detach().clone() for name, p in model.named_parameters()}


def settled_bytes() -> int | None:
    """Bytes sent so far, after all ranks have received everything."""
    dist.barrier()
    time.sleep(0.05)
    return tcp_bytes_sent()


def measured_run(team: Team, name: str, model: Transformer, batches: list,
                 expected: dict[str, Tensor]) -> Result:
    """Train on all batches with one strategy; memory and bytes are those of the last step."""
    run, losses, sent, state = start(name, model, team), [], None, 0
    for ids, targets in batches:
        before = settled_bytes()
        with PeakMemory(run.model, run.keeps) as memory:
            losses.append(run.backward(ids, targets))
            holders = [x for x in tree_leaves([list(run.model.parameters()), run.keeps])
                       if isinstance(x, nn.Parameter)]
            state = tensor_bytes(holders, run.keeps, [x.grad for x in holders])
            run.update()
        after = settled_bytes()
        sent = None if before is None or after is None else after - before
    with run.gathered():
        error = max((p.detach() - cut(n, expected[n], *run.slice)).abs().max().item()
                    for n, p in run.model.named_parameters())
    return Result(losses, error, state, memory.peak, sent)


def random_batches(config: Config, n: int, batch: int, length: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Batches (batch, length) of random tokens and their targets."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(0, config.vocab_size, (batch, length + 1), generator=generator) for _ in range(n)]
    return [(x[:, :-1], x[:, 1:]) for x in rows]


@dataclass
class Settings:
    """What torchrun's ranks train, and how."""
    strategy: str = "zero3"   # one of the strategies
    batch: int = 8            # rows of the whole batch
    length: int = 128         # tokens a row
    seed: int = setting(0, least=0)   # seed of weights and tokens


def main() -> None:
    """One strategy under torchrun: what each rank holds and sends, and whether it equals one process."""
    settings = parse_settings(Settings, __doc__)
    if "RANK" not in os.environ:
        raise ValueError("start this with torchrun, or see all strategies with `make 04`")
    with joined() as team:
        config = Config()
        batches = random_batches(config, 2, settings.batch, settings.length, settings.seed)
        torch.manual_seed(settings.seed)
        model = Transformer(config)
        expected = one_process(copy.deepcopy(model), batches)[2]
        result = measured_run(team, settings.strategy, model, batches, expected)
        print(f"rank {team.rank} of {team.size}: {result}", flush=True)


if __name__ == "__main__":
    run_main(main)
