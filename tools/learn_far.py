"""What stands for something on the other side of the wall: objects, and gradients computed there.

Adds to learn_tensors.py: `Far`, whose attributes and calls are the other side's; the autograd.Function behind
a result that came from there; what tells whether an argument was changed; and torch's generator as text.
"""

import functools

from learn_tensors import is_array, is_tensor, raw, torch


class BodyError(Exception):
    """An error that has no counterpart on this side, in words."""


class Gone(BodyError):
    """The process at the other end is no more."""


@functools.cache
def across():
    """The autograd.Function behind a result that was computed on the other side."""
    class Across(torch().autograd.Function):
        @staticmethod
        # `always` only makes sure that one input needs one
        def forward(ctx, peer, key, outputs, always, *leaves):
            ctx.peer, ctx.key = peer, key
            return tuple(outputs)

        @staticmethod
        def backward(ctx, *grads):
            return None, None, None, None, *ctx.peer.ask("gradient", [ctx.key, [g.detach() for g in grads]])
    return Across


class Far:
    """Stands for an object of the other side: its attributes and calls are over there."""

    def __init__(self, peer, number: int):
        vars(self).update(_peer=peer, _number=number)

    def __call__(self, *args, **named):
        return self._peer.ask("use", [self, "", list(args), named])

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        method, *value = self._peer.ask("get", [self, name])
        return functools.partial(self._use, name) if method else value[0]

    def __setattr__(self, name: str, value):
        raise AttributeError(f"{name} belongs to the other side")

    def __bool__(self):
        return True

    def _use(self, name: str, *args, **named):
        return self._peer.ask("use", [self, name, list(args), named])

    def __len__(self):
        return self._use("__len__")

    def __iter__(self):
        return iter(self._use("__iter__"))

    def __next__(self):
        return self._use("__next__")

    def __getitem__(self, key):
        return self._use("__getitem__", key)

    def __setitem__(self, key, value):
        self._use("__setitem__", key, value)

    def __contains__(self, key):
        return self._use("__contains__", key)


def print_of(value, grads: bool = False):
    """Something that is equal to itself later if a container or tensor has not been changed in place."""
    if is_tensor(value):
        grad = print_of(value.grad) if grads and value.is_leaf else None
        return value.shape, b"" if value.is_meta else raw(value.detach().clone().untyped_storage()), grad
    if is_array(value):
        return value.shape, value.tobytes()
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value), [print_of(v, grads) for v in value]
    if isinstance(value, dict):
        return type(value), [(k, print_of(v, grads)) for k, v in value.items()]
    return value


def expand(contract, arguments: dict) -> list[str]:
    """The places that a call may change: `m`, `self.pool.*` (all it holds), `model.*.load` (of any layer)."""
    found = []
    for first, *inner in (item.split(".") for item in contract):
        if first == "out_*":
            found += [name for name in arguments if name.startswith("out_")]
        elif first in arguments and "*" not in inner:
            found.append(".".join([first, *inner]))
        elif first in arguments and inner[-1] == "*":
            owner = functools.reduce(getattr, inner[:-1], arguments[first])
            found += [".".join([first, *inner[:-1], name]) for name in vars(owner)]
        elif first in arguments:
            layers = [name for name, m in arguments[first].named_modules() if hasattr(m, inner[-1])]
            found += [".".join(filter(None, [first, name, inner[-1]])) for name in layers]
    return found


def relocated(value, here: str, there: str):
    """A value whose texts name files of one tree, naming those of another."""
    if isinstance(value, str):
        return value.replace(here, there)
    if isinstance(value, (list, tuple)):
        return type(value)(relocated(v, here, there) for v in value)
    return value


def set_random(state: str) -> None:
    """Set torch's global generator."""
    torch().set_rng_state(torch().frombuffer(bytearray.fromhex(state), dtype=torch().uint8))


def random_state() -> str:
    """The state of torch's global generator ("" where there is no torch)."""
    return bytes(torch().get_rng_state().numpy()).hex() if torch() else ""
