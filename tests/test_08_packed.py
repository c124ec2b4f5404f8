"""A model that is multiplied packed is the quantized model: its logits, its tokens, every kind of layer."""

import pytest
import torch
from torch.testing import assert_close

from bench_inference import compared, in_turn, packed_and_whole
from kv_cache import generate_cached
from packed_model import PackedTransformer, PackedWeight
from quantize import QuantizedWeight, quantize_matrix, quantize_model
from transformer import Config, Transformer

SMALL = dict(vocab_size=96, d_model=32, n_layers=2, n_heads=4, d_ff=64, max_len=64)
KINDS = {"default": {}, "untied, biased": dict(tied=False, bias=True, norm="layer", activation="gelu"),
         "latent attention": dict(attention="latent", kv_latent=16, rope_width=8, qk_norm=False),
         "experts, soft cap": dict(n_experts=4, softcap=20.0)}


def quantized(table_bits: int = 8, **changes) -> Transformer:
    torch.manual_seed(0)
    return quantize_model(Transformer(Config(**(SMALL | changes))), table_bits)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_its_logits_are_those_of_the_quantized_model(kind):
    small = quantized(**KINDS[kind])
    packed = PackedTransformer(small)
    for ids in (torch.randint(96, (1, 1)), torch.randint(96, (2, 7)), torch.randint(96, (3, 40))):
        assert_close(packed(ids), small(ids), atol=2e-5, rtol=1e-5)
    prompt = torch.randint(96, (3, 5))
    assert torch.equal(generate_cached(packed, prompt, 12), generate_cached(small, prompt, 12))


@torch.no_grad()
def test_a_table_of_four_bits_is_looked_up_and_float64_stays_float64():
    small = quantized(table_bits=4)
    ids = torch.randint(96, (2, 3))
    looked_up = PackedTransformer(small).model.embed_tokens(ids)
    assert_close(looked_up, small.model.embed_tokens(ids), atol=0, rtol=1e-6)
    layer = small.model.layers[0].mlp.up_proj
    x = torch.randn(2, 32, dtype=torch.float64)
    assert_close(PackedWeight(layer)(x), x @ layer.weight.double().T, atol=1e-6, rtol=1e-6)


def test_every_width_keeps_its_values_and_one_scale_a_row_is_refused():
    for bits in (2, 3, 4, 8):
        q = QuantizedWeight(*quantize_matrix(torch.randn(5, 48), bits), bits, is_table=False)
        assert_close(PackedWeight(q).weight, q.weight, atol=0, rtol=1e-6)   # a scale's last digit may differ
    integers, scales = quantize_matrix(torch.randn(5, 48), 8)
    wide = QuantizedWeight(integers, scales._replace(codes=scales.codes[:, :1]), 8, is_table=False)
    with pytest.raises(ValueError, match="groups of 16"):
        PackedWeight(wide)


def test_it_holds_no_float32_matrix():
    small = quantized()
    packed = PackedTransformer(small)
    own = sum(t.numel() * t.element_size() for t in packed.state_dict().values())
    assert own < sum(t.numel() * t.element_size() for t in small.state_dict().values()) + 15 * 1024
    assert all(t.ndim < 2 or t.dtype in (torch.uint8, torch.int8) for t in packed.state_dict().values())


def test_a_ratio_is_of_the_same_round_and_other_tokens_are_no_speed():
    assert compared(100, [1.0, 2.0, 4.0], [4.0, 4.0, 4.0]).split() == ["50", "2.00", "(1.00", "to", "4.00)"]
    assert [len(s) for s in in_turn({"a": lambda: [1], "b": lambda: [1]}, rounds=3).values()] == [3, 3]
    with pytest.raises(ValueError, match="b and a write different tokens"):
        in_turn({"a": lambda: [1], "b": lambda: [2]})


@torch.no_grad()
def test_the_benchmark_compares_a_model_with_itself():
    packed, whole = packed_and_whole(Config(**SMALL))
    ids = torch.randint(96, (2, 9))
    assert_close(packed(ids), whole(ids), atol=2e-5, rtol=1e-5)
    assert len(whole.model.layers[0].mlp.up_proj.weight.unique()) > 300      # random, and not a constant
