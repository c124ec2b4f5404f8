"""ZeRO: data parallelism without p copies of everything. Each rank keeps 1/p of what it does not need all the time.

Training with Adam in float32 keeps 16 bytes a parameter: 4 the weight, 4 the gradient, 8 the two moments.

    stage   a rank keeps               bytes a parameter    a rank sends, a step
    0       everything (plain)         16                   2 (p-1)/p of the weights' bytes
    1       its part of the moments    8 + 8/p              the same: reduce-scatter gradients, all-gather weights
    2       and of the gradients       4 + 12/p             the same
    3       and of the weights         16/p                 3 (p-1)/p: weights come twice, gradients leave once

Rajbhandari et al. 2020 (figure 1); stage 3 as in PyTorch's FSDP (Zhao et al. 2023).

    python 04_systems/run.py --only strategies
"""
import contextlib
from typing import Callable, Iterator

import torch
from torch import Tensor, nn

from collectives import Team, all_gather, reduce_scatter
from flat_unit import FlatUnit, make_units, on_gradients, stream
from transformer import Transformer


def state_bytes(n_parameters: float, n_ranks: int, stage: int, weight: float = 4, gradient: float = 4,
                moments: float = 8) -> float:
    """Bytes that one of `n_ranks` ranks keeps between steps for weights, gradients and optimizer state.

    The defaults are float32 Adam; mixed precision is 2, 2 and 12 (a float32 master copy and two moments).
    """
    # EXERCISE 4.1 memory of a training state
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"ZeRO has stages 0 (nothing shared) to 3, not {stage}")
    weight /= n_ranks if stage >= 3 else 1
    gradient /= n_ranks if stage >= 2 else 1
    moments /= n_ranks if stage >= 1 else 1
    return n_parameters * (weight + gradient + moments)
    # END EXERCISE 4.1


class Zero:
    """A model whose training state is shared by the ranks of `team`.

        zero = Zero(model, team, stage=3, make_optimizer=lambda parts: AdamW(parts, lr=1e-3))
        loss(zero.model(ids), targets).backward()      # several times for gradient accumulation
        zero.step()

    All ranks must use the same parameters in a step: a missing gradient counts as zero and is exchanged in `step`.
    The optimizer sees one flat part a unit, so it must treat every number alike (AdamW yes, Muon no).
    """

    def __init__(self, model: Transformer, team: Team, stage: int, make_optimizer: Callable[[list[nn.Parameter]], object]):
        if stage not in (1, 2, 3):
            raise ValueError(f"ZeRO has stages 1, 2 and 3, not {stage}: for plain data parallelism use data_parallel")
        self.model, self.team, self.stage = model, team, stage
        blocks, root = make_units(model, team.size)
        self.units = blocks + [root]
        # my part of each unit; in stage 3 a copy, as the full vector goes; before that a view of it
        self.parts = [nn.Parameter(unit.full.chunk(team.size)[team.rank].clone() if stage == 3
                                   else unit.full.chunk(team.size)[team.rank]) for unit in self.units]
        self.part_of = dict(zip(self.units, self.parts))
        self.optimizer = make_optimizer(self.parts)
        if stage >= 2:
            for unit in self.units:
                on_gradients(unit, self._reduce)
        if stage == 3:
            stream(model, blocks, root, lambda unit, then: self._gather(unit))

    def _gather(self, unit: FlatUnit) -> None:
        unit.fill(all_gather(self.part_of[unit].detach(), self.team))

    @torch.no_grad()
    def _reduce(self, unit: FlatUnit) -> None:
        """Exchange the unit's gradients for the average of my part, add it to what earlier micro-batches left."""
        mine = reduce_scatter(unit.take_gradients(), self.team) / self.team.size
        part = self.part_of[unit]
        part.grad = mine if part.grad is None else part.grad + mine
        if self.stage == 3:
            unit.empty()

    def step(self, scale: float = 1.0) -> None:
        """Average gradients that have not been averaged yet, update my parts, tell the others; gradients are dropped."""
        for unit in self.units:
            if self.stage == 1 or any(p.grad is not None for p in unit.parameters) or self.part_of[unit].grad is None:
                self._reduce(unit)
        self.optimizer.step(scale)
        for unit in self.units:
            if self.stage < 3:
                self._gather(unit)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients of this step."""
        for part in self.parts:
            part.grad = None

    @contextlib.contextmanager
    def gathered(self) -> Iterator[Transformer]:
        """The model with all weights in memory, for evaluation or saving; all ranks enter together."""
        for unit in self.units:
            if not unit.filled:
                self._gather(unit)
        yield self.model
        if self.stage == 3:
            for unit in self.units:
                unit.empty()

    def full_gradients(self) -> dict[str, Tensor]:
        """The averaged gradients by name, in full, gathered from all ranks (for comparison; call before `step`)."""
        out = {}
        names = {p: name for name, p in self.model.named_parameters()}
        for unit, part in zip(self.units, self.parts):
            if self.stage == 1 and part.grad is None:
                self._reduce(unit)
            flat = all_gather(part.grad, self.team)
            pieces = flat.split([*unit.sizes, len(flat) - sum(unit.sizes)])
            out.update({names[p]: piece.view(p.shape) for p, piece in zip(unit.parameters, pieces)})
        return out
