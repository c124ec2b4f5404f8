"""Find the range of useful learning rates in one short run: raise the rate at every step and watch the loss.

Too small, and nothing moves; then the loss falls, ever faster; then it turns and explodes. The rate to train
with lies below the turn, by a factor of about three (Smith 2017, "Cyclical learning rates for training
neural networks", section 3.3). It is a first guess for a run of ordinary length, no substitute for trying a
few: with a decay at the end, higher rates pay than this test suggests.

    python 03_training/learning_rate_range.py      after `make 02`: draws it for the default model with Muon
"""
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, read_json, run_main, seed_everything
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from torch import Tensor

from batches import TextBatches
from cross_entropy import cross_entropy
from figures import new_axes, save
from muon import muon_and_adamw
from token_file import open_tokens
from transformer import Config, Transformer


@dataclass
class Settings(RunSettings):
    """Where to look."""
    lowest: float = 1e-4     # the first learning rate (of matrices)
    highest: float = 2.0     # the last one
    steps: int = 120         # steps between them, each a constant factor above the one before


def sweep(optimizers: list, loss_of: Callable[[int], Tensor], rates: list[float]) -> list[float]:
    """The loss before each step, step i at learning rate rates[i]; stops when the loss has exploded.

    The optimizers' own learning rates must be 1: they are multiplied by the rate. Exploded is twice the best
    loss so far plus one, or no number.
    """
    losses: list[float] = []
    for step, rate in enumerate(rates):
        loss = loss_of(step)
        losses.append(loss.item())
        if not losses[-1] < 2 * min(losses) + 1:
            break
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step(rate)
    return losses


def suggest(rates: list[float], losses: list[float], smooth: float = 0.8) -> float:
    """A third of the rate at which the running mean of the loss is least. ValueError below 5 losses."""
    if len(losses) < 5:
        raise ValueError(f"{len(losses)} losses show no range: the lowest rate explodes already, start lower")
    mean, curve = losses[0], []
    for loss in losses:
        mean = smooth * mean + (1 - smooth) * loss
        curve.append(mean if math.isfinite(mean) else math.inf)
    return rates[curve.index(min(curve))] / 3


def main() -> None:
    """One sweep with Muon on the matrices and AdamW on the rest, a fifth of the rate, as in the main job."""
    s = parse_settings(Settings, __doc__, dict(steps=10))
    device = announce("learning rate range", s)
    if s.highest <= s.lowest:
        raise ValueError(f"--highest {s.highest} is not above --lowest {s.lowest}: swap them")
    seed_everything(s.seed)
    model = Transformer(Config(**read_json(Path(s.out, "02_transformer", "config.json")))).to(device)
    batches = TextBatches(open_tokens(Path(s.out, "01_tokenizer", "train.bin")), 8, 128, s.seed)
    rates = [s.lowest * (s.highest / s.lowest) ** (i / max(s.steps - 1, 1)) for i in range(s.steps)]

    def loss_of(step):
        x, y = batches(step)
        return cross_entropy(model(x.to(device)), y.to(device))

    losses = sweep(muon_and_adamw(model, 1.0, 0.2), loss_of, rates)
    best = suggest(rates, losses)
    axes = new_axes("The loss while the learning rate grows", "learning rate of the matrices",
                    "loss of the batch (nats)")
    axes.plot(rates[:len(losses)], losses, color="black")
    axes.axvline(best, color="black", linestyle=":")
    axes.set_xscale("log")
    axes.set_ylim(top=1.3 * losses[0])
    save(axes, Path(s.out, "study", "learning_rate_range"))
    print(f"  suggests {best:.2g}: a third of where the loss is least; "
          f"drawn in {s.out}/study/learning_rate_range.png")


if __name__ == "__main__":
    run_main(main)
