"""Gradient clipping: one odd batch may point anywhere, but it may not push further than an ordinary one.

Pascanu, Mikolov, Bengio 2013 (algorithm 1).

    python 03_training/run.py --clip 1.0
"""
from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients by one factor so that their joint length is at most `max_norm`; returns the length before.

    Without any gradient there is nothing to scale, and the length is 0.

    Raises ValueError if the length is not finite: the run has diverged and no scaling helps.
    """
    # EXERCISE 3.4 gradient clipping
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return 0.0
    norm = torch.stack([g.norm() for g in grads]).norm()
    if not torch.isfinite(norm):
        raise ValueError("the gradient is not finite: lower the learning rate or look for a division by zero in the loss")
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm.item()
    # END EXERCISE 3.4


@torch.no_grad()
def clip_without_waiting(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Same as clip_gradients, but the length stays a tensor () on the device: a GPU goes on while Python prepares.

    A length that is not finite cannot be refused here, as nobody has looked at it: all gradients become NaN, and
    train.py finds them before anything is saved.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    torch._foreach_mul_(grads, (max_norm / norm).clamp(max=1.0))
    return norm
