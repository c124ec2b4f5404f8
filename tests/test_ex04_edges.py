"""Chapter 4's exercises at their edges: types, digits, ragged and large sizes, far scores, layouts in memory.

Adds to test_ex04.py. The first line of each docstring is what a learner sees.
"""
import random
from fractions import Fraction

import pytest
import torch

import flash_attention as flash
import pipeline_parallel
from collectives import ring_reduce_scatter
from data_parallel import OverlappedGradients
from ex_compare import digits, same
from recompute import recompute
from test_ex04 import attempt, attention_reference, check_split, split_loss_and_gradient
from thread_team import ThreadTeam, run_threads
from zero import state_bytes

f64 = torch.float64


@pytest.mark.ex("4.1")
@pytest.mark.parametrize("n, p, each", [(10, 3, (4, 4, 8)), (10 ** 9 + 1, 7, (2, 2, 12)),
                                        (405e9, 16384, (0.5, 2, 12)), (1, 1, (4, 4, 8)),
                                        (3, 1000, (1, 1, 1))])
def test_nothing_is_rounded(n, p, each):
    """a share may be a fraction of a byte, and the result is a float in every stage"""
    for stage in range(4):
        w, g, m = (Fraction(b) / (p if stage >= shared else 1) for b, shared in zip(each, (3, 2, 1)))
        got = attempt(state_bytes, n, p, stage, *each)
        given = f"{n} parameters on {p} ranks, stage {stage}, bytes {each}"
        digits(got, float(Fraction(n) * (w + g + m)), given, "divide, do not round")
        assert type(got) is float, f"given {given}: got {got!r}, a {type(got).__name__}; wanted a float"


@pytest.mark.ex("4.1")
def test_there_is_no_stage_between_two_stages():
    """stage 1.5 is refused too"""
    for stage in (0.5, 1.5, 2.5, 100):
        with pytest.raises(ValueError):
            got = state_bytes(100, 4, stage)
            pytest.fail(f"stage {stage} gave {got}; want a ValueError: there are 0, 1, 2 and 3")


@pytest.mark.ex("4.2")
@pytest.mark.parametrize("p, m", [(16, 40), (12, 12), (1, 100), (24, 5), (3, 300)])
def test_deep_pipelines_and_many_micro_batches(p, m):
    """a stage goes backward as soon as it holds all it must, in a list of pairs"""
    for stage in (0, 1, p // 2, p - 1):
        if stage < p:
            want, held = [], 0
            while len(want) < 2 * m:
                forwards = (len(want) + held) // 2
                go = "F" if forwards < m and held < p - stage else "B"
                want.append((go, forwards if go == "F" else len(want) - forwards))
                held += 1 if go == "F" else -1
            same(attempt(pipeline_parallel.one_f_one_b, stage, p, m), want,
                 f"stage {stage} of {p}, {m} micro-batches", "a list of tuples such as ('F', 0), all of them")


def ragged(sizes: list[int], bytes_: int) -> OverlappedGradients:
    """Parameters of different sizes in buckets of at least `bytes_` bytes: buckets hold one or several."""
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(n)) for n in sizes])

    class Deaf:
        """A team of one."""
        size = 1

        def start_all_reduce(self, flat):
            return self

        def wait(self):
            pass
    return OverlappedGradients(model, Deaf(), bytes_)


@pytest.mark.ex("4.3")
@pytest.mark.parametrize("bytes_", [1, 12, 32, 4000])
def test_ragged_buckets_in_any_order(bytes_):
    """many buckets of one, of several or of all gradients, which arrive in any order"""
    overlap = ragged([1, 5, 1, 1, 7, 2, 1, 1, 1, 3, 9, 1, 1, 1], bytes_)
    order = [(i, p) for i, bucket in enumerate(overlap.buckets) for p in bucket]
    random.shuffle(order)
    left = [len(bucket) for bucket in overlap.buckets]
    for step, (i, p) in enumerate(order):
        attempt(overlap.ready, p)
        left[i] -= 1
        want = next((j for j, n in enumerate(left) if n), len(left))
        arrived = [j for j, _ in order[:step + 1]]
        given = f"buckets of {[len(b) for b in overlap.buckets]} gradients, arrived: buckets {arrived}"
        same(overlap.missing, left, given + ", missing",
             "one less for the bucket of the parameter, and no other")
        same(len(overlap.sent), want, given + ", started", "all complete ones that wait for no other")


@pytest.mark.ex("4.3")
def test_a_gradient_that_comes_again_shows():
    """a second gradient for a bucket that has left is counted below zero, so that `finish` can refuse it"""
    overlap = ragged([1, 1, 1], 8)
    first = overlap.buckets[0]
    for p in [*first, first[0]]:
        attempt(overlap.ready, p)
    same(overlap.missing, [-1, 1], "a bucket of two, three gradients for it", "missing goes on counting")


def check_ring(inputs: list[torch.Tensor], given: str) -> None:
    """Each rank's part of the sum, and every input as it was."""
    before = [x.clone() for x in inputs]

    def work(team: ThreadTeam):
        return ring_reduce_scatter(inputs[team.rank], team)
    got = attempt(lambda: run_threads(work, len(inputs), ring=True))
    total = torch.stack([x.reshape(-1) for x in inputs]).sum(0)
    for r, part in enumerate(total.tensor_split(len(inputs))):
        same(got[r], part, f"{given}, rank {r}",
             "flat, of the type of x, cut by x.reshape(-1).tensor_split(p)", rtol=1e-14, atol=0.0)
    assert all(map(torch.equal, before, inputs)), f"given {given}: x has changed, wanted it unchanged"


@pytest.mark.ex("4.4")
def test_tables_and_transposed_ones():
    """a table is cut in the order of its numbers, whatever its layout in memory"""
    wide = [torch.arange(15.0, dtype=f64).view(3, 5) * 7**r for r in range(3)]
    check_ring(wide, "3 ranks, tables of 3 x 5")
    check_ring([x.T for x in wide], "3 ranks, tables of 5 x 3 that are transposed views")
    check_ring([torch.arange(24.0).view(2, 3, 4)[:, ::2] + r for r in range(2)],
               "2 ranks, every second row of a block")


@pytest.mark.ex("4.4")
def test_numbers_of_any_type_and_count():
    """float64 to its last digits, whole numbers beyond 2^53, fewer numbers than ranks, and very many"""
    check_ring([torch.randn(11, dtype=f64) for _ in range(2)], "2 ranks, 11 numbers of float64")
    check_ring([torch.tensor([2**60 + r, -r, 3]) for r in range(3)], "3 ranks, int64 beyond 2^53")
    check_ring([torch.full((2,), 1.0 + r) for r in range(4)], "4 ranks, 2 numbers")
    check_ring([torch.arange(13.0) * 3**r for r in range(7)], "7 ranks, 13 numbers")
    check_ring([torch.arange(70001.0) % 97 + r for r in range(2)], "2 ranks, 70,001 numbers")


@pytest.mark.ex("4.5")
def test_weights_of_a_layer_get_gradients_on_top_of_what_is_there():
    """the weights of a layer in float64: their gradients are added to the ones they have"""
    x, above = torch.randn(5, 4, dtype=f64), 100 * torch.randn(5, 3, dtype=f64)
    found = []
    for call in (lambda f, x: f(x), recompute):
        torch.manual_seed(1)
        layer = torch.nn.Linear(4, 3, dtype=f64)
        layer.weight.grad = torch.ones_like(layer.weight)
        a = x.clone().requires_grad_()
        attempt(lambda: (call(layer, a) * above).sum().backward())
        found.append((a.grad, layer.weight.grad, layer.bias.grad))
    for name, want, got in zip(("the input", "the weight, which had ones", "the bias"), *found):
        digits(got, want, f"a linear layer: the gradient of {name}",
               "torch.autograd.backward fills the weights'", atol=1e-12)


@pytest.mark.ex("4.5")
def test_one_tensor_twice_and_arguments_of_other_kinds():
    """the same tensor as two arguments, and None, a flag and a list beside it"""
    x = torch.tensor([2.0, 3.0], dtype=f64, requires_grad=True)

    def product(a, nothing, b, flag, powers):
        assert nothing is None and flag is True and powers == [2, 3], (
            f"the function was given {nothing}, {flag} and {powers} beside x, wanted None, True and [2, 3]")
        return a ** powers[0] * b ** powers[1]
    attempt(lambda: recompute(product, x, None, x, True, [2, 3]).sum().backward())
    digits(x.grad, 5 * x.detach() ** 4, "a^2 b^3 with a = b = (2, 3)",
           "one gradient a place: autograd adds them")


@pytest.mark.ex("4.5")
def test_a_number_in_and_a_number_out():
    """a single number as an argument that needs a gradient, and a loss as the result"""
    a, x = (torch.tensor(value, dtype=f64, requires_grad=True) for value in (3.0, [1.0, 2.0]))
    attempt(lambda: (2 * recompute(lambda a, x: (a * x ** 2).sum(), a, x)).backward())
    digits(a.grad, torch.tensor(10.0, dtype=f64), "2 (a x^2).sum(), a = 3, x = (1, 2): the gradient of a")
    digits(x.grad, torch.tensor([12.0, 24.0], dtype=f64), "the same: the gradient of x")


def check_far(q, k, v, causal: bool, size: int, given: str) -> None:
    """Both outputs to many digits."""
    want = attention_reference(q, k, v, causal)
    got = attempt(flash.flash_forward, q, k, v, causal, size)
    for name, a, b in zip(("O", "L"), got, want):
        digits(a, b, f"{given}: {name}", "no limits inside: exp of what is far below is 0", 1e-10, 1e-12)


@pytest.mark.ex("4.6")
def test_batches_heads_and_layouts():
    """two batch rows, three heads, views of a projection, one query, tiles of one and of too many"""
    for T, S, causal, size in ((5, 9, True, 2), (1, 7, True, 3), (6, 6, False, 1), (7, 4, False, 100)):
        q, k, v = (torch.randn(2, n, 3, 4, dtype=f64).transpose(1, 2) for n in (T, S, S))
        check_far(q, k, v, causal, size, f"B 2, H 3, T {T}, S {S}, causal {causal}, tiles of {size}")


@pytest.mark.ex("4.6")
def test_scores_far_below_zero_and_far_apart():
    """all scores at -80,000; weights of e^-40 and e^-200 on values of 10^12 and 10^60, in either order"""
    q, k, v = (torch.randn(1, 2, 6, 4, dtype=f64) for _ in range(3))
    check_far(q - 200, k + 200, v, False, 4, "scores near -80,000")
    for far, value in ((40.0, 1e12), (200.0, 1e60)):
        for order in ([0.0, far], [far, 0.0]):
            k = torch.tensor(order, dtype=f64).view(1, 1, 2, 1)
            v = torch.where(k > 0, torch.ones_like(k), torch.full_like(k, value))
            check_far(torch.ones(1, 1, 1, 1, dtype=f64), k, v, False, 1,
                      f"scores {order}, values {v.flatten().tolist()}, tiles of 1")


@pytest.mark.ex("4.6")
@pytest.mark.parametrize("T, size", [(12, 4), (12, 1), (12, 5), (4, 2), (5, 2)])
def test_a_tile_of_the_future_is_not_touched(T, size):
    """values of later tiles are NaN: rows of earlier tiles notice nothing, also where there are more keys"""
    q, k, v = (torch.randn(1, 1, n, 4, dtype=f64) for n in (T, 12, 12))
    want = attention_reference(q, k, v, True)[0]
    rows = min(size, T)                                           # of the first tile
    v[:, :, -(-(12 - T + rows) // size) * size:] = float("nan")
    O, _ = attempt(flash.flash_forward, q, k, v, True, size)
    digits(O[:, :, :rows], want[:, :, :rows],
           f"{T} queries, 12 keys, tiles of {size}, values of later tiles NaN: the rows of the first tile",
           "0 * NaN is NaN: one tile of rows and one of columns at a time, and only those that is_needed",
           1e-10, 1e-12)


@pytest.mark.ex("4.7")
def test_logits_far_below_zero_and_far_apart():
    """all logits at -30,000, logits 40 and 200 apart, minus infinity beside the target, to the last digits"""
    check_split(6, (4, 4), shift=-30000.0, rtol=1e-10)
    check_split(6, (3, 5), offset=-30000.0, rtol=1e-10)
    for far in (40.0, 200.0, float("inf")):
        logits = torch.zeros(4, 8, dtype=f64)
        logits[:, [1, 2, 3, 5]] = -far
        logits[3, 4:] -= 1000.0
        check_split(4, (4, 4), torch.tensor([0, 4, 6, 7 if far < 99 else 0]), logits=logits, rtol=1e-12)


@pytest.mark.ex("4.7")
def test_one_token_and_slices_of_one_column():
    """a single token, ranks with one column each, the first and the last column of a slice"""
    check_split(1, (1, 1, 1), torch.tensor([2]), rtol=1e-12)
    check_split(6, (3, 1, 4), torch.tensor([0, 2, 3, 4, 7, 7]), rtol=1e-12)


@pytest.mark.ex("4.7")
def test_float32_stays_float32():
    """logits of float32 give a loss and a gradient of float32, however many tokens there are"""
    logits, targets = torch.randn(300, 6), torch.randint(6, (300,))
    losses, grad, _ = split_loss_and_gradient(logits, targets, (3, 3))
    want = torch.nn.functional.cross_entropy(logits, targets)
    same(losses[1], want, "300 tokens of float32: the loss", "", rtol=1e-5, atol=1e-6)
    same(grad.dtype, torch.float32, "float32 logits: the type of the gradient")
