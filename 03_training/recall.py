"""What the pretrained model knows before any chat: facts, questions and sums, all as plain text.

    python 03_training/run.py              measures it before and after training
"""
from arithmetic import Pair, problem, right_answer
from bpe import EOS, Tokenizer
from facts import Question
from generate import generate_many
from transformer import Transformer

ANSWER_TOKENS = 12   # enough for the longest answer


def complete(model: Transformer, tokenizer: Tokenizer, prompts: list[str],
             n_new: int = ANSWER_TOKENS) -> list[str]:
    """Greedy continuations of plain-text prompts, each after <|eos|>, as every document was in training."""
    ids = [[tokenizer.special[EOS]] + tokenizer.encode(p) for p in prompts]
    return [tokenizer.decode(answer) for answer in generate_many(model, ids, n_new)]


def share(hits: list[bool]) -> float:
    """The share of True, 0 to 1; NaN for an empty list."""
    return sum(hits) / len(hits) if hits else float("nan")


def fact_recall(model: Transformer, tokenizer: Tokenizer, questions: list[Question]) -> float:
    """Share of facts that the model completes: "The module of glob is" must go on with " glob."."""
    answers = complete(model, tokenizer, [q.completion for q in questions])
    return share([a.startswith(f" {q.answer}.") for a, q in zip(answers, questions)])


def plain_answers(model: Transformer, tokenizer: Tokenizer, questions: list[Question]) -> float:
    """Share of questions that the model answers in the plain form of its training text."""
    answers = complete(model, tokenizer, [f"Question: {q.text}\nAnswer:" for q in questions])
    return share([a.startswith(f" {q.answer}.") for a, q in zip(answers, questions)])


def plain_addition(model: Transformer, tokenizer: Tokenizer, pairs: list[Pair]) -> float:
    """Share of sums that the model finishes as in its training text: "163+423=" must go on with "5860"."""
    answers = complete(model, tokenizer, [f"{problem(p)}=" for p in pairs], n_new=4)
    return share([a == right_answer(p) for a, p in zip(answers, pairs)])
