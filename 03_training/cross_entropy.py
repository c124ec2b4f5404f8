"""The loss of language modelling: the surprise, in nats, at the token that really came.

First the definition, differentiated by autograd; then the same with its gradient written by hand, which is short
(softmax minus one at the target) and saves autograd's intermediate tables.

    python 03_training/run.py              trains with it
"""
import torch
from torch import Tensor

IGNORE = -100   # a target that carries no loss: padding, or a prompt


def cross_entropy_naive(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target] over targets that are not IGNORE. logits (N, V), targets (N,)."""
    kept = targets != IGNORE
    log_p = logits - logits.logsumexp(-1, keepdim=True)                            # (N, V)
    picked = log_p.gather(-1, targets.clamp(min=0)[:, None])[:, 0]                 # (N,)
    return -(picked * kept).sum() / kept.sum().clamp(min=1)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:
        kept = targets != IGNORE
        safe = targets.clamp(min=0)
        log_z = logits.logsumexp(-1)                                               # (N,)
        nll = (log_z - logits.gather(-1, safe[:, None])[:, 0]) * kept              # (N,)
        ctx.save_for_backward(logits, log_z, safe, kept)
        return nll.sum() / kept.sum().clamp(min=1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        logits, log_z, safe, kept = ctx.saved_tensors
        d = (logits - log_z[:, None]).exp()                                        # softmax, (N, V)
        d.scatter_add_(-1, safe[:, None], -torch.ones_like(d[:, :1]))              # minus one at the target
        return d * (kept * (grad / kept.sum().clamp(min=1)))[:, None], None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Same as cross_entropy_naive for logits (..., V) and targets (...), with the gradient by hand."""
    return _CrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
