"""Teach the model to use a calculator and a look-up, and measure what it does when they fail, or lie.

Adds to tool_calls.py the demonstrations. Products of three-digit numbers are beyond this model, and so are
names that were invented a moment ago; both can be copied from a tool. The control is shown the same questions
for as many steps, with the answers alone. Loss falls on what the model says, its calls and its answers, never
on a result.

    python 07_alignment/tool_study.py      measures all of it; run.py teaches products alone
"""
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arithmetic import Pair, problem, random_pair, right_answer
from batches import inputs_and_targets
from bpe import BOT, Tokenizer
from chat_template import answer_ids, chat_prompt, pad_id
from cross_entropy import IGNORE, cross_entropy
from facts import Question, terse
from invented_names import invented_word, name_in
from muon import muon_and_adamw
from recall import share
from schedule import constant_then_decay
from tasks import Tasks
from tool_calls import ERROR, TOOL, Conversation, calculate, converse, look_up
from train import train
from transformer import Transformer

UNKNOWN, DOUBT = " I do not know.", " That is wrong."
ASK = {"module": "Which module has {}?", "kind": "What kind is {}?",
       "parameter": "What is the first parameter of {}?"}


def product(pair: Pair) -> str:
    """(327, 45) gives "723*540"."""
    return problem(pair).replace("+", "*")


def unseen_pairs(n: int, seed: int) -> list[Pair]:
    """Pairs whose products are in no demonstration."""
    rng = random.Random(f"products {seed}")
    return [random_pair(rng) for _ in range(n)]


def other_digit(result: str, at: int, rng: random.Random) -> str:
    """A lie: the digit at this place is another."""
    return result[:at] + rng.choice([d for d in "0123456789" if d != result[at]]) + result[at + 1:]


@dataclass(frozen=True)
class Item:
    """A question, the call that helps, what the tool says to it, and the right answer."""
    question: str
    call: str
    result: str
    answer: str


def product_item(pair: Pair) -> Item:
    """A product, for the calculator."""
    question = product(pair)
    return Item(question, f"calc({question})", calculate(question), calculate(question))


def invented_item(names: list[str], rng: random.Random) -> Item:
    """A question about a name made of the halves of two real ones, for the look-up: it is new to all."""
    name, kind = invented_word(names, rng), rng.choice(list(ASK))
    value = (rng.choice(["function", "class", "exception"]) if kind == "kind"
             else invented_word(names, rng).lower())
    return Item(ASK[kind].format(name), f"find({kind} of {name})", value, terse(value))


def real_item(q: Question) -> Item:
    """A question about a name of the standard library, for the look-up."""
    return Item(q.text, f"find({q.kind} of {name_in(q)})", q.answer, terse(q.answer))


Said = list[tuple[list[int], bool]]   # pieces of one conversation: ids, and whether the model said them


def demonstration(tokenizer: Tokenizer, question: str, call: str, results: list[str], answer: str) -> Said:
    """One conversation: the call once for each result, then the answer."""
    tool, bot = tokenizer.special[TOOL], tokenizer.special[BOT]
    said = [(chat_prompt(tokenizer, question), False)]
    for result in results:
        said += [([*tokenizer.encode(call), tool], True), ([*tokenizer.encode(result), bot], False)]
    return [*said, (answer_ids(tokenizer, answer), True)]


def said_batch(rows: list[Said], pad: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both (B, T), with loss on the pieces that the model said."""
    width = max(sum(len(ids) for ids, _ in row) for row in rows)
    ids, own = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        at = 0
        for piece, is_own in row:
            ids[i, at:at + len(piece)] = torch.tensor(piece)
            own[i, at:at + len(piece)] = is_own
            at += len(piece)
    x, y = inputs_and_targets(ids)
    return x, y.masked_fill(~own[:, 1:], IGNORE)


def said_loss(model: Transformer, rows: list[Said], pad: int, together: int = 8) -> Tensor:
    """Cross-entropy of what the model said, the mean over all its tokens; ValueError if it said nothing.

    A call that failed makes a row long, and a sum is short. So that hardly any of the work is padding, rows
    of like length run together, `together` at a time.
    """
    device = next(model.parameters()).device
    rows = sorted(rows, key=lambda row: sum(len(ids) for ids, _ in row))
    batches = [said_batch(rows[i:i + together], pad) for i in range(0, len(rows), together)]
    counts = [(y != IGNORE).sum().item() for _, y in batches]
    if not sum(counts):
        raise ValueError("no row has anything that the model said: there is nothing to learn from")
    each = [cross_entropy(model(x.to(device)), y.to(device)) * n
            for (x, y), n in zip(batches, counts) if n]
    return torch.stack(each).sum() / sum(counts)


@dataclass(frozen=True)
class Lesson:
    """What a step shows."""
    products: int = 16       # products of two numbers
    look_ups: int = 0        # questions about invented names
    kept: int = 8            # sums and questions about training names, half of each, answered without a call
    use_tools: bool = True   # False: the control, which is shown the answers alone
    lies: float = 0.0        # share of products whose result has a wrong ones digit; the answer is then DOUBT


def tool_loss(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, lesson: Lesson, seed: int,
              banned: set[Pair]) -> Callable[[int], Tensor]:
    """The loss of a step. One call in ten fails and is made again; one in twenty fails twice: given up."""
    names = [name_in(q) for q in tasks.train_questions]

    def new_pair(rng: random.Random) -> Pair:
        while (pair := random_pair(rng)) in banned:
            pass
        return pair

    def with_tool(item: Item, rng: random.Random) -> Said:
        luck, results, answer = rng.random(), [item.result], item.answer
        if luck < 0.05:
            results, answer = [ERROR, ERROR], UNKNOWN
        elif luck < 0.15:
            results = [ERROR, item.result]
        elif item.call.startswith("calc") and luck > 1 - lesson.lies:
            results, answer = [other_digit(item.result, 0, rng)], DOUBT
        return demonstration(tokenizer, item.question, item.call, results, answer)

    def loss_of(step: int) -> Tensor:
        rng = random.Random(f"tools {seed} {step}")
        items = [product_item(new_pair(rng)) for _ in range(lesson.products)]
        items += [invented_item(names, rng) for _ in range(lesson.look_ups)]
        plain = [(problem(p), right_answer(p)) for p in (new_pair(rng) for _ in range(lesson.kept // 2))]
        asked = rng.choices(tasks.train_questions, k=lesson.kept - lesson.kept // 2)
        plain += [(q.text, terse(q.answer)) for q in asked]
        if lesson.use_tools:
            rows = [with_tool(item, rng) for item in items]
        else:
            rows, plain = [], [*((i.question, i.answer) for i in items), *plain]
        rows += [demonstration(tokenizer, question, "", [], answer) for question, answer in plain]
        return said_loss(model, rows, pad_id(tokenizer))
    return loss_of


def teach(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, lesson: Lesson, steps: int,
          matrix_lr: float, other_lr: float, seed: int, banned: set[Pair], **kept) -> list[dict]:
    """Fine-tune; <|tool|> begins as a copy of "(", for its own vector has never been trained."""
    with torch.no_grad():
        table = model.model.embed_tokens.weight
        table[tokenizer.special[TOOL]] = table[tokenizer.encode("(")[0]]
    return train(model, muon_and_adamw(model, matrix_lr, other_lr),
                 tool_loss(model, tokenizer, tasks, lesson, seed, banned), steps,
                 lambda i: constant_then_decay(i, steps, n_warmup=2, decay=0.7), "tools", **kept)


def ask(model: Transformer, tokenizer: Tokenizer, items: list[Item], begin: bool = False,
        lie: Callable[[str], str] = str, fails: int = 0) -> list[Conversation]:
    """Every item in a conversation with tools that know its result.

    `begin` writes the call for the model, `lie` changes what a tool says, `fails`: so many calls of one thing
    fail before it answers.
    """
    left: dict[str, int] = {}
    table = {item.call.partition("(")[2][:-1]: item.result for item in items}

    def lying(tool):
        def answer(argument: str) -> str:
            left[argument] = left.get(argument, fails) - 1
            if left[argument] >= 0:
                raise OSError("the line is dead")
            return lie(tool(argument))
        return answer

    tools = {"calc": lying(calculate), "find": lying(look_up(table))}
    return converse(model, tokenizer, [i.question for i in items], tools,
                    begun=[i.call for i in items] if begin else None)


def right(said: list[Conversation], items: list[Item]) -> float:
    """Share of right answers."""
    return share([c.answer == i.answer for c, i in zip(said, items)])
