"""The exercise of chapter 7 about distillation from probabilities."""

import pytest
import torch

from distill import forward_kl
from ex_compare import call, same


def by_definition(student, teacher, mask, temperature=1.0):
    """T² sum p log(p / q), token by token, over the tokens that count."""
    total, n = torch.zeros((), dtype=student.dtype), 0
    for b, t in mask.nonzero().tolist():
        p, q = (teacher[b, t] / temperature).softmax(0), (student[b, t] / temperature).softmax(0)
        total, n = total + temperature**2 * (p * (p / q).log()).sum(), n + 1
    return total / max(n, 1)


@pytest.mark.ex("7.18")
def test_the_divergence_of_the_worked_example():
    """teacher (1/2, 1/2), student (9/10, 1/10): 0.511"""
    teacher, student = (torch.tensor([[p]]).double().log() for p in ([0.5, 0.5], [0.9, 0.1]))
    one = torch.ones(1, 1).double()
    given = "teacher's probabilities [0.5, 0.5], student's [0.9, 0.1], one token"
    want = by_definition(student, teacher, one)
    same(call(given, forward_kl, student, teacher, one), want, given, "sum p log(p / q)", {
        "that is the reverse: sum q log(q / p)": by_definition(teacher, student, one),
        "that is the cross-entropy, without the teacher's entropy": -(0.5 * student).sum()})


@pytest.mark.ex("7.18")
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_the_mean_is_over_tokens_that_count(temperature):
    """two rows, some tokens masked, logits that are no logarithms yet; value and gradient"""
    teacher = 2 * torch.randn(2, 4, 6, dtype=torch.float64)
    student = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.float64)
    given = f"logits (2, 4, 6), mask [[0, 1, 1, 0], [1, 1, 1, 1]], T {temperature}"
    got = call(given, forward_kl, student, teacher, mask, temperature)
    want = by_definition(student, teacher, mask, temperature)
    same(got, want, given, "soften both by T, multiply by T²", {
        "T² is missing": want / temperature**2, "it is T, not T²": want / temperature,
        "the sum, not the mean": want * mask.sum(),
        "the mean is over masked tokens too": want * mask.sum() / mask.numel()})
    [slope] = call(given, torch.autograd.grad, got, [student])
    same(slope, torch.autograd.grad(want, student)[0], given + "; its gradient",
         "the gradient goes through the student")


@pytest.mark.ex("7.18")
def test_logits_far_apart_do_not_overflow():
    """logits of plus and minus 500 in single precision: 1000, not infinity"""
    teacher, student = torch.tensor([[[500.0, -500.0]]]), torch.tensor([[[-500.0, 500.0]]])
    given = "teacher's logits [500, -500], student's [-500, 500]"
    same(call(given, forward_kl, student, teacher, torch.ones(1, 1)), torch.tensor(1000.0), given,
         "log(softmax(x)) is log 0: use log_softmax or logsumexp")


@pytest.mark.ex("7.18")
def test_a_row_without_answer_costs_nothing():
    """an empty mask gives 0, not NaN, and equal models cost 0"""
    some = torch.randn(1, 3, 4, dtype=torch.float64)
    none = torch.zeros(1, 3, dtype=torch.float64)
    zero, other = torch.zeros((), dtype=torch.float64), some + torch.randn_like(some)
    same(call("an empty mask", forward_kl, some, other, none), zero, "an empty mask", "divide by at least 1")
    same(call("two equal models", forward_kl, some, some.clone(), none + 1, 3.0), zero, "two equal models",
         "KL(p || p) = 0")


@pytest.mark.ex("7.18")
def test_sixteen_bit_logits_give_the_digits_of_float32():
    """bfloat16 logits are made float32 before anything is done with them"""
    student, teacher = (3 * torch.randn(2, 3, 50).bfloat16() for _ in range(2))
    mask = torch.ones(2, 3)
    same(call("bfloat16 logits", forward_kl, student, teacher, mask),
         by_definition(student.float(), teacher.float(), mask), "bfloat16 logits of 50 tokens",
         "at_least_float32 first", rtol=1e-4)
