"""Three places to change what a system does: the harness, what the model reads, the model. Three needs.

The rule of thumb says: new facts by retrieval, new actions by tools in the harness, a new default by training
(for facts measured by Ovadia et al. 2023, "Fine-tuning or retrieval?"). Here every need is met in every
place, with one model (chapter 7's GRPO) and about the same items:

- facts: names of other packages, in no training text (rag.py);
- actions: products, which it cannot work out but can ask a calculator for;
- default: every answer about a name ends in " Thank you for asking.", which this model was taught not to say.

In each of the nine cells stand the gain, what it costs (old facts and sums that are lost, tokens a question)
and the seconds of computing that the change takes.

    python 08_inference/three_places.py    three minutes of one core, for all of out, out/seed1 and out/seed2
                                           that `make seeds` has written
"""
import sys
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import bm25
import fact_tuning
import harness
import harness_plans
import place_changes
import rag
import replay
import taught_calls
from cells import Cells
from harness_study import seed_folders
from matrix_figure import draw_matrix
from place_changes import NEEDS, PLACES, Amounts, Place
from results_table import mean_and_spread, print_table

CODE = [sys.modules[__name__], place_changes, fact_tuning, harness, harness_plans, taught_calls, rag, bm25,
        replay]


@dataclass
class Settings(RunSettings):
    """How much to change and to ask."""
    names: int = setting(30, least=3)         # new names; modules and first parameters are asked for
    questions: int = setting(40, least=1)     # of each other kind
    fact_steps: int = 80                      # optimizer steps on the new facts
    default_steps: int = 20                   # optimizer steps on the new default


QUICK = dict(names=3, questions=2, fact_steps=2, default_steps=2)


def fill(home: Path, cells: Cells, s: Settings, seed: int) -> dict[str, dict]:
    """The rows of one folder: each need before, and in each place."""
    amounts = Amounts(**{k: getattr(s, k) for k in QUICK})
    place = Place(home, amounts, seed)
    data = content_hash(*(home / "07_alignment" / f"{name}.pt" for name in ("grpo", "tools")),
                        home / "01_tokenizer" / "tasks.json")
    rows = {}
    for need in NEEDS:
        for where in ("before", *PLACES):
            def make(need=need, where=where) -> dict:
                build, seconds = (place.before(), 0.0) if where == "before" else place.change(need, where)
                return {**place.measure(build, need), "seconds": seconds}
            cell = {"need": need, "place": where, "data": data, "seed": seed, **vars(amounts)}
            rows[f"{need}, {where}"] = cells.get(cell, make)
            print(f"  {home}: {need}, {where}", flush=True)
    return rows


def draw(path: Path, results: dict[str, list[dict]]) -> None:
    """Nine cells: what a change gains, what of the old it loses (mean of facts and sums), its seconds."""
    def mean(row: str, *keys: str) -> float:
        return 100 * sum(r[k] for r in results[row] for k in keys) / len(results[row]) / len(keys)

    good, texts = [], []
    for need in NEEDS:
        changed = [(mean(f"{need}, {p}", "need") - mean(f"{need}, before", "need"),
                    mean(f"{need}, {p}", "old facts", "old sums")
                    - mean(f"{need}, before", "old facts", "old sums"),
                    mean(f"{need}, {p}", "seconds") / 100) for p in PLACES]
        good.append([(gain + old) / 100 for gain, old, _ in changed])
        texts.append([f"{round(gain):+d} new, {round(old):+d} old\n{seconds:.3g} s"
                      for gain, old, seconds in changed])
    draw_matrix(path, "Points gained of what is new, and lost of what was known; seconds to change",
                [f"new {need}" for need in NEEDS], PLACES, good, texts, 8, 3)


def main() -> None:
    """Nine cells for each seed that is there; the table and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    torch.set_num_threads(1)
    announce("08 three places", s, cpu_only=True)
    out = Path(s.out)
    homes = [home for home in seed_folders(out) if (home / "07_alignment" / "tools.pt").exists()]
    if not homes:
        raise ValueError(f"{out} has no finished run: run `make 07` first")
    cells = Cells(out / "study" / "three_places", CODE)
    filled = [fill(home, cells, s, s.seed + i) for i, home in enumerate(homes)]
    results = {row: [f[row] for f in filled] for row in filled[0]}
    header = ["the need", "old facts", "old sums", "tokens a question", "seconds"]
    print_table([f"{len(homes)} seeds, %", *header],
                [[row, *(mean_and_spread([100 * r[k] for r in got], 0)
                         for k in ("need", "old facts", "old sums")),
                  *(f"{sum(r[k] for r in got) / len(got):{form}}"
                    for k, form in (("tokens", ".0f"), ("seconds", ".2g")))] for row, got in results.items()])
    draw(out / "08_inference" / "three_places", results)
    write_json(out / "08_inference" / "three_places.json", {"seed": s.seed, "results": results})


if __name__ == "__main__":
    run_main(main)
