"""Muon: momentum whose matrix is made orthogonal first, so that every direction moves equally far.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"
(kellerjordan.github.io/posts/muon), with its Newton-Schulz coefficients. For matrices inside the model only:
embeddings, output layer and norms go to AdamW.

    python 03_training/run.py              uses it for the matrices
"""
import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from adamw import AdamW
from transformer import Transformer


def orthogonalize(G: Tensor, steps: int = 5) -> Tensor:
    """Move the singular values of each matrix in G (..., m, n) to about 1, keeping its singular vectors.

    X <- aX + b(XX^T)X + c(XX^T)^2 X applies the polynomial ax + bx^3 + cx^5 to every singular value. It is
    steep at 0, so small values rise quickly; it does not converge to 1 but stays between about 0.7 and 1.2,
    which is enough.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    # EXERCISE 3.11 the iteration of Muon
    tall = G.shape[-2] > G.shape[-1]
    X = G.mT if tall else G                       # the short side first: XX^T is then the small product
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)           # all singular values are now at most 1
    for _ in range(steps):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X
    # END EXERCISE 3.11


class Muon:
    """Nesterov momentum, orthogonalized, times sqrt(max(1, rows / columns))."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95,
                 weight_decay: float = 0.0):
        self.parameters = [p for p in parameters if p.requires_grad]
        if not 0 <= lr < math.inf:
            raise ValueError(f"a learning rate of {lr} cannot train: give 0 or more")
        for p in self.parameters:
            if p.ndim != 2:
                raise ValueError(f"Muon orthogonalizes matrices, not a tensor of shape {tuple(p.shape)}: "
                                 "give that one to AdamW")
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.buffers = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """One update with learning rate lr * scale; matrices of one shape are orthogonalized in one batch."""
        lr = self.lr * scale
        same_shape = defaultdict(list)
        for p, buffer in zip(self.parameters, self.buffers):
            if p.grad is not None:
                buffer.mul_(self.momentum).add_(p.grad)
                ahead = p.grad + self.momentum * buffer                            # Nesterov: one step ahead
                same_shape[p.shape].append((p, ahead))
        for (rows, columns), group in same_shape.items():
            updates = self.orthogonalize(torch.stack([u for _, u in group]))       # (matrices, rows, columns)
            for (p, _), update in zip(group, updates):
                p.mul_(1 - lr * self.weight_decay)
                p.sub_(lr * max(1, rows / columns) ** 0.5 * update)

    def orthogonalize(self, G: Tensor) -> Tensor:
        """The iteration above; the fast path of fast_path.py puts a fused one here."""
        return orthogonalize(G)

    def zero_grad(self) -> None:
        """Forget the gradients, as torch.optim does by default."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict:
        """Everything that a continued run needs."""
        return {"buffers": self.buffers}

    def load_state_dict(self, state: dict) -> None:
        """Take over a saved state."""
        for mine, saved in zip(self.buffers, state["buffers"], strict=True):
            mine.copy_(saved)


def muon_and_adamw(model: Transformer, matrix_lr: float, other_lr: float) -> list:
    """The two optimizers of one model: Muon for matrices inside the blocks, AdamW for all other weights."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [Muon(matrices, matrix_lr), AdamW(rest, other_lr)]
