"""The exercises of chapter 3 about the size of a step: schedules and clipping."""

import math

import pytest
import torch
from torch import nn

from clipping import clip_gradients
from ex_compare import call, same, show
from schedule import constant_then_decay, cosine

# 3.2 constant, then decay; 3.3 cosine


def line(step, n_steps, n_warmup, decay, floor):
    """The factor of constant_then_decay in one place, straight from its description."""
    factor = min(1.0, (step + 1) / max(n_warmup, 1))
    length = int(n_steps * decay) or 1
    if step > n_steps - length:
        factor = min(factor, (n_steps - step) / length)
    return max(factor, floor)


def factors(schedule, n_steps, **settings):
    """The factor of every step of a run."""
    given = f"n_steps {n_steps}, " + ", ".join(f"{k} {v}" for k, v in settings.items())
    return given, [call(f"step {i}, {given}", schedule, i, n_steps, **settings) for i in range(n_steps)]


@pytest.mark.ex("3.2")
def test_the_rate_rises_then_stays():
    """the rate rises during warm-up and then stays at 1"""
    given, got = factors(constant_then_decay, 40, n_warmup=4, decay=0.25, floor=0.0)
    same(got[:30], [0.25, 0.5, 0.75] + [1.0] * 27, given + "; steps 0 to 29",
         "is the warm-up there, and does the decay begin only in the last quarter?")


@pytest.mark.ex("3.2")
@pytest.mark.parametrize("n_steps, decay", [(40, 0.25), (20, 0.5), (30, 0.8)])
def test_the_end_is_a_straight_line(n_steps, decay):
    """the last steps are a straight line"""
    given, got = factors(constant_then_decay, n_steps, n_warmup=2, decay=decay, floor=0.0)
    want = [line(i, n_steps, 2, decay, 0.0) for i in range(n_steps)]
    n = int(n_steps * decay)
    same(got, want, given, f"at step s of the last n_decay = {n} the factor is (n_steps - s) / n_decay",
         {"one step too early: the last factor should be 1 / n_decay":
              [max(min(w, (n_steps - 1 - i) / n), 0) for i, w in enumerate(want)],
          "the decay takes 1 - decay of the steps, not decay":
              [line(i, n_steps, 2, 1 - decay, 0.0) for i in range(n_steps)],
          "the decay takes all the steps": [line(i, n_steps, 2, 1.0, 0.0) for i in range(n_steps)]})


@pytest.mark.ex("3.2")
def test_the_rate_never_falls_below_the_floor():
    """the rate never falls below the floor"""
    for floor in (0.02, 0.3):
        given, got = factors(constant_then_decay, 200, n_warmup=1, decay=0.5, floor=floor)
        same(min(got), floor, given + "; the smallest factor", "the larger of floor and everything else",
             {"the floor is written in, not taken from the argument": 0.02, "there is no floor": 0.01})


@pytest.mark.ex("3.2")
def test_no_decay_is_allowed():
    """a run without decay stays at 1"""
    given, got = factors(constant_then_decay, 5, n_warmup=0, decay=0.0, floor=0.02)
    same(got, [1.0] * 5, given, "int(n_steps * decay) is 0 here: divide by at least 1")


@pytest.mark.ex("3.3")
def test_cosine_begins_with_the_warmup():
    """the first steps are the warm-up"""
    given, got = factors(cosine, 30, n_warmup=5, floor=0.1)
    same(got[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], given + "; steps 0 to 5",
         "before n_warmup return warmup(step, n_warmup); the wave begins at step n_warmup with 1")


@pytest.mark.ex("3.3")
@pytest.mark.parametrize("floor", [0.0, 0.02, 0.4])
def test_cosine_ends_at_the_floor(floor):
    """the wave begins at 1, passes the middle and ends at the floor in the last step"""
    given, got = factors(cosine, 25, n_warmup=4, floor=floor)
    same([got[4], got[14], got[24]], [1.0, (1 + floor) / 2, floor], given + "; steps 4, 14 and 24",
         "progress runs from 0 at step n_warmup to exactly 1 at step n_steps - 1",
         {"the wave goes up: 1 + cos, not 1 - cos": [floor, (1 + floor) / 2, 1.0]})


@pytest.mark.ex("3.3")
def test_cosine_follows_the_formula():
    """every step follows the formula"""
    n, w, floor = 50 + int(torch.randint(50, ())), int(torch.randint(1, 10, ())), 0.05
    given, got = factors(cosine, n, n_warmup=w, floor=floor)
    want = [(i + 1) / w if i < w else floor + (1 - floor) * math.cos(math.pi / 2 * (i - w) / (n - 1 - w)) ** 2
            for i in range(n)]
    same(got, want, given, "floor + (1 - floor) * (1 + cos(pi * progress)) / 2", atol=1e-7)


@pytest.mark.ex("3.3")
@pytest.mark.parametrize("n_steps, n_warmup, want", [(1, 0, 1.0), (5, 4, 1.0), (6, 4, 0.1), (2, 0, 0.1)])
def test_cosine_of_one_or_two_steps(n_steps, n_warmup, want):
    """a wave of one step is 1, the second of two steps is the floor"""
    given = f"n_steps {n_steps}, n_warmup {n_warmup}, floor 0.1; the last factor"
    got = call(given, cosine, n_steps - 1, n_steps, n_warmup, 0.1)
    same(got, want, given, "divide by n_steps - 1 - n_warmup, and by 1 where that is 0")


@pytest.mark.ex("3.3")
@pytest.mark.parametrize("n_steps, n_warmup", [(25, 4), (3, 5)])
def test_cosine_stays_at_the_floor(n_steps, n_warmup):
    """a run that goes on after its last step stays at the floor"""
    given = f"n_steps {n_steps}, n_warmup {n_warmup}, floor 0.1; steps after the last"
    later = [max(n_steps, n_warmup + 1) + i for i in range(0, 40, 3)]
    got = [call(given, cosine, i, n_steps, n_warmup, 0.1) for i in later]
    same(got, [0.1] * len(later), given, "the cosine rises again beyond pi: progress is at most 1")


# 3.4 gradient clipping


def with_gradients(*sizes):
    """Parameters with random gradients of these numbers of elements; the second one has none."""
    parameters = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in sizes]
    for i, p in enumerate(parameters):
        p.grad = None if i == 1 else torch.randn(p.shape, dtype=torch.float64)
    grads = [p.grad for p in parameters if p.grad is not None]
    return parameters, [g.clone() for g in grads], math.sqrt(sum(g.square().sum().item() for g in grads))


def gradients(parameters):
    """All gradients there are."""
    return [p.grad for p in parameters if p.grad is not None]


@pytest.mark.ex("3.4")
def test_long_gradients_are_scaled_together():
    """a gradient that is too long is scaled by one factor for all parameters"""
    parameters, before, norm = with_gradients(4, 3, 2)
    limit, given = norm / 3, f"gradients of joint length {norm:.4f}, max_norm {norm / 3:.4f}"
    call(given, clip_gradients, iter(parameters), limit)
    same(gradients(parameters), [g / 3 for g in before], given,
         "multiply every gradient in place by max_norm / norm",
         {"nothing has changed: scale the gradients in place": before,
          "each gradient has its own factor: the length is that of all of them together":
              [g * limit / g.norm() for g in before],
          "lengths were added: the joint length is the root of the sum of squares":
              [g * limit / sum(b.norm() for b in before) for g in before],
          "elements were cut off, which changes the direction": [g.clamp(-limit, limit) for g in before]},
         rtol=1e-5)


@pytest.mark.ex("3.4")
def test_short_gradients_stay():
    """a gradient that is short enough stays as it is"""
    parameters, before, norm = with_gradients(4, 3, 2)
    given = f"gradients of joint length {norm:.4f}, max_norm {1.1 * norm:.4f}"
    call(given, clip_gradients, iter(parameters), 1.1 * norm)
    same(gradients(parameters), before, given, "clipping only shortens: scale only if norm > max_norm")


@pytest.mark.ex("3.4")
def test_the_length_before_is_returned():
    """the length before clipping is returned, as a tensor of no dimensions"""
    parameters, before, norm = with_gradients(4, 3, 2)
    got = call("two gradients", clip_gradients, iter(parameters), norm / 2)
    if not (isinstance(got, torch.Tensor) and got.ndim == 0):
        pytest.fail(f"got {show(got)}, wanted a tensor of no dimensions: .item() would make a GPU wait",
                    pytrace=False)
    same(got.double(), torch.tensor(norm, dtype=torch.float64), "gradients of lengths "
         + show_lengths(before), "the root of the sum of the squared lengths",
         {"the length after clipping was returned": norm / 2,
          "lengths were added": sum(g.norm().item() for g in before),
          "only the longest counts": max(g.norm().item() for g in before)}, rtol=1e-6)


def show_lengths(grads):
    """Lengths of some gradients as text."""
    return ", ".join(f"{g.norm().item():.4f}" for g in grads)


@pytest.mark.ex("3.4")
def test_nothing_to_clip_has_length_zero():
    """parameters without any gradient have the length 0"""
    frozen = nn.Parameter(torch.zeros(3))
    for parameters in ([], [frozen]):
        got = call(f"{len(parameters)} parameters without a gradient", clip_gradients, iter(parameters), 1.0)
        same(got, torch.zeros(()), f"{len(parameters)} parameters without a gradient",
             "an empty list cannot be stacked: return torch.zeros(())")


@pytest.mark.ex("3.4")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_gradient_shows_in_the_length(bad):
    """the length of a gradient that is not finite is not finite either"""
    parameters, _, _ = with_gradients(4, 3, 2)
    parameters[2].grad[1] = bad
    got = call(f"a gradient with {bad}", clip_gradients, iter(parameters), 1.0)
    if torch.isfinite(torch.as_tensor(got)):
        pytest.fail(f"given a gradient with {bad}, got the length {show(got)}: nobody would see that the "
                    "run diverged",
                    pytrace=False)
