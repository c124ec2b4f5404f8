"""Tests of chapter 5's exercises. The first line of each docstring is what a learner sees."""
import math

import numpy as np
import pytest
import torch

from allocate import effective_tokens, optimal, tokens_to_reach
from chinchilla import Law, huber, log_law
from isoflop import parabola_minimum
from lbfgs import two_loop
from ngram import reducible_loss
from source import entropy_rate

LAW = Law(E=1.8, A=500.0, alpha=0.35, B=2000.0, beta=0.37)


def near(got, want, given: str, hint: str, rtol: float = 1e-6) -> None:
    """Assert that two numbers or arrays agree (NaN never does), in words."""
    got_, want_ = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    same = got_.shape == want_.shape and bool(np.all(np.abs(got_ - want_) <= rtol * np.abs(want_) + 1e-12))
    assert same, f"given {given}: got {got_}, wanted {want_}. {hint}"


@pytest.mark.ex("5.1")
def test_training_on_the_tokens_to_reach_a_loss_gives_that_loss():
    """training on that many tokens reaches that loss"""
    for N, loss in ((1e9, 2.8), (3e10, 2.3), (2e8, 3.3)):
        D = tokens_to_reach(LAW, N, loss)
        near(float(LAW.loss(N, D)), loss, f"N = {N:g}, D = tokens_to_reach = {D:.4g}",
             "Solve L = E + A/N^alpha + B/D^beta for D.")


@pytest.mark.ex("5.1")
def test_tokens_to_reach_a_loss_on_easy_numbers():
    """the worked example: E = 1, A/N^alpha = 1, and 2 nats to be left by 1024 tokens"""
    got = tokens_to_reach(Law(1.0, 10.0, 0.5, 64.0, 0.5), 100.0, 4.0)
    near(got, 1024.0, "E = 1, A = 10, alpha = beta = 0.5, B = 64, N = 100, loss = 4",
         "4 - 1 - 10/10 = 2, and (64/2)^(1/0.5) = 1024.")


@pytest.mark.ex("5.1")
def test_a_loss_that_the_size_cannot_reach_takes_infinitely_many_tokens():
    """a loss below E + A/N^alpha is never reached"""
    for loss in (1.7, 1.9):
        got = tokens_to_reach(LAW, 1e9, loss)
        assert isinstance(got, float) and math.isinf(got), \
            f"given a loss of {loss}, which 1e9 parameters never reach: got {got}, wanted inf. " \
            "What is left for B/D^beta is negative."


@pytest.mark.ex("5.2")
def test_less_than_one_epoch_is_all_fresh():
    """tokens read once count in full"""
    for tokens in (1e9, 3e9, 5e9):
        near(effective_tokens(5e9, tokens), tokens, f"{tokens:g} of 5e9 unique tokens",
             "Nothing is repeated yet.")


@pytest.mark.ex("5.2")
def test_repetitions_count_less_and_less():
    """the worked example: one epoch and R* repetitions"""
    near(effective_tokens(100.0, 300.0, r_star=2.0), 100 + 200 * (1 - math.exp(-1)),
         "100 unique tokens read 3 times, R* = 2",
         "3 epochs are 2 repetitions; 100 + 100 * 2 * (1 - e^(-2/2)).")


@pytest.mark.ex("5.2")
def test_repeated_data_is_never_worth_more_than_its_limit():
    """endless repetition is worth 1 + R* epochs, four epochs nearly four"""
    near(effective_tokens(1.0, 1e9), 16.39, "1 unique token, 1e9 read", "The limit is unique (1 + R*).")
    four = effective_tokens(1.0, 4.0)
    assert 3.6 < four < 3.8, \
        f"given 4 epochs of 1 token: got {four}, wanted 3.73 (Muennighoff et al.: nearly as good as fresh)"


@pytest.mark.ex("5.3")
def test_huber_and_its_slope_are_torchs():
    """values and slopes agree with torch's huber_loss"""
    r = torch.linspace(-3, 3, 25, dtype=torch.float64, requires_grad=True)
    for delta in (0.5, 2.0):
        want = torch.nn.functional.huber_loss(r, torch.zeros_like(r), delta=delta, reduction="none")
        slope, = torch.autograd.grad(want.sum(), r)
        value, pull = huber(r.detach().numpy(), delta)
        near(value, want.detach().numpy(), f"residuals -3 to 3, delta {delta}",
             "r^2/2 inside, delta (|r| - delta/2) outside.")
        near(pull, slope.numpy(), f"residuals -3 to 3, delta {delta}",
             "The slope is r inside and +-delta outside.")


@pytest.mark.ex("5.3")
def test_the_two_pieces_of_huber_meet():
    """no jump where the square becomes a line, and the same on both sides of zero"""
    value, pull = huber(np.array([0.1 - 1e-9, 0.1 + 1e-9, -0.1, 5.0, -5.0]), 0.1)
    near(value[:3], [0.005] * 3, "|r| = delta = 0.1", "Both pieces are delta^2/2 there.")
    near(value[3:], [0.495] * 2, "r = 5 and -5, delta = 0.1", "Far away the loss is delta (|r| - delta/2).")
    near(pull[3:], [0.1, -0.1], "r = 5 and -5, delta = 0.1",
         "A far run pulls with delta, not with its distance.")


@pytest.mark.ex("5.4")
def test_a_fair_coin_has_log_2_nats_and_a_cycle_none():
    """known sources: a repeating pattern is free, the second symbol of a pair that alternates is too"""
    cycle = np.tile([0, 1, 2], 50)
    near(entropy_rate(cycle, 1, 3), 0.0, "0 1 2 0 1 2 ..., order 1", "After each symbol the next is certain.")
    near(entropy_rate(cycle, 0, 3), math.log(3), "0 1 2 0 1 2 ..., order 0",
         "Without context each of 3 symbols is equally likely, in nats.")
    coin = np.array([0, 0, 1, 1])
    near(entropy_rate(coin, 1, 2), math.log(2), "0 0 1 1 in a circle, order 1",
         "After 0 come 0 and 1 equally often: H(2) - H(1) = log 4 - log 2.")


@pytest.mark.ex("5.4")
def test_the_entropy_rate_is_the_mean_surprise_at_the_next_symbol():
    """the same as counting, for each place of the circle, how often this next symbol follows this context"""
    for order, n_symbols, seed in ((1, 3, 0), (2, 4, 1), (3, 2, 2)):
        symbols = np.random.default_rng(seed).integers(0, n_symbols, size=30)
        circle = list(symbols) + list(symbols[:order])
        surprise = 0.0
        for i in range(30):
            follow = [circle[j + order] for j in range(30) if circle[j:j + order] == circle[i:i + order]]
            surprise -= math.log(follow.count(circle[i + order]) / len(follow)) / 30
        near(entropy_rate(symbols, order, n_symbols), surprise,
             f"30 symbols below {n_symbols}, order {order}",
             "Windows run around the circle, and each must have its own number.", rtol=1e-9)


@pytest.mark.ex("5.5")
def test_no_other_size_does_better_with_the_same_compute():
    """the best size among 2,000 for the same compute"""
    for compute in (1e18, 1e22):
        N, _ = optimal(LAW, compute)
        sizes = np.geomspace(1e6, 1e13, 2000)
        best = sizes[LAW.loss(sizes, compute / (6 * sizes)).argmin()]
        near(math.log(N), math.log(best), f"compute {compute:g}",
             f"Looking at 2,000 sizes finds {best:.3g}. N = G (C/6)^(beta/(alpha+beta)).", 5e-4)


@pytest.mark.ex("5.5")
def test_the_optimum_spends_the_compute():
    """6 N D is the compute"""
    for compute in (1e18, 3e22):
        N, D = optimal(LAW, compute)
        near(6 * N * D, compute, f"compute {compute:g}", "D = C / (6 N): six FLOPs per parameter and token.")


@pytest.mark.ex("5.5")
def test_at_the_optimum_both_terms_gain_equally():
    """the worked example, and alpha A/N^alpha = beta B/D^beta in general"""
    near(optimal(Law(1.0, 8.0, 0.5, 4.0, 0.5), 6e4), (200.0, 50.0),
         "E 1, A 8, B 4, alpha = beta = 0.5, C = 60,000",
         "G = (8/4)^(1/1) = 2, N = 2 * sqrt(10,000), D = 10,000 / N.")
    law = Law(0.5, 90.0, 0.3, 700.0, 0.6)
    N, D = optimal(law, 1e20)
    near(0.3 * 90 / N ** 0.3, 0.6 * 700 / D ** 0.6, "A 90, alpha 0.3, B 700, beta 0.6, C = 1e20",
         "Both slopes by log N must cancel.")


@pytest.mark.ex("5.6")
def test_the_bottom_of_an_exact_parabola_is_found():
    """position and height of a parabola's bottom, wherever it lies between the sizes"""
    x = np.array([15.0, 16.0, 17.5, 18.0, 20.0])
    for at, height in ((16.4, 2.0), (19.2, 0.7)):
        near(parabola_minimum(x, 0.3 * (x - at) ** 2 + height), (at, height),
             f"0.3 (x - {at})^2 + {height} at x = {x}",
             "Bottom at -b/2a, height c - b^2/4a; add back what was subtracted from x.", 1e-8)


@pytest.mark.ex("5.6")
def test_noise_is_averaged_by_the_parabola():
    """the bottom is that of the least-squares parabola, not the lowest run"""
    x = np.linspace(-2, 2, 9)
    loss = (x - 0.3) ** 2 + 3 + 0.2 * np.array([1, -1, 1, -1, 1, -1, 1, -1, 1])
    want = np.polynomial.Polynomial.fit(x, loss, 2)
    bottom = float(want.deriv().roots()[0])
    near(parabola_minimum(x, loss), (bottom, float(want(bottom))), f"losses {np.round(loss, 2)}",
         "Fit first, then take the vertex.", 1e-8)


@pytest.mark.ex("5.6")
def test_a_slice_without_its_minimum_inside_is_refused():
    """a parabola that opens downwards, or whose bottom lies outside the sizes, raises ValueError"""
    x = np.array([10.0, 11.0, 12.0, 13.0])
    for name, loss in (("opens downwards", -(x - 11.5) ** 2), ("bottom left of all sizes", (x - 8) ** 2),
                       ("bottom right of all sizes", (x - 15) ** 2)):
        try:
            got = parabola_minimum(x, loss)
        except ValueError:
            continue
        raise AssertionError(f"given a parabola that {name}: got {got}, wanted a ValueError. This slice has "
                             "no minimum to report.")


def random_source(contexts: int, symbols: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    table = torch.rand(contexts, symbols, generator=g) * (torch.rand(contexts, symbols, generator=g) > 0.4)
    table[:, 0] += 0.1
    weight = torch.rand(contexts, generator=g, dtype=torch.float64)
    return table / table.sum(1, keepdim=True), weight / weight.sum()


@pytest.mark.ex("5.7")
def test_a_perfect_model_has_no_reducible_loss():
    """the source's own probabilities as a model: zero, also where a symbol never comes"""
    table, weight = random_source(6, 4, 0)
    logits = torch.where(table > 0, table, 1e-30).log() + torch.arange(6)[:, None]
    got = reducible_loss(logits, table, weight).item()
    assert abs(got) < 1e-6, f"given logits = log p + constant: got {got}, wanted 0. " \
        "Normalise the logits, subtract the entropy, 0 log 0 = 0."


@pytest.mark.ex("5.7")
def test_reducible_loss_is_torchs_kl_divergence_weighted_by_context():
    """rare contexts count little, for several models at once"""
    table, weight = random_source(7, 5, 1)
    logits = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(2))
    log_q = torch.log_softmax(logits.double(), -1)
    want = [(torch.nn.functional.kl_div(q, table.double(), reduction="none").sum(1) * weight).sum().item()
            for q in log_q]
    near(reducible_loss(logits, table, weight).numpy(), want, "3 models, 7 contexts, 5 symbols",
         "sum over contexts of weight * sum over symbols of p (log p - log q).")


@pytest.mark.ex("5.7")
def test_a_uniform_model_on_a_known_source():
    """the worked example: p = (1/2, 1/2, 0, 0) under a uniform model costs log 2"""
    table = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    got = reducible_loss(torch.full((2, 4), 7.0), table,
                         torch.tensor([0.75, 0.25], dtype=torch.float64)).item()
    near(got, 0.75 * math.log(2) + 0.25 * math.log(4), "weights 3/4 and 1/4, second context certain",
         "log 4 - entropy of each context, weighted.")


@pytest.mark.ex("5.8")
def test_the_log_of_the_law_is_the_log_of_the_sum_of_its_terms():
    """f is log(E + A/N^alpha + B/D^beta), and the shares are each term's part of the loss"""
    theta = np.array([[0.5, 6.0, 0.35, 7.5, 0.37], [-1.0, 4.0, 0.2, 9.0, 0.5]])
    n, d = np.log([1e7, 1e8, 3e9]), np.log([1e9, 1e11, 2e10])
    f, shares = log_law(theta, n, d)
    terms = np.array([[np.full(3, np.exp(t[0])), np.exp(t[1]) / np.exp(n) ** t[2],
                       np.exp(t[3]) / np.exp(d) ** t[4]] for t in theta])
    near(f, np.log(terms.sum(1)), "two laws, three runs", "The exponents are e, a - alpha n and b - beta d.")
    near(shares, (terms / terms.sum(1, keepdims=True)).swapaxes(0, 1), "two laws, three runs",
         "exp(term - f), shape (3, R, P), summing to 1.")


@pytest.mark.ex("5.8")
def test_each_problem_may_have_its_own_runs():
    """n and d of shape (R, P): the bootstrap's replicas"""
    theta = np.array([[0.5, 1.0, 0.3, 2.0, 0.4], [0.1, -1.0, 0.6, 0.5, 0.2]])
    n, d = np.random.default_rng(0).normal(size=(2, 2, 4))
    f, shares = log_law(theta, n, d)
    for r in range(2):
        want = torch.logsumexp(torch.tensor(np.stack([np.full(4, theta[r, 0]),
                                                      theta[r, 1] - theta[r, 2] * n[r],
                                                      theta[r, 3] - theta[r, 4] * d[r]])), 0).numpy()
        near(f[r], want, f"problem {r} with its own 4 runs", "Row r of theta goes with row r of n and d.")
    near(shares.sum(0), np.ones((2, 4)), "2 problems of 4 runs", "Shares of the three terms sum to 1.")


@pytest.mark.ex("5.8")
def test_huge_exponents_do_not_overflow():
    """terms of e^900 and e^-900, in problems far apart"""
    f, shares = log_law(np.array([[900.0, 1.0, 0.1, 899.0, 0.2], [-900.0, -901.0, 0.1, -950.0, 0.2]]),
                        np.zeros(2), np.zeros(2))
    want = 900 + math.log1p(math.exp(-1))
    near(f, [[want] * 2, [want - 1800] * 2], "e = 900, b = 899; and e = -900, a = -901",
         "Subtract the largest exponent of each run before exp, add it back after log.")
    assert np.isfinite(shares).all(), f"shares must be finite, got {shares}"


def inverse_hessian(steps: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The BFGS matrix of one problem, written out (Nocedal and Wright, equation 6.17)."""
    H = np.eye(steps.shape[1]) * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y in zip(steps, changes):
        V = np.eye(len(s)) - np.outer(s, y) / (s @ y)
        H = V @ H @ V.T + np.outer(s, s) / (s @ y)
    return H


def history(m: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    s, M = rng.normal(size=(m, n)), rng.normal(size=(n, n))
    return rng.normal(size=n), s, s @ (M @ M.T + np.eye(n))


@pytest.mark.ex("5.9")
def test_two_loops_give_what_the_bfgs_matrix_gives():
    """minus the inverse Hessian times the gradient, for several problems at once"""
    problems = [history(4, 3, seed) for seed in range(3)]
    gradient, steps, changes = (np.stack([p[i] for p in problems], axis)
                                for i, axis in ((0, 0), (1, 1), (2, 1)))
    want = np.stack([-inverse_hessian(s, y) @ g for g, s, y in problems])
    near(two_loop(gradient, steps, changes), want, "3 problems with 4 pairs each",
         "First loop newest to oldest, scale, second loop oldest to newest.", 1e-8)


@pytest.mark.ex("5.9")
def test_without_history_the_direction_is_downhill_along_the_gradient():
    """empty slots (zeros) are ignored"""
    g = np.array([[1.0, -2.0], [0.5, 3.0]])
    near(two_loop(g, np.zeros((3, 2, 2)), np.zeros((3, 2, 2))), -g, "3 empty slots",
         "With s.y = 0 there is no pair: 1/(s.y) must not be taken.")
    _, s, y = history(1, 2, 5)
    empty = np.zeros((1, 1, 2))
    near(two_loop(g[:1], np.concatenate([empty, s[:, None]]), np.concatenate([empty, y[:, None]])),
         -(inverse_hessian(s, y) @ g[0])[None], "an empty slot, then one pair",
         "Only the real pair counts.", 1e-8)


@pytest.mark.ex("5.9")
def test_the_gradient_that_was_given_is_left_alone():
    """the caller's gradient is not changed"""
    g, s, y = history(2, 3, 7)
    given = g[None].copy()
    two_loop(given, s[:, None], y[:, None])
    near(given, g[None], "a gradient", "Work on a copy: the caller needs the gradient for the line search.")
