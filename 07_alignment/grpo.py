"""Group relative policy optimization: try several answers, and reinforce those that beat their group.

Shao et al. 2024, DeepSeekMath (section 4.1). The reward comes from a verifier, not from a model. In place of
the paper's penalty for leaving a reference model, each step replays a little of what must not be forgotten:
the model's own earlier answers and pretraining text. What the paper and its successors do otherwise is a
switch each in `Variant`.

    python 07_alignment/run.py             the third stage
    python 07_alignment/grpo_study.py      each switch off and on
"""
import copy
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from arithmetic import Pair, problem, random_pair
from bpe import EOS, Tokenizer
from chat_template import chat_prompt, pad_id
from guarded_verifier import Guarded
from rollout import answer_log_probs, sample
from shared_prompts import shared_answer_log_probs
from skills import SUM_TOKENS
from transformer import Transformer
from verifier import sum_is_right


@dataclass(frozen=True)
class Variant:
    """What published variants change; the defaults are what run.py trains with."""
    deviation: bool = True    # divide advantages by the group's standard deviation; Dr. GRPO does not
    mean: str = "tokens"      # what the loss is a mean over, see `answer_weights`
    budget: int = SUM_TOKENS  # the longest answer allowed, for the mean over "budget"
    kl: float = 0.0           # price of leaving the model as it was at the start, by the estimate k3
    clip: float = 0.2         # of the ratio; a large number is none
    updates: int = 1          # of the weights on one batch of answers
    shared: bool = False      # read each prompt once for its whole group: the same numbers, sooner

    def __post_init__(self):
        if self.mean not in ("tokens", "answers", "budget"):
            raise ValueError(f"a mean over {self.mean!r}: give tokens, answers or budget")
        if self.updates < 1 or self.budget < 1 or not (self.kl >= 0 and self.clip >= 0):
            raise ValueError(f"{self}: updates and budget are 1 or more, kl and clip 0 or more")


DR_GRPO = Variant(deviation=False, mean="budget")   # Liu et al. 2025, "Understanding R1-Zero-like training"


def group_advantages(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """(rewards - mean) / (std + eps) within each group: rewards (K, G) to advantages (K, G).

    A group whose answers are all right or all wrong teaches nothing: its advantages are zero, exactly. So are
    those of a group whose rewards differ by rounding alone: 7 times 0.7 over 7 is not 0.7.
    """
    # EXERCISE 7.3 group advantages
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)          # (K, 1) each
    spread = rewards.amax(1, keepdim=True) - rewards.amin(1, keepdim=True)
    rounding = 8 * torch.finfo(rewards.dtype).eps * rewards.abs().amax(1, keepdim=True)
    return torch.where(spread > rounding, (rewards - mean) / (std + eps), 0)
    # END EXERCISE 7.3


def centred_rewards(rewards: Tensor) -> Tensor:
    """rewards - mean within each group, (K, G); zero, exactly, where they differ by rounding alone.

    Liu et al. 2025 (section 3.2): dividing by the deviation makes problems count more that are nearly always
    solved, or nearly never.
    """
    return torch.where(group_advantages(rewards) != 0, rewards - rewards.mean(1, keepdim=True), 0)


def answer_weights(lengths: Tensor, mean: str, budget: int) -> Tensor:
    """What a token of each answer counts, if 1 is its share of the mean over all tokens: (N,) to (N,).

    "tokens": all alike (Yu et al. 2025, DAPO). "answers": each answer's own mean first, then the mean of
    those (DeepSeekMath), so that a token of a long answer counts less, a wrong one's too. "budget": the sum
    divided by what all answers could have used (Dr. GRPO): all alike, and long batches count more.
    """
    # EXERCISE 7.19 what a token counts
    average = lengths.mean()
    if mean == "answers":
        return average / lengths
    return torch.full_like(lengths, 1.0 if mean == "tokens" else (average / budget).item())
    # END EXERCISE 7.19


def clipped_policy_loss(log_p: Tensor, old_log_p: Tensor, advantages: Tensor, mask: Tensor,
                        clip: float = 0.2) -> Tensor:
    """-mean over answer tokens of min(r A, clip(r, 1 - clip, 1 + clip) A), with r = exp(log_p - old_log_p).

    Schulman et al. 2017 (equation 7). log_p, old_log_p and mask are (N, T), advantages (N,). The clip takes
    away the reward of moving a token's probability by more than a fifth from where it was sampled.
    """
    # EXERCISE 7.8 the clipped policy loss
    ratio = (log_p - old_log_p).exp()                                               # (N, T)
    a = advantages[:, None]
    gain = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
    return -(gain * mask).sum() / mask.sum().clamp(min=1)
    # END EXERCISE 7.8


def kl_k3(log_p: Tensor, ref_log_p: Tensor) -> Tensor:
    """Schulman's estimate k3 of KL(p || ref) from samples of p: q - 1 - log q, q = ref/p; never negative."""
    # EXERCISE 7.14 an estimate of KL that is never negative
    log_q = ref_log_p - log_p
    return log_q.exp() - 1 - log_q
    # END EXERCISE 7.14


def clipped_share(log_p: Tensor, old_log_p: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> float:
    """The share of answer tokens on which the clip binds: they moved far enough where they were pushed."""
    # EXERCISE 7.20 where the clip binds
    ratio, a = (log_p - old_log_p).exp(), advantages[:, None]                      # (N, T), (N, 1)
    bound = ((ratio > 1 + clip) & (a > 0)) | ((ratio < 1 - clip) & (a < 0))
    return ((bound * mask).sum() / mask.sum().clamp(min=1)).item()
    # END EXERCISE 7.20


def rollout(model: Transformer, tokenizer: Tokenizer, tasks: list, group: int, seed: int,
            ask: Callable = problem, verify: Callable = sum_is_right,
            n_new: int = SUM_TOKENS) -> tuple[list, list, Tensor]:
    """Sample `group` answers to each task: prompts and answers (K * G ids lists each) and rewards (K, G).

    `ask(task)` is the question, `verify(answer, task)` its reward; an answer that did not end has 0.
    """
    eos = tokenizer.special[EOS]
    prompts = [chat_prompt(tokenizer, ask(task)) for task in tasks]
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    answers = sample(model, prompts, n_new, eos, 1.0, group, generator)
    rewards = [[float(verify(tokenizer.decode(a[:-1]), task)) if a[-1] == eos else 0.0 for a in tried]
               for tried, task in zip(answers, tasks)]
    return ([p for p in prompts for _ in range(group)], [a for tried in answers for a in tried],
            torch.tensor(rewards))


class Batch:
    """Answers to K prompts, G to each, with their rewards (K, G): what one or more updates learn from.

    ValueError for groups of one, and for a reward that is no number.
    """

    def __init__(self, tokenizer: Tokenizer, asked: list, answers: list, rewards: Tensor, variant: Variant):
        if rewards.shape[1] < 2:
            raise ValueError("a group of one answer has nothing to be compared with: give 2 or more")
        if not rewards.isfinite().all():
            raise ValueError(f"a reward is {rewards[~rewards.isfinite()][0]}: the verifier must give a "
                             "finite number for every answer")
        self.variant, self.pad, self.n_tokens = variant, pad_id(tokenizer), sum(map(len, answers))
        beat = group_advantages if variant.deviation else centred_rewards
        advantages = beat(rewards).flatten()                                              # (K * G,)
        used = list(range(len(answers))) if variant.kl else advantages.nonzero()[:, 0].tolist()
        lengths = torch.tensor([float(len(a)) for a in answers]).clamp(min=1)
        self.advantages = advantages[used]                                                # (N,)
        self.weights = answer_weights(lengths, variant.mean, variant.budget)[used]        # (N,)
        self.asked, self.answers = [asked[i] for i in used], [answers[i] for i in used]
        self.old: Tensor | None = None   # log-probabilities under the model that gave the answers, (N, T)

    def score(self, model: Transformer) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the tokens of the answers that are used, and their mask; (N, T) each."""
        score = shared_answer_log_probs if self.variant.shared else answer_log_probs
        return score(model, self.asked, self.answers, self.pad)

    def loss(self, model: Transformer, reference: Transformer | None = None) -> tuple[Tensor, float]:
        """The loss of the next update, and the share of all answer tokens on which the clip binds.

        The first update takes `model` for the one that gave the answers. Tokens of groups without a right or
        without a wrong answer count in the mean, with 0.
        """
        if not self.answers:
            return 0 * next(p for p in model.parameters() if p.requires_grad).sum(), 0.0
        log_p, mask = self.score(model)
        self.old = log_p.detach() if self.old is None else self.old
        part = mask.sum() / self.n_tokens
        advantages, weights = self.advantages.to(log_p), self.weights.to(log_p)
        clip, price = self.variant.clip, self.variant.kl
        loss = clipped_policy_loss(log_p, self.old, advantages * weights, mask, clip) * part
        if price:
            if reference is None:
                raise ValueError("a price on the distance needs a reference: give loss(model, reference)")
            with torch.no_grad():
                ref, _ = self.score(reference)
            loss = loss + price * (kl_k3(log_p, ref) * mask * weights[:, None]).sum() / self.n_tokens
        return loss, clipped_share(log_p.detach(), self.old, advantages, mask, clip) * part.item()


def group_loss(model: Transformer, tokenizer: Tokenizer, asked: list, answers: list,
               rewards: Tensor) -> Tensor:
    """The policy loss on K * G prompts and answers (ids) with rewards (K, G), sampled from this very model.

    With one update a batch the old log-probabilities are the new ones, and the clip never binds.
    """
    return Batch(tokenizer, asked, answers, rewards, Variant()).loss(model)[0]


def task_objective(model: Transformer, tokenizer: Tokenizer, draw: Callable[[random.Random], list],
                   group: int, seed: int, variant: Variant = Variant(), verify: Callable = sum_is_right,
                   **how) -> Callable[[int], tuple[Tensor, dict]]:
    """The loss of a step on rollouts of the tasks that `draw` gives, with the mean reward for the log.

    The log also counts the answers so far on which `verify` failed, if any. `how` goes on to `rollout`.
    Several updates of one batch are as many steps; then a run that is to continue with the same bits must
    save itself at multiples of them.
    """
    guarded = Guarded(verify)
    reference = copy.deepcopy(model).requires_grad_(False) if variant.kl else None
    kept: dict = {}   # the batch that is being used

    def loss_of(step: int) -> tuple[Tensor, dict]:
        begin = step - step % variant.updates
        if kept.get("begin") != begin:
            tasks = draw(random.Random(f"grpo {seed} {begin}"))
            asked, answers, rewards = rollout(model, tokenizer, tasks, group, seed * 1_000_003 + begin,
                                              verify=guarded, **how)
            kept.update(begin=begin, reward=rewards.mean().item(),
                        batch=Batch(tokenizer, asked, answers, rewards, variant))
        loss, clipped = kept["batch"].loss(model, reference)
        numbers = {"reward": kept["reward"]}
        if guarded.failures:
            numbers["failures"] = guarded.failures.total()
        if variant.updates > 1:
            numbers["clipped"] = clipped
        return loss, numbers
    return loss_of


def fresh_sums(banned: set[Pair], n: int) -> Callable[[random.Random], list[Pair]]:
    """Draws `n` random sums, none of them in `banned`."""
    def draw(rng: random.Random) -> list[Pair]:
        pairs = []
        while len(pairs) < n:
            pair = random_pair(rng)
            if pair not in banned:
                pairs.append(pair)
        return pairs
    return draw


def grpo_objective(model: Transformer, tokenizer: Tokenizer, banned: set[Pair], prompts: int, group: int,
                   seed: int, variant: Variant = Variant()) -> Callable[[int], tuple[Tensor, dict]]:
    """The loss of a step on rollouts of fresh sums that are not in `banned`."""
    return task_objective(model, tokenizer, fresh_sums(banned, prompts), group, seed, variant)
