"""The figures of this chapter: the funnel, the S-curve with what was measured on it, the ladder.

    python 06_data/run.py                  draws them into out/06_data/
"""
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from deduplicate import s_curve
from figures import save_png


def draw_funnel(path: Path, stages: list[dict]) -> None:
    """Megabytes after each stage as bars, with the number of documents written on them."""
    names = ["crawled"] + [s["stage"] for s in stages]
    size = [stages[0]["bytes_in"] / 1e6] + [s["bytes_out"] / 1e6 for s in stages]
    count = [stages[0]["documents_in"]] + [s["documents_out"] for s in stages]
    figure, axes = plt.subplots(figsize=(7, 3.6))
    axes.barh(range(len(names)), size, color="0.7", edgecolor="black")
    for y, (mb, n) in enumerate(zip(size, count)):
        axes.text(mb + size[0] * .01, y, f"{mb:.2f} MB, {n} documents", va="center", fontsize=8)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="text left (MB)", xlim=(0, size[0] * 1.45),
             title="Most of a crawl is not text, and much of the text is there twice")
    axes.invert_yaxis()
    save_png(figure, path)


def draw_s_curve(path: Path, bands: int, rows: int, measured: dict[float, float]) -> None:
    """Chance to become a candidate against similarity: the formula, and pairs of edited copies."""
    x = np.linspace(0, 1, 200)
    figure, axes = plt.subplots(figsize=(6, 3.4))
    axes.plot(x, s_curve(x, bands, rows), color="black", label=f"1 - (1 - s^{rows})^{bands}")
    axes.plot(list(measured), list(measured.values()), "o", mfc="white", color="black",
              label="measured on edited copies")
    axes.axvline(0.8, color="0.5", linestyle=":", label="wanted: 0.8 and above")
    axes.set(xlabel="true Jaccard similarity s", ylabel="share found",
             title="Bands turn similarity into a step")
    axes.legend()
    save_png(figure, path)


def draw_ladder(path: Path, ladder: dict[str, dict[str, list[float]]]) -> None:
    """Loss and recall after each step; each seed a point, the mean a line."""
    figure, both = plt.subplots(1, 2, figsize=(8, 3.4))
    for axes, key, label, scale in zip(both, ("bits_per_byte", "recall"), ("held-out text (bits per byte)",
                                                                          "facts completed (%)"), (1, 100)):
        for x, row in enumerate(ladder.values()):
            axes.plot([x] * len(row[key]), [v * scale for v in row[key]], "o", mfc="white", color="black")
        axes.plot([np.mean(row[key]) * scale for row in ladder.values()], color="black")
        axes.set_xticks(range(len(ladder)), list(ladder), rotation=25, ha="right")
        axes.set(ylabel=label)
    both[0].set_title("lower is better", fontsize=9)
    both[1].set_title("higher is better", fontsize=9)
    save_png(figure, path)
