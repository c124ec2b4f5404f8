"""Where a transformer keeps most of its weights: a matrix multiplication, and a table of vectors.

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
        """x (..., in) to (..., out), in the format of x (chapter 3 computes in 16 bits, weights keep 32)."""
        return x @ self.weight.to(x.dtype).T


class BiasedLinear(nn.Module):
    """y = x W^T + b, with b zero at the start: GPT-2's matrices. Later models leave b away."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) * 0.5 * n_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) to (..., out)."""
        return x @ self.weight.to(x.dtype).T + self.bias.to(x.dtype)


class Embedding(nn.Module):
    """One vector a token: row i of W (V, C) is the vector of token i."""

    def __init__(self, n_tokens: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_tokens, width) * 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) int64 to (B, T, C). On a CPU an id outside the table raises ValueError."""
        # Not weight[ids]: threads that share it add up its gradient in an order that changes from run to run.
        try:
            return self.weight.index_select(0, ids.flatten()).unflatten(0, ids.shape)
        except IndexError:
            raise ValueError(f"token ids run from {ids.min()} to {ids.max()}, but the vocabulary has "
                             f"{len(self.weight)} tokens: is the text from another tokenizer?") from None
