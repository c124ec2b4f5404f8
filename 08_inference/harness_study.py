"""What a harness adds to a model that is not changed: the same questions to the model alone and to each part.

Six kinds of question, in none of which the model is trained further: facts and three-digit sums, which it
knows; sums of six digits, products, two questions in one, and a number that was told nine turns ago, which it
does not. Every part of the harness stands alone in a row, and all of them together in the last. The model
that chapter 7 taught to call stands in a table of its own.

    python 08_inference/harness_study.py   about ten minutes of one core, for all of out, out/seed1 and
                                           out/seed2 that `make seeds` has written
"""
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import harness
import harness_plans
import local_model
import taught_calls
import tool_box
import tool_calls
import turn_memory
from bpe import Tokenizer
from cells import Cells
from checkpoint import load_model
from facts import THANKS
from harness import Budget, Harness
from harness_plans import in_steps, model_led, own_words, tool_text, tools_behind, with_notes, with_tools
from local_model import LocalModel
from results_table import mean_and_spread, print_table
from tasks import Tasks, load_tasks
from taught_calls import CALCULATOR, TaughtModel, taught_to_call
from tool_box import Notes, course_tools

KINDS = ("facts", "sums", "long sums", "products", "two in one", "told before")
EXAMPLES = [("7*8", "calculator", {"expression": "7*8"}, "56"),
            ("What kind is glob?", "look_up", {"name": "glob", "wanted": "kind"}, "function")]
PEOPLE = "Ada Ben Cleo Dora Emil Fay Gus Hana Ivo Jan".split()


@dataclass
class Settings(RunSettings):
    """How many questions."""
    questions: int = setting(20, least=1)    # of each kind
    stages: str = "grpo sft"                 # models of chapter 7


def seed_folders(out: Path) -> list[Path]:
    """`out`, and what `make seeds` has left beside it."""
    return [out, *(home for home in (out / "seed1", out / "seed2") if (home / "07_alignment").exists())]


@dataclass
class Task:
    """A question, what was said before it, and the words that make a right answer."""
    kind: str
    question: str
    wanted: list[str]
    before: list[str]


def make_tasks(tasks: Tasks, n: int, seed: int) -> list[Task]:
    """`n` questions of each kind; facts are those whose questions no training text has."""
    dice, made = random.Random(seed), []
    facts = tasks.held_out_questions
    for i in range(n):
        q, first, second = dice.sample(facts, 3)
        made.append(Task("facts", q.text, [q.answer], []))
        a, b = tasks.test_sums[i % len(tasks.test_sums)]
        made.append(Task("sums", f"{a}+{b}", [str(a + b)], []))
        a, b = dice.randrange(1000, 10**6), dice.randrange(1000, 10**6)
        made.append(Task("long sums", f"{a}+{b}", [str(a + b)], []))
        a, b = dice.randrange(100, 1000), dice.randrange(2, 10)
        made.append(Task("products", f"{a}*{b}", [str(a * b)], []))
        made.append(Task("two in one", f"{first.text} And {second.text}", [first.answer, second.answer], []))
        who, a, b = dice.choice(PEOPLE), dice.randrange(1000), dice.randrange(1000)
        talk = [q.text for q in dice.sample(facts, 8)]
        made.append(Task("told before", f"What is the number of {who} plus {b}?", [str(a + b)],
                         [f"The number of {who} is {a}.", *talk]))
    return made


def is_answer(text: str, wanted: list[str]) -> bool:
    """The wanted words, in this order, and nothing else but blanks, full stops and SFT's polite tail."""
    return text.replace(THANKS, "").replace(".", " ").split() == " ".join(wanted).replace(".", " ").split()


def rows() -> dict[str, Callable[[LocalModel], Harness]]:
    """The parts of the harness by name. A new one for every question, because it remembers."""
    def build(plan, tries: int = 1, **more) -> Callable[[LocalModel], Harness]:
        return lambda model: Harness(model, course_tools(), plan, tries=tries, remember=True,
                                     budget=Budget(tokens=20_000), **more)

    def shown(model: LocalModel) -> Harness:
        it = Harness(model, course_tools(), model_led(tools), tries=1, remember=True)
        for asked, name, arguments, result in EXAMPLES:
            it.turns += [{"role": "user", "content": asked},
                         {"role": "assistant", "content": harness_plans.as_call(name, arguments)},
                         {"role": "tool", "content": result}, {"role": "assistant", "content": f" {result}."}]
        return it

    def everything(model: LocalModel) -> Harness:
        notes = Notes()
        plan = with_notes(notes, tools_behind(in_steps(checked=True)))
        return Harness(model, course_tools(notes), plan, tries=8, remember=True, budget=Budget(tokens=20_000))

    tools = course_tools()[:2]
    return {"the model alone": build(own_words),
            "tools told in a system prompt": build(model_led(tools), system=tool_text(tools)),
            "two calls shown": shown,
            "held to a call": build(model_led(tools, hold=True)),
            "small steps": build(in_steps()),
            "small steps, checked, 8 tries": build(in_steps(checked=True), tries=8),
            "rules choose a tool": build(with_tools()),
            "notes, steps, checks; tools behind": everything}


def measure(model: LocalModel, build: Callable[[LocalModel], Harness], made: list[Task]) -> dict:
    """Share of right answers by kind, and what a question costs on average."""
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    cost = {"asks": 0, "tokens": 0, "calls": 0}
    for task in made:
        it = build(model)
        for text in task.before:
            it.run(text)
        outcome = it.run(task.question)
        right[task.kind].append(is_answer(outcome.answer, task.wanted))
        for name in cost:
            cost[name] += getattr(outcome, name)
    return {**{kind: sum(r) / len(r) for kind, r in right.items()},
            **{name: n / len(made) for name, n in cost.items()}}


def taught_rows() -> dict[str, Callable[[TaughtModel], Harness]]:
    """The model that chapter 7 taught to call, with the one tool that it was taught."""
    return {name: lambda model, plan=taught_to_call(copies): Harness(model, [CALCULATOR], plan, tries=1,
                                                                     remember=True)
            for name, copies in (("taught to call, in the lead", True),
                                 ("its call's result is the answer", False))}


def table_row(name: str, got: list[dict]) -> list[str]:
    """Percentages with their spread over the models, and the cost of a question."""
    return [name, *(mean_and_spread([100 * r[kind] for r in got], 0) for kind in KINDS),
            *(f"{sum(r[cost] for r in got) / len(got):.1f}" for cost in ("asks", "tokens", "calls"))]


def main() -> None:
    """One table for each stage: mean and spread over the models that are there."""
    s = parse_settings(Settings, __doc__, dict(questions=2, stages="grpo"))
    torch.set_num_threads(1)
    announce("08 harness", s, cpu_only=True)
    out = Path(s.out)
    homes = seed_folders(out)
    code = [harness, harness_plans, local_model, tool_box, turn_memory, sys.modules[__name__]]
    cells, taught = (Cells(out / "study" / "harness", m) for m in (code, [*code, taught_calls, tool_calls]))
    results: dict[str, list[dict]] = {}

    def fill(home: Path, stage: str, kind: type[LocalModel], cells: Cells, builds: dict) -> None:
        """The rows of one model."""
        path, text = home / "07_alignment" / f"{stage}.pt", home / "01_tokenizer"
        model = kind(load_model(path).requires_grad_(False), Tokenizer.load(text / "tokenizer.json"))
        made = make_tasks(load_tasks(text / "tasks.json"), s.questions, s.seed)
        cell = {"data": content_hash(path, text / "tasks.json"), "n": s.questions, "seed": s.seed}
        for name, build in builds.items():
            got = cells.get({**cell, "row": name}, lambda: measure(model, build, made))
            results.setdefault(f"{stage}, {name}", []).append(got)

    def show(stage: str, n: int, names) -> None:
        print_table([f"{stage}, {n} models, % right", *KINDS, "asks", "tokens", "calls"],
                    [table_row(name, results[f"{stage}, {name}"]) for name in names])

    for stage in s.stages.split():
        for home in homes:
            fill(home, stage, LocalModel, cells, rows())
        show(stage, len(homes), rows())
    callers = [home for home in homes if (home / "07_alignment" / "tools.pt").exists()]
    for home in callers:
        fill(home, "tools", TaughtModel, taught, taught_rows())
    if callers:
        show("tools", len(callers), taught_rows())
    write_json(out / "08_inference" / "harness.json", {"seed": s.seed, "results": results})


if __name__ == "__main__":
    run_main(main)
