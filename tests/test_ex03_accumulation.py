"""The exercise of chapter 3 about batches that do not fit: gradient accumulation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from accumulation import accumulate
from cross_entropy import IGNORE
from ex_compare import call, same

# 3.10 gradient accumulation


class Table(nn.Module):
    """Logits of the next of five tokens, from two parameters."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 5).double()), nn.Parameter(torch.randn(5).double())

    def forward(self, ids):
        return self.a[ids] * self.b


def mean_loss(model):
    """The mean loss over targets that count, by torch; 0 if none does."""

    def loss_of(x, y):
        total = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum")
        return total / (y != IGNORE).sum().clamp(min=1)

    return loss_of


def micro_batches(shapes, ignored):
    """Random (inputs, targets) of these shapes; the first `ignored[i]` targets of each piece do not count."""
    pieces = []
    for shape, n in zip(shapes, ignored):
        x, y = torch.randint(5, shape), torch.randint(5, shape)
        y.view(-1)[:n] = IGNORE
        pieces.append((x, y))
    return pieces


def one_large_batch(model, pieces):
    """Loss and gradients of all pieces at once."""
    model.zero_grad()
    x, y = (torch.cat([p[i].flatten() for p in pieces])[None] for i in (0, 1))
    loss = mean_loss(model)(x, y)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


def grads(model):
    """The gradients of a model, zeros where there is none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def compare(shapes, ignored, given):
    """accumulate() against one large batch."""
    model, pieces = Table(), micro_batches(shapes, ignored)
    loss, want = one_large_batch(model, pieces)
    parts = [one_large_batch(model, [piece]) for piece in pieces]
    model.zero_grad()
    got = call(given, accumulate, model, mean_loss(model), pieces)
    rows = [x.numel() / sum(x.numel() for x, _ in pieces) for x, _ in pieces]

    def mixed(weights):
        return [sum(w * g[i] for w, (_, g) in zip(weights, parts)) for i in range(2)]

    same(grads(model), want, given + "; the gradients",
         "weigh each piece by its share of all counted targets",
         {"a mean of means: pieces that count more targets must weigh more":
              mixed([1 / len(parts)] * len(parts)),
          "the pieces are added up, not averaged": mixed([1] * len(parts)),
          "ignored targets count in the weights": mixed(rows),
          "only the last piece is left": parts[-1][1]})
    same(got, loss, given + "; the loss returned",
         "add up the losses of all pieces, each weighed once, as a float",
         {"the loss of the last piece": parts[-1][0],
          "the sum of the pieces' losses": sum(p[0] for p in parts),
          "the mean of the pieces' means": sum(p[0] for p in parts) / len(parts)})


@pytest.mark.ex("3.10")
def test_equal_pieces_are_one_large_batch():
    """equal pieces give the gradient of one large batch"""
    compare([(2, 6)] * 4, [0] * 4, "4 micro-batches (2, 6)")


@pytest.mark.ex("3.10")
def test_pieces_weigh_what_they_count():
    """pieces with different numbers of counted targets weigh what they count"""
    compare([(2, 6), (1, 5), (3, 3)], [0, 3, 8], "micro-batches of 12, 2 and 1 counted targets")
    compare([(1, 4)], [3], "one micro-batch with a single counted target")
    compare([(1, 4), (2, 6), (3, 2)], [0, 3, 6], "micro-batches of 4, 9 and 0 counted targets")
    compare([(1, 4), (3, 2), (2, 6)], [0, 6, 3], "micro-batches of 4, 0 and 9 counted targets")


@pytest.mark.ex("3.10")
def test_earlier_gradients_are_dropped():
    """gradients of an earlier step are dropped"""
    model, pieces = Table(), micro_batches([(2, 6)] * 2, [0, 0])
    want = one_large_batch(model, pieces)[1]
    call("gradients left from before", accumulate, model, mean_loss(model), pieces)
    same(grads(model), want, "a model that still has gradients",
         "set p.grad = None before the first piece, not in between",
         {"the old gradients were added: set p.grad = None first": [2 * g for g in want]})


@pytest.mark.ex("3.10")
def test_one_graph_at_a_time():
    """each piece is differentiated before the next one runs, so that memory holds one"""
    model, pieces, seen = Table(), micro_batches([(2, 6)] * 3, [0, 0, 0]), []
    loss_of = mean_loss(model)

    def watched(x, y):
        seen.append(model.a.grad is not None)
        return loss_of(x, y)

    call("3 micro-batches", accumulate, model, watched, pieces)
    same(seen, [False, True, True], "3 micro-batches; had the model gradients when each began?",
         "call backward on each piece's loss inside the loop: adding losses up keeps all activations in "
         "memory")


@pytest.mark.ex("3.10")
def test_pieces_without_targets_give_zero():
    """micro-batches without any counted target give zeros, not NaN"""
    model, pieces = Table(), micro_batches([(1, 3), (1, 3)], [3, 3])
    got = call("2 micro-batches, all targets ignored", accumulate, model, mean_loss(model), pieces)
    same((got, grads(model)), (0.0, [torch.zeros(5, 5).double(), torch.zeros(5).double()]),
         "2 micro-batches, all targets ignored", "0 / 0: divide by at least 1")
