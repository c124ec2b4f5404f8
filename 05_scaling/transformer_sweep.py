"""The same questions on real text: a sweep of the course's own transformer, and from loss to skill.

Adds to sweep.py runs of chapter 2's model on chapter 1's stream (real text, facts, questions), smaller and
shorter than chapter 3's run, each schedule ended. Depth (4 layers) and head width (32) stay fixed: the law
does not bend with the shape. Two things are measured on every run: held-out loss in bits per byte of real
text, to be extrapolated to chapter 3's model, and what it knows of the facts: the probability of each right
answer, and exact match (Schaeffer et al. 2023, Are Emergent Abilities a Mirage?, arXiv 2304.15004: the metric
can make smooth progress look sudden).

    python 05_scaling/transformer_sweep.py          # 8 runs; needs `make 01`
    python 05_scaling/transformer_sweep.py --wide   # 16 runs, up to chapter 3's width
"""
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import parse_settings, run_main, seed_everything, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import adamw
import attention
import feed_forward
import linear
import muon
import normalization
import positions
import schedule
import transformer
from batches import TextBatches
from bits_per_byte import bits_per_byte
from bpe import EOS, Tokenizer
from cross_entropy import cross_entropy
from facts import Question
from muon import muon_and_adamw
from recall import fact_recall
from schedule import constant_then_decay
from sweep import run_cells
from tasks import load_tasks
from token_file import open_tokens
from train import train
from transformer import Config, Transformer

CODE = [transformer, attention, feed_forward, linear, normalization, positions, muon, adamw, schedule]
BATCH, LENGTH = 8, 128                                             # as in chapter 3
GRID = [(32, 80), (32, 160), (32, 320), (64, 80), (64, 160), (64, 320), (96, 80), (96, 160)]   # width, steps
WIDE_GRID = [(width, steps) for width in (32, 64, 96, 128) for steps in (80, 160, 320, 640)]


@torch.no_grad()
def answer_log_probability(model: Transformer, tokenizer: Tokenizer, questions: list[Question]) -> float:
    """Mean over questions of the log probability, in nats, that the model gives to the whole right answer."""
    total = 0.0
    for q in questions:
        prompt = [tokenizer.special[EOS]] + tokenizer.encode(q.completion)
        answer = tokenizer.encode(f" {q.answer}.")
        logits = model(torch.tensor([prompt + answer]))[0, len(prompt) - 1:-1]          # (answer length, V)
        total -= cross_entropy(logits, torch.tensor(answer)).item() * len(answer)
    return total / len(questions)


def config_for(width: int, vocab_size: int) -> Config:
    """Chapter 3's shape at another width: 4 layers, heads of 32, feed-forward 2.75 times the width."""
    if width % 32:
        raise ValueError(f"width {width} is no multiple of the head width 32: choose {width // 32 * 32 + 32}")
    heads = width // 32
    return Config(vocab_size=vocab_size, d_model=width, n_heads=heads, n_kv_heads=heads, d_ff=width * 11 // 4)


def train_cell(folder: str, text: str, width: int, tokens: int, seed: int) -> list[dict]:
    """Train one transformer on `tokens` tokens of the stream in `folder`, whose hash is `text`; a row."""
    vocab_size = Tokenizer.load(Path(folder, "tokenizer.json")).vocab_size
    seed_everything(seed)
    model = Transformer(config_for(width, vocab_size))
    batches = TextBatches(open_tokens(Path(folder, "train.bin")), BATCH, LENGTH, seed)
    steps = tokens // (BATCH * LENGTH)

    def loss_of(step: int) -> torch.Tensor:
        x, y = batches(step)
        return cross_entropy(model(x), y)

    def scale_of(step: int) -> float:
        return constant_then_decay(step, steps, n_warmup=max(steps // 33, 1))

    train(model, muon_and_adamw(model, 0.02, 4e-3), loss_of, steps, scale_of, f"{width} x {steps}")
    return [dict(width=width, tokens=tokens, seed=seed, **measure(model, Path(folder)))]


def measure(model: Transformer, folder: Path) -> dict:
    """Size, held-out loss in bits per byte, and the two measures of the same knowledge."""
    tokenizer, tasks = Tokenizer.load(folder / "tokenizer.json"), load_tasks(folder / "tasks.json")
    questions = tasks.held_out_questions
    return dict(parameters=sum(p.numel() for p in model.parameters()),
                bits_per_byte=bits_per_byte(model, open_tokens(folder / "valid.bin"), tasks.held_out_bytes),
                recall=fact_recall(model, tokenizer, questions),
                answer_log_probability=answer_log_probability(model, tokenizer, questions))


def transformer_sweep(text_folder: Path, cache: Path, seed: int, grid=GRID, jobs: int = 2) -> list[dict]:
    """The rows of every (width, steps) of the grid."""
    digest = hashlib.sha256(Path(text_folder, "train.bin").read_bytes()).hexdigest()[:16]
    cells = [dict(folder=str(text_folder), text=digest, width=w, tokens=steps * BATCH * LENGTH, seed=seed)
             for w, steps in grid]
    return run_cells(train_cell, cells, [sys.modules[__name__], *CODE], cache, jobs, "real text")


@dataclass
class Settings:
    """Which grid to run."""
    out: str = "out"  # folder for the results of all chapters
    seed: int = setting(0, least=0)  # the first seed
    wide: bool = False  # the larger grid, about 10 times the work
    jobs: int = min(2, os.cpu_count() or 1)  # processes


def main() -> None:
    """Train the grid and print it."""
    s = parse_settings(Settings, __doc__)
    rows = transformer_sweep(Path(s.out, "01_tokenizer"), Path(s.out, "05_scaling", "runs"), s.seed,
                             WIDE_GRID if s.wide else GRID, s.jobs)
    print_rows(rows)


def print_rows(rows: list[dict]) -> None:
    """A line per run."""
    print("width  parameters   tokens   bits/byte   answer log p   recall")
    for r in rows:
        print(f"{r['width']:>5} {r['parameters']:>11,} {r['tokens']:>8,} {r['bits_per_byte']:>11.3f} "
              f"{r['answer_log_probability']:>14.2f} {r['recall']:>8.1%}")


if __name__ == "__main__":
    run_main(main)
