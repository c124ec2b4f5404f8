"""Eight bits where four cost most: measure what the rounding of each matrix does, widen the worst few.

Adds to quantize.py that matrices are not alike: here some of the first layer, whose errors every later layer
sees, do more damage than others. llama.cpp's mixed formats (the "M" in Q4_K_M) give more bits by a rule of
thumb; here it is measured, as in Dong et al. 2019 (HAWQ), though with the divergence itself, not a Hessian.

    python 08_inference/run.py             prints which it chose, and what that costs
"""
from typing import Any

import torch
from torch import Tensor

from quantize import QuantizedWeight, quantize_matrix
from scale_tuning import divergence
from transformer import Transformer


def give_bits(small: Transformer, model: Transformer, name: str, bits: int = 8) -> QuantizedWeight:
    """Give one matrix of `small`, made from `model`, `bits` bits in place; what stood there before."""
    layer: Any = model.get_submodule(name)
    before: Any = small.get_submodule(name)
    parent, child = name.rsplit(".", 1)
    wide = QuantizedWeight(*quantize_matrix(layer.weight.detach(), bits), bits, is_table=False,
                           bias=getattr(layer, "bias", None))
    setattr(small.get_submodule(parent), child, wide)
    return before


@torch.no_grad()
def gains(small: Transformer, model: Transformer, batches: list[Tensor]) -> dict[str, float]:
    """By how many nats a token the divergence from `model` falls when one matrix of 4 bits alone gets 8.

    By name; batches are ids (B, T) each and count alike.
    """
    wanted = [model(ids) for ids in batches]

    def apart() -> float:
        return sum(divergence(w, small(ids)).item() for w, ids in zip(wanted, batches)) / len(batches)

    all_four, found = apart(), {}
    for name, layer in list(small.named_modules()):
        if isinstance(layer, QuantizedWeight) and layer.bits == 4:
            before, (parent, child) = give_bits(small, model, name), name.rsplit(".", 1)
            found[name] = all_four - apart()
            setattr(small.get_submodule(parent), child, before)
    return found


def widen_worst(small: Transformer, model: Transformer, batches: list[Tensor], n: int) -> list[str]:
    """Give 8 bits, in place, to the `n` matrices that gain most a weight; their names, the worst first."""
    gain = gains(small, model, batches) if n else {}
    size = {name: model.get_parameter(f"{name}.weight").numel() for name in gain}
    worst = sorted(gain, key=lambda name: -gain[name] / size[name])[:n]
    for name in worst:
        give_bits(small, model, name)
    return worst
