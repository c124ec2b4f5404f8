"""The exercises of chapter 7 about the variants of GRPO."""

import pytest
import torch

from ex_compare import call, same
from grpo import answer_weights, clipped_share

# 7.19 what a token counts


def shares(lengths, mean, budget):
    """What each token counts, from the definition of each mean, over its share of the mean over tokens."""
    n, total = len(lengths), sum(lengths)
    each = {"tokens": lambda x: total, "answers": lambda x: n * x, "budget": lambda x: n * budget}[mean]
    return torch.tensor([total / each(x) for x in lengths], dtype=torch.float64)


@pytest.mark.ex("7.19")
@pytest.mark.parametrize("mean", ["tokens", "answers", "budget"])
def test_weights_on_the_worked_example(mean):
    """lengths 1, 2 and 9, budget 8"""
    given = f"lengths [1, 2, 9], mean over {mean}, budget 8"
    lengths = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
    want = shares([1, 2, 9], mean, 8)
    same(call(given, answer_weights, lengths, mean, 8), want, given, "one number an answer", {
        "that is the share itself, not in units of the mean over tokens": want / 12})


@pytest.mark.ex("7.19")
@pytest.mark.parametrize("mean", ["tokens", "answers", "budget"])
def test_weights_are_those_of_the_three_means(mean):
    """random lengths and budgets, in single and double precision"""
    for dtype in (torch.float64, torch.float32):
        lengths, budget = torch.randint(1, 50, (7,)).tolist(), int(torch.randint(51, 90, ()))
        given = f"lengths {lengths}, mean over {mean}, budget {budget}, {dtype}"
        got = call(given, answer_weights, torch.tensor(lengths, dtype=dtype), mean, budget)
        same(got, shares(lengths, mean, budget).to(dtype), given, "S / N is the mean length", rtol=1e-5)


@pytest.mark.ex("7.19")
def test_the_lengths_stay_as_they_are():
    """lengths is the caller's, and the weights are a tensor of their own"""
    lengths = torch.tensor([2.0, 4.0])
    for mean in ("tokens", "answers", "budget"):
        call("lengths [2, 4]", answer_weights, lengths, mean, 6).mul_(5)
        given = f"lengths [2, 4], mean over {mean}; the lengths afterwards"
        same(lengths, torch.tensor([2.0, 4.0]), given, "make a new tensor")


# 7.20 where the clip binds


def bound_by_hand(ratio, advantages, mask, clip):
    """Token by token: does raising or lowering the ratio a little change min(r A, clip(r) A)?"""
    bound = total = 0
    for row, a, seen in zip(ratio.tolist(), advantages.tolist(), mask.tolist()):
        for r, m in zip(row, seen):
            total += m
            bound += m * (a > 0 and r > 1 + clip or a < 0 and r < 1 - clip)
    return bound / max(total, 1)


@pytest.mark.ex("7.20")
def test_the_share_on_the_worked_example():
    """ratios 1.3, 0.7 and 1.1 with three advantages"""
    log_p, old, mask = torch.tensor([[1.3, 0.7, 1.1]]).log(), torch.zeros(1, 3), torch.ones(1, 3)
    for a, want in ((1.0, 1 / 3), (-1.0, 1 / 3), (0.0, 0.0)):
        given = f"ratios [1.3, 0.7, 1.1], advantage {a}, clip 0.2"
        same(call(given, clipped_share, log_p, old, torch.tensor([a]), mask, 0.2), want, given, "a float", {
            "both sides are counted, whatever the advantage": 2 / 3}, rtol=1e-5)


@pytest.mark.ex("7.20")
@pytest.mark.parametrize("clip", [0.1, 0.4])
def test_the_share_token_by_token(clip):
    """many tokens, some of them prompt or padding"""
    log_p, old = torch.randn(2, 6, 5, dtype=torch.float64) * 0.5
    advantages, mask = torch.randn(6, dtype=torch.float64), (torch.rand(6, 5) < 0.6).double()
    given = f"30 tokens, of which {int(mask.sum())} count, clip {clip}"
    want = bound_by_hand((log_p - old).exp(), advantages, mask, clip)
    same(call(given, clipped_share, log_p, old, advantages, mask, clip), want, given,
         "the ratio is exp(log_p - old_log_p)", rtol=1e-6)


@pytest.mark.ex("7.20")
def test_each_side_is_bound_by_its_own_sign():
    """all ratios above the clip: bound for good answers only; all below: for bad ones only"""
    advantages, zeros = torch.tensor([1.0, -1.0, -1.0, -1.0]).double(), torch.zeros(4, 2).double()
    for move, want in ((0.35, 0.25), (-0.55, 0.75)):      # ratios 1.42 and 0.58
        given = f"all tokens moved by {move} in log p, clip 0.4, advantages [1, -1, -1, -1]"
        same(call(given, clipped_share, zeros + move, zeros, advantages, zeros + 1, 0.4), want, given, "", {
            "the signs are the wrong way round": 1 - want})


@pytest.mark.ex("7.20")
def test_the_share_of_nothing_is_0():
    """no answer token, or none that has moved"""
    old, one = torch.zeros(2, 2), torch.ones(2)
    same(call("an empty mask", clipped_share, old + 1, old, one, 0 * old, 0.2), 0.0, "an empty mask",
         "divide by at least 1")
    for a in (one, -one):
        same(call("nothing moved", clipped_share, old, old, a, old + 1, 0.0), 0.0,
             f"ratio 1, clip 0, advantages {a.tolist()}", "exactly at the limit is not beyond it")


@pytest.mark.ex("7.20")
def test_the_share_of_one_token_is_all_or_nothing():
    """one answer token, beside padding: 1 if it is held back, else 0"""
    log_p, old, mask = torch.tensor([[1.3, 1.3]]).log(), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    for a, want in ((1.0, 1.0), (-1.0, 0.0)):
        given = f"ratios [1.3, 1.3], mask [1, 0], advantage {a}, clip 0.2"
        same(call(given, clipped_share, log_p, old, torch.tensor([a]), mask, 0.2), want, given,
             "a share of the tokens with mask 1")
