"""Gradient accumulation: the gradient of a batch too large for memory, from pieces that are not.

The gradient of a sum is the sum of the gradients, so micro-batches may run one after the other. A *mean*
over tokens is another matter: where the pieces hold different numbers of counted targets (padding, prompts),
the mean of their means is not the mean of the batch. Each piece must weigh what it counts.

    python -m pytest tests/test_03_accumulation.py      compares it with one large batch
"""
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from cross_entropy import IGNORE


def accumulate(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor],
               micro_batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Give `model` the gradients of the mean loss over all counted targets; returns that loss.

    `micro_batches` are (inputs, targets) pairs, each (B, T) with any B and T; a target counts unless it is
    IGNORE. `loss_of(inputs, targets)` is the mean over the targets that count, 0 if there are none.
    Gradients of an earlier step are dropped first. Only one micro-batch's activations are in memory at a
    time.
    """
    # EXERCISE 3.10 gradient accumulation
    counts = [(targets != IGNORE).sum().item() for _, targets in micro_batches]
    for p in model.parameters():
        p.grad = None
    total = 0.0
    for (inputs, targets), count in zip(micro_batches, counts):
        loss = loss_of(inputs, targets) * (count / max(sum(counts), 1))
        loss.backward()
        total += loss.item()
    return total
    # END EXERCISE 3.10
