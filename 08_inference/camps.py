"""Five camps, one base, one budget: does the gain of two of them add up?

Adds to camp_levers.py the experiment: sixteen cells, none, one or two levers, three seeds, each with about as
many steps (the seconds are printed beside it). The exam is the share of 200 held-out sums that is right to
the digit: every camp claims to raise it. (Facts were part of it at first and were dropped before any lever
was compared: in such a budget the base learns none.) What counts must be the model's own words: a calculator
would answer every sum and say nothing about a model. Bits a byte of held-out text stand beside, where context
has nothing to move. The budget was chosen by looking at the base and D of seed 0, so that there is something
to raise and room above it; of P a first version in the chat form was dropped, because its steps did not teach
that form (2.5% on seed 0, where the base has 18.5).

    python 08_inference/camps.py           after `make`; two minutes of a core for each seed (make study)
"""
import itertools
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import adamw
import camp_levers
import grpo
import muon
import quantize
import recipe
import transformer
from bits_per_byte import bits_per_byte
from bpe import Tokenizer
from camp_levers import CAMPS, Budget, World, post_train, pretrain, sums_right
from cells import Cells, cell_key
from checkpoint import load_model, save_model
from matrix_figure import draw_matrix
from quantize import quantize_model, stored_bytes
from results_table import mean_and_spread, print_table
from tasks import load_tasks
from token_file import pack
from transformer import Transformer

CODE = [sys.modules[__name__], camp_levers, recipe, transformer, muon, adamw, grpo, quantize]
PAIRS = ["".join(p) for p in itertools.combinations(CAMPS, 2)]
CELLS = ["", *CAMPS, *PAIRS]


@dataclass
class Settings(RunSettings):
    """The budget of a cell."""
    seeds: int = setting(3, least=1)                     # repetitions of everything
    sum_steps: int = setting(150, least=1)               # steps of sums alone
    steps: int = setting(60, least=5)                    # steps of sums and text after them
    post_share: float = setting(0.4, above=0, most=0.9)  # share of the latter that post-training takes
    sft_steps: int = setting(6, least=1)                 # steps of SFT
    grpo_steps: int = setting(20, least=1)               # steps of GRPO


QUICK = dict(seeds=1, sum_steps=2, steps=5, sft_steps=1, grpo_steps=1)
SHOTS = (0, 2, 4)   # right examples before a sum, of which C takes the best
TRIES = 8           # answers that C may ask for


class Experiment:
    """Trains each model once, keeps it, and measures cells with it."""

    def __init__(self, s: Settings):
        out = Path(s.out)
        self.s, self.folder, text = s, out / "study" / "camps", out / "01_tokenizer"
        self.budget = Budget(s.sum_steps, s.steps, s.post_share, s.sft_steps, s.grpo_steps)
        self.tokenizer = Tokenizer.load(text / "tokenizer.json")
        self.world = World(out, self.tokenizer, load_tasks(text / "tasks.json"))
        data = content_hash(text / "tokenizer.json", text / "tasks.json",
                            *sorted((out / "06_data" / "stages").glob("*-extract/*.gz")))
        self.cell = {**asdict(self.budget), "data": data}
        self.cells = Cells(self.folder, CODE)

    def trained(self, camps: str, seed: int) -> tuple[Transformer, dict]:
        """The model of A, D, P and E of `camps`, and what its training took; C trains nothing."""
        camps = camps.replace("C", "")
        cell = {**self.cell, "row": "training", "camps": camps, "seed": seed}
        path = self.folder / f"{cell_key(cell, CODE)}.pt"

        def make() -> dict:
            begin, reward = time.process_time(), 0.0
            model = pretrain(camps, self.world, self.budget, seed)
            if "P" in camps:
                reward = post_train(model, camps, self.world, self.budget, seed)
            save_model(path, model)
            return {"seconds": time.process_time() - begin, "reward": reward}
        took = self.cells.get(cell, make)
        return load_model(path), took

    def measure(self, camps: str, seed: int) -> dict:
        """The exam; C chooses its examples by sums that the exam does not ask."""
        model, took = self.trained(camps, seed)
        if "E" in camps:
            model = quantize_model(model)
        world, shots = self.world, 0
        if "C" in camps:
            tried = {n: sums_right(model, world, world.dev, n, TRIES, seed) for n in SHOTS}
            shots = max(SHOTS, key=lambda n: tried[n])   # of equals the fewest
        exam = sums_right(model, world, world.test, shots, TRIES if "C" in camps else 1, seed)
        text = world.text
        bits = bits_per_byte(model, pack(self.tokenizer, text), sum(len(t.encode()) for t in text))
        return {"exam": exam, "bits": bits, "shots": shots, "bytes": stored_bytes(model), **took}

    def run(self, camps: str, seed: int) -> dict:
        """One cell, computed once."""
        cell = {**self.cell, "row": "exam", "camps": camps, "seed": seed}
        return self.cells.get(cell, lambda: self.measure(camps, seed))


def gain(results: dict[str, list[dict]], camps: str, key: str) -> list[float]:
    """What levers change of the base, by seed."""
    return [r[key] - b[key] for r, b in zip(results[camps], results[""])]


def extra(results: dict[str, list[dict]], camps: str, key: str) -> list[float]:
    """What a pair of levers gives beyond the sum of their gains alone, by seed."""
    alone = [gain(results, camp, key) for camp in camps]
    return [together - sum(parts) for together, *parts in zip(gain(results, camps, key), *alone)]


def grid(results: dict[str, list[dict]], key: str) -> list[list[list[float]]]:
    """5 x 5, by seed: one camp's gain on the diagonal, a pair's above it, below it the pair minus the sum."""
    order = list(CAMPS)

    def at(i: int, j: int) -> list[float]:
        if i == j:
            return gain(results, order[i], key)
        pair = order[min(i, j)] + order[max(i, j)]
        return (gain if i < j else extra)(results, pair, key)
    return [[at(i, j) for j in range(len(order))] for i in range(len(order))]


def draw(path: Path, results: dict[str, list[dict]]) -> None:
    """The grid of the exam in points."""
    values = [[[100 * x for x in cell] for cell in row] for row in grid(results, "exam")]
    names = list(CAMPS.values())
    draw_matrix(path, "Points of the exam; diagonal: a camp alone; above: a pair; below: pair minus the sum",
                names, names, [[statistics.mean(c) / 40 for c in row] for row in values],
                [[mean_and_spread(c, 1) for c in row] for row in values], 9, 4)


def print_grid(results: dict[str, list[dict]], key: str, scale: float, digits: int) -> None:
    """The grid as a table."""
    print_table([key, *CAMPS.values()],
                [[name, *(mean_and_spread([scale * x for x in cell], digits) for cell in row)]
                 for name, row in zip(CAMPS.values(), grid(results, key))])


def main() -> None:
    """All cells, what each took, both grids and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    torch.set_num_threads(1)   # seconds of one core are the budget
    announce("08 five camps", s, cpu_only=True)
    it = Experiment(s)
    results: dict[str, list[dict]] = {}
    for seed in range(s.seed, s.seed + s.seeds):
        for camps in CELLS:
            results.setdefault(camps, []).append(it.run(camps, seed))
            print(f"  seed {seed}  {camps or 'base':<6} exam {results[camps][-1]['exam']:.1%}", flush=True)
    table = [[camps or "base", mean_and_spread([100 * r["exam"] for r in got]),
              mean_and_spread([r["bits"] for r in got], 2),
              f"{statistics.mean(r['seconds'] for r in got):.1f}", f"{got[0]['bytes'] // 1000}",
              ", ".join(str(r["shots"]) for r in got) if "C" in camps else ""]
             for camps, got in results.items()]
    print_table([f"{s.seeds} seeds", "exam %", "bits", "CPU s", "kB", "examples"], table)
    print_grid(results, "exam", 100, 1)
    print_grid(results, "bits", 1, 2)
    draw(it.folder / "camps", results)
    write_json(it.folder / "camps.json", {"seed": s.seed, "results": results})


if __name__ == "__main__":
    run_main(main)
