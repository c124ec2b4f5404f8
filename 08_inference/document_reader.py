"""Teach a model to read: questions whose answer stands in the text before them and nowhere else.

Adds to rag.py the skill that this course's model lacks. Everything in the documents is invented, names,
modules and parameters, out of halves of words (as in the look-ups of chapter 7's tool_use.py) and later out
of letters: nothing can be remembered, so the answer can only be copied. There are three lessons: repeat
words, and read one sentence; read a whole document; read several. Now and then a question is about a name
that no document has; the answer is then that it is not there (after Rajpurkar et al. 2018, "Know what you
don't know").

    python 08_inference/rag_study.py       trains one, and puts it beside the model that was not taught
"""
import random
from collections.abc import Callable
from string import ascii_lowercase

from torch import Tensor

from articles import sentences
from bpe import Tokenizer
from chat_template import answer_ids, chat_prompt, pad_id
from cross_entropy import cross_entropy
from facts import Fact, questions, statement, terse
from invented_names import invented_word, name_in
from muon import muon_and_adamw
from schedule import constant_then_decay
from tasks import Tasks
from tool_use import UNKNOWN, Said, said_batch
from train import train
from transformer import Transformer

ASKED = 3                       # questions behind the documents of one row
SPELLED = 0.3                   # of the words in whole documents are letters, the rest halves of words
LESSONS = 0.35, 0.6             # of the steps, before whole documents, and before several of them


def invented_fact(words: list[str], rng: random.Random, spelled: float = 0.0) -> Fact:
    """A name that does not exist, in a module of one to three parts, with a parameter."""
    def invented(longest: int) -> str:
        if rng.random() < spelled:
            return "".join(rng.choices(ascii_lowercase, k=rng.randint(1, 5))).ljust(3, rng.choice("aeiou"))
        return invented_word(words, rng)[:longest]
    while True:
        module = ".".join(invented(8).lower() for _ in range(rng.choice((1, 2, 2, 3))))
        kind = rng.choice(("function", "class", "exception"))
        fact = Fact(invented(14), module, kind, invented(rng.randint(1, 10)).lower())
        if len({fact.name.lower(), fact.module, fact.kind, fact.parameter}) == 4:
            return fact


def first_row(words: list[str], repeat: bool, rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """Words to be repeated, or one sentence and the question that it answers."""
    fact = invented_fact(words, rng)
    if repeat:
        said = f"{fact.name} {fact.module} {fact.parameter}"
        return "Repeat:", [(said, terse(said))]
    q = rng.choice(questions(fact))
    told = next(x for x in sentences(statement(fact, rng)) if q.answer in x.rstrip(".").split())
    return told, [(q.text, terse(q.answer))]


def reading_row(words: list[str], documents: int, missing: float,
                rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """`documents` invented documents, and ASKED questions with their answers.

    With probability `missing` one of the questions is about a name that they do not have.
    """
    facts: dict[str, Fact] = {}
    while len(facts) <= documents:
        fact = invented_fact(words, rng, SPELLED)
        facts[fact.name.lower()] = fact
    *told, other = facts.values()
    asked = [(q.text, terse(q.answer)) for q in rng.sample([q for f in told for q in questions(f)], ASKED)]
    if rng.random() < missing:
        asked[rng.randrange(ASKED)] = rng.choice(questions(other)).text, UNKNOWN
    return "\n".join(statement(fact, rng) for fact in told), asked


def as_turns(tokenizer: Tokenizer, text: str, asked: list[tuple[str, str]], room: int) -> Said:
    """One conversation: the first question stands behind the text, as it will when it is alone.

    Questions that do not fit into `room` tokens are left out.
    """
    said: Said = []
    for q, answer in asked:
        said += [(chat_prompt(tokenizer, q if said else f"{text}\n{q}"), False),
                 (answer_ids(tokenizer, answer), True)]
    while sum(len(ids) for ids, _ in said) > room:
        del said[-2:]
    return said


def reading_loss(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, steps: int, rows: int, most: int,
                 missing: float, seed: int) -> Callable[[int], Tensor]:
    """The loss of a step: rows of the lesson that it is in.

    The last lesson has 2 to `most` documents a row in three of four steps, and fewer rows, so that a step
    costs about the same.
    """
    known = tasks.train_questions
    words = sorted({name_in(q) for q in known}
                   | {part for q in known if q.kind != "kind" for part in q.answer.split(".")})
    device = next(model.parameters()).device

    def loss_of(step: int) -> Tensor:
        rng = random.Random(f"reading {seed} {step}")
        if step < LESSONS[0] * steps:
            made = [first_row(words, i % 5 < 2, rng) for i in range(rows * 10 // 3)]
        else:
            n = 1 if step < LESSONS[1] * steps or step % 4 == 0 else rng.randint(2, most)
            made = [reading_row(words, n, missing, rng) for _ in range(rows if n == 1 else 2 * rows // n)]
        said = [as_turns(tokenizer, text, asked, model.config.max_len) for text, asked in made]
        x, y = said_batch(said, pad_id(tokenizer))
        return cross_entropy(model(x.to(device)), y.to(device))
    return loss_of


def teach_reading(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, steps: int, lr: float, seed: int,
                  rows: int = 12, most: int = 5, missing: float = 0.25, **kept) -> list[dict]:
    """Fine-tune in place; the log of the training. `kept` goes to `train`: where to keep its state."""
    loss = reading_loss(model, tokenizer, tasks, steps, rows, most, missing, seed)
    return train(model, muon_and_adamw(model, lr, 0.75 * lr), loss, steps,
                 lambda i: constant_then_decay(i, steps, n_warmup=min(5, steps), decay=0.4), "reading",
                 **kept)
