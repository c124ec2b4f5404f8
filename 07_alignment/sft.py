"""Supervised fine-tuning: show the model questions with answers in the chat form, loss on the answers only.

Ouyang et al. 2022 (step 1). Two skills are shown at once: facts about training names, a third of them terse,
and sums by an imperfect teacher who forgets carries in more than half of them. The model learns the form, and
the mistakes too.

    python 07_alignment/run.py             the first stage
"""
import random
from collections.abc import Callable

from torch import Tensor

from arithmetic import problem
from bpe import Tokenizer
from chat_template import answer_batch, answer_ids, chat_prompt, pad_id
from cross_entropy import cross_entropy
from facts import terse, verbose
from tasks import Tasks
from transformer import Transformer


def answer_loss(model: Transformer, tokenizer: Tokenizer, shown: list[tuple[str, str]]) -> Tensor:
    """Mean loss a token on the answers of (question, answer) pairs."""
    device = next(model.parameters()).device
    prompts = [chat_prompt(tokenizer, question) for question, _ in shown]
    answers = [answer_ids(tokenizer, answer) for _, answer in shown]
    x, y = answer_batch(prompts, answers, pad_id(tokenizer))
    return cross_entropy(model(x.to(device)), y.to(device))


def sft_loss(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, n_facts: int, n_sums: int,
             terse_share: float, seed: int) -> Callable[[int], Tensor]:
    """The loss of a step: `n_facts` training questions and `n_sums` demonstrations, each of weight one."""
    def loss_of(step: int) -> Tensor:
        rng = random.Random(f"sft {seed} {step}")
        facts = [(q.text, (terse if rng.random() < terse_share else verbose)(q.answer))
                 for q in rng.choices(tasks.train_questions, k=n_facts)]
        sums = [(problem(pair), answer) for pair, answer in rng.choices(tasks.demonstrations, k=n_sums)]
        return answer_loss(model, tokenizer, facts) + answer_loss(model, tokenizer, sums)
    return loss_of
