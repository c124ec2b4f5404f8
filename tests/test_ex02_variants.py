"""Exercises 2.14 to 2.20: window, router, balance, absorbed latents, YaRN, the gradient of softmax."""

import math

import pytest
import torch
import torch.nn.functional as F

from agreement import agree, unchanged
from attention import softmax_gradient
from latent_attention import LatentAttention
from mixture_of_experts import MixtureOfExperts, balance_of, move_biases, route
from model_config import Config
from rope_scaling import yarn_frequencies
from sliding_window import window_mask

f64 = torch.float64


# 2.14 sliding window


@pytest.mark.ex("2.14")
def test_the_window_of_the_worked_example():
    """2 queries, 5 keys, a window of 2: keys 0 and 1 are too far for the first, 0 to 2 for the second"""
    want = torch.tensor([[True, True, False, False, False], [True, True, True, False, False]])
    agree(window_mask(2, 5, 2), want, "2 queries, 5 keys, window 2",
          {"a window of 2 holds the query's own key and one more":
               torch.tensor([[True, False, False, False, False], [True, True, False, False, False]]),
           "True where a query may NOT look": ~want,
           "the queries are the newest tokens: the last one stands at the last key":
               torch.tensor([[False] * 5] * 2)})


@pytest.mark.ex("2.14")
@pytest.mark.parametrize("window", [1, 3, 7, 100])
def test_a_query_sees_its_own_key_and_the_ones_just_before(window):
    """every pair of a query and a key, against its distance"""
    for T, S in ((6, 6), (1, 6), (3, 8)):
        want = torch.tensor([[S - T + i - j >= window for j in range(S)] for i in range(T)])
        agree(window_mask(T, S, window), want, f"{T} queries, {S} keys, window {window}")


@pytest.mark.ex("2.14")
def test_the_window_is_made_on_the_device_that_was_asked_for():
    """a table of booleans on the device `meta`, which has no data"""
    got = window_mask(3, 4, 2, torch.device("meta"))
    agree(got, torch.empty(3, 4, dtype=torch.bool, device="meta"), "device meta")


# 2.15 router


@pytest.mark.ex("2.15")
def test_the_router_of_the_worked_example():
    """scores as 1 : 2 : 5 : 1.9 of 4 experts, the best 2: experts 2 and 1 with the weights 5/7 and 2/7"""
    logits = torch.tensor([[1.0, 2.0, 5.0, 1.9]], dtype=f64).log()
    weights, chosen, scores = route(logits, torch.zeros(4, dtype=f64), 2, False)
    given = "logits ln 1, ln 2, ln 5 and ln 1.9"
    agree(chosen, torch.tensor([[2, 1]]), f"{given}: the experts", ask="the two largest, largest first")
    agree(scores, torch.tensor([[1.0, 2.0, 5.0, 1.9]], dtype=f64) / 9.9, f"{given}: all scores")
    agree(weights, torch.tensor([[5 / 7, 2 / 7]], dtype=f64), f"{given}: the weights",
          {"the weights of a token sum to one": torch.tensor([[5 / 9.9, 2 / 9.9]], dtype=f64)})


@pytest.mark.ex("2.15")
@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_bias_moves_the_choice_and_not_the_weights(sigmoid):
    """random logits and biases: the choice is by score + bias, the weights are the scores alone"""
    logits, bias = torch.randn(30, 6, dtype=f64), torch.randn(6, dtype=f64)
    weights, chosen, scores = route(logits, bias, 3, sigmoid)
    want = logits.sigmoid() if sigmoid else F.softmax(logits, -1)
    agree(scores, want, f"the scores, sigmoid={sigmoid}",
          {"the other kind of score": F.softmax(logits, -1),
           "the softmax goes over the experts of a token": F.softmax(logits, 0)})
    agree(chosen, (want + bias).topk(3).indices, "the experts that are chosen",
          {"the bias takes no part in the choice": want.topk(3).indices,
           "the bias is added to the scores, not to the logits": (logits + bias).topk(3).indices})
    picked = torch.stack([want[i, chosen[i]] for i in range(30)])
    biased = torch.stack([(want + bias)[i, chosen[i]] for i in range(30)])
    agree(weights, picked / picked.sum(-1, keepdim=True), "the weights",
          {"the bias is for the choice only": biased / biased.sum(-1, keepdim=True),
           "divide by the sum of the chosen scores": picked,
           "divide each row by its own sum": picked / picked.sum()})


@pytest.mark.ex("2.15")
def test_gradients_reach_the_logits_through_the_weights():
    """the gradient of the weights with respect to the logits is that of a softmax over the chosen"""
    logits = torch.randn(8, 5, dtype=f64, requires_grad=True)
    weights, chosen, _ = route(logits, torch.zeros(5, dtype=f64), 2, False)
    weight = torch.randn(8, 2, dtype=f64)
    assert weights.requires_grad, (
        "given logits that require a gradient, got weights without one, wanted weights with one")
    got = torch.autograd.grad((weights * weight).sum(), logits)[0]
    want = torch.autograd.grad((F.softmax(logits.gather(-1, chosen), -1) * weight).sum(), logits)[0]
    agree(got, want, "random logits, the gradient",
          ask="the gradient goes through the scores and through the sum of a token's chosen ones")


# 2.16 load balance


@pytest.mark.ex("2.16")
def test_the_balance_of_the_worked_example():
    """2 experts, scores 0.8 and 0.2 for each of 2 tokens, both to expert 0: 2 * (1 * 0.8 + 0 * 0.2) = 1.6"""
    scores, chosen = torch.tensor([[0.8, 0.2], [0.8, 0.2]], dtype=f64), torch.tensor([[0], [0]])
    agree(balance_of(scores, chosen), torch.tensor(1.6, dtype=f64),
          "scores (0.8, 0.2) twice, both tokens to expert 0",
          {"times the number of experts": torch.tensor(0.8, dtype=f64),
           "the load is a share of all visits": torch.tensor(3.2, dtype=f64)})


@pytest.mark.ex("2.16")
def test_the_balance_is_one_when_even_and_grows_with_favourites():
    """even load and even scores give 1, also for scores that do not sum to one; all on one expert gives E"""
    even = torch.full((6, 3), 1 / 3, dtype=f64)
    chosen = torch.tensor([[0, 1], [1, 2], [2, 0]] * 2)
    agree(balance_of(even, chosen), torch.tensor(1.0, dtype=f64), "even scores, each expert visited 4 times")
    agree(balance_of(5 * even, chosen), torch.tensor(1.0, dtype=f64), "the same scores, five times as large",
          {"divide each token's scores by their sum: sigmoids do not sum to one":
               torch.tensor(5.0, dtype=f64)})
    worst = torch.tensor([[1.0, 0, 0]] * 6, dtype=f64)
    got = balance_of(worst, torch.zeros(6, 1, dtype=torch.int64))
    agree(got, torch.tensor(3.0, dtype=f64), "everything on expert 0 of 3")


@pytest.mark.ex("2.16")
def test_the_balance_is_a_sum_over_experts():
    """random scores and choices, against a loop over the experts, and its gradient"""
    scores = torch.rand(40, 5, dtype=f64).requires_grad_()
    chosen = torch.stack([torch.randperm(5)[:2] for _ in range(40)])
    want = 0
    for e in range(5):
        want = want + 5 * (chosen == e).double().sum() / 80 * (scores[:, e] / scores.sum(-1)).mean()
    got = balance_of(scores, chosen)
    agree(got, want.detach(), "random scores of 40 tokens and 5 experts, 2 visits a token")
    assert got.requires_grad, (
        "given scores that require a gradient, got a balance without one, wanted it to have it")
    agree(*(torch.autograd.grad(x, scores)[0] for x in (got, want)), "the gradient of the same")


# 2.17 balance without a loss


def mixture(loads: list[float]) -> MixtureOfExperts:
    """A mixture whose last forward pass had these loads."""
    shape = dict(d_model=4, n_heads=1, n_kv_heads=1, d_ff=4)
    made = MixtureOfExperts(Config(**shape, n_experts=len(loads), balance="bias"))
    made.load = torch.tensor(loads)
    return made


@pytest.mark.ex("2.17")
def test_the_biases_of_the_worked_example():
    """loads 0.5, 0.25, 0.25, 0 of 4 experts, rate 0.1: the biases move by -0.1, 0, 0 and +0.1"""
    made = mixture([0.5, 0.25, 0.25, 0.0])
    move_biases(made, 0.1)
    want = torch.tensor([-0.1, 0, 0, 0.1])
    agree(made.e_score_correction_bias, want, "loads 0.5, 0.25, 0.25 and 0",
          {"busy experts must become less attractive": -want,
           "the step is the rate, whatever the distance": 0.1 * torch.tensor([-0.25, 0, 0, 0.25])})


@pytest.mark.ex("2.17")
def test_biases_add_up_step_by_step_in_every_layer():
    """two layers, three steps with random loads"""
    layers = torch.nn.ModuleList([mixture([0.2] * 5), mixture([1 / 3] * 3)])
    want = [torch.zeros(5), torch.zeros(3)]
    for _ in range(3):
        for i, m in enumerate(layers):
            m.load = F.softmax(torch.randn(len(m.load)), 0)
            want[i] = want[i] + 0.02 * torch.tensor([1.0 if x < 1 / len(m.load) else -1.0 for x in m.load])
        move_biases(layers, 0.02)
    for m, w in zip(layers, want):
        agree(m.e_score_correction_bias, w, "three steps of rate 0.02", ask="add to what the bias was before")


@pytest.mark.ex("2.17")
def test_experts_that_are_balanced_by_a_loss_stay():
    """a mixture with balance="loss" keeps its biases at zero, one with "bias" beside it moves"""
    other = MixtureOfExperts(Config(d_model=4, n_heads=1, n_kv_heads=1, d_ff=4, n_experts=4))
    other.load = torch.tensor([0.7, 0.1, 0.1, 0.1])
    mine = mixture([0.7, 0.1, 0.1, 0.1])
    move_biases(torch.nn.ModuleList([other, mine]), 0.5)
    agree(other.e_score_correction_bias, torch.zeros(4), "balance='loss'", ask="only where m.sigmoid is true")
    agree(mine.e_score_correction_bias, torch.tensor([-0.5, 0.5, 0.5, 0.5]), "balance='bias'")


# 2.18 absorbed latents


def latent_layer(heads: int, width: int, latent: int, rope: int) -> LatentAttention:
    """A float64 layer of multi-head latent attention with random weights."""
    shape = dict(d_model=heads * width, n_heads=heads, n_kv_heads=heads)
    config = Config(**shape, attention="latent", kv_latent=latent, rope_width=rope)
    made = LatentAttention(config, 0).double()
    made.kv_b_proj.weight.data.normal_()
    return made


@pytest.mark.ex("2.18")
def test_the_absorbed_product_of_the_worked_example():
    """one head of width 1, a latent of 1: key weight 3, value weight 10, q 2, latents 0 and 1"""
    layer = latent_layer(1, 1, 1, 2)
    layer.kv_b_proj.weight.data = torch.tensor([[3.0], [10.0]], dtype=f64)
    q, zero = torch.full((1, 1, 1, 1), 2.0, dtype=f64), torch.zeros(1, 1, 1, 2, dtype=f64)
    c = torch.tensor([0.0, 1.0], dtype=f64).view(1, 1, 2, 1)
    weight = 1 / (1 + math.exp(-6 / math.sqrt(3)))  # score 2 * 3 * 1 over the root of D + r = 3
    agree(layer.mix_absorbed(q, zero, c, torch.zeros(1, 1, 2, 2, dtype=f64)),
          torch.full((1, 1, 1, 1), 10 * weight, dtype=f64),
          "q 2, key weight 3, value weight 10, latents 0 and 1",
          {"the values are not projected": torch.full((1, 1, 1, 1), weight, dtype=f64)})


@pytest.mark.ex("2.18")
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (2, 6, 3, 4), (4, 2, 7, 6)])
def test_absorbing_changes_nothing(shape):
    """the same as building every head's keys and values, for several widths, one and several queries"""
    H, D, R, r = shape
    layer = latent_layer(*shape)
    for T in (1, 3):
        shapes = (H, T, D), (H, T, r), (1, 6, R), (1, 6, r)
        parts = [torch.randn(2, *shape, dtype=f64) for shape in shapes]
        agree(layer.mix_absorbed(*parts), layer.mix(*parts),
              f"{H} heads of width {D}, latent {R}, rotated part {r}, {T} queries",
              ask="of a head's 2 D rows the first D make its key; and which width does attend divide by?")


@pytest.mark.ex("2.18")
def test_no_key_or_value_of_full_size_is_built():
    """attend gets keys of width R + r and values of width R: what the cache holds, one for all heads"""
    layer = latent_layer(3, 4, 5, 2)
    given = []
    layer.attend = lambda q, k, v, bias: (given.append((q.shape, k.shape, v.shape)), v[:, :, :1])[1]
    shapes = (3, 1, 4), (3, 1, 2), (1, 6, 5), (1, 6, 2)
    layer.mix_absorbed(*(torch.randn(1, *shape, dtype=f64) for shape in shapes))
    assert given, "mix_absorbed called self.attend 0 times, wanted once"
    got = [tuple(s) for s in given[0]]
    assert got == [(1, 3, 1, 7), (1, 3, 6, 7), (1, 3, 6, 5)], (
        f"attend was given queries, keys and values of shapes {got}, wanted "
        "[(1, 3, 1, 7), (1, 3, 6, 7), (1, 3, 6, 5)]")


# 2.19 YaRN


@pytest.mark.ex("2.19")
def test_the_frequencies_of_the_worked_example():
    """width 8, base 10,000, trained on 2,048 tokens, factor 4: pairs 0 and 1 stay, 3 is a quarter"""
    # pairs that turn 32 and 1 times have the indices 1.007 and 2.512: the ramp runs from 1 to 3
    want = torch.tensor([1.0, 0.1, (1 + 1 / 4) / 2 * 0.01, 0.001 / 4], dtype=f64)
    agree(yarn_frequencies(8, 10_000.0, 4.0, 2048), want,
          "width 8, base 10,000, factor 4, trained on 2,048 tokens",
          {"fast pairs keep their frequency, slow ones are divided":
               torch.tensor([0.25, 0.025, 0.00625, 0.001], dtype=f64),
           "all pairs are divided: that is position interpolation":
               torch.tensor([0.25, 0.025, 0.0025, 0.00025], dtype=f64)})


def yarn(width: int, base: float, factor: float, length: float, often: float, seldom: float) -> torch.Tensor:
    """The definition, pair by pair."""
    def index(turns: float) -> float:
        return width / 2 * math.log(length / (2 * math.pi * turns), base)

    low, high = max(0, math.floor(index(often))), min(width - 1, math.ceil(index(seldom)))
    out = []
    for i in range(width // 2):
        share = min(max((i - low) / max(high - low, 0.001), 0), 1)
        frequency = base ** (-2 * i / width)
        out.append(frequency * (1 - share) + frequency / factor * share)
    return torch.tensor(out, dtype=f64)


@pytest.mark.ex("2.19")
@pytest.mark.parametrize("case", [(64, 1e4, 8.0, 4096, 32, 1), (32, 5e5, 4.0, 256, 32, 1),
                                  (16, 1e3, 2.0, 100, 8, 0.5)])
def test_yarn_is_its_definition_pair_by_pair(case):
    """three shapes, against the formulas written out for each pair"""
    width, base, factor, length, often, seldom = case
    agree(yarn_frequencies(*case[:4], often=often, seldom=seldom), yarn(*case), f"{case}",
          ask="low is rounded down, high up, and neither leaves 0 ... width - 1")


@pytest.mark.ex("2.19")
def test_a_factor_of_one_changes_nothing():
    """factor 1 leaves RoPE as it is; a huge factor stops the slowest pair and not the fastest"""
    plain = torch.tensor([10_000.0 ** (-i / 8) for i in range(8)], dtype=f64)
    agree(yarn_frequencies(16, 10_000.0, 1.0, 128), plain, "width 16, factor 1")
    got = yarn_frequencies(16, 10_000.0, 1e9, 128)
    agree(got[-1:] * 1e9, plain[-1:], "width 16, factor 1e9, the last pair, times 1e9")
    agree(got[:1], plain[:1], "width 16, factor 1e9, the first pair")


# 2.20 the gradient of softmax


@pytest.mark.ex("2.20")
def test_the_gradient_of_the_worked_example():
    """weights 0.5, 0.3, 0.2 and gradient 1, 2, 4: the mean is 1.9, so -0.45, 0.03 and 0.42"""
    p, grad = torch.tensor([0.5, 0.3, 0.2], dtype=f64), torch.tensor([1.0, 2, 4], dtype=f64)
    agree(softmax_gradient(p, grad), torch.tensor([-0.45, 0.03, 0.42], dtype=f64),
          "p (0.5, 0.3, 0.2), gradient (1, 2, 4)",
          {"raising one score lowers the other weights too": p * grad,
           "each entry is multiplied by its weight": grad - 1.9,
           "subtract the mean under p, not the plain sum": p * (grad - grad.sum())})


@pytest.mark.ex("2.20")
def test_the_gradient_is_that_of_torch():
    """random tables with some weights of exactly zero: torch's own gradient"""
    for shape in ((7,), (3, 5), (2, 3, 4, 6)):
        x, grad = torch.randn(*shape, dtype=f64), torch.randn(*shape, dtype=f64)
        x[..., 0] = -math.inf
        x.requires_grad_()
        p = F.softmax(x, -1)
        want = torch.autograd.grad(p, x, grad)[0]
        agree(softmax_gradient(p.detach(), grad), want, f"a table {shape}", ask="sum over the last dimension")


@pytest.mark.ex("2.20")
def test_what_came_in_stays_as_it_was():
    """p and the gradient are not changed: other layers still need them"""
    unchanged(softmax_gradient, F.softmax(torch.randn(4, 6, dtype=f64), -1), torch.randn(4, 6, dtype=f64))
