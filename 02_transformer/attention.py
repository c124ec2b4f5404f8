"""Attention: every token looks at itself and the tokens before it, and takes a weighted mean of what it finds.

Vaswani et al. 2017 (section 3.2); grouped-query attention: Ainslie et al. 2023; q/k norm: Henry et al. 2020.
This is the plain version, with the whole T x T table in memory. Chapter 4 computes the same in tiles.

    python 02_transformer/run.py           checks that no token sees the future
"""
import torch
from torch import Tensor, nn

from linear import Linear
from normalization import RMSNorm
from positions import alibi_bias, apply_rope


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) over the last dimension. Subtracting the maximum changes nothing and prevents overflow."""
    # EXERCISE 2.1 softmax
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)
    # END EXERCISE 2.1


def causal_mask(n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """True where a query may not look, (n_queries, n_keys). The last query stands at the last key.

    With a cache there are fewer queries than keys: the queries are the newest tokens.
    """
    # EXERCISE 2.2 causal mask
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]   # where each query stands
    key = torch.arange(n_keys, device=device)
    return key > query                                                         # (queries, keys)
    # END EXERCISE 2.2


def repeat_heads(x: Tensor, n_heads: int) -> Tensor:
    """Grouped-query attention: give each of K key/value heads to H/K query heads. (B, K, T, D) to (B, H, T, D)."""
    # EXERCISE 2.4 grouped heads
    group = n_heads // x.shape[1]   # query heads that share one key/value head
    return x if group == 1 else x.repeat_interleave(group, dim=1)
    # END EXERCISE 2.4


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Causal scaled dot-product attention: softmax(q k^T / sqrt(D) + bias) v.

    q (B, H, T, D); k and v (B, H, S, D) with S >= T, the queries being the last T positions. Returns (B, H, T, D).
    """
    # EXERCISE 2.12 scaled dot-product attention
    T, S, D = q.shape[-2], k.shape[-2], q.shape[-1]
    scores = (q * D**-0.5) @ k.transpose(-1, -2)                              # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    if T > 1:   # a single newest token may see everything
        scores = scores.masked_fill(causal_mask(T, S, q.device), float("-inf"))
    return softmax(scores) @ v                                                # (B, H, T, D)
    # END EXERCISE 2.12


class Attention(nn.Module):
    """Multi-head causal self-attention with K <= H key/value heads.

    `cache`, if given, is any object with `append(layer, k, v) -> (all k, all v)`: it stores the new keys and values
    and returns those of the whole sequence (chapters 7 and 8 have two such classes).
    """

    def __init__(self, config, layer: int):
        super().__init__()
        self.layer, self.heads, self.kv_heads = layer, config.n_heads, config.n_kv_heads
        self.positions = config.positions
        D = self.head_width = config.d_model // config.n_heads
        self.q_proj = Linear(config.d_model, self.heads * D)
        self.k_proj = Linear(config.d_model, self.kv_heads * D)
        self.v_proj = Linear(config.d_model, self.kv_heads * D)
        self.o_proj = Linear(self.heads * D, config.d_model)
        self.q_norm = RMSNorm(D) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(D) if config.qk_norm else nn.Identity()

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
        bias = alibi_bias(self.heads, T, k.shape[2]).to(x) if self.positions == "alibi" else None
        out = attend(q, k, v, bias)                                                    # (B, H, T, D)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, self.heads * D))          # (B, T, C)
        # END EXERCISE 2.13
