"""Rounding that repairs its own errors: GPTQ, with the loss measured in what the layer outputs, not in the weights.

Adds to quantize.quantize_groups a look at the inputs x of each layer on calibration text. Columns are rounded one by
one, and the error of each is spread over the columns still to come so that W x changes least.
Frantar et al. 2023, "GPTQ" (algorithm 1, without its blocking); the idea is Hassibi and Stork 1993, "Optimal brain surgeon".

    python 08_inference/run.py             halves the rise in perplexity with it (both rows are printed)
"""
import torch
from torch import Tensor

from quantize import GROUP, Rounding, quantize_groups
from transformer import Transformer


@torch.no_grad()
def input_moments(model: Transformer, batches: list[Tensor]) -> dict[str, Tensor]:
    """Mean of x x^T over all inputs x of each matrix in the blocks, (in, in), by name, on batches of ids (B, T)."""
    moments: dict[str, Tensor] = {}

    def watch(name):
        def hook(_, inputs, __):
            x = inputs[0].flatten(0, -2)                                            # (B * T, in)
            moments[name] = moments.get(name, 0) + x.T @ x
        return hook

    hooks = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name.endswith("_proj")]
    try:
        for ids in batches:
            model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    n_tokens = sum(ids.numel() for ids in batches)
    return {name: moment / n_tokens for name, moment in moments.items()}


def quantize_compensated(weight: Tensor, moment: Tensor, bits: int = 4, group: int = GROUP,
                         damping: float = 0.01) -> tuple[Tensor, Tensor]:
    """Same result type as quantize_groups: integers (rows, n) int8 and scales (rows, n / group) float16.

    With U the upper Cholesky factor of the inverse of `moment` (n, n), an error e in column j is best repaired by
    subtracting e * U[j, k] / U[j, j] from every later column k.
    """
    rest, n = weight.clone(), weight.shape[1]
    top = 2 ** (bits - 1) - 1
    damped = moment + damping * moment.diagonal().mean().clamp(min=1e-8) * torch.eye(n, device=weight.device)
    U = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    integers, scales = torch.empty_like(weight, dtype=torch.int8), []
    for j in range(n):
        if j % group == 0:   # the scale of a group is chosen when its turn comes, from weights already repaired
            scales.append(quantize_groups(rest[:, j:j + group], bits, group)[1])
        scale = scales[-1].to(weight)[:, 0]                                         # (rows,)
        integers[:, j] = (rest[:, j] / scale).round().clamp(-top - 1, top)
        error = (rest[:, j] - integers[:, j] * scale) / U[j, j]
        rest[:, j + 1:] -= error[:, None] * U[j, j + 1:]
    return integers, torch.cat(scales, dim=1)


def compensated(model: Transformer, *sources: list[Tensor]) -> Rounding:
    """The rounding to hand to quantize_model, calibrated on sources (batches of ids each) that count alike."""
    moments = [input_moments(model, batches) for batches in sources]
    return lambda name, weight: quantize_compensated(weight, sum(m[name] for m in moments))
