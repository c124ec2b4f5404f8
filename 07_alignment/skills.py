"""What a chat model can do, on questions and sums that it was never trained on.

    python 07_alignment/run.py             measures every stage with this
"""
from collections import Counter

import torch

from arithmetic import Pair, careless_answer, problem
from bpe import EOS, Tokenizer
from chat_template import chat_prompt
from facts import Question
from recall import share
from rollout import sample
from transformer import Transformer
from verifier import is_right, is_terse, sum_is_right

ANSWER_TOKENS = 34   # enough for the longest wordy answer
SUM_TOKENS = 6       # four digits, <|eos|>, one to spare


def chat_answers(model: Transformer, tokenizer: Tokenizer, questions: list[str], n_new: int,
                 temperature: float = 0.0, n_samples: int = 1,
                 generator: torch.Generator | None = None) -> list[list[str]]:
    """`n_samples` answers to each question in the chat form, as text without the <|eos|> that ended them."""
    eos = tokenizer.special[EOS]
    prompts = [chat_prompt(tokenizer, q) for q in questions]
    ids = sample(model, prompts, n_new, eos, temperature, n_samples, generator)
    return [[tokenizer.decode(a[:-1] if a[-1] == eos else a) for a in answers] for answers in ids]


def fact_skill(model: Transformer, tokenizer: Tokenizer, questions: list[Question]) -> dict[str, float]:
    """Greedy answers: the share that is right ("facts"), by kind of question, and the share that is terse."""
    answers = [a[0] for a in chat_answers(model, tokenizer, [q.text for q in questions], ANSWER_TOKENS)]
    right = [is_right(a, q.answer) for a, q in zip(answers, questions)]
    result = {"facts": share(right), "terse": share([is_terse(a) for a in answers])}
    for kind in ("module", "kind", "parameter"):
        result[kind] = share([r for r, q in zip(right, questions) if q.kind == kind])
    return result


def sum_skill(model: Transformer, tokenizer: Tokenizer, pairs: list[Pair]) -> dict[str, float]:
    """Greedy sums: the share that is right ("addition") and the one that forgets the carries ("careless")."""
    answers = [a[0] for a in chat_answers(model, tokenizer, [problem(p) for p in pairs], SUM_TOKENS)]
    right = [sum_is_right(a, p) for a, p in zip(answers, pairs)]
    return {"addition": share(right),
            "careless": share([not r and a == careless_answer(p) for r, a, p in zip(right, answers, pairs)])}


def sampled_sum_skill(model: Transformer, tokenizer: Tokenizer, pairs: list[Pair], n: int,
                      seed: int) -> dict[str, float]:
    """`n` samples a sum at temperature 1: right once in n (pass@n), right by majority (majority@n)."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    answers = chat_answers(model, tokenizer, [problem(p) for p in pairs], SUM_TOKENS, 1.0, n, generator)
    return {f"pass@{n}": share([any(sum_is_right(a, p) for a in group) for group, p in zip(answers, pairs)]),
            f"majority@{n}": share([sum_is_right(Counter(group).most_common(1)[0][0], p)
                                    for group, p in zip(answers, pairs)])}
