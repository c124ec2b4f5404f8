"""Activation-aware rounding: spend the precision on the columns whose inputs are large.

Adds to quantize.py a number for each column of W. W x = (W s) (x / s): a column that is multiplied by s > 1
before it is rounded keeps its sign of importance in the group's levels, and its error is divided by s after.
s = size ** alpha, where size is the root mean square of the column's inputs on calibration text; the best of
eleven alphas is taken. Lin et al. 2023, "AWQ". gptq.py changes the weights that are left instead.

    python 08_inference/scorecard.py --out out     compares the two with plain rounding at 4, 3 and 2 bits
"""
from typing import Any

import torch
from torch import Tensor

from quantize import Scales, dequantize, quantize_matrix


def output_error(change: Tensor, moment: Tensor) -> Tensor:
    """The mean square of `change` x, summed over rows, for inputs with this mean of x x^T: tr(E M E^T)."""
    return ((change @ moment) * change).sum()


def quantize_aware(weight: Tensor, moment: Tensor, bits: int) -> tuple[Tensor, Scales, Tensor]:
    """Integers (rows, n), scales as they are stored, and the columns' numbers s (n,): W is about Q / s.

    `moment` (n, n) is the mean of x x^T over the inputs. alpha = 0 is plain rounding, so the error in what
    the layer outputs is never larger than that of quantize_matrix.
    """
    size = moment.diagonal().clamp(min=1e-12).sqrt()
    size = size / size.log().mean().exp()                    # (n,), of geometric mean 1
    best: Any = None
    best_error = torch.tensor(float("inf"))
    for alpha in torch.linspace(0, 1, 11).tolist():
        s = size ** alpha
        integers, scales = quantize_matrix(weight * s, bits)
        error = output_error(dequantize(integers, scales.values()) / s - weight, moment)
        if error < best_error:
            best, best_error = (integers, scales, s), error
    return best
