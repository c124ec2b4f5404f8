"""ZeRO: data parallelism without p copies of everything; a rank keeps 1/p of what it can do without.

Training with Adam in float32 keeps 16 bytes a parameter: 4 the weight, 4 the gradient, 8 the two moments.

    stage   a rank keeps               bytes a parameter    a rank sends, a step
    0       everything (plain)         16                   2 (p-1)/p of the weights' bytes
    1       its part of the moments    8 + 8/p              the same: reduce-scatter, then all-gather weights
    2       and of the gradients       4 + 12/p             the same
    3       and of the weights         16/p                 3 (p-1)/p: weights twice, gradients once

Rajbhandari et al. 2020 (figure 1); stage 3 as in PyTorch's FSDP (Zhao et al. 2023).

    python 04_systems/run.py --only strategies
"""
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from collectives import Team, all_gather, all_reduce, reduce_scatter
from flat_unit import FlatUnit, make_units, stream, when_left
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


def spans(unit: FlatUnit, rank: int, size: int) -> dict[int, slice]:
    """Where the unit's parameters lie in part `rank` of `size` equal ones: {parameter: place in the part}."""
    # EXERCISE 4.12 spans of a shard
    length = unit.bytes // unit.full.element_size() // size
    found, begin = {}, -rank * length
    for i, n in enumerate(unit.sizes):
        low, high = max(begin, 0), min(begin + n, length)
        if low < high:
            found[i] = slice(low, high)
        begin += n
    return found
    # END EXERCISE 4.12


class Zero:
    """A model whose training state is shared by the ranks of `team`.

        zero = Zero(model, team, stage=3, make_optimizer=lambda parts: AdamW(parts, lr=1e-3))
        loss = cross_entropy(zero.model(ids), targets) * weight_of_mine(targets, team)
        loss.backward()                                # several times for gradient accumulation
        zero.step()                                    # ends with zero_grad

    All ranks call every block and make the same number of backward passes. A weight that a rank does not use
    counts as zero there; one that no rank uses stays as it is, and so does a frozen one. The optimizer sees
    flat pieces of weights, so it must treat every number alike (AdamW yes, Muon no). There are no
    `param_groups`: `step` takes a scale.
    """

    def __init__(self, model: Transformer, team: Team, stage: int,
                 make_optimizer: Callable[[list[nn.Parameter]], Any]):
        if stage not in (1, 2, 3):
            raise ValueError(f"ZeRO has stages 1, 2 and 3, not {stage}: for plain data parallelism use "
                             "data_parallel")
        self.model, self.team, self.stage = model, team, stage
        blocks, root = make_units(model, team.size)
        self.units = blocks + [root]
        self.number = {unit: i for i, unit in enumerate(self.units)}
        # my part of each unit; in stage 3 a copy, as the full vector goes; before that a view of it
        parts = [unit.full.chunk(team.size)[team.rank] for unit in self.units]
        self.parts = [part.clone() for part in parts] if stage == 3 else parts
        self.grads: list[Tensor | None] = [None] * len(parts)          # of my parts, averaged over the ranks
        self.spans = [spans(unit, team.rank, team.size) for unit in self.units]
        self.pieces = [{i: nn.Parameter(part[span], unit.parameters[i].requires_grad)
                        for i, span in spans_.items()}
                       for unit, part, spans_ in zip(self.units, self.parts, self.spans)]
        self.frozen = [[not p.requires_grad for p in unit.parameters] for unit in self.units]
        self.optimizer = make_optimizer([piece for pieces in self.pieces for piece in pieces.values()])
        if stage >= 2:
            when_left(model, blocks, root, self._reduce)
        if stage == 3:
            stream(model, blocks, root, lambda unit, then: self._gather(unit))

    def _gather(self, unit: FlatUnit) -> None:
        unit.fill(all_gather(self.parts[self.number[unit]], self.team))

    @torch.no_grad()
    def _reduce(self, unit: FlatUnit) -> None:
        """Exchange the unit's gradients for my part's average, add it to what earlier micro-batches left."""
        mine = reduce_scatter(unit.take_gradients(), self.team) / self.team.size
        i = self.number[unit]
        left = self.grads[i]
        self.grads[i] = mine if left is None else left + mine
        if self.stage == 3:
            unit.empty()

    def finish(self) -> list[list[bool]]:
        """Average what is not averaged yet; returns for each unit which of its weights any rank has used."""
        waiting = [any(p.grad is not None for p in unit.parameters) for unit in self.units]
        used = [u or p.grad is not None for unit in self.units for u, p in zip(unit.used, unit.parameters)]
        mine = torch.tensor([float(f) for f in waiting + used], device=self.parts[0].device)
        flags = iter(all_reduce(mine, self.team).tolist())
        for unit in [unit for unit in self.units if next(flags)]:      # on every rank, if on any
            self._reduce(unit)
        anyone = [[next(flags) > 0 for _ in unit.parameters] for unit in self.units]
        if any(u and f for units in zip(anyone, self.frozen) for u, f in zip(*units)):
            raise ValueError("a parameter was frozen when Zero was made and has a gradient now: make a new "
                             "Zero")
        return anyone

    def step(self, scale: float = 1.0) -> None:
        """Average what is not averaged yet, update my parts, tell the others; gradients are dropped."""
        for used, pieces, places, grad in zip(self.finish(), self.pieces, self.spans, self.grads):
            for i, piece in pieces.items():
                piece.grad = grad[places[i]] if used[i] and grad is not None else None
        self.optimizer.step(scale)
        if self.stage < 3:
            for unit in self.units:
                self._gather(unit)
        self.zero_grad()

    def zero_grad(self) -> None:
        """Forget the gradients of this step; all ranks together."""
        self.grads[:] = [None] * len(self.grads)
        for unit, pieces in zip(self.units, self.pieces):
            unit.used = [False] * len(unit.used)
            for p in [*unit.parameters, *pieces.values()]:
                p.grad = None

    @contextlib.contextmanager
    def gathered(self) -> Iterator[Transformer]:
        """The model with all weights in memory, for evaluation or saving; all ranks enter together."""
        for unit in self.units:
            if not unit.filled:
                self._gather(unit)
        try:
            yield self.model
        finally:
            if self.stage == 3:
                for unit in self.units:
                    unit.empty()

    def full_gradients(self) -> dict[str, Tensor]:
        """The averaged gradients by name, in full, from all ranks (to compare; call before `step`)."""
        out = {}
        names = {p: name for name, p in self.model.named_parameters()}
        for unit, used, grad in zip(self.units, self.finish(), self.grads):
            if any(used) and grad is not None:
                pieces = unit.pieces(all_gather(grad, self.team))
                out.update({names[p]: piece.view(p.shape)
                            for p, u, piece in zip(unit.parameters, used, pieces) if u})
        return out
