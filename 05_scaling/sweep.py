"""A scaling sequence: the same small model at a grid of sizes and token counts, each schedule to its end.

Adds to ngram.py the bookkeeping of an experiment: a cell of the grid is cached under the hash of its settings
and of the code that trains it, so an interrupted sweep continues and a repeated one is free. The step size is
tuned for each width (--tune), with the rule of ngram.train for how it falls with the number of tokens.

    python 05_scaling/sweep.py --seeds 3               # 28 cells x 3 seeds, about 80 CPU-seconds
    python 05_scaling/sweep.py --tune --seeds 1        # which step size is best at which width
    python 05_scaling/sweep.py --order 4 --seeds 10    # a second source, more seeds
"""
import contextlib
import functools
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import (
        Progress,
        atomic,
        parse_settings,
        process_pool,
        read_json,
        run_main,
        setting,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np
import torch

import adamw
import cross_entropy
import muon
import ngram
import schedule
import source
from cells import cell_key

WIDTHS = (8, 12, 16, 24, 32, 48, 64)
# what --tune --seeds 3 chose for each width
RATES = {8: 0.1, 12: 0.1, 16: 0.1, 24: 0.07, 32: 0.07, 48: 0.07, 64: 0.07}
TOKENS = (50_000, 100_000, 200_000, 400_000)
CODE = [ngram, source, muon, adamw, cross_entropy, schedule]     # a change of these makes all cells new


def one_thread(job: Callable[..., list[dict]], cell: dict) -> list[dict]:
    """Run a cell on one thread (small matrices gain nothing from two); note its CPU-seconds in every row."""
    torch.set_num_threads(1)
    begin = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):     # one progress line for all cells, not one for each
        rows = job(**cell)
    return [dict(row, cpu_seconds=(time.process_time() - begin) / len(rows)) for row in rows]


def run_cells(job: Callable[..., list[dict]], cells: list[dict], modules: list, folder: Path, jobs: int,
              label: str) -> list[dict]:
    """The rows of job(**cell) for every cell, in order: from the cache, else computed in `jobs` processes.

    job is a function at the top of a module; `modules` are those whose code decides the result.
    """
    paths = [folder / f"{cell_key(cell, modules)}.json" for cell in cells]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    missing.sort(key=lambda i: -cells[i]["width"] * cells[i]["tokens"])            # the longest first
    progress = Progress(label, len(cells), done=len(cells) - len(missing), unit="run")

    def finished() -> Iterator[tuple[int, list[dict]]]:
        if jobs == 1:
            yield from ((i, one_thread(job, cells[i])) for i in missing)
            return
        with process_pool(jobs) as pool:
            running = {pool.submit(one_thread, job, cells[i]): i for i in missing}
            yield from ((running[future], future.result()) for future in as_completed(running))

    for done, (i, rows) in enumerate(finished(), start=len(cells) - len(missing) + 1):
        write_json(paths[i], rows)
        progress.update(done)
    return [row for path in paths for row in read_json(path)]


@functools.lru_cache(maxsize=1)
def symbols_file(folder: Path) -> str:
    """Write the documentation as symbols, for the processes to read: collecting the text takes seconds.

    The name holds a hash of them: another Python has another text, and its cells are other cells.
    """
    symbols = source.documentation_source(1)[0].symbols
    path = folder / f"symbols-{hashlib.sha256(symbols.tobytes()).hexdigest()[:16]}.npy"
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, symbols)
    return str(path)


@functools.lru_cache(maxsize=1)
def load_source(symbols: str, order: int) -> source.MarkovSource:
    """The source made of that file, built once in each process."""
    return source.MarkovSource(np.load(symbols), order)


def train_cell(symbols: str, order: int, width: int, tokens: int, seeds: list[int], rate: float = 0.05,
               checkpoints: tuple[int, ...] = ()) -> list[dict]:
    """One cell of the sweep (see ngram.train): a row per seed, with order and rate noted."""
    rows = ngram.train(load_source(symbols, order), width, tokens, seeds, rate=rate, checkpoints=checkpoints)
    return [dict(row, order=order, rate=rate) for row in rows]


def rate_for(width: int) -> float:
    """The tuned step size; a width between tuned ones gets that of the next narrower one."""
    return RATES[max((w for w in RATES if w <= width), default=min(RATES))]


def sweep(folder: Path, order: int, seeds: list[int], widths=WIDTHS, tokens=TOKENS, jobs=2) -> list[dict]:
    """The grid of runs.

    The longest run of each width also notes its loss at the other token counts, unfinished.
    """
    cells = [dict(symbols=symbols_file(folder), order=order, width=w, tokens=t, seeds=seeds, rate=rate_for(w),
                  checkpoints=tokens[:-1] if t == tokens[-1] else ()) for w in widths for t in tokens]
    return run_cells(train_cell, cells, CODE, folder, jobs, "sweep")


def tune(folder: Path, order: int, seeds: list[int], jobs: int) -> None:
    """Reducible loss of each width at several step sizes and two token counts; the least mean log is best."""
    rates, counts = (0.025, 0.035, 0.05, 0.07, 0.1, 0.14), (50_000, 200_000)
    cells = [dict(symbols=symbols_file(folder), order=order, width=w, tokens=t, seeds=seeds, rate=rate)
             for w in WIDTHS for t in counts for rate in rates]
    rows = run_cells(train_cell, cells, CODE, folder, jobs, "tune")
    shape = len(WIDTHS), len(counts), len(rates), len(seeds)
    logs = np.log([row["reducible"] for row in rows]).reshape(shape).mean(-1)
    print("reducible loss in nats at a step size of rate * (1e5 / tokens)^(1/4)")
    print("width  tokens  " + "".join(f"{rate:>8g}" for rate in rates) + "   best rate")
    for w, both in zip(WIDTHS, logs):
        best = rates[both.mean(0).argmin()]
        for t, values in zip(counts, both):
            row = "".join(f"{np.exp(v):8.4f}" for v in values)
            print(f"{w:>5} {t:>7}  {row}" + (f"   {best:g}" if t == counts[-1] else ""))


@dataclass
class Settings:
    """Which grid to run."""
    out: str = "out"  # folder for the results of all chapters
    seed: int = setting(0, least=0)  # the first seed
    order: int = setting(3, least=1, most=8)  # of the Markov source
    seeds: int = 3  # independent models, trained side by side
    tune: bool = False  # compare step sizes instead of running the grid
    jobs: int = min(2, os.cpu_count() or 1)  # processes


def main() -> None:
    """Run the grid or the tuning, from the cache where it is done."""
    settings = parse_settings(Settings, __doc__)
    folder = Path(settings.out) / "05_scaling" / "runs"
    seeds = list(range(settings.seed, settings.seed + settings.seeds))
    if settings.tune:
        return tune(folder, settings.order, seeds, settings.jobs)
    rows = sweep(folder, settings.order, seeds, jobs=settings.jobs)
    for row in rows:
        if row["seed"] == settings.seed:
            print(f"width {row['width']:>3}  N {row['parameters']:>7,}  D {row['tokens']:>9,}  "
                  f"loss {row['entropy'] + row['reducible']:.4f}  reducible {row['reducible']:.4f}")
    print(f"{len(rows)} runs, {sum(row['cpu_seconds'] for row in rows):.0f} CPU-seconds in all")


if __name__ == "__main__":
    run_main(main)
