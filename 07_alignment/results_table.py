"""Tables of results as this chapter prints them: a row for each method, mean and spread over seeds.

    python 07_alignment/lora.py            prints one
"""
import statistics
from collections.abc import Sequence


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """"87.9 ± 1.2": mean and standard deviation of a sample; the value alone if it is the only one."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest entry; the first reads from the left, numbers from the right."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        first, *rest = (str(x) for x in row)
        print("  " + "  ".join([first.ljust(widths[0]), *(x.rjust(w) for x, w in zip(rest, widths[1:]))]),
              flush=True)
