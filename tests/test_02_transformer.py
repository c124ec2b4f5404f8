"""The whole model of chapter 2: what must hold for every configuration."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import test_02_variants
from count import count_parameters
from generate import choose, generate, generate_many
from positions import rope_tables
from transformer import Config, Transformer

POSITIONS = ("rope", "learned", "sinusoidal", "alibi", "none")
TINY = dict(vocab_size=11, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=12, max_len=12)


def build(seed: int = 0, **options) -> Transformer:
    """As in test_02_variants.py, with fewer key heads and less context."""
    return test_02_variants.build(seed, **{**TINY, **options})


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_token_cannot_see_the_future(positions, placement):
    model = build(positions=positions, placement=placement)
    ids = torch.randint(11, (1, 8), generator=torch.Generator().manual_seed(0))
    for changed in range(1, 8):
        other = ids.clone()
        other[0, changed] = (ids[0, changed] + 1) % 11
        difference = (model(ids) - model(other))[0].abs().amax(-1)  # (T,)
        assert difference[:changed].max() == 0, f"changing token {changed} moved an earlier logit"
        assert difference[changed:].min() > 1e-6, f"changing token {changed} left a later logit where it was"


def test_order_matters_with_positions_and_not_without():
    # The last token sees a permuted past: one layer without positions can't tell, the others can.
    ids, permuted = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[3, 1, 2, 4]])
    for positions in POSITIONS:
        model = build(positions=positions, n_layers=1)
        moved = (model(ids) - model(permuted))[0, -1].abs().max().item()
        assert (moved < 1e-12) == (positions == "none"), f"{positions}: the last logits moved by {moved:g}"


def test_the_formula_counts_what_is_built():
    every = itertools.product(POSITIONS, ("rms", "layer"), ("pre", "post"), ("swiglu", "gelu"), (True, False),
                              (True, False), ((4, 2), (2, 2)))
    for positions, norm, placement, activation, qk_norm, tied, (heads, kv_heads) in every:
        config = Config(vocab_size=13, d_model=24, n_layers=2, n_heads=heads, n_kv_heads=kv_heads, d_ff=10,
                        max_len=7, positions=positions, norm=norm, placement=placement, activation=activation,
                        qk_norm=qk_norm, tied=tied)
        built = sum(p.numel() for p in Transformer(config).parameters())
        assert sum(count_parameters(config).values()) == built, config


@pytest.mark.parametrize("options, sentence",
                         [(dict(d_model=65), "choose 64 or 68"),
                          (dict(d_model=3, n_heads=4), "n_heads 4: choose 4, or head_width$"),
                          (dict(n_heads=6, n_kv_heads=4, d_model=48), "same number of query heads"),
                          (dict(n_layers=0), "n_layers is 0: it must be at least 1"),
                          (dict(positions="sinus"), "choose one of rope, learned, sinusoidal, alibi, none"),
                          (dict(norm="batch"), "choose one of rms, layer"),
                          (dict(placement="both"), "choose one of pre, post, parallel"),
                          (dict(activation="tanh"), "choose one of swiglu, gelu, gelu_tanh, relu, relu2"),
                          (dict(d_model=12, n_heads=4), "even head width, not 3"),
                          (dict(rope_base=float("nan")), "rope_base is nan: give a number above 1")])
def test_impossible_configurations_are_refused_with_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**options)


def test_the_base_of_the_configuration_turns_the_model():
    """At position 1 pair i turns by base^(-2i/D): here base 16 and D 8, so 1, 1/2, 1/4, 1/8."""
    decoder = build(d_model=16, n_heads=2, n_kv_heads=2, rope_base=16.0).float().model
    assert_close(decoder.cos[1], torch.tensor([1.0, 0.5, 0.25, 0.125]).cos())
    assert_close(decoder.sin[3], (3 * torch.tensor([1.0, 0.5, 0.25, 0.125])).sin())


def test_odd_rope_widths_and_long_sequences_are_refused():
    with pytest.raises(ValueError, match="choose an even one"):
        rope_tables(4, 5)
    with pytest.raises(ValueError, match="13 tokens is longer than max_len 12"):
        build()(torch.zeros(1, 13, dtype=torch.int64))


def test_weights_have_the_names_of_hugging_face():
    layer = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
             "self_attn.o_proj", "self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm",
             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    names = {f"model.layers.{i}.{part}.weight" for i in range(2) for part in layer}
    names |= {"model.embed_tokens.weight", "model.norm.weight"}
    assert set(build().state_dict()) == names
    assert set(build(tied=False).state_dict()) == names | {"lm_head.weight"}
    without = {n for n in names if "q_norm" not in n and "k_norm" not in n}
    assert set(build(qk_norm=False).state_dict()) == without


@pytest.mark.parametrize("options", [{}, dict(tied=False),
                                     dict(norm="layer", placement="post", activation="relu2",
                                          positions="learned")])
def test_every_parameter_gets_a_gradient(options):
    model = build(**options)
    model(torch.arange(8).view(1, 8)).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


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
    assert torch.equal(
        out[:, 2:], model(out[:, :-1])[:, 1:].argmax(-1)
    )  # teacher forcing agrees at every step


def test_prompts_of_different_lengths_get_the_answers_they_get_alone():
    model, prompts = build(), [[1, 2, 3], [4], [5, 6, 7], [8, 9]]
    alone = [generate(model, torch.tensor([p]), 4)[0, len(p) :].tolist() for p in prompts]
    assert generate_many(model, prompts, 4) == alone
