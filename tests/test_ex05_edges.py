"""Chapter 5's exercises at their edges: types, digits, limits, empty slots and numbers that overflow.

Adds to test_ex05.py. The first line of each docstring is what a learner sees.
"""
import math

import numpy as np
import pytest
import torch

from allocate import effective_tokens, optimal, tokens_to_reach
from chinchilla import Law, huber, log_law
from ex_compare import call
from isoflop import parabola_minimum
from lbfgs import two_loop
from ngram import reducible_loss
from source import entropy_rate

EASY = Law(E=1.0, A=10.0, alpha=0.5, B=64.0, beta=0.5)


def digits(got, want, given: str, hint: str, rtol: float = 1e-11) -> None:
    """Assert that numbers or arrays agree in all but the last digits, and are floats of 64 bits."""
    made, wanted = np.asarray(got), np.asarray(want, dtype=np.float64)
    assert made.dtype == np.float64, f"given {given}: got numbers of {made.dtype}, wanted float64. {hint}"
    assert made.shape == wanted.shape, f"given {given}: got shape {made.shape}, wanted {wanted.shape}. {hint}"
    with np.errstate(invalid="ignore"):        # inf - inf
        close = (made == wanted) | (np.abs(made - wanted) <= rtol * np.abs(wanted))
    assert close.all(), f"given {given}: got {made}, wanted {wanted}. {hint}"


@pytest.mark.ex("5.1")
def test_a_loss_just_within_reach_takes_very_many_tokens_and_its_limit_endless_ones():
    """the limit itself is never reached, a ten-thousandth above it is, and tokens are not rounded"""
    for loss, want in ((2.0, math.inf), (2.0001, 64e4 ** 2), (4.1, (64 / 2.1) ** 2)):
        got = call(f"loss {loss}, where this size ends at 2", tokens_to_reach, EASY, 100.0, loss)
        digits(got, want, f"loss {loss}, where this size ends at 2",
               "What is left is loss - 2; 0 of it takes inf.")


@pytest.mark.ex("5.2")
def test_part_of_an_epoch_counts_as_part():
    """two and a half epochs are one and a half repetitions, to the last digits, for any R*"""
    for unique, tokens, r_star in ((100.0, 250.0, 2.0), (7.0, 7.7, 15.39), (3e9, 5.5e10, 0.3)):
        R = tokens / unique - 1
        digits(effective_tokens(unique, tokens, r_star), unique - unique * r_star * math.expm1(-R / r_star),
               f"{unique:g} tokens read {tokens / unique:g} times, R* = {r_star}",
               "R = tokens / unique - 1 need not be a whole number.")


@pytest.mark.ex("5.3")
def test_huber_keeps_shape_and_digits():
    """residuals of any shape and size, zero and the limit itself too"""
    r = np.array([[[1 / 3, -1e-9, 0.0]], [[0.7, -0.7, -1e9 / 7]]])
    value, pull = call("residuals (2, 1, 3)", huber, r, 0.7)
    far = np.abs(r) > 0.7
    want = np.where(far, 0.7 * (np.abs(r) - 0.35), r * r / 2)
    digits(value, want, f"residuals {r.tolist()}, delta 0.7", "r^2/2 up to delta, a line after it.")
    digits(pull, np.where(far, 0.7 * np.sign(r), r), f"residuals {r.tolist()}, delta 0.7", "The slope is the "
           "residual, limited; at the limit both pieces say delta.")


def counted(symbols, order: int) -> float:
    """The mean surprise at the next symbol, by counting contexts in a circle."""
    n, circle = len(symbols), [int(s) for s in symbols] + [int(s) for s in symbols[:order]]
    windows = [tuple(circle[i:i + order + 1]) for i in range(n)]
    contexts = [w[:-1] for w in windows]
    return -sum(math.log(windows.count(w) / contexts.count(w[:-1])) for w in windows) / n


@pytest.mark.ex("5.4")
@pytest.mark.parametrize("n_symbols, order, kind",
                         [(64, 5, np.int64), (64, 3, np.int64), (200, 1, np.uint8), (7, 0, np.int32)])
def test_many_symbols_and_long_contexts_do_not_collide(n_symbols, order, kind):
    """64 symbols and six in a window: more numbers than 32 bits hold; symbols of small integer types"""
    base = np.random.randint(0, n_symbols, 5)
    # windows that differ in one place only: their numbers differ by a power of n_symbols
    rows = [np.append(base, [0, place]) for place in (0, 1, 4, 5)]
    rows += [np.where(np.arange(7) == place, (row + 4) % n_symbols,
                      row) for row in rows for place in range(5)]
    symbols = np.concatenate(rows).clip(0, n_symbols - 1).astype(kind)
    got = call(f"{len(symbols)} symbols of {kind.__name__}", entropy_rate, symbols, order, n_symbols)
    assert abs(got - counted(symbols, order)) < 1e-9, (
        f"given {n_symbols} symbols as {kind.__name__}, order {order}: got {got}, wanted "
        f"{counted(symbols, order)}. A window's number may need 63 bits, and the text's own type may have 8.")


@pytest.mark.ex("5.5")
def test_small_budgets_are_not_rounded():
    """a budget of 900: 24.49 parameters and 6.12 tokens, to the last digits"""
    law = Law(1.0, 8.0, 0.5, 4.0, 0.5)
    N = 2 * math.sqrt(150)
    digits(optimal(law, 900.0), (N, 150 / N), "A 8, B 4, alpha = beta = 0.5, C = 900", "Nothing is rounded.")


@pytest.mark.ex("5.6")
def test_sizes_come_in_any_order():
    """runs that are not sorted by size, and only three of them"""
    x = np.array([17.0, 20.0, 15.0, 18.5])
    for sizes, at in ((x, 19.5), (x, 15.2), (x[:3], 16.0)):
        given = f"runs at {sizes.tolist()} on the parabola 0.1 (x - {at})^2 + 2"
        digits(call(given, parabola_minimum, sizes, 0.1 * (sizes - at) ** 2 + 2), (at, 2.0), given,
               "All sizes between the smallest and the largest count as inside.", 1e-9)


@pytest.mark.ex("5.6")
def test_a_hundredth_decides_what_is_inside():
    """a bottom a hundredth inside the sizes is reported, a hundredth outside is refused"""
    x = np.array([12.0, 10.0, 13.0, 11.0])
    for at, inside in ((10.01, True), (12.99, True), (9.99, False), (13.01, False)):
        try:
            got = parabola_minimum(x, 3 * (x - at) ** 2 + 1)
        except ValueError:
            got = None
        assert inside == (got is not None), (f"given sizes 10 to 13 and a bottom at {at}: got "
                                             f"{got or 'a ValueError'}"
                                             f", wanted {'the bottom' if inside else 'a ValueError'}")


@pytest.mark.ex("5.6")
def test_sizes_that_lie_close_together():
    """sizes a thousandth apart near log N = 21: the fit needs a centre"""
    x = 21 + np.array([-2e-3, -1e-3, 0.0, 1e-3, 2e-3])
    at, height = call("sizes near 21", parabola_minimum, x, 50 * (x - 21.0004) ** 2 + 3)
    assert abs(at - 21.0004) < 1e-6 and abs(height - 3) < 1e-6, (
        f"given sizes 21 +- 0.002 and a bottom at (21.0004, 3): got ({at}, {height}). Subtract the mean "
        "before fitting")


@pytest.mark.ex("5.7")
def test_sure_models_do_not_overflow():
    """logits of +-800 give numbers, and a logit of -inf costs nothing where p is 0"""
    table = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    logits = torch.tensor([[800.0, 799.0, -800.0], [0.0, -math.inf, 3.0]], dtype=torch.float64)
    first = 0.5 * math.log1p(math.exp(-1)) + 0.5 * math.log1p(math.e) - math.log(2)
    digits(reducible_loss(logits, table, torch.tensor([0.25, 0.75], dtype=torch.float64)).item(),
           0.25 * first + 0.75 * math.log1p(math.exp(3)), "logits 800, 799, -800 and 0, -inf, 3",
           "logsumexp does not overflow; where p = 0 the term is 0, whatever log q is.")


@pytest.mark.ex("5.7")
def test_the_result_has_the_digits_of_float64():
    """float32 logits and probabilities are worked with in float64, and weights are taken as they are"""
    logits, table = torch.randn(2, 3, 4, 6), torch.softmax(torch.randn(4, 6), -1)
    weight = torch.rand(4, dtype=torch.float64) * 5
    p, log_q = table.double(), torch.log_softmax(logits.double(), -1)
    want = ((p * (p.log() - log_q)).sum(-1) * weight).sum(-1)
    got = reducible_loss(logits, table, weight)
    assert got.dtype == torch.float64, f"given float32 logits: got {got.dtype}, wanted float64"
    digits(got.numpy(), want.numpy(), f"logits (2, 3, 4, 6) and weights that sum to {weight.sum():.3f}",
           "Turn to float64 first; the weights need not sum to 1.")


@pytest.mark.ex("5.8")
def test_each_term_can_be_the_largest_and_the_smallest_share_counts():
    """whichever term is huge, and shares of e^-60 with all their digits"""
    terms = np.array([[0.0, 900.0, -60.0], [-60.0, 0.0, 900.0], [900.0, -60.0, 0.0], [1.0, -59.0, 0.5]])
    theta = np.zeros((4, 5))
    theta[:, [0, 1, 3]] = terms
    f, shares = call("four laws", log_law, theta, np.zeros(2), np.zeros(2))
    want = torch.logsumexp(torch.from_numpy(terms), 1).numpy()
    digits(f, np.stack([want, want], 1), f"exponents {terms.tolist()}",
           "The largest of all three is subtracted.")
    digits(shares[..., 0], np.exp(terms.T - want), f"exponents {terms.tolist()}",
           "A small share is small, not cut.")


@pytest.mark.ex("5.8")
def test_a_law_without_its_constant():
    """e = -inf is a law without E: the other two share the loss"""
    theta = np.array([[-math.inf, 1.0, 0.5, 2.0, 0.25], [0.5, 1.0, 0.5, 2.0, 0.25]])
    f, shares = call("e = -inf", log_law, theta, np.array([2.0]), np.array([4.0]))
    digits(f[0], [math.log(1 + math.e)], "e = -inf, exponents 0 and 1", "exp(-inf) is 0 and does no harm.")
    digits(shares[:, 0, 0], [0.0, 1 / (1 + math.e), math.e / (1 + math.e)], "e = -inf", "E has no share.")


def direction(g, pairs) -> np.ndarray:
    """-H g for one problem, H built from its pairs (s, y) by the BFGS formula, oldest first."""
    if not pairs:
        return -g
    s, y = pairs[-1]
    H = np.eye(len(g)) * (s @ y) / (y @ y)
    for s, y in pairs:
        V = np.eye(len(g)) - np.outer(s, y) / (s @ y)
        H = V @ H @ V.T + np.outer(s, s) / (s @ y)
    return -H @ g


@pytest.mark.ex("5.9")
def test_each_problem_has_its_own_empty_slots():
    """the newest slot of one problem is empty, all of another, none of a third"""
    g, s = np.random.normal(size=(3, 4)), np.random.normal(size=(3, 3, 4))
    y = s * np.random.uniform(0.5, 2, size=4)
    s[2, 0] = y[2, 0] = 0
    s[:, 1] = y[:, 1] = 0
    want = np.stack([direction(g[r], [(a[r], b[r]) for a, b in zip(s, y) if a[r].any()]) for r in range(3)])
    digits(call("three problems", two_loop, g, s, y), want, "3 problems with 2, 0 and 3 pairs in 3 slots",
           "The scale is that of the newest real pair of each problem, 1 if it has none.", 1e-8)


@pytest.mark.ex("5.9")
def test_tiny_steps_are_pairs_too_and_no_slot_is_needed():
    """steps of 1e-7 give the direction of steps of 1; a history without slots gives the gradient"""
    g, s = np.random.normal(size=(1, 3)), np.random.normal(size=(2, 1, 3))
    y = s * np.array([1.0, 3.0, 0.5])
    want = direction(g[0], [(s[0, 0], y[0, 0]), (s[1, 0], y[1, 0])])[None]
    for small in (1.0, 1e-7):
        digits(call("two pairs", two_loop, g, s * small, y * small), want, f"steps of about {small:g}",
               "A pair counts however small s.y is, unless it is 0.", 1e-8)
    none = np.zeros((0, 1, 3))
    digits(call("no slots", two_loop, g, none, none), -g, "a history of no slots",
           "Then the direction is -gradient.")


@pytest.mark.ex("5.7")
def test_a_symbol_that_the_model_rules_out_costs_what_its_logit_says():
    """a logit a thousand below the others is a log-probability of -1000, not of minus infinity"""
    got = call("logits 0 and -1000, p = (1/2, 1/2)", reducible_loss, torch.tensor([[0.0, -1000.0]]),
               torch.tensor([[0.5, 0.5]]), torch.tensor([1.0], dtype=torch.float64))
    digits(got.item(), 500 - math.log(2), "logits 0 and -1000, p = (1/2, 1/2)",
           "Take the logarithm with logsumexp: the softmax of -1000 is 0.")


@pytest.mark.ex("5.5")
def test_a_compute_that_six_does_not_divide_is_divided():
    """C = 100 gives N = 2 sqrt(100 / 6) for A 8, B 4 and alpha = beta = 1/2"""
    N = 2 * math.sqrt(100 / 6)
    got = call("C = 100", optimal, Law(1.0, 8.0, 0.5, 4.0, 0.5), 100.0)
    digits(got, (N, 100 / (6 * N)), "C = 100", "C / 6 is a fraction here")
