"""Attention sinks: let a head look at nothing.

Softmax weights sum to one, so a head that finds nothing must still look somewhere: trained models pour that
weight on the first token, whatever it says (Xiao et al. 2023, figure 2), and lose their balance when a window
drops it. The remedy of gpt-oss (OpenAI 2025): one learned score a head that takes part in the softmax and
carries no value.

    python 02_transformer/run.py --sinks
"""
import torch
from torch import Tensor


def add_sink(k: Tensor, v: Tensor, bias: Tensor | None, sinks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put a key that nobody wrote before the others: zeros, so that its score is its bias alone.

    Its value is zero too. k and v (B, H, S, D), bias (H or 1, T, S) or None, sinks (H,) the scores. Returns
    k and v (B, H, S + 1, D) and the bias (H, T or 1, S + 1). Being the oldest key, it is visible to every
    query of a causal attention.
    """
    H = len(sinks)
    rest = k.new_zeros(1, 1, k.shape[2]) if bias is None else bias              # (H or 1, T or 1, S)
    column = sinks.to(k)[:, None, None].expand(H, rest.shape[1], 1)             # (H, T or 1, 1)
    bias = torch.cat((column, rest.expand(H, -1, -1)), -1)                      # (H, T or 1, S + 1)
    nothing = (k.new_zeros(*k.shape[:2], 1, k.shape[3]), v.new_zeros(*v.shape[:2], 1, v.shape[3]))
    return torch.cat((nothing[0], k), 2), torch.cat((nothing[1], v), 2), bias
