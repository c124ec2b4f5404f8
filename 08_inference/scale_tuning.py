"""Repair by distillation: the integers stay, but scales and norms learn to give the big model's predictions again.

gptq.py repairs one layer at a time. What is left adds up over the layers and flips an answer here and there; training the
few numbers that are not integers (one in 17) against the whole model's output takes most of that back.
Distillation: Hinton et al. 2015, "Distilling the knowledge in a neural network". Training scales: Esser et al. 2020, "LSQ".

    python 08_inference/run.py             prints how often the answers change, without and with it
"""
import torch
from torch import Tensor, nn

from adamw import AdamW
from quantize import QuantizedWeight, dequantize, unpack_nibbles
from schedule import constant_then_decay
from transformer import Transformer
from workbench import Progress


class TrainableScales(nn.Module):
    """A QuantizedWeight of 4 bits while its scales are being trained: the integers unpacked, the scales float32."""

    def __init__(self, quantized: QuantizedWeight):
        super().__init__()
        self.register_buffer("integers", unpack_nibbles(quantized.packed))
        self.scales = nn.Parameter(quantized.scales * quantized.scale_step)

    def forward(self, x: Tensor) -> Tensor:
        """x W^T, with a gradient to the scales."""
        return x @ dequantize(self.integers, self.scales).T

    def rounded(self) -> QuantizedWeight:
        """The weight as it will be stored. A scale is at least a little above 0."""
        return QuantizedWeight(self.integers, self.scales.detach().clamp(min=1e-6), 4, is_table=False)


def swap(model: Transformer, old: type, new) -> None:
    """Put new(layer) in the place of every layer of the class `old` inside the blocks."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, old) and name.endswith("_proj"):
            parent, child = name.rsplit(".", 1)
            setattr(model.get_submodule(parent), child, new(layer))


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over tokens of KL(teacher || student) in nats, from logits (B, T, V)."""
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def tune_scales(small: Transformer, model: Transformer, *sources: list[Tensor], steps: int = 60, lr: float = 3e-4) -> None:
    """Train the scales and norms of `small` in place to predict what `model` predicts.

    Each of sources is a list of batches of ids (B, T), as for gptq.compensated; a step takes the next batch of each.
    """
    swap(small, QuantizedWeight, TrainableScales)
    parameters = [p.requires_grad_() for name, p in small.named_parameters() if name.endswith("scales") or "norm" in name]
    optimizer, progress = AdamW(parameters, lr), Progress("scales", steps)
    for step in range(steps):
        loss = 0.0
        for batches in sources:
            ids = batches[step % len(batches)]
            with torch.no_grad():
                wanted = model(ids)
            loss = loss + divergence(wanted, small(ids))
        loss.backward()
        optimizer.step(constant_then_decay(step, steps, n_warmup=0))
        for p in parameters:
            p.grad = None
        progress.update(step + 1, f"divergence {loss.item():.4f}")
    small.requires_grad_(False)
    swap(small, TrainableScales, TrainableScales.rounded)
