"""A quantized model that multiplies by its packed weights, so that four bits are also faster than float32.

Adds to quantize.py, whose matrices are unpacked to float32 at every use, the product of
csrc/packed_product.cpp for few rows at a time: decoding. Where many rows share the work of unpacking (reading
a prompt), unpacking and torch's product remain. Of the embedding, only rows that are looked up are unpacked.

    python 08_inference/bench_inference.py     times it beside float32, at this model's size and at 57M
"""
import copy

import torch
from torch import Tensor, nn

from packed_product import packed_product, product_torch, unpack
from quantize import GROUP, QuantizedWeight, Scales, dequantize
from transformer import Transformer

MOST_ROWS = 16   # above, unpacking once pays at this model's size; much larger matrices could go further


class PackedWeight(nn.Module):
    """Does what a QuantizedWeight with groups of 16 does, without unpacking it for few rows."""
    packed: Tensor          # (rows, n bits / 8)
    scales: Tensor          # (rows, n / 16) uint8
    table: Tensor           # (256,)
    bias: Tensor | None

    def __init__(self, q: QuantizedWeight):
        super().__init__()
        self.bits, self.is_table = 4 if q.bits == 4 else 8, q.is_table   # 3 and 2 bits are kept in bytes
        if q.packed.shape[1] * 8 // self.bits != q.scales.shape[1] * GROUP:
            raise ValueError(f"only groups of {GROUP} weights that share a scale can be multiplied packed")
        every_code = torch.arange(256, device=q.scales.device)
        self.register_buffer("packed", q.packed)
        self.register_buffer("scales", q.scales)
        self.register_buffer("table", Scales(every_code, q.scale_grid).values())
        self.register_buffer("bias", q.bias)

    @property
    def weight(self) -> Tensor:
        """The whole weight, (out, in) float32, for layers that do more than multiply by it."""
        return dequantize(unpack(self.packed, self.bits), self.table[self.scales.long()])

    def product(self, x: Tensor) -> Tensor:
        """x (..., n) W^T: (..., rows)."""
        how = packed_product if x.numel() <= MOST_ROWS * x.shape[-1] else product_torch
        return how(x, self.packed, self.scales, self.table, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer it stands for does: x W^T (+ b), or rows of W for ids x."""
        if self.is_table:
            integers = unpack(self.packed[x.flatten()], self.bits)                  # (ids, n)
            scales = self.table[self.scales[x.flatten()].long()]                    # (ids, n / 16)
            return dequantize(integers, scales).unflatten(0, x.shape)               # (..., n)
        out = self.product(x)
        return out if self.bias is None else out + self.bias.to(x.dtype)


class PackedTransformer(Transformer):
    """A quantized model (quantize_model) with its weights as they are, multiplied packed."""

    def __init__(self, quantized: Transformer):
        nn.Module.__init__(self)                     # not Transformer's, which would make float32 weights
        self.config, self.lm_head, self.softcap = quantized.config, quantized.lm_head, quantized.softcap
        self.model = copy.deepcopy(quantized.model)
        for name, layer in list(self.model.named_modules()):
            if isinstance(layer, QuantizedWeight):
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, PackedWeight(layer))

    def unembed(self, x: Tensor) -> Tensor:
        """(..., C) to logits (..., V); the embedding is the output layer if they are tied."""
        table = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return self.softcap(table.product(x)) if isinstance(table, PackedWeight) else super().unembed(x)
