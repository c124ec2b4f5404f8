"""Gradient clipping: one odd batch may point anywhere, but it may not push further than an ordinary one.

Pascanu, Mikolov, Bengio 2013 (algorithm 1).

    python 03_training/run.py --clip 1.0
"""
from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients by one factor so that their joint length is at most `max_norm`.

    Returns the length before, (). It stays a tensor on the device: to look at it would make a GPU wait, and
    nothing here needs to. Without any gradient it is 0. A length that is not finite cannot be mended by
    scaling; train.py finds it in the log. ValueError for a limit that is not above 0: it would stop the
    model, or make it climb.
    """
    if not max_norm > 0:
        raise ValueError(f"gradients of length {max_norm} at most teach nothing: give a limit above 0")
    # EXERCISE 3.4 gradient clipping
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.stack([g.norm() for g in grads]).norm()
    factor = (max_norm / norm).clamp(max=1.0)
    for g in grads:
        g.mul_(factor)
    return norm
    # END EXERCISE 3.4
