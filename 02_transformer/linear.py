"""The two places where a transformer keeps most of its weights: a matrix multiplication and a table of vectors.

    python 02_transformer/run.py           builds the model from these and counts its parameters
"""
import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """y = x W^T, W (out, in), no bias. Weights start normal with standard deviation 0.5 / sqrt(in).

    The sum of `in` products then has a standard deviation of about a half, whatever the width.
    """

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) * 0.5 * n_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) to (..., out)."""
        return x @ self.weight.T


class Embedding(nn.Module):
    """One vector a token: row i of W (V, C) is the vector of token i."""

    def __init__(self, n_tokens: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_tokens, width) * 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 to (B, T, C)."""
        return self.weight[ids]
