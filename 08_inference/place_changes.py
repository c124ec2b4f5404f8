"""The same three needs met in three places: plans and tools around the model, texts before it, training.

Adds to harness_plans.py and rag.py the nine changes that three_places.py compares: new facts, new actions and
a new default, each by the harness, by what the model reads, and by post-training.

    python 08_inference/three_places.py    makes all nine and measures them
"""
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import harness_plans
from arithmetic import problem, random_pair, right_answer
from batches import TextBatches
from bm25 import Index, best_first
from bpe import Tokenizer
from checkpoint import load_model
from context import some
from fact_tuning import told_loss
from facts import THANKS, Fact, questions, statement, verbose
from harness import Ask, Harness, Plan, ToolFailed
from harness_plans import Steps, model_led, own_words, with_tools
from harness_study import EXAMPLES, is_answer
from local_model import LocalModel
from model_words import as_read, as_trained
from muon import muon_and_adamw
from rag import new_facts
from recall import share
from replay import own_answers, replay_loss
from schedule import constant_then_decay
from sft import answer_loss
from tasks import load_tasks
from taught_calls import CALCULATOR, TaughtModel, taught_to_call
from token_file import open_tokens
from tool_box import TEXT, Tool, calculate, schema
from train import train
from transformer import Transformer
from workbench import read_json, seed_everything

NEEDS, PLACES = ("facts", "actions", "default"), ("harness", "retrieval", "post-training")
PRODUCTS = Tool("calculator", "Products.", schema(expression=TEXT), calculate)
Item = tuple[str, list[str]]           # a question, and the words of a right answer
Build = Callable[[], Harness]


@dataclass
class Amounts:
    """How much is changed and asked."""
    names: int          # new names; modules and first parameters are asked for
    questions: int      # of each other kind
    fact_steps: int     # optimizer steps on the new facts
    default_steps: int  # optimizer steps on the new default


def reading(documents: list[str]) -> Plan:
    """The best document before the question, if they share words that few documents have (a score of 1)."""
    index = Index(documents)

    def plan(question: str) -> Steps:
        scores = index.scores(question)
        best = best_first(scores)[0]
        text = f"{documents[best]}\n" if scores[best] >= 1 else ""
        return as_read(question, (yield Ask(text + as_trained(question)))).strip()
    return plan


def polite(inner: Plan) -> Plan:
    """What `inner` answers, and the tail behind it where it is words."""
    def plan(question: str) -> Steps:
        answer = yield from inner(question)
        return answer if answer.isdigit() else answer.rstrip(".") + "." + THANKS
    return plan


def new_library(facts: list[Fact]) -> Tool:
    """A look-up that knows these facts and no others."""
    known = {fact.name: fact for fact in facts}

    def look_up(name: str, wanted: str) -> str:
        if name not in known:
            raise ToolFailed(f"{name} is not in the table")
        return getattr(known[name], wanted)
    return Tool("look_up", "The module, kind or first parameter of a name.", schema(name=TEXT, wanted=TEXT),
                look_up)


def no_sums(question: str) -> Steps:
    """Rules for products only: sums stay with the model."""
    return (yield from (own_words if "+" in question else with_tools())(question))


class Place:
    """One model's folder: its items, and the nine changes."""

    def __init__(self, home: Path, s: Amounts, seed: int):
        text, rng = home / "01_tokenizer", random.Random(f"places {seed}")
        self.home, self.s, self.seed = home, s, seed
        self.tokenizer, self.tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        self.facts = new_facts(self.tasks, s.names, rng)
        self.documents = [statement(fact, rng) for fact in self.facts]
        known = [q for q in self.tasks.held_out_questions if q.kind != "kind"]
        asked = some(known, s.questions, "--questions", rng)
        factors = [(rng.randrange(100, 1000), rng.randrange(2, 10)) for _ in range(s.questions)]
        self.items: dict[str, list[Item]] = {
            "facts": [(q.text, [q.answer]) for f in self.facts for q in questions(f) if q.kind != "kind"],
            "actions": [(f"{a}*{b}", [str(a * b)]) for a, b in factors],
            "default": [(q.text, [q.answer]) for q in asked],
            "old sums": [(f"{a}+{b}", [str(a + b)]) for a, b in self.tasks.test_sums[:s.questions]]}
        self.model = load_model(home / "07_alignment" / "grpo.pt")

    def around(self, model: Transformer, plan: Plan, tools: list[Tool] | None = None,
               turns: list[tuple[str, str]] | None = None) -> Build:
        """A harness for each question; `turns` are solved examples that it is shown first."""
        local = LocalModel(model, self.tokenizer)

        def build() -> Harness:
            it = Harness(local, tools or [], plan, tries=1)
            it.turns = [{"role": role, "content": text} for asked, said in turns or []
                        for role, text in (("user", asked), ("assistant", said))]
            return it
        return build

    def before(self) -> Build:
        """The model alone."""
        return self.around(self.model, own_words)

    def change(self, need: str, place: str) -> tuple[Build, float]:
        """The changed system, and the CPU seconds that changing took."""
        begin = time.process_time()
        build = getattr(self, f"{need}_in_{place.replace('-', '_')}")()
        if (need, place) == ("actions", "post-training"):     # `make` has done it; seconds of its clock
            return build, read_json(self.home / "07_alignment" / "tools.json")["seconds"]
        return build, time.process_time() - begin

    def facts_in_harness(self) -> Build:
        """A table, and rules that ask it."""
        return self.around(self.model, with_tools(), [new_library(self.facts)])

    def facts_in_retrieval(self) -> Build:
        """The sentences about a name before the question."""
        return self.around(self.model, reading(self.documents))

    def facts_in_post_training(self) -> Build:
        """Training on such sentences, ever new wordings, beside replay of text and of own answers."""
        def loss_of(model: Transformer, step: int) -> Tensor:
            rng = random.Random(f"new facts {self.seed} {step}")
            return told_loss(model, self.tokenizer, rng.choices(self.facts, k=24), rng)
        return self.around(self.trained(loss_of, self.s.fact_steps, (1e-2, 4e-3)), own_words)

    def actions_in_harness(self) -> Build:
        """A calculator, and a rule that calls it."""
        return self.around(self.model, no_sums, [PRODUCTS])

    def actions_in_retrieval(self) -> Build:
        """A worked call before the question, the model in the lead."""
        asked, name, arguments, _ = EXAMPLES[0]
        manual = f"{asked} is {harness_plans.as_call(name, arguments)}"
        lead = model_led([PRODUCTS])

        def plan(question: str) -> Steps:
            return (yield from lead(f"{manual}\n{question}" if "*" in question else question))
        return self.around(self.model, plan, [PRODUCTS])

    def actions_in_post_training(self) -> Build:
        """The model that chapter 7 taught to call."""
        taught = TaughtModel(load_model(self.home / "07_alignment" / "tools.pt"), self.tokenizer)
        return lambda: Harness(taught, [CALCULATOR], taught_to_call(), tries=1)

    def default_in_harness(self) -> Build:
        """The tail, written by us."""
        return self.around(self.model, polite(own_words))

    def default_in_retrieval(self) -> Build:
        """Two answers with the tail, shown as earlier turns."""
        shown = [(q.text, verbose(q.answer)) for q in self.tasks.train_questions[:2]]
        return self.around(self.model, own_words, turns=shown)

    def default_in_post_training(self) -> Build:
        """SFT on answers with the tail, and on right sums."""
        banned = set(self.tasks.test_sums)

        def loss_of(model: Transformer, step: int) -> Tensor:
            rng = random.Random(f"new default {self.seed} {step}")
            pairs = [p for p in (random_pair(rng) for _ in range(16)) if p not in banned]
            return answer_loss(model, self.tokenizer, [
                *((q.text, verbose(q.answer)) for q in rng.choices(self.tasks.train_questions, k=24)),
                *((problem(p), right_answer(p)) for p in pairs)])
        return self.around(self.trained(loss_of, self.s.default_steps, (2e-3, 1.5e-3), False), own_words)

    def trained(self, loss_of: Callable[[Transformer, int], Tensor], steps: int,
                rates: tuple[float, float], replayed: bool = True) -> Transformer:
        """A copy of the model after some steps, with replay of what it said and read before, or without."""
        seed_everything(self.seed)
        model, replay = load_model(self.home / "07_alignment" / "grpo.pt"), None
        if replayed:
            said = own_answers(model, self.tokenizer, self.tasks, 120, self.seed)
            text = TextBatches(open_tokens(self.home / "01_tokenizer" / "train.bin"), 2, 128, self.seed)
            replay = replay_loss(model, self.tokenizer, said, 16, 0.5, text, self.seed)
        train(model, muon_and_adamw(model, *rates),
              lambda i: loss_of(model, i) + (replay(i) if replay else 0), steps,
              lambda i: constant_then_decay(i, steps, n_warmup=2, decay=0.7), "change")
        return model

    def measure(self, build: Build, need: str) -> dict[str, float]:
        """Shares of right answers: the need, and what the model could do before; tokens of a question."""
        result: dict[str, float] = {}
        for kind in dict.fromkeys((need, "default", "old sums")):
            outcomes = [build().run(question) for question, _ in self.items[kind]]
            right = [is_answer(o.answer, wanted) for o, (_, wanted) in zip(outcomes, self.items[kind])]
            if kind == need:
                tail = [need != "default" or o.answer.endswith(THANKS.strip()) for o in outcomes]
                result["need"] = share([r and t for r, t in zip(right, tail)])
                result["tokens"] = sum(o.tokens for o in outcomes) / len(outcomes)
            if kind != need or need == "default":
                result["old sums" if kind == "old sums" else "old facts"] = share(right)
        return result
