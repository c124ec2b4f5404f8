"""Figures of one look: black on white as PNG for pages on GitHub, and as SVG in the colours of the report.

    make                                   draws one or two for each chapter
"""
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench import atomic

GREY = "#888888"   # readable on white and on black


def new_axes(title: str, xlabel: str, ylabel: str, width: float = 6.5, height: float = 3.4) -> Axes:
    """Axes of a new figure, with units in their labels."""
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def save_png(figure: Figure, path: Path) -> None:
    """Write `path` in one piece and close the figure."""
    figure.tight_layout()
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def save(axes: Axes, path: Path | str) -> None:
    """Write `path`.png and `path`.svg atomically and close the figure.

    In the SVG, black is the colour of the text around it.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes belong to no figure")
    figure.tight_layout()
    with atomic(f"{path}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    with atomic(f"{path}.svg") as temporary, plt.rc_context({"svg.fonttype": "none",
                                                             "svg.hashsalt": "five pillars"}):
        figure.savefig(temporary, format="svg", transparent=True, metadata={"Date": None})
        text = temporary.read_text(encoding="utf-8").replace("#000000", "currentColor")
        temporary.write_text(text[text.index("<svg"):], encoding="utf-8")
    plt.close(figure)
