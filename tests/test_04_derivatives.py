"""Gradients of chapter 4 and csrc where pieces meet (ties, nothing counted), and no second derivatives."""
import pytest
import torch
import torch.nn.functional as F

import kernels
from cross_entropy import IGNORE, cross_entropy, cross_entropy_naive
from flash_attention import flash_attention
from recompute import recompute
from tensor_parallel import enter, leave, vocab_parallel_cross_entropy
from thread_team import Alone

TARGETS = torch.tensor([1, 0, 2])


def attention(function):
    return lambda x: function(*(x.view(1, 1, 3, 16) * k for k in (1, 2, 3)))


ONCE = {
    "flash_attention": attention(flash_attention),
    "recompute": lambda x: recompute(torch.sin, x),
    "cross_entropy": lambda x: cross_entropy(x, TARGETS),
    "vocab_parallel_cross_entropy": lambda x: vocab_parallel_cross_entropy(x, TARGETS, 0, Alone()),
    "enter": lambda x: enter(x[None], Alone()),
    "leave": lambda x: leave(x[None], Alone()),
}
if kernels.available():
    ONCE["the kernel"] = attention(kernels.flash_attention)


@pytest.mark.parametrize("name", ONCE)
def test_a_gradient_by_hand_is_not_differentiated_again(name):
    x = torch.randn(3, 16, requires_grad=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(ONCE[name](x).square().sum(), x, create_graph=True)
    torch.autograd.grad(ONCE[name](x).square().sum(), x, retain_graph=True)


EQUAL = {"equal": torch.zeros(3, 6), "two largest": torch.tensor([[5.0, 5, 1, 0, 0, 0]] * 3),
         "a jump": torch.eye(3, 6) * 40}
LOSSES = {"naive": cross_entropy_naive, "by hand": cross_entropy,
          "vocabulary in parallel": lambda x, y: vocab_parallel_cross_entropy(x, y, 0, Alone())}


@pytest.mark.parametrize("targets", [[1, 0, 2], [0, IGNORE, 5], [IGNORE] * 3])
@pytest.mark.parametrize("logits", EQUAL)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_at_ties_have_the_gradient_of_torch(loss, logits, targets):
    ours, theirs = (EQUAL[logits].double().requires_grad_() for _ in range(2))
    targets = torch.tensor(targets)
    LOSSES[loss](ours, targets).backward()
    F.cross_entropy(theirs, targets, reduction="sum").div(max(1, (targets != IGNORE).sum())).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("function", [flash_attention, kernels.attention_torch,
                                      lambda q, k, v: flash_attention(q, k, v, tile=2)])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_attention_to_equal_scores_has_the_gradient_of_torch(function, size):
    """All queries and keys alike, so that every maximum is a tie; with size 0 all scores are 0."""
    ours, theirs = ([*(torch.full((1, 2, 5, 4), size, dtype=torch.float64) for _ in range(2)),
                     torch.arange(40.0, dtype=torch.float64).view(1, 2, 5, 4)] for _ in range(2))
    for x in ours + theirs:
        x.requires_grad_()
    weight = torch.linspace(-1, 1, 40, dtype=torch.float64).view(1, 2, 5, 4)
    (function(*ours) * weight).sum().backward()
    (F.scaled_dot_product_attention(*theirs, is_causal=True) * weight).sum().backward()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)


def test_the_naive_loss_has_a_second_derivative():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: cross_entropy_naive(x, TARGETS), x)
