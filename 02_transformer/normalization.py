"""Keep the size of activations in check: RMSNorm (the default) and the older LayerNorm.

RMSNorm: Zhang and Sennrich 2019, equation 4. LayerNorm: Ba, Kiros, Hinton 2016.

    python 02_transformer/run.py --norm layer
"""
import torch
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
    """x as it is, or as float32 if it has 16 bits: a sum in bf16 stops growing at 256 times its terms."""
    return x.float() if x.dtype.itemsize < 4 else x


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * g over the last dimension: the length is fixed, the direction is kept."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C), in the format of x; the sum of squares has at least 32 bits."""
        return self.normalize(at_least_float32(x)).to(x.dtype)

    def normalize(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        # EXERCISE 2.3 RMSNorm
        mean_square = x.square().mean(-1, keepdim=True)                # (..., 1)
        return x * (mean_square + self.eps).rsqrt() * self.weight
        # END EXERCISE 2.3


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * g + b over the last dimension; the variance divides by C."""

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C), in the format of x; sums have at least 32 bits."""
        wide = at_least_float32(x)
        centred = wide - wide.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)             # (..., 1)
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)


NORMS = {"rms": RMSNorm, "layer": LayerNorm}
