"""The chapter's figures, one message each, readable without colour.

    python 05_scaling/run.py        draws them into out/05_scaling/
"""
from pathlib import Path

import numpy as np

from allocate import optimal
from chinchilla import Law
from figures import GREY, new_axes, plt, save
from isoflop import Frontier, curves, slice_at

STYLES = ["-", "--", ":", "-."]
MARKERS = "osD^vPX*"


def draw_sweep(path: Path, N: np.ndarray, D: np.ndarray, reducible: np.ndarray, law: Law,
               smallest: float) -> None:
    """Reducible loss against tokens, a line of the law a size; hollow and without: outside the fit window."""
    axes = new_axes("The sweep (3 seeds) and the fitted law (grey); hollow: outside the fit",
                    "training tokens D", "loss - entropy of the source (nats)", 7, 4.2)
    for size, marker in zip(sorted(set(N)), MARKERS):
        d, y = D[N == size], reducible[N == size]
        fill = "full" if size >= smallest else "none"
        axes.loglog(d, y, marker, color="black", fillstyle=fill, markersize=4)
        line = np.geomspace(d.min(), d.max(), 50)
        if size >= smallest:
            axes.loglog(line, law.loss(size, line) - law.E, "-", color=GREY, linewidth=1)
        axes.text(d.max() * 1.05, y[d == d.max()].mean(), f"N = {size:,.0f}", va="center", fontsize=8)
    axes.set_xticks([5e4, 1e5, 2e5, 4e5], ["50k", "100k", "200k", "400k"])
    axes.set_yticks([0.3, 0.5, 0.7, 1.0, 1.3], ["0.3", "0.5", "0.7", "1.0", "1.3"])
    axes.minorticks_off()
    axes.set_xlim(right=D.max() * 1.6)
    save(axes, path)


def draw_isoflop(path: Path, N: np.ndarray, D: np.ndarray, loss: np.ndarray, found: Frontier) -> None:
    """Loss against size at fixed compute: points, parabolas, their minima."""
    axes = new_axes("isoFLOP slices: the best size (filled) grows with compute",
                    "parameters N", "loss (nats per symbol)", 7, 4.2)
    curve = curves(N, D, loss)
    for C, size, low, marker in zip(found.compute, found.size, found.loss, MARKERS):
        n, y = slice_at(C, curve)
        bend = np.polyfit(np.log(n), y, 2)
        line = np.geomspace(n.min(), n.max(), 60)
        axes.semilogx(n, y, marker, color="black", fillstyle="none", label=f"{C:.1e} FLOPs")
        axes.semilogx(line, np.polyval(bend, np.log(line)), "-", color=GREY, linewidth=1)
        axes.semilogx([size], [low], marker, color="black", markersize=9)
    axes.set_xticks([2e3, 5e3, 1e4, 2e4, 4e4], ["2,000", "5,000", "10,000", "20,000", "40,000"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    save(axes, path)


def draw_forecast(path: Path, compute: np.ndarray, loss: np.ndarray, compared: list[dict],
                  largest: float) -> None:
    """The sweep's best runs, the forecasts with intervals, the truth, and what the fit with free E said."""
    axes = new_axes("Forecast first, then train: one mark per seed",
                    "compute, relative to the largest run of the sweep", "loss (nats per symbol)", 7, 4.2)
    late = compute > 0.1 * largest
    axes.semilogx(compute[late] / largest, loss[late], ".", color=GREY, label="largest runs of the sweep")
    named = ("forecast, 90% interval (E known)", "measured afterwards", "forecast with E fitted")
    for c, (known, truth, fitted) in zip(compared, [named, *[(None, None, None)] * len(compared)]):
        x = c["times"] * 1.12 ** (c["seed"] - compared[0]["seed"])
        bars = [[c["loss"] - c["low"]], [c["high"] - c["loss"]]]
        axes.errorbar([x], [c["loss"]], bars, fmt="_", color="black", capsize=4, markersize=8,
                      label=known)
        axes.plot([x], [c["measured"]], "o", color="black", markersize=5, label=truth)
        axes.plot([x], [c["free_loss"]], "x", color="black", label=fitted)
    axes.axhline(compared[0]["entropy"], color="black", linestyle=":", linewidth=1)
    axes.text(0.1, compared[0]["entropy"], "entropy of the source", va="bottom", fontsize=8)
    axes.set_xticks([0.1, 0.25, 1, 4, 8], ["1/10", "1/4", "1", "4", "8"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    save(axes, path)


def draw_allocation(path: Path, law: Law, found: dict[str, Frontier], N: np.ndarray, D: np.ndarray) -> None:
    """Best size against compute by the three approaches, over the runs."""
    axes = new_axes("Which size for which budget: three readings of one sweep",
                    "compute C = 6 N D (FLOPs)", "best size N (parameters)", 7, 4.2)
    axes.loglog(6 * N * D, N, ".", color=GREY, label="runs")
    line = np.geomspace(6 * (N * D).min(), 6 * (N * D).max() * 8, 50)
    exponent = law.beta / (law.alpha + law.beta)
    axes.loglog(line, [optimal(law, C)[0] for C in line], "k-", label=f"3: the law (exponent {exponent:.2f})")
    for (name, frontier), style, marker in zip(found.items(), STYLES[1:], MARKERS):
        straight = np.polyfit(np.log(frontier.compute), np.log(frontier.size), 1)
        axes.loglog(line, np.exp(np.polyval(straight, np.log(line))), style, color="black", linewidth=1,
                    label=f"{name} (exponent {frontier.exponent:.2f})")
        axes.loglog(frontier.compute, frontier.size, marker, color="black", fillstyle="none", markersize=4)
    axes.legend(fontsize=8)
    save(axes, path)


def draw_published(path: Path, law: Law, rows: list[dict]) -> None:
    """Published runs beside the optimum of the refitted Chinchilla law."""
    axes = new_axes("Published runs, and (arrows) the optimum for their compute",
                    "training tokens D", "parameters N used for a token", 7, 4.2)
    C = np.geomspace(1e23, 1e26, 30)
    N, D = np.array([optimal(law, c) for c in C]).T
    axes.loglog(D, N, "k-", label="compute-optimal (refitted Chinchilla law)")
    for row, marker in zip(rows, MARKERS):
        label = f"{row['name']}: {row['ratio']:.3g} tokens a parameter"
        axes.loglog([row["D"]], [row["N"]], marker, color="black", label=label)
        arrow = dict(arrowstyle="->", color=GREY)
        axes.annotate("", (row["best_D"], row["best_N"]), (row["D"], row["N"]), arrowprops=arrow)
    axes.set_ylim(top=4e12)                          # room for the legend
    axes.legend(fontsize=8)
    save(axes, path)


def draw_skill(path: Path, rows: list[dict]) -> None:
    """Two measures of the same knowledge against loss: log probability of the answer, and exact match."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), sharex=True)
    for width, marker in zip(sorted({r["width"] for r in rows}), MARKERS):
        of = [r for r in rows if r["width"] == width]
        x = [r["bits_per_byte"] for r in of]
        look = dict(marker=marker, linestyle="", color="black", fillstyle="none", label=f"width {width}")
        left.plot(x, [r["answer_log_probability"] for r in of], **look)
        right.plot(x, [100 * r["recall"] for r in of], **look)
    left.invert_xaxis()
    x = "held-out loss (bits per byte), falling"
    left.set(xlabel=x, ylabel="log probability of the right answer", title="The same knowledge, smooth ...")
    right.set(xlabel=x, ylabel="facts completed exactly (%)", title="... and sudden")
    left.legend(fontsize=8)
    save(left, path)
