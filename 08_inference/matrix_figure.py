"""A matrix as a figure: a number in each cell, coloured by how good or bad it is.

Adds to figures.py the one drawing that several studies of this chapter share. The sign stands in the number,
so that nothing is lost in black and white.

    python 08_inference/forgetting.py      draws one
"""
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from figures import new_axes, plt, save

INK = "#111111"   # on coloured cells: pure black would turn white on a dark page


def draw_matrix(path: Path | str, title: str, rows: Sequence[str], columns: Sequence[str],
                good: Sequence[Sequence[float]], texts: Sequence[Sequence[str]], width: float = 8.5,
                height: float = 4.2) -> None:
    """Write a figure of cells: `good` from -1 (brown) to 1 (green), more is cut off; NaN leaves a cell grey.

    `good` and `texts` have a row for each of `rows` and an entry for each of `columns`: ValueError if not.
    """
    if any(len(x) != len(rows) or any(len(r) != len(columns) for r in x) for x in (good, texts)):
        raise ValueError(f"a matrix of {len(rows)} rows and {len(columns)} columns: give as many cells")
    axes = new_axes(title, "", "", width, height)
    shown = [[math.nan if math.isnan(g) else min(max(g, -1), 1) for g in row] for row in good]
    colours = plt.get_cmap("BrBG").with_extremes(bad="#dddddd")
    axes.pcolormesh(np.ma.masked_invalid(shown), cmap=colours, vmin=-1.6, vmax=1.6, edgecolors="#ffffff",
                    linewidth=2)
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, color=INK)
    axes.set_xticks([j + 0.5 for j in range(len(columns))], columns, fontsize=8)
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.invert_yaxis()   # the first row on top
    save(axes, path)
