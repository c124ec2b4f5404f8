"""Soft-capped logits: none can leave -cap ... cap, and small ones stay as they are.

Bello et al. 2016 (equation 16) for search; Gemma Team 2024 (Gemma 2, section 2, cap 30) for language models.

    python 02_transformer/run.py --softcap 15
"""
from torch import Tensor, nn


class SoftCap(nn.Module):
    """cap * tanh(x / cap): slope 1 at zero, flat far out, so that no logit can be pushed without end."""

    def __init__(self, cap: float):
        super().__init__()
        self.cap = cap

    def forward(self, logits: Tensor) -> Tensor:
        """(..., V) to (..., V)."""
        return self.cap * (logits / self.cap).tanh()
