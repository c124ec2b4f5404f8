"""The exercises of csrc, in check mode: a fault of the kernel is a failed test, with the sentence."""

import pytest
import torch

import attention_traffic as traffic
import kernels
from kernel_ladder import ladder, matmul, online_softmax, reduction, transpose, vector_add

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")


def checked(kernel, *args, **options):
    """Call a kernel; a fault becomes a failed assertion with the checker's sentence."""
    try:
        return kernel(*args, **options)
    except kernels.KernelFault as fault:
        raise AssertionError(f"the checker stopped the kernel: {fault}") from None


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def same(got: torch.Tensor, wanted: torch.Tensor, given: str, mistake: str) -> None:
    """Assert closeness with one readable sentence: where, got, wanted, and the likely mistake."""
    wanted = wanted.to(torch.float64)
    error = (got.double() - wanted).abs().nan_to_num(float("inf"))
    if error.max() > 1e-5 + 1e-5 * wanted.abs().max():
        at = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)]
        raise AssertionError(f"given {given}: element {at} is {got[tuple(at)].item():.6g}, wanted "
                             f"{wanted[tuple(at)].item():.6g}: {mistake}")


@pytest.mark.ex("c.1")
@pytest.mark.parametrize("n", [1, 128, 300])
def test_vector_add_adds_every_element(n):
    """every element of z is the sum of its two"""
    x, y = normal(n), normal(n).flip(0)
    same(checked(vector_add, x, y), x.double() + y.double(), f"{n} elements in blocks of 128",
         "is the element's number block * size + thread?")


@pytest.mark.ex("c.1")
def test_vector_add_moves_twelve_bytes_an_element():
    """each element is read once, and written once, by one thread"""
    checked(vector_add, normal(300), normal(300))
    counts = ladder("vector_add").counts()
    got = counts["global_read"], counts["global_write"]
    assert got == (2400, 1200), (f"given 300 elements: {got[0]} bytes read and {got[1]} written, wanted 2400 "
                                 "and 1200: how many threads work on each?")


@pytest.mark.ex("c.2")
@pytest.mark.parametrize("n", [1, 256, 1000])
def test_reduction_sums_each_block(n):
    """each block leaves the sum of its 256 numbers"""
    x = normal(n)
    padded = torch.cat([x.double(), torch.zeros(-n % 256)]).view(-1, 256)
    same(checked(reduction, x), padded.sum(1), f"{n} numbers",
         "does every level halve what is left, down to one?")


@pytest.mark.ex("c.2")
def test_reduction_meets_at_barriers_in_every_order(monkeypatch):
    """the sum is the same whichever thread runs first"""
    x = normal(512)
    for seed in ("1", "2"):
        monkeypatch.setenv("EMU_ORDER", seed)
        same(checked(reduction, x), x.double().view(2, 256).sum(1), f"threads in shuffled order {seed}",
             "who waits for whom at each level?")


@pytest.mark.ex("c.3")
@pytest.mark.parametrize("rows,cols", [(32, 32), (1, 40), (50, 70)])
def test_transpose_turns_rows_into_columns(rows, cols):
    """y[c][r] is x[r][c], for any shape"""
    x = normal(rows, cols)
    same(checked(transpose, x), x.T, f"x of shape {(rows, cols)}",
         "y has shape (cols, rows): which length has its row?")


@pytest.mark.ex("c.3")
def test_transpose_is_coalesced_and_free_of_conflicts():
    """neighbouring threads write neighbouring addresses, and read different banks"""
    checked(transpose, normal(64, 64), profile=True)
    for (_, line, space, access), (requests, cost, least) in ladder("transpose").profile().items():
        assert cost == least, (f"transpose.cu:{line}: a warp's {access} of {space} memory costs "
                               f"{cost / requests:.0f} {'passes' if space == 'shared' else 'sectors'}, "
                               f"wanted {least / requests:.0f}: let threadIdx.x run along a row of y")


@pytest.mark.ex("c.4")
@pytest.mark.parametrize("n,k,m", [(16, 32, 16), (1, 1, 1), (20, 50, 35)])
def test_matmul_multiplies_matrices_of_any_shape(n, k, m):
    """C is A B, also where tiles stick out"""
    A, B = normal(n, k), normal(k, m)
    same(checked(matmul, A, B), A.double() @ B.double(), f"A {(n, k)}, B {(k, m)}",
         "which rows and columns does a tile hold, and with what is it filled past the end?")


@pytest.mark.ex("c.4")
def test_matmul_fetches_each_number_once_per_tile():
    """global memory is read once per tile, not once per product"""
    checked(matmul, normal(48, 32), normal(32, 64))
    got, wanted = ladder("matmul").counts()["global_read"], 4 * (4 * 48 * 32 + 3 * 32 * 64)
    assert got == wanted, (f"given A (48, 32), B (32, 64), tiles of 16: {got} bytes read, wanted {wanted}: "
                           "read products from the shared tiles")


@pytest.mark.ex("c.5")
@pytest.mark.parametrize("n", [1, 5, 32, 100])
def test_softmax_rows_sum_to_one(n):
    """each row is the softmax, also when it is shorter than a warp"""
    x = normal(6, n) * 3
    same(checked(online_softmax, x), x.double().softmax(-1), f"6 rows of {n}",
         "is every sum rescaled when the maximum grows, also between lanes?")


@pytest.mark.ex("c.5")
def test_softmax_of_large_numbers_does_not_overflow():
    """adding 500 to a row changes nothing"""
    x = torch.arange(70.0).view(1, 70) / 7 + 500
    same(checked(online_softmax, x), x.double().softmax(-1), "numbers from 500 to 510",
         "subtract the maximum before exp")


@pytest.mark.ex("c.5")
def test_softmax_reads_its_row_twice():
    """the maximum and the sum are found in one pass"""
    checked(online_softmax, normal(4, 96))
    got = ladder("online_softmax").counts()["global_read"]
    assert got == 2 * 4 * 4 * 96, (
        f"given 4 rows of 96: {got} bytes read, wanted 3072: once for maximum and sum, once to divide")


def attention(T: int, causal: bool, H: int = 2, K: int = 1, scale: float = 1.0) -> tuple:
    """Our output, log-sum-exp and gradients, and torch's in float64, for head width 16."""
    q, k, v, d_o = (scale * normal(1, heads, T, 16 + i)[..., :16].contiguous()
                    for i, heads in enumerate((H, K, K, H)))
    lib = traffic.flash_library(16)
    o, lse = checked(kernels.flash_forward, lib, q, k, v, causal)
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    group = H // K
    scores = leaves[0] @ leaves[1].repeat_interleave(group, 1).mT / 4
    if causal:
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
    wanted = scores.softmax(-1) @ leaves[2].repeat_interleave(group, 1)
    return (lib, (q, k, v, o, lse, d_o), wanted.detach(), scores.logsumexp(-1).detach(),
            torch.autograd.grad(wanted, leaves, d_o.double()))


@pytest.mark.ex("c.6")
@pytest.mark.parametrize("T,causal", [(1, True), (70, True), (70, False)])
def test_flash_output_is_that_of_attention(T, causal):
    """the tiles together give softmax(Q K^T) V"""
    _, (_, _, _, o, _, _), wanted, _, _ = attention(T, causal)
    same(o, wanted, f"T = {T}, causal {causal}", "mask, scale, and rescale l and O by alpha when m grows")


@pytest.mark.ex("c.6")
def test_flash_keeps_the_log_sum_exp():
    """m + log l is the log-sum-exp of the row, also for large scores"""
    _, (_, _, _, _, lse, _), _, wanted, _ = attention(70, False, scale=5.0)
    same(lse, wanted, "scores up to some hundreds",
         "is l the sum of exp(s - m) for the last m, over all lanes?")


@pytest.mark.ex("c.6")
def test_a_flash_row_cannot_see_the_future():
    """changing later tokens leaves earlier outputs as they were"""
    q, k, v = normal(1, 1, 70, 16), normal(1, 1, 70, 16), normal(1, 1, 70, 16)
    lib = traffic.flash_library(16)
    before, _ = checked(kernels.flash_forward, lib, q, k, v, True)
    k[:, :, 50:], v[:, :, 50:] = 3.0, 100.0
    after, _ = checked(kernels.flash_forward, lib, q, k, v, True)
    moved = (before - after).abs()[0, 0].amax(-1)
    assert moved[:50].max() == 0, (f"changed keys from 50 on: output {int(moved[:50].argmax())} moved by "
                                   f"{moved[:50].max():.3g}, wanted 0: which keys does a row keep?")
    assert moved[50:].min() > 0, (f"changed keys from 50 on: output {50 + int(moved[50:].argmin())} moved by "
                                  f"{moved[50:].min():.3g}, wanted more than 0: a token sees itself")


@pytest.mark.ex("c.7")
@pytest.mark.parametrize("T,causal", [(1, True), (40, True), (40, False)])
def test_flash_gradients_are_those_of_attention(T, causal):
    """dQ, dK and dV equal those of torch in float64"""
    lib, saved, _, _, wanted = attention(T, causal)
    for name, got, want in zip(("dQ", "dK", "dV"), checked(kernels.flash_backward, lib, *saved, causal),
                               wanted):
        same(got, want, f"T = {T}, causal {causal}, {name}",
             "P = exp(scale S - L), dS = P (dO V^T - delta) scale")


@pytest.mark.ex("c.7")
def test_a_constant_gradient_of_equal_values_changes_no_score():
    """where all values are equal, no weight matters: dQ and dK are zero"""
    lib, (q, k, _, _, _, d_o), _, _, _ = attention(40, False)
    v = torch.ones_like(k)
    o, lse = checked(kernels.flash_forward, lib, q, k, v, False)
    dq, dk, _ = checked(kernels.flash_backward, lib, q, k, v, o, lse, d_o, False)
    for name, got in (("dQ", dq), ("dK", dk)):
        same(got, torch.zeros_like(got), f"V all ones, {name}",
             "dS is P (dP - delta), and here dP equals delta")
