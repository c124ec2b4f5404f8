"""AdamW and clipping against torch's own in float64, Muon against the SVD, the ends of the schedules."""
import math

import pytest
import torch
from torch import nn

from adamw import AdamW
from clipping import clip_gradients
from muon import Muon, muon_and_adamw, orthogonalize
from schedule import constant_then_decay, cosine, warmup
from sgd import SGD
from transformer import Config, Transformer


def twins(*shapes, seed=0):
    """Two lists of equal float64 parameters."""
    g = torch.Generator().manual_seed(seed)
    first = [nn.Parameter(torch.randn(*shape, generator=g, dtype=torch.float64)) for shape in shapes]
    return first, [nn.Parameter(p.detach().clone()) for p in first]


def give_gradients(step, *lists):
    """The same random gradients, of very different sizes, to each list of parameters."""
    for parameters in lists:
        g = torch.Generator().manual_seed(100 + step)
        for i, p in enumerate(parameters):
            p.grad = 10.0 ** (i - 3) * torch.randn(p.shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_takes_the_steps_of_torch(decay):
    mine, theirs = twins((3, 4), (5,), (2, 2, 2))
    a = AdamW(mine, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    b = torch.optim.AdamW(theirs, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    for step in range(300):
        scale = 1 - step / 400
        give_gradients(step, mine, theirs)
        b.param_groups[0]["lr"] = 0.02 * scale
        a.step(scale)
        b.step()
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_parameters_without_a_gradient_or_frozen_stay_as_they_are():
    mine, start = twins((2, 2), (2, 2), (2, 2))
    mine[2].requires_grad_(False)
    optimizers = [AdamW(mine, 0.1, weight_decay=0.5), Muon(mine, 0.1, weight_decay=0.5)]
    mine[0].grad = torch.ones_like(mine[0])
    for optimizer in optimizers:
        optimizer.step()
    assert [torch.equal(p, q) for p, q in zip(mine, start)] == [False, True, True]


@pytest.mark.parametrize("make", [AdamW, Muon])
def test_zero_grad_forgets_the_gradients_of_its_parameters_alone(make):
    """As torch's: None by default, so that a parameter without a new gradient is left out next time."""
    mine, others = twins((2, 2), (2, 2))
    give_gradients(0, mine, others)
    optimizer = make(mine, 0.1)
    optimizer.zero_grad()
    assert [p.grad for p in mine] == [None, None] and all(p.grad is not None for p in others)


@pytest.mark.parametrize("make", [lambda p: AdamW(p, 0.1), lambda p: Muon(p, 0.1)])
def test_a_restored_optimizer_continues_exactly(make):
    mine, copy = twins((4, 3), (3, 3))
    a = make(mine)
    for step in range(3):
        give_gradients(step, mine)
        a.step()
    b = make(copy)
    b.load_state_dict(a.state_dict())
    for p, q in zip(mine, copy):
        q.data.copy_(p.data)
    for step in range(3, 6):
        give_gradients(step, mine, copy)
        a.step()
        b.step()
    assert all(torch.equal(p, q) for p, q in zip(mine, copy))


@pytest.mark.parametrize("longest", [0.5, 1e9])
def test_clipping_is_that_of_torch(longest):
    mine, theirs = twins((3, 4), (5,), (6,))
    give_gradients(0, mine, theirs)
    mine[1].grad = theirs[1].grad = None
    want = torch.nn.utils.clip_grad_norm_(theirs, longest)
    torch.testing.assert_close(clip_gradients(mine, longest), want, rtol=1e-12, atol=0)
    for p, q in ((mine[0], theirs[0]), (mine[2], theirs[2])):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=0)   # torch adds 1e-6 to the norm
    if longest == 1e9:
        give_gradients(0, theirs)
        assert torch.equal(mine[0].grad, theirs[0].grad), "a short gradient is not touched"


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_that_would_stop_or_turn_the_model_is_refused(limit):
    (p,), _ = twins((2, 2))
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="give a limit above 0"):
        clip_gradients([p], limit)
    assert (p.grad == 1).all()


@pytest.mark.parametrize("make", [AdamW, Muon, SGD])
@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_a_learning_rate_that_cannot_train_is_refused(make, lr):
    with pytest.raises(ValueError, match=f"a learning rate of {lr} cannot train"):
        make(twins((2, 2))[0], lr)


def test_nothing_to_clip_has_length_zero():
    assert clip_gradients([], 1.0) == clip_gradients([nn.Parameter(torch.zeros(2))], 1.0) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_length_of_a_gradient_that_is_not_finite_is_not_finite(bad):
    (p,), _ = twins((3,))
    p.grad = torch.tensor([1.0, bad, 0.0], dtype=torch.float64)
    assert not torch.isfinite(clip_gradients([p], 1.0))


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (2, 3, 5)])
def test_orthogonalize_keeps_singular_vectors_and_maps_the_values(shape):
    G = torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    s = S / (S.square().sum(-1, keepdim=True).sqrt() + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalize(G), U @ (s[..., None] * Vh), rtol=1e-9, atol=1e-10)


def test_orthogonalize_brings_singular_values_near_one():
    G = torch.randn(32, 64, generator=torch.Generator().manual_seed(4))
    for scale in (1e-3, 1.0, 1e3):
        S = torch.linalg.svdvals(orthogonalize(scale * G))
        assert 0.6 < S.min() and S.max() < 1.3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("shape", [(16, 16), (24, 8), (8, 24)])
def test_muon_takes_the_steps_of_torch(shape):
    """torch iterates in bfloat16, and its momentum differs by a factor that the normalization removes."""
    start = torch.randn(*shape, generator=torch.Generator().manual_seed(5))
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    a = Muon([mine], lr=0.1, momentum=0.9, weight_decay=0.1)
    b = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=0.1, adjust_lr_fn="original")
    for step in range(4):
        mine.grad = torch.randn(*shape, generator=torch.Generator().manual_seed(step))
        theirs.grad = mine.grad.clone()
        a.step()
        b.step()
    moved, want = mine.detach() - start, theirs.detach() - start
    assert (moved - want).norm() < 0.03 * want.norm()


def test_muon_takes_hundreds_of_steps_of_its_definition_by_svd():
    """Nesterov momentum, then the polynomial on the singular values themselves, in float64, step by step."""
    shapes = [(6, 6), (9, 4), (4, 9), (9, 4)]
    mine, theirs = twins(*shapes)
    muon = Muon(mine, lr=0.02, momentum=0.95, weight_decay=0.1)
    buffers = [torch.zeros_like(p) for p in theirs]
    for step in range(200):
        give_gradients(step, mine)
        scale = 1 - step / 250
        muon.step(scale)
        for p, q, b in zip(mine, theirs, buffers):
            b.copy_(0.95 * b + p.grad)
            U, S, Vh = torch.linalg.svd(p.grad + 0.95 * b, full_matrices=False)
            s = S / (S.norm() + 1e-7)
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            stretch = max(1.0, q.shape[0] / q.shape[1]) ** 0.5
            q.data = q.data * (1 - 0.02 * scale * 0.1) - 0.02 * scale * stretch * (U * s) @ Vh
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_muon_moves_matrices_of_one_shape_independently():
    both, alone = twins((4, 6), (4, 6))
    give_gradients(0, both, alone)
    Muon(both, 0.1).step()
    for p in alone:
        Muon([p], 0.1).step()
    torch.testing.assert_close(both, alone, rtol=1e-12, atol=1e-14)


def test_muon_refuses_what_is_not_a_matrix():
    with pytest.raises(ValueError, match="AdamW"):
        Muon([nn.Parameter(torch.zeros(3))], 0.1)


def test_every_weight_of_a_model_has_exactly_one_optimizer():
    config = Config(vocab_size=16, d_model=8, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=8, max_len=8)
    model = Transformer(config)
    muon, adamw = muon_and_adamw(model, 0.02, 0.004)
    ids = [id(p) for p in muon.parameters + adamw.parameters]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert id(model.model.embed_tokens.weight) in {id(p) for p in adamw.parameters}
    assert len(muon.parameters) == 2 * 7 and all(p.ndim == 2 for p in muon.parameters)


def test_warmup_rises_in_equal_parts_to_one():
    assert [warmup(i, 4) for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup(0, 0) == 1.0


def test_cosine_begins_at_one_passes_the_middle_and_ends_at_the_floor():
    factors = [cosine(i, 25, 4, floor=0.1) for i in range(25)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert math.isclose(factors[14], 0.55) and math.isclose(factors[24], 0.1)
    assert all(a >= b for a, b in zip(factors[4:], factors[5:]))


@pytest.mark.parametrize("schedule", [cosine, constant_then_decay])
def test_the_rate_stays_at_the_floor_after_the_last_step(schedule):
    assert [schedule(i, 25, 4, floor=0.1) for i in range(25, 200)] == [0.1] * 175


def test_constant_then_decay_ends_one_step_above_nothing():
    factors = [constant_then_decay(i, 20, 2, decay=0.5, floor=0.02) for i in range(20)]
    assert factors[:11] == [0.5] + [1.0] * 10
    torch.testing.assert_close(factors[10:], [1 - k / 10 for k in range(10)])
    assert constant_then_decay(99, 100, 1, decay=1.0, floor=0.3) == 0.3
