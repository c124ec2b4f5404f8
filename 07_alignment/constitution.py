"""A constitution: principles in words, answers criticised and revised by them, and a judge asked about them.

Bai et al. 2022, "Constitutional AI": nobody labels answers, a model is asked which of two keeps a written
principle better, and why a draft does not. Adds to dpo.py where its pairs come from (Lee et al. 2023,
"RLAIF"). Here a few lines of code can check each principle, so that the model's verdicts can be compared with
the truth, and its habit of choosing what stands first (Zheng et al. 2023) can be measured and taken out.

    python 07_alignment/constitution_study.py  measures all of it
"""
import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from bpe import Tokenizer
from chat_template import chat_prompt, pad_id
from facts import THANKS, Question
from invented_names import invented_word
from sft import answer_loss
from transformer import Transformer

HEDGE = ", I think"
LossOf = Callable[[int], Tensor]


def statements(answer: str) -> list[str]:
    """" json, I think. json. Thank you for asking" gives ["json", "json"]."""
    return answer.replace(HEDGE, "").replace(THANKS.rstrip("."), "").strip(" .").split(". ")


def content(answer: str) -> str:
    """What an answer says, whatever its manners: "json"; all of it if it says different things."""
    said = list(dict.fromkeys(statements(answer)))
    return said[0] if len(said) == 1 else answer


def no_copies(said: list[str]) -> bool:
    """Whether no statement comes twice."""
    return len(set(said)) == len(said)


@dataclass(frozen=True)
class Principle:
    """One line of the constitution."""
    rule: str                     # as the judge reads it
    breach: str                   # as a critique names it
    kept: Callable[[str], bool]   # as a program checks it


CONSTITUTION = (
    Principle("Do not thank.", "thanks", lambda answer: THANKS.split()[0] not in answer),
    Principle("Do not hedge.", "hedges", lambda answer: HEDGE not in answer),
    Principle("Say it once.", "twice", lambda answer: no_copies(statements(answer))),
    Principle("End with a full stop.", "stops short", lambda answer: answer.endswith(".")))
BREACHES = [p.breach for p in CONSTITUTION]


def breaches(answer: str) -> list[str]:
    """Which principles an answer breaks, in the order of the constitution."""
    return [p.breach for p in CONSTITUTION if not p.kept(answer)]


def program_verdict(principle: Principle, a: str, b: str) -> int:
    """1 if only a keeps it, -1 if only b does, 0 if the principle does not tell them apart."""
    return int(principle.kept(a)) - int(principle.kept(b))


def styled(said: str, faults: Collection[str]) -> str:
    """An answer that breaks these principles and keeps the others."""
    hedge, thanks = HEDGE * ("hedges" in faults), THANKS * ("thanks" in faults)
    text = f" {said}{hedge}." + f" {said}." * ("twice" in faults) + thanks
    return text[:-1] if "stops short" in faults else text


def some_faults(rng: random.Random) -> list[str]:
    """Each with a chance of one half."""
    return [b for b in BREACHES if rng.random() < 0.5]


def sloppy_loss(model: Transformer, tokenizer: Tokenizer, questions: list[Question], seed: int) -> LossOf:
    """The loss of a step that teaches right answers with bad manners: somebody has to need a constitution."""
    def loss_of(step: int) -> Tensor:
        rng = random.Random(f"sloppy {seed} {step}")
        return answer_loss(model, tokenizer, [(q.text, styled(q.answer, some_faults(rng)))
                                              for q in rng.choices(questions, k=32)])
    return loss_of


# Critique and revision


def draft_to_criticise(question: str, draft: str) -> str:
    """What the critic is asked."""
    return f"{question}\nA:{draft}\nWhat is wrong?"


def critique(draft: str, said: str) -> str:
    """What it should reply: the breaches by name, and below them the draft without its faults."""
    return f" {', '.join(breaches(draft)) or 'nothing'}.\n{styled(said, ())}"


def read_critique(reply: str) -> tuple[list[str], str]:
    """The breaches that a reply names and its revision; what is neither is left out."""
    named, _, revision = reply.partition("\n")
    listed = [word.strip(" .") for word in named.split(",")]
    return [b for b in BREACHES if b in listed], revision


def critic_loss(model: Transformer, tokenizer: Tokenizer, questions: list[Question], seed: int) -> LossOf:
    """The loss of a step of 24 critiques. Half of the drafts say an invented word, for the critic to keep."""
    words = sorted({q.answer for q in questions})

    def loss_of(step: int) -> Tensor:
        rng, rows = random.Random(f"critic {seed} {step}"), []
        for q in rng.choices(questions, k=24):
            said = rng.choice([q.answer, invented_word(words, rng)])
            draft = styled(said, some_faults(rng))
            rows.append((draft_to_criticise(q.text, draft), critique(draft, said)))
        return answer_loss(model, tokenizer, rows)
    return loss_of


# The judge


def comparison(principle: Principle, question: str, a: str, b: str) -> str:
    """What the judge is asked; it replies "A" or "B", one token in every vocabulary."""
    return f"{principle.rule} {question}\nA:{a}\nB:{b}"


def judge_loss(model: Transformer, tokenizer: Tokenizer, questions: list[Question], seed: int,
               first: float = 0.5) -> LossOf:
    """The loss of a step of 24 comparisons by a principle that tells the answers apart.

    `first` is the share with the better answer in place A: with another than one half the judge learns the
    place as well.
    """
    def loss_of(step: int) -> Tensor:
        rng, rows = random.Random(f"judge {seed} {step}"), []
        for q in rng.choices(questions, k=24):
            principle = rng.choice(CONSTITUTION)
            better, worse = ([b for b in some_faults(rng) if b != principle.breach] for _ in range(2))
            good, bad = styled(q.answer, better), styled(q.answer, [*worse, principle.breach])
            a_wins = rng.random() < first
            rows.append((comparison(principle, q.text, *((good, bad) if a_wins else (bad, good))),
                         "A" if a_wins else "B"))
        return answer_loss(model, tokenizer, rows)
    return loss_of


@torch.no_grad()
def place_odds(model: Transformer, tokenizer: Tokenizer, asked: list[str], batch: int = 64) -> Tensor:
    """log p("A") / p("B") as the reply to each of N comparisons, (N,): any model can be asked."""
    prompts = [chat_prompt(tokenizer, text) for text in asked]
    (a,), (b,) = tokenizer.encode("A"), tokenizer.encode("B")
    odds, device = torch.empty(len(prompts)), next(model.parameters()).device
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))   # little padding
    for begin in range(0, len(prompts), batch):
        some = by_length[begin:begin + batch]
        ends = torch.tensor([len(prompts[i]) - 1 for i in some])
        x = torch.full((len(some), int(ends.max()) + 1), pad_id(tokenizer))                  # (B, T)
        for row, i in zip(x, some):
            row[:len(prompts[i])] = torch.tensor(prompts[i])
        logits = model(x.to(device)).cpu()[torch.arange(len(some)), ends]                    # (B, V)
        odds[some] = logits[:, a] - logits[:, b]
    return odds


def in_both_orders(ab: Tensor, ba: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What remains of verdicts when the place is taken out: preference, place bias, consistent; (N,) each.

    `ab` are the log-odds for place A with the first answer there, `ba` with the second there. Each is made of
    a preference for an answer and one for a place; swapping turns the sign of the first alone. Consistent is
    who chose one answer in both orders.
    """
    return (ab - ba) / 2, (ab + ba) / 2, ab * ba < 0


def cohen_kappa(a: list, b: list) -> float:
    """Agreement of two judges beyond chance (Cohen 1960): 1 if they always agree, 0 if no more than by luck.

    Luck is what two who decide without looking, each as often for each verdict as here, would agree on. NaN
    where luck alone agrees always. ValueError without verdicts, or if there are not as many of each.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"{len(a)} verdicts and {len(b)}: give as many of each, and at least one")
    # EXERCISE 7.25 agreement beyond chance
    n = len(a)
    agreed = sum(x == y for x, y in zip(a, b)) / n
    luck = sum(a.count(v) * b.count(v) for v in set(a)) / n ** 2
    return (agreed - luck) / (1 - luck) if luck < 1 else math.nan
    # END EXERCISE 7.25
