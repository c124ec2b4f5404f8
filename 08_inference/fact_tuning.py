"""Put new facts into the weights: go on training on the documents, or on questions with their answers.

The other way to tell a model something, beside rag.py, which puts it into the prompt. Training on documents
shows each fact in all the forms of a statement (one form is not enough to be asked about it later, Allen-Zhu
and Li 2023); training on questions shows the very questions that will be asked. Every step also has some old
questions and sums, because a model that reads nothing but news forgets the rest (chapter 7's replay.py).

    python 08_inference/rag_study.py       measures both, what they forget, and what a changed fact costs
"""
import random
from collections.abc import Callable

from torch import Tensor

from arithmetic import problem, right_answer
from bpe import EOS, Tokenizer
from chat_template import answer_batch, answer_ids, pad_id
from cross_entropy import cross_entropy
from facts import Fact, questions, statement, terse
from muon import muon_and_adamw
from schedule import constant_then_decay
from sft import answer_loss
from tasks import Tasks
from train import train
from transformer import Transformer

OLD_WEIGHT = 0.5     # of the old questions, beside a weight of one for the new facts


def told_loss(model: Transformer, tokenizer: Tokenizer, facts: list[Fact], rng: random.Random) -> Tensor:
    """Mean loss a token on one statement of each fact, every one a text of its own behind <|eos|>."""
    device = next(model.parameters()).device
    texts = [answer_ids(tokenizer, statement(fact, rng)) for fact in facts]
    x, y = answer_batch([[tokenizer.special[EOS]]] * len(texts), texts, pad_id(tokenizer))
    return cross_entropy(model(x.to(device)), y.to(device))


def fact_loss(model: Transformer, tokenizer: Tokenizer, facts: list[Fact], tasks: Tasks, as_questions: bool,
              rows: int, old: int, seed: int) -> Callable[[int], Tensor]:
    """The loss of a step: `rows` facts as statements (or questions), and `old` rows of old ones and sums."""
    new = [(q.text, terse(q.answer)) for fact in facts for q in questions(fact)]

    def loss_of(step: int) -> Tensor:
        rng = random.Random(f"facts {seed} {step}")
        if as_questions:
            loss = answer_loss(model, tokenizer, rng.sample(new, min(rows, len(new))))
        else:
            loss = told_loss(model, tokenizer, rng.sample(facts, min(rows, len(facts))), rng)
        known = [(q.text, terse(q.answer)) for q in rng.choices(tasks.train_questions, k=old - old // 2)]
        pairs = [pair for pair, _ in rng.choices(tasks.demonstrations, k=old // 2)]
        known += [(problem(pair), right_answer(pair)) for pair in pairs]
        return loss + OLD_WEIGHT * answer_loss(model, tokenizer, known)
    return loss_of


def tune_on_facts(model: Transformer, tokenizer: Tokenizer, facts: list[Fact], tasks: Tasks,
                  as_questions: bool, steps: int, lr: float, seed: int, rows: int = 24,
                  old: int = 16) -> list[dict]:
    """Fine-tune in place; the log of the training."""
    loss = fact_loss(model, tokenizer, facts, tasks, as_questions, rows, old, seed)
    return train(model, muon_and_adamw(model, lr, 0.2 * lr), loss, steps,
                 lambda i: constant_then_decay(i, steps, n_warmup=min(5, steps), decay=0.5), "facts")
