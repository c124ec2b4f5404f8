"""The tables of rag_study.py: what each way knows and costs, whom the model believes, and a changed fact.

    python 08_inference/rag_study.py       prints them
"""
from collections.abc import Callable

from results_table import mean_and_spread, print_table

Results = dict[str, list[dict]]     # for each part of the study, one dictionary a model
READS = ("as it came", "reader")
TUNED = ("tuned on documents", "tuned on questions")


def percent(got: list[dict], value: Callable[[dict], float]) -> str:
    """Mean and spread of a share, in percent."""
    return mean_and_spread([100 * value(g) for g in got], 0)


def mean(got: list[dict], value: Callable[[dict], float]) -> float:
    """The mean of a number over the models."""
    return sum(map(value, got)) / len(got)


def knowing(results: Results) -> list[list[str]]:
    """A row for each way: right answers, cost of a question, seconds to take the manual in, what is kept."""
    rows = []
    for part in (*READS, *TUNED):
        got = results[part]
        for way in got[0]["rows"]:
            indexed = way == "retrieval"
            ready = mean(got, lambda g: g["seconds"] if part in TUNED else g["indexing"] * indexed)
            rows.append([f"{part}, {way}", percent(got, lambda g: g["rows"][way]["two"]),
                         percent(got, lambda g: g["rows"][way]["kind"]),
                         f"{mean(got, lambda g: g['rows'][way]['tokens']):.0f}",
                         f"{1000 * mean(got, lambda g: g['rows'][way]['seconds']):.1f}",
                         f"{ready:.3g}",
                         percent(got, lambda g: g["kept"]["old facts"]),
                         percent(got, lambda g: g["kept"]["sums"])])
    return rows


def believing(results: Results) -> list[list[str]]:
    """What is answered behind a text that is wrong, or carries more than it should."""
    return [[f"{part}: {name}", *(percent(results[part], lambda g: g["wrong"][name][verdict])
                                  for verdict in ("right", "instead", "unknown", "other"))]
            for part in READS for name in results[part][0]["wrong"]]


def changing(results: Results) -> list[list[str]]:
    """After some facts have changed: new and old answers, the rest of the manual, seconds."""
    ways = {"as it came": "retrieval, as it came", "reader": "retrieval, reader", **{t: t for t in TUNED}}
    columns = ("new", "old", "others")
    return [[label, *(percent(results[part], lambda g: g["change"][what]) for what in columns),
             f"{mean(results[part], lambda g: g['change']['seconds']):.2g}"]
            for part, label in ways.items()]


def show(results: Results) -> None:
    """Print all three."""
    print_table(["% right", "module, parameter", "kind", "tokens", "ms", "s to take in", "old facts", "sums"],
                knowing(results))
    print_table(["before the question, %", "right", "what it says", "I do not know", "other"],
                believing(results))
    print_table(["after a change, %", "new", "old", "others", "s"], changing(results))
    readers, tuned = results["reader"], results["tuned on documents"]
    print(f"  {mean(readers, lambda g: g['per_shelf']):.1f} documents fit; to teach reading took "
          f"{mean(readers, lambda g: g['seconds']):.0f} s, once")
    print(f"  tuned on documents, it completes {percent(tuned, lambda g: g['recall'])}% of the sentences "
          "whose questions it is asked above")
