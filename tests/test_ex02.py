"""Exercises 2.1 to 2.4. The first line of a test's docstring is what a learner sees."""

import math

import pytest
import torch
import torch.nn.functional as F

from agreement import agree, same_gradients, unchanged
from attention import causal_mask, repeat_heads, softmax
from normalization import RMSNorm

f64 = torch.float64


# 2.1 softmax


@pytest.mark.ex("2.1")
def test_softmax_of_the_worked_example():
    """the scores 0, ln 2, ln 3 become the weights 1/6, 2/6, 3/6"""
    x = torch.tensor([0, math.log(2), math.log(3)], dtype=f64)
    agree(softmax(x), torch.tensor([1, 2, 3], dtype=f64) / 6, "[0, ln 2, ln 3]",
          {"the exponentials are not divided by their sum": torch.tensor([1, 2, 3], dtype=f64),
           "they are not divided by their sum": torch.tensor([1, 2, 3], dtype=f64) / 3,
           "they are divided by their mean, not by their sum": torch.tensor([1, 2, 3], dtype=f64) / 2})


@pytest.mark.ex("2.1")
def test_softmax_works_along_the_last_dimension():
    """each row along the last dimension sums to one, whatever the number of dimensions"""
    for shape in ((5,), (4, 3), (2, 3, 4), (2, 3, 4, 5)):
        x = torch.randn(shape, dtype=f64)
        agree(softmax(x), F.softmax(x, -1), f"random scores of shape {shape}",
              {"the sum runs over the first dimension, not the last": F.softmax(x, 0),
               "the sum runs over all numbers, not over each row": F.softmax(x.flatten(), 0).view(shape)},
              "each row must be divided by its own sum, and by no other row's")


@pytest.mark.ex("2.1")
def test_softmax_survives_large_scores():
    """scores of a thousand work, and a score of minus infinity has no weight"""
    x = torch.tensor([[1000.0, 999, 0], [-1000, -1001, -1e4], [0, 200, -math.inf]])
    # of numbers up to 1000, any order of operations loses this much
    agree(softmax(x), F.softmax(x, -1), "the rows [1000, 999, 0], [-1000, -1001, -10000], [0, 200, -inf]",
          atol=1000 * torch.finfo(x.dtype).eps, ask="exp(89) is already too large for float32, and exp(-110) "
          "is 0 in it: infinity / infinity and 0 / 0 are no weights")


@pytest.mark.ex("2.1")
def test_softmax_leaves_its_input_alone_and_has_a_gradient():
    """the input is not changed, and the gradient is the right one"""
    unchanged(softmax, torch.randn(2, 3))
    same_gradients(softmax, lambda x: F.softmax(x, -1), torch.randn(3, 4, dtype=f64))


# 2.2 causal mask


@pytest.mark.ex("2.2")
def test_the_mask_hides_the_keys_after_each_query():
    """three tokens: each sees itself and those before it; True hides"""
    wanted = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]]).bool()
    agree(causal_mask(3, 3), wanted, "3 queries and 3 keys",
          {"a query must see its own key: the diagonal is False": wanted | torch.eye(3).bool(),
           "True means hidden: this mask hides what should be seen": ~wanted,
           "this hides the past instead of the future": wanted.T})


@pytest.mark.ex("2.2")
def test_the_newest_queries_stand_at_the_last_keys():
    """with fewer queries than keys (a cache) the last query stands at the last key"""
    for n_queries, n_keys in ((1, 4), (2, 5), (3, 4)):
        wanted = torch.tensor([[key > n_keys - n_queries + i for key in range(n_keys)]
                               for i in range(n_queries)])
        first = torch.tensor([[key > i for key in range(n_keys)] for i in range(n_queries)])
        agree(causal_mask(n_queries, n_keys), wanted, f"{n_queries} queries and {n_keys} keys",
              {"the queries are placed at the first keys; they are the newest tokens": first,
               "a query must see its own key": wanted | wanted.roll(-1, 1) & ~first,
               "this is off by one: the last query must see every key": wanted.roll(-1, 1)})


@pytest.mark.ex("2.2")
def test_the_mask_is_made_on_the_device_that_is_asked_for():
    """the mask is made on the device that is asked for"""
    agree(causal_mask(2, 3, torch.device("meta")), torch.empty(2, 3, dtype=torch.bool, device="meta"),
          "device 'meta'")


# 2.3 RMSNorm


def normed(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """The learner's forward with these numbers."""
    return torch.func.functional_call(RMSNorm(x.shape[-1], eps), {"weight": gain}, (x,))


@pytest.mark.ex("2.3")
def test_rms_norm_of_the_worked_example():
    """(1, 7) has the root mean square 5 and becomes (0.2, 1.4); the gain (1, 10) then makes it (0.2, 14)"""
    x, gain = torch.tensor([1.0, 7], dtype=f64), torch.tensor([1.0, 10], dtype=f64)
    agree(normed(x, gain, 0.0), torch.tensor([0.2, 14], dtype=f64), "(1, 7), eps 0, gain (1, 10)",
          {"multiply by the gain, self.weight": x / 5,
           "mean of the squares, not their sum": x * gain / 50**0.5,
           "divide by the root of the mean square": x * gain / 25,
           "subtract no mean: that is LayerNorm": F.layer_norm(x, (2,), gain, eps=0.0)})


@pytest.mark.ex("2.3")
def test_rms_norm_agrees_row_by_row():
    """every row along the last dimension is normalised by its own length"""
    for shape in ((6,), (3, 6), (2, 3, 6)):
        x, gain = torch.randn(shape, dtype=f64), torch.randn(6, dtype=f64)
        agree(normed(x, gain, 1e-3), F.rms_norm(x, (6,), gain, 1e-3), f"random numbers of shape {shape}",
              {"one mean for everything; each row needs its own":
                   x / (x.square().mean() + 1e-3).sqrt() * gain,
               "subtract no mean: that is LayerNorm": F.layer_norm(x, (6,), gain, eps=1e-3),
               "eps of the layer is ignored": F.rms_norm(x, (6,), gain, 1e-5)},
              "take the mean over the last dimension and keep it (keepdim=True)")


@pytest.mark.ex("2.3")
def test_rms_norm_adds_eps_inside_the_root():
    """eps stands inside the root: (3, 3) with eps 16 is divided by 5, and zeros stay zeros"""
    x, one = torch.full((2,), 3.0, dtype=f64), torch.ones(2, dtype=f64)
    agree(normed(x, one, 16.0), x / 5, "(3, 3), eps 16",
          {"eps is added after the root": x / 19,
           "eps is left out": x / 3,
           "eps is self.eps, not 1e-5": x / (9 + 1e-5) ** 0.5})
    agree(normed(x * 0, one, 1e-5), x * 0, "(0, 0), eps 1e-5", ask="without eps this is 0 / 0")


@pytest.mark.ex("2.3")
def test_rms_norm_has_gradients_and_leaves_its_input_alone():
    """gradients reach the input and the gain, and the input is not changed"""
    unchanged(RMSNorm(4), torch.randn(2, 4))
    same_gradients(lambda x, g: normed(x, g, 1e-3), lambda x, g: F.rms_norm(x, (4,), g, 1e-3),
                   torch.randn(3, 4, dtype=f64), torch.randn(4, dtype=f64))


# 2.4 grouped heads


@pytest.mark.ex("2.4")
def test_neighbouring_query_heads_share_a_key_head():
    """key heads a, b for four query heads become a, a, b, b"""
    x = torch.tensor([1.0, 2]).view(1, 2, 1, 1)
    agree(repeat_heads(x, 4), torch.tensor([1.0, 1, 2, 2]).view(1, 4, 1, 1), "the heads 1, 2 and n_heads = 4",
          {"the order must be 1, 1, 2, 2: query heads 0 and 1 share key head 0":
               torch.tensor([1.0, 2, 1, 2]).view(1, 4, 1, 1)})


@pytest.mark.ex("2.4")
def test_heads_are_repeated_for_any_group():
    """every group size works, in dimension 1 only: one head for all, one each, and between"""
    for B, K, H in ((2, 1, 4), (3, 2, 6), (1, 3, 6), (2, 4, 4), (2, 2, 2)):
        x = torch.randn(B, K, 3, 5)
        wanted = torch.stack([x[:, h * K // H] for h in range(H)], 1)
        tiled = torch.cat([x] * (H // K), 1)
        agree(repeat_heads(x, H), wanted, f"{K} key heads, {H} query heads, batch {B}",
              {"the copies of a head must be neighbours: a, a, b, b": tiled,
               "the heads are dimension 1 of (B, K, T, D)": x.repeat_interleave(H // K, 2)})


@pytest.mark.ex("2.4")
def test_as_many_heads_as_queries_are_not_copied():
    """with as many key heads as query heads nothing is copied"""
    x = torch.randn(1, 4, 2, 3)
    got = repeat_heads(x, 4)
    assert got.shape == x.shape and got.data_ptr() == x.data_ptr(), (
        "given 4 heads for 4 query heads, got a copy, wanted x itself: copying all keys and values costs "
        "time")


@pytest.mark.ex("2.4")
def test_a_shared_head_collects_the_gradients_of_its_group():
    """a shared head collects the gradients of all its query heads"""
    same_gradients(lambda x: repeat_heads(x, 6), lambda x: torch.stack([x[:, h // 3] for h in range(6)], 1),
                   torch.randn(2, 2, 3, 4, dtype=f64))
