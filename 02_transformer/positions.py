"""Tell attention where tokens stand. Without positions a transformer sees a bag of words.

rope        rotate queries and keys by an angle that grows with the position (Su et al. 2021); the default
alibi       subtract a penalty that grows with the distance from the scores (Press et al. 2021)
sinusoidal  add a fixed vector of sines and cosines to the embedding (Vaswani et al. 2017)
learned     add one learned vector a position to the embedding (Radford et al. 2018)
none        nothing; a causal model can still infer something (Haviv et al. 2022)

    python 02_transformer/run.py --positions alibi
"""
import torch
from torch import Tensor, nn


def rope_tables(n_positions: int, head_width: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of the angle position * base^(-2i/D), both (n_positions, D/2). ValueError for an odd D."""
    if head_width % 2:
        raise ValueError(f"rope rotates pairs of numbers, but width {head_width} is odd: choose an even one")
    # EXERCISE 2.8 RoPE tables
    frequency = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)   # (D/2,)
    angle = torch.arange(n_positions, dtype=torch.float64)[:, None] * frequency               # (T, D/2)
    return angle.cos().float(), angle.sin().float()
    # END EXERCISE 2.8


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_(i+D/2)) of x (B, H, T, D) by its angle; cos and sin are (T, D/2).

    The dot product of two rotated vectors depends on the difference of their positions only. Pairing the
    first half with the second ("half-split") is the layout of Hugging Face's Llama; the paper pairs
    neighbours.
    """
    # EXERCISE 2.11 RoPE rotation
    a, b = x.chunk(2, dim=-1)                                     # (B, H, T, D/2) each
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)  # (B, H, T, D)
    # END EXERCISE 2.11


def alibi_bias(n_heads: int, n_queries: int, n_keys: int) -> Tensor:
    """-slope * distance, (H, n_queries, n_keys); the last query stands at the last key.

    Slopes are 2^(-8/H), 2^(-16/H), ... for a power of two of heads (paper, section 3).
    """
    # EXERCISE 2.9 ALiBi bias
    slopes = 2.0 ** (-8.0 * torch.arange(1, n_heads + 1) / n_heads)                     # (H,)
    query = torch.arange(n_keys - n_queries, n_keys)[:, None]
    distance = (query - torch.arange(n_keys)).clamp(min=0)                              # (queries, keys)
    return -slopes[:, None, None] * distance                                            # (H, queries, keys)
    # END EXERCISE 2.9


class SinusoidalPositions(nn.Module):
    """A fixed row for each position: sin(t w) and cos(t w) side by side, for C/2 frequencies w as in RoPE."""

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        cos, sin = rope_tables(n_positions, width)
        rows = torch.stack((sin, cos), -1).flatten(1)                                   # (n_positions, C)
        # The paper adds them to embeddings of about their size; ours are born with a deviation of 0.02.
        self.register_buffer("weight", 0.02 * 2**0.5 * rows, persistent=False)
