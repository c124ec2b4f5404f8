"""Four bits a weight: round each group of 16 weights to 16 levels and pack two of them into a byte.

Group-wise rounding to nearest, with the scale of each group chosen for the least squared error. Scales are
rounded too, to 8 bits ("double quantization": Dettmers et al. 2023, QLoRA, section 3), so that a matrix costs
4 + 8 / 16 = 4.5 bits a weight. They are rounded on a logarithmic grid, and before the integers are chosen: on
equal steps from 0 one outlier would make all other scales of its matrix coarse. The embedding, which is also
the output layer, keeps 8 bits. gptq.py rounds with more care.

    python 08_inference/run.py             writes out/08_inference/model.int4.pt and measures what it costs
"""
import copy
import math
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from checkpoint import read, write
from transformer import Config, Transformer

GROUP = 16


def quantize_groups(weight: Tensor, bits: int, group: int = GROUP) -> tuple[Tensor, Tensor]:
    """weight (rows, n) to integers (rows, n) int8 and scales (rows, n / group) float32: about their product.

    The largest weight of a group need not be kept exactly: a smaller scale clips it but rounds the others
    more finely, so eight scales are tried. Raises ValueError if n is not a multiple of `group`, for other
    than 2 to 8 bits, and for weights that are not finite.
    """
    rows, n = weight.shape
    if n % group:
        raise ValueError(f"a row of {n} weights does not divide into groups of {group}: choose a group size "
                         f"that divides {n}")
    if not 2 <= bits <= 8:
        raise ValueError(f"integers of {bits} bits: choose 2 to 8, which fit a byte")
    if not weight.isfinite().all():
        raise ValueError("a weight is infinite or not a number: this model has diverged and cannot be "
                         "rounded")
    # EXERCISE 8.8 group int4
    top = 2 ** (bits - 1) - 1                                                  # 7 for four bits
    w = weight.reshape(rows, n // group, group)
    largest = w.abs().amax(-1, keepdim=True).clamp(min=1e-4)           # (rows, groups, 1); 0 / 0 is no number
    best, best_error = largest, torch.full_like(largest, float("inf"))
    for shrink in torch.linspace(1.0, 0.65, 8).tolist():
        scale = largest * shrink / top
        error = ((w / scale).round().clamp(-top - 1, top) * scale - w).square().sum(-1, keepdim=True)
        best, best_error = torch.where(error < best_error, scale, best), error.minimum(best_error)
    integers = (w / best).round().clamp(-top - 1, top)
    return integers.reshape(rows, n).to(torch.int8), best[..., 0].float()
    # END EXERCISE 8.8


def pack_nibbles(integers: Tensor) -> Tensor:
    """Integers -8 to 7, (rows, n) int8, two a byte, the even column in the low half: (rows, n / 2) uint8."""
    # EXERCISE 8.3 two weights in a byte
    unsigned = (integers + 8).to(torch.uint8)
    return unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    # END EXERCISE 8.3


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The inverse of pack_nibbles: (rows, n / 2) uint8 to (rows, n) int8."""
    # EXERCISE 8.4 two weights from a byte
    pairs = torch.stack((packed & 15, packed >> 4), dim=-1)                         # (rows, n / 2, 2)
    return pairs.flatten(1).to(torch.int8) - 8
    # END EXERCISE 8.4


def dequantize(integers: Tensor, scales: Tensor) -> Tensor:
    """Integers (rows, n) and scales (rows, n / group) back to float32 weights (rows, n)."""
    # EXERCISE 8.2 integers to weights
    group = integers.shape[1] // scales.shape[1]
    return integers.float() * scales.float().repeat_interleave(group, dim=1)
    # END EXERCISE 8.2


class Scales(NamedTuple):
    """Scales as they are stored, a byte each, on a logarithmic grid.

    A code stands for 2 ** (first + step * code), and from the code `behind` on for 2 ** gap times that.
    """
    codes: Tensor   # (rows, groups) uint8
    grid: Tensor    # (4,) float32: first, step, behind, gap

    def values(self) -> Tensor:
        """(rows, groups) float32."""
        first, step, behind, gap = self.grid
        return torch.exp2(first + step * self.codes + gap * (self.codes >= behind))


def grid_for(integers: Tensor, scales: Tensor, margin: float = 1.0, widest: float = 2.0) -> Tensor:
    """The grid from the smallest to the largest of scales (rows, groups), `margin` times wider at both ends.

    Equal steps of the logarithm: each scale is rounded by the same share, however large the largest is. The
    widest stretch without any scale gets no places if it is more than `widest` powers of 2, as beside an
    outlier's. A group whose integers (rows, n) are all zero is right with any scale and does not count.
    """
    used = scales[integers.unflatten(1, (scales.shape[1], -1)).any(-1)]
    exponents = (used if len(used) else scales.flatten()).double().log2().sort().values
    first, last = exponents[0].item() - math.log2(margin), exponents[-1].item() + math.log2(margin)
    gaps = exponents.diff()
    if not len(gaps) or gaps.max() <= widest:
        return torch.tensor([first, (last - first) / 255, 256, 0], device=scales.device)
    low, high = exponents[gaps.argmax():][:2].tolist()       # the scales on both sides of the gap
    step = max((low - first + last - high) / 253, 1e-6)
    behind = math.ceil((low - first) / step) + 1
    return torch.tensor([first, step, behind, high - first - step * behind], device=scales.device)


def on_grid(scales: Tensor, grid: Tensor) -> Scales:
    """Each of the scales (rows, groups) > 0 at its nearest place of the grid."""
    places = Scales(torch.arange(256, device=grid.device), grid).values().log2()
    return Scales(torch.bucketize(scales.log2(), (places[1:] + places[:-1]) / 2).to(torch.uint8), grid)


def nearest(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The integers (rows, n) int8 nearest to weight (rows, n) with scales (rows, groups) as they are kept."""
    top, group = 2 ** (bits - 1) - 1, weight.shape[1] // scales.shape[1]
    return (weight / scales.repeat_interleave(group, dim=1)).round().clamp(-top - 1, top).to(torch.int8)


def fit_on_grid(weight: Tensor, scales: Tensor, grid: Tensor, bits: int) -> Scales:
    """Each scale at that neighbour on the grid with which its group of weight (rows, n) errs less.

    Downwards the largest weight may be clipped, upwards all are rounded more coarsely.
    """
    step = grid[1] / 2
    tried = [on_grid(scales * torch.exp2(side * step), grid) for side in (-1, 1)]
    errors = [(dequantize(nearest(weight, s.values(), bits), s.values()) - weight).square()
              .unflatten(1, (scales.shape[1], -1)).sum(-1) for s in tried]
    return Scales(torch.where(errors[0] < errors[1], tried[0].codes, tried[1].codes), grid)


def quantize_matrix(weight: Tensor, bits: int) -> tuple[Tensor, Scales]:
    """quantize_groups, then the scales rounded to a byte, then the integers for these scales."""
    integers, scales = quantize_groups(weight, bits)
    stored = fit_on_grid(weight, scales, grid_for(integers, scales), bits)
    return nearest(weight, stored.values(), bits), stored


Rounding = Callable[[str, Tensor], tuple[Tensor, Scales]]


class QuantizedWeight(nn.Module):
    """Stands in for a Linear or an Embedding: the weight is kept packed and unpacked whenever it is read."""
    packed: Tensor
    scales: Tensor
    scale_grid: Tensor
    bias: Tensor | None

    def __init__(self, integers: Tensor, scales: Scales, bits: int, is_table: bool,
                 bias: Tensor | None = None):
        super().__init__()
        self.bits, self.is_table = bits, is_table
        self.register_buffer("packed", pack_nibbles(integers) if bits == 4 else integers)
        self.register_buffer("scales", scales.codes)
        self.register_buffer("scale_grid", scales.grid)
        self.register_buffer("bias", bias)

    @property
    def integers(self) -> Tensor:
        """(out, in) int8."""
        return unpack_nibbles(self.packed) if self.bits == 4 else self.packed

    @property
    def weight(self) -> Tensor:
        """The weight as the layer uses it, (out, in) float32."""
        return dequantize(self.integers, Scales(self.scales, self.scale_grid).values())

    def forward(self, x: Tensor) -> Tensor:
        """What the layer it stands for does: x W^T (+ b) in the format of x, or rows of W."""
        if self.is_table:
            return self.weight[x]
        out = x @ self.weight.to(x.dtype).T
        return out if self.bias is None else out + self.bias.to(x.dtype)


def quantize_model(model: Transformer, table_bits: int = 8, rounding: Rounding | None = None,
                   wide: Collection[str] = ()) -> Transformer:
    """A copy with 4-bit matrices and an embedding of `table_bits`, 8 or 4; norms stay as they are.

    `rounding(name, weight)` gives the integers and scales of one matrix: quantize_matrix, or
    gptq.compensated. Matrices whose names are in `wide` get 8 bits (mixed_bits.py).
    """
    if table_bits not in (4, 8):
        raise ValueError(f"an embedding of {table_bits} bits: choose 8 or 4")
    small = copy.deepcopy(model).requires_grad_(False)
    layer: Any
    for name, layer in list(small.named_modules()):
        if name.endswith("_proj"):
            bits = 8 if name in wide else 4
            if rounding and bits == 4:
                rounded = rounding(name, layer.weight)
            else:
                rounded = quantize_matrix(layer.weight, bits)
            parent, child = name.rsplit(".", 1)
            whole = QuantizedWeight(*rounded, bits, is_table=False, bias=getattr(layer, "bias", None))
            setattr(small.get_submodule(parent), child, whole)
    table = small.model.embed_tokens.weight
    small.model.embed_tokens = QuantizedWeight(*quantize_matrix(table, table_bits), table_bits, is_table=True)
    return small


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all weights as they are stored; tables that can be computed again do not count."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def save_quantized(path: Path | str, model: Transformer) -> None:
    """Write a quantized model, atomically."""
    table_bits = model.model.embed_tokens.bits
    write(path, {"config": asdict(model.config), "table_bits": table_bits, "weights": model.state_dict()})


def load_quantized(path: Path | str) -> Transformer:
    """The model that save_quantized wrote. Raises FileNotFoundError or ValueError."""
    saved = read(path)
    try:
        # packed nibbles are unsigned, eight bits are not
        wide = {name.removesuffix(".packed") for name, t in saved["weights"].items()
                if name.endswith("_proj.packed") and t.dtype == torch.int8}
        model = quantize_model(Transformer(Config(**saved["config"])), saved["table_bits"], wide=wide)
        model.load_state_dict(saved["weights"])
    except NotImplementedError:   # an exercise that is still blank
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):   # of another model or code
        raise ValueError(f"{path} is not a quantized model of this code: run `make 08`") from None
    return model
