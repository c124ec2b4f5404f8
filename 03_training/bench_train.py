"""Training speed on the device it finds: plain, the fast path piece by piece, and nanoGPT, in one run.

For each: tokens a second, beside nanoGPT's; MFU against the device's published or measured peak; the most
bytes held; where the time of a step goes. On a GPU the shapes are that of `make` and GPT-2 small's (16 x
1,024 tokens, vocabulary 50,304), on a CPU that of `make` and a wider one. nanoGPT is its own model
(bench_transformer.py) with torch's loss and AdamW, as its train.py runs it: on a GPU in bf16 and compiled,
on a CPU in fp32. "its shape, fast" is that shape built from Config, on our fast path with our optimizers.

    python 03_training/bench_train.py      part of make bench, two minutes on two cores; --quick for one round
"""
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

try:
    from workbench import announce, parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batches import TextBatches
from bench_transformer import NanoGPT
from clipping import clip_gradients
from fast_path import fast_optimizers, fuse_activations, fuse_attention, fuse_norms, loss_on, use_fast_path
from muon import muon_and_adamw
from peak_memory import PeakMemory
from precision import FORMATS, choose_precision
from prefetch import Prefetch
from settings import RunSettings
from transformer import Config, Transformer
from utilization import measured_peak, mfu, published_peak


@dataclass(frozen=True)
class Shape:
    """A model and the batch that it is trained on."""
    name: str
    C: int                # width
    H: int                # heads
    L: int                # layers
    vocabulary: int
    batch: int
    T: int                # tokens a row

    def ours(self) -> Config:
        """Our default architecture at this size."""
        return Config(self.vocabulary, self.C, self.L, self.H, self.H, self.C * 11 // 4, self.T)

    def nanogpt(self) -> Config:
        """nanoGPT's architecture at this size, in our configuration."""
        return Config(self.vocabulary, self.C, self.L, self.H, self.H, 4 * self.C, self.T,
                      positions="learned", norm="layer", activation="gelu", qk_norm=False)


MAKE = Shape("make", 128, 4, 4, 1024, 8, 128)
SHAPES = {"cpu": [MAKE, Shape("wide", 256, 4, 2, 8192, 8, 256)],
          "cuda": [MAKE, Shape("GPT-2 small", 768, 12, 12, 50_304, 16, 1024)]}
PARTS = ("data", "forward", "backward", "clipping", "optimizer")


@dataclass
class Settings(RunSettings):
    """How long to measure."""
    rounds: int = 4         # how often each is timed, all of them in turn; the median counts
    seconds: float = 1.0    # of steps of each in a round, at least one step


@dataclass
class Contestant:
    """One way to train: the parts of its step as functions, and what it needs to be judged."""
    name: str
    model: nn.Module
    config: Config                                # for its arithmetic
    loss_of: Callable[[Tensor, Tensor], Tensor]
    optimizers: list

    def step(self, x: Tensor, y: Tensor, mark: Callable[[str], None] = lambda part: None) -> None:
        """One training step on ids x (B, T) and targets y (B, T); `mark` is called after each part."""
        loss = self.loss_of(x, y)
        mark("forward")
        for p in self.model.parameters():
            p.grad = None
        loss.backward()
        mark("backward")
        clip_gradients(self.model.parameters(), 1.0)
        mark("clipping")
        for optimizer in self.optimizers:
            optimizer.step()
        mark("optimizer")


def our_contestant(name: str, config: Config, device: torch.device, pieces: str,
                   precision: str) -> Contestant:
    """Our model with pieces of the fast path: "all", or the first letters of some.

    The letters are a(ttention), n(orms), f(eed-forward activations), l(oss), o(ptimizers).
    """
    torch.manual_seed(0)
    model = Transformer(config).to(device)
    if pieces == "all":
        precision = use_fast_path(model, precision)
    if "a" in pieces:
        fuse_attention(model)
    if "n" in pieces:
        fuse_norms(model)
    if "f" in pieces:
        fuse_activations(model)
    fast = pieces == "all" or "l" in pieces
    make = fast_optimizers if pieces == "all" or "o" in pieces else muon_and_adamw
    extra = (precision,) if make is fast_optimizers else ()
    return Contestant(name, model, config, lambda x, y: loss_on(model, x, y, fast),
                      make(model, 0.02, 4e-3, *extra))


def nano_contestant(shape: Shape, device: torch.device) -> Contestant:
    """nanoGPT as its train.py runs it: on CUDA bf16 by autocast, fused AdamW and torch.compile; else fp32."""
    torch.manual_seed(0)
    model = NanoGPT(shape.C, shape.H, shape.L, shape.T, shape.vocabulary).to(device)
    gpu = device.type == "cuda"
    if gpu:
        model.compile()
    adamw = torch.optim.AdamW(model.parameters(), 6e-4, (0.9, 0.95), weight_decay=0.1, fused=gpu)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16) if gpu else contextlib.nullcontext():
            return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return Contestant("nanoGPT", model, shape.nanogpt(), loss_of, [adamw])


def contestants(shape: Shape, device: torch.device) -> list[Contestant]:
    """From the plain path to the fast one; nanoGPT's shape on the fast path; nanoGPT, the last."""
    ours, gpu = shape.ours(), device.type == "cuda"
    low = choose_precision("auto", device)
    found = [our_contestant(name, ours, device, pieces, "fp32") for name, pieces in (
        ("plain", ""), ("+ fused attention", "a"), ("+ fused norms", "an"), ("+ fused activations", "anf"),
        ("+ chunked loss", "anfl"), ("+ batched optimizers", "anflo"))]
    if low != "fp32" or gpu:
        found.append(our_contestant(f"+ {low}{', compiled' if gpu else ''}: fast", ours, device, "all", low))
    found.append(our_contestant("its shape, fast", shape.nanogpt(), device, "all", low))
    return [*found, nano_contestant(shape, device)]


def wait(device: torch.device) -> None:
    """Until all work that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def race(those: list[Contestant], batch: tuple[Tensor, Tensor], rounds: int,
         least: float) -> list[list[float]]:
    """Seconds of a step of each contestant in each round, in turn; the first step of each only warms up."""
    device, times = batch[0].device, [[] for _ in those]
    for one in those:
        one.step(*batch)
    for _ in range(rounds):
        for one, found in zip(those, times):
            wait(device)
            begin, steps = time.perf_counter(), 0
            while not steps or time.perf_counter() - begin < least:
                one.step(*batch)
                steps += 1
            wait(device)
            found.append((time.perf_counter() - begin) / steps)
    return times


def shares(one: Contestant, batches: Callable, steps: int) -> dict[str, float]:
    """Share of time that each part of `steps` steps takes, the device waited for after each: 0 to 1."""
    spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    device = next(one.model.parameters()).device
    last = time.perf_counter()

    def mark(part: str) -> None:
        nonlocal last
        wait(device)
        spent[part] += time.perf_counter() - last
        last = time.perf_counter()

    for step in range(steps):
        x, y = batches(step)
        mark("data")
        one.step(x, y, mark)
    return {part: seconds / sum(spent.values()) for part, seconds in spent.items()}


def peak_bytes(one: Contestant, batch: tuple[Tensor, Tensor]) -> int:
    """The most bytes that a step holds, weights and optimizer included: counted; on CUDA, as allocated."""
    state = [v for o in one.optimizers for v in o.state_dict().values()]
    one.model.zero_grad(set_to_none=True)
    with PeakMemory(one.model, state, list(batch)) as memory:
        held = memory.live()
        if batch[0].device.type == "cpu":
            one.step(*batch)
            return memory.peak
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one.step(*batch)
    return torch.cuda.max_memory_allocated() - before + held


def peak_of(device: torch.device, precision: str) -> tuple[float, str]:
    """FLOP/s of the device at its best, and where that is from."""
    known = published_peak(torch.cuda.get_device_name()) if device.type == "cuda" else None
    if known:
        return known, "published, bf16"
    size = 512 if device.type == "cpu" else 8192
    return measured_peak(device, FORMATS[precision], size), f"measured, {precision}"


def report(shape: Shape, device: torch.device, s: Settings) -> None:
    """The two tables of one shape."""
    peak, origin = peak_of(device, choose_precision("auto", device))
    tokens = np.random.default_rng(s.seed).integers(shape.vocabulary, size=50 * shape.batch * shape.T)
    batches = Prefetch(TextBatches(tokens, shape.batch, shape.T, s.seed), device)
    those, batch = contestants(shape, device), batches(0)
    times = race(those, batch, s.rounds, s.seconds)
    print(f"\n{shape.name}: {shape.L} layers, width {shape.C}, vocabulary {shape.vocabulary:,}, "
          f"batch {shape.batch} x {shape.T}; peak {peak / 1e12:.3g} TFLOP/s ({origin})")
    print(f"{'':<24}{'steps/s':>8}{'tokens/s':>10}{'of nanoGPT':>12}{'MFU':>7}{'peak MB':>9}   "
          + "".join(f"{part:>10}" for part in PARTS))
    for one, found in zip(those, times):
        seconds = statistics.median(found)
        ratio = statistics.median(theirs / mine for mine, theirs in zip(found, times[-1]))
        speed = shape.batch * shape.T / seconds
        part = shares(one, batches, 2 if s.quick else max(3, int(s.seconds / seconds)))
        print(f"{one.name:<24}{1 / seconds:>8.3g}{speed:>10,.0f}{ratio:>12.2f}"
              f"{mfu(speed, one.config, shape.T, peak):>7.1%}{peak_bytes(one, batch) / 1e6:>9,.0f}   "
              + "".join(f"{part[name]:>10.0%}" for name in PARTS), flush=True)
    batches.pool.shutdown()


def main() -> None:
    """Every shape of the device."""
    s = parse_settings(Settings, __doc__, dict(rounds=1, seconds=0.01))
    device = announce("training speed", s)
    for shape in SHAPES["cuda" if device.type == "cuda" else "cpu"]:
        report(shape, device, s)


if __name__ == "__main__":
    run_main(main)
