"""What the studies of chapter 3 compute from their runs, and how much of the hardware a run uses."""
import math

import pytest
import torch
from torch import nn

from adamw import AdamW
from learning_rate_range import suggest, sweep
from recipe import NANOGPT, OURS, RATES, ladder, optimizers_of, steps_to_reach
from sgd import SGD
from transformer import Config, Transformer
from utilization import measured_peak, mfu, model_flops_per_token, published_peak
from what_breaks import MISTAKES, mean_of_means


def test_steps_to_the_same_loss_are_read_off_straight_lines():
    curve = {60: 4.0, 120: 3.0, 240: 2.0}
    assert [steps_to_reach(loss, curve) for loss in (3.0, 3.5, 2.25)] == [120, 90, 210]
    assert steps_to_reach(5.0, curve) == 60 and math.isinf(steps_to_reach(1.9, curve))


def test_the_ladder_goes_from_the_textbook_to_ours_one_change_at_a_time():
    rows = ladder(NANOGPT)
    assert rows[0].model == NANOGPT.model and rows[-2].model == OURS.model == {}
    assert rows[-2].optimizer == "muon"
    config = [Config(**r.model) for r in rows[:5]]
    for a, b in zip(config, config[1:]):
        changed = {k for k in vars(a) if getattr(a, k) != getattr(b, k)}
        assert len(changed - {"d_ff"}) == 1, "SwiGLU takes two thirds of the width to have as many weights"
    assert config[-1] == Config(), "after the last change of the model it is the default"
    sizes = [sum(p.numel() for p in Transformer(c).parameters()) for c in config]
    assert max(sizes) / min(sizes) < 1.05
    assert NANOGPT.lr in RATES


def test_each_recipe_moves_every_weight():
    for recipe in ladder(NANOGPT):
        model = Transformer(Config(d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=16))
        moved = [id(p) for o in optimizers_of(recipe, model) for p in o.parameters]
        assert sorted(moved) == sorted(id(p) for p in model.parameters())


def test_a_mean_of_means_is_wrong_and_a_weighed_one_is_right():
    wrong, weighed = mean_of_means()
    assert wrong > 0.3 and weighed < 1e-12


def test_every_mistake_differs_from_the_reference():
    reference = {k: v for k, v in vars(MISTAKES[0]).items() if k not in ("name", "sign")}
    others = [{k: v for k, v in vars(m).items() if k not in ("name", "sign")} for m in MISTAKES[1:]]
    assert all(o != reference for o in others) and len({str(o) for o in others}) == len(others)


def test_the_range_of_a_parabola_ends_where_gradient_descent_does():
    """w <- w - r * 2 * w diverges for r > 1: the loss is least just before; suggested is a third of that."""
    w = nn.Parameter(torch.tensor([3.0]))
    rates = [1e-3 * 1.2**i for i in range(60)]
    losses = sweep([SGD([w], 1.0)], lambda step: (w**2).sum(), rates)
    assert len(losses) < 60, "it stops when the loss has exploded"
    assert 0.15 < suggest(rates, losses, smooth=0.0) < 0.5
    with pytest.raises(ValueError, match="start lower"):
        suggest(rates, [1.0, 9.0])


def test_a_sweep_takes_each_step_with_its_rate():
    w = nn.Parameter(torch.zeros(1))
    sweep([AdamW([w], 1.0)], lambda step: -w.sum(), [0.5, 0.25, 0.125])
    torch.testing.assert_close(w.item(), 0.875)


def test_mfu_of_a_published_run():
    """PaLM 540B: 46.2% MFU at 238.3 thousand tokens a second on 6144 TPU v4 of 275 TFLOP/s (appendix B)."""
    peak = 6144 * 275e12
    per_token = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert abs(238.3e3 * per_token / peak - 0.462) < 0.002
    gpt2 = Config(vocab_size=50257, d_model=768, n_layers=12, n_heads=12, n_kv_heads=12, d_ff=3072,
                  max_len=1024, positions="learned", norm="layer", activation="gelu",
                  qk_norm=False, bias=True)
    assert mfu(1000.0, gpt2, 1024, 1e15) == pytest.approx(1000 * model_flops_per_token(gpt2, 1024) / 1e15)


def test_peaks_of_known_and_unknown_devices():
    assert published_peak("NVIDIA H100 80GB HBM3") == published_peak("NVIDIA H200") == 989e12
    assert published_peak("NVIDIA L40S") == 362e12 and published_peak("NVIDIA L4") == 121e12
    assert published_peak("Some GPU 9000") is None
    assert measured_peak(torch.device("cpu"), torch.float32, 64) > 1e6
