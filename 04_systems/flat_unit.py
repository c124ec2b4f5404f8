"""The parameters of one part of a model as one flat vector that can be emptied and filled again.

The trick under ZeRO-3 and offloading (and PyTorch's FSDP, Zhao et al. 2023): autograd keeps references to the
weights it needs, so a weight cannot be replaced between the forward and the backward pass. But its *storage*
can be resized to zero and back: the tensor stays the same object, only the memory goes and returns.

    python 04_systems/run.py --only strategies
"""
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from transformer import Transformer


class FlatUnit:
    """Some parameters as views of one flat vector `full`, padded with zeros to a multiple of `multiple`.

    `used` says which of them have had a gradient since it was last cleared: the others stay as they are.
    """

    def __init__(self, parameters: list[nn.Parameter], multiple: int):
        kinds = {(p.dtype, p.device) for p in parameters}
        if len(kinds) > 1:
            raise ValueError(f"one flat vector cannot hold {sorted(map(str, kinds))}: give all weights one "
                             "type and place")
        self.parameters, self.sizes = parameters, [p.numel() for p in parameters]
        n = -(-sum(self.sizes) // multiple) * multiple
        self.full = torch.cat([p.detach().reshape(-1) for p in parameters]
                              + [parameters[0].new_zeros(n - sum(self.sizes))])
        for p, piece in zip(parameters, self.pieces(self.full)):
            # subtle: .data, so that filling `full` later is no change in autograd's eyes
            p.data = piece.view_as(p)
        self.bytes = self.full.untyped_storage().nbytes()
        self.used = [False] * len(parameters)

    def pieces(self, flat: Tensor) -> list[Tensor]:
        """A vector like `full` as one view a parameter, (its number of weights,); the rest is padding."""
        return list(flat.split([*self.sizes, len(flat) - sum(self.sizes)]))[:-1]

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
        """All gradients as a flat vector like `full`, zeros where there is none; the parameters lose them."""
        flat = torch.zeros(self.bytes // self.full.element_size(), dtype=self.full.dtype,
                           device=self.full.device)
        for i, (p, piece) in enumerate(zip(self.parameters, self.pieces(flat))):
            if p.grad is not None:
                piece.copy_(p.grad.reshape(-1))
                p.grad, self.used[i] = None, True
        return flat


def make_units(model: Transformer, multiple: int) -> tuple[list[FlatUnit], FlatUnit]:
    """One unit for each block, and one for the rest (embedding, last norm, output), which is kept longest."""
    units = [FlatUnit(list(layer.parameters()), multiple) for layer in model.model.layers]
    inside = {p for unit in units for p in unit.parameters}
    # a shared weight counts once
    return units, FlatUnit([p for p in model.parameters() if p not in inside], multiple)


def before_backward(module: nn.Module, action: Callable[[], None]) -> None:
    """Call action() when a backward pass enters `module`: the gradient of its output is complete then."""
    def watch(_, __, out: Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda grad: action())
    module.register_forward_hook(watch)


def when_left(model: Transformer, units: list[FlatUnit], root: FlatUnit,
              action: Callable[[FlatUnit], None]) -> None:
    """In every backward pass call action(unit) for all units, from the last block to the first, then root.

    A block's turn comes when the pass enters the block before it, the others' at the end. Not when its last
    gradient arrives: on a rank that does not use one of its weights it never would, and ranks must exchange
    in one order.
    """
    waiting: list[FlatUnit] = []   # in this pass, in order

    def begin() -> None:
        waiting[:] = [*reversed(units), root]
        Variable._execution_engine.queue_callback(end)   # called when this pass has ended

    def enter(unit: FlatUnit) -> None:
        while unit in waiting and waiting[0] is not unit:
            action(waiting.pop(0))

    def end() -> None:
        while waiting:
            action(waiting.pop(0))

    before_backward(model, begin)
    for layer, unit in zip(model.model.layers, units):
        before_backward(layer, lambda u=unit: enter(u))


def stream(model: Transformer, units: list[FlatUnit], root: FlatUnit,
           fill: Callable[[FlatUnit, FlatUnit | None], None]) -> None:
    """Empty all units, and let fill(unit, then) bring each in just before it is used, forward and backward.

    `then` is the unit that will be used next, if known. A block is emptied after its forward pass; after its
    backward pass whoever takes its gradients empties it. The rest stays from the start of the forward pass to
    the end of the backward pass.
    """
    def ensure(unit: FlatUnit, then: FlatUnit | None) -> None:
        if not unit.filled:
            fill(unit, then)

    around = [None, *units, None]
    for layer, before, unit, after in zip(model.model.layers, around, units, around[2:]):
        unit.empty()
        layer.register_forward_pre_hook(lambda *_, u=unit, then=after: ensure(u, then))
        layer.register_forward_hook(lambda *_, u=unit: u.empty())
        before_backward(layer, lambda u=unit, then=before: ensure(u, then))
    root.empty()
    model.register_forward_pre_hook(lambda *_: ensure(root, units[0]))
    model.register_forward_hook(lambda *_: None if torch.is_grad_enabled() else root.empty())
