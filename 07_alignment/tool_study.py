"""What a model does with tools that help, fail, or lie: the study of tool_use.py, three seeds.

    python 07_alignment/tool_study.py      from out/07_alignment/grpo.pt, some eight minutes (make study)
"""
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        parse_settings,
        run_main,
        seed_everything,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import tool_calls
import tool_use
import transformer
from arithmetic import problem, right_answer
from bpe import Tokenizer
from cells import Cells
from checkpoint import load_model
from invented_names import name_in
from recall import share
from results_table import mean_and_spread, print_table
from skills import chat_answers
from tasks import load_tasks
from tool_use import (
    DOUBT,
    UNKNOWN,
    Item,
    Lesson,
    ask,
    invented_item,
    other_digit,
    product_item,
    real_item,
    right,
    teach,
    unseen_pairs,
)
from transformer import Transformer


@dataclass
class Settings(RunSettings):
    """How long to teach."""
    steps: int = 200      # optimizer steps, the same for every row
    lr: float = 2.5e-2    # learning rate of Muon
    other_lr: float = 1.5e-3     # learning rate of AdamW
    items: int = 100      # items of each kind to measure on
    seeds: int = 3        # whole repetitions


LESSONS = {"answers alone": Lesson(10, 14, 8, use_tools=False), "tools": Lesson(10, 14, 8),
           "tools that may lie": Lesson(14, 10, 8, lies=0.3)}


class Study:
    """The items of one seed, and everything that is measured on them."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, self.device, text = s, seed, device, Path(s.out, "01_tokenizer")
        self.tokenizer, self.tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        rng = random.Random(f"tool study {seed}")
        names = [name_in(q) for q in self.tasks.train_questions]
        self.pairs = unseen_pairs(s.items, seed)
        self.products = [product_item(p) for p in self.pairs]
        self.invented = [invented_item(names, rng) for _ in range(s.items)]
        self.real = [real_item(q) for q in rng.sample(self.tasks.held_out_questions,
                                                      min(s.items, len(self.tasks.held_out_questions)))]
        sums = [(f"calc({problem(p)})", problem(p), right_answer(p)) for p in self.tasks.test_sums[:s.items]]
        self.sums = [Item(question, call, answer, answer) for call, question, answer in sums]

    def alone(self, model: Transformer) -> dict:
        """Without tools: the share of right answers."""
        def score(items: list[Item]) -> float:
            said = chat_answers(model, self.tokenizer, [i.question for i in items], 34)
            return share([a == i.answer for [a], i in zip(said, items)])
        return {k: score(getattr(self, k)) for k in ("products", "invented", "real", "sums")}

    def lied_to(self, model: Transformer, items: list[Item], at: int, begin: bool = False) -> dict:
        """One digit (or, where the result is a word, all of it) is another: is it repeated, or doubted?"""
        rng = random.Random(f"lies {self.seed}")
        words = ["json", "pickle", "socket"]

        def lie(result: str) -> str:
            if result.isdigit():
                return other_digit(result, at, rng)
            return rng.choice([w for w in words if w != result])
        said = [(c, i) for c, i in zip(ask(model, self.tokenizer, items, begin, lie), items) if c.calls]
        return {"repeated": share([(c.answer or "").strip(" .") == c.calls[-1][1] for c, _ in said]),
                "right all the same": share([c.answer == i.answer for c, i in said]),
                "doubted": share([c.answer in (DOUBT, UNKNOWN) for c, _ in said])}

    def with_tools(self, model: Transformer) -> dict:
        """All that is asked of a model with tools."""
        said = {k: ask(model, self.tokenizer, getattr(self, k))
                for k in ("products", "invented", "real", "sums")}
        calls = [call for c in said["products"] + said["invented"] for call in c.calls]
        once, twice = (ask(model, self.tokenizer, self.products, fails=n) for n in (1, 2))
        return {**{k: right(c, getattr(self, k)) for k, c in said.items()},
                **{f"{k} called": share([bool(c.calls) for c in v]) for k, v in said.items()},
                "malformed": share([p.startswith(("malformed", "unknown")) for _, _, p in calls]),
                "refused by the tool": share([bool(p) and not p.startswith(("malformed", "unknown"))
                                              for _, _, p in calls]),
                "after one error": right(once, self.products),
                "given up after two": share([c.answer == UNKNOWN for c in twice]),
                "lie, ones digit": self.lied_to(model, self.products, 0),
                "lie, third digit": self.lied_to(model, self.products, 2),
                "lie, known sum": self.lied_to(model, self.sums, 1, begin=True),
                "lie, known name": self.lied_to(model, self.real, 0, begin=True),
                "no lie": {"doubted": share([c.answer == DOUBT for c in said["products"]])}}

    def row(self, name: str | None) -> dict:
        """Teach one lesson (None: the model as it came) and measure."""
        model = load_model(Path(self.s.out, "07_alignment", "grpo.pt"), self.device)
        if name is None:
            return self.alone(model)
        seed_everything(self.seed)
        teach(model, self.tokenizer, self.tasks, LESSONS[name], self.s.steps, self.s.lr,
              self.s.other_lr, self.seed, set(self.pairs) | set(self.tasks.test_sums))
        return self.with_tools(model) if LESSONS[name].use_tools else self.alone(model)


def main() -> None:
    """Accuracy with and without tools; errors; lies."""
    s = parse_settings(Settings, __doc__, dict(steps=3, items=8, seeds=1))
    device = announce("07 tool use", s)
    cells = Cells(Path(s.out, "study", "tool_use"),
                  [transformer, tool_calls, tool_use, sys.modules[__name__]])
    data = content_hash(Path(s.out, "07_alignment", "grpo.pt"), Path(s.out, "01_tokenizer", "tasks.json"))
    got: dict[str, list[dict]] = {}
    for seed in range(s.seed, s.seed + s.seeds):
        study = Study(s, seed, device)
        for name in (None, *LESSONS):
            cell = {"lesson": name and asdict(LESSONS[name]), "steps": s.steps, "lr": s.lr,
                    "other_lr": s.other_lr, "items": s.items, "seed": seed, "data": data}
            row = cells.get(cell, lambda study=study, name=name: study.row(name))
            got.setdefault(name or "before", []).append(row)

    def percent(rows: list[dict], key: str, inner: str = "") -> str:
        return mean_and_spread([100 * (r[key][inner] if inner else r[key]) for r in rows])

    kinds = ("products", "invented", "real", "sums")
    print_table(["right, %", "products", "invented names", "real names", "sums"],
                [[name, *(percent(rows, k) for k in kinds)] for name, rows in got.items()])
    taught = {name: rows for name, rows in got.items() if "malformed" in rows[0]}
    print_table(["questions with a call, %", "products", "invented names", "real names", "sums"],
                [[name, *(percent(rows, f"{k} called") for k in kinds)] for name, rows in taught.items()])
    trouble = ("malformed", "refused by the tool", "after one error", "given up after two")
    print_table(["of calls, and of products, %", *trouble],
                [[name, *(percent(rows, k) for k in trouble)] for name, rows in taught.items()])
    for name, rows in taught.items():
        each = ", ".join(f"{100 * row['after one error']:.0f}" for row in rows)
        print(f"  {name}: right after one error, by seed: {each}%")
    lies = ("lie, ones digit", "lie, third digit", "lie, known sum", "lie, known name")
    print_table(["a tool that lies, %", "repeated", "right all the same", "doubted"],
                [[f"{name}: {k[5:]}",
                  *(percent(rows, k, part) for part in ("repeated", "right all the same", "doubted"))]
                 for name, rows in taught.items() for k in lies])
    print_table(["no lie, %", "doubted"],
                [[name, percent(rows, "no lie", "doubted")] for name, rows in taught.items()])
    write_json(Path(s.out, "07_alignment", "tool_study.json"), {"seed": s.seed, "rows": got})


if __name__ == "__main__":
    run_main(main)
