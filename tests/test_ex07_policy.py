"""The exercises of chapter 7 about learning from rewards: group advantages, the clipped policy loss."""

import math

import pytest
import torch

from ex_compare import call, same
from grpo import clipped_policy_loss, group_advantages

# 7.3 group advantages


@pytest.mark.ex("7.3")
def test_advantages_by_hand():
    """one right answer in four gets 1.5, the others -0.5"""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]).double()
    half = math.sqrt(0.75)
    same(call("two groups", group_advantages, rewards, 0.0),
         torch.tensor([[1.5, -0.5, -0.5, -0.5], [-half, half, half, -half]]).double(),
         f"rewards {rewards.tolist()}, eps 0",
         "subtract the mean of the group, divide by its standard deviation (torch's, with G - 1)",
         {"not divided by the standard deviation": rewards - rewards.mean(1, keepdim=True),
          "the standard deviation with G, not G - 1": (rewards - rewards.mean(1, keepdim=True))
          / rewards.std(1, keepdim=True, correction=0),
          "the sign": (rewards.mean(1, keepdim=True) - rewards) / rewards.std(1, keepdim=True),
          "the mean is not subtracted": rewards / rewards.std(1, keepdim=True),
          "divided by the variance": (rewards - rewards.mean(1, keepdim=True))
          / rewards.var(1, keepdim=True)}, rtol=1e-5)


@pytest.mark.ex("7.3")
def test_each_group_is_its_own_measure():
    """each group is compared with itself, not with the batch"""
    rewards = torch.randn(3, 5).double() + torch.tensor([[0.0], [10.0], [-10.0]])
    rewards[1] *= 7
    want = torch.stack([(r - r.mean()) / (r.std() + 0.01) for r in rewards])
    same(call("three groups", group_advantages, rewards, 0.01), want,
         "random rewards (3, 5), group 1 larger, eps 0.01",
         "mean and standard deviation over dimension 1, kept as (K, 1)",
         {"mean and std of the whole batch": (rewards - rewards.mean()) / (rewards.std() + 0.01),
          "the mean is of the whole batch": (rewards - rewards.mean())
          / (rewards.std(1, keepdim=True) + 0.01),
          "the std is of the whole batch": (rewards - rewards.mean(1, keepdim=True)) / (rewards.std() + 0.01),
          "the axis: over the samples of a group, not over the groups":
              (rewards - rewards.mean(0)) / (rewards.std(0) + 0.01)}, rtol=1e-5)


@pytest.mark.ex("7.3")
def test_a_group_that_agrees_teaches_nothing():
    """a group that is all right or all wrong gets zeros, not NaN"""
    rewards = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    same(call("agreeing groups", group_advantages, rewards), torch.zeros(2, 3), f"rewards {rewards.tolist()}",
         "0 / 0 is NaN: add eps to the standard deviation")


@pytest.mark.ex("7.3")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_difference(dtype):
    """rewards that are equal up to rounding give zeros, exactly"""
    tiny = torch.tensor([0, 1, 2]) * torch.finfo(dtype).eps
    for rewards in (torch.full((1, 7), 0.7, dtype=dtype), torch.tensor([[1 / 3] * 3, [0.0] * 3], dtype=dtype),
                    torch.full((1, 5), 1e8 / 3, dtype=dtype), torch.full((2, 3), 0.3, dtype=dtype) + tiny / 2,
                    -torch.full((2, 3), 1e6, dtype=dtype) * (1 + tiny)):
        got = call(f"rewards {rewards.tolist()}", group_advantages, rewards)
        same(got, torch.zeros_like(rewards),
             f"rewards {rewards.tolist()} in {dtype}, which differ by rounding at most",
             "the mean of equal numbers is not always that number: what is the largest minus the smallest?",
             rtol=0, atol=0)


@pytest.mark.ex("7.3")
def test_a_small_difference_is_one():
    """rewards that differ by more than rounding are told apart, beside a group of large ones"""
    rewards = torch.tensor([[1.0, 1.0 + 1e-6, 1.0], [0.0, 1e-12, 0.0], [1e9, -1e9, 0.0]]).double()
    rewards[0, 1] = 1 + 1e-12
    want = torch.stack([(r - r.mean()) / (r.std() + 1e-13) for r in rewards])
    same(call("small differences", group_advantages, rewards, 1e-13), want,
         f"rewards {rewards.tolist()} in float64, eps 1e-13",
         "equal are rewards that differ by 8 times eps of their dtype times the largest of their own group, "
         "or less", rtol=1e-3)


@pytest.mark.ex("7.3")
def test_eps_is_an_argument():
    """eps is added to the standard deviation"""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).double()
    same(call("eps 0.5", group_advantages, rewards, 0.5),
         torch.tensor([[0.75, -0.25, -0.25, -0.25]]).double(), f"rewards {rewards.tolist()}, eps 0.5",
         "std + eps = 0.5 + 0.5 here", {"eps is not used": torch.tensor([[1.5, -0.5, -0.5, -0.5]]).double()})


# 7.8 the clipped policy loss


def by_loop(new, old, advantages, mask, clip):
    """The formula, one token at a time."""
    total = 0.0
    for i in range(len(new)):
        for t in range(new.shape[1]):
            ratio, a = math.exp(new[i, t] - old[i, t]), advantages[i].item()
            total += mask[i, t].item() * min(ratio * a, min(max(ratio, 1 - clip), 1 + clip) * a)
    return torch.tensor(-total / max(mask.sum().item(), 1), dtype=torch.float64)


def policy(n=3, t=3):
    """Log-probabilities now and then (n, t), advantages (n,) and a mask of rows of any length, in float64."""
    mask = (torch.arange(t) < torch.tensor([t, t - 1, 1] * n)[:n, None]).double()
    return (0.5 * torch.randn(n, t).double() - 1, 0.5 * torch.randn(n, t).double() - 1,
            torch.randn(n).double(), mask)


@pytest.mark.ex("7.8")
@pytest.mark.parametrize("shape", [(3, 3), (4, 6)])
def test_policy_loss_follows_the_formula(shape):
    """the loss is minus the mean of min(r A, clip(r) A) over answer tokens"""
    for clip in (0.2, 0.5):
        new, old, a, mask = policy(*shape)
        given = f"random log-probabilities {shape}, clip {clip}"
        got = call(given, clipped_policy_loss, new, old, a, mask, clip)
        r, n = (new - old).exp(), mask.sum()
        clipped = r.clamp(1 - clip, 1 + clip)

        def loss(gain):
            return -(gain * mask).sum() / n

        A = a[:, None]
        gain = torch.minimum(r * A, clipped * A)
        same(got, by_loop(new, old, a, mask, clip), given,
             "r = exp(log_p - old_log_p), A is one number a row",
             {"nothing is clipped": loss(r * A),
              "always clipped: take the smaller of both": loss(clipped * A),
              "the larger, not the smaller": loss(torch.maximum(r * A, clipped * A)),
              "the sign": -loss(gain),
              "the ratio upside down": by_loop(old, new, a, mask, clip),
              "padding counts: multiply by the mask": -gain.sum() / n,
              "the mean is over padding, too": -(gain * mask).mean(),
              "clip is written in": by_loop(new, old, a, mask, 0.2),
              "a mean of means: each token counts alike, not each row":
                  (-((gain * mask).sum(1) / mask.sum(1)).mean())})


@pytest.mark.ex("7.8")
@pytest.mark.parametrize("ratio, advantage, want", [(1.5, 1.0, -1.2), (0.5, 1.0, -0.5), (1.5, -1.0, 1.5),
                                                    (0.5, -1.0, 0.8)])
def test_the_clip_takes_the_smaller_gain(ratio, advantage, want):
    """beyond the clip the gain stops growing, the loss does not"""
    new = torch.tensor([[math.log(ratio)]]).double()
    given = f"one token, r = {ratio}, A = {advantage}, clip 0.2"
    got = call(given, clipped_policy_loss, new, torch.zeros(1, 1).double(),
               torch.tensor([advantage]).double(), torch.ones(1, 1).double(), 0.2)
    other = -min(max(ratio, 0.8), 1.2) * advantage
    same(got, torch.tensor(want, dtype=torch.float64), given, "the smaller of r A and clip(r) A",
         {"the larger was taken": torch.tensor(-ratio * advantage if want == other else other).double()})


@pytest.mark.ex("7.8")
def test_at_the_sampling_policy_the_gradient_is_that_of_reinforce():
    """where nothing has moved yet, the gradient is -A over the number of tokens"""
    new, _, a, mask = policy(4, 5)
    new.requires_grad_()
    loss = call("log_p = old_log_p", clipped_policy_loss, new, new.detach(), a, mask)
    same(call("its gradient", torch.autograd.grad, loss, new)[0], -a[:, None] * mask / mask.sum(),
         "log_p = old_log_p; the gradient", "the gradient flows through exp(log_p - old_log_p)")


@pytest.mark.ex("7.8")
def test_no_answer_tokens_cost_nothing():
    """an empty mask costs 0, not NaN"""
    new, old, a, mask = policy()
    same(call("an empty mask", clipped_policy_loss, new, old, a, 0 * mask),
         torch.tensor(0.0, dtype=torch.float64), "a mask of zeros", "divide by at least 1")
