"""Chapter 2 against torch's own layers in float64, values and gradients, and what must hold for every configuration."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from attention import Attention, attend, causal_mask, repeat_heads, softmax
from feed_forward import ACTIVATIONS, FeedForward, gelu, relu, relu2, silu
from generate import choose, generate, generate_many
from kv_cache import KVCache
from linear import Embedding, Linear
from normalization import LayerNorm, RMSNorm
from positions import alibi_bias, apply_rope, rope_tables
from rollout import GrowingCache
from transformer import Config, Transformer, count_parameters

POSITIONS = ("rope", "learned", "alibi", "none")
TINY = dict(vocab_size=11, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=12, max_len=12)


def build(seed: int = 0, **options) -> Transformer:
    """A tiny float64 model with random norms too, so that a forgotten gain shows."""
    torch.manual_seed(seed)
    model = Transformer(Config(**{**TINY, **options})).double()
    for p in model.parameters():
        if p.ndim == 1:
            p.data += 0.3 * torch.randn_like(p)
    return model


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal float64 numbers that ask for a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def same_values_and_gradients(ours, theirs, *inputs: torch.Tensor) -> None:
    """Both functions give one output, and one gradient of a random projection of it with respect to every input."""
    a, b = ours(*inputs), theirs(*inputs)
    assert_close(a, b)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(9), dtype=a.dtype)
    for ga, gb in zip(torch.autograd.grad((a * weight).sum(), inputs), torch.autograd.grad((b * weight).sum(), inputs)):
        assert_close(ga, gb)


def test_softmax_agrees_with_torch_and_survives_large_scores():
    same_values_and_gradients(softmax, lambda x: F.softmax(x, -1), draw(2, 3, 5))
    assert_close(softmax(torch.tensor([1e4, 1e4 - 1])), F.softmax(torch.tensor([1e4, 1e4 - 1]), -1))


@pytest.mark.parametrize("ours, theirs", [(silu, F.silu), (gelu, F.gelu), (relu, F.relu),
                                          (relu2, lambda x: F.relu(x).square())])
def test_activations_agree_with_torch(ours, theirs):
    same_values_and_gradients(ours, theirs, draw(4, 7))


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
    same_values_and_gradients(lambda x, g, b: torch.func.functional_call(norm, {"weight": g, "bias": b}, (x,)),
                              lambda x, g, b: F.layer_norm(x, (6,), g, b, eps=1e-3),
                              draw(2, 3, 6), draw(6, seed=1), draw(6, seed=2))


def test_attend_agrees_with_torch():
    q, k, v = (draw(2, 3, 5, 4, seed=i) for i in range(3))
    same_values_and_gradients(attend, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)


def test_attend_with_a_bias_and_fewer_queries_than_keys_agrees_with_torch():
    q, k, v, bias = draw(2, 3, 2, 4), draw(2, 3, 5, 4, seed=1), draw(2, 3, 5, 4, seed=2), draw(3, 2, 5, seed=3)
    future = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)   # by hand: queries stand at 3 and 4
    assert torch.equal(causal_mask(2, 5), future)
    same_values_and_gradients(attend, lambda q, k, v, bias: F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias.masked_fill(future, -math.inf)), q, k, v, bias)


def test_grouped_heads_agree_with_torch():
    q, k, v = draw(2, 6, 4, 4), draw(2, 2, 4, 4, seed=1), draw(2, 2, 4, 4, seed=2)
    same_values_and_gradients(lambda q, k, v: attend(q, repeat_heads(k, 6), repeat_heads(v, 6)),
                              lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), q, k, v)


def test_the_attention_layer_agrees_with_torch_multi_head_attention():
    torch.manual_seed(0)
    ours = Attention(Config(**{**TINY, "n_kv_heads": 4, "positions": "none", "qk_norm": False}), 0).double()
    theirs = torch.nn.MultiheadAttention(16, 4, bias=False, batch_first=True).double()
    theirs.in_proj_weight.data = torch.cat((ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight)).detach()
    theirs.out_proj.weight.data = ours.o_proj.weight.detach()
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    same_values_and_gradients(lambda x: ours(x, None, None),
                              lambda x: theirs(x, x, x, attn_mask=future, need_weights=False)[0], draw(2, 5, 16))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_agrees_with_torch(activation):
    torch.manual_seed(0)
    ours = FeedForward(Config(**{**TINY, "activation": activation})).double()
    act = {"swiglu": F.silu, "gelu": F.gelu, "relu": F.relu, "relu2": lambda x: F.relu(x) ** 2}[activation]

    def theirs(x):
        up = F.linear(x, ours.up_proj.weight)
        inside = act(F.linear(x, ours.gate_proj.weight)) * up if activation == "swiglu" else act(up)
        return F.linear(inside, ours.down_proj.weight)
    same_values_and_gradients(ours, theirs, draw(2, 3, 16))


def test_rope_depends_on_distance_only():
    cos, sin = rope_tables(40, 8)
    q, k = draw(1, 1, 1, 8).expand(1, 1, 40, 8), draw(1, 1, 1, 8, seed=1).expand(1, 1, 40, 8)
    scores = (apply_rope(q, cos, sin) @ apply_rope(k, cos, sin).transpose(-1, -2))[0, 0]       # (T, T)
    for distance in (0, 1, 17):
        diagonal = scores.diagonal(-distance)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-6)            # the tables are float32
    assert (scores[0, 0] - scores[17, 0]).abs() > 0.01


def test_rope_rotates_as_multiplication_by_a_complex_number():
    cos, sin = rope_tables(9, 6)
    x = draw(2, 3, 9, 6)
    angle = torch.arange(9.0, dtype=torch.float64)[:, None] * 10_000.0 ** (-torch.tensor([0.0, 2, 4], dtype=torch.float64) / 6)
    wanted = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones_like(angle), angle)
    assert_close(apply_rope(x, cos, sin), torch.cat((wanted.real, wanted.imag), -1), rtol=1e-6, atol=1e-6)


def test_alibi_slopes_are_those_of_the_paper():
    # Press et al. 2021, section 3: for 8 heads 1/2, 1/4, ... 1/256; figure 3 shows the distances.
    assert_close(alibi_bias(8, 1, 3)[:, 0, 1], -(0.5 ** torch.arange(1.0, 9)))
    assert_close(alibi_bias(8, 3, 3)[0], -0.5 * torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 1, 0]]))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_token_cannot_see_the_future(positions, placement):
    model = build(positions=positions, placement=placement)
    ids = torch.randint(11, (1, 8), generator=torch.Generator().manual_seed(0))
    for changed in range(1, 8):
        other = ids.clone()
        other[0, changed] = (ids[0, changed] + 1) % 11
        difference = (model(ids) - model(other))[0].abs().amax(-1)                             # (T,)
        assert difference[:changed].max() == 0, f"changing token {changed} moved an earlier logit"
        assert difference[changed:].min() > 1e-6, f"changing token {changed} left a later logit where it was"


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("new_cache", [lambda c: GrowingCache(), lambda c: KVCache(c, 2, 9, dtype=torch.float64)],
                         ids=["growing", "reserved"])
def test_cached_and_uncached_logits_agree(positions, new_cache):
    model = build(positions=positions)
    ids = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(0))
    cache, parts, start = new_cache(model.config), [], 0
    with torch.no_grad():
        for length in (4, 1, 3, 1):        # a prompt, one token, several at once, one token
            parts.append(model(ids[:, start:start + length], cache, start))
            start += length
        assert_close(torch.cat(parts, 1), model(ids))


def test_order_matters_with_positions_and_not_without():
    # The last token sees a permuted past: one layer without positions can't tell, the others can.
    ids, permuted = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 1, 2, 4]])
    for positions in POSITIONS:
        model = build(positions=positions, n_layers=1)
        moved = (model(ids) - model(permuted))[0, -1].abs().max().item()
        assert (moved < 1e-12) == (positions == "none"), f"{positions}: the last logits moved by {moved:g}"


def test_the_formula_counts_what_is_built():
    for positions, norm, placement, activation, qk_norm, tied, (heads, kv_heads) in itertools.product(
            POSITIONS, ("rms", "layer"), ("pre", "post"), ("swiglu", "gelu"), (True, False), (True, False),
            ((4, 2), (2, 2))):
        config = Config(vocab_size=13, d_model=24, n_layers=2, n_heads=heads, n_kv_heads=kv_heads, d_ff=10, max_len=7,
                        positions=positions, norm=norm, placement=placement, activation=activation, qk_norm=qk_norm, tied=tied)
        built = sum(p.numel() for p in Transformer(config).parameters())
        assert sum(count_parameters(config).values()) == built, config


def test_the_formula_counts_a_published_model():
    # Llama 3.1 8B: 8,030,261,248 parameters (the model card on Hugging Face).
    llama = Config(vocab_size=128_256, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_ff=14_336, qk_norm=False, tied=False)
    assert sum(count_parameters(llama).values()) == 8_030_261_248


@pytest.mark.parametrize("options, sentence", [
    (dict(d_model=65), "choose 64 or 68"),
    (dict(d_model=3, n_heads=4), "n_heads 4: choose 4$"),
    (dict(n_heads=6, n_kv_heads=4, d_model=48), "same number of query heads"),
    (dict(n_layers=0), "n_layers is 0: it must be at least 1"),
    (dict(positions="sinus"), "choose one of rope, learned, alibi, none"),
    (dict(norm="batch"), "choose one of rms, layer"),
    (dict(placement="both"), "choose one of pre, post"),
    (dict(activation="tanh"), "choose one of swiglu, gelu, relu, relu2"),
    (dict(d_model=12, n_heads=4), "even head width, not 3"),
])
def test_impossible_configurations_are_refused_with_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**options)


def test_odd_rope_widths_and_long_sequences_are_refused():
    with pytest.raises(ValueError, match="choose an even one"):
        rope_tables(4, 5)
    with pytest.raises(ValueError, match="13 tokens is longer than max_len 12"):
        build()(torch.zeros(1, 13, dtype=torch.int64))


def test_weights_have_the_names_of_hugging_face():
    layer = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
             "self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    names = {f"model.layers.{i}.{part}.weight" for i in range(2) for part in layer} | {"model.embed_tokens.weight", "model.norm.weight"}
    assert set(build().state_dict()) == names
    assert set(build(tied=False).state_dict()) == names | {"lm_head.weight"}
    assert set(build(qk_norm=False).state_dict()) == {n for n in names if "q_norm" not in n and "k_norm" not in n}


@pytest.mark.parametrize("options", [{}, dict(tied=False), dict(norm="layer", placement="post", activation="relu2", positions="learned")])
def test_every_parameter_gets_a_gradient(options):
    model = build(**options)
    model(torch.arange(8).view(1, 8)).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_a_fresh_model_guesses_almost_uniformly():
    torch.manual_seed(0)
    config = Config(vocab_size=256, d_model=64, n_layers=4)
    ids = torch.randint(256, (2, 64))
    loss = F.cross_entropy(Transformer(config)(ids).flatten(0, 1)[:-1], ids.flatten()[1:])
    assert abs(loss.item() - math.log(256)) < 0.2


def test_greedy_choice_takes_the_largest_and_sampling_follows_the_temperature():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 1.0, 4.0]])
    assert choose(logits).tolist() == [[1], [0]]
    draws = choose(logits[:1].expand(4000, 3), 2.0, torch.Generator().manual_seed(0))
    frequency = draws.flatten().bincount(minlength=3) / 4000
    assert_close(frequency, F.softmax(logits[0] / 2, -1), rtol=0, atol=0.03)


def test_generation_appends_the_most_likely_tokens():
    model = build()
    ids = torch.tensor([[1, 2], [3, 4]])
    out = generate(model, ids, 3)
    assert torch.equal(out[:, :2], ids)
    assert torch.equal(out[:, 2:], model(out[:, :-1])[:, 1:].argmax(-1))     # teacher forcing agrees at every step


def test_prompts_of_different_lengths_get_the_answers_they_get_alone():
    model, prompts = build(), [[1, 2, 3], [4], [5, 6, 7], [8, 9]]
    alone = [generate(model, torch.tensor([p]), 4)[0, len(p):].tolist() for p in prompts]
    assert generate_many(model, prompts, 4) == alone
