"""Functions whose gradient is written by hand refuse to be differentiated twice: the second derivative would be wrong."""
import pytest
import torch
from thread_team import Alone

import kernels
from cross_entropy import cross_entropy, cross_entropy_naive
from flash_attention import flash_attention
from recompute import recompute
from tensor_parallel import enter, leave, vocab_parallel_cross_entropy

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


def test_the_naive_loss_has_a_second_derivative():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: cross_entropy_naive(x, TARGETS), x)
