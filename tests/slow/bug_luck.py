"""How many of the planted bugs do the numbers alone show? Runs each in fast mode, where nothing is watched.

The emulator lets threads take turns in one fixed order; EMU_ORDER=1 in another. A race can give right
numbers in both. `python tests/slow/bug_luck.py` prints a line per bug, then the count.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "csrc"), str(Path(__file__).parent)]
from planted_bugs import BUGS  # noqa: E402
from test_planted_bugs import CSRC, worst_error  # noqa: E402


def verdict(cu: str, order: str, answer) -> None:
    """Put into the queue whether the numbers of one build are right."""
    if order:
        os.environ["EMU_ORDER"] = order
    try:
        answer.put("right numbers" if worst_error(Path(cu), "fast") < 1e-5 else "wrong numbers")
    except RuntimeError:
        answer.put("stopped")  # a barrier or a launch that cannot work stops the emulator in every mode


def main() -> None:
    """Print what fast mode shows of each bug that breaks a rule of CUDA."""
    bugs, silent = [bug for bug in BUGS if bug[4] != "WRONG"], 0
    with tempfile.TemporaryDirectory() as folder:
        for what, file, right, wrong, _ in bugs:
            cu = Path(folder) / file
            cu.write_text((CSRC / file).read_text().replace(right, wrong, 1))
            seen = []
            for order in ("", "1"):
                answer = multiprocessing.SimpleQueue()
                child = multiprocessing.Process(target=verdict, args=(str(cu), order, answer))
                child.start()
                child.join()
                seen.append("crashed" if answer.empty() else answer.get())
            silent += seen[0] == "right numbers"
            print(f"{seen[0]:14} {seen[1]:14} {what}", flush=True)
    print(f"{silent} of {len(bugs)} bugs that break a rule of CUDA give right numbers in fast mode")


if __name__ == "__main__":
    main()
