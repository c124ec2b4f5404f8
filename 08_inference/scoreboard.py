"""The scoreboard: one line a measurement, before and after a stage, its control beside it, and the time.

Every number comes from the metrics.json that the chapters wrote in this run. `--check` compares the lines
with what the README promises and fails if one does not hold.

    python 08_inference/scoreboard.py --out out          make prints this at its end
    python 08_inference/scoreboard.py --out out out/seed1 out/seed2 --check
"""
import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    from workbench import read_json, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None


@contextmanager
def results_of_this_code() -> Iterator[None]:
    """Around what reads results, as a decorator: ValueError where they lack what this code writes."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"the results are incomplete or of other code ({what}): run make again") from None


@results_of_this_code()
def collect(out: Path | str) -> list[dict]:
    """The rows {"stage", "metric", "before", "after", "control", "seconds"} of one run; rates are 0 to 1.

    `seconds` is training time and stands on the first row of a stage only, so that the column can be summed.
    """
    out = Path(out)
    training, alignment, inference = (read_json(out / c / "metrics.json")
                                      for c in ("03_training", "07_alignment", "08_inference"))
    before, after = training["before"], training["after"]
    skills, spent = alignment["skills"], alignment["stage_seconds"]
    raw, init, sft, dpo, grpo = (skills[k] for k in ("chat_raw", "token_init", "sft", "dpo", "grpo"))
    random, more = skills["control_random"], skills["control_more"]
    forecast = _forecast(out / "05_scaling" / "metrics.json")
    cache, int4, gguf, rag = (inference[part] for part in ("cache", "int4", "gguf", "rag"))
    raters = alignment["logs"].get("ppo", [None])[-1]   # nothing where no two answers could be compared
    k = next((name for name in sft if name.startswith("pass@")), None)
    if k is None:
        raise ValueError(f"{out / '07_alignment' / 'metrics.json'} is of other code, the SFT model has no "
                         "pass@k there: run make again")
    vote = k.replace("pass", "majority")
    rows = [
        ("pretrain", "real text, bits per byte", before["bits_per_byte"], after["bits_per_byte"], None,
         training["train_seconds"]),
        ("pretrain", "  forecast > outcome (control: best small run)", *forecast, None),
        ("facts", "recall, completing a statement", before["recall"], after["recall"], None, None),
        ("facts", "questions in plain form", before["plain_answers"], after["plain_answers"], None, None),
        ("facts", "addition in plain form", before["plain_addition"], after["plain_addition"], None, None),
        ("sft", "names never asked about (control: no pretraining)", raw["facts"], sft["facts"],
         random["facts"], spent["sft"]),
        ("sft", "  same, new tokens initialised only", raw["facts"], init["facts"], None, None),
        ("sft", "  module and parameter only (control: no pretraining)", _two(raw), _two(sft), _two(random),
         None),
        ("sft", "addition, teacher half wrong", raw["addition"], sft["addition"], random["addition"], None),
        ("sft", "  same, new tokens initialised only", raw["addition"], init["addition"], None, None),
        ("dpo", "terse answers", sft["terse"], dpo["terse"], None, spent["dpo"]),
        ("dpo", "  names never asked about", sft["facts"], dpo["facts"], None, None),
        ("grpo", "addition (control: as many more SFT steps)", dpo["addition"], grpo["addition"],
         more["addition"], spent["grpo"]),
        ("grpo", f"  SFT model: {k} (control: majority vote)", sft["addition"], sft[k], sft[vote], None),
        ("grpo", "  names never asked about", dpo["facts"], grpo["facts"], None, None),
        ("grpo", "  terse answers", dpo["terse"], grpo["terse"], None, None),
        ("lora", "names, adapters trained alone (control: SFT)", raw["facts"], skills["lora"]["facts"],
         sft["facts"], spent["lora"]),
        ("ppo", "reward model: held-out pairs (control: the raters)", 0.5,
         raters and raters["pairs_right"], raters and raters["raters_right"], spent["ppo"]),
        ("ppo", "  true reward, 0 to 3 (control: its best of 8)",
         *(raters and raters[at]["true"] for at in ("before", "after", "best_of")), None),
        ("tool use", "products, with a calculator (control: answers alone)",
         *(alignment["products"][name] for name in ("grpo", "tools", "control_tools")), spent["tools"]),
        ("tool use", "  sums, without a call", grpo["addition"], skills["tools"]["addition"],
         skills["control_tools"]["addition"], None),
        ("refusal", "forbidden topic refused (control: look-alikes)",
         *(alignment["refused"][k] for k in ("before", "forbidden", "look-alikes")), spent["refusal"]),
        ("refusal", "  modules, which nobody forbade", grpo["module"], skills["refusal"]["module"], None,
         None),
        ("distill", "addition, teacher > student (control: data alone)", grpo["addition"],
         skills["student"]["addition"], skills["student_data"]["addition"], spent["student"]),
        ("cache", "decoding speed, uncached = 1", 1.0, _speed(cache), None, cache["seconds"]),
        ("cache", "16 requests together, one by one = 1", 1.0, _speed(inference["batching"]), None,
         inference["batching"]["seconds"]),
        ("cache", "prompt look-up drafts, without = 1", 1.0, _speed(inference["speculation"]),
         None, None),
        ("int4", "size, fp32 = 1", 1.0, int4["bytes_after"] / int4["bytes_before"], None, int4["seconds"]),
        ("int4", "  perplexity on real text", int4["before"]["perplexity"], int4["after"]["perplexity"], None,
         None),
        ("int4", "  names never asked about", int4["before"]["facts"], int4["after"]["facts"], None, None),
        ("gguf", "names, read back from a Q8_0 file", int4["before"]["facts"],
         gguf["facts"] if gguf["same_tokenizer"] else None, None, None),
        ("rag", "right document first, BM25 (control: own vectors)", rag["chance"], rag["bm25"],
         rag["vectors"], rag["seconds"]),
        ("rag", "  answers; not taught to read (control: a wrong text)", rag["closed"], rag["found"],
         rag["wrong"], None),
    ]
    return [dict(zip(("stage", "metric", "before", "after", "control", "seconds"), row)) for row in rows]


def _forecast(path: Path) -> tuple[float | None, ...]:
    """Chapter 5's forecast of the main model, what that model measured, the best run that the forecast saw.

    Nothing in a run without chapter 5.
    """
    real = read_json(path)["real_text"] if path.exists() else {}
    return (*real.get("forecast", [None])[:1], real.get("measured"), real.get("best_so_far"))


def _speed(timed: dict) -> float | None:
    """How many times as fast; nothing if the output was another."""
    return timed["speedup"] if timed["same_output"] else None


def _two(skills: dict) -> float:
    """Mean of the two kinds of question that cannot be guessed ("kind" has three possible answers)."""
    return (skills["module"] + skills["parameter"]) / 2


def _promises() -> list[tuple[str, str, Callable[[dict], bool]]]:
    """What the README promises: (stage, start of the metric's name, test of the row)."""
    return [
        ("pretrain", "real text", lambda r: r["before"] > 4 and r["after"] < 2.6),
        ("facts", "recall", lambda r: r["before"] == 0 and r["after"] >= 0.9),
        ("sft", "names", lambda r: r["before"] <= 0.05 and r["after"] >= 0.7 and r["control"] <= 0.3),
        ("dpo", "terse", lambda r: r["before"] <= 0.5 and r["after"] >= 0.95),
        ("dpo", "  names", lambda r: r["after"] >= r["before"] - 0.03),
        ("grpo", "addition", lambda r: r["before"] <= 0.45 and r["after"] >= 0.9
         and r["control"] <= r["before"] + 0.05),
        ("grpo", "  names", lambda r: r["after"] >= r["before"] - 0.03),
        ("grpo", "  terse", lambda r: r["after"] >= r["before"] - 0.03),
        ("lora", "names", lambda r: r["after"] >= r["control"] - 0.03),
        ("tool use", "products", lambda r: r["after"] >= 0.8 and r["control"] <= 0.05),
        ("refusal", "forbidden", lambda r: r["before"] == 0 and r["after"] >= 0.9 and r["control"] <= 0.05),
        ("distill", "addition", lambda r: r["after"] >= 0.9 and r["control"] <= 0.5),
        ("cache", "decoding", lambda r: r["after"] is not None and r["after"] >= 2),
        ("cache", "16 requests", lambda r: r["after"] is not None and r["after"] >= 3),
        ("cache", "prompt look-up", lambda r: r["after"] is not None and r["after"] >= 1),
        ("int4", "size", lambda r: r["after"] <= 1 / 5.5),
        ("int4", "  perplexity", lambda r: r["after"] <= 1.02 * r["before"]),
        ("int4", "  names", lambda r: r["after"] >= r["before"] - 0.01),
        ("gguf", "names", lambda r: r["after"] is not None and r["after"] >= r["before"] - 0.01),
    ]


def broken_promises(rows: list[dict]) -> list[str]:
    """The rows that miss what the README promises, as sentences. ValueError: there is no such row."""
    broken = []
    for stage, start, holds in _promises():
        row = next((r for r in rows if r["stage"] == stage and r["metric"].startswith(start)), None)
        if row is None:
            raise ValueError(f"the results are of other code, they have no line '{stage}: {start.strip()}': "
                             "run make again")
        if not holds({k: round(v, 9) if isinstance(v, float) else v for k, v in row.items()}):
            broken.append(f"{stage}: {row['metric'].strip()}: {row['before']:.3f} -> {row['after']} (control "
                          f"{row['control']})")
    return broken


def show(value: float | None, row: dict) -> str:
    """A number as the table prints it: rates in percent, others with three digits, or two for rewards."""
    if value is None:
        return ""
    if "true reward" in row["metric"]:
        return f"{value:.2f}"
    is_rate = row["stage"] not in ("pretrain", "cache") and not any(
        w in row["metric"] for w in ("size", "perplexity"))
    return f"{value:.1%}" if is_rate else f"{value:.3f}"


def table(rows: list[dict]) -> str:
    """The scoreboard as text, at most 100 columns."""
    lines = [f"{'stage':<9}{'held-out metric':<53}{'before':>8}{'after':>8}{'control':>9}{'seconds':>9}",
             "-" * 96]
    rows = [r for r in rows if r["after"] is not None or "forecast" not in r["metric"]]   # no chapter 5
    for i, r in enumerate(rows):
        stage = r["stage"] if i == 0 or rows[i - 1]["stage"] != r["stage"] else ""
        seconds = "" if r["seconds"] is None else f"{r['seconds']:.1f}"
        lines.append(f"{stage:<9}{r['metric']:<53}{show(r['before'], r):>8}{show(r['after'], r):>8}"
                     f"{show(r['control'], r):>9}{seconds:>9}")
    return "\n".join(lines)


def seeds_table(runs: list[list[dict]], seeds: list[int]) -> str:
    """Before > after (control) of several runs side by side, rates in percent; three runs fit 100 columns."""
    lines = [f"{'stage':<9}{'before > after (control), rates in %':<37}"
             + "".join(f"{f'seed {s}':>18}" for s in seeds)]
    for same in zip(*runs):
        first, cells = same[0], []
        for r in same:
            before, after, control = (show(r[k], r).rstrip("%") for k in ("before", "after", "control"))
            cell = f"{before}>{after}" + (f" ({control})" if control else "")
            cells.append(cell if before or after else "--")
        name, numbers = first["metric"].split(" (control")[0], "".join(f" {c:>17}" for c in cells)
        # long cells take the blanks behind the name
        lines.append(f"{first['stage']:<9}{name}{numbers:>{37 + 18 * len(cells) - len(name)}}")
    return "\n".join(lines)


@results_of_this_code()
def main() -> None:
    """Print one scoreboard, or several side by side; with --check fail where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", nargs="+", default=["out"], help="one folder a run")
    parser.add_argument("--check", action="store_true", help="fail if a line misses what the README promises")
    args = parser.parse_args()
    runs = [read_json(Path(out, "scoreboard.json")) for out in args.out]
    seeds = [read_json(Path(out, "08_inference", "metrics.json"))["seed"] for out in args.out]
    lines = [[(r["stage"], r["metric"]) for r in rows] for rows in runs]
    for out, its in zip(args.out, lines):
        if its != lines[0]:
            raise ValueError(f"{out} and {args.out[0]} are of different code, their lines differ: run make "
                             "again in both")
    print("\n" + (table(runs[0]) if len(runs) == 1 else seeds_table(runs, seeds)))
    if len(runs) == 1:
        chapters = sorted(Path(args.out[0]).glob("0*/metrics.json"))
        times = {p.parent.name: read_json(p)["seconds"] for p in chapters}
        print("-" * 96 + "\nseconds by chapter, evaluation included: "
              + "  ".join(f"{c[:2]} {t:.0f}" for c, t in times.items()) +
              f"  total {sum(times.values()):.0f}   seed {seeds[0]}\nreport: "
              f"{Path(args.out[0], 'report.html')}   talk to it: make chat")
    broken = [f"seed {seed}: {line}" for seed, rows in zip(seeds, runs) for line in broken_promises(rows)]
    if args.check:
        print("\n".join(broken) or "every promise holds")
        sys.exit(bool(broken))


if __name__ == "__main__":
    run_main(main)
