"""The fast path gives what the plain path gives: values, gradients, optimizer steps."""
import copy

import pytest
import torch
from torch import nn

from adamw import AdamW
from attention import attend
from cross_entropy import IGNORE
from fast_path import (
    BatchedAdamW,
    FusedMuon,
    fast_optimizers,
    fused_attend,
    loss_on,
    orthogonalize_fused,
    use_fast_path,
)
from muon import Muon, muon_and_adamw, orthogonalize
from transformer import Config, Transformer

SHAPE = dict(vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_len=32)
VARIANTS = [dict(), dict(positions="alibi"), dict(attention="window", window=5),
            dict(norm="layer", positions="learned"), dict(sinks=True), dict(attention="latent", n_kv_heads=4),
            dict(n_experts=3), dict(softcap=5.0), dict(tied=False), dict(placement="parallel"),
            dict(activation="gelu"), dict(activation="gelu_tanh"), dict(activation="relu2", n_experts=2)]


@pytest.mark.parametrize("T, S", [(1, 1), (6, 6), (1, 7), (3, 8)])
@pytest.mark.parametrize("biased", [False, True])
def test_fused_attention_is_attention(T, S, biased):
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64, requires_grad=True) for n in (T, S, S))
    bias = torch.randn(3, T, S, dtype=torch.float64) if biased else None
    want, got = attend(q, k, v, bias), fused_attend(q, k, v, bias)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    g = torch.randn_like(want)
    torch.testing.assert_close(torch.autograd.grad(got, (q, k, v), g),
                               torch.autograd.grad(want, (q, k, v), g))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_fast_model_has_the_loss_and_gradients_of_the_plain_one(variant):
    torch.manual_seed(0)
    plain = Transformer(Config(**{**SHAPE, **variant}))
    fast = copy.deepcopy(plain)
    assert use_fast_path(fast, "fp32") == "fp32"
    assert fast.state_dict().keys() == plain.state_dict().keys()
    ids = torch.randint(64, (3, 17))
    x, y = ids[:, :-1], ids[:, 1:].clone()
    y[0, :5] = IGNORE
    losses = [loss_on(model, x, y, is_fast) for model, is_fast in ((plain, False), (fast, True))]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for (name, p), q in zip(plain.named_parameters(), fast.parameters()):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=2e-5, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_batched_adamw_takes_the_steps_of_adamw(decay):
    mine = [nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in ((3, 4), (5,), (2, 2))]
    theirs = [nn.Parameter(p.detach().clone()) for p in mine]
    a, b = BatchedAdamW(mine, 0.01, weight_decay=decay), AdamW(theirs, 0.01, weight_decay=decay)
    for step in range(200):
        g = torch.Generator().manual_seed(step)
        for i, (p, q) in enumerate(zip(mine, theirs)):
            p.grad = None if i == 2 and step % 3 else torch.randn(p.shape, generator=g, dtype=torch.float64)
            q.grad = p.grad
        a.step(1 - step / 300)
        b.step(1 - step / 300)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    for m, n in zip(a.m + a.v, b.m + b.v):
        torch.testing.assert_close(m, n, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 6, 6), (3, 9, 4), (1, 4, 9)])
def test_the_fused_iteration_is_the_iteration(shape):
    G = torch.randn(*shape, dtype=torch.float64)
    torch.testing.assert_close(orthogonalize_fused(G), orthogonalize(G), rtol=1e-10, atol=1e-12)
    near = orthogonalize_fused(G.float(), dtype=torch.bfloat16)
    assert near.dtype == torch.float32 and (near - orthogonalize(G.float())).abs().max() < 0.1


def test_the_two_optimizers_get_the_same_weights_on_both_paths():
    model = Transformer(Config(**SHAPE))
    plain, fast = muon_and_adamw(model, 0.02, 0.01), fast_optimizers(model, 0.02, 0.01)
    for a, b, kind in zip(plain, fast, (FusedMuon, BatchedAdamW)):
        assert {id(p) for p in a.parameters} == {id(p) for p in b.parameters} and type(b) is kind
    assert isinstance(fast[0], Muon)
