"""Bytes that attention moves to and from global memory: by formula, and counted while the kernels run.

Adds to kernels.py: the argument of the FlashAttention paper (arXiv 2205.14135, section 3.2) with exact
constants. A count is what the threads ask for; caches would catch a part of it. Tests hold formula and
count equal to the byte.
"""

import torch

import kernels

NAIVE_TILE = 32  # TILE of attention_naive.cu


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def forward_tiles(D: int, query_tile: int = 0) -> tuple:
    """(Br, Bc) of flash_attention.cu, forward, for head width D."""
    return query_tile or (32 if D > 64 else 64), 16 if D > 64 else 32


def naive_forward_bytes(T: int, D: int) -> int:
    """Bytes of the three kernels for one head: the T x T scores are written and read again and again."""
    tiles, wide = ceil_div(T, NAIVE_TILE), ceil_div(D, NAIVE_TILE)
    scores = 2 * tiles * T * D + T * T  # each tile of S reads its rows of Q and of K
    softmax = 2 * T * T + T * T
    output = wide * T * T + tiles * T * D + T * D  # each tile of O reads its rows of P and all of V's columns
    return 4 * (scores + softmax + output)


def flash_forward_bytes(T: int, D: int, causal: bool = False, query_tile: int = 0) -> int:
    """Bytes of the flash kernel for one head: all of K and V for each tile of Q; Q, O and L once."""
    Br, Bc = forward_tiles(D, query_tile)
    keys = 0
    for q0 in range(0, T, Br):
        end = min(T, q0 + Br) if causal else T
        keys += min(T, ceil_div(end, Bc) * Bc)
    return 4 * (T * D + 2 * keys * D + T * D + T)


def flash_backward_bytes(T: int, D: int, causal: bool = False) -> int:
    """Bytes of the backward pass for one head, atomics on dQ included, when no heads share keys."""
    B = 16 if D > 64 else 32
    rows = sum(T - (k0 if causal else 0) for k0 in range(0, T, B))  # rows of queries met by all tiles of keys
    delta = 2 * T * D + T
    once = 2 * T * D + 2 * T * D + T * D  # K and V read; dK and dV written; dQ set to zero
    lanes = 128 // B  # each thread of a row reads L and delta
    return 4 * (delta + once + rows * (2 * D + D + 2 * lanes))


def inputs(T: int, D: int) -> list:
    """q, k, v and d_o of one head, (1, 1, T, D) each."""
    generator = torch.Generator().manual_seed(T + D)
    return [torch.randn(1, 1, T, D, generator=generator) for _ in range(4)]


def total(counts: dict) -> int:
    """All bytes to and from global memory."""
    return counts["global_read"] + counts["global_write"] + counts["global_atomic"]


def count_naive(T: int, D: int) -> int:
    """Bytes counted while attention_naive.cu runs on one head."""
    q, k, v, _ = inputs(T, D)
    kernels.naive_attention(q, k, v, causal=False, mode="check")
    return total(kernels.load("attention_naive.cu", "check").counts())


def flash_library(D: int, query_tile: int = 0):
    """flash_attention.cu in check mode for head width D and, unless 0, tiles of `query_tile` rows."""
    tile = (f"-DQUERY_TILE={query_tile}",) if query_tile else ()
    return kernels.load("flash_attention.cu", "check", (f"-DHEAD_WIDTH={D}", *tile))


def count_flash_forward(T: int, D: int, query_tile: int = 0) -> int:
    """Bytes counted while the forward kernel of flash_attention.cu runs on one head, not causal."""
    lib, (q, k, v, _) = flash_library(D, query_tile), inputs(T, D)
    kernels.flash_forward(lib, q, k, v, causal=False)
    return total(lib.counts())


def count_flash(T: int, D: int, causal: bool) -> tuple:
    """Bytes counted while flash_attention.cu runs on one head: (forward, backward)."""
    lib, (q, k, v, d_o) = flash_library(D), inputs(T, D)
    o, lse = kernels.flash_forward(lib, q, k, v, causal)
    forward = total(lib.counts())
    kernels.flash_backward(lib, q, k, v, o, lse, d_o, causal)
    return forward, total(lib.counts())
