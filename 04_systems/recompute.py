"""Trade compute for memory: forget what happens inside a block, compute it again for the backward pass.

Normally every operation keeps its inputs for its gradient: about 30 C numbers a token and layer. With
recomputation a block keeps its one input (C numbers a token) and pays one more forward pass: 4/3 of the work,
as backward is two. Selective recomputation forgets only the T x T attention scores, most of the memory for
little of the work. Chen et al. 2016; selective: Korthikanti et al. 2022 (section 5).

    python 04_systems/run.py --only recompute
"""
from collections.abc import Callable

import torch
from torch import Tensor

from transformer import Transformer


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function: Callable, *args) -> Tensor:
        ctx.function, ctx.args = function, args
        ctx.random = torch.get_rng_state()
        ctx.cuda_random = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        ctx.set_materialize_grads(False)
        with torch.no_grad():                                       # nothing inside is kept
            return function(*args)

    @staticmethod
    def backward(ctx, grad: Tensor | None) -> tuple:
        if torch.is_grad_enabled():   # create_graph=True: the second run would not be part of the graph
            raise NotImplementedError("recompute has no second derivative: run without it for that")
        if grad is None:
            return (None,) * (1 + len(ctx.args))
        # EXERCISE 4.5 recompute
        now, cuda_now = torch.get_rng_state(), torch.cuda.get_rng_state_all() if ctx.cuda_random else []
        args = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in ctx.args]
        torch.set_rng_state(ctx.random)                             # dropout must drop the same things again
        if ctx.cuda_random:
            torch.cuda.set_rng_state_all(ctx.cuda_random)
        with torch.enable_grad():
            out = ctx.function(*args)
        torch.set_rng_state(now)                                    # the rest of the program must not notice
        if ctx.cuda_random:
            torch.cuda.set_rng_state_all(cuda_now)
        torch.autograd.backward(out, grad)                          # adds to the gradients of weights inside
        return (None, *(a.grad if isinstance(a, Tensor) else None for a in args))
        # END EXERCISE 4.5


def recompute(function: Callable, *args) -> Tensor:
    """function(*args), one tensor, keeping only `args`: in the backward pass the function runs once more.

    The weights that `function` uses get their gradients as always. At least one tensor among `args` must
    require a gradient (else autograd sees nothing to do): ValueError.
    """
    if torch.is_grad_enabled() and not any(isinstance(a, Tensor) and a.requires_grad for a in args):
        raise ValueError("recompute needs an argument that requires a gradient: the weights inside would get "
                         "none")
    return _Recompute.apply(function, *args)


def recompute_blocks(model: Transformer, which: str) -> None:
    """Switch recomputation on in place: `which` is none, attention (each layer's scores) or block (all)."""
    if which not in ("none", "attention", "block"):
        raise ValueError(f"recompute {which!r} is unknown: choose none, attention or block")
    for layer in model.model.layers:
        if which == "block":
            layer.forward = _wrapped(type(layer).forward.__get__(layer))
        if which == "attention":
            layer.self_attn.attend = _wrapped(layer.self_attn.attend)


def _wrapped(function: Callable) -> Callable:
    return lambda *args: recompute(function, *args)
