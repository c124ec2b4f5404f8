"""Attention without the T x T table: walk over tiles of keys and keep a running softmax.

Adds to chapter 2's `attend`: the same numbers in memory linear in T. The trick is the online softmax (Milakov
and Gimelshein 2018): a row's maximum m and sum l can be corrected when a later tile holds a larger score.
Dao et al. 2022 (algorithms 1 and 4), Dao 2023; names O, L, m, l as there.

    python 04_systems/run.py --only flash_attention
"""
import torch
from torch import Tensor

from attention import repeat_heads


def tiles(n: int, size: int) -> list[slice]:
    """0 .. n cut into slices of `size`, the last one shorter."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def scores(Q: Tensor, K: Tensor, rows: slice, columns: slice, causal: bool) -> Tensor:
    """One tile of Q K^T / sqrt(D), -inf where a query may not look; the last query stands at the last key."""
    S = Q[..., rows, :] @ K[..., columns, :].transpose(-1, -2) * Q.shape[-1] ** -0.5  # (B, H, rows, columns)
    if causal:
        query = torch.arange(rows.start, rows.stop, device=Q.device) + K.shape[-2] - Q.shape[-2]
        key = torch.arange(columns.start, columns.stop, device=Q.device)
        S = S.masked_fill(key > query[:, None], float("-inf"))
    return S


def is_needed(rows: slice, columns: slice, shift: int, causal: bool) -> bool:
    """False for a tile that lies wholly in the future: its first key comes after its last query."""
    return not causal or columns.start <= rows.stop - 1 + shift


def flash_forward(Q: Tensor, K: Tensor, V: Tensor, causal: bool, size: int) -> tuple[Tensor, Tensor]:
    """Output O (B, H, T, D) and log-sum-exp L (B, H, T) of each row; Q (B, H, T, D), K and V (B, H, S, D).

    Only one tile of at most size x size scores exists at a time.
    """
    # EXERCISE 4.6 flash attention
    T, S = Q.shape[-2], K.shape[-2]
    O, L = torch.empty_like(Q), Q.new_empty(Q.shape[:-1])
    for rows in tiles(T, size):
        m = Q.new_full((*Q.shape[:-2], rows.stop - rows.start, 1), float("-inf"))   # largest score so far
        l = torch.zeros_like(m)                                                     # sum of exp(score - m)
        acc = torch.zeros_like(Q[..., rows, :])                                     # sum of exp(score - m) v
        for columns in tiles(S, size):
            if is_needed(rows, columns, S - T, causal):
                tile = scores(Q, K, rows, columns, causal)
                m_new = torch.maximum(m, tile.amax(-1, keepdim=True))
                P = (tile - m_new).exp()
                shrink = (m - m_new).exp()                          # what was summed is too large
                l = shrink * l + P.sum(-1, keepdim=True)
                acc = shrink * acc + P @ V[..., columns, :]
                m = m_new
        O[..., rows, :] = acc / l
        L[..., rows] = (m + l.log())[..., 0]
    return O, L
    # END EXERCISE 4.6


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, Q: Tensor, K: Tensor, V: Tensor, causal: bool, size: int) -> Tensor:
        O, L = flash_forward(Q, K, V, causal, size)
        ctx.save_for_backward(Q, K, V, O, L)  # not the T x S probabilities: they are computed again
        ctx.causal, ctx.size = causal, size
        return O

    @staticmethod
    def backward(ctx, dO: Tensor):
        if torch.is_grad_enabled():   # create_graph=True: what L depends on would be missing, without a word
            raise NotImplementedError("flash attention has no second derivative: use chapter 2's attend")
        Q, K, V, O, L = ctx.saved_tensors
        dQ, dK, dV = torch.zeros_like(Q), torch.zeros_like(K), torch.zeros_like(V)
        scale, shift = Q.shape[-1] ** -0.5, K.shape[-2] - Q.shape[-2]
        inner = (dO * O).sum(-1, keepdim=True)             # (B, H, T, 1): sum over keys of P dP, without P
        for columns in tiles(K.shape[-2], ctx.size):
            for rows in tiles(Q.shape[-2], ctx.size):
                if is_needed(rows, columns, shift, ctx.causal):
                    P = (scores(Q, K, rows, columns, ctx.causal)
                         - L[..., rows, None]).exp()               # (B, H, rows, columns)
                    dV[..., columns, :] += P.transpose(-1, -2) @ dO[..., rows, :]
                    dP = dO[..., rows, :] @ V[..., columns, :].transpose(-1, -2)
                    dS = P * (dP - inner[..., rows, :]) * scale
                    dQ[..., rows, :] += dS @ K[..., columns, :]
                    dK[..., columns, :] += dS.transpose(-1, -2) @ Q[..., rows, :]
        return dQ, dK, dV, None, None


def flash_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, tile: int = 64) -> Tensor:
    """softmax(q k^T / sqrt(D)) v exactly, forward and backward, in memory linear in T.

    q (B, H, T, D); k and v (B, K, S, D) with K dividing H; with `causal` the queries are the last T of S >= T
    positions. Raises ValueError for shapes that do not go together. A second derivative is refused with
    NotImplementedError: chapter 2's `attend` has one.
    """
    H, T, S = q.shape[1], q.shape[-2], k.shape[-2]
    if k.shape != v.shape or q.shape[-1] != k.shape[-1] or H % k.shape[1]:
        raise ValueError(f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} do "
                         "not go together: want (B, H, T, D) and twice (B, K, S, D), K dividing H")
    if causal and T > S:
        raise ValueError(f"{T} causal queries but only {S} keys: the first queries would see nothing")
    return _Flash.apply(q, repeat_heads(k, H), repeat_heads(v, H), causal, tile)


def flash_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """flash_attention in the place of chapter 2's attend (`layer.self_attn.attend = flash_attend`)."""
    if bias is not None:
        raise ValueError("flash attention here takes no bias: use positions='rope' instead of 'alibi'")
    return flash_attention(q, k, v)


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> tuple[Tensor, str]:
    """The same by csrc's kernel, CUDA or emulated, else flash_attention: (output, what computed it)."""
    try:
        import kernels
    except ImportError:
        return flash_attention(q, k, v, causal), "torch tiles (csrc is not installed)"
    if not kernels.available(q.device.type):
        return flash_attention(q, k, v, causal), f"torch tiles ({kernels.why_not(q.device.type)})"
    return kernels.flash_attention(q, k, v, causal), "csrc kernel"
