"""Attention: every token looks at itself and the tokens before it, and takes a weighted mean.

Vaswani et al. 2017 (section 3.2); grouped-query attention: Ainslie et al. 2023; q/k norm: Henry et al. 2020.
This is the plain version, with the whole T x T table in memory. Chapter 4 computes the same in tiles.

    python 02_transformer/run.py           checks that no token sees the future
"""
import functools

import torch
from torch import Tensor, nn

from attention_sink import add_sink
from linear import BiasedLinear, Linear
from normalization import RMSNorm
from positions import alibi_bias, apply_rope
from sliding_window import window_mask


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) over the last dimension; subtracting the maximum first prevents overflow."""
    # EXERCISE 2.1 softmax
    e = (x - x.amax(-1, keepdim=True)).exp_()   # in place: nobody else has the difference
    return e / e.sum(-1, keepdim=True)
    # END EXERCISE 2.1


def softmax_gradient(p: Tensor, grad: Tensor) -> Tensor:
    """The gradient with respect to x, given p = softmax(x) and the gradient with respect to p; all (..., S).

    Raising one score lowers all other weights of its row, so each entry needs the mean of grad under p.
    """
    # EXERCISE 2.20 the gradient of softmax
    d = p * grad
    return d.addcmul(p, d.sum(-1, keepdim=True), value=-1)   # d - p * sum, in one pass
    # END EXERCISE 2.20


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor) -> Tensor:
        p = softmax(scores)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        p, = ctx.saved_tensors
        return softmax_gradient(p, grad)


def attention_weights(scores: Tensor) -> Tensor:
    """softmax(scores) with its gradient by hand: one table is kept for the backward pass instead of three."""
    return _Weights.apply(scores)


def causal_mask(n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """True where a query may not look, (n_queries, n_keys). The last query stands at the last key.

    With a cache there are fewer queries than keys: the queries are the newest tokens.
    """
    # EXERCISE 2.2 causal mask
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]   # where each query stands
    key = torch.arange(n_keys, device=device)
    return key > query                                                         # (queries, keys)
    # END EXERCISE 2.2


@functools.lru_cache(maxsize=2)
def future_bias(T: int, S: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The causal mask as numbers to add to scores, (T, S): 0, or minus infinity where a query may not look.

    All layers of a forward pass ask for the same table, so the last few are kept.
    """
    with torch.inference_mode(False):   # a table that inference asked for first must still serve training
        table = torch.zeros(T, S, dtype=dtype, device=device)
        return table.masked_fill(causal_mask(T, S, device), float("-inf"))


def repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """Give each of K key/value heads to H/K query heads: (B, K, T, D) to (B, H, T, D)."""
    # EXERCISE 2.4 grouped heads
    group = n_heads // x.shape[1]   # query heads that share one key/value head
    return x if group == 1 else x.repeat_interleave(group, dim=1)
    # END EXERCISE 2.4


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Causal scaled dot-product attention: softmax(q k^T / sqrt(D) + bias) v.

    q (B, H, T, D); k and v (B, H, S, D) with S >= T, the queries being the last T positions; bias, if any,
    (H or 1, T, S). Returns (B, H, T, D).
    """
    # EXERCISE 2.12 scaled dot-product attention
    B, H, T, D = q.shape
    table = future_bias(T, k.shape[2], q.dtype, q.device)                     # (T, S): 0, or minus infinity
    if bias is not None:
        table = (bias + table).expand(B, H, -1, -1).reshape(B * H, T, -1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)               # (B H, T or S, D)
    scores = torch.baddbmm(table, q, k.mT, alpha=D**-0.5)                   # table + q k^T / sqrt(D), at once
    return (attention_weights(scores) @ v).unflatten(0, (B, H))               # (B, H, T, D)
    # END EXERCISE 2.12


@functools.lru_cache(maxsize=2)
def score_bias(heads: int, window: int, T: int, S: int, dtype: torch.dtype,
               device: torch.device) -> Tensor | None:
    """What ALiBi (for `heads` heads, or 0) and a window (or 0) add to the scores: (H or 1, T, S), or None.

    Kept like future_bias.
    """
    with torch.inference_mode(False):
        bias = alibi_bias(heads, T, S).to(device, dtype) if heads else None
        if window and window < S:
            hidden = torch.zeros(1, T, S, device=device, dtype=dtype)
            hidden = hidden.masked_fill(window_mask(T, S, window, device), float("-inf"))
            bias = hidden if bias is None else bias + hidden
        return bias


class Attention(nn.Module):
    """Multi-head causal self-attention with K <= H key/value heads.

    `cache`, if given, is any object with `append(layer, k, v) -> (all k, all v)`: it stores the new keys and
    values and returns those of the whole sequence (chapters 7 and 8 have two such classes).
    """

    def __init__(self, config, layer: int):
        super().__init__()
        self.layer, self.heads, self.kv_heads = layer, config.n_heads, config.n_kv_heads
        self.positions = config.positions
        self.window = config.window_of(layer)
        D = self.head_width = config.D
        linear = BiasedLinear if config.bias else Linear
        self.q_proj = linear(config.d_model, self.heads * D)
        self.k_proj = linear(config.d_model, self.kv_heads * D)
        self.v_proj = linear(config.d_model, self.kv_heads * D)
        self.o_proj = linear(self.heads * D, config.d_model)
        self.q_norm = RMSNorm(D, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(D, config.norm_eps) if config.qk_norm else nn.Identity()
        self.sinks = nn.Parameter(torch.zeros(self.heads)) if config.sinks else None
        self.attend = attend   # chapter 4 puts other ways to compute the same here

    def bias(self, T: int, S: int, x: Tensor) -> Tensor | None:
        """What is added to the scores of T queries and S keys, in the type of x: (H or 1, T, S), or None."""
        return score_bias(self.heads * (self.positions == "alibi"), self.window, T, S, x.dtype, x.device)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache=None) -> Tensor:
        """x (B, T, C) to (B, T, C); cos and sin (T, D/2) belong to the positions of x."""
        # EXERCISE 2.13 attention layer
        B, T, _ = x.shape
        D = self.head_width
        q = self.q_norm(self.q_proj(x).view(B, T, self.heads, D)).transpose(1, 2)      # (B, H, T, D)
        k = self.k_norm(self.k_proj(x).view(B, T, self.kv_heads, D)).transpose(1, 2)   # (B, K, T, D)
        v = self.v_proj(x).view(B, T, self.kv_heads, D).transpose(1, 2)                # (B, K, T, D)
        if self.positions == "rope":
            q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)                                      # (B, K, S, D)
        k, v = repeat_heads(k, self.heads), repeat_heads(v, self.heads)                # (B, H, S, D)
        bias = self.bias(T, k.shape[2], x)                                             # (H or 1, T, S), None
        if self.sinks is not None:
            k, v, bias = add_sink(k, v, bias, self.sinks)                              # S + 1 keys
        out = self.attend(q, k, v, bias)                                               # (B, H, T, D)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, self.heads * D))          # (B, T, C)
        # END EXERCISE 2.13
