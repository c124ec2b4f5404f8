"""Stochastic gradient descent with momentum: the plainest optimizer, one vector of memory a weight, or none.

The running sum of gradients keeps what they agree on and averages out what they do not (Polyak 1964;
Sutskever et al. 2013, equations 1 to 4, in the form that torch uses: the learning rate multiplies the sum,
not the gradients in it).

    python 03_training/recipe.py           races it against AdamW and Muon on the same model and tokens
"""
import math
from collections.abc import Iterable

import torch
from torch import nn


class SGD:
    """b <- momentum * b + g;  w <- w - lr * b, after w <- w - lr * decay * w."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.0,
                 weight_decay: float = 0.0):
        self.parameters = [p for p in parameters if p.requires_grad]
        if not 0 <= lr < math.inf:
            raise ValueError(f"a learning rate of {lr} cannot train: give 0 or more")
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.buffers = [torch.zeros_like(p) for p in self.parameters] if momentum else []

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """One update with learning rate lr * scale; parameters without a gradient stay as they are."""
        lr = self.lr * scale
        for i, p in enumerate(self.parameters):
            if p.grad is None:
                continue
            update = p.grad
            if self.momentum:
                update = self.buffers[i].mul_(self.momentum).add_(p.grad)
            p.mul_(1 - lr * self.weight_decay).sub_(lr * update)

    def state_dict(self) -> dict:
        """Everything that a continued run needs."""
        return {"buffers": self.buffers}

    def load_state_dict(self, state: dict) -> None:
        """Take over a saved state."""
        for mine, saved in zip(self.buffers, state["buffers"], strict=True):
            mine.copy_(saved)
