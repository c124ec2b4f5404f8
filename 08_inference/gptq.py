"""Rounding that repairs its own errors: GPTQ, the loss measured in a layer's outputs, not in its weights.

Adds to quantize.quantize_groups a look at the inputs x of each layer on calibration text. Columns are rounded
one by one, and the error of each is spread over the columns still to come so that W x changes least. Frantar
et al. 2023, "GPTQ" (algorithm 1, without its blocking); the idea is Hassibi and Stork 1993, "Optimal brain
surgeon".

    python 08_inference/run.py             more than halves the rise in perplexity with it (prints both)
"""
import math

import torch
from torch import Tensor

from quantize import GROUP, Rounding, Scales, fit_on_grid, grid_for, nearest, quantize_groups
from transformer import Transformer
from workbench import wide


@torch.no_grad()
def input_moments(model: Transformer, batches: list[Tensor]) -> dict[str, Tensor]:
    """Mean of x x^T over inputs of each matrix in the blocks, (in, in) by name; batches are ids (B, T)."""
    moments: dict[str, Tensor] = {}

    def watch(name):
        def hook(_, inputs, __):
            x = inputs[0].flatten(0, -2).float()                                    # (B * T, in)
            moments[name] = moments.get(name, 0) + x.T @ x
        return hook

    hooks = [m.register_forward_hook(watch(name))
             for name, m in model.named_modules() if name.endswith("_proj")]
    try:
        for ids in batches:
            model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    n_tokens = sum(ids.numel() for ids in batches)
    return {name: moment / n_tokens for name, moment in moments.items()}


def quantize_compensated(weight: Tensor, moment: Tensor, bits: int = 4, group: int = GROUP,
                         damping: float = 0.01) -> tuple[Tensor, Scales]:
    """Same result type as quantize_matrix: integers (rows, n) int8 and scales as they are stored.

    With U the upper Cholesky factor of the inverse of `moment` (n, n), an error e in column j is best
    repaired by subtracting e * U[j, k] / U[j, j] from every later column k. An error includes that of a
    rounded scale.
    """
    rest, n = weight.float().clone(), weight.shape[1]
    least = damping * moment.diagonal().mean().clamp(min=1e-8)
    damped = wide(moment) + least * torch.eye(n, device=weight.device)
    U = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True).to(rest)
    # Repairs change the weights to come, so their scales may come to lie anywhere: a wider grid without a
    # gap.
    grid = grid_for(*quantize_groups(rest, bits, group), margin=2.0, widest=math.inf)
    integers, codes = torch.empty_like(weight, dtype=torch.int8), []
    for j in range(n):
        if j % group == 0:   # a group's scale is chosen when its turn comes, from weights already repaired
            coming = rest[:, j:j + group]
            stored = fit_on_grid(coming, quantize_groups(coming, bits, group)[1], grid, bits)
            codes.append(stored.codes)
        scale = stored.values()                                                     # (rows, 1)
        integers[:, j:j + 1] = nearest(rest[:, j:j + 1], scale, bits)
        error = (rest[:, j:j + 1] - integers[:, j:j + 1] * scale) / U[j, j]
        rest[:, j + 1:] -= error * U[j, j + 1:]
    return integers, Scales(torch.cat(codes, dim=1), grid)


def compensated(model: Transformer, *sources: list[Tensor]) -> Rounding:
    """The rounding for quantize_model, calibrated on sources (batches of ids each) that count alike."""
    first, *others = [input_moments(model, batches) for batches in sources]
    return lambda name, weight: quantize_compensated(weight, sum((m[name] for m in others), first[name]))
