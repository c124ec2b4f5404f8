"""The loss against torch's own, in float64: values, gradients, ignored targets, huge logits."""
import math

import pytest
import torch
import torch.nn.functional as F

from cross_entropy import IGNORE, cross_entropy, cross_entropy_naive

BOTH = pytest.mark.parametrize("loss_of", [cross_entropy_naive, cross_entropy])


def example(n=7, vocab=11, scale=3.0, seed=0):
    """Random logits (n, vocab) in float64 and targets (n,)."""
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, vocab, generator=g, dtype=torch.float64)
    return logits, torch.randint(vocab, (n,), generator=g)


def value_and_gradient(loss_of, logits, targets):
    """The loss and its gradient with respect to the logits."""
    logits = logits.clone().requires_grad_()
    loss = loss_of(logits, targets)
    loss.backward()
    return loss.detach(), logits.grad


@BOTH
@pytest.mark.parametrize("ignored", [(), (0,), (2, 3, 6)])
def test_value_and_gradient_are_those_of_torch(loss_of, ignored):
    logits, targets = example()
    targets[list(ignored)] = IGNORE
    got = value_and_gradient(loss_of, logits, targets)
    want = value_and_gradient(lambda a, b: F.cross_entropy(a, b, ignore_index=IGNORE), logits, targets)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@BOTH
def test_the_gradient_agrees_with_finite_differences(loss_of):
    logits, targets = example(4, 5, 1.0, seed=1)
    targets[1] = IGNORE
    assert torch.autograd.gradcheck(lambda a: loss_of(a, targets), logits.requires_grad_())


@BOTH
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_huge_logits_neither_overflow_nor_lose_the_gradient(loss_of, size):
    logits = torch.tensor([[size, 0.0, -size], [-size, size, 0.0]])
    value, gradient = value_and_gradient(loss_of, logits, torch.tensor([0, 2]))
    torch.testing.assert_close(value, torch.tensor(size / 2))
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, -0.5]]))


@BOTH
def test_a_uniform_model_pays_the_logarithm_of_the_vocabulary(loss_of):
    got = loss_of(torch.zeros(3, 1024), torch.tensor([0, 5, 1023]))
    torch.testing.assert_close(got, torch.tensor(math.log(1024)))


@BOTH
def test_a_batch_without_any_target_costs_nothing(loss_of):
    value, gradient = value_and_gradient(loss_of, example()[0], torch.full((7,), IGNORE))
    assert value == 0 and not gradient.any()


@BOTH
def test_a_negative_target_that_is_not_ignore_is_an_error(loss_of):
    """It used to count as token 0."""
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        loss_of(example()[0], torch.tensor([0, 1, -1, 3, 4, 5, 6]))


@BOTH
@pytest.mark.parametrize("logits", [[[0.0, 0, 0]], [[2.0, 2, -9]], [[0.0, 0, float("-inf")]],
                                    [[80.0, -80, 0]]])
def test_the_gradient_is_right_where_logits_tie_or_are_extreme(loss_of, logits):
    logits = torch.tensor(logits, dtype=torch.float64)
    got = value_and_gradient(loss_of, logits, torch.tensor([1]))
    torch.testing.assert_close(got, value_and_gradient(F.cross_entropy, logits, torch.tensor([1])),
                               rtol=1e-12, atol=0)


def test_a_second_derivative_is_that_of_torch_or_refused():
    """The loss with the gradient by hand has none, and says so; the naive one has."""
    logits, targets = example()
    logits.requires_grad_()
    second = {}
    for loss_of in (cross_entropy_naive, F.cross_entropy):
        (first,) = torch.autograd.grad(loss_of(logits, targets), logits, create_graph=True)
        second[loss_of] = torch.autograd.grad(first.square().sum(), logits)
    torch.testing.assert_close(second[cross_entropy_naive], second[F.cross_entropy])
    with pytest.raises(NotImplementedError, match="use cross_entropy_naive"):
        torch.autograd.grad(cross_entropy(logits, targets), logits, create_graph=True)


def test_leading_dimensions_are_flattened_and_the_upstream_gradient_is_passed_on():
    logits, targets = example(6, 11)
    logits_3d, targets_2d = logits.view(2, 3, 11), targets.view(2, 3)
    twice = value_and_gradient(lambda a, b: 2.5 * cross_entropy(a, b), logits_3d, targets_2d)
    once = value_and_gradient(F.cross_entropy, logits, targets)
    torch.testing.assert_close(twice, (2.5 * once[0], 2.5 * once[1].view(2, 3, 11)))
