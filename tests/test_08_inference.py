"""Sampling filters, the cache, four-bit weights, and the terminal chat."""
import copy
import subprocess
import sys

import pytest
import torch

from bpe import Tokenizer
from chat import as_trained
from generate import generate
from gptq import compensated, input_moments, quantize_compensated
from kv_cache import KVCache, generate_cached, stream
from quantize import (dequantize, load_quantized, pack_nibbles, quantize_groups, quantize_model, round_scales, save_quantized,
                      stored_bytes, unpack_nibbles)
from scale_tuning import divergence, random_batches, tune_scales
from sampling import keep_top_k, keep_top_p, pick
from transformer import Config, Transformer

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


def test_samples_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(40_000, 1)
    drawn = pick(logits, temperature=2.0, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(share, torch.softmax(logits[0] / 2, -1), atol=0.01, rtol=0)
    assert (pick(logits, temperature=0) == 0).all()


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}])
def test_impossible_sampling_settings_are_refused(bad):
    with pytest.raises(ValueError, match="wanted temperature"):
        pick(torch.zeros(1, 3), **bad)


def test_cached_decoding_gives_the_same_tokens_and_logits(model):
    ids = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(1))
    assert torch.equal(generate(model, ids, 20), generate_cached(model, ids, 20))
    assert list(stream(model, ids[0].tolist(), 20)) == generate(model, ids[:1], 20)[0, 7:].tolist()
    cache = KVCache(CONFIG, 3, 12)
    model(ids[:, :3], cache)
    model(ids[:, 3:4], cache, 3)
    torch.testing.assert_close(model(ids[:, 4:], cache, 4), model(ids)[:, 4:])


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
    integers = torch.cartesian_prod(torch.arange(-8, 8), torch.arange(-8, 8)).to(torch.int8)   # all 256 pairs, (256, 2)
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
    assert error.square().sum() <= ((w / plain).round() * plain - w).square().sum(), "searching may not be worse than the maximum"


def test_special_groups():
    integers, scales = quantize_groups(torch.zeros(2, 32), 4)
    assert torch.equal(dequantize(integers, scales), torch.zeros(2, 32))
    with pytest.raises(ValueError, match="does not divide into groups of 16"):
        quantize_groups(torch.zeros(2, 33), 4)


def test_rounded_scales_stay_within_half_a_step():
    scales = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + 0.05
    multiples, step = round_scales(scales)
    assert multiples.dtype == torch.uint8
    torch.testing.assert_close(multiples * step, scales, atol=step.item() / 2 * 1.001, rtol=0)


def test_compensated_rounding_changes_the_output_less():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 16, generator=g) @ torch.randn(16, 64, generator=g)     # 64 inputs that move in 16 directions
    w = torch.randn(16, 64, generator=g)
    moment = x.T @ x
    plain, careful = (dequantize(*q) for q in (quantize_groups(w, 4), quantize_compensated(w, moment)))
    assert (x @ (careful - w).T).square().sum() < 0.5 * (x @ (plain - w).T).square().sum()
    white, scales = quantize_compensated(w, torch.eye(64))                        # uncorrelated inputs: nothing to repair
    assert torch.equal(white, quantize_groups(w, 4)[0]) and torch.equal(scales, quantize_groups(w, 4)[1])


def test_input_moments_are_those_of_the_inputs(model):
    ids = torch.randint(50, (20, 6), generator=torch.Generator().manual_seed(1))
    moments = input_moments(model, [ids])
    x = model.model.layers[0].input_layernorm(model.model.embed_tokens(ids)).flatten(0, 1)
    torch.testing.assert_close(moments["model.layers.0.self_attn.q_proj"], x.T @ x / ids.numel())
    assert len(moments) == 14


def test_divergence_is_the_one_of_torch():
    p, q = torch.randn(2, 3, 4, 9, generator=torch.Generator().manual_seed(0))
    reference = torch.nn.functional.kl_div(q.log_softmax(-1).flatten(0, 1), p.log_softmax(-1).flatten(0, 1), log_target=True,
                                           reduction="batchmean")
    torch.testing.assert_close(divergence(p, q), reference)
    assert divergence(p, p + 3).abs() < 1e-6                                      # a shift of all logits changes nothing


def test_tuned_scales_bring_the_predictions_closer_and_leave_the_integers(model):
    g = torch.Generator().manual_seed(1)
    batches, unseen = [torch.randint(50, (20, 6), generator=g) for _ in range(60)], torch.randint(50, (50, 6), generator=g)
    small = quantize_model(model, 8)
    tuned = copy.deepcopy(small)
    tune_scales(tuned, model, batches, lr=1e-4, norm_lr=1e-4)
    far, near = (divergence(model(unseen), m(unseen)) for m in (small, tuned))
    assert near < 0.8 * far
    changed = {name.rsplit(".", 1)[1] for name, t in tuned.state_dict().items() if not torch.equal(t, small.state_dict()[name])}
    assert changed == {"scales", "scale_step", "weight"}                          # the norms' weights
    assert stored_bytes(tuned) == stored_bytes(small) and not any(p.requires_grad for p in tuned.parameters())
    assert all(p.grad is None for p in model.parameters())


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
    torch.save({"config": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a quantized model"):
        load_quantized(tmp_path / "other.pt")


def test_a_sum_is_sent_as_it_was_learned():
    assert as_trained("361+324") == "163+423" and as_trained(" 5 + 30 = ") == "500+030"
    assert as_trained(" Which module has glob? ") == "Which module has glob?"


def test_chatting_without_a_model_says_what_to_run(tmp_path):
    done = subprocess.run([sys.executable, "08_inference/chat.py", "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "run the earlier chapters first" in done.stderr and "Traceback" not in done.stderr


def test_tokenizers_with_a_toy_vocabulary_stream_as_text(model):
    tokenizer = Tokenizer([])
    assert tokenizer.decode(stream(model, [1, 2], 5)) == tokenizer.decode(generate(model, torch.tensor([[1, 2]]), 5)[0, 2:].tolist())


def test_a_count_of_zero_is_refused_before_the_work_begins():
    done = subprocess.run([sys.executable, "08_inference/run.py", "--tuning", "0"], capture_output=True, text=True)
    assert done.returncode == 1 and "--tuning 0: give 1 or more" in done.stderr and "Traceback" not in done.stderr
