"""Exercises 2.12 and 2.13: attention, and the layer around it."""

import math

import pytest
import torch
import torch.nn.functional as F

from agreement import agree, same_gradients
from attention import Attention, attend
from test_ex02_positions import penalty, turned
from transformer import Config

f64 = torch.float64


# 2.12 scaled dot-product attention


def reference(q, k, v, bias=None, scale=None, causal=True, sink=None):
    """torch's own, with the queries at the last positions; `sink` is the score of a key without a value."""
    if sink is not None:
        scores = q @ k.mT * q.shape[-1] ** -0.5 + (0 if bias is None else bias)
        hidden = torch.ones(scores.shape[-2:]).tril(k.shape[-2] - q.shape[-2]) == 0
        scores = scores.masked_fill(hidden, -math.inf)
        every = torch.cat((sink.expand(*scores.shape[:-1], 1), scores), -1)
        return F.softmax(every, -1)[..., 1:] @ v
    T, S = q.shape[-2], k.shape[-2]
    mask = torch.zeros(T, S, dtype=q.dtype) if bias is None else bias
    if causal:
        mask = mask.masked_fill(torch.tensor([[j > S - T + i for j in range(S)] for i in range(T)]),
                                -math.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def masked_late(q, k, v):
    """The mistake of masking the weights instead of the scores."""
    return F.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1).tril(k.shape[-2] - q.shape[-2]) @ v


@pytest.mark.ex("2.12")
def test_attention_of_the_worked_example():
    """two tokens of width 4: the first takes 8; the second weighs 8 by 1/4 and 4 by 3/4, which is 5"""
    q = torch.tensor([[2.0, 0, 0, 0], [2, 0, 0, 0]], dtype=f64)[None, None]
    k = torch.tensor([[0.0, 0, 0, 0], [math.log(3), 0, 0, 0]], dtype=f64)[None, None]
    v = torch.tensor([[8.0, 8, 8, 8], [4, 4, 4, 4]], dtype=f64)[None, None]
    agree(attend(q, k, v), torch.tensor([8.0, 5], dtype=f64).view(1, 1, 2, 1).expand(1, 1, 2, 4),
          "q (2, 0, 0, 0) twice; k zeros and (ln 3, 0, 0, 0); v eights and fours",
          {"the scores are not divided by sqrt(D), which is 2": reference(q, k, v, scale=1.0),
           "divide by sqrt(D), not by D": reference(q, k, v, scale=0.25),
           "the mask is missing: token 0 sees token 1": reference(q, k, v, causal=False),
           "mask the scores before the softmax, not the weights after it": masked_late(q, k, v)})


@pytest.mark.ex("2.12")
def test_a_token_does_not_see_the_future():
    """a token cannot see the future"""
    q, k, v = (torch.randn(1, 2, 5, 3, dtype=f64) for _ in range(3))
    before = attend(q, k, v)
    for changed in range(1, 5):
        k2, v2 = k.clone(), v.clone()
        k2[:, :, changed], v2[:, :, changed] = 100 * torch.randn(3, dtype=f64), 1e6
        moved = (attend(q, k2, v2) - before).abs().amax((0, 1, 3))
        assert moved[:changed].max() == 0, (
            f"changed key and value {changed}; output {int(moved[:changed].argmax())} moved by "
            f"{float(moved[:changed].max()):.3g}, wanted 0: it stands before them")
        assert moved[changed] > 0, (
            f"changed key and value {changed}; output {changed} moved by 0, wanted more: a token sees itself")


@pytest.mark.ex("2.12")
def test_attention_agrees_with_torch():
    """values and gradients of random heads are torch's"""
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=f64) for _ in range(3))
    agree(attend(q, k, v), reference(q, k, v), "random q, k, v of shape (2, 3, 5, 4)",
          {"the scores are not divided by sqrt(D)": reference(q, k, v, scale=1.0),
           "D is the last dimension, not the number of tokens or heads": reference(q, k, v, scale=5**-0.5),
           "the mask is missing": reference(q, k, v, causal=False),
           "mask the scores before the softmax, not the weights after it": masked_late(q, k, v)})
    same_gradients(attend, reference, q, k, v)


@pytest.mark.ex("2.12")
def test_the_newest_queries_look_back_over_all_keys():
    """with a cache, one or a few newest queries see all earlier keys and not the ones after them"""
    for T, S in ((1, 4), (2, 5), (3, 4)):
        q, k, v = (torch.randn(2, 2, T, 4, dtype=f64), torch.randn(2, 2, S, 4, dtype=f64),
                   torch.randn(2, 2, S, 4, dtype=f64))
        first = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(T, S).tril().bool())
        agree(attend(q, k, v), reference(q, k, v), f"{T} queries and {S} keys",
              {"the queries are placed at the first keys; they are the newest tokens": first,
               "mask the scores before the softmax, not the weights after it": masked_late(q, k, v),
               "the mask is left out when there are fewer queries than keys":
                   reference(q, k, v, causal=False)})


@pytest.mark.ex("2.12")
def test_the_bias_is_added_to_the_scores():
    """a bias (H, T, S) is added to the scaled scores before the softmax, for one query too"""
    for T, S in ((4, 4), (1, 4)):
        q, k, v = (torch.randn(2, 3, T, 4, dtype=f64), torch.randn(2, 3, S, 4, dtype=f64),
                   torch.randn(2, 3, S, 4, dtype=f64))
        bias = torch.randn(3, T, S, dtype=f64)
        agree(attend(q, k, v, bias), reference(q, k, v, bias), f"{T} queries, {S} keys and a bias",
              {"the bias is not used": reference(q, k, v),
               "the bias is added, not subtracted": reference(q, k, v, -bias),
               "the bias is added after the scaling, so it is not divided by sqrt(D)":
                   reference(q, k, v, bias / 2)})


@pytest.mark.ex("2.12")
def test_a_hidden_key_has_no_weight_however_high_its_score():
    """the first query sees only itself: a later key whose score is 80,000 higher takes nothing"""
    q = torch.full((1, 1, 2, 1), -200.0, dtype=f64)
    k = torch.tensor([200.0, -200.0], dtype=f64).view(1, 1, 2, 1)
    v = torch.tensor([8.0, 4.0], dtype=f64).view(1, 1, 2, 1)
    agree(attend(q, k, v), v, "queries of -200, keys 200 and -200, values 8 and 4",
          {"hidden keys have a large negative score instead of minus infinity": torch.full_like(v, 4.0)})


# 2.13 attention layer


class Memory:
    """A cache that keeps everything and remembers what it was given."""

    def __init__(self):
        self.kept, self.calls = {}, []

    def append(self, layer, k, v):
        self.calls.append((layer, tuple(k.shape)))
        old = self.kept.get(layer)
        self.kept[layer] = (k, v) if old is None else (torch.cat((old[0], k), 2), torch.cat((old[1], v), 2))
        return self.kept[layer]


def make(layer: int = 3, **options) -> Attention:
    """A float64 layer, width 24, with random weights and gains."""
    made = Attention(Config(**{**dict(d_model=24, n_heads=6, n_kv_heads=2), **options}), layer).double()
    for p in made.parameters():
        p.data = torch.randn_like(p) * (0.4 if p.ndim == 2 else 1)
    return made


def by_head(layer: Attention, x, angle, wrong: str = "") -> torch.Tensor:
    """The layer, one query head after the other; `wrong` names a mistake to make."""
    H, K, D = layer.heads, layer.kv_heads, layer.head_width
    q, k, v = (F.linear(x, p.weight) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    outs = []
    for h in range(H):
        g = h % K if wrong == "tiled" else h * K // H
        qh, kh, vh = q[..., h * D : (h + 1) * D], k[..., g * D : (g + 1) * D], v[..., g * D : (g + 1) * D]
        if wrong != "no norms" and hasattr(layer.q_norm, "weight"):
            kg = layer.q_norm.weight if wrong == "one norm" else layer.k_norm.weight
            qh, kh = F.rms_norm(qh, (D,), layer.q_norm.weight, 1e-5), F.rms_norm(kh, (D,), kg, 1e-5)
        if layer.positions == "rope" and wrong != "no rope":
            qh = turned(qh, angle)
            kh = kh if wrong == "k still" else turned(kh, angle)
            vh = turned(vh, angle) if wrong == "v turned" else vh
        bias = (penalty(H, x.shape[1], x.shape[1])[h].double()
                if layer.positions == "alibi" and wrong != "no bias"
                else None)
        sink = layer.sinks[h] if layer.sinks is not None and wrong != "no sinks" else None
        outs.append(reference(qh, kh, vh, bias, sink=sink))
    if wrong == "scrambled":
        return F.linear(torch.stack(outs, 1).reshape(x.shape), layer.o_proj.weight)
    out = torch.cat(outs, -1)
    return out if wrong == "no output" else F.linear(out, layer.o_proj.weight)


MISTAKES = {
    "scrambled": "before they are joined the heads must stand as (B, T, H, D): a transpose is missing",
    "tiled": "query heads 0, 1, 2 share key head 0",
    "no norms": "q_norm and k_norm are not used",
    "one norm": "keys have their own norm, k_norm",
    "no rope": "the queries and keys are not rotated",
    "k still": "the keys must be rotated too",
    "v turned": "the values are not rotated",
    "no bias": "the ALiBi bias is not passed on",
    "no sinks": "the sinks are not added",
    "no output": "the output projection o_proj is missing",
}


@pytest.mark.ex("2.13")
@pytest.mark.parametrize("options", [dict(qk_norm=False, positions="none", n_kv_heads=6),
                                     dict(positions="none"), dict(), dict(qk_norm=False),
                                     dict(positions="alibi", qk_norm=False), dict(positions="sinusoidal"),
                                     dict(sinks=True), dict(sinks=True, positions="alibi")])
def test_the_layer_computes_what_its_heads_compute_one_by_one(options):
    """all heads at once give what the heads give one by one, for every option"""
    layer, x, angle = make(**options), torch.randn(2, 5, 24, dtype=f64), torch.randn(5, 2, dtype=f64)
    got, wanted = layer(x, angle.cos(), angle.sin()), by_head(layer, x, angle)
    mistakes = {sentence: by_head(layer, x, angle, wrong) for wrong, sentence in MISTAKES.items()}
    agree(got, wanted, f"x (2, 5, 24), 6 heads, {layer.kv_heads} key heads, positions {layer.positions}, "
          f"q/k norm {hasattr(layer.q_norm, 'weight')}, sinks {layer.sinks is not None}", mistakes,
          "view as (B, T, heads, D) first, then transpose(1, 2): view(B, heads, T, D) mixes tokens and heads")


@pytest.mark.ex("2.13")
@pytest.mark.parametrize("positions", ["rope", "alibi", "none"])
@pytest.mark.parametrize("pieces", [(0, 1, 2, 3, 4, 5, 6), (0, 3, 5, 6)], ids=["one by one", "several"])
def test_the_layer_with_a_cache_gives_what_it_gives_at_once(positions, pieces):
    """six tokens one by one, or three, two and one, with a cache: what all six give at once"""
    layer, x, angle = (make(positions=positions), torch.randn(2, 6, 24, dtype=f64),
                       torch.randn(6, 2, dtype=f64))
    whole, cache = by_head(layer, x, angle), Memory()
    for begin, end in zip(pieces, pieces[1:]):
        got = layer(x[:, begin:end], angle[begin:end].cos(), angle[begin:end].sin(), cache)
        assert cache.calls, (
            f"given tokens {begin} to {end - 1} and a cache, append was called 0 times, wanted once")
        index, shape = cache.calls[-1]
        assert index == 3, f"layer 3 stored its keys as layer {index}, wanted 3"
        assert shape == (2, 2, end - begin, 4), (
            f"stored keys of shape {shape}, wanted {(2, 2, end - begin, 4)}: store the K key heads before "
            "they are repeated, that is what makes the cache small")
        agree(got, whole[:, begin:end],
              f"tokens {begin} to {end - 1} after {begin} in the cache, positions {positions}",
              ask="go on with the keys and values that append returns, store keys that are already rotated, "
              "and let the bias have as many keys as there are now")
