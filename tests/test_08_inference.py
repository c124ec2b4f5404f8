"""Sampling filters, the cache, four-bit weights, and bad bytes in the terminal chat."""
import copy
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bpe import Tokenizer
from checkpoint import load_model, save_model, write
from commands import command
from generate import generate
from gptq import compensated, input_moments, quantize_compensated
from kv_cache import KVCache, generate_cached, stream
from mixed_bits import gains, give_bits, widen_worst
from quantize import (
    QuantizedWeight,
    Scales,
    dequantize,
    grid_for,
    load_quantized,
    nearest,
    on_grid,
    pack_nibbles,
    quantize_groups,
    quantize_matrix,
    quantize_model,
    save_quantized,
    stored_bytes,
    unpack_nibbles,
)
from sampling import Sampling, filtered, keep_top_k, keep_top_p, pick
from scale_tuning import TrainableScales, divergence, random_batches, tune_scales
from transformer import Config, Transformer
from workbench import write_json

CHAT = Path(__file__).resolve().parents[1] / "08_inference" / "chat.py"
CONFIG = Config(vocab_size=50, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=96, max_len=40)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    model.model.embed_tokens.weight.data *= 10   # far from a tie between tokens
    return model


def test_top_k_and_top_p_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert keep_top_k(logits, 2).exp().tolist()[0] == pytest.approx([0.5, 0.3, 0, 0])
    for p, kept in ((0.4, 1), (0.5, 1), (0.6, 2), (0.79, 2), (0.81, 3), (1.0, 4)):
        assert torch.isfinite(keep_top_p(logits, p)).sum() == kept, p
    mixed = logits[:, [2, 0, 3, 1]]
    assert torch.isfinite(keep_top_p(mixed, 0.6)).tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("logits", [[2.0, 2.0, 2.0, 2.0], [1.0, 3.0, 3.0, 0.0],
                                    [float("-inf"), -1e30, -1e30, 0.0], [1e30, 1e30, 0.0, -1e30]])
def test_the_filters_cut_ties_and_the_narrowest_of_each_is_greedy(logits):
    rows = torch.tensor([logits] * 50)
    wanted = rows.argmax(-1)
    for how in (dict(top_k=1), dict(top_p=1e-9), dict(temperature=1e-9, top_k=1),
                dict(temperature=1e-300, top_p=1e-300)):
        assert torch.equal(pick(rows, generator=torch.Generator().manual_seed(0), **how), wanted), how
    for k in (1, 2, 3):
        assert torch.equal((keep_top_k(rows, k) == keep_top_k(rows, k)).sum(-1), torch.full((50,), 4))
        assert (keep_top_k(rows, k).isfinite().sum(-1) <= k).all()
    assert torch.equal(keep_top_k(rows, 9), rows) and torch.equal(keep_top_p(rows, 0.0).argmax(-1), wanted)
    assert (keep_top_p(rows, 0.0).isfinite().sum(-1) == 1).all()


@pytest.mark.parametrize("temperature", [1e-9, 1e-40, 5e-324, 100.0])
def test_no_temperature_overflows(temperature):
    rows = torch.tensor([[1.0, 5.0, 4.9]]).repeat(200, 1)
    drawn = pick(rows, temperature, generator=torch.Generator().manual_seed(0))
    assert len(drawn.unique()) == (3 if temperature > 1 else 1) and (temperature > 1 or drawn[0] == 1)


def test_top_p_of_a_model_in_16_bits_is_cut_where_that_of_float64_is():
    logits = torch.randn(5, 3000, generator=torch.Generator().manual_seed(0)).bfloat16()
    p = filtered(logits, Sampling(1.0, top_p=0.9))
    torch.testing.assert_close(p, filtered(logits.double(), Sampling(1.0, top_p=0.9)))
    assert 0.9 <= (logits.double().softmax(-1) * (p > 0)).sum(-1).min() < 0.902


def test_samples_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(40_000, 1)
    drawn = pick(logits, temperature=2.0, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(share, torch.softmax(logits[0] / 2, -1), atol=0.01, rtol=0)
    assert (pick(logits, temperature=0) == 0).all()


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1},
                                 {"temperature": math.nan}, {"temperature": math.inf}, {"top_p": math.nan}])
def test_impossible_sampling_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is .*: choose"):
        pick(torch.zeros(1, 3), **bad)


def test_cached_decoding_gives_the_same_tokens_and_logits(model):
    ids = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(1))
    assert torch.equal(generate(model, ids, 20), generate_cached(model, ids, 20))
    assert list(stream(model, ids[0].tolist(), 20)) == generate(model, ids[:1], 20)[0, 7:].tolist()
    cache = KVCache(CONFIG, 3, 12)
    model(ids[:, :3], cache)
    model(ids[:, 3:4], cache, 3)
    torch.testing.assert_close(model(ids[:, 4:], cache, 4), model(ids)[:, 4:])


def test_make_counts_no_speed_of_another_output(model, monkeypatch):
    run = runpy.run_path(str(Path(__file__).parents[1] / "08_inference" / "run.py"))
    time_cache, in_turn, ids = run["time_cache"], run["in_turn"], torch.tensor([[1, 2, 3]])
    assert time_cache(model, ids, 4, 1)["same_output"]
    wrong = generate(model, ids, 4)
    wrong[0, -1] = 49 - wrong[0, -1]
    monkeypatch.setitem(time_cache.__globals__, "generate_cached", lambda *_: wrong)
    clock = iter([0.0, 6.0, 10.0, 12.0, 20.0, 28.0, 30.0, 31.0])          # 6 and 2 seconds, then 8 and 1
    monkeypatch.setitem(time_cache.__globals__, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    timed = time_cache(model, ids, 4, 2)
    assert not timed["same_output"] and timed["speedup"] == 5.5
    clock = iter([0.0, 6.0, 8.0, 20.0, 28.0, 29.0])
    answers = iter([8, 7])                                               # wrong the first time
    assert in_turn(lambda: 7, lambda: next(answers), 2) == {"speedup": 5.5, "same_output": False}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_other_types_decode_with_a_cache(model, dtype):
    model, ids = model.to(dtype), torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(1))
    cached, plain = generate_cached(model, ids, 20), generate(model, ids, 20)
    assert cached.shape == (3, 27) and list(stream(model, ids[0].tolist(), 20)) == cached[0, 7:].tolist()
    same = (cached == plain).double().mean()
    # 16 bits: sums in another order may break a tie
    assert same == 1 or (dtype != torch.float64 and same > 0.5)
    drawn = stream(model, [1, 2], 5, temperature=0.8, top_k=9, top_p=0.9,
                   generator=torch.Generator().manual_seed(0))
    assert len(list(drawn)) == 5


def test_the_stream_ends_at_eos(model):
    ids = [3, 1, 4]
    tokens = list(stream(model, ids, 10))
    assert list(stream(model, ids, 10, eos=tokens[4])) == tokens[:tokens.index(tokens[4])]


def test_a_full_cache_says_so(model):
    cache = KVCache(CONFIG, 1, 4)
    assert cache.bytes == 2 * 2 * 1 * 2 * 4 * 16 * 4
    with pytest.raises(ValueError, match="room for 4 tokens"):
        model(torch.zeros(1, 5, dtype=torch.long), cache)


def test_packing_keeps_every_pair_of_four_bit_numbers():
    every = torch.arange(-8, 8)
    integers = torch.cartesian_prod(every, every).to(torch.int8)                  # all 256 pairs, (256, 2)
    packed = pack_nibbles(integers)
    assert packed.dtype == torch.uint8 and packed.shape == (256, 1) and len(packed.unique()) == 256
    assert torch.equal(unpack_nibbles(packed), integers)


def test_rounding_stays_within_half_a_step_of_unclipped_weights():
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    integers, scales = quantize_groups(w, 4)
    step = scales.float().repeat_interleave(16, 1)
    error = (dequantize(integers, scales) - w).abs()
    inside = w.abs() <= 7 * step
    assert (error[inside] <= 0.5 * step[inside] * 1.001).all() and inside.float().mean() > 0.9
    plain = w.view(8, 4, 16).abs().amax(-1).div(7).repeat_interleave(16, 1)
    from_maximum = ((w / plain).round() * plain - w).square().sum()
    assert error.square().sum() <= from_maximum, "searching may not be worse than the maximum"


def test_special_groups():
    integers, scales = quantize_groups(torch.zeros(2, 32), 4)
    assert torch.equal(dequantize(integers, scales), torch.zeros(2, 32))
    with pytest.raises(ValueError, match="does not divide into groups of 16"):
        quantize_groups(torch.zeros(2, 33), 4)
    for bits in (-1, 0, 1, 9, 16):
        with pytest.raises(ValueError, match=f"integers of {bits} bits: choose 2 to 8"):
            quantize_groups(torch.zeros(2, 32), bits)
    for bad in (math.inf, -math.inf, math.nan):
        for quantize in (lambda w: quantize_matrix(w, 4), lambda w: quantize_compensated(w, torch.eye(32))):
            with pytest.raises(ValueError, match="a weight is infinite or not a number"):
                quantize(torch.zeros(2, 32).index_fill(1, torch.tensor([5]), bad))


@pytest.mark.parametrize("quantize", [
    lambda w: quantize_matrix(w, 4), lambda w: quantize_matrix(w, 8),
    lambda w: quantize_compensated(w, torch.eye(64))], ids=["int4", "int8", "gptq"])
def test_zeros_stay_zeros_whatever_is_beside_them(quantize):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    weight[1, 16:32], weight[2] = 0, 0
    integers, scales = quantize(weight)
    got = dequantize(integers, scales.values())
    assert not got[1, 16:32].any() and not got[2].any() and (got - weight).norm() < 0.12 * weight.norm()
    integers, scales = quantize(torch.zeros(4, 64))
    assert not dequantize(integers, scales.values()).any()


def test_scales_are_stored_within_half_a_step_of_the_logarithm():
    scales = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + 0.05
    stored = on_grid(scales, grid_for(torch.ones(4, 12), scales))
    assert stored.codes.dtype == torch.uint8 and stored.codes.min() == 0 and stored.codes.max() == 255
    assert ((stored.values() / scales).log2().abs() <= stored.grid[1] / 2 * 1.001).all()
    same = on_grid(torch.full((2, 3), 0.3), grid_for(torch.ones(2, 12), torch.full((2, 3), 0.3)))
    torch.testing.assert_close(same.values(), torch.full((2, 3), 0.3))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_integers_are_the_nearest_for_the_scales_as_they_are_stored(bits):
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-3, 1, 16)[:, None]
    integers, stored = quantize_matrix(weight, bits)
    step = Scales(*stored).values().repeat_interleave(16, 1)
    inside = integers.float().abs() < 2 ** (bits - 1) - 1
    assert ((integers * step - weight).abs() <= step * 0.5001)[inside].all() and inside.float().mean() > 0.8


@pytest.mark.parametrize("size", [30.0, 1e3, 1e6, 1e20, -1e6])
@pytest.mark.parametrize("bits", [4, 8])
def test_one_outlier_does_not_coarsen_the_other_groups(bits, size):
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    spoilt, others = weight.clone(), torch.ones(32, 4, dtype=torch.bool)
    spoilt[3, 20], others[3, 1] = size, False

    def errors(w):
        integers, scales = quantize_matrix(w, bits)
        got = dequantize(integers, scales.values())
        return got, (got - w).unflatten(1, (4, 16))

    (_, plain), (got, beside) = errors(weight), errors(spoilt)
    assert beside[others].norm() < 1.02 * plain[others].norm()
    assert got[3, 20].item() == pytest.approx(size, rel=0.2)


def test_the_empty_stretch_beside_outliers_takes_no_places():
    scales = torch.tensor([[1.0, 1.5, 2.0, 1e6, 2e6]])
    stored = on_grid(scales, grid_for(torch.ones(1, 5), scales))
    torch.testing.assert_close(stored.values(), scales, rtol=0.003, atol=0)       # two octaves, 253 steps
    assert stored.codes.unique().numel() == 5
    two = torch.tensor([[1.0, 1e6]])
    torch.testing.assert_close(on_grid(two, grid_for(torch.ones(1, 2), two)).values(), two, rtol=1e-5, atol=0)


def test_an_outlier_in_one_row_leaves_the_other_rows_of_gptq_alone():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 16, generator=g) @ torch.randn(16, 64, generator=g)
    weight = torch.randn(16, 64, generator=g) * 0.1
    spoilt = weight.clone()
    spoilt[3, 20] = 1e4
    others = [i for i in range(16) if i != 3]

    def output_error(w):
        integers, scales = quantize_compensated(w, x.T @ x)
        return (x @ (dequantize(integers, scales.values()) - w)[others].T).norm()
    assert output_error(spoilt) < 1.1 * output_error(weight)


def test_tuning_stores_integers_for_the_scales_that_are_stored():
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    tuned = TrainableScales(QuantizedWeight(*quantize_matrix(weight, 4), 4, is_table=False))
    tuned.scales.data[0, 0] *= 1e5                                                # one scale has run away
    trained = dequantize(tuned.integers, tuned.scales)
    stored = tuned.rounded()
    scales = Scales(stored.scales, stored.scale_grid).values()
    assert torch.equal(stored.integers, nearest(trained, scales, 4))
    assert ((stored.weight - trained)[1:].norm() < 0.04 * trained[1:].norm())


def test_biases_survive():
    torch.manual_seed(0)
    model = Transformer(Config(**{**vars(CONFIG), "bias": True})).requires_grad_(False)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.normal_()
    ids = torch.randint(50, (20, 6))
    small = quantize_model(model, 8)
    tune_scales(small, model, [ids] * 2)
    assert (small(ids) - model(ids)).std() < 0.2 * model(ids).std()


def test_compensated_rounding_changes_the_output_less():
    g = torch.Generator().manual_seed(0)
    # 64 inputs that move in 16 directions
    x = torch.randn(500, 16, generator=g) @ torch.randn(16, 64, generator=g)
    w = torch.randn(16, 64, generator=g)
    both = quantize_matrix(w, 4), quantize_compensated(w, x.T @ x)
    plain, careful = (dequantize(i, s.values()) for i, s in both)
    assert (x @ (careful - w).T).square().sum() < 0.5 * (x @ (plain - w).T).square().sum()
    # uncorrelated inputs: nothing to repair
    white, scales = quantize_compensated(w, torch.eye(64))
    assert torch.equal(white, nearest(w, scales.values(), 4))
    torch.testing.assert_close(scales.values(), quantize_groups(w, 4)[1], rtol=0.02, atol=0)


def test_input_moments_are_those_of_the_inputs(model):
    ids = torch.randint(50, (20, 6), generator=torch.Generator().manual_seed(1))
    moments = input_moments(model, [ids])
    x = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids)).flatten(0, 1)
    torch.testing.assert_close(moments["model.layers.0.self_attn.q_proj"], x.T @ x / ids.numel())
    assert len(moments) == 14


def test_texts_and_chats_count_alike_in_what_is_repaired_however_many_there_are(model):
    g, name = torch.Generator().manual_seed(1), "model.layers.1.mlp.down_proj"
    many = [torch.randint(25, (9, 6), generator=g) for _ in range(4)]
    few = [torch.randint(25, 50, (2, 6), generator=g)]
    weight = model.get_parameter(f"{name}.weight").detach()
    a, b = input_moments(model, many)[name], input_moments(model, few)[name]
    both, *single = (quantize_compensated(weight, m)[0] for m in (a + b, a, b))
    assert torch.equal(compensated(model, many, few)(name, weight)[0], both)
    assert not any(torch.equal(both, one) for one in single)


def test_divergence_is_the_one_of_torch():
    p, q = torch.randn(2, 3, 4, 9, generator=torch.Generator().manual_seed(0))
    log_p, log_q = (x.log_softmax(-1).flatten(0, 1) for x in (p, q))
    reference = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    torch.testing.assert_close(divergence(p, q), reference)
    assert divergence(p, p + 3).abs() < 1e-6                        # a shift of all logits changes nothing


@pytest.mark.parametrize("teacher", [torch.zeros(1, 2, 5),
                                     torch.tensor([[[0.0, -math.inf, 2.0, 2.0, -math.inf]] * 2])])
def test_the_gradient_of_the_divergence_at_equal_logits_is_that_of_the_formula(teacher):
    student = torch.zeros(1, 2, 5, dtype=torch.float64, requires_grad=True)
    loss = divergence(teacher.double(), student)
    loss.backward()
    p = teacher.double().softmax(-1)
    torch.testing.assert_close(student.grad, (student.softmax(-1) - p).detach() / 2)
    torch.testing.assert_close(loss.detach(), (torch.xlogy(p, p).sum(-1) + math.log(5)).mean())


def test_tuned_scales_bring_the_predictions_closer_and_leave_the_integers(model):
    g = torch.Generator().manual_seed(1)
    batches = [torch.randint(50, (20, 6), generator=g) for _ in range(60)]
    unseen = torch.randint(50, (50, 6), generator=g)
    small = quantize_model(model, 8)
    tuned = copy.deepcopy(small)
    tune_scales(tuned, model, batches, lr=1e-4, norm_lr=1e-4)
    far, near = (divergence(model(unseen), m(unseen)) for m in (small, tuned))
    assert near < 0.8 * far
    before = small.state_dict()
    changed = {name.rsplit(".", 1)[1] for name, t in tuned.state_dict().items()
               if not torch.equal(t, before[name])}
    assert changed == {"scales", "scale_grid", "weight"}                          # the norms' weights
    assert stored_bytes(tuned) == stored_bytes(small) and not any(p.requires_grad for p in tuned.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_the_matrix_that_is_hurt_most_gets_eight_bits(model):
    ids = torch.randint(50, (20, 6), generator=torch.Generator().manual_seed(1))
    small = quantize_model(model, 8)
    hurt = "model.layers.1.mlp.up_proj"
    weight = small.get_submodule(hurt).weight
    small.get_submodule("model.layers.1.mlp").up_proj = QuantizedWeight(
        *quantize_matrix(weight + 0.05 * torch.randn(weight.shape), 4), 4, is_table=False)
    before = {name: t.clone() for name, t in small.state_dict().items()}
    gain = gains(small, model, [ids])
    # measuring changes nothing
    assert all(torch.equal(t, before[name]) for name, t in small.state_dict().items())
    assert len(gain) == 14 and max(gain, key=gain.get) == hurt
    by_hand = copy.deepcopy(small)
    give_bits(by_hand, model, hurt)
    expected = divergence(model(ids), small(ids)) - divergence(model(ids), by_hand(ids))
    assert gain[hurt] == pytest.approx(expected.item(), rel=1e-4)
    assert widen_worst(small, model, [ids], 1) == [hurt] and small.get_submodule(hurt).bits == 8
    assert torch.equal(small(ids), by_hand(ids))
    assert widen_worst(small, model, [ids], 0) == []


def test_what_is_gained_counts_by_the_weights_that_it_costs(model, monkeypatch):
    up, q, k = (f"model.layers.0.{name}_proj" for name in ("mlp.up", "self_attn.q", "self_attn.k"))
    gained = {up: 2.0, q: 1.5, k: 1.0}                               # by 6144, 4096 and 2048 weights
    monkeypatch.setattr("mixed_bits.gains", lambda *_: gained)
    small = quantize_model(model, 8)
    assert widen_worst(small, model, [], 2) == [k, q]
    assert [small.get_submodule(name).bits for name in (up, k, q)] == [4, 8, 8]


def test_a_model_of_mixed_bits_can_be_tuned_and_survives_the_disk(model, tmp_path):
    ids = torch.randint(50, (20, 6), generator=torch.Generator().manual_seed(1))
    small = quantize_model(model, 8, wide=["model.layers.0.self_attn.v_proj"])
    tune_scales(small, model, [ids] * 2)
    save_quantized(tmp_path / "m.pt", small)
    again = load_quantized(tmp_path / "m.pt")
    assert torch.equal(again(ids), small(ids))
    bits = [m.bits for name, m in again.named_modules() if name.endswith("_proj")]
    assert sorted(bits) == [4] * 13 + [8] and again.get_submodule("model.layers.0.self_attn.v_proj").bits == 8


def test_every_row_is_drawn_equally_often():
    rows = [torch.zeros(3, 5, dtype=torch.long), torch.ones(9, 4, dtype=torch.long)]
    drawn = random_batches(rows, 400, 8)
    assert {tuple(b.shape) for b in drawn} == {(8, 5), (8, 4)}
    assert abs(sum(b.shape[1] == 4 for b in drawn) / 400 - 0.75) < 0.06


def test_the_small_model_survives_the_disk_and_is_small(model, tmp_path):
    ids = torch.randint(50, (20, 6), generator=torch.Generator().manual_seed(1))
    small = quantize_model(model, 8, compensated(model, [ids]))
    save_quantized(tmp_path / "m.pt", small)
    again = load_quantized(tmp_path / "m.pt")
    assert torch.equal(again(ids), small(ids))
    packed = [m for m in small.state_dict() if m.endswith("packed")]
    assert len(packed) == 15 and stored_bytes(model) / stored_bytes(small) > 5.5
    assert (small(ids) - model(ids)).std() < 0.2 * model(ids).std()


@pytest.mark.parametrize("bits", [16, 0, 2, 7])
def test_a_table_of_other_than_8_or_4_bits_is_refused(model, bits):
    with pytest.raises(ValueError, match=f"an embedding of {bits} bits: choose 8 or 4"):
        quantize_model(model, bits)


WEIGHTS = {"model.norm.weight": torch.ones(64)}


@pytest.mark.parametrize("content", [
    {}, {"config": 1}, {"config": 1, "table_bits": 8, "weights": {}},
    {"config": vars(CONFIG), "table_bits": 16, "weights": {}},
    {"config": vars(CONFIG), "table_bits": "8", "weights": {}},
    {"config": vars(CONFIG), "table_bits": 8, "weights": {}},
    {"config": vars(CONFIG), "table_bits": 8, "weights": WEIGHTS},
    {"config": vars(CONFIG), "table_bits": 8, "weights": 3},
    {"config": {"n_pillars": 5}, "table_bits": 8, "weights": {}},
    {"config": {"d_model": 3}, "table_bits": 8, "weights": {}},
    {"config": {"d_model": "64"}, "table_bits": 8, "weights": {}},
    {"config": None, "table_bits": 8, "weights": None},
])
def test_a_file_of_another_kind_is_refused_with_a_sentence(content, tmp_path):
    write(tmp_path / "other.pt", content)
    with pytest.raises(ValueError, match="other.pt is not a quantized model of this code: run `make 08`"):
        load_quantized(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt is not a model file of this code"):
        load_model(tmp_path / "other.pt")


def test_a_model_of_another_shape_or_kind_is_refused_with_a_sentence(model, tmp_path):
    save_model(tmp_path / "float.pt", model)
    save_quantized(tmp_path / "int4.pt", quantize_model(model))
    for load, name, sentence in ((load_quantized, "float.pt", "not a quantized model"),
                                 (load_model, "int4.pt", "not a model file")):
        with pytest.raises(ValueError, match=f"{name} is {sentence}"):
            load(tmp_path / name)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:len(data) // 2],
                                    lambda data: data[:-1], lambda data: b"PK\3\4" + data,
                                    lambda data: b"GGUF" * 100])
def test_an_empty_a_truncated_or_a_foreign_file_is_refused_with_a_sentence(model, tmp_path, damage):
    save_quantized(tmp_path / "int4.pt", quantize_model(model))
    (tmp_path / "int4.pt").write_bytes(damage((tmp_path / "int4.pt").read_bytes()))
    for load in (load_quantized, load_model):
        with pytest.raises(ValueError, match="int4.pt is damaged .*: delete it and run make again"):
            load(tmp_path / "int4.pt")


def test_a_byte_that_is_no_text_does_not_end_the_chat(model, tmp_path):
    tokenizer = Tokenizer([])
    chatty = Transformer(Config(**{**vars(CONFIG), "vocab_size": tokenizer.vocab_size, "max_len": 64}))
    tokenizer.save(tmp_path / "01_tokenizer/tokenizer.json")
    write_json(tmp_path / "01_tokenizer/tasks.json", {
        "train_questions": [], "held_out_questions": [], "test_sums": [], "demonstrations": [],
        "held_out_bytes": 0})
    save_model(tmp_path / "07_alignment/grpo.pt", chatty)
    typed = b"caf\xe9\n\xff\xfe\x00\n\xed\xa0\x80 and on\n\n"
    words = ["--out", tmp_path, "--max-new", "5"]
    for done in (command(CHAT, *words, typed=typed, text=False),   # in UTF-8
                 subprocess.run([sys.executable, CHAT, *words], input=typed, capture_output=True,
                                env={**os.environ, "PYTHONIOENCODING": "ascii"})):
        assert done.returncode == 0 and done.stdout.count(b"model>") == 3, done.stderr.decode()


def test_chatting_without_a_model_says_what_to_run(tmp_path):
    done = command(CHAT, "--out", tmp_path)
    assert done.returncode == 1 and "run the earlier chapters first" in done.stderr
    assert "Traceback" not in done.stderr


def test_tokenizers_with_a_toy_vocabulary_stream_as_text(model):
    tokenizer = Tokenizer([])
    whole = generate(model, torch.tensor([[1, 2]]), 5)[0, 2:].tolist()
    assert tokenizer.decode(stream(model, [1, 2], 5)) == tokenizer.decode(whole)


def test_a_count_of_zero_is_refused_before_the_work_begins():
    done = command(CHAT.with_name("run.py"), "--rounds", 0)
    assert done.returncode == 1 and "--rounds 0: give 1 or more" in done.stderr
    assert "Traceback" not in done.stderr
