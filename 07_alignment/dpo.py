"""Direct preference optimization: make the preferred of two answers likelier, relative to a reference.

Rafailov et al. 2023 (equation 7). The pairs are the model's own answers, ranked by verifier.preference. A
small likelihood term on the preferred answer (Pang et al. 2024) keeps the model from pushing *both* answers
down, which the loss alone allows: it sees only their difference.

    python 07_alignment/run.py             the second stage
"""
import copy
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bpe import Tokenizer
from chat_template import answer_ids, chat_prompt, pad_id
from rollout import answer_log_probs
from skills import ANSWER_TOKENS, chat_answers
from tasks import Tasks
from transformer import Transformer
from verifier import preference


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one question."""
    question: str
    chosen: str
    rejected: str


def best_and_worst(answers: list[str], truth: str) -> tuple[str, str] | None:
    """The first of the most and the first of the least preferred answers; None unless they teach something.

    They do if the best has the highest preference there is, 3 (right and terse), and the worst less.
    """
    # EXERCISE 7.5 a pair to learn from
    score = [preference(a, truth) for a in answers]
    best, worst = answers[score.index(max(score))], answers[score.index(min(score))]
    return (best, worst) if max(score) == 3 > min(score) else None
    # END EXERCISE 7.5


def make_pairs(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, n_questions: int, n_samples: int,
               seed: int) -> list[PreferencePair]:
    """Sample answers to training questions; where one is right and terse and one is not, they make a pair."""
    rng = random.Random(f"dpo pairs {seed}")
    asked = rng.sample(tasks.train_questions, min(n_questions, len(tasks.train_questions)))
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    answers = chat_answers(model, tokenizer, [q.text for q in asked], ANSWER_TOKENS, 1.0, n_samples,
                           generator)
    pairs = []
    for q, group in zip(asked, answers):
        if found := best_and_worst(group, q.answer):
            pairs.append(PreferencePair(q.text, *found))
    return pairs


def dpo_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor,
             beta: float) -> Tensor:
    """-log sigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))), mean over pairs.

    Each argument is (B,), the summed log-probability of one answer under the model or the reference.
    """
    # EXERCISE 7.6 the loss of DPO
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    # log(1 + e^-margin), smooth and without overflow
    return torch.logaddexp(torch.zeros_like(margin), -margin).mean()
    # END EXERCISE 7.6


def dpo_objective(model: Transformer, tokenizer: Tokenizer, pairs: list[PreferencePair], batch: int,
                  beta: float, anchor: float, seed: int) -> Callable[[int], tuple[Tensor, dict]]:
    """The loss of a step, with the mean margin for the log; the reference is the model as it is, frozen."""
    if not pairs:
        raise ValueError("no preference pairs: the model never answered both well and badly; train the "
                         "stage before longer")
    reference = copy.deepcopy(model).requires_grad_(False)
    pad = pad_id(tokenizer)

    def loss_of(step: int) -> tuple[Tensor, dict]:
        rng = random.Random(f"dpo {seed} {step}")
        some = rng.sample(pairs, min(batch, len(pairs)))
        prompts = [chat_prompt(tokenizer, p.question) for p in some] * 2
        texts = [p.chosen for p in some] + [p.rejected for p in some]
        answers = [answer_ids(tokenizer, text) for text in texts]
        log_p, mask = answer_log_probs(model, prompts, answers, pad)              # (2B, T)
        with torch.no_grad():
            ref, _ = answer_log_probs(reference, prompts, answers, pad)
        chosen, rejected = log_p.sum(1).chunk(2)                                  # (B,) each
        ref_chosen, ref_rejected = ref.sum(1).chunk(2)
        per_token = chosen / mask.sum(1).chunk(2)[0]
        margin = beta * (chosen - ref_chosen - rejected + ref_rejected).mean().item()
        loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
        return loss - anchor * per_token.mean(), {"margin": margin}
    return loss_of
