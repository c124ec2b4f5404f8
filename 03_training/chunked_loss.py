"""Cross-entropy that never holds all logits: the output layer and the loss together, a few rows at a time.

Adds to cross_entropy.py what large vocabularies need. Logits are the largest tensor of a training step: 16 x
1024 tokens and 50,304 words in float32 are 3.3 GB, and their gradient as much again. But the loss of a row
needs no other row, and its gradient is known as soon as its loss is. So each chunk of rows makes its logits,
adds its loss, turns them into gradients of the inputs and of the table, and is forgotten. (Known as "cut" or
"linear" cross-entropy: Hsu et al. 2024, Liger Kernel, section 3.2; Wijmans et al. 2024.)

    python 03_training/bench_train.py      compares memory and speed with the plain loss
"""
import torch
from torch import Tensor

from cross_entropy import IGNORE
from normalization import at_least_float32


def loss_of_chunk(x: Tensor, table: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of -log softmax(x table^T)[target] over targets that count, and its gradient.

    x (n, C), table (V, C), targets (n,); the loss is one number, the gradient is with respect to the logits,
    (n, V), both float32 or wider.
    """
    # EXERCISE 3.13 chunked cross-entropy
    logits = at_least_float32(x @ table.T)                                         # (n, V)
    kept, safe = targets != IGNORE, targets.clamp(min=0)
    log_z = logits.logsumexp(-1)                                                   # (n,)
    loss = (log_z - logits.gather(-1, safe[:, None])[:, 0]).masked_fill(~kept, 0).sum()
    d = logits.sub_(log_z[:, None]).exp_()                                         # softmax, in their place
    d.scatter_add_(-1, safe[:, None], -torch.ones_like(d[:, :1]))                  # minus one at the target
    return loss, d.mul_(kept[:, None])
    # END EXERCISE 3.13


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, targets: Tensor, chunk: int) -> Tensor:
        count = (targets != IGNORE).sum().clamp(min=1)
        cast = table.to(x.dtype)                                                   # (V, C)
        total, wanted = torch.zeros((), device=x.device), any(ctx.needs_input_grad)
        dx, d_table = (torch.empty_like(x), torch.zeros_like(table)) if wanted else (None, None)
        for begin in range(0, len(x), chunk):
            rows = slice(begin, begin + chunk)
            loss, d = loss_of_chunk(x[rows], cast, targets[rows])
            total = total + loss
            if dx is not None and d_table is not None:
                d = d.div_(count).to(x.dtype)                                      # (chunk, V)
                dx[rows] = d @ cast                                                # (chunk, C)
                d_table += d.T @ x[rows]                                           # (V, C)
        ctx.save_for_backward(dx, d_table)
        return total / count

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():   # create_graph=True: dx and d_table would pass for constants
            raise NotImplementedError("the chunked loss has no second derivative: "
                                      "use cross_entropy_naive for that")
        dx, d_table = ctx.saved_tensors
        return grad * dx, grad * d_table, None, None


def chunked_cross_entropy(x: Tensor, table: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """cross_entropy(x @ table.T, targets) for x (..., C), table (V, C) and targets (...), in little memory.

    Only chunk x V logits exist at a time. The gradient is made in the forward pass: a second derivative is
    refused.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: give 1 or more rows")
    return _ChunkedCrossEntropy.apply(x.reshape(-1, x.shape[-1]), table, targets.reshape(-1), chunk)
