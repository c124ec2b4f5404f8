"""The parameters of one part of a model as one flat vector that can be emptied and filled again.

The trick under ZeRO-3 and offloading (and PyTorch's FSDP, Zhao et al. 2023): autograd keeps references to the weights
it needs, so a weight cannot be replaced between the forward and the backward pass. But its *storage* can be resized to
zero and back: the tensor stays the same object, only the memory goes and returns.

    python 04_systems/run.py --only strategies
"""
from typing import Callable

import torch
from torch import Tensor, nn

from transformer import Transformer


class FlatUnit:
    """Some parameters as views of one flat vector `full`, padded with zeros to a multiple of `multiple`."""

    def __init__(self, parameters: list[nn.Parameter], multiple: int):
        self.parameters, self.sizes = parameters, [p.numel() for p in parameters]
        n = -(-sum(self.sizes) // multiple) * multiple
        self.full = torch.cat([p.detach().reshape(-1) for p in parameters]
                              + [parameters[0].new_zeros(n - sum(self.sizes))])
        for p, piece in zip(parameters, self.full.split([*self.sizes, n - sum(self.sizes)])):
            p.data = piece.view_as(p)   # subtle: .data, so that filling `full` later is no change in autograd's eyes
        self.bytes = self.full.untyped_storage().nbytes()
        self.missing = len(parameters)   # gradients that have not arrived in this backward pass

    @property
    def filled(self) -> bool:
        """Whether the weights are in memory."""
        return self.full.untyped_storage().nbytes() > 0

    def empty(self) -> None:
        """Give the memory back; the parameters keep their shapes but may not be used."""
        self.full.untyped_storage().resize_(0)

    @torch.no_grad()
    def fill(self, values: Tensor) -> None:
        """Bring the weights back."""
        self.full.untyped_storage().resize_(self.bytes)
        self.full.copy_(values)

    def take_gradients(self) -> Tensor:
        """All gradients as one flat vector like `full` (zeros where there is none); they are removed from the parameters."""
        flat = torch.zeros(self.bytes // self.full.element_size(), dtype=self.full.dtype, device=self.full.device)
        for p, piece in zip(self.parameters, flat.split([*self.sizes, len(flat) - sum(self.sizes)])):
            if p.grad is not None:
                piece.copy_(p.grad.reshape(-1))
                p.grad = None
        self.missing = len(self.parameters)
        return flat


def make_units(model: Transformer, multiple: int) -> tuple[list[FlatUnit], FlatUnit]:
    """One unit for each block, and one for the rest (embedding, last norm, output): used first and last, so kept longest."""
    units = [FlatUnit(list(layer.parameters()), multiple) for layer in model.model.layers]
    inside = {p for unit in units for p in unit.parameters}
    return units, FlatUnit([p for p in model.parameters() if p not in inside], multiple)   # a shared weight counts once


def on_gradients(unit: FlatUnit, action: Callable[[FlatUnit], None]) -> None:
    """Call action(unit) in the backward pass as soon as all gradients of the unit are complete."""
    def arrived(_):
        unit.missing -= 1
        if unit.missing == 0:
            action(unit)
    for p in unit.parameters:
        p.register_post_accumulate_grad_hook(arrived)


def stream(model: Transformer, units: list[FlatUnit], root: FlatUnit,
           fill: Callable[[FlatUnit, FlatUnit | None], None]) -> None:
    """Empty all units, and let fill(unit, then) bring each in just before it is used: forward, and again backward.

    `then` is the unit that will be used next, if known. A block is emptied after its forward pass; after its backward
    pass whoever takes its gradients empties it. The rest stays from the start of the forward pass to the end of the
    backward pass.
    """
    def ensure(unit: FlatUnit, then: FlatUnit | None) -> None:
        if not unit.filled:
            fill(unit, then)

    around = [None, *units, None]
    for layer, before, unit, after in zip(model.model.layers, around, units, around[2:]):
        unit.empty()
        layer.register_forward_pre_hook(lambda *_, u=unit, then=after: ensure(u, then))
        layer.register_forward_hook(lambda *_, u=unit: u.empty())
        layer.register_full_backward_pre_hook(lambda *_, u=unit, then=before: ensure(u, then))
    root.empty()
    model.register_forward_pre_hook(lambda *_: ensure(root, units[0]))
    model.register_forward_hook(lambda *_: None if torch.is_grad_enabled() else root.empty())
