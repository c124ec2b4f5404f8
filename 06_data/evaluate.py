"""One harness for every question put to a model: loss, multiple choice, exact answers, programs.

No number without its standard error.

A model is anything with `log_likelihood(context, continuation) -> (nats, tokens)` and, for the last two
kinds, `generate(prompt) -> str`: the n-gram model of quality.py, or a transformer through `TransformerModel`.
The file formats are the published ones, so the real sets load too; small sets of our own are in
06_data/sets/.

Sources: Hendrycks et al. 2021 (MMLU); Zellers et al. 2019 (HellaSwag); Chen et al. 2021 (HumanEval, pass@k);
Miller 2024, "Adding error bars to evals"; length normalisation as in Brown et al. 2020, section 2.4.

    python 06_data/run.py                  uses it to show what leaked questions do to a score
"""
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmark_files import Choice, Program
from sandbox import Limits, judge


class Scorer(Protocol):
    """What a model must be able to do to be asked multiple-choice questions."""

    def log_likelihood(self, context: str, continuation: str) -> tuple[float, int]:
        """(nats, tokens) of `continuation` after `context`."""
        ...


@dataclass(frozen=True)
class Score:
    """A mean over items with its standard error; `items` are kept for paired comparison."""
    mean: float
    error: float
    items: tuple[float, ...]

    @classmethod
    def of(cls, items: list[float]) -> "Score":
        """Mean and standard error of the mean (sample standard deviation over sqrt(n))."""
        if not items:
            raise ValueError("there are no items to score: the evaluation set is empty")
        # EXERCISE 6.2 standard error
        mean, n = sum(items) / len(items), len(items)
        variance = sum((x - mean) ** 2 for x in items) / (n - 1) if n > 1 else 0.0
        return cls(mean, math.sqrt(variance / n), tuple(items))
        # END EXERCISE 6.2

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def paired(a: Score, b: Score) -> Score:
    """a - b, item by item: on the same questions the difference has a smaller error than either."""
    if len(a.items) != len(b.items):
        raise ValueError(f"a pair needs the same items: one score has {len(a.items)}, one {len(b.items)}")
    # EXERCISE 6.13 a paired difference
    differences = [x - y for x, y in zip(a.items, b.items)]
    return Score.of(differences)
    # END EXERCISE 6.13


def choose(model: Scorer, item: Choice, normalise: str = "bytes") -> int:
    """The option the model finds most likely after the context: by sum, per byte or per token."""
    def value(option: str) -> float:
        context = item.context.rstrip(" ") if option.startswith(" ") else item.context    # one blank, not two
        nats, tokens = model.log_likelihood(context, option)
        return nats / {"none": 1, "bytes": len(option.encode()), "tokens": max(tokens, 1)}[normalise]
    values = [value(option) for option in item.options]
    return values.index(max(values))


def few_shot(item: Choice, examples: list[Choice], shots: int, rng: random.Random) -> Choice:
    """The item with `shots` solved examples in front of it, never itself among them."""
    others = [e for e in examples if e.context != item.context]
    if shots > len(others):
        raise ValueError(f"{shots} shots, but there are {len(others)} other examples: ask for fewer")
    shown = "".join(e.text() + "\n\n" for e in rng.sample(others, shots))
    return Choice(shown + item.context, item.options, item.answer)


def multiple_choice(model: Scorer, items: list[Choice], normalise: str = "bytes", shots: int = 0,
                    examples: list[Choice] | None = None, seed: int = 0) -> Score:
    """Accuracy by log-likelihood."""
    rng = random.Random(seed)
    asked = [few_shot(item, items if examples is None else examples, shots, rng) for item in items]
    return Score.of([float(choose(model, item, normalise) == item.answer) for item in asked])


def exact_match(generate: Callable[[str], str], items: list[tuple[str, str]]) -> Score:
    """Share of answers that are right to the letter, case, surrounding blanks and a final full stop aside."""
    def same(found: str, wanted: str) -> bool:
        return found.strip().rstrip(".").strip().lower() == wanted.strip().rstrip(".").strip().lower()
    return Score.of([float(same(generate(question), answer)) for question, answer in items])


def bits_per_byte(model: Scorer, texts: list[str]) -> Score:
    """Bits per byte of the texts. The mean weighs bytes equally; texts are the items of its error."""
    bits = np.array([-model.log_likelihood("", text)[0] / math.log(2) for text in texts])
    size = np.array([len(text.encode()) for text in texts], dtype=float)
    mean = bits.sum() / size.sum()
    # A ratio of sums: its error is that of the residuals bits - mean * size (Cochran 1977, section 2.11).
    residual, n = bits - mean * size, len(texts)
    error = math.sqrt((residual ** 2).sum() / max(n - 1, 1) / n) / size.mean()
    return Score(float(mean), float(error), tuple((bits / size).tolist()))


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k).

    1 - (1 - c/n)^k would be biased: it draws the same sample twice. Raises ValueError unless 0 <= c <= n, 1
    <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples with {c} right makes no sense: "
                         "need 0 <= c <= n and 1 <= k <= n")
    # EXERCISE 6.3 pass@k
    wrong = n - c
    return 1 - math.prod((wrong - i) / (n - i) for i in range(k))    # one factor is 0 if wrong < k
    # END EXERCISE 6.3


def programs(generate: Callable[[str], list[str]], tasks: list[Program], k: int = 1,
             limits: Limits = Limits()) -> Score:
    """pass@k: `generate(prompt)` gives n >= k completions, each judged in the sandbox."""
    scores = []
    for task in tasks:
        verdicts = [judge(task.prompt, c, task.test, task.entry_point, limits).passed
                    for c in generate(task.prompt)]
        scores.append(pass_at_k(len(verdicts), sum(verdicts), k))
    return Score.of(scores)
