"""Repair by distillation: the integers stay, scales and norms learn to predict what the big model does.

gptq.py repairs one layer at a time. What is left adds up over the layers and flips an answer here and there;
training the few numbers that are not integers (one in 17) against the whole model's output brings its
predictions closer. Distillation: Hinton et al. 2015, "Distilling the knowledge in a neural network". Training
scales: Esser et al. 2020, "LSQ".

    python 08_inference/run.py --tuning 100     prints perplexity, facts and sums without and with it
"""
import torch
from torch import Tensor, nn

from adamw import AdamW
from quantize import QuantizedWeight, Scales, dequantize, grid_for, nearest, on_grid
from schedule import constant_then_decay
from transformer import Transformer
from workbench import Progress


class TrainableScales(nn.Module):
    """A QuantizedWeight while its scales are being trained: the integers unpacked, the scales float32."""
    integers: Tensor
    bias: Tensor | None

    def __init__(self, quantized: QuantizedWeight):
        super().__init__()
        self.bits = quantized.bits
        self.register_buffer("integers", quantized.integers)
        self.register_buffer("bias", quantized.bias)
        self.scales = nn.Parameter(Scales(quantized.scales, quantized.scale_grid).values())

    def forward(self, x: Tensor) -> Tensor:
        """x W^T (+ b), with a gradient to the scales."""
        out = x @ dequantize(self.integers, self.scales).to(x.dtype).T
        return out if self.bias is None else out + self.bias

    def rounded(self) -> QuantizedWeight:
        """The weight as it will be stored: scales above 0 and on a grid, integers for these scales."""
        scales = self.scales.detach().clamp(min=1e-6)
        stored = on_grid(scales, grid_for(self.integers, scales))
        integers = nearest(dequantize(self.integers, scales), stored.values(), self.bits)
        return QuantizedWeight(integers, stored, self.bits, is_table=False, bias=self.bias)


def swap(model: Transformer, old: type, new) -> None:
    """Put new(layer) in the place of every layer of the class `old` inside the blocks."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, old) and name.endswith("_proj"):
            parent, child = name.rsplit(".", 1)
            setattr(model.get_submodule(parent), child, new(layer))


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over tokens of KL(teacher || student) in nats, from logits (B, T, V)."""
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    # 0 log 0 is 0, not 0 times infinity
    return (p.exp() * (p.clamp(min=torch.finfo(p.dtype).min) - q)).sum(-1).mean()


def random_batches(rows: list[Tensor], n: int, size: int) -> list[Tensor]:
    """`n` batches (size, T) drawn from rows, a tensor (B, T) for each T; every row is equally likely."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([float(len(same)) for same in rows])
    drawn = []
    for _ in range(n):
        same = rows[int(torch.multinomial(weights, 1, generator=generator))]
        drawn.append(same[torch.randint(len(same), (size,), generator=generator)])
    return drawn


def tune_scales(small: Transformer, model: Transformer, *sources: list[Tensor], lr: float = 1e-4,
                norm_lr: float = 3e-4) -> None:
    """Train the scales and norms of `small` in place to predict what `model` predicts.

    sources are lists of batches of ids (B, T), equally long: a step takes the next batch of each.
    """
    swap(small, QuantizedWeight, TrainableScales)
    scales = [p for name, p in small.named_parameters() if name.endswith("scales")]
    norms = [p for name, p in small.named_parameters() if "norm" in name]
    for p in norms:
        p.requires_grad_()
    optimizers, steps = (AdamW(scales, lr), AdamW(norms, norm_lr)), len(sources[0])
    progress = Progress("scales", steps)
    for step, batches in enumerate(zip(*sources, strict=True)):
        loss = torch.zeros(())
        for ids in batches:
            with torch.no_grad():
                wanted = model(ids)
            loss = loss + divergence(wanted, small(ids))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step(constant_then_decay(step, steps, n_warmup=0))
            for p in optimizer.parameters:
                p.grad = None
        progress.update(step + 1, f"divergence {loss.item():.4f}")
    small.requires_grad_(False)
    swap(small, TrainableScales, TrainableScales.rounded)
