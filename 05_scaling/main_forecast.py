"""The loss of chapter 3's model, forecast from runs of at most 15% of its compute before it is trained.

Adds to transformer_sweep.py the fit and the forecast of the course's own model. `make` calls it between
chapters 2 and 3, so that nobody can have looked; the scoreboard puts forecast and outcome side by side.

    python 05_scaling/run.py --only-forecast        # needs `make 02`
"""
from dataclasses import asdict
from pathlib import Path

import numpy as np

from chinchilla import bootstrap, fit, interval
from token_file import open_tokens
from transformer_sweep import BATCH, GRID, LENGTH, transformer_sweep
from workbench import read_json, write_json

STEPS = {"usual": 640, "quick": 60}     # of chapter 3
FULL = dict(epochs=4, batch=16, length=256)


def planned_tokens(text_folder: Path, quick: bool, full: bool) -> int:
    """How many tokens chapter 3 will train on; with `full` that depends on the text in `text_folder`."""
    if full:
        row = FULL["batch"] * FULL["length"]
        return max(FULL["epochs"] * len(open_tokens(text_folder / "train.bin")) // row, 1) * row
    return STEPS["quick" if quick else "usual"] * BATCH * LENGTH


def write_forecast(out: Path, seed: int, tokens: int, quick: bool = False, jobs: int = 2,
                   replicas: int = 1000) -> dict:
    """Train the small runs, fit the law and write main_forecast.json: loss in bits per byte, 90% interval.

    `tokens` is how many chapter 3 will train on. `unseen` says whether its model was still untrained at that
    moment. The interval is the bootstrap's alone: it knows noise, not whether the formula is right.
    """
    size = read_json(out / "02_transformer" / "metrics.json")["parameters"]
    grid = [(w, steps) for w in (32, 64) for steps in (10, 20, 40)] if quick else GRID
    folder = out / "05_scaling"
    rows = transformer_sweep(out / "01_tokenizer", folder / "runs", seed, grid, jobs)
    N, D = (np.array([r[key] for r in rows], float) for key in ("parameters", "tokens"))
    loss = np.array([r["bits_per_byte"] for r in rows])
    fitted = fit(N, D, loss)
    laws = bootstrap(N, D, loss, fitted, replicas)
    low, high = interval(np.array([law.loss(size, tokens) for law in laws]))
    made = dict(parameters=size, tokens=tokens, loss=float(fitted.law.loss(size, tokens)), low=low, high=high,
                best_so_far=float(loss.min()), law=asdict(fitted.law), rows=rows,
                unseen=not (out / "03_training" / "model.pt").exists())
    write_json(folder / "main_forecast.json", made)
    return made


def print_outcome(made: dict, measured: float) -> None:
    """Print forecast beside outcome."""
    when = "before it was trained" if made["unseen"] else "after it was trained, without a look at it"
    print(f"chapter 3's model, {made['parameters']:,} parameters and {made['tokens']:,} tokens: forecast "
          f"{made['loss']:.3f} [{made['low']:.3f}, {made['high']:.3f}], made {when}")
    print(f"  bits per byte, measured {measured:.3f}: error {made['loss'] / measured - 1:+.1%}; "
          f"the best run so far {made['best_so_far'] / measured - 1:+.1%}")
