"""Raters of known skill: where the pairs come from when nobody can write down what a good answer is.

In RLHF people say which of two answers they like better, and often disagree. Here the true reward is known
(`verifier.preference`, 0 to 3), so a rater can be simulated whose skill is known, and every later stage can
be compared with the truth that it never sees. Bradley and Terry 1952: the chance of preferring a to b is
sigmoid(skill * (reward(a) - reward(b))).

    python 07_alignment/overoptimization.py    collects pairs with these
"""
import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from bpe import Tokenizer
from dpo import PreferencePair
from facts import Question
from skills import ANSWER_TOKENS, chat_answers
from transformer import Transformer
from verifier import preference


@dataclass(frozen=True)
class Rater:
    """Somebody who compares two answers: skill 0 tosses a coin, `careless` is the share of wrong clicks."""
    skill: float = 1.5
    careless: float = 0.05

    def __post_init__(self):
        if not (self.skill >= 0 and 0 <= self.careless <= 0.5):
            raise ValueError(f"a rater of skill {self.skill}, careless in {self.careless}: give 0 or more, "
                             "and 0 to 0.5")

    def chance(self, reward_a: float, reward_b: float) -> float:
        """The probability of saying that a is better than b."""
        x = self.skill * (reward_a - reward_b)
        sure = 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
        return self.careless + (1 - 2 * self.careless) * sure

    def prefers_first(self, reward_a: float, reward_b: float, rng: random.Random) -> bool:
        """One comparison."""
        return rng.random() < self.chance(reward_a, reward_b)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid(chosen - rejected) of scores (B,), mean over pairs: how unlikely the choices are.

    Only differences count, so a reward is known up to a constant.
    """
    # EXERCISE 7.11 the loss of a reward model
    difference = chosen - rejected
    return torch.logaddexp(torch.zeros_like(difference), -difference).mean()
    # END EXERCISE 7.11


def rated_pairs(model: Transformer, tokenizer: Tokenizer, asked: list[Question], rater: Rater, seed: int,
                temperature: float = 1.0) -> list[PreferencePair]:
    """Two sampled answers to each question, the liked one first; none where both are the same text.

    ValueError if no question has two different answers: there is nothing to compare.
    """
    rng = random.Random(f"raters {seed}")
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    answers = chat_answers(model, tokenizer, [q.text for q in asked], ANSWER_TOKENS, temperature, 2,
                           generator)
    pairs = []
    for q, (a, b) in zip(asked, answers):
        if a != b:
            first = rater.prefers_first(preference(a, q.answer), preference(b, q.answer), rng)
            pairs.append(PreferencePair(q.text, *((a, b) if first else (b, a))))
    if not pairs:
        raise ValueError("every question had the same answer twice: raise the temperature, or ask about more")
    return pairs


def agreement(pairs: list[PreferencePair], truths: dict[str, str]) -> float:
    """The share of pairs of unequal true reward in which the better one was chosen.

    `truths` is {question: right answer}; NaN without such a pair.
    """
    better = [preference(p.chosen, truths[p.question]) - preference(p.rejected, truths[p.question])
              for p in pairs]
    unequal = [b > 0 for b in better if b]
    return sum(unequal) / len(unequal) if unequal else math.nan
