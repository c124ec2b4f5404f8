"""Two ways into the attention of a finished model: read its weights, and silence a head.

Both put a function of their own where a layer keeps the one that computes attention, and take it away again.

    python 03_training/look_inside.py            uses them
"""
import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from attention import attend, future_bias, softmax
from transformer import Transformer


@contextlib.contextmanager
def attending(model: Transformer, function: Callable[..., Tensor]) -> Iterator[None]:
    """Within the block, layer i computes its attention with function(i, q, k, v, bias)."""
    layers = [layer.self_attn for layer in model.model.layers]
    before = [layer.attend for layer in layers]
    for i, layer in enumerate(layers):
        layer.attend = lambda q, k, v, bias=None, i=i: function(i, q, k, v, bias)
    try:
        yield
    finally:
        for layer, was in zip(layers, before):
            layer.attend = was


@torch.no_grad()
def patterns(model: Transformer, ids: Tensor) -> Tensor:
    """The attention weights of every layer and head on ids (B, T): (L, B, H, T, T)."""
    seen = []

    def watch(i: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        scores = q @ k.mT * q.shape[-1] ** -0.5 + future_bias(q.shape[2], k.shape[2], q.dtype, q.device)
        seen.append(softmax(scores if bias is None else scores + bias))                      # (B, H, T, T)
        return seen[-1] @ v

    with attending(model, watch):
        model(ids)
    return torch.stack(seen)


def without(layer: int, heads: list[int]) -> Callable[..., Tensor]:
    """An attention in which these heads of one layer say nothing; for `attending`."""
    def silenced(i: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        out = attend(q, k, v, bias)                                                          # (B, H, T, D)
        if i == layer:
            out[:, heads] = 0
        return out
    return silenced
