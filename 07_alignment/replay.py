"""Do not forget while learning: mix a little of the old into every step of the new (rehearsal, Robins 1995).

Without it 40 steps of reinforcement learning on sums cost facts; with pretraining text alone the wordy
answers come back, because that text has them. So both are replayed: text, and what the model itself answered
before this stage.

    python 07_alignment/run.py             uses it during GRPO
"""
import random
from collections.abc import Callable

from torch import Tensor

from batches import TextBatches
from bpe import Tokenizer
from cross_entropy import cross_entropy
from sft import answer_loss
from skills import ANSWER_TOKENS, chat_answers
from tasks import Tasks
from transformer import Transformer


def own_answers(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, n: int,
                seed: int) -> list[tuple[str, str]]:
    """`n` training questions, each with the model's greedy answer of today."""
    asked = random.Random(f"replay {seed}").sample(tasks.train_questions, min(n, len(tasks.train_questions)))
    answers = chat_answers(model, tokenizer, [q.text for q in asked], ANSWER_TOKENS)
    return [(q.text, a[0]) for q, a in zip(asked, answers)]


def replay_loss(model: Transformer, tokenizer: Tokenizer, remembered: list[tuple[str, str]], n_answers: int,
                answer_weight: float, text: TextBatches, seed: int) -> Callable[[int], Tensor]:
    """The loss of a step: `n_answers` remembered answers times `answer_weight`, plus one batch of text."""
    device = next(model.parameters()).device

    def loss_of(step: int) -> Tensor:
        some = random.Random(f"replay {seed} {step}").sample(remembered, min(n_answers, len(remembered)))
        x, y = text(step)
        text_loss = cross_entropy(model(x.to(device)), y.to(device))
        return answer_weight * answer_loss(model, tokenizer, some) + text_loss
    return loss_of
