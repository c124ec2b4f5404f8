"""The scorecard's measures, and rounding that looks at the inputs."""
import math

import pytest
import torch
from torch.testing import assert_close

from activation_aware import output_error, quantize_aware
from bpe import Tokenizer
from gptq import input_moments
from kv_cache import generate_cached
from packed_model import PackedWeight
from quantize import QuantizedWeight, dequantize, quantize_matrix
from scorecard import (
    WAYS,
    absmax,
    divergence,
    embed,
    likeness,
    packed_bytes,
    round_model,
    rounded,
    tokens_per_second,
)
from transformer import Config, Transformer

TOKENIZER = Tokenizer([])


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Config(vocab_size=TOKENIZER.vocab_size, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=48,
                    max_len=64)
    model = Transformer(config).requires_grad_(False)
    for p in model.parameters():
        p.mul_(2) if p.ndim == 2 else None
    return model


def inputs(n: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (500, n) of very different sizes, and the mean of x x^T."""
    x = torch.randn(500, n) * torch.logspace(-2, 1, n)
    return x, x.T @ x / len(x)


def test_absmax_by_hand():
    weight = torch.tensor([[7.0, -3.4, 0.4, 1.0], [-0.7, 0.7, 0.1, 0.0]])
    integers, scales = absmax(weight, 4, 4)
    assert integers.tolist() == [[7, -3, 0, 1], [-7, 7, 1, 0]]
    assert_close(scales.values(), torch.tensor([[1.0], [0.1]]), rtol=1e-5, atol=0)


def test_the_output_error_is_that_of_the_outputs():
    torch.manual_seed(1)
    x, moment = inputs()
    change = torch.randn(5, 32)
    assert_close(output_error(change, moment), (x @ change.T).square().sum(1).mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_activation_aware_rounding_errs_less_in_the_outputs_and_never_more(bits):
    torch.manual_seed(2)
    weight, (x, moment) = torch.randn(24, 32), inputs()
    integers, scales, columns = quantize_aware(weight, moment, bits)
    aware = ((dequantize(integers, scales.values()) / columns - weight) @ x.T).square().sum()
    plain_integers, plain_scales = quantize_matrix(weight, bits)
    plain = ((dequantize(plain_integers, plain_scales.values()) - weight) @ x.T).square().sum()
    assert aware < 0.8 * plain
    even = torch.eye(32)                                  # all columns alike: nothing to prefer
    assert_close(quantize_aware(weight, even, bits)[2], torch.ones(32))


def test_bytes_by_hand():
    integers, scales = quantize_matrix(torch.randn(3, 32), 3)
    assert packed_bytes(integers, scales, None, 3) == 3 * 32 * 3 // 8 + 3 * 2 + 16
    assert packed_bytes(integers, scales, torch.ones(32), 3) == 36 + 6 + 16 + 128


def test_every_way_rounds_every_matrix_to_few_values(model):
    ids = torch.randint(TOKENIZER.vocab_size, (2, 30))
    moments = input_moments(model, [ids])
    for way in WAYS:
        small, size = round_model(model, moments, way, 2)
        for name, layer in small.named_modules():
            if name.endswith("_proj"):
                assert (layer.weight != model.get_submodule(name).weight).any(), name
                if way != "activation-aware":             # a group has one scale: -2, -1, 0 or 1 times it
                    groups = layer.weight.unflatten(1, (-1, 16)).flatten(0, 1)
                    assert max(len(g.unique()) for g in groups) <= 4, (way, name)
        assert_close(small.model.norm.weight, model.model.norm.weight, rtol=0, atol=0)
        n = sum(m.weight.numel() for name, m in model.named_modules() if name.endswith("_proj"))
        assert size > n / 4 + n / 16 + model.model.embed_tokens.weight.numel()
        assert divergence(model, small, ids) > 0
    same, size = round_model(model, moments, "float32", 32)
    assert divergence(model, same, ids) == 0 and size == 4 * sum(p.numel() for p in model.parameters())


def test_divergence_by_hand():
    class Fixed:
        def __init__(self, *p):
            self.logits = torch.tensor(p).log()

        def __call__(self, ids):
            return self.logits.expand(*ids.shape, -1)
    ids = torch.zeros(3, 5, dtype=torch.long)
    wanted = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert abs(divergence(Fixed(0.5, 0.5), Fixed(0.25, 0.75), ids) - wanted) < 1e-6


def test_likeness_is_one_for_the_same_text_and_less_for_another(model):
    assert likeness(model, TOKENIZER, ["abc", "x"], ["abc", "x"]) == pytest.approx(1, abs=1e-5)
    assert likeness(model, TOKENIZER, ["abc", "x"], ["abd", "yz"]) < 0.999
    assert_close(embed(model, TOKENIZER, "abc").norm(), torch.tensor(1.0))
    assert embed(model, TOKENIZER, "").isfinite().all()


def test_one_scale_a_row_is_one_scale_a_row():
    _, scales, columns = rounded(torch.randn(6, 32), torch.eye(32), "absmax, one scale a row", 8)
    assert scales.codes.shape == (6, 1) and columns is None


def test_speed_is_measured_at_every_width_unpacked_and_packed(model, monkeypatch):
    timed, plain = [], type(model.model.layers[1].mlp.up_proj)

    def seen(m, *more):
        timed.append(m.model.layers[1].mlp.up_proj)
        return generate_cached(m, *more)
    monkeypatch.setattr("scorecard.generate_cached", seen)
    for bits in (32, 8, 4, 3):
        timed.clear()
        speed = tokens_per_second(model, bits)
        assert set(speed) == {"unpacked", "packed"} and min(speed.values()) > 0
        stored = 4 if bits == 4 else 8
        kinds = [(QuantizedWeight, bits), (PackedWeight, stored)] if bits < 32 else [(plain, 32)]
        assert list(dict.fromkeys((type(layer), getattr(layer, "bits", 32)) for layer in timed)) == kinds
