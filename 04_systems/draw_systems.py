"""The figures of chapter 4, readable in black and white.

    python 04_systems/run.py               draws them
"""
from pathlib import Path

import matplotlib.pyplot as plt

from figures import save_png
from pipeline_parallel import bubble
from roofline import Machine, Work


def draw_roofline(path: Path, machine: Machine, rows: list[tuple[Work, float]]) -> None:
    """The roof of this machine and where each operation, (work, measured seconds), lies under it."""
    figure, axes = plt.subplots(figsize=(7, 4))
    low, high = 0.05, 1000
    corner = machine.ridge
    peak = machine.flops / 1e9
    axes.plot([low, corner, high], [low * machine.bandwidth / 1e9, peak, peak], "k-", lw=1.5)
    for (work, seconds), mark in zip(rows, "os^vDP"):
        axes.plot(work.intensity, work.flops / seconds / 1e9, mark, color="0.25", markersize=8,
                  label=work.name)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s reached",
             xlim=(low, high), title="Most of a model lies under the slope: limited by memory")
    axes.legend(fontsize=8, loc="lower right")
    save_png(figure, path)


def draw_flash(path: Path, lengths: list[int], naive: list[float], tiled: list[float]) -> None:
    """Peak memory of attention against the length."""
    figure, axes = plt.subplots(figsize=(6, 3.4))
    axes.plot(lengths, [x / 1e6 for x in naive], "ko-", label="with the T x T table")
    axes.plot(lengths, [x / 1e6 for x in tiled], "ks--", label="in tiles")
    axes.set(xscale="log", yscale="log", xlabel="T (tokens)", ylabel="peak memory (MB)",
             title="Forward and backward: quadratic and linear")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.minorticks_off()
    axes.legend()
    save_png(figure, path)


def draw_pipelines(path: Path, runs: dict[str, list[list[tuple]]]) -> None:
    """Measured timelines, {title: per stage (action, i, start, end)}: forward light, backward dark."""
    figure, panels = plt.subplots(len(runs), 1, figsize=(9, 1.9 * len(runs)), sharex=True)
    for axes, (title, lines) in zip(panels, runs.items()):
        begin = min(line[0][2] for line in lines)
        for stage, line in enumerate(lines):
            for kind, i, start, end in line:
                axes.barh(stage, end - start, left=start - begin, height=0.85, edgecolor="k", linewidth=0.5,
                          color="0.9" if kind == "F" else "0.55", hatch="" if kind == "F" else "//")
                axes.text((start + end) / 2 - begin, stage, str(i), ha="center", va="center", fontsize=7,
                          bbox=None if kind == "F" else dict(boxstyle="circle,pad=0.15", fc="white", lw=0))
        axes.set(ylabel="stage", yticks=range(len(lines)), title=f"{title}: {bubble(lines):.0%} idle")
        axes.invert_yaxis()
    panels[-1].set_xlabel("seconds (light: forward, hatched: backward; the number is the micro-batch)")
    save_png(figure, path)
