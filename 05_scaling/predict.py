"""Say what a larger run will reach before it is trained, write that down, train it, and compare.

Adds to chinchilla.py the honest part of a scaling law: a forecast with an interval. The form is the law with
E set to the source's known entropy, fitted to the logarithm of the reducible loss of the runs in a stated
window. The interval adds three variances: of the law (bootstrap over runs), of a run around the law
(residuals), and of the law's own extrapolation (backtest: the same fit on the runs below a quarter of the
largest compute, tried on those above).

    python 05_scaling/predict.py --seeds 10                # the coverage of the interval; minutes
    python 05_scaling/predict.py --order 4 --seeds 3       # a second source
"""
import os
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import parse_settings, read_json, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np

import ngram
from chinchilla import Fit, bootstrap, fit
from sweep import CODE, rate_for, run_cells, sweep, symbols_file, train_cell

TARGETS = ((94, 800_000), (112, 1_130_000))   # width, tokens: 4 and 8 times the sweep's largest compute
SMALLEST_WIDTH = 12                           # of the fit window: narrower models bend away from the law


@dataclass(frozen=True)
class Forecast:
    """What is claimed about one run before it exists. Losses in nats per symbol."""
    width: int
    tokens: int
    seed: int
    parameters: int
    times: float          # its compute over the largest in the fit
    loss: float
    low: float            # 90% interval
    high: float
    free_loss: float      # what the same runs predict when E is fitted too
    stay_put: float       # the naive forecast: the best loss so far
    entropy: float


def arrays(rows: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, loss) of sweep rows."""
    return (np.array([r["parameters"] for r in rows], float), np.array([r["tokens"] for r in rows], float),
            np.array([r["entropy"] + r["reducible"] for r in rows]))


def backtest(N: np.ndarray, D: np.ndarray, loss: np.ndarray, E: float) -> float:
    """RMS relative error of the reducible loss above a quarter of the largest compute, told from below."""
    small = N * D <= (N * D).max() / 4
    law = fit(N[small], D[small], loss[small], E, delta=1e-2).law
    miss = np.log((law.loss(N[~small], D[~small]) - E) / (loss[~small] - E))
    return float(np.sqrt(np.mean(miss ** 2)))


def forecast(rows: list[dict], width: int, tokens: int, replicas: int = 400) -> tuple[Forecast, Fit]:
    """Predict the run of `width` and `tokens` from the sweep rows of one seed that lie in the fit window."""
    rows = [r for r in rows if r["width"] >= SMALLEST_WIDTH]
    E, seed = rows[0]["entropy"], rows[0]["seed"]
    N, D, loss = arrays(rows)
    target = ngram.NgramModel(rows[0]["order"], 64, width, [0]).sizes()[0]
    fitted = fit(N, D, loss, E, delta=1e-2)
    reducible = fitted.law.loss(target, tokens) - E
    laws = bootstrap(N, D, loss, fitted, replicas, seed, delta=1e-2)
    spread = np.log([law.loss(target, tokens) - E for law in laws])
    sigma = np.sqrt(spread.var() + fitted.residual ** 2 + backtest(N, D, loss, E) ** 2)
    return Forecast(width, tokens, seed, target, target * tokens / (N * D).max(), E + reducible,
                    E + reducible * np.exp(-1.645 * sigma), E + reducible * np.exp(1.645 * sigma),
                    fit(N, D, loss).law.loss(target, tokens), loss.min(), E), fitted


def write_forecasts(path: Path, rows: list[dict], targets: list[tuple]) -> list[Forecast]:
    """Forecast every (width, tokens, seeds) and write them to disk, with the form and window of the fit."""
    made = [forecast([r for r in rows if r["seed"] == seed], width, tokens)[0]
            for width, tokens, seeds in targets for seed in seeds]
    fitted, n_seeds = sum(r["width"] >= SMALLEST_WIDTH for r in rows), len({r["seed"] for r in rows})
    write_json(path, dict(
        form="loss = H + A/N^alpha + B/D^beta, H the source's entropy; Huber loss of the log of loss - H",
        window=f"width at least {SMALLEST_WIDTH}: {fitted} runs of {n_seeds} seeds, each seed fitted alone",
        forecasts=[asdict(f) for f in made]))
    return made


def run_targets(folder: Path, path: Path, order: int, targets: list[tuple], jobs: int) -> list[dict]:
    """Train what was forecast in the file `path`, which must exist, and return one comparison per run."""
    made = {(f["width"], f["seed"]): f for f in read_json(path)["forecasts"]}
    symbols = symbols_file(folder)
    cells = [dict(symbols=symbols, order=order, width=w, tokens=t, seeds=seeds, rate=rate_for(w))
             for w, t, seeds in targets]
    compared = []
    for row in run_cells(train_cell, cells, CODE, folder, jobs, "target"):
        f, loss = made[row["width"], row["seed"]], row["entropy"] + row["reducible"]
        compared.append(dict(f, measured=loss, error=f["loss"] / loss - 1, cpu_seconds=row["cpu_seconds"],
                             reducible_error=(f["loss"] - f["entropy"]) / row["reducible"] - 1,
                             free_error=f["free_loss"] / loss - 1, stay_put_error=f["stay_put"] / loss - 1,
                             half_width=(f["high"] - f["low"]) / 2 / loss,
                             inside=f["low"] <= loss <= f["high"]))
    return compared


def print_comparison(compared: list[dict]) -> None:
    """One line per target and what it was held to."""
    print("compute  runs  error: mean, largest  of reducible  in interval, half-width  E fitted  stay put")
    for width in sorted({c["width"] for c in compared}):
        of = {key: np.array([c[key] for c in compared if c["width"] == width]) for key in compared[0]}
        worst = np.abs(of["error"]).max()
        of_reducible, inside = np.abs(of["reducible_error"]).max(), of["inside"].sum()
        print(f"{of['times'][0]:5.1f} x {len(of['error']):>5}  {of['error'].mean():>+10.2%}   {worst:>6.2%}"
              f"  {of_reducible:>12.1%}  {inside:>5} of {len(of['error']):<2}"
              f"   {of['half_width'].mean():>8.2%}  {of['free_error'].mean():>+11.1%}"
              f" {of['stay_put_error'].mean():>+9.1%}")


@dataclass
class Settings:
    """Which sweeps to forecast from."""
    out: str = "out"  # folder for the results of all chapters
    seed: int = setting(0, least=0)  # the first seed
    order: int = setting(3, least=1, most=8)  # of the Markov source
    seeds: int = 10  # sweeps, each with its own forecasts and targets
    jobs: int = min(2, os.cpu_count() or 1)  # processes


def main() -> None:
    """Sweep, forecast, train the targets, compare."""
    s = parse_settings(Settings, __doc__)
    folder = Path(s.out) / "05_scaling"
    seeds = list(range(s.seed, s.seed + s.seeds))
    rows = sweep(folder / "runs", s.order, seeds, jobs=s.jobs)
    path = folder / f"forecast_order{s.order}_seeds{s.seeds}.json"
    targets = [(width, tokens, seeds) for width, tokens in TARGETS]
    write_forecasts(path, rows, targets)
    print(f"forecasts written to {path}; training their targets")
    print_comparison(run_targets(folder / "runs", path, s.order, targets, s.jobs))


if __name__ == "__main__":
    run_main(main)
