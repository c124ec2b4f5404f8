"""PPO on a learned reward: a critic judges the answer after each token, so that each gets its own credit.

Adds to grpo.py: a value head instead of a group, generalized advantage estimation, several updates on one
batch of answers (so that the clip binds), and a price for leaving the reference. Schulman et al. 2017
(equations 7 and 9), 2016 (GAE, equation 16); Ouyang et al. 2022 (equation 2) for the KL to the SFT model,
token by token.

    python 07_alignment/overoptimization.py    uses it, with each part measured off
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adamw import AdamW
from bpe import EOS, Tokenizer
from chat_template import answer_batch, chat_prompt, pad_id
from clipping import clip_gradients
from grpo import clipped_policy_loss, clipped_share, kl_k3
from reward_model import ScalarModel
from rollout import answer_log_probs, sample
from skills import ANSWER_TOKENS
from transformer import Transformer


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Advantages (N, T): A_t = sum over l of (gamma lam)^l d_(t+l), with d_t = r_t + gamma V_(t+1) - V_t.

    rewards, values and mask are (N, T); the answer's tokens have mask 1 and stand together. After the last of
    them nothing more comes: V is 0 there. lam 0 trusts the critic, lam 1 only what was really paid.
    """
    # EXERCISE 7.12 generalized advantage estimation
    advantages = torch.zeros_like(rewards)
    later = next_value = rewards.new_zeros(len(rewards))                               # (N,)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        later = (delta + gamma * lam * later) * mask[:, t]
        advantages[:, t], next_value = later, values[:, t] * mask[:, t]
    return advantages
    # END EXERCISE 7.12


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor,
                       clip: float = 0.2) -> Tensor:
    """Half the mean, over answer tokens, of the larger of two squared errors. All are (N, T).

    One is of V, the other of V_old + clip(V - V_old, -c, c).
    """
    # EXERCISE 7.13 the clipped loss of the critic
    near = old + (values - old).clamp(-clip, clip)
    error = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * (error * mask).sum() / mask.sum().clamp(min=1)
    # END EXERCISE 7.13


@dataclass(frozen=True)
class Knobs:
    """What can be turned off, one at a time."""
    kl: float = 0.05       # price of a nat of log(p / p_ref), taken from the reward of each token
    clip: float = 0.2      # of the ratio; a large number is none
    lam: float = 0.95      # of GAE
    epochs: int = 3        # updates on one batch of answers
    critic: bool = True    # without: the reward minus the batch's mean, the same for every token


class PPO:
    """The policy, its critic and its frozen reference; `step` samples, scores and updates once."""

    def __init__(self, policy: Transformer, reference: Transformer, tokenizer: Tokenizer,
                 reward: Callable[[list, list], Tensor], knobs: Knobs, lr: float, critic_lr: float):
        self.policy, self.reference, self.tokenizer, self.reward = policy, reference, tokenizer, reward
        self.knobs, self.critic = knobs, ScalarModel(policy)
        self.actor_update = AdamW(policy.parameters(), lr)
        self.critic_update = AdamW(self.critic.parameters(), critic_lr)

    def step(self, questions: list[str], seed: int) -> dict[str, float]:
        """One batch of questions, one answer to each; numbers for the log."""
        k, eos, pad = self.knobs, self.tokenizer.special[EOS], pad_id(self.tokenizer)
        generator = torch.Generator(next(self.policy.parameters()).device).manual_seed(seed)
        prompts = [chat_prompt(self.tokenizer, q) for q in questions]
        answers = [a for [a] in sample(self.policy, prompts, ANSWER_TOKENS, eos, 1.0, 1, generator)]
        paid = self.reward(prompts, answers)                                                     # (N,)
        if not paid.isfinite().all():
            raise ValueError(f"a reward is {paid[~paid.isfinite()][0]}: the reward model must give a finite "
                             "number")
        x = answer_batch(prompts, answers, pad)[0].to(paid.device)                               # (N, T)
        with torch.no_grad():
            old, mask = answer_log_probs(self.policy, prompts, answers, pad)                     # (N, T) each
            ref, _ = answer_log_probs(self.reference, prompts, answers, pad)
            values = self.critic(x) * mask if k.critic else torch.zeros_like(old)
            rewards = token_rewards(paid, old - ref, mask, k.kl)
            advantages = gae(rewards, values, mask, 1.0, k.lam if k.critic else 1.0)
            returns = advantages + values
            advantages = whitened(advantages, mask)
        clipped = 0.0
        for _ in range(k.epochs):
            log_p, _ = answer_log_probs(self.policy, prompts, answers, pad)
            # an advantage for each token: rows of one
            now, before = log_p.reshape(-1, 1), old.reshape(-1, 1)
            each, counted = advantages.flatten(), mask.reshape(-1, 1)
            clipped += clipped_share(now, before, each, counted, k.clip) / k.epochs
            self.update(self.actor_update, clipped_policy_loss(now, before, each, counted, k.clip))
            if k.critic:
                self.update(self.critic_update,
                            clipped_value_loss(self.critic(x) * mask, values, returns, mask))
        return {"reward": paid.mean().item(), "kl": (kl_k3(old, ref) * mask).sum(1).mean().item(),
                "clipped": clipped}

    @staticmethod
    def update(optimizer: AdamW, loss: Tensor) -> None:
        """One step down this loss, gradients clipped to norm 1."""
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(optimizer.parameters, 1.0)
        optimizer.step()


def token_rewards(paid: Tensor, log_ratio: Tensor, mask: Tensor, price: float) -> Tensor:
    """(N, T): -price * log(p / p_ref) at each answer token, and the reward `paid` (N,) at its last."""
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * places).argmax(1)                                                             # (N,)
    rewards = -price * log_ratio * mask
    rewards[torch.arange(len(paid)), last] += paid * (mask.sum(1) > 0)
    return rewards


def whitened(advantages: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the answer tokens; zero where they differ by rounding alone."""
    n = mask.sum().clamp(min=1)
    mean = (advantages * mask).sum() / n
    deviation = (((advantages - mean) ** 2 * mask).sum() / n).sqrt()
    if deviation <= 8 * torch.finfo(mask.dtype).eps * mean.abs():
        return torch.zeros_like(advantages)
    return (advantages - mean) * mask / (deviation + 1e-6)
