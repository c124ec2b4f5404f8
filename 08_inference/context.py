"""What the words around a question do to one fixed model: examples, an instruction, a document, a tool.

Few-shot prompting (Brown et al. 2020) is said to teach without training; the order of the examples alone can
move a model from chance to its best (Lu et al. 2022), and examples like the question are said to be better
than others (Liu et al. 2022). All are tried on held-out questions and sums, on the model before chat and on
the one after, each asked in the form that it knows (model_words.py).

    python 08_inference/context.py         half a minute of one core for each of out, out/seed1 and
                                           out/seed2 that `make seeds` has written; after `make 07`
"""
import itertools
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import bm25
import harness_plans
import model_words
import tool_box
from arithmetic import Pair, right_answer
from bm25 import Index, best_first
from bpe import EOS, Tokenizer
from cells import Cells
from checkpoint import load_model
from facts import Fact, Question, statement, terse
from harness_plans import tool_text
from harness_study import seed_folders
from invented_names import name_in
from model_words import conversation, prompt_of
from openai_api import tool_call
from recall import share
from results_table import mean_and_spread, print_table
from rollout import sample
from tasks import Tasks, load_tasks
from tool_box import course_tools
from transformer import Transformer

INSTRUCTION = "Answer in one word."
TOOLS = ["calculator", "look_up"]
Shown = list[tuple[str, str]]   # a question as people write it, and its answer as the model writes it


@dataclass(frozen=True)
class Item:
    """A question, its answer as the model writes it, solved examples before it, and a text before it."""
    asked: str
    wanted: str
    shown: tuple[tuple[str, str], ...] = ()
    before: str = ""


def prompt(tokenizer: Tokenizer, stage: str, item: Item, room: int) -> list[int]:
    """Ids of a question behind its examples: earlier turns for a chat model, lines above for the base model.

    A text before the question stands on a line of its own, in the user's turn. Raises ValueError where all
    this is more than `room` tokens.
    """
    own, text = prompt_of(tokenizer, stage, item.asked), f"{item.before}\n" * bool(item.before)
    if stage == "base":
        lines = [[*prompt_of(tokenizer, stage, q)[1:], *tokenizer.encode(answer + "\n")]
                 for q, answer in item.shown]
        ids = [own[0], *itertools.chain(*lines), *tokenizer.encode(text), *own[1:]]
    else:
        ids = conversation(tokenizer, [*item.shown], item.asked, 10**9)
        at = len(ids) - len(own) + 2       # behind <|eos|> and <|user|> of the last turn
        ids[at:at] = tokenizer.encode(text)
    if len(ids) > room:
        raise ValueError(f"{len(item.shown)} examples and the question are {len(ids)} tokens, and {room} fit:"
                         " show fewer")
    return ids


def right_share(model: Transformer, tokenizer: Tokenizer, stage: str, items: list[Item],
                n_new: int = 32) -> dict[str, float]:
    """Shares of items that are answered to the letter, greedily, and with a call; tokens of a prompt."""
    eos, room = tokenizer.special[EOS], model.config.max_len - n_new
    prompts = [prompt(tokenizer, stage, item, room) for item in items]
    right, calls = [], []
    for item, [ids] in zip(items, sample(model, prompts, n_new, eos)):
        said = tokenizer.decode(ids[:-1] if ids[-1] == eos else ids)
        # the base model does not say when it is done
        right.append(said.startswith(item.wanted) if stage == "base" else said == item.wanted)
        calls.append(tool_call(said.partition("\n")[0], TOOLS) is not None)
    return {"right": share(right), "calls": share(calls), "tokens": sum(map(len, prompts)) / len(prompts)}


def as_asked(pair: Pair) -> tuple[str, str]:
    """A sum as people write it, and what the model should write."""
    return f"{pair[0]}+{pair[1]}", right_answer(pair)


def some(of: Sequence[Any], n: int, option: str, rng: random.Random) -> list:
    """`n` of these in random order. Raises ValueError, which names the option, where there are fewer."""
    if n > len(of):
        raise ValueError(f"there are {len(of)} to choose {n} from: choose {option} {len(of)} or fewer")
    return rng.sample(of, n)


def documents(asked: list[Question], rng: random.Random) -> list[str]:
    """A statement about each name that is asked about in all three ways."""
    known: dict[str, dict[str, str]] = {}
    for q in asked:
        known.setdefault(name_in(q), {})[q.kind] = q.answer
    return [statement(Fact(name, **told), rng) for name, told in known.items() if len(told) == 3]


def nearest(index: Index, solved: Shown, asked: str, n: int) -> tuple[tuple[str, str], ...]:
    """The `n` solved examples most like a question by BM25, the nearest last."""
    return tuple(solved[i] for i in reversed(best_first(index.scores(asked))[:n]))


def ways(tasks: Tasks, kind: str, s: "Settings", rng: random.Random) -> dict[str, list[list[Item]]]:
    """What can stand before a question, by name: a list of items for each order of the same examples."""
    solved = {"facts": [(q.text, terse(q.answer)) for q in tasks.train_questions],
              "sums": [as_asked(p) for p, _ in tasks.demonstrations]}
    few = {name: some(pairs, s.shots, "--shots", rng) for name, pairs in solved.items()}
    orders = [tuple(rng.sample(few[kind], s.shots)) for _ in range(s.orders)]
    questions = some(tasks.held_out_questions, s.questions, "--questions", rng)
    asked = ([(q.text, terse(q.answer)) for q in questions] if kind == "facts"
             else [as_asked(p) for p in some(tasks.test_sums, s.questions, "--questions", rng)])

    def each(shown: tuple = (), before: Callable[[str, str], str] = lambda q, answer: "") -> list[Item]:
        return [Item(q, answer, shown, before(q, answer)) for q, answer in asked]

    tool = {"facts": "look_up", "sums": "calculator"}[kind]
    made = {"nothing": [each()], f'"{INSTRUCTION}"': [each(before=lambda q, answer: INSTRUCTION)],
            "1 example": [each((few[kind][0],))],
            f"{s.shots} of the other kind": [each((*few["sums" if kind == "facts" else "facts"],))],
            f"{s.shots} examples": [each(shown) for shown in orders]}
    if kind == "facts":
        shelf = documents(tasks.held_out_questions, rng)
        near, found = Index([q for q, _ in solved["facts"]]), Index(shelf)
        made[f"{s.shots} examples, nearest"] = [[
            Item(q, answer, nearest(near, solved["facts"], q, s.shots)) for q, answer in asked]]
        made["a document, found"] = [each(before=lambda q, answer: shelf[best_first(found.scores(q))[0]])]
    return made | {"tools, told of": [each(before=lambda q, answer: tool_text(course_tools()[:2]))],
                   "a tool's result": [each(before=lambda q, answer: f"{tool}: {answer.strip(' .')}")]}


@dataclass
class Settings(RunSettings):
    """How much to ask."""
    questions: int = setting(60, least=1)   # of each kind
    orders: int = setting(6, least=1)       # orders of the same examples
    shots: int = setting(4, least=1)        # examples


QUICK = dict(questions=2, orders=1, shots=1)
STAGES = {"base": "03_training/model.pt", "grpo": "07_alignment/grpo.pt"}
KINDS = ("facts", "sums")


def measure(s: Settings, home: Path, seed: int) -> dict[str, dict]:
    """For each model and kind of question what each way gives: shares by order, and tokens of a prompt."""
    text, got = home / "01_tokenizer", {}
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
    for (stage, file), kind in itertools.product(STAGES.items(), KINDS):
        model = load_model(home / file)
        for name, orders in ways(tasks, kind, s, random.Random(f"context {seed} {kind}")).items():
            by_order = [right_share(model, tokenizer, stage, items) for items in orders]
            rights = [r["right"] for r in by_order]
            got.setdefault(name, {})[f"{stage}, {kind}"] = by_order[0] | {"right": rights}
    return got


def table(results: list[dict[str, dict]]) -> list[list[str]]:
    """A row for each way, mean and spread over the models; and how far apart the orders are."""
    columns = [f"{stage}, {kind}" for stage in STAGES for kind in KINDS]

    def row(name: str, label: str, of: Callable[[list[float]], float]) -> list[str]:
        cells = [mean_and_spread([100 * of(r[name][c]["right"]) for r in results]) if c in results[0][name]
                 else "-" for c in columns]
        return [label, *cells, f"{results[0][name]['grpo, facts']['tokens']:.0f}"]
    rows = []
    for name, got in results[0].items():
        rows.append(row(name, name, statistics.fmean))
        if len(got["grpo, facts"]["right"]) > 1:
            rows.append(row(name, "  best order less worst", lambda right: max(right) - min(right)))
    return rows


def main() -> None:
    """One row for each thing that can stand before a question."""
    s = parse_settings(Settings, __doc__, QUICK)
    torch.set_num_threads(1)
    announce("08 context", s, cpu_only=True)
    out = Path(s.out)
    cells = Cells(out / "study" / "context", [bm25, harness_plans, model_words, tool_box,
                                              sys.modules[__name__]])
    results = []
    for seed, home in enumerate(seed_folders(out), s.seed):
        data = content_hash(*(home / file for file in STAGES.values()), home / "01_tokenizer" / "tasks.json")
        cell = {"questions": s.questions, "orders": s.orders, "shots": s.shots, "seed": seed, "data": data}
        results.append(cells.get(cell, lambda: measure(s, home, seed)))
    print_table(["before the question, % right", *(f"{a}, {b}" for a in STAGES for b in KINDS), "tokens"],
                table(results))
    calls = [column["calls"] for r in results for column in r["tools, told of"].values()]
    print(f"  calls of a tool: {100 * statistics.fmean(calls):.1f}% of the answers behind the tools' names")
    write_json(out / "08_inference" / "context.json", {"seed": s.seed, "results": results})


if __name__ == "__main__":
    run_main(main)
