"""The parallel block: attention and feed-forward read the same normalised stream and are added together.

Adds to transformer.Block one norm less and a shorter path: the two branches no longer wait for each other,
and a machine can compute their first products as one. Wang and Komatsuzaki 2021 (GPT-J); Chowdhery et al.
2022 (PaLM, section 2: 15% faster at large scale, no loss of quality at 62B).

    python 02_transformer/run.py --placement parallel
"""
from torch import Tensor, nn


class ParallelBlock(nn.Module):
    """x + attention(norm(x)) + feed_forward(norm(x))."""

    def __init__(self, norm: nn.Module, attention: nn.Module, feed_forward: nn.Module):
        super().__init__()
        self.input_layernorm, self.self_attn, self.mlp = norm, attention, feed_forward

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache=None) -> Tensor:
        """x (B, T, C) to (B, T, C)."""
        read = self.input_layernorm(x)
        return x + self.self_attn(read, cos, sin, cache) + self.mlp(read)
