"""What chapter 4 does on one rank: tiled attention, recomputation, offloading, roofline, memory."""
import math

import pytest
import torch
import torch.nn.functional as F

from adamw import AdamW
from attention import attend
from cross_entropy import cross_entropy
from flash_attention import flash_attend, flash_attention, flash_forward, kernel_attention
from measure import tensor_bytes
from offload import DiskStore, HostStore, Offloaded
from peak_memory import PeakMemory
from recompute import recompute, recompute_blocks
from roofline import Machine, operations
from transformer import Config, Transformer


@pytest.mark.parametrize("T, S, causal, tile", [
    (1, 1, True, 64), (64, 64, True, 32), (65, 65, True, 32), (5, 133, True, 16), (100, 70, False, 32),
    (33, 200, False, 64), (50, 50, True, 1)])
def test_tiled_attention_is_exact_forward_and_backward(T, S, causal, tile):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (T, S, S))
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else None
    ours = flash_attention(q, k, v, causal, tile)
    reference = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    grad = torch.randn_like(ours)
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(torch.autograd.grad(ours, (q, k, v), grad),
                               torch.autograd.grad(reference, (q, k, v), grad))


def test_the_log_sum_exp_of_tiles_is_that_of_the_row_even_for_large_scores():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 20, 4, dtype=torch.float64) * 100 for _ in range(3))
    _, L = flash_forward(q, k, v, False, 8)
    torch.testing.assert_close(L, (q @ k.transpose(-1, -2) / 2).logsumexp(-1))


def test_tiled_attention_serves_grouped_queries_in_the_real_model():
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=31, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48,
                               max_len=80)).double()
    ids = torch.randint(0, 31, (2, 80))
    expected = model(ids)
    for layer in model.model.layers:
        layer.self_attn.attend = flash_attend
    torch.testing.assert_close(model(ids), expected)
    q, k, v = (torch.randn(1, heads, 9, 8, dtype=torch.float64) for heads in (4, 2, 2))
    torch.testing.assert_close(flash_attention(q, k, v),
                               attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))


def test_tiled_attention_needs_memory_linear_in_the_length():
    peaks = {}
    for function in (attend, flash_attend):
        for T in (256, 512):
            q, k, v = (torch.randn(1, 2, T, 16, requires_grad=True) for _ in range(3))
            with PeakMemory([q, k, v]) as memory:
                function(q, k, v).sum().backward()
            peaks[function, T] = memory.peak
    assert peaks[attend, 512] / peaks[attend, 256] > 3.5
    assert peaks[flash_attend, 512] / peaks[flash_attend, 256] < 2.2


def test_shapes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="do not go together"):
        flash_attention(torch.zeros(1, 4, 5, 8), torch.zeros(1, 3, 5, 8), torch.zeros(1, 3, 5, 8))
    with pytest.raises(ValueError, match="6 causal queries but only 5 keys"):
        flash_attention(torch.zeros(1, 4, 6, 8), torch.zeros(1, 4, 5, 8), torch.zeros(1, 4, 5, 8))
    with pytest.raises(ValueError, match="takes no bias"):
        flash_attend(*(torch.zeros(1, 1, 2, 2) for _ in range(3)), torch.zeros(2, 2))


def test_the_kernel_or_its_stand_in_computes_attention():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 40, 32) for _ in range(3))
    out, by = kernel_attention(q, k, v)
    torch.testing.assert_close(out, attend(q, k, v), rtol=1e-3, atol=1e-3)
    assert by


@pytest.mark.parametrize("which", ["attention", "block"])
def test_recomputation_changes_memory_and_not_one_gradient(which):
    gradients, peaks = [], []
    for mode in ("none", which):
        torch.manual_seed(0)
        model = Transformer(Config(vocab_size=31, d_model=32, n_layers=6, n_heads=4, n_kv_heads=4, d_ff=96,
                                   max_len=64)).double()
        recompute_blocks(model, mode)
        ids = torch.randint(0, 31, (4, 65))
        with PeakMemory(model) as memory:
            cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
        peaks.append(memory.peak)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    assert peaks[1] < (0.9 if which == "attention" else 0.6) * peaks[0]


def test_recomputation_without_a_gradient_to_compute_is_refused():
    with pytest.raises(ValueError, match="needs an argument that requires a gradient"):
        recompute(torch.sin, torch.ones(2))


@pytest.mark.parametrize("parameters", [False, True])
@pytest.mark.parametrize("store", ["host", "disk"])
def test_offloaded_training_is_the_same_in_less_memory(store, parameters, tmp_path):
    config = Config(vocab_size=31, d_model=32, n_layers=8, n_heads=2, n_kv_heads=2, d_ff=64, max_len=8)
    ids = torch.randint(0, 31, (3, 1, 9), generator=torch.Generator().manual_seed(0))
    weights, peaks = [], []
    for offloading in (False, True):
        torch.manual_seed(0)
        model = Transformer(config).double()
        if offloading:
            trained = Offloaded(model, HostStore() if store == "host" else DiskStore(tmp_path),
                                AdamW([], 1e-2, weight_decay=0.1), parameters)
            known = [unit.full for unit in trained.units]
        else:
            trained = AdamW(model.parameters(), 1e-2, weight_decay=0.1)
            known = [trained.m, trained.v]
        with PeakMemory(model, known) as memory:
            for row in ids:
                for p in model.parameters():
                    p.grad = None
                cross_entropy(model(row[:, :-1]), row[:, 1:]).backward()
                trained.step()
        peaks.append(memory.peak)
        whole = trained.load_all() if offloading else model
        weights.append([p.detach().clone() for p in whole.parameters()])
    torch.testing.assert_close(*weights, rtol=0, atol=1e-14)
    assert peaks[1] < (0.45 if parameters else 0.75) * peaks[0]


def test_a_truncated_file_of_the_store_is_reported(tmp_path):
    store = DiskStore(tmp_path)
    store.write("x", torch.ones(4))
    (tmp_path / "x").write_bytes(b"1234")
    with pytest.raises(ValueError, match="x is shorter than it was written"):
        store.read("x", torch.empty(4))


def test_peak_memory_is_counted_to_the_byte():
    a = torch.zeros(100)                      # 400 bytes
    with PeakMemory([a, a[:50]]) as memory:   # a view is the same memory
        b = a + 1
        c = b * 2                             # 1200 bytes now
        del b
        c += 1
        assert memory.live() == 800
    assert memory.peak == 1200
    assert tensor_bytes([a, a[10:], {"c": c}]) == 800


def test_the_roof_is_the_slower_of_arithmetic_and_memory():
    machine = Machine(flops=100.0, bandwidth=10.0)
    assert machine.ridge == 10.0
    assert machine.seconds(1000, 10) == 10.0 and machine.seconds(10, 1000) == 100.0
    for work in operations(torch.device("cpu"), small=True):
        work.run()
        assert 0 < work.intensity < math.inf
