"""Group relative policy optimization: try several answers to each problem, and reinforce those that beat their group.

Shao et al. 2024, DeepSeekMath (section 4.1). The reward comes from a verifier, not from a model. In place of the
paper's penalty for leaving a reference model, each step replays a little of what must not be forgotten: the model's own
earlier answers and pretraining text.

    python 07_alignment/run.py             the third stage
"""
import random
from collections.abc import Callable

import torch
from torch import Tensor

from arithmetic import Pair, problem, random_pair
from bpe import EOS, Tokenizer
from chat_template import chat_prompt, pad_id
from rollout import answer_log_probs, sample
from skills import SUM_TOKENS
from transformer import Transformer
from verifier import sum_is_right


def group_advantages(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """(rewards - mean) / (std + eps) within each group: rewards (K, G) to advantages (K, G).

    A group whose answers are all right or all wrong teaches nothing: its advantages are zero, exactly. So are those of
    a group whose rewards differ by rounding alone: 7 times 0.7 over 7 is not 0.7.
    """
    # EXERCISE 7.3 group advantages
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, keepdim=True)          # (K, 1) each
    spread = rewards.amax(1, keepdim=True) - rewards.amin(1, keepdim=True)
    rounding = 8 * torch.finfo(rewards.dtype).eps * rewards.abs().amax(1, keepdim=True)
    return torch.where(spread > rounding, (rewards - mean) / (std + eps), 0)
    # END EXERCISE 7.3


def clipped_policy_loss(log_p: Tensor, old_log_p: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2) -> Tensor:
    """-mean over answer tokens of min(r A, clip(r, 1 - clip, 1 + clip) A), with r = exp(log_p - old_log_p).

    Schulman et al. 2017 (equation 7). log_p, old_log_p and mask are (N, T), advantages (N,). The clip takes away the
    reward of moving a token's probability by more than a fifth from where it was sampled.
    """
    # EXERCISE 7.8 the clipped policy loss
    ratio = (log_p - old_log_p).exp()                                               # (N, T)
    a = advantages[:, None]
    gain = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
    return -(gain * mask).sum() / mask.sum().clamp(min=1)
    # END EXERCISE 7.8


def rollout(model: Transformer, tokenizer: Tokenizer, pairs: list[Pair], group: int, seed: int) -> tuple[list, list, Tensor]:
    """Sample `group` answers to each sum: prompts and answers (K * G ids lists each) and rewards (K, G)."""
    eos = tokenizer.special[EOS]
    prompts = [chat_prompt(tokenizer, problem(p)) for p in pairs]
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    answers = sample(model, prompts, SUM_TOKENS, eos, 1.0, group, generator)
    rewards = [[float(a[-1] == eos and sum_is_right(tokenizer.decode(a[:-1]), p)) for a in tried] for tried, p in zip(answers, pairs)]
    return [p for p in prompts for _ in range(group)], [a for tried in answers for a in tried], torch.tensor(rewards)


def group_loss(model: Transformer, tokenizer: Tokenizer, asked: list, answers: list, rewards: Tensor) -> Tensor:
    """The policy loss on K * G prompts and answers (ids) with rewards (K, G), sampled from this very model.

    Each batch of rollouts is used for one update, so `old_log_p` equals `log_p` and the clip does not bind yet.
    ValueError for groups of one, and for a reward that is no number.
    """
    if rewards.shape[1] < 2:
        raise ValueError("a group of one answer has nothing to be compared with: give 2 or more")
    if not rewards.isfinite().all():
        raise ValueError(f"a reward is {rewards[~rewards.isfinite()][0]}: the verifier must give a finite number for every answer")
    advantages = group_advantages(rewards).flatten()                              # (K * G,)
    used = advantages.nonzero()[:, 0].tolist()
    if not used:
        return 0 * next(p for p in model.parameters() if p.requires_grad).sum()
    log_p, mask = answer_log_probs(model, [asked[i] for i in used], [answers[i] for i in used], pad_id(tokenizer))
    loss = clipped_policy_loss(log_p, log_p.detach(), advantages[used].to(log_p), mask)
    return loss * (mask.sum() / sum(map(len, answers)))   # the tokens of silent groups count in the mean, with 0


def grpo_objective(model: Transformer, tokenizer: Tokenizer, banned: set[Pair], prompts: int, group: int,
                   seed: int) -> Callable[[int], tuple[Tensor, dict]]:
    """The loss of a step on fresh rollouts of sums that are not in `banned`, with the mean reward for the log."""
    def loss_of(step: int) -> tuple[Tensor, dict]:
        rng = random.Random(f"grpo {seed} {step}")
        pairs = []
        while len(pairs) < prompts:
            pair = random_pair(rng)
            if pair not in banned:
                pairs.append(pair)
        asked, answers, rewards = rollout(model, tokenizer, pairs, group, seed * 1_000_003 + step)
        return group_loss(model, tokenizer, asked, answers, rewards), {"reward": rewards.mean().item()}
    return loss_of
