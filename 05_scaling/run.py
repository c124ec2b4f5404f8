"""Chapter 5: fit a scaling law on small runs, say how sure it is, forecast larger ones, train, compare.

    make 05        or  python 05_scaling/run.py --help
"""
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, read_json, run_main, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np

import scaling_figures as figures
from allocate import CHINCHILLA, published_table
from checkpoint import load_model
from chinchilla import Fit, bootstrap, fit, interval
from isoflop import envelope, fit_kaplan, isoflop
from main_forecast import planned_tokens, print_outcome, write_forecast
from predict import SMALLEST_WIDTH, TARGETS, arrays, print_comparison, run_targets, write_forecasts
from sweep import TOKENS, WIDTHS, sweep
from transformer_sweep import measure, print_rows


@dataclass
class Settings(RunSettings):
    """What chapter 5 can be told."""
    seeds: int = 3  # sweeps on the Markov source, trained side by side
    bootstraps: int = 1000  # resamplings for the intervals of the fits
    jobs: int = min(2, os.cpu_count() or 1)  # processes
    only_forecast: bool = False  # stop when the loss of chapter 3's model is forecast


QUICK = dict(seeds=1, bootstraps=100, jobs=1)


def describe(name: str, fitted: Fit, N, D, loss, replicas: int, delta: float) -> dict:
    """Print a fit with its 90% intervals; returns them."""
    laws = bootstrap(N, D, loss, fitted, replicas, delta=delta)
    report = {key: (value, *interval(np.array([getattr(law, key) for law in laws])))
              for key, value in asdict(fitted.law).items()}
    parts = (f"{key} {v:.4g} [{low:.3g}, {high:.3g}]" for key, (v, low, high) in report.items())
    print(f"  {name}: " + "  ".join(parts))
    print(f"    typical error {fitted.residual:.1%}, condition number {fitted.condition:.3g}"
          + ("" if fitted.determined else ": NOT DETERMINED by these runs"))
    return dict(report, residual=fitted.residual, condition=fitted.condition, determined=fitted.determined)


def readings(rows: list[dict]) -> dict:
    """How best size grows with compute: approaches 1 to 3, also in Kaplan's count and on unfinished runs."""
    N, D, loss = arrays(rows)
    body = np.array([r["body_parameters"] for r in rows], float)
    early = [(r["parameters"], r["body_parameters"], float(tokens), r["entropy"] + reducible)
             for r in rows if r["unfinished"]
             for tokens, reducible in [*r["unfinished"].items(), (r["tokens"], r["reducible"])]]
    finished = {(r["width"], r["seed"], round(r["tokens"], -3)): r["reducible"] for r in rows}
    worse = max(reducible / finished[r["width"], r["seed"], int(tokens)] - 1
                for r in rows for tokens, reducible in r["unfinished"].items())
    print(f"  an unfinished run's reducible loss is up to {worse:.0%} above that of a run which ends there")
    early_N, early_body, early_D, early_loss = np.array(early).T
    found = {}
    for name, (n, d, y) in {"all parameters, finished": (N, D, loss),
                            "without embeddings, finished": (body, D, loss),
                            "all parameters, unfinished": (early_N, early_D, early_loss),
                            "without embeddings, unfinished": (early_body, early_D, early_loss)}.items():
        law = fit(n, d, y, rows[0]["entropy"], delta=1e-2).law
        found[name] = dict(law=law.beta / (law.alpha + law.beta))
        for approach in (envelope, isoflop):
            try:
                found[name][approach.__name__] = approach(n, d, y).exponent
            except ValueError:
                found[name][approach.__name__] = None            # no slice holds its own optimum
        show = {key: "  --" if value is None else f"{value:.2f}" for key, value in found[name].items()}
        print(f"  {name:<31} envelope {show['envelope']}   isoFLOP {show['isoflop']}   law {show['law']}")
    return found


def known_source(s: Settings, folder: Path) -> dict:
    """The sweep on the source of known entropy, its fits, the forecasts, and then their targets."""
    widths, tokens, targets = WIDTHS, TOKENS, TARGETS
    if s.quick:
        widths, tokens, targets = (12, 16, 24, 32), (3_000, 6_000, 12_000), ((40, 40_000),)
    seeds = list(range(s.seed, s.seed + s.seeds))
    rows = sweep(folder / "runs", 3, seeds, widths, tokens, s.jobs)
    inside = [r for r in rows if r["width"] >= SMALLEST_WIDTH]
    E, (N, D, loss) = rows[0]["entropy"], arrays(inside)
    cpu = sum(r["cpu_seconds"] for r in rows)
    print(f"{len(rows)} runs, {cpu:.0f} CPU-seconds; entropy of the source {E:.4f} nats")
    known, free = fit(N, D, loss, E, delta=1e-2), fit(N, D, loss)
    fits = dict(known=describe("E known ", known, N, D, loss, s.bootstraps, 1e-2),
                free=describe("E fitted", free, N, D, loss, s.bootstraps, 1e-3))
    for smallest in widths[:3]:
        law = fit(*arrays([r for r in rows if r["width"] >= smallest]), E, delta=1e-2).law
        print(f"  window from width {smallest:>2}: alpha {law.alpha:.2f}, beta {law.beta:.2f}")

    path = folder / "forecast.json"
    wanted = [(w, t, seeds if i == 0 else seeds[:1]) for i, (w, t) in enumerate(targets)]  # dearest: one seed
    for f in write_forecasts(path, rows, wanted):
        print(f"forecast, {f.times:.1f} times the compute, seed {f.seed}: "
              f"{f.loss:.4f} ({f.low:.4f} to {f.high:.4f})")
    compared = run_targets(folder / "runs", path, 3, wanted, s.jobs)
    print_comparison(compared)
    kaplan = fit_kaplan(N, D, loss)
    kaplan_error = [float(kaplan.loss(c["parameters"], c["tokens"])) / c["measured"] - 1 for c in compared]
    print(f"Kaplan's form on the same runs: {np.mean(kaplan_error):+.1%} on average")
    print("exponent of best size against compute:")

    all_N, all_D, all_loss = arrays(rows)
    exponents = readings(rows)
    figures.draw_sweep(folder / "sweep", all_N, all_D, all_loss - E, known.law, N.min())
    figures.draw_forecast(folder / "forecast", all_N * all_D, all_loss, compared, (N * D).max())
    if not s.quick:
        slices = isoflop(all_N, all_D, all_loss)
        found = {"1: envelope": envelope(all_N, all_D, all_loss), "2: isoFLOP": slices}
        figures.draw_isoflop(folder / "isoflop", all_N, all_D, all_loss, slices)
        figures.draw_allocation(folder / "allocation", known.law, found, all_N, all_D)
    return dict(entropy=E, runs=rows, fits=fits, forecasts=compared, kaplan=asdict(kaplan),
                kaplan_error=kaplan_error, exponents=exponents)


def real_text(s: Settings, out: Path, folder: Path) -> dict:
    """The forecast for chapter 3's model, and then what that model measured."""
    main_model, path = read_json(out / "03_training" / "metrics.json"), folder / "main_forecast.json"
    tokens = int(np.prod([main_model["settings"][key] for key in ("steps", "batch", "length")]))
    size = read_json(out / "02_transformer" / "metrics.json")["parameters"]
    made = read_json(path) if path.exists() else {}
    if (made.get("parameters"), made.get("tokens")) != (size, tokens):   # other settings than usual
        made = write_forecast(out, s.seed, tokens, s.quick, s.jobs, s.bootstraps)
    rows = made["rows"]
    print_rows(rows)
    N, D = (np.array([r[key] for r in rows], float) for key in ("parameters", "tokens"))
    loss = np.array([r["bits_per_byte"] for r in rows])
    report = describe("real text, E fitted", fit(N, D, loss), N, D, loss, s.bootstraps, 1e-3)
    trained = load_model(out / "03_training" / "model.pt")
    rows.append(dict(width=trained.config.d_model, tokens=tokens, **measure(trained, out / "01_tokenizer")))
    measured = rows[-1]["bits_per_byte"]
    print_outcome(made, measured)
    print_rows(rows[-1:])
    figures.draw_skill(folder / "skill", rows)
    return dict(runs=rows, fit=report, forecast=(made["loss"], made["low"], made["high"]), measured=measured,
                best_so_far=made["best_so_far"], unseen=made["unseen"])


def main() -> None:
    """Everything of the chapter, with its figures."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("05 scaling: forecast" if s.only_forecast else "05 scaling", s, cpu_only=True)
    begin, cpu = time.perf_counter(), os.times()
    if s.only_forecast:
        tokens = planned_tokens(Path(s.out, "01_tokenizer"), s.quick, s.full)
        made = write_forecast(Path(s.out), s.seed, tokens, s.quick, s.jobs, s.bootstraps)
        return print(f"chapter 3's model will reach {made['loss']:.3f} bits per byte "
                     f"[{made['low']:.3f}, {made['high']:.3f}]")
    out, folder = Path(s.out), Path(s.out, "05_scaling")
    results = dict(seed=s.seed, known_source=known_source(s, folder), real_text=real_text(s, out, folder),
                   published=published_table(), settings=asdict(s))
    figures.draw_published(folder / "published", CHINCHILLA, results["published"])
    used = sum(b - a for a, b in zip(cpu[:4], os.times()[:4]))
    print(f"{time.perf_counter() - begin:.0f} s, {used:.0f} CPU-seconds")
    write_json(folder / "metrics.json", dict(results, seconds=time.perf_counter() - begin, cpu_seconds=used))


if __name__ == "__main__":
    run_main(main)
