"""AdamW: a running mean of the gradient over its running size, so that each weight moves at its own scale.

Kingma and Ba 2015 (algorithm 1); decoupled weight decay: Loshchilov and Hutter 2019 (algorithm 2).

    python 03_training/run.py              uses it for embeddings and norms
"""
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class AdamW:
    """w <- w - lr * (m / (sqrt(v) + eps) + decay * w), with m and v corrected for starting at zero.

    Used as torch.optim's, with two differences: a schedule gives its factor to `step`, and there are no
    parameter groups (make two optimizers) and no closures.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float,
                 betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8, weight_decay: float = 0.0):
        self.parameters = [p for p in parameters if p.requires_grad]
        if not 0 <= lr < math.inf:
            raise ValueError(f"a learning rate of {lr} cannot train: give 0 or more")
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.steps = 0
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """One update with learning rate lr * scale; parameters without a gradient stay as they are."""
        self.steps += 1
        lr = self.lr * scale
        for p, m, v in zip(self.parameters, self.m, self.v):
            if p.grad is not None:
                p.mul_(1 - lr * self.weight_decay)
                p.sub_(lr * self.direction(p.grad, m, v))

    def direction(self, grad: Tensor, m: Tensor, v: Tensor) -> Tensor:
        """Update the moments m and v in place with `grad`; return the bias-corrected step, all of one shape.

        `self.steps` is 1 in the first update.
        """
        # EXERCISE 3.8 the direction of AdamW
        b1, b2 = self.betas
        m.mul_(b1).add_(grad, alpha=1 - b1)
        v.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        m_hat = m / (1 - b1**self.steps)
        v_hat = v / (1 - b2**self.steps)
        return m_hat / (v_hat.sqrt() + self.eps)
        # END EXERCISE 3.8

    def zero_grad(self) -> None:
        """Forget the gradients, as torch.optim does by default."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict:
        """Everything that a continued run needs."""
        return {"steps": self.steps, "m": self.m, "v": self.v}

    def load_state_dict(self, state: dict) -> None:
        """Take over a saved state."""
        self.steps = state["steps"]
        for mine, saved in zip(self.m + self.v, state["m"] + state["v"], strict=True):
            mine.copy_(saved)
