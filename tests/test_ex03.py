"""The exercises of chapter 3 about data: shifted batches, the rows of an epoch, bits per byte."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from batches import TextBatches, inputs_and_targets
from bits_per_byte import bits_per_byte
from cross_entropy import IGNORE
from ex_compare import call, same

# 3.1 shifted batches


@pytest.mark.ex("3.1")
@pytest.mark.parametrize("shape", [(2, 4), (3, 7), (5, 2)])
def test_the_target_is_the_token_after(shape):
    """the target of each token is the token after it"""
    rows = torch.randint(1000, shape)
    x = torch.tensor([row[:-1] for row in rows.tolist()])
    y = torch.tensor([row[1:] for row in rows.tolist()])
    got = call(f"rows {rows.tolist()}", inputs_and_targets, rows)
    same(got, (x, y), f"rows {rows.tolist()}", "each row of T + 1 tokens gives T inputs and T targets",
         {"inputs and targets are swapped": (y, x),
          "the targets are not shifted": (x, x),
          "the rows were shifted, not the tokens: the time is the second axis": (rows[:-1], rows[1:]),
          "the last target wraps around to the first token": (rows, rows.roll(-1, 1)),
          "the targets are two tokens ahead": (rows[:, :-2], rows[:, 2:])})


@pytest.mark.ex("3.1")
@pytest.mark.parametrize("n", [1, 3])
def test_masking_targets_leaves_inputs_alone(n):
    """writing a mask into the targets leaves inputs and rows alone"""
    rows = torch.arange(4 * n).view(n, 4)
    before = rows.clone()
    x, y = call(f"{n} rows", inputs_and_targets, rows)
    want = x.clone()
    y[:] = IGNORE
    same(x, want, f"{n} rows, the targets set to {IGNORE}; the inputs",
         "what was written into the targets arrived in the inputs: both are the same memory")
    same(rows, before, f"{n} rows, the targets set to {IGNORE}; the rows",
         "what was written into the targets arrived in the rows: both are the same memory")


# 3.6 the rows of an epoch


def starts_of(n_tokens=200, batch=4, length=10, seed=0):
    """starts(epoch) of batches on a stream of n_tokens."""
    batches = TextBatches(np.arange(n_tokens), batch, length, seed)
    given = (f"{n_tokens} tokens, length {length}, n_rows {batches.n_rows}, n_offsets {batches.n_offsets}, "
             f"seed {seed}")
    return (batches.n_rows,
            lambda epoch: np.asarray(call(f"{given}, epoch {epoch}", batches.starts, epoch)).tolist(), given)


@pytest.mark.ex("3.6")
def test_rows_of_an_epoch_do_not_overlap():
    """the rows of an epoch follow one another without gap or overlap"""
    n_rows, starts, given = starts_of()
    for epoch in range(4):
        got = sorted(starts(epoch))
        if len(got) != n_rows or any(b - a != 10 for a, b in zip(got, got[1:])):
            pytest.fail(f"given {given}, epoch {epoch}\n got sorted starts {got}\n wanted {n_rows} of them, "
                        "10 apart: one offset for the whole epoch plus length times a permutation "
                        "(not draws with replacement)", pytrace=False)


@pytest.mark.ex("3.6")
def test_rows_come_in_random_order():
    """the rows come in random order"""
    n_rows, starts, given = starts_of(400)
    got = starts(1)
    if got == sorted(got) or got == sorted(got, reverse=True):
        pytest.fail(f"given {given}\n got {got}\n wanted a random order: neighbours in a file are alike, so "
                    "a batch of them sees little", pytrace=False)


@pytest.mark.ex("3.6")
def test_each_epoch_is_cut_elsewhere_and_inside():
    """each epoch is cut at another offset, every row fits into the stream, and its last token is reached"""
    n_rows, starts, given = starts_of(27, 2, 4)
    first = [min(starts(epoch)) for epoch in range(120)]
    last = [max(starts(epoch)) for epoch in range(120)]
    same(sorted(set(first)), list(range(7)), f"{given}; the smallest starts of 120 epochs",
         "the offset is drawn anew for each epoch: rng.integers(n_offsets), from 0 to n_offsets - 1",
         {"the last tokens are never reached: offsets go further than the length of a row": [0, 1, 2, 3]})
    if max(last) + 4 > 26:
        pytest.fail(f"given {given}\n got a row that starts at {max(last)} and ends beyond the last token",
                    pytrace=False)


@pytest.mark.ex("3.6")
def test_order_depends_on_seed_and_epoch_alone():
    """the order depends on the seed and the epoch, and on nothing else"""
    _, starts, given = starts_of(400)
    want = [starts(epoch) for epoch in range(4)]
    np.random.rand()
    again = starts_of(400)[1]
    same([again(2), again(0), again(3)], [want[2], want[0], want[3]], given + "; epochs 2, 0 and 3 asked "
         "again", "a killed run must continue with the same data: seed a new generator with [seed, epoch] in "
         "each call")
    if len({tuple(w) for w in want}) < 4:
        pytest.fail(f"given {given}\n got the same order in two epochs: put the epoch into the seed",
                    pytrace=False)
    _, other, given = starts_of(400, seed=1)
    if any(other(a) == want[b] for a in range(3) for b in range(4)):
        pytest.fail(f"given {given}\n got an order that seed 0 has, too: seed the generator with the list "
                    "[seed, epoch], not with one of them or with their sum", pytrace=False)


# 3.7 bits per byte


class Bigram(nn.Module):
    """Logits of the newest token alone, so that no window can change the answer. Notes what it was given."""

    def __init__(self, vocab=5):
        super().__init__()
        self.table, self.shapes = nn.Parameter(2 * torch.randn(vocab, vocab)), []

    def forward(self, ids):
        self.shapes.append(tuple(ids.shape))
        return self.table[ids]


def bits(model, tokens):
    """The bits of all predictions, one by one."""
    log_p = model.table.detach().double().log_softmax(-1)
    return [-log_p[a, b].item() / math.log(2) for a, b in zip(tokens[:-1].tolist(), tokens[1:].tolist())]


@pytest.mark.ex("3.7")
@pytest.mark.parametrize("n, length", [(41, 10), (43, 10), (90, 10), (7, 10), (6, 10), (26, 7), (20, 7),
                                       (28, 7)])
def test_bits_add_up_over_the_stream(n, length):
    """the bits of all predictions are added and divided by the bytes"""
    model, tokens = Bigram(), np.random.randint(0, 5, n)
    each, n_bytes = bits(model, tokens), 3 * n
    given = f"{n} tokens that encode {n_bytes} bytes, length {length}, batch 2"
    got = call(given, bits_per_byte, model, tokens, n_bytes, length=length, batch=2)
    full = (n - 1) // length * length
    same(got, sum(each) / n_bytes, given, "sum of all losses in nats / log 2 / n_bytes",
         {"nats, not bits: divide by log 2": sum(each) * math.log(2) / n_bytes,
          "multiplied by log 2: divide by it": sum(each) * math.log(2) ** 2 / n_bytes,
          "bits a token, not a byte": sum(each) / n,
          "bits a prediction, not a byte": sum(each) / (n - 1),
          "the last, shorter window is missing": sum(each[:full]) / n_bytes}, rtol=1e-4)


@pytest.mark.ex("3.7")
@pytest.mark.parametrize("n", [41, 45, 62, 9])
def test_each_token_is_predicted_once(n):
    """every token but the first is predicted once, in windows of `length`, `batch` at a time"""
    model = Bigram()
    call(f"{n} tokens", bits_per_byte, model, np.random.randint(0, 5, n), n, length=10, batch=3)
    given = f"{n} tokens, length 10, batch 3; the model was given ids of shapes {model.shapes}"
    same(sum(b * t for b, t in model.shapes), n - 1, given + "; predictions made",
         "n tokens make n - 1 predictions",
         {"the last, shorter window is missing": (n - 1) // 10 * 10,
          "the last, smaller batch is missing": (n - 1) // 30 * 30 + (n - 1) % 10})
    if any(not b * t for b, t in model.shapes):
        pytest.fail(f"given {given}\n got an empty window: a real model cannot read it", pytrace=False)
    if any(b > 3 or t > 10 for b, t in model.shapes):
        pytest.fail(f"given {given}\n wanted at most 3 rows of at most 10 tokens", pytrace=False)
