"""Half the bits a number, by hand: bf16 and fp16 for the work, float32 for what must not be lost.

A tensor core multiplies 16-bit matrices many times as fast as 32-bit ones, and half the bytes move. What
stays in float32, and why:
- the weights that the optimizer keeps ("master weights"): a step of 1e-3 of a weight is below the last bit of
  bf16 (8 significant bits), so it would round to nothing. `Linear` casts a matrix where it is used; its
  gradient comes back as float32, because that is the derivative of a cast;
- sums over many numbers (the mean square of a norm, softmax, the loss): 256 + 1 is 256 in bf16;
- RoPE's angles: a position of 1,001 is no bf16 number.
bf16 has the range of float32. fp16 has more digits but ends at 65,504 and loses what is below 6e-8: gradients
are often smaller, so the loss is multiplied by a large factor first and the gradients divided by it later
(Micikevicius et al. 2018, section 3.2). When the factor was too large the gradients overflow: skip the step
and halve the factor.

    python 03_training/precision.py        what each format holds, how fast it is here, what fp16 loses
"""
import time
from collections.abc import Iterable

try:
    from workbench import pick_device, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor, nn

from attention import attend, softmax
from transformer import Transformer

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def attend_in_float32(q: Tensor, k: Tensor, v: Tensor, *rest) -> Tensor:
    """attention.attend with its sums in float32, for inputs of any format; returns the format of q."""
    return attend(q.float(), k.float(), v.float(), *rest).to(q.dtype)


def use_precision(model: Transformer, name: str) -> None:
    """Compute in "fp32", "bf16" or "fp16" from here on; weights stay float32. ValueError for another name."""
    if name not in FORMATS:
        raise ValueError(f"precision {name!r} is unknown: choose one of auto, {', '.join(FORMATS)}")
    model.model.compute_dtype = FORMATS[name]
    for layer in model.model.layers:
        layer.self_attn.attend = attend if name == "fp32" else attend_in_float32


def speeds(device: torch.device, size: int = 512) -> dict[str, float]:
    """How many times as fast as in float32 two (size, size) matrices are multiplied, the best of several.

    Measured, because it cannot be foreseen: the same processor family has units for bf16 or does without,
    and then torch converts number by number. Where the device refuses a format the answer is 0.
    """
    seconds = {}
    for name, dtype in FORMATS.items():
        try:
            a = torch.randn(size, size, device=device).to(dtype)
            times = []
            for _ in range(4 if device.type == "cpu" else 30):
                begin = time.perf_counter()
                float((a @ a)[0, 0])   # reading a number waits for the device
                times.append(time.perf_counter() - begin)
            seconds[name] = min(times)
        except RuntimeError:
            seconds[name] = float("inf")
    return {name: seconds["fp32"] / s for name, s in seconds.items()}


def choose_precision(name: str, device: torch.device) -> str:
    """The format to train in. "auto" is bf16 if this machine is at least 1.2 times as fast in it, else fp32.

    A format that is asked for by name is taken, with a word if it is slower here.
    """
    if name == "fp32" or name not in ("auto", *FORMATS):
        return name   # use_precision refuses what it does not know
    gain = speeds(device)["bf16" if name == "auto" else name]
    if name == "auto":
        return "bf16" if gain >= 1.2 else "fp32"
    if gain < 1:
        print(f"  {name} runs at {gain:.2g} times the speed of fp32 here: it will be slower", flush=True)
    return name


class LossScaler:
    """The factor that keeps fp16 gradients in range: halved when they overflow, doubled after a quiet time.

    `factor` is at most 2^24 and at least 1: a gradient that overflows at 1 is a real one, and clipping says
    so.
    """

    def __init__(self, factor: float = 2.0**15, quiet: int = 1000):
        self.factor, self.quiet = factor, quiet
        self.since = 0     # good steps since the last change
        self.skipped = 0   # steps that were not taken

    def unscale(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Divide the gradients by the factor. False if one is not finite: then this step must not be taken.

        This looks at a number and so waits for the device, once a step; bf16 needs none of it.
        """
        grads = [p.grad for p in parameters if p.grad is not None]
        finite = all(bool(torch.isfinite(g).all()) for g in grads)
        if finite:
            for g in grads:
                g.div_(self.factor)
        self.update(finite)
        return finite

    def update(self, finite: bool) -> None:
        """Halve the factor after an overflow, double it after `quiet` good steps in a row, count skips."""
        # EXERCISE 3.14 loss scaling
        if not finite:
            self.factor, self.since = max(self.factor / 2, 1.0), 0
            self.skipped += 1
            return
        self.since += 1
        if self.since == self.quiet:
            self.factor, self.since = min(self.factor * 2, 2.0**24), 0
        # END EXERCISE 3.14

    def state_dict(self) -> dict:
        """Everything that a continued run needs."""
        return {"factor": self.factor, "since": self.since, "skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        """Take over a saved state."""
        self.factor, self.since, self.skipped = state["factor"], state["since"], state["skipped"]


def lost_gradients(factors: Iterable[float]) -> dict[float, tuple[float, float]]:
    """For each factor: the shares of the logits' gradient that fp16 rounds to zero, and that overflow.

    The gradient is that of GPT-2 small's batch, 16 x 1,024 tokens and 50,304 words: (softmax - one at the
    target) / N. A fresh model gives each wrong word about 1 / V, so most entries are near 1 / (V N) =
    1.2e-9.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 50_304, generator=generator)   # 64 of the 16,384 rows are enough
    d = softmax(logits)
    d[:, 0] -= 1
    halves = {f: (d / (16 * 1024) * f).half() for f in factors}
    return {f: ((h == 0).float().mean().item(), (~h.isfinite()).float().mean().item())
            for f, h in halves.items()}


def main() -> None:
    """The three tables."""
    device = pick_device()
    gain = speeds(device)
    print(f"on {device}:      largest   smallest   1 + x > 1 from   speed of a product (fp32 = 1)")
    for name, dtype in FORMATS.items():
        info = torch.finfo(dtype)
        smallest = info.smallest_normal * (info.eps if name == "fp16" else 1)   # fp16 uses subnormal numbers
        print(f"  {name}   {info.max:>12.3g} {smallest:>10.2g} {info.eps / 2:>16.2g} {gain[name]:>16.2f}")
    print("gradient of the logits at GPT-2 small's batch, in fp16:")
    for factor, (zero, over) in lost_gradients((1.0, 2.0**8, 2.0**15, 2.0**32)).items():
        print(f"  loss times {factor:>13,.0f}: {zero:>6.1%} become zero, {over:.3%} overflow")


if __name__ == "__main__":
    run_main(main)
