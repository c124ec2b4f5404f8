"""Losses of DPO, of GRPO's variants and of PPO's policy beside those of trl, on the same tensors.

trl's losses are methods of its trainers, which need models and data sets to be made. So the methods are
called on a stand-in that has only what they look at, and a "model" that says given log-probabilities.

make peers
"""
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from bpe import Tokenizer
from dpo import dpo_loss
from grpo import Batch, Variant, clipped_policy_loss, clipped_share, group_advantages

trl = pytest.importorskip("trl", reason="run `make peers`, which installs it")

ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), num_processes=1, gather=lambda x: x,
                              gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x,
                              unwrap_model=lambda model: model)
EVAL = SimpleNamespace(training=False)
MASK = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0],
                     [1, 1, 1, 1, 1]]).double()
REWARDS = torch.tensor([[1.0, 0.0, 0.3], [0.0, 0.0, 1.0]]).double()


def trl_grpo(log_p, old, ref, advantages, loss_type, beta, budget=5):
    """trl's loss of these log-probabilities, and the metrics that it notes."""
    metrics = {"eval": defaultdict(list)}
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (log_p, torch.zeros_like(log_p), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, beta=beta,
        importance_sampling_level="token", loss_type=loss_type, epsilon_low=0.2, epsilon_high=0.2,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None), use_vllm=False, model=EVAL,
        vllm_importance_sampling_correction=False, max_completion_length=budget, accelerator=ACCELERATOR,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False, _metrics=metrics)
    ids = torch.zeros_like(MASK).long()
    inputs = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids,
              "completion_mask": MASK, "advantages": advantages, "old_per_token_logps": old,
              "ref_per_token_logps": ref, "num_items_in_batch": MASK.sum()}
    return trl.GRPOTrainer._compute_loss(trainer, EVAL, inputs), metrics["eval"]


def log_probabilities():
    """log p now, when sampled and under the reference: (6, 5) each, ratios inside the clip and outside."""
    torch.manual_seed(0)
    old = -torch.rand(6, 5, dtype=torch.float64) * 3
    return (old + 0.4 * torch.randn_like(old)).requires_grad_(), old, old + 0.3 * torch.randn_like(old)


@pytest.mark.parametrize("mean, loss_type", [("tokens", "bnpo"), ("tokens", "dapo"), ("answers", "grpo"),
                                             ("budget", "dr_grpo")])
@pytest.mark.parametrize("deviation", [True, False])
@pytest.mark.parametrize("kl", [0.0, 0.04])
def test_grpo_has_the_loss_gradient_and_clipped_share_of_trl(mean, loss_type, deviation, kl):
    log_p, old, ref = log_probabilities()
    answers = [[1] * int(n) for n in MASK.sum(1)]
    batch = Batch(Tokenizer([]), [[0]] * 6, answers, REWARDS, Variant(deviation, mean, 5, kl, updates=2))
    used = [i for i in range(6) if kl or group_advantages(REWARDS).flatten()[i]]
    batch.old = old[used]
    batch.score = lambda model: ((ref if model == "reference" else log_p)[used], MASK[used])
    ours, clipped = batch.loss("policy", "reference")
    advantages = REWARDS - REWARDS.mean(1, keepdim=True)   # as trl's scale_rewards, group or none
    if deviation:
        advantages = advantages / (REWARDS.std(1, keepdim=True) + 1e-4)
    theirs, metrics = trl_grpo(log_p, old, ref, advantages.flatten(), loss_type, kl)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, log_p)[0], torch.autograd.grad(theirs, log_p)[0])
    assert clipped == pytest.approx(metrics["clip_ratio/region_mean"][0], abs=1e-6) and clipped > 0.1


def test_ppo_has_the_policy_loss_of_trl_with_an_advantage_for_each_token():
    """trl's PPO trainer was taken out before version 1; its policy loss lives on in the one of GRPO."""
    log_p, old, ref = log_probabilities()
    advantages = torch.randn(6, 5, dtype=torch.float64)
    flat = [t.reshape(-1, 1) for t in (log_p, old)]
    ours = clipped_policy_loss(*flat, advantages.flatten(), MASK.reshape(-1, 1))     # as ppo.py calls it
    theirs, metrics = trl_grpo(log_p, old, ref, advantages, "bnpo", 0.0)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, log_p)[0], torch.autograd.grad(theirs, log_p)[0])
    share = clipped_share(*flat, advantages.flatten(), MASK.reshape(-1, 1), 0.2)
    assert share == pytest.approx(metrics["clip_ratio/region_mean"][0], abs=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_has_the_loss_and_gradient_of_trl(beta):
    torch.manual_seed(1)
    log_p, ref = (-3 * torch.rand(2, 6, 5, dtype=torch.float64) * MASK)
    log_p = log_p.requires_grad_()
    chosen, rejected = log_p.sum(1).chunk(2)
    ref_chosen, ref_rejected = ref.sum(1).chunk(2)
    trainer = SimpleNamespace(model=EVAL, accelerator=ACCELERATOR, aux_loss_enabled=False, ld_alpha=None,
                              precompute_ref_logps=True, f_divergence_type="reverse_kl",
                              loss_types=["sigmoid"], loss_weights=[1.0], beta=beta, use_weighting=False,
                              _metrics={"eval": defaultdict(list)}, _total_train_tokens=0)
    policy = SimpleNamespace(log_probs=log_p, entropy=MASK, mean_logits=MASK, is_top1=MASK > 0)
    ids = torch.zeros(6, 6).long()
    mask = torch.cat((torch.zeros(6, 1), MASK), 1)
    inputs = {"input_ids": ids, "attention_mask": ids + 1, "completion_mask": mask,
              "ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected}
    theirs = trl.DPOTrainer._compute_loss(trainer, lambda **inputs: policy, inputs, False)
    ours = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, log_p)[0], torch.autograd.grad(theirs, log_p)[0])
