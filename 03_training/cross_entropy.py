"""The loss of language modelling: the surprise, in nats, at the token that really came.

First the definition, differentiated by autograd; then the same with its gradient written by hand, which is
short (softmax minus one at the target) and saves autograd's intermediate tables.

    python 03_training/run.py              trains with it
"""
import torch
from torch import Tensor

from normalization import at_least_float32

IGNORE = -100   # a target that carries no loss: padding, or a prompt


def cross_entropy_naive(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target] over targets that are not IGNORE. logits (N, V), targets (N,)."""
    # EXERCISE 3.5 cross-entropy
    kept = targets != IGNORE
    log_p = logits - logits.logsumexp(-1, keepdim=True)                            # (N, V)
    picked = log_p.gather(-1, (targets * kept)[:, None])[:, 0]                     # (N,); -1 is an error
    return -picked.masked_fill(~kept, 0).sum() / kept.sum().clamp(min=1)           # -inf * 0 would be NaN
    # END EXERCISE 3.5


def grad_of_logits(logits: Tensor, log_z: Tensor, safe: Tensor, kept: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `grad` times the mean loss over kept targets, with respect to logits (N, V): (N, V).

    log_z (N,) is logsumexp of each row, safe (N,) the targets (any valid id where none is kept), kept (N,)
    True where a target counts. Row i is softmax(logits[i]) minus one at the target, over the number of kept
    targets.
    """
    # EXERCISE 3.9 the gradient of cross-entropy
    d = (logits - log_z[:, None]).exp()                                            # softmax, (N, V)
    d.scatter_add_(-1, safe[:, None], -torch.ones_like(d[:, :1]))                  # minus one at the target
    return d * (kept * (grad / kept.sum().clamp(min=1)))[:, None]
    # END EXERCISE 3.9


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:
        kept = targets != IGNORE
        safe = targets * kept
        log_z = logits.logsumexp(-1)                                               # (N,)
        nll = (log_z - logits.gather(-1, safe[:, None])[:, 0]).masked_fill(~kept, 0)   # (N,)
        ctx.save_for_backward(logits, log_z, safe, kept)
        return nll.sum() / kept.sum().clamp(min=1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():   # create_graph=True: log_z would pass for a constant, without a word
            raise NotImplementedError("cross_entropy has no second derivative: use cross_entropy_naive there")
        logits, log_z, safe, kept = ctx.saved_tensors
        return grad_of_logits(logits, log_z, safe, kept, grad), None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Same as cross_entropy_naive for logits (..., V) and targets (...), with the gradient by hand.

    Logits of 16 bits are summed in float32.
    """
    return _CrossEntropy.apply(at_least_float32(logits).reshape(-1, logits.shape[-1]), targets.reshape(-1))
