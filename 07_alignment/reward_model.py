"""A reward model: a language model with one number in place of its vocabulary, trained on choices.

Adds to preferences.py: step 2 of Ouyang et al. 2022 (section 3.5; Stiennon et al. 2020, section 3.4). It
reads question and answer and gives a score at the last token. Accuracy says how often it orders held-out
pairs as the raters did, calibration whether "sigmoid(difference) = 0.8" is right in 80 of 100 cases.

    python 07_alignment/overoptimization.py    trains one, and shows what happens to who trusts it
"""
import copy
import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bpe import Tokenizer
from chat_template import answer_ids, chat_prompt, pad_id
from dpo import PreferencePair
from linear import Linear
from preferences import bradley_terry_loss
from transformer import Transformer


class ScalarModel(nn.Module):
    """A language model's body with a head of one number a token: a reward model, or the critic of PPO."""

    def __init__(self, model: Transformer):
        super().__init__()
        self.body = copy.deepcopy(model.model).requires_grad_(True)
        self.head = Linear(model.config.d_model, 1).to(next(model.parameters()).device)
        nn.init.zeros_(self.head.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) to one number a token, (B, T)."""
        return self.head(self.body(ids))[..., 0]


def scores(reward: ScalarModel, prompts: list[list[int]], answers: list[list[int]], pad: int) -> Tensor:
    """The number at the last token of each answer, (N,).

    Rows are padded on the right, where a causal model sees nothing of it: a score does not depend on its
    neighbours.
    """
    device = reward.head.weight.device
    rows = [p + a for p, a in zip(prompts, answers)]
    width = max(map(len, rows))
    x = torch.tensor([r + [pad] * (width - len(r)) for r in rows], device=device)          # (N, T)
    last = torch.tensor([len(r) - 1 for r in rows], device=device)
    return reward(x).gather(1, last[:, None])[:, 0]


def score_texts(reward: ScalarModel, tokenizer: Tokenizer, asked: list[tuple[str, str]]) -> Tensor:
    """Scores of (question, answer) texts, (N,)."""
    return scores(reward, [chat_prompt(tokenizer, q) for q, _ in asked],
                  [answer_ids(tokenizer, a) for _, a in asked],
                  pad_id(tokenizer))


def reward_objective(reward: ScalarModel, tokenizer: Tokenizer, pairs: list[PreferencePair], batch: int,
                     seed: int) -> Callable[[int], Tensor]:
    """The loss of a step on `batch` pairs. ValueError without pairs."""
    if not pairs:
        raise ValueError("no pairs: a reward model learns from comparisons, collect some first")

    def loss_of(step: int) -> Tensor:
        some = random.Random(f"reward {seed} {step}").sample(pairs, min(batch, len(pairs)))
        both = [(p.question, p.chosen) for p in some] + [(p.question, p.rejected) for p in some]
        return bradley_terry_loss(*score_texts(reward, tokenizer, both).chunk(2))
    return loss_of


@torch.no_grad()
def differences(reward: ScalarModel, tokenizer: Tokenizer, pairs: list[PreferencePair]) -> Tensor:
    """Score of the chosen minus score of the rejected answer, (N,)."""
    both = [(p.question, p.chosen) for p in pairs] + [(p.question, p.rejected) for p in pairs]
    chosen, rejected = score_texts(reward, tokenizer, both).chunk(2)
    return chosen - rejected


def accuracy(difference: Tensor) -> float:
    """The share of pairs that it orders as the rater did; equal scores count half."""
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean().item()


def calibration_error(difference: Tensor, bins: int = 5) -> float:
    """How far stated and observed certainty lie apart, on average over pairs (Guo et al. 2017, section 2).

    Stated: sigmoid(|difference|), the chance that the higher score is the chosen one. Observed: how often it
    was.
    """
    stated, right = difference.abs().sigmoid(), (difference > 0).float()
    which = ((stated - 0.5) * 2 * bins).long().clamp(max=bins - 1)           # (N,) the bin of each pair
    gaps = [(stated[which == b].mean() - right[which == b].mean()).abs() * (which == b).sum()
            for b in which.unique()]
    return (torch.stack(gaps).sum() / len(difference)).item()
