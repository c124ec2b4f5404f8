"""The ladder of csrc/flash against torch in float64, within an error bound derived here, in every mode."""

import pytest
import torch

import kernels
from flash_rungs import BACKWARD, DETERMINISTIC, FORWARD, flash_backward, flash_forward, library
from test_csrc_attention import MODES, needs

LENGTHS = (1, 31, 64, 65, 129, 300)
HEADS = [(1, 2, 2), (2, 1, 1), (1, 4, 2), (1, 3, 1)]  # batch, query heads, key heads
RUNGS = {str(n): rung for n, rung in FORWARD.items() if 1 <= n <= 4}
RUNGS |= {"5": BACKWARD[5], "5 deterministic": DETERMINISTIC}

U = 2.0**-8  # bfloat16 keeps 8 bits: rounding x to nearest moves it by at most 2^-8 |x|
F = 2.0**-14  # room for fp32: sums of some hundred products, each off by 2^-24, and exp2 with 2^-22


def tensors(B: int, H: int, K: int, T: int, D: int, dtype: torch.dtype, mode: str) -> list:
    """q, k, v and the gradient of the output, normal random numbers rounded to dtype."""
    generator = torch.Generator().manual_seed(1000 * T + D + H)
    shapes = [(B, H, T, D), (B, K, T, D), (B, K, T, D), (B, H, T, D)]
    made = [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]
    return [x.cuda() for x in made] if mode == "gpu" else made


def wanted_and_bounds(q, k, v, d_o, causal: bool) -> dict:
    """{"O", "L", "dQ", "dK", "dV": (value in float64, how far off with bfloat16 in and out, fp32 between)}.

    The kernels round P before P V and P^T dO, dS before dS K and dS^T Q, and what they return. Each rounding
    moves a number by U of itself, and a product carries it on by the sizes of the other factor.
    """
    q, k, v, d_o = (x.detach().cpu().double() for x in (q, k, v, d_o))
    B, H, T, D = q.shape
    group, scale = H // k.shape[1], D**-0.5
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    S = q @ k.mT * scale
    if causal:
        S = S.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
    P, L = S.softmax(-1), S.logsumexp(-1)
    O = P @ v
    rounded = lambda x, off: off + U * (x.abs() + off)  # noqa: E731  the bound after one more rounding
    over_group = lambda x: x.view(B, H // group, group, T, D).sum(2)  # noqa: E731
    off_O = rounded(O, (U + F) * (P @ v.abs()))
    delta = (d_o * O).sum(-1, keepdim=True)
    off_delta = (d_o.abs() * off_O).sum(-1, keepdim=True) + F * (d_o * O).abs().sum(-1, keepdim=True)
    dS = P * (d_o @ v.mT - delta)
    off_dS = rounded(dS, P * (off_delta + F * (d_o.abs() @ v.abs().mT + delta.abs())))
    dV, off_dV = over_group(P.mT @ d_o), over_group((U + F) * (P.mT @ d_o.abs()))
    dQ, off_dQ = scale * dS @ k, scale * (off_dS + F * dS.abs()) @ k.abs()
    dK, off_dK = (over_group(scale * x.mT @ y) for x, y in ((dS, q), (off_dS + F * dS.abs(), q.abs())))
    bounds = {"O": (O, off_O), "L": (L, F * (1 + L.abs()))}
    return bounds | {n: (x, rounded(x, off)) for n, x, off in
                     (("dQ", dQ, off_dQ), ("dK", dK, off_dK), ("dV", dV, off_dV))}


def results(rung, q, k, v, d_o, causal: bool, mode: str) -> dict:
    """What one rung computes, by name; the backward rungs from the O and L of rung 4."""
    forward = rung if rung in FORWARD.values() else FORWARD[5]
    D = q.shape[-1]
    o, lse = flash_forward(library(forward, D, mode), q, k, v, causal)
    if rung is forward:
        return {"O": o, "L": lse}
    return dict(zip(("dQ", "dK", "dV"), flash_backward(library(rung, D, mode), q, k, v, o, lse, d_o, causal)))


def hold(rung, heads: tuple, T: int, D: int, causal: bool, mode: str) -> None:
    """Assert that each number of each result of a rung lies within its bound."""
    given = tensors(*heads, T, D, rung.dtype, mode)
    bounds = wanted_and_bounds(*given, causal)
    for name, got in results(rung, *given, causal, mode).items():
        wanted, bound = bounds[name]
        if rung.dtype == torch.float32:
            torch.testing.assert_close(got.cpu().double(), wanted, atol=1e-5, rtol=1e-5)
        excess = (got.cpu().double() - wanted).abs() - bound - 1e-30
        where = f"{name}, {heads}, T {T}, D {D}, causal {causal}"
        assert excess.max() <= 0, f"{where}: past its bound by {excess.max():.2g}"


# Here the narrow heads, and a ragged shape of wide ones for the rungs that are used;
# tests/slow/test_flash_shapes.py has them all.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_stays_within_the_error_bound_of_its_numbers(name, mode):
    for i, T in enumerate(LENGTHS if mode != "check" else LENGTHS[:-1]):
        for causal in (False, True):
            hold(RUNGS[name], HEADS[i % len(HEADS)], T, 32, causal, mode)
    if mode != "check" and name in ("1", "4", "5"):
        hold(RUNGS[name], (1, 2, 1), 129, 64, True, mode)
        hold(RUNGS[name], (1, 2, 1), 65, 128, True, mode)


@needs("cpu")
def test_the_bound_is_not_loose():
    """An error in one score of 64 x 64, or truncating P instead of rounding it, leaves the bound."""
    q, k, v, d_o = tensors(1, 1, 1, 64, 32, torch.bfloat16, "fast")
    wanted, bound = wanted_and_bounds(q, k, v, d_o, False)["O"]
    P = (q.double() @ k.double().mT * 32**-0.5).softmax(-1)
    exact = lambda P: (P @ v.double() - wanted).abs() - bound  # noqa: E731
    assert exact(P).max() < 0
    hidden = P.clone()
    hidden[..., 5, 6] = 0
    assert exact(hidden).max() > 0
    truncated = (P.float().view(torch.int32) & -0x10000).view(torch.float32).double()
    assert exact(truncated).max() > -bound.max() and (truncated < P).all()
    assert exact(P * (1 - 3 * U)).max() > 0


@pytest.mark.parametrize("mode", MODES)
def test_large_scores_do_no_harm_in_bfloat16(mode):
    """Scores of some hundreds: exp would overflow, and most of a row's weights are 0."""
    q, k, v, d_o = (8 * x for x in tensors(1, 2, 1, 70, 32, torch.bfloat16, mode))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    o = kernels.flash_attention(*leaves, mode=mode)
    bounds = wanted_and_bounds(q, k, v, d_o, True)
    for name, got in zip(("O", "dQ", "dK", "dV"), (o, *torch.autograd.grad(o, leaves, d_o))):
        wanted, bound = bounds[name]
        # exp2 of a score s off by 2^-24 |s|: 1000 times more than above
        assert ((got.detach().cpu().double() - wanted).abs() <= 2 * bound + 2e-2).all(), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_keys_past_the_end_add_nothing_however_small_all_scores_are(deterministic, mode):
    """Scores near -140: past the end K is zeros, its score 0, exp(0 - L) infinite, and that times 0 NaN."""
    q, k, v, d_o = tensors(1, 1, 1, 33, 32, torch.bfloat16, mode)
    leaves = [x.requires_grad_() for x in (5 + q / 8, k / 8 - 5, v)]
    o = kernels.flash_attention(*leaves, causal=False, mode=mode, deterministic=deterministic)
    bounds = wanted_and_bounds(*leaves, d_o, False)
    assert bounds["L"][0].max() < -100
    for name, got in zip(("O", "dQ", "dK", "dV"), (o, *torch.autograd.grad(o, leaves, d_o))):
        wanted, bound = bounds[name]
        assert ((got.detach().cpu().double() - wanted).abs() <= 2 * bound + 2e-2).all(), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype,rung", [(torch.float32, 0), (torch.float32, 1), (torch.bfloat16, 2),
                                        (torch.bfloat16, 3), (torch.bfloat16, 4), (torch.bfloat16, 5)])
def test_a_token_cannot_see_the_future_on_any_rung(dtype, rung, mode):
    q, k, v, _ = tensors(1, 2, 1, 100, 32, dtype, mode)
    before = kernels.flash_attention(q, k, v, mode=mode, rung=rung)
    k[:, :, 70:], v[:, :, 70:] = 9.0, 1000.0
    after = kernels.flash_attention(q, k, v, mode=mode, rung=rung)
    assert torch.equal(before[:, :, :70], after[:, :, :70])
    assert not torch.equal(before[:, :, 70:], after[:, :, 70:])


@pytest.mark.parametrize("mode", [MODES[0], MODES[2]])
@pytest.mark.parametrize("D", [16, 40, 96])
def test_head_widths_between_those_that_are_compiled_are_filled_up_with_zeros(D, mode):
    q, k, v, d_o = tensors(1, 2, 1, 33, D, torch.bfloat16, mode)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    o = kernels.flash_attention(*leaves, mode=mode)
    bounds = wanted_and_bounds(q, k, v, d_o, True)
    for name, got in zip(("O", "dQ", "dK", "dV"), (o, *torch.autograd.grad(o, leaves, d_o))):
        wanted, bound = bounds[name]
        assert got.shape == wanted.shape, name
        assert ((got.detach().cpu().double() - wanted).abs() <= bound).all(), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_that_do_not_begin_at_a_multiple_of_16_bytes_work(dtype, mode):
    """A view into a larger buffer is contiguous and yet not aligned: 16-byte reads of it are an error."""
    given = tensors(1, 2, 2, 20, 32, dtype, mode)
    shifted = [torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) for x in given]
    assert all(x.is_contiguous() and x.data_ptr() % 16 for x in shifted)
    got, wanted = [], []
    for out, (q, k, v, d_o) in ((got, shifted), (wanted, given)):
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        o = kernels.flash_attention(*leaves, mode=mode)
        out += [o.detach(), *torch.autograd.grad(o, leaves, d_o)]
    assert all(torch.equal(a, b) for a, b in zip(got, wanted))


@pytest.mark.parametrize("mode", MODES)
def test_the_deterministic_gradient_is_computed_without_atomics_and_is_the_same_each_time(mode):
    q, k, v, d_o = tensors(1, 4, 1, 150, 32, torch.bfloat16, mode)
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def gradients(**how) -> tuple:
        return torch.autograd.grad(kernels.flash_attention(*leaves, mode=mode, **how), leaves, d_o)

    first, second = gradients(deterministic=True), gradients(deterministic=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    torch.use_deterministic_algorithms(True)
    try:
        assert all(torch.equal(a, b) for a, b in zip(first, gradients()))
    finally:
        torch.use_deterministic_algorithms(False)
    if mode == "check":
        assert library(DETERMINISTIC, 32, mode).counts()["global_atomic"] == 0
        gradients(deterministic=False)
        assert library(BACKWARD[5], 32, mode).counts()["global_atomic"] > 0


def test_a_second_derivative_is_refused():
    q = torch.randn(1, 1, 4, 32, requires_grad=True)
    with pytest.raises(NotImplementedError, match="no second derivative: use attention_torch"):
        torch.autograd.grad(kernels.flash_attention(q, q, q).sum(), q, create_graph=True)


@pytest.mark.parametrize("shape,dtype,rung,sentence", [
    ((65536, 1, 1, 32), torch.bfloat16, None, "65536 x 1 heads: a GPU has at most 65,535 blocks in y: split"),
    ((64, 16, 16400, 128), torch.bfloat16, None, "the kernels count up to 2,147,483,647: split the batch"),
    ((1, 1, 8, 32), torch.float16, None, "call .float\\(\\) or .bfloat16\\(\\)"),
    ((1, 1, 8, 32), torch.float32, 4, "rung 4 computes in torch.bfloat16, .* choose rung 0 or 1"),
    ((1, 1, 8, 32), torch.bfloat16, 1, "rung 1 computes in torch.float32, .* choose rung 2 or 3 or 4 or 5"),
    ((1, 1, 8, 32), torch.bfloat16, 7, "there is no rung 7: choose one of 0 to 5"),
    ((1, 1, 8, 136), torch.bfloat16, None, "multiples of 8 from 16 to 128"),
])
def test_what_no_rung_takes_is_refused_before_the_launch(shape, dtype, rung, sentence):
    q = torch.empty(shape, dtype=dtype, device="meta")  # a shape without memory
    with pytest.raises(ValueError, match=sentence):
        kernels.flash_attention(q, q, q, rung=rung)


def test_another_device_gets_a_sentence():
    assert kernels.why_not("mps") == "the kernels run on CUDA devices and emulated on the CPU, not on mps"
