"""Exercises of chapter 3 at their edges: other types, many words, long streams, limits met exactly."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from batches import TextBatches, inputs_and_targets
from bits_per_byte import bits_per_byte
from chunked_loss import loss_of_chunk
from clipping import clip_gradients
from cross_entropy import IGNORE, cross_entropy, cross_entropy_naive, grad_of_logits
from ex_compare import call, same
from packing import packing_mask
from parameter_groups import group_parameters
from precision import LossScaler
from schedule import constant_then_decay, cosine, linear
from test_ex03 import Bigram, bits
from test_ex03_steps import directions

f64 = torch.float64


@pytest.mark.ex("3.1")
@pytest.mark.parametrize("shape", [(1, 2), (1, 9), (2, 5000)])
def test_one_row_and_long_rows_are_shifted(shape):
    """one row stays a row, a long one is not cut, and writing into the inputs changes nothing else"""
    rows = torch.randint(1000, shape)
    before = rows.clone()
    x, y = call(f"rows {shape}", inputs_and_targets, rows)
    same((x, y), (before[:, :-1], before[:, 1:]), f"rows {shape}",
         "inputs and targets are (B, T), int64 like the rows")
    x[:] = IGNORE
    same((rows, y), (before, before[:, 1:]), f"rows {shape}, the inputs set to {IGNORE}; rows and targets",
         "what was written into the inputs arrived elsewhere too: that is the same memory")


@pytest.mark.ex("3.2")
@pytest.mark.parametrize("n_steps, n_warmup, decay, floor",
                         [(10, 2, 0.37, 0.0), (10, 8, 0.2, 0.3), (7, 0, 0.99, 0.0), (10, 8, 0.5, 0.0)])
def test_fractions_are_rounded_down_and_the_floor_holds_in_the_warmup(n_steps, n_warmup, decay, floor):
    """3.7 steps of decay are 3, and the factor is not below the floor in the warm-up either"""
    n, want = int(n_steps * decay), []
    for i in range(n_steps):
        want.append(max(floor, min(1.0, (i + 1) / max(n_warmup, 1), (n_steps - i) / n)))
    given = f"n_steps {n_steps}, n_warmup {n_warmup}, decay {decay}, floor {floor}"
    got = [call(f"step {i}, {given}", constant_then_decay, i, n_steps, n_warmup, decay, floor)
           for i in range(n_steps)]
    same(got, want, given, "int(n_steps * decay) rounds down; the larger of the floor and everything else")


@pytest.mark.ex("3.3")
def test_a_long_wave_is_not_rounded():
    """a run of 100,000 steps, without and with a floor, to the last digits"""
    for n_steps, n_warmup, floor in ((100_000, 2000, 0.0), (3000, 0, 0.05)):
        for step in (n_warmup, n_warmup + 1, n_steps // 3, n_steps - 2, n_steps - 1, n_steps + 5):
            x = min((step - n_warmup) / (n_steps - 1 - n_warmup), 1)
            want = floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * x))
            same(call(f"step {step}", cosine, step, n_steps, n_warmup, floor), want,
                 f"step {step} of {n_steps}, warm-up {n_warmup}, floor {floor}", rtol=1e-12, atol=1e-15)


@pytest.mark.ex("3.4")
@pytest.mark.parametrize("excess", [1.01, 1.0001, 0.999])
def test_a_limit_that_is_just_exceeded_is_a_limit(excess):
    """gradients a hundredth too long are shortened, and those a thousandth short of it stay"""
    p = nn.Parameter(torch.zeros(2, dtype=f64))
    p.grad = torch.tensor([3.0, 4.0], dtype=f64) * excess
    want = torch.tensor([3.0, 4.0], dtype=f64) * min(excess, 1.0)
    got = call(f"length {5 * excess}, max_norm 5", clip_gradients, [p], 5.0)
    same(p.grad, want, f"length {5 * excess}, max_norm 5; the gradient", "longer than max_norm, by whatever",
         rtol=2e-6)
    same(got, torch.tensor(5 * excess, dtype=f64), f"length {5 * excess}; what is returned",
         "the length before")


@pytest.mark.ex("3.4")
def test_many_gradients_of_many_shapes_are_clipped():
    """seven gradients of seven shapes, one of them a single number: one norm, one factor"""
    shapes = [(2, 3), (5,), (), (1, 4), (3, 1, 2), (7,), (2, 2)]
    parameters = [nn.Parameter(torch.zeros(shape, dtype=f64)) for shape in shapes]
    for p in parameters:
        p.grad = 10 * torch.randn_like(p)
    before = [p.grad.clone() for p in parameters]
    norm = torch.cat([g.reshape(-1) for g in before]).norm()
    same(call("seven gradients", clip_gradients, parameters, 1.5), norm, "seven gradients: the norm",
         rtol=1e-12)
    for i, (p, g) in enumerate(zip(parameters, before)):
        same(p.grad, g * 1.5 / norm, f"seven gradients, number {i} afterwards", "one factor for all",
             rtol=1e-12)


@pytest.mark.ex("3.5")
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_many_words_and_words_that_cannot_come(dtype):
    """70,000 words, logits of 200 and minus infinity: torch's value in the type of the logits"""
    logits = torch.randn(3, 70_000, dtype=f64).to(dtype)
    logits[0, 7], logits[1, 9] = 200.0, -math.inf
    targets = torch.tensor([69_999, 3, 0])
    got = call("logits (3, 70000)", cross_entropy_naive, logits, targets)
    same(got, F.cross_entropy(logits, targets), f"70,000 words in {dtype}",
         "ids need four bytes, and a word with the probability 0 costs nothing as long as it does not "
         "come", rtol=1e-5)


@pytest.mark.ex("3.5")
def test_a_row_that_is_ignored_may_hold_minus_infinity():
    """an ignored row whose logits are minus infinity here and there, at id 0 too, costs nothing"""
    logits = torch.randn(4, 5, dtype=f64)
    logits[1, [0, 3]] = -math.inf
    targets = torch.tensor([2, IGNORE, 0, 4])
    logits.requires_grad_()
    got = call("an ignored row with -inf at id 0", cross_entropy_naive, logits, targets)
    want = F.cross_entropy(logits[[0, 2, 3]], targets[[0, 2, 3]])
    same(got.detach(), want.detach(), "an ignored row with -inf at id 0",
         "-inf * 0 is NaN: put 0 in its place")
    same(torch.autograd.grad(got, logits)[0], torch.autograd.grad(want, logits)[0], "the same, the gradient")
    same(cross_entropy(logits.detach(), targets), want.detach(), "the same, cross_entropy")


@pytest.mark.ex("3.6")
def test_the_starts_are_an_array_of_whole_numbers():
    """the starts are an array (n_rows,) of integers, in a stream of 300,000 tokens too"""
    batches = TextBatches(np.zeros(300_000, dtype=np.uint16), 4, 1000, 0)
    got = call("300,000 tokens, length 1000", batches.starts, 3)
    kind = type(got).__name__, getattr(got, "shape", None), getattr(getattr(got, "dtype", None), "kind", None)
    if kind not in (("ndarray", (batches.n_rows,), "i"), ("ndarray", (batches.n_rows,), "u")):
        pytest.fail(f"got a {kind[0]}, shape {kind[1]}, numbers of kind {kind[2]!r}; wanted an array "
                    f"({batches.n_rows},) of integers", pytrace=False)
    same(sorted((got - got.min()).tolist()), list(range(0, 1000 * batches.n_rows, 1000)),
         "300,000 tokens; the starts less the first", "numbers above 65,535 do not fit two bytes")


@pytest.mark.ex("3.7")
@pytest.mark.parametrize("n, batch", [(41, 3), (95, 4), (71, 7)])
def test_batches_of_any_size(n, batch):
    """batches of three, four and seven windows, the last one smaller: the bits of all predictions"""
    model, tokens = Bigram(), np.random.randint(0, 5, n)
    same(call(f"batch {batch}", bits_per_byte, model, tokens, n, length=10, batch=batch),
         sum(bits(model, tokens)) / n, f"{n} tokens, length 10, batch {batch}",
         "a batch counts by its predictions", rtol=1e-5)


@pytest.mark.ex("3.8")
def test_late_and_growing_gradients():
    """step 60 is still corrected, and a gradient that grows makes a step longer than 1"""
    b1, b2 = 0.2, 0.99
    grads = [torch.tensor([0.01], dtype=f64)] * 60 + [torch.tensor([5.0], dtype=f64)]
    got = directions([g.clone() for g in grads], (b1, b2), 1e-8)[0][-1]
    m = sum((1 - b1) * b1 ** (60 - i) * g for i, g in enumerate(grads)) / (1 - b1**61)
    v = sum((1 - b2) * b2 ** (60 - i) * g**2 for i, g in enumerate(grads)) / (1 - b2**61)
    same(got, m / (v.sqrt() + 1e-8), "60 gradients of 0.01, then 5, betas (0.2, 0.99); step 61",
         "1 - b2^61 is 0.46, far from 1, and a step has no upper end")


@pytest.mark.ex("3.9")
def test_the_gradient_of_many_words_and_of_those_that_cannot_come():
    """70,000 words, logits of 200 and minus infinity: torch's gradient"""
    logits = torch.randn(2, 70_000, dtype=f64)
    logits[0, 7], logits[1, 9] = 200.0, -math.inf
    targets, leaf = torch.tensor([69_999, 3]), logits.clone().requires_grad_()
    F.cross_entropy(leaf, targets).backward()
    got = call("logits (2, 70000)", grad_of_logits, logits, logits.logsumexp(-1), targets, targets >= 0,
               torch.tensor(1.0, dtype=f64))
    same(got, leaf.grad, "70,000 words", "ids need four bytes, exp(-inf) is 0, and float64 stays float64",
         rtol=1e-9, atol=1e-30)


class Odd(nn.Module):
    """Names that look like others, and a weight of no dimensions."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.prelayers = nn.Parameter(torch.zeros(2, 2))
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList([nn.Module()])
        self.decoder.layers[0].w = nn.Parameter(torch.zeros(2, 2))
        self.decoder.layers[0].gate = nn.Parameter(torch.tensor(0.5))


@pytest.mark.ex("3.12")
def test_single_numbers_and_names_that_look_alike():
    """a single number is a vector, and ".layers." counts anywhere in a name, with both dots"""
    groups = call("an odd model", group_parameters, Odd())
    want = {"matrix": ["decoder.layers.0.w"], "table": ["prelayers"],
            "vector": ["decoder.layers.0.gate", "scale"]}
    same({kind: sorted(group) for kind, group in groups.items()}, want, "an odd model",
         "fewer than two dimensions, zero too, is a vector; look for '.layers.' in the whole name")


@pytest.mark.ex("3.13")
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_word_zero_counts_and_float64_stays(dtype):
    """the target 0 counts like any other, float64 stays float64, and a word at -100 has its loss"""
    x, table = torch.tensor([[1.0], [0.5]]).to(dtype), torch.tensor([[2.0], [1.0], [-100.0]]).to(dtype)
    logits, targets = x @ table.T, torch.tensor([0, 2])
    loss, d = call("targets 0 and 2", loss_of_chunk, x, table, targets)
    want = F.cross_entropy(logits, targets, reduction="sum")
    same(loss, want, f"logits {logits.tolist()} in {dtype}, targets 0 and 2", "IGNORE alone is ignored")
    same(d, logits.softmax(-1) - F.one_hot(targets, 3), "the same; the gradient")


@pytest.mark.ex("3.14")
def test_odd_factors_are_halved_and_the_top_counts_on():
    """half of 3 is 1.5, and at the upper limit the counting starts again, too"""
    scaler = LossScaler(3.0, 2)
    call("an overflow", scaler.update, False)
    same(scaler.factor, 1.5, "factor 3, an overflow", "a factor need not be a whole number")
    scaler = LossScaler(2.0**24, 2)
    for finite, since in ((True, 1), (True, 0), (True, 1), (False, 0)):
        call("a step at 2^24", scaler.update, finite)
        same(scaler.since, since, "factor 2^24, quiet 2, three good steps and a bad one; since",
             "it starts again at 2")


@pytest.mark.ex("3.15")
def test_three_hundred_documents_in_a_row():
    """300 documents of two tokens in each of two rows: each sees itself and no other"""
    ids = torch.tensor([[0, 5] * 300, [5] + [0, 5] * 299 + [0]])
    document = (ids == 0).long().cumsum(-1)
    got = call("300 documents a row", packing_mask, ids, 0)
    same(got, document[:, :, None] != document[:, None, :], "300 documents a row",
         "documents far apart are different ones, however many there are")


@pytest.mark.ex("3.17")
def test_a_long_line_is_not_rounded():
    """a run of 100,000 steps, without and with a floor, to the last digits"""
    for n_steps, n_warmup, floor in ((100_000, 2000, 0.0), (3000, 0, 0.05)):
        for step in (n_warmup, n_warmup + 1, n_steps // 3, n_steps - 2, n_steps - 1, n_steps + 5):
            x = min((step - n_warmup) / (n_steps - 1 - n_warmup), 1)
            same(call(f"step {step}", linear, step, n_steps, n_warmup, floor), 1 - x + floor * x,
                 f"step {step} of {n_steps}, warm-up {n_warmup}, floor {floor}", rtol=1e-12, atol=1e-15)
