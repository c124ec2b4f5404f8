"""The layers of chapter 2 against torch's own in float64, values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from attention import Attention, attend, causal_mask, repeat_heads, softmax
from feed_forward import ACTIVATIONS, FeedForward, gelu, relu, relu2, silu
from linear import Embedding, Linear
from normalization import LayerNorm, RMSNorm
from positions import alibi_bias, apply_rope, rope_tables
from transformer import Config

TINY = dict(vocab_size=11, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=12, max_len=12)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal float64 numbers that ask for a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed),
                       dtype=torch.float64).requires_grad_()


def same_values_and_gradients(ours, theirs, *inputs: torch.Tensor) -> None:
    """Both functions give one output, and the same gradients of a random projection of it."""
    a, b = ours(*inputs), theirs(*inputs)
    assert_close(a, b)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(9), dtype=a.dtype)
    for ga, gb in zip(torch.autograd.grad((a * weight).sum(), inputs),
                      torch.autograd.grad((b * weight).sum(), inputs)):
        assert_close(ga, gb)


def test_softmax_agrees_with_torch_and_survives_large_scores():
    same_values_and_gradients(softmax, lambda x: F.softmax(x, -1), draw(2, 3, 5))
    assert_close(softmax(torch.tensor([1e4, 1e4 - 1])), F.softmax(torch.tensor([1e4, 1e4 - 1]), -1))


@pytest.mark.parametrize("ours, theirs", [(silu, F.silu), (gelu, F.gelu), (relu, F.relu),
                                          (relu2, lambda x: F.relu(x).square())])
def test_activations_agree_with_torch(ours, theirs):
    same_values_and_gradients(ours, theirs, draw(4, 7))
    special = torch.tensor([0.0, -0.0, 1e-300, -1e-300, 40.0, -40.0, 700.0, -700.0], dtype=torch.float64)
    same_values_and_gradients(ours, theirs, special.requires_grad_())


def test_linear_and_embedding_agree_with_torch():
    linear, table = Linear(5, 3).double(), Embedding(7, 4).double()
    ids = torch.tensor([[0, 6, 6], [2, 1, 0]])
    same_values_and_gradients(lambda x: linear(x), lambda x: F.linear(x, linear.weight), draw(2, 5))
    assert_close(table(ids), F.embedding(ids, table.weight))


def test_rms_norm_agrees_with_torch():
    norm = RMSNorm(6, eps=1e-3)
    same_values_and_gradients(lambda x, g: torch.func.functional_call(norm, {"weight": g}, (x,)),
                              lambda x, g: F.rms_norm(x, (6,), g, eps=1e-3), draw(2, 3, 6), draw(6, seed=1))


def test_layer_norm_agrees_with_torch():
    norm = LayerNorm(6, eps=1e-3)
    same_values_and_gradients(
        lambda x, g, b: torch.func.functional_call(norm, {"weight": g, "bias": b}, (x,)),
        lambda x, g, b: F.layer_norm(x, (6,), g, b, eps=1e-3),
        draw(2, 3, 6), draw(6, seed=1), draw(6, seed=2))


def test_attend_agrees_with_torch():
    q, k, v = (draw(2, 3, 5, 4, seed=i) for i in range(3))
    same_values_and_gradients(attend, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
                              q, k, v)


def test_attend_with_a_bias_and_fewer_queries_than_keys_agrees_with_torch():
    q, k, v, bias = (draw(2, 3, 2, 4), draw(2, 3, 5, 4, seed=1), draw(2, 3, 5, 4, seed=2),
                     draw(3, 2, 5, seed=3))
    # by hand: queries stand at 3 and 4
    future = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(causal_mask(2, 5), future)

    def theirs(q, k, v, bias):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(future, -math.inf))
    same_values_and_gradients(attend, theirs, q, k, v, bias)


def test_grouped_heads_agree_with_torch():
    q, k, v = draw(2, 6, 4, 4), draw(2, 2, 4, 4, seed=1), draw(2, 2, 4, 4, seed=2)
    same_values_and_gradients(
        lambda q, k, v: attend(q, repeat_heads(k, 6), repeat_heads(v, 6)),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), q, k, v)


def test_the_attention_layer_agrees_with_torch_multi_head_attention():
    torch.manual_seed(0)
    ours = Attention(Config(**{**TINY, "n_kv_heads": 4, "positions": "none", "qk_norm": False}), 0).double()
    theirs = torch.nn.MultiheadAttention(16, 4, bias=False, batch_first=True).double()
    theirs.in_proj_weight.data = torch.cat((ours.q_proj.weight, ours.k_proj.weight,
                                            ours.v_proj.weight)).detach()
    theirs.out_proj.weight.data = ours.o_proj.weight.detach()
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    same_values_and_gradients(lambda x: ours(x, None, None),
                              lambda x: theirs(x, x, x, attn_mask=future, need_weights=False)[0],
                              draw(2, 5, 16))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_agrees_with_torch(activation):
    torch.manual_seed(0)
    ours = FeedForward(Config(**{**TINY, "activation": activation})).double()
    act = {
        "swiglu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "relu2": lambda x: F.relu(x) ** 2,
    }[activation]

    def theirs(x):
        up = F.linear(x, ours.up_proj.weight)
        inside = act(F.linear(x, ours.gate_proj.weight)) * up if activation == "swiglu" else act(up)
        return F.linear(inside, ours.down_proj.weight)

    same_values_and_gradients(ours, theirs, draw(2, 3, 16))


def test_rope_depends_on_distance_only():
    cos, sin = rope_tables(40, 8)
    q, k = draw(1, 1, 1, 8).expand(1, 1, 40, 8), draw(1, 1, 1, 8, seed=1).expand(1, 1, 40, 8)
    scores = (apply_rope(q, cos, sin) @ apply_rope(k, cos, sin).transpose(-1, -2))[0, 0]  # (T, T)
    for distance in (0, 1, 17):
        diagonal = scores.diagonal(-distance)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-6)  # the tables are float32
    assert (scores[0, 0] - scores[17, 0]).abs() > 0.01


def test_rope_rotates_as_multiplication_by_a_complex_number():
    cos, sin = rope_tables(9, 6)
    x = draw(2, 3, 9, 6)
    frequencies = 10_000.0 ** (-torch.tensor([0.0, 2, 4], dtype=torch.float64) / 6)
    angle = torch.arange(9.0, dtype=torch.float64)[:, None] * frequencies
    wanted = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones_like(angle), angle)
    assert_close(apply_rope(x, cos, sin), torch.cat((wanted.real, wanted.imag), -1), rtol=1e-6, atol=1e-6)


def test_alibi_slopes_are_those_of_the_paper():
    # Press et al. 2021, section 3: for 8 heads 1/2, 1/4, ... 1/256; figure 3 shows the distances.
    assert_close(alibi_bias(8, 1, 3)[:, 0, 1], -(0.5 ** torch.arange(1.0, 9)))
    assert_close(alibi_bias(8, 3, 3)[0], -0.5 * torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 1, 0]]))


def test_the_gradient_of_an_embedding_has_the_same_bits_every_time():
    """Many rows that add up into few: the order of the sums may not depend on which thread comes first."""
    torch.manual_seed(0)
    table, ids, grad = Embedding(7, 64), torch.randint(7, (64, 512)), torch.randn(64, 512, 64)
    results = []
    for _ in range(5):
        table.weight.grad = None
        table(ids).backward(grad)
        results.append(table.weight.grad)
    assert all(torch.equal(results[0], r) for r in results)
    expected = torch.zeros(7, 64, dtype=torch.float64)
    expected.index_add_(0, ids.flatten(), grad.flatten(0, 1).double())
    torch.testing.assert_close(results[0].double(), expected, atol=1e-3, rtol=1e-4)


SMOOTH = {
    "softmax": (softmax, lambda x: x.softmax(-1)),
    "gelu": (gelu, F.gelu),
    "silu": (silu, F.silu),
    "rms": (lambda x: RMSNorm(3).double()(x), lambda x: F.rms_norm(x, (3,), eps=1e-5)),
    "layer": (lambda x: LayerNorm(3).double()(x), lambda x: F.layer_norm(x, (3,), eps=1e-5)),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("point", [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [1.0, 1.0, -3.0], [50.0, -50.0, 0.0]])
def test_derivatives_are_right_where_the_pieces_of_a_formula_meet(name, point):
    """First and second derivatives at zero, at ties and far out: a maximum inside must leave no trace."""
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    first, second = [], []
    for function in SMOOTH[name]:
        x = torch.tensor(point, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad((function(x) * weights).sum(), x, create_graph=True)
        first.append(gradient.detach())
        second.append(torch.autograd.grad((gradient * weights).sum(), x)[0])
    assert_close(*first, rtol=1e-9, atol=1e-12)
    assert_close(*second, rtol=1e-9, atol=1e-9)
