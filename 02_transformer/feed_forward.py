"""The feed-forward layer: each token on its own, wider inside than outside. Most parameters live here.

SwiGLU: Shazeer 2020 (equation 6); GELU: Hendrycks and Gimpel 2016; squared ReLU: So et al. 2021.

    python 02_transformer/run.py --activation relu2
"""
import math

import torch
from torch import Tensor, nn

from linear import BiasedLinear, Linear


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x), also called swish."""
    return x * torch.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """x times the probability that a standard normal number is below x."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation of gelu that GPT-2 was trained with (Hendrycks and Gimpel 2016, section 2)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu(x: Tensor) -> Tensor:
    """max(x, 0), with the slope 0 at 0, as everywhere in the field (clamp's is 1 there)."""
    return torch.threshold(x, 0.0, 0.0)


def relu2(x: Tensor) -> Tensor:
    """max(x, 0) squared."""
    return relu(x).square()


ACTIVATIONS = {"swiglu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh, "relu": relu, "relu2": relu2}


class FeedForward(nn.Module):
    """down(act(up x)), or for swiglu down(silu(gate x) * up x): the gate decides how much of up x passes."""

    def __init__(self, config, width: int | None = None):
        super().__init__()
        C, F = config.d_model, width or config.d_ff
        linear = BiasedLinear if config.bias else Linear
        self.act = ACTIVATIONS[config.activation]
        self.gate_proj = linear(C, F) if config.activation == "swiglu" else None
        self.up_proj = linear(C, F)
        self.down_proj = linear(F, C)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        # EXERCISE 2.5 gated feed-forward
        if self.gate_proj is None:
            return self.down_proj(self.act(self.up_proj(x)))
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))   # (B, T, F) inside
        # END EXERCISE 2.5
