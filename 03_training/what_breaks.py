"""What breaks a training run, each mistake made on purpose on the same small model, and how it looks.

Most of these do not raise an error. A learning rate that is too high shows in the first steps; a target that
is not shifted shows as a loss too good to be true; a mean of means shows nowhere until somebody compares.

    python 03_training/what_breaks.py      after `make 02`; 12 minutes of a core, half of it fp16 (make study)
"""
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        parse_settings,
        run_main,
        seed_everything,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np
import torch

import adamw
import precision
import transformer
from accumulation import accumulate
from adamw import AdamW
from batches import TextBatches
from bits_per_byte import bits_per_byte
from bpe import EOS, Tokenizer
from cells import Cells
from cross_entropy import IGNORE, cross_entropy
from figures import new_axes, save
from packing import documents_apart
from precision import LossScaler, use_precision
from row_stream import RowStream
from schedule import constant_then_decay, warmup
from tasks import load_tasks
from token_file import open_tokens
from train import train
from transformer import Config, Transformer

CODE = [transformer, adamw, precision]
BATCH, LENGTH = 8, 128


@dataclass(frozen=True)
class Mistake:
    """One row: what is done, and what gives it away."""
    name: str
    sign: str
    lr: float = 4e-3
    warmup: float = 0.05      # share of the steps
    decay: float = 0.5        # share of the steps; 0 is none
    clip: float = 1.0
    scale: float = 1.0        # times the initial weights
    precision: str = "fp32"
    scaler: bool = False
    shifted: bool = True
    leaked: bool = False      # the held-out text is in the training text
    apart: bool = False       # documents of one row do not see each other
    documents: bool = False   # each row begins where a document does
    outlier: bool = False     # one batch in 50 is noise whose loss counts 100 times
    rollback: bool = False    # after a spike, go back to the last state, at most 10 steps old
    unequal: str = ""         # rows count 128, 64 ... targets, "weighed" alike; or each row alike ("means")


MISTAKES = [
    Mistake("nothing", "the reference"),
    Mistake("learning rate 20 times too high", "it falls, and stays above the reference", lr=8e-2),
    Mistake("learning rate 20 times too low", "it falls, and would need many more steps", lr=2e-4),
    Mistake("no warm-up", "the first steps alone", warmup=0.0),
    Mistake("no decay", "nothing in so short a run", decay=0.0),
    Mistake("rare bad batches, clipped", "the log alone", outlier=True),
    Mistake("rare bad batches, not clipped", "the loss jumps, and stays up", outlier=True, clip=1e9),
    Mistake("the same, rolled back", "the run says so", outlier=True, clip=1e9, rollback=True),
    Mistake("weights 10 times too large", "the first loss is far above ln V", scale=10.0),
    Mistake("weights 10 times too small", "a slow start", scale=0.1),
    Mistake("fp16 without loss scaling", "nothing at this size: see precision.py", precision="fp16"),
    Mistake("fp16 with loss scaling", "nothing", precision="fp16", scaler=True),
    Mistake("targets not shifted", "a training loss too good to be true", shifted=False),
    Mistake("held-out text in the training text", "a held-out loss too good to be true", leaked=True),
    Mistake("documents of a row kept apart", "no mistake: a lower training loss", apart=True),
    Mistake("rows that begin at documents", "training loss low, held-out loss high", documents=True),
    Mistake("rows of 128, 64, ... 1 targets", "no mistake: a quarter of the targets", unequal="weighed"),
    Mistake("the same, as a mean of means", "nothing, until the row above", unequal="means"),
]


@dataclass
class Settings(RunSettings):
    """How much to train."""
    seeds: int = 3        # runs of each mistake
    steps: int = 200      # optimizer steps of 8 x 128 tokens


def run(m: Mistake, text: Path, steps: int, seed: int) -> dict:
    """Train with the mistake: training losses, and held-out bits a byte (None if the loss was no number)."""
    seed_everything(seed)
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
    valid, tokens = open_tokens(text / "valid.bin"), open_tokens(text / "train.bin")
    model = Transformer(Config(tokenizer.vocab_size, d_model=64, n_layers=3, d_ff=176, max_len=LENGTH))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(m.scale if p.ndim == 2 else 1.0)
    use_precision(model, m.precision)
    if m.leaked:
        tokens = np.concatenate([np.tile(valid, 4), tokens[:BATCH * LENGTH * steps // 2]])
    batches = TextBatches(tokens, BATCH, LENGTH, seed)
    if m.documents:
        rows = RowStream(tokens, LENGTH, seed, eos=tokenizer.special[EOS])

    def loss_of(step):
        x, y = rows.take(step * BATCH, BATCH) if m.documents else batches(step)
        if m.outlier and step > 50 and step % 50 == 10:
            y = torch.randint(tokenizer.vocab_size, y.shape, generator=torch.Generator().manual_seed(step))
            return 100 * cross_entropy(model(x), y)
        if m.unequal:
            return unequal_loss(model(x), y, m.unequal == "means")
        if not m.apart:
            return cross_entropy(model(x), y if m.shifted else x)
        with documents_apart(model, x, tokenizer.special[EOS]):
            return cross_entropy(model(x), y)

    def scale_of(step):
        if not m.decay:
            return warmup(step, int(m.warmup * steps))
        return constant_then_decay(step, steps, int(m.warmup * steps), m.decay)

    bad: dict[str, Any] = dict(on_bad="rollback", spike=3.0) if m.rollback else {}
    losses, held_out = [], math.nan
    with tempfile.TemporaryDirectory() as folder:
        try:
            adam = [AdamW(model.parameters(), m.lr)]
            log = train(model, adam, loss_of, steps, scale_of, m.name[:10], m.clip,
                        Path(folder, "state.pt") if m.rollback else None, save_every=10,
                        scaler=LossScaler() if m.scaler else None, **bad)
            losses = [r["loss"] for r in log]
            held_out = bits_per_byte(model, valid, tasks.held_out_bytes, LENGTH)
        except ValueError:   # the loss is not a number any more
            pass
    return {"losses": losses, "bits": held_out if math.isfinite(held_out) else None}


def unequal_loss(logits: torch.Tensor, targets: torch.Tensor, means: bool) -> torch.Tensor:
    """The loss when row i counts its first T / 2^i targets: each alike, or as the mean of row means."""
    targets = targets.clone()
    for i, row in enumerate(targets):
        row[max(len(row) >> i, 1):] = IGNORE
    if not means:
        return cross_entropy(logits, targets)
    return torch.stack([cross_entropy(row, y) for row, y in zip(logits, targets)]).mean()


def mean_of_means() -> tuple[float, float]:
    """The relative error of the gradient of two rows, one with 1 counted target and one with 8.

    First of the mean of their means, then of accumulation.accumulate, which weighs each by what it counts.
    """
    seed_everything(0)
    model = Transformer(Config(vocab_size=64, d_model=32, n_layers=1, d_ff=64, max_len=16)).double()
    x, y = torch.randint(64, (2, 8)), torch.randint(64, (2, 8))
    y[0, 1:] = IGNORE
    rows = [(x[:1], y[:1]), (x[1:], y[1:])]

    def gradient(make: Callable[[], object]) -> torch.Tensor:
        model.zero_grad()
        make()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    right = gradient(lambda: cross_entropy(model(x), y).backward())
    wrong = gradient(lambda: torch.stack([cross_entropy(model(a), b) for a, b in rows]).mean().backward())
    weighed = gradient(lambda: accumulate(model, lambda a, b: cross_entropy(model(a), b), rows))
    error_of_wrong, error_of_weighed = (float((g - right).norm() / right.norm()) for g in (wrong, weighed))
    return error_of_wrong, error_of_weighed


def draw(path: Path, rows: list[tuple[Mistake, list[dict]]]) -> None:
    """Training loss of a few of them against steps, first seed."""
    axes = new_axes("The same model, one mistake each", "step", "training loss (nats a token)", width=7)
    shown = {"nothing": "-", "learning rate 20 times too high": ":", "no decay": "--",
             "rare bad batches, not clipped": "-.", "targets not shifted": (0, (1, 3))}
    for m, (result, *_) in rows:
        if m.name in shown and result["losses"]:
            smooth = torch.tensor(result["losses"]).clamp(max=9).unfold(0, 5, 1).mean(1)
            axes.plot(range(5, 5 + len(smooth)), smooth, linestyle=shown[m.name], color="black", label=m.name)
    axes.set_ylim(0, 9.5)
    axes.legend(frameon=False, fontsize=8, ncol=2, loc="upper right")
    save(axes, path)


def table_row(m: Mistake, results: list[dict]) -> str:
    """First and last training loss, and the held-out bits a byte with their range, over the seeds."""
    losses, bits = [r["losses"] for r in results if r["losses"]], [r["bits"] for r in results if r["bits"]]
    ends = f"{'-':>6} {'NaN':>6}"
    if losses:
        first = statistics.mean(one[0] for one in losses)
        ends = f"{first:>6.2f} {statistics.mean(x for one in losses for x in one[-10:]):>6.2f}"
    held_out = f"{statistics.mean(bits):.3f} ({min(bits):.3f} to {max(bits):.3f})" if bits else "NaN"
    lost = f"  ({len(results) - len(bits)} of {len(results)} lost)" if len(bits) < len(results) else ""
    return f"{m.name:<35} {ends}  {held_out:<24} {m.sign}{lost}"


def main() -> None:
    """Every mistake, a table and a figure."""
    s = parse_settings(Settings, __doc__, dict(seeds=1, steps=10))
    announce("what breaks", s, cpu_only=True)
    text, folder = Path(s.out, "01_tokenizer"), Path(s.out, "study", "what_breaks")
    cells = Cells(folder / "cells", CODE)
    data = content_hash(*(text / name for name in ("train.bin", "valid.bin", "tokenizer.json")))
    rows = []
    for m in MISTAKES:
        how = {k: v for k, v in vars(m).items() if k not in ("name", "sign")}
        made = []
        for seed in range(s.seed, s.seed + s.seeds):
            cell = {**how, "steps": s.steps, "seed": seed, "data": data}
            made.append(cells.get(cell, lambda: run(m, text, s.steps, seed)))
        rows.append((m, made))
    print(f"{'what was done':<35} {'first':>6} {'last':>6}  {'held out, bits a byte':<24} what gives it away")
    for m, results in rows:
        print(table_row(m, results))
    wrong, weighed = mean_of_means()
    print(f"a mean of means where rows count 1 and 8 targets: the gradient is off by {wrong:.0%}; "
          f"weighed, by {weighed:.0%}")
    draw(folder / "what_breaks", rows)
    write_json(folder / "results.json", [{"name": m.name, "runs": results} for m, results in rows])


if __name__ == "__main__":
    run_main(main)
