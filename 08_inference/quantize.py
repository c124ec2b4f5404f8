"""Four bits a weight: round each group of 16 weights to 16 levels and pack two of them into a byte.

Group-wise rounding to nearest, with the scale of each group chosen for the least squared error. Scales are rounded too,
to 8 bits ("double quantization": Dettmers et al. 2023, QLoRA, section 3), so that a matrix costs 4 + 8 / 16 = 4.5 bits a
weight. The embedding, which is also the output layer, keeps 8 bits. gptq.py rounds with more care.

    python 08_inference/run.py             writes out/08_inference/model.int4.pt and measures what it costs
"""
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from checkpoint import read, write
from transformer import Config, Transformer

GROUP = 16
Rounding = Callable[[str, Tensor], tuple[Tensor, Tensor]]


def quantize_groups(weight: Tensor, bits: int, group: int = GROUP) -> tuple[Tensor, Tensor]:
    """weight (rows, n) to integers (rows, n) int8 and scales (rows, n / group) float16; weight is about integer * scale.

    The largest weight of a group need not be kept exactly: a smaller scale clips it but rounds the others more finely,
    so eight scales are tried. Raises ValueError if n is not a multiple of `group`.
    """
    rows, n = weight.shape
    if n % group:
        raise ValueError(f"a row of {n} weights does not divide into groups of {group}: choose a group size that divides {n}")
    # EXERCISE 8.8 group int4
    top = 2 ** (bits - 1) - 1                                                       # 7 for four bits
    w = weight.reshape(rows, n // group, group)
    largest = w.abs().amax(-1, keepdim=True).clamp(min=1e-4)                        # (rows, groups, 1); 1e-4 fits float16
    best, best_error = largest, torch.full_like(largest, float("inf"))
    for shrink in torch.linspace(1.0, 0.65, 8).tolist():
        scale = (largest * shrink / top).half().to(w)                               # as it is returned
        error = ((w / scale).round().clamp(-top - 1, top) * scale - w).square().sum(-1, keepdim=True)
        best, best_error = torch.where(error < best_error, scale, best), error.minimum(best_error)
    integers = (w / best).round().clamp(-top - 1, top)
    return integers.reshape(rows, n).to(torch.int8), best[..., 0].half()
    # END EXERCISE 8.8


def pack_nibbles(integers: Tensor) -> Tensor:
    """Two integers from -8 to 7 in one byte, the even column in the low half. (rows, n) int8 to (rows, n / 2) uint8."""
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


def round_scales(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (rows, groups) as whole multiples, 1 to 255, of one number: (rows, groups) uint8 and that number, float32."""
    step = scales.float().amax() / 255
    return (scales.float() / step).round().clamp(1, 255).to(torch.uint8), step


class QuantizedWeight(nn.Module):
    """Stands in for a Linear or an Embedding: the weight is kept packed and unpacked whenever it is read."""

    def __init__(self, integers: Tensor, scales: Tensor, bits: int, is_table: bool):
        super().__init__()
        self.bits, self.is_table = bits, is_table
        self.register_buffer("packed", pack_nibbles(integers) if bits == 4 else integers)
        multiples, step = round_scales(scales)
        self.register_buffer("scales", multiples)
        self.register_buffer("scale_step", step)

    @property
    def weight(self) -> Tensor:
        """The weight as the layer uses it, (out, in)."""
        integers = unpack_nibbles(self.packed) if self.bits == 4 else self.packed
        return dequantize(integers, self.scales * self.scale_step)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer it stands for does: x W^T, or rows of W."""
        return self.weight[x] if self.is_table else x @ self.weight.T


def quantize_model(model: Transformer, table_bits: int = 8, rounding: Rounding | None = None) -> Transformer:
    """A copy with 4-bit matrices and an embedding of `table_bits`; norms stay as they are.

    `rounding(name, weight)` gives the integers and scales of one matrix: quantize_groups, or gptq.compensated.
    """
    small = copy.deepcopy(model).requires_grad_(False)
    for name, layer in list(small.named_modules()):
        if name.endswith("_proj"):
            rounded = rounding(name, layer.weight) if rounding else quantize_groups(layer.weight, 4)
            parent, child = name.rsplit(".", 1)
            setattr(small.get_submodule(parent), child, QuantizedWeight(*rounded, 4, is_table=False))
    table = small.model.embed_tokens.weight
    small.model.embed_tokens = QuantizedWeight(*quantize_groups(table, table_bits), table_bits, is_table=True)
    return small


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all weights as they are stored; tables that can be computed again do not count."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def save_quantized(path: Path | str, model: Transformer) -> None:
    """Write a quantized model, atomically."""
    table_bits = model.model.embed_tokens.bits
    write(path, {"config": vars(model.config), "table_bits": table_bits, "weights": model.state_dict()})


def load_quantized(path: Path | str) -> Transformer:
    """The model that save_quantized wrote. Raises FileNotFoundError or ValueError."""
    saved = read(path)
    if "table_bits" not in saved:
        raise ValueError(f"{path} is not a quantized model: run `make 08`")
    model = quantize_model(Transformer(Config(**saved["config"])), saved["table_bits"])
    model.load_state_dict(saved["weights"])
    return model
