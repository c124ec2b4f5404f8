"""Between people's words and the model's: sums with their digits turned round, plain text before chat.

The model reads and writes numbers ones digit first (chapter 1, arithmetic.py): asked 361+324 it must see
163+423, and its 5860 is 685 to everybody else. The pretrained model has never seen <|user|> and <|bot|>:
it is asked in the plain form of its training text, and its answer is the rest of the line.

    make chat                              the terminal chat and the page show answers with this
"""
import re

from arithmetic import Pair, problem
from bpe import EOS, Tokenizer
from chat_template import chat_prompt

STAGES = ("base", "sft", "dpo", "grpo")


def sum_of(text: str) -> Pair | None:
    """The two numbers of a sum as people write it, `361+324` or `361 + 324 =`, or None for any other text."""
    numbers = re.fullmatch(r"\s*([0-9]{1,3})\s*\+\s*([0-9]{1,3})\s*=?\s*", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else None


def as_trained(text: str) -> str:
    """A sum in the form that the model learned, `361+324` to `163+423`; other text unchanged."""
    pair = sum_of(text)
    return problem(pair) if pair else text.strip()


def as_read(asked: str, answer: str) -> str:
    """An answer as people read it: to a sum, `5860` is "685"; whatever is not four digits stays as it is."""
    digits = answer.strip()
    return str(int(digits[::-1])) if sum_of(asked) and re.fullmatch("[0-9]{4}", digits) else answer


def prompt_of(tokenizer: Tokenizer, stage: str, text: str) -> list[int]:
    """Ids that ask a model of this stage: chat tokens, or for the base model the plain form of its text."""
    if stage != "base":
        return chat_prompt(tokenizer, as_trained(text))
    plain = f"{as_trained(text)}=" if sum_of(text) else f"Question: {text.strip()}\nAnswer:"
    return [tokenizer.special[EOS], *tokenizer.encode(plain)]


def ends_at(stage: str, asked: str, answer: str) -> str | None:
    """The answer so far if it is complete for the base model, which never says that it is done; else None."""
    if stage != "base":
        return None
    if sum_of(asked):
        return answer[:4] if len(answer) >= 4 else None
    line, end, _ = answer.partition("\n")
    return line if end else None


def conversation(tokenizer: Tokenizer, turns: list[tuple[str, str]], text: str, room: int) -> list[int]:
    """The question behind as many of the last turns (asked, answered) as fit into `room` tokens with it."""
    ids = chat_prompt(tokenizer, as_trained(text))
    for asked, answered in reversed(turns):
        turn = [*chat_prompt(tokenizer, as_trained(asked)), *tokenizer.encode(answered)]
        if len(turn) + len(ids) > room:
            break
        ids = turn + ids
    return ids
