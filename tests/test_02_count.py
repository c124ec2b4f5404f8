"""Accounting: each formula of count.py against what is built, counted by torch, and allocated."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from count import activation_numbers, cache_bytes, flops_per_token, training_flops
from mixture_of_experts import mixtures
from published_models import CONTEXT, MODELS, PUBLISHED, active_parameters, attention_kinds, count_parameters
from sliding_window import WindowCache
from transformer import Config, Transformer

SMALL = dict(vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=88, max_len=64)
B, T = 3, 40
SHAPES = [
    {},
    dict(n_kv_heads=2),
    dict(head_width=6, n_kv_heads=1),
    dict(qk_norm=False, positions="alibi"),
    dict(norm="layer", placement="post", tied=False),
    dict(placement="parallel", activation="relu"),
    dict(activation="relu2", positions="learned"),
    dict(activation="gelu", bias=True),
    dict(activation="gelu_tanh", positions="none"),
    dict(attention="alternate", window=8),
    dict(sinks=True),
]
SPARSE = [
    dict(n_experts=4),
    dict(n_experts=4, top_k=3, n_shared=1, expert_ff=10, dense_layers=1, activation="gelu"),
    dict(attention="latent", kv_latent=12, rope_width=6),
    dict(attention="latent", q_latent=10),
]
KEPT = [  # what changes nothing in the arithmetic, but in what is kept
    dict(n_experts=4, balance="bias", activation="relu2"),
    dict(n_experts=3, top_k=1, balance="none", placement="parallel"),
    dict(attention="latent", q_latent=10, qk_norm=False),
    dict(attention="latent", n_experts=4, n_shared=2, dense_layers=1),
]


def sizes_kept(model: Transformer, ids: torch.Tensor) -> int:
    """Bytes of what autograd keeps of a forward pass, without parameters, shared tables and ids."""
    shared = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept, alive = {}, []

    def pack(t):
        if t.is_floating_point() and t.untyped_storage().data_ptr() not in shared:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            alive.append(t)  # so that no address is used twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(ids)
    return sum(kept.values())


@pytest.mark.parametrize("options", SHAPES + SPARSE, ids=str)
def test_flops_are_those_of_torchs_counter(options):
    model, ids = Transformer(Config(**{**SMALL, **options})), torch.randint(64, (B, T))
    with FlopCounterMode(display=False) as counter:
        logits = model(ids)
    assert counter.get_total_flops() == B * T * flops_per_token(model.config, T)
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    backward = training_flops(model.config, T) - flops_per_token(model.config, T)
    assert counter.get_total_flops() == B * T * backward


@pytest.mark.parametrize("options", SHAPES + SPARSE + KEPT, ids=str)
def test_activations_are_those_that_autograd_keeps(options):
    model = Transformer(Config(**{**SMALL, **options}))
    loads = sum(len(m.experts) for m in mixtures(model))
    kept = B * T * activation_numbers(model.config, T) + loads
    assert sizes_kept(model, torch.randint(64, (B, T))) == 4 * kept


@pytest.mark.parametrize("options", SHAPES + SPARSE, ids=str)
def test_cache_bytes_are_those_that_are_allocated(options):
    model = Transformer(Config(**{**SMALL, **options}))
    cache = WindowCache(model.config)
    with torch.no_grad():
        for t in range(12):
            model(torch.tensor([[t]]), cache, t)
            assert cache.bytes == cache_bytes(model.config, t + 1, 4)


@pytest.mark.parametrize("name", MODELS)
def test_published_sizes_come_out(name):
    total, active = PUBLISHED[name]
    assert sum(count_parameters(MODELS[name]).values()) / 1e9 == pytest.approx(total, rel=0.004)
    assert active_parameters(MODELS[name]) / 1e9 == pytest.approx(active, rel=0.02)


def test_exact_published_sizes_come_out():
    # The pages of openai-community/gpt2, meta-llama/Meta-Llama-3-8B and -70B, mistralai/Mixtral-8x7B-v0.1;
    # what a token uses: Jiang et al. 2024, section 1.
    published = {"GPT-2 small": 124_439_808, "Llama 3 8B": 8_030_261_248, "Llama 3 70B": 70_553_706_496,
                 "Mixtral 8x7B": 46_702_792_704}
    for name, exact in published.items():
        assert sum(count_parameters(MODELS[name]).values()) == exact
    assert active_parameters(MODELS["Mixtral 8x7B"]) / 1e9 == pytest.approx(12.9, abs=0.05)


def test_latent_caches_are_smaller_than_grouped_and_larger_than_multi_query():
    sizes = [cache_bytes(config, CONTEXT) for config in attention_kinds().values()]
    full, grouped, multi_query, window, alternate, latent = sizes
    assert window < multi_query < latent < alternate < grouped < full == 4 * grouped
    # DeepSeek-V2, table 1: (512 + 64) numbers a layer and token.
    assert latent == 32 * CONTEXT * 576 * 2
