"""How many of the planted bugs do the numbers alone show? Runs each in fast mode, where nothing is watched.

The emulator lets threads take turns in one fixed order; EMU_ORDER=1 in another. A race can give right
numbers in both. `python tests/slow/bug_luck.py` prints a line per bug, then the count.
"""

import functools
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "csrc"), str(Path(__file__).parent)]
import flash_bugs  # noqa: E402
from planted_bugs import BUGS  # noqa: E402
from test_flash_bugs import copy, excess  # noqa: E402
from test_planted_bugs import CSRC, worst_error  # noqa: E402


def verdict(right, order: str, answer) -> None:
    """Put into the queue whether right(), in a process of its own, says that the numbers are right."""
    if order:
        os.environ["EMU_ORDER"] = order
    try:
        answer.put("right numbers" if right() else "wrong numbers")
    except RuntimeError:
        answer.put("stopped")  # a barrier or a launch that cannot work stops the emulator in every mode


def right_attention(file: str, right: str, wrong: str) -> bool:
    """Are the numbers of a planted bug of planted_bugs.py right?"""
    with tempfile.TemporaryDirectory() as folder:
        cu = Path(folder) / file
        cu.write_text((CSRC / file).read_text().replace(right, wrong, 1))
        return worst_error(cu, "fast") < 1e-5


def right_rung(name: str, file: str, right: str, wrong: str) -> bool:
    """Are the numbers of a planted bug of flash_bugs.py right?"""
    with tempfile.TemporaryDirectory() as folder:
        return excess(name, copy(Path(folder), file, right, wrong), "fast") <= 0


def count(title: str, bank: list, right) -> None:
    """Print what fast mode shows of each bug of a bank that breaks a rule of CUDA."""
    bugs, silent = [bug for bug in bank if bug[-1] != "WRONG"], 0
    for what, *where, _ in bugs:
        seen = []
        for order in ("", "1"):
            answer = multiprocessing.SimpleQueue()
            given = functools.partial(right, *where), order, answer
            child = multiprocessing.Process(target=verdict, args=given)
            child.start()
            child.join()
            seen.append("crashed" if answer.empty() else answer.get())
        silent += seen[0] == "right numbers"
        print(f"{seen[0]:14} {seen[1]:14} {what}", flush=True)
    print(f"{title}: {silent} of {len(bugs)} bugs that break a rule of CUDA give right numbers in fast mode")


def main() -> None:
    """Both banks."""
    count("fp32", BUGS, right_attention)
    count("tensor cores", flash_bugs.BUGS, right_rung)


if __name__ == "__main__":
    main()
