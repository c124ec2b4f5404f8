"""What a run writes down about its steps, and how it sees that one of them went wrong.

A loss is on the device until somebody reads it; `Pending` keeps those of the steps since the last reading. A
step is bad when its loss or its gradient is not finite, or when the loss is far above the usual one: a
*spike*, which large runs meet every few thousand steps.

    python 03_training/what_breaks.py      shows a spike, and a run that rolls back before it
"""
import math
import statistics
import time

from torch import Tensor

USUAL = 50   # the usual loss is the median of so many steps


class Pending:
    """Steps whose numbers nobody has read yet."""

    def __init__(self):
        self.rows: list[dict] = []
        self.begin = time.perf_counter()

    def add(self, step: int, loss: Tensor, grad_norm: Tensor | float, numbers: dict) -> None:
        """Note a step; tensors stay where they are."""
        self.rows.append({"step": step, "loss": loss.detach(), "grad_norm": grad_norm, **numbers})

    def read(self) -> list[dict]:
        """The noted steps as plain numbers, each with its share of the seconds since the last reading."""
        rows = [{name: v if name == "step" else float(v) for name, v in row.items()} for row in self.rows]
        now = time.perf_counter()   # after the device has caught up
        for row in rows:
            row["seconds"] = (now - self.begin) / len(rows)
        self.rows, self.begin = [], now
        return rows


def first_bad(log: list[dict], new: int, spike: float = math.inf) -> int | None:
    """Index of the first bad row among the last `new` of the log, or None.

    Bad is a loss or a gradient that is not finite, or a loss above `spike` times the median of the 50 steps
    before it. A policy's loss can be negative, where "times" says nothing: only a positive median is usual.
    """
    for i in range(len(log) - new, len(log)):
        if not (math.isfinite(log[i]["loss"]) and math.isfinite(log[i]["grad_norm"])):
            return i
        before = [row["loss"] for row in log[max(i - USUAL, 0):i] if math.isfinite(row["loss"])]
        usual = statistics.median(before) if len(before) == USUAL else 0
        if usual > 0 and log[i]["loss"] > spike * usual:
            return i
    return None


def describe(row: dict) -> str:
    """What is wrong with a bad row, in words."""
    if not math.isfinite(row["loss"]):
        return f"the loss of step {row['step']} is not finite"
    if not math.isfinite(row["grad_norm"]):
        return f"the gradient of step {row['step']} is not finite"
    return f"the loss of step {row['step']} jumped to {row['loss']:.3g}"
