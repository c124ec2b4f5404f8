"""Every variant of the model: what must hold whatever the configuration chooses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from attention import attend
from attention_sink import add_sink
from count import count_parameters
from mixture_of_experts import balance_loss, mixtures, move_biases, route
from sliding_window import WindowCache
from transformer import Config, Transformer

TINY = dict(vocab_size=11, d_model=16, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=12, max_len=16, kv_latent=8)
VARIANTS = {
    "default": {},
    "multi-query": dict(n_kv_heads=1),
    "wide heads": dict(head_width=6, n_kv_heads=2),
    "window": dict(attention="window", window=3),
    "alternate": dict(attention="alternate", window=3),
    "window with alibi": dict(attention="window", window=3, positions="alibi"),
    "latent": dict(attention="latent", rope_width=4),
    "latent queries": dict(attention="latent", rope_width=2, q_latent=6),
    "sinks": dict(sinks=True),
    "sinks in a window": dict(sinks=True, attention="window", window=3),
    "learned": dict(positions="learned"),
    "sinusoidal": dict(positions="sinusoidal"),
    "alibi": dict(positions="alibi"),
    "none": dict(positions="none"),
    "yarn": dict(rope_scaling="yarn", rope_factor=4.0),
    "parallel": dict(placement="parallel"),
    "post": dict(placement="post"),
    "gpt-2": dict(positions="learned", norm="layer", bias=True, activation="gelu_tanh", qk_norm=False),
    "soft-cap": dict(softcap=2.0),
    "experts": dict(n_experts=4),
    "experts by bias": dict(n_experts=4, balance="bias", top_k=1, n_shared=1, expert_ff=6, dense_layers=1),
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def build(seed: int = 0, **options) -> Transformer:
    """A tiny float64 model; gains, biases and sinks are random too, so that a forgotten one shows."""
    torch.manual_seed(seed)
    model = Transformer(Config(**{**TINY, **options})).double()
    for p in model.parameters():
        if p.ndim == 1:
            p.data += 0.3 * torch.randn_like(p)
    return model


@every_variant
def test_a_token_cannot_see_the_future(options):
    model, ids = build(**options), torch.randint(11, (1, 8))
    before = model(ids)
    for changed in range(1, 8):
        other = ids.clone()
        other[0, changed] = (ids[0, changed] + 1) % 11
        moved = (before - model(other))[0].abs().amax(-1)  # (T,)
        assert moved[:changed].max() < 1e-13, f"changing token {changed} moved an earlier logit"
        assert moved[changed] > 1e-6, f"changing token {changed} left its own logits where they were"


@every_variant
def test_a_cache_changes_nothing(options):
    model, ids = build(**options), torch.randint(11, (2, 12))
    whole = model(ids)
    for pieces in ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), (0, 5, 6, 10, 12)):
        cache = WindowCache(model.config)
        parts = [model(ids[:, a:b], cache, a) for a, b in zip(pieces, pieces[1:])]
        assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-10)


@every_variant
def test_a_row_does_not_depend_on_its_batch(options):
    model, ids = build(**options), torch.randint(11, (3, 9))
    assert_close(model(ids), torch.cat([model(row[None]) for row in ids]), rtol=1e-9, atol=1e-10)


@every_variant
def test_the_formula_counts_what_is_built(options):
    model = Transformer(Config(**{**TINY, **options}))
    assert sum(count_parameters(model.config).values()) == sum(p.numel() for p in model.parameters())


# Post-norm ends in a norm whose output is as long as its gain says, so its first logits are larger.
@pytest.mark.parametrize("options", [o for o in VARIANTS.values() if o.get("placement") != "post"])
def test_a_fresh_model_guesses_uniformly_within_two_percent(options):
    torch.manual_seed(0)
    model = Transformer(Config(**{**TINY, **options, "vocab_size": 256, "d_model": 64}))
    ids = torch.randint(256, (16, 16))
    loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(256), rel=0.02)


@every_variant
def test_every_variant_overfits_one_batch_and_every_parameter_gets_a_gradient(options):
    torch.manual_seed(0)
    model, ids = Transformer(Config(**{**TINY, **options})), torch.randint(11, (4, 12))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2, fused=True)
    blind = {name for name, _ in model.named_parameters()}   # without a gradient so far
    for _ in range(60):
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        blind -= {n for n, p in model.named_parameters()
                  if n in blind and p.grad is not None and p.grad.any()}
        optimizer.step()
        optimizer.zero_grad()
    assert not blind
    assert loss < 0.5 if options.get("softcap") is None else loss < 1.2, loss


def test_a_window_sees_as_far_as_it_says():
    model, ids = build(attention="window", window=3, n_layers=1), torch.randint(11, (1, 8))
    other = ids.clone()
    other[0, 2] = (ids[0, 2] + 1) % 11
    moved = (model(ids) - model(other))[0].abs().amax(-1) > 1e-9
    assert moved.tolist() == [False, False, True, True, True, False, False, False]


def test_layers_alternate_between_window_and_full():
    config = Config(**{**TINY, "n_layers": 4, "attention": "alternate", "window": 5})
    assert [config.window_of(layer) for layer in range(4)] == [5, 0, 5, 0]


def test_a_window_cache_stops_growing_and_a_latent_cache_is_small():
    for options, numbers in ((dict(attention="window", window=3), 2 * 2 * 16 * 2), (dict(), 12 * 2 * 16 * 2),
                             (dict(attention="latent", rope_width=4), 12 * (8 + 4) * 2)):
        model, cache = build(**options), WindowCache(Config(**{**TINY, **options}))
        for t in range(12):
            model(torch.tensor([[t % 11]]), cache, t)
        assert cache.bytes == 8 * numbers, options


def test_a_sink_is_a_term_in_the_denominator():
    q, k, v, sinks = torch.randn(1, 2, 4, 3), torch.randn(1, 2, 4, 3), torch.randn(1, 2, 4, 3), torch.randn(2)
    scores = (q @ k.mT / 3**0.5).masked_fill(torch.ones(4, 4).triu(1).bool(), -math.inf).exp()
    wanted = scores @ v / (scores.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    assert_close(attend(q, *add_sink(k, v, None, sinks)), wanted)


def test_absorbed_latents_give_what_built_keys_and_values_give():
    layer = build(attention="latent", rope_width=4).model.layers[0].self_attn
    parts = torch.randn(2, 4, 3, 4), torch.randn(2, 4, 3, 4), torch.randn(2, 1, 5, 8), torch.randn(2, 1, 5, 4)
    parts = [p.double().requires_grad_() for p in parts]
    a, b = layer.mix(*parts), layer.mix_absorbed(*parts)
    assert_close(a, b)
    weight = torch.randn_like(a)
    gradients = (torch.autograd.grad((out * weight).sum(), parts) for out in (a, b))
    for ga, gb in zip(*gradients):
        assert_close(ga, gb)


@pytest.mark.parametrize("balance", ["loss", "bias"])
def test_experts_drop_nothing_and_equal_a_loop_over_all_experts(balance):
    torch.manual_seed(0)
    moe = build(n_experts=6, top_k=3, balance=balance).model.layers[0].mlp
    moe.e_score_correction_bias += torch.randn(6)
    x = torch.randn(2, 9, 16, dtype=torch.float64, requires_grad=True)
    weights, chosen, _ = route(moe.gate(x[0]), moe.e_score_correction_bias, 3, moe.sigmoid)
    assert_close(weights.sum(-1), torch.ones(9, dtype=torch.float64))
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    a, b = moe.visit(x[0], weights, chosen), moe.visit_naive(x[0], weights, chosen)
    assert_close(a, b)
    for p in moe.experts.parameters():
        ga, gb = (torch.autograd.grad(out.square().sum(), p, retain_graph=True)[0] for out in (a, b))
        assert_close(ga, gb)


def test_the_balance_loss_is_one_when_even_and_pulls_the_router_back():
    model = build(n_experts=4, top_k=1)
    moe = mixtures(model)[0]
    moe.gate.weight.data.zero_()  # all scores equal: the mean score is even whatever the load
    moe(torch.randn(1, 40, 16).double())
    assert_close(moe.balance, torch.ones(()).double(), check_dtype=False)
    moe.gate.weight.data.normal_().mul_(0.3)
    moe.gate.weight.data[0] += 0.5  # all tokens have something in common, and expert 0 is drawn to it
    x = 0.5 + torch.randn(1, 200, 16).double()
    balances = []
    for _ in range(60):
        moe(x)
        balances.append(moe.balance.item())
        (grad,) = torch.autograd.grad(moe.balance, [moe.gate.weight])
        moe.gate.weight.data -= 0.1 * grad
    assert balances[0] > 1.5 and 0.99 < balances[-1] < 1.1, balances


def test_moving_the_biases_evens_the_load_without_touching_the_weights():
    model = build(n_experts=4, top_k=1, balance="bias")
    ids = torch.randint(11, (8, 16))
    model(ids)
    before = max(m.load.max().item() for m in mixtures(model))
    for _ in range(300):
        move_biases(model, 0.01)
        model(ids)
    after = max(m.load.max().item() for m in mixtures(model))
    assert after < before and after < 0.4
    assert balance_loss(model) > 0


@pytest.mark.parametrize("options, sentence", [
    (dict(attention="latent", positions="alibi"), "set positions='rope'"),
    (dict(attention="latent", n_kv_heads=2), "set n_kv_heads to n_heads, 4"),
    (dict(attention="latent", rope_width=5), "choose 6"),
    (dict(attention="latent", bias=True), "leave bias and sinks at False"),
    (dict(attention="latent", sinks=True), "leave bias and sinks at False"),
    (dict(attention="sparse"), "choose one of full, window, alternate, latent"),
    (dict(n_experts=2, top_k=3), "lower top_k or add experts"),
    (dict(n_shared=1), "set n_experts too"),
    (dict(n_experts=4, dense_layers=2), "lower it or drop n_experts"),
    (dict(positions="sinusoidal", d_model=15, n_heads=3, n_kv_heads=3), "choose 16"),
    (dict(rope_scaling="ntk", rope_factor=2.0, positions="none"), "set positions='rope'"),
    (dict(rope_factor=2.0), "choose linear, ntk, yarn or llama3"),
    (dict(rope_scaling="yarn", rope_factor=0.5), "give 1 or more"),
    (dict(rope_scaling="yarn", rope_factor=math.nan), "give 1 or more"),
    (dict(trained_len=99), "stretched, not shrunk"),
    (dict(window=0), "window is 0: it must be at least 1"),
    (dict(softcap=-1.0), "softcap is -1.0: it must be at least 0"),
    (dict(norm_eps=0.0), "give a small positive number"),
])
def test_impossible_variants_are_refused_with_the_fix(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**{**TINY, **options})


def test_ids_outside_the_vocabulary_are_refused_in_a_sentence():
    for bad in (11, -1):
        with pytest.raises(ValueError, match="vocabulary has 11 tokens"):
            build()(torch.tensor([[1, bad]]))
