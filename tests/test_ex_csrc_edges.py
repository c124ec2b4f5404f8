"""The exercises of csrc at their edges: many blocks, ragged tiles, scores and values of any size.

Adds to test_ex_csrc.py and test_ex_csrc_flash.py. A limit inside an exponential (exp(max(x, -20))) is seen
where a value of a million stands behind a weight that is nearly zero.
"""

from pathlib import Path

import pytest
import torch

import attention_traffic as traffic
import kernels
from cuda_library import CudaLibrary
from flash_rungs import FORWARD, HERE, flash_forward, library
from kernel_ladder import matmul, online_softmax, reduction, transpose, vector_add
from test_ex_csrc import checked, normal, same
from test_ex_csrc_flash import attention as bf16_attention, forward, near, places

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")


def exactly(got: torch.Tensor, wanted: torch.Tensor, given: str, mistake: str) -> None:
    """Assert equality to the last bit, with one readable sentence."""
    if not torch.equal(got, wanted):
        at = (got != wanted).nonzero()[0].tolist()
        raise AssertionError(f"given {given}: element {at} is {got[tuple(at)].item():.9g}, wanted "
                             f"{wanted[tuple(at)].item():.9g}: {mistake}")


@pytest.mark.ex("c.1")
def test_vector_add_of_many_large_and_infinite_numbers():
    """70,001 elements, sums of all sizes, to the last bit"""
    x = normal(70001) * 10.0 ** (torch.arange(70001) % 60 - 30)
    x[5], x[6], x[7] = float("inf"), -float("inf"), 3e38
    y = x.flip(0) + 1
    y[7] = 3e38
    exactly(checked(vector_add, x, y), x + y, "70,001 elements from 1e-30 to infinity",
            "z is x + y and nothing else")


@pytest.mark.ex("c.2")
def test_reduction_of_many_blocks_and_large_numbers():
    """290 blocks of whole numbers up to a million of both signs, exactly; infinity stays infinity"""
    x = (normal(74100) * 3e5).round()
    x[::3] = -x[::3].abs()
    wanted = torch.cat([x.double(), torch.zeros(-74100 % 256)]).view(-1, 256).sum(1)
    same(checked(reduction, x), wanted, "74,100 numbers of hundreds of thousands",
         "each block alike, no limits")
    x = torch.zeros(300)
    x[130], x[270] = float("inf"), -1e30
    exactly(checked(reduction, x), torch.tensor([float("inf"), -1e30]),
            "infinity in block 0, -1e30 in block 1", "the tree only adds")


@pytest.mark.ex("c.3")
@pytest.mark.parametrize("rows,cols", [(33, 65), (1, 33), (70, 1001), (65, 1)])
def test_transpose_moves_every_number_as_it_is(rows, cols):
    """last tiles of one row or column, 70,070 numbers, and numbers of all sizes"""
    x = normal(rows, cols) * 10.0 ** (torch.arange(rows * cols).view(rows, cols) % 70 - 35)
    exactly(checked(transpose, x), x.T.contiguous(), f"x of shape {(rows, cols)}, numbers from 1e-35 to 1e34",
            "which threads of the last tiles have something to write?")


@pytest.mark.ex("c.4")
@pytest.mark.parametrize("n,k,m", [(1, 17, 33), (17, 145, 1), (33, 16, 17)])
def test_matmul_of_whole_numbers_is_exact(n, k, m):
    """one row, one column, k just past a tile, and sums of some millions: exactly"""
    A, B = (normal(n, k) * 200).round(), (normal(k, m) * 200).round()
    A[:, -1] = 1000.0
    exactly(checked(matmul, A, B), A @ B, f"A {(n, k)}, B {(k, m)} of whole numbers",
            "all of k counts, without limits")


@pytest.mark.ex("c.5")
def test_softmax_of_rows_far_below_zero():
    """all numbers of a row at -300, at -20,000, at 20,000"""
    x = torch.arange(40.0).view(1, 40).repeat(3, 1) / 8 + torch.tensor([[-300.0], [-20000.0], [20000.0]])
    same(checked(online_softmax, x), x.double().softmax(-1), "rows near -300, -20,000 and 20,000",
         "m begins at minus infinity: a row has no other floor")


@pytest.mark.ex("c.5")
@pytest.mark.parametrize("last", [60.0, -60.0])
def test_softmax_of_a_long_row_with_one_number_far_away(last):
    """66,000 numbers beside one that is 60 larger, or smaller: what is nearly zero stays nearly zero"""
    x = torch.zeros(1, 66000)
    x[0, -1], x[0, 0] = last, -last
    got = checked(online_softmax, x).max().item()  # 2,062 zeros a lane: at e^-20 each they would be 4e-6
    assert abs(got - 1) < 1e-6, (
        f"given 66,000 zeros, the first {-last}, the last {last}: the largest weight is {got:.9g}, wanted 1: "
        "no limit inside exp, neither where the sum is rescaled nor where lanes meet")


def one_far(T: int, D: int, far: float, at: int, value: float, width: float) -> tuple:
    """q, k, v of a head: scores are 0 with all keys and `far` with key `at`; the others' is large."""
    q, k, v = torch.zeros(1, 1, T, D), torch.zeros(1, 1, T, D), torch.full((1, 1, T, D), value)
    q[..., 0], k[..., at, 0], v[..., at, :] = 4.0, far * width**0.5 / 4, 1.0
    return q, k, v


FAR = [(40.0, 0, 1e6), (40.0, 69, 1e6), (200.0, 69, 1e36)]


@pytest.mark.ex("c.6")
@pytest.mark.parametrize("far,at,value", FAR)
def test_weights_that_are_nearly_zero_count_for_nearly_nothing(far, at, value):
    """values of a million, or 10^36, behind weights of e^-40, or e^-200, before and after the maximum"""
    q, k, v = one_far(70, 16, far, at, value, 16)
    o, _ = checked(kernels.flash_forward, traffic.flash_library(16), q, k, v, False)
    same(o, torch.ones_like(o),
         f"a score of {far} with key {at}, 0 with the others, whose values are {value:g}",
         "no limit inside exp, neither for p nor for alpha")


@pytest.mark.ex("c.6")
def test_scores_far_below_zero_under_a_mask():
    """all scores near -32,000, causal, two batch rows, 130 tokens, a scale of 0.5: what is masked is lower"""
    q, k, v = torch.full((2, 2, 130, 16), -64.0), torch.full((2, 1, 130, 16), 64.0), normal(2, 1, 130, 16)
    k[..., 0] += torch.arange(130) % 7 / 16                     # scores of exactly -32768, -32770, ...
    o, lse = checked(kernels.flash_forward, traffic.flash_library(16), q, k, v, True, scale=0.5)
    scores = (q.double() @ k.double().mT / 2).masked_fill(torch.ones(130, 130).triu(1).bool(), float("-inf"))
    wanted = scores.softmax(-1) @ v.double()
    same(o, wanted, "scores near -32,768, causal", "minus infinity is the only floor, `scale` the scale")
    same(lse, scores.logsumexp(-1), "scores near -32,768, the log-sum-exp", "m + log l")


@pytest.mark.ex("c.7")
def test_gradients_of_several_tiles_and_batch_rows():
    """two batch rows, 100 tokens, gradients of thousands, a scale of 0.3"""
    q, k, v = normal(2, 2, 100, 16), normal(2, 1, 100, 16), normal(2, 1, 100, 17)[..., :16].contiguous()
    d_o, lib = 3000 * normal(2, 2, 100, 16).flip(2), traffic.flash_library(16)
    o, lse = checked(kernels.flash_forward, lib, q, k, v, True, scale=0.3)
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    hidden = torch.ones(100, 100).triu(1).bool()
    scores = (leaves[0] @ leaves[1].mT * 0.3).masked_fill(hidden, float("-inf"))
    wanted = torch.autograd.grad(scores.softmax(-1) @ leaves[2], leaves, d_o.double())
    gradients = checked(kernels.flash_backward, lib, q, k, v, o, lse, d_o, True, scale=0.3)
    for name, got, want in zip(("dQ", "dK", "dV"), gradients, wanted):
        same(got, want, f"B 2, T 100, gradients of thousands: {name}", "which head, which row, which key?")


@pytest.mark.ex("c.7")
@pytest.mark.parametrize("far,large", [(40.0, 1e6), (200.0, 1e36)])
def test_a_key_without_weight_gets_no_gradient(far, large):
    """weights of e^-40 under gradients of a million, of e^-200 under 10^36"""
    q, k, v = one_far(40, 16, far, 39, 1.0, 16)
    lib, d_o = traffic.flash_library(16), torch.full((1, 1, 40, 16), large)
    o, lse = checked(kernels.flash_forward, lib, q, k, v, False)
    _, _, dv = checked(kernels.flash_backward, lib, q, k, v, o, lse, d_o, False)
    same(dv[:, :, :39], torch.zeros(1, 1, 39, 16), f"scores {far} below the largest, dO = {large:g}: dV",
         "P = exp(scale S - L), without a limit")


@pytest.mark.ex("c.8")
def test_scores_of_wide_heads_and_many_keys():
    """a head of 64 numbers is four steps, and 40 keys are five tiles of 8"""
    q, k, v = (torch.randn(1, 1, 40, 64).bfloat16() for _ in range(3))
    o, _ = checked(flash_forward, library(FORWARD[2], 64, "check"), q, k, v, False)
    near(o, (q.double() @ k.double().mT / 8).softmax(-1) @ v.double(), "head width 64, T = 40",
         "d counts 16 columns at a time, n 8 keys")


@pytest.mark.ex("c.8")
@pytest.mark.parametrize("T", [1, 17, 130])
def test_scores_of_one_token_and_of_several_tiles(T):
    """one token, one past a tile, and three tiles of keys; scores of some hundreds"""
    o, wanted, lse, sums, _ = bf16_attention(2, T, True, scale=5.0)
    near(o, wanted, f"T = {T}, scores of some hundreds", "each product is added once")
    near(lse, sums, f"T = {T}, scores of some hundreds: the log-sum-exp", "each product is added once", 1e-4)


@pytest.mark.ex("c.9")
def test_numbers_of_any_size_and_sign_are_packed_as_they_are():
    """from 1e-30 to 1e30 and both signs: each becomes the nearest bfloat16, in its place"""
    left, right = (normal(32, 4 + i)[:, :4].contiguous() * 10.0 ** (torch.arange(128).view(32, 4) % 61 - 30)
                   for i in range(2))
    packed = torch.zeros(32, 4, dtype=torch.int32)
    lib = CudaLibrary(Path(__file__).parent / "fragment_probe.cu", "fast",
                      (f"-I{HERE / 'flash'}", "-DHEAD_WIDTH=32"))
    checked(lib.call, "fragments", left=left, right=right, out_packed=packed)
    wanted = torch.cat([left, right], 1).bfloat16().view(torch.int32)
    exactly(packed, wanted, "numbers from 1e-30 to 1e30", "pack(first, second), four times, and nothing else")


@pytest.mark.ex("c.10")
def test_without_swizzle_the_pieces_lie_in_order():
    """SWIZZLE 0: piece c of row r at 8 c, in every row"""
    for width in (32, 64):
        table = places(width, ("-DSWIZZLE=0",))
        rows = torch.arange(64)[:, None] * width
        exactly(table, (rows + torch.arange(0, width, 8)).int(), f"SWIZZLE 0, width {width}",
                "then nothing is reordered")


@pytest.mark.ex("c.10")
@pytest.mark.parametrize("width", [32, 64, 128])
def test_every_eight_rows_of_a_tall_tile_are_reordered(width):
    """64 rows: any aligned 8 rows, any piece, 8 bank columns; and as in the worked example"""
    table = places(width)
    for first in range(0, 64, 8):
        for c in range(width // 8):
            columns = {place % 64 // 8 for place in table[first:first + 8, c].tolist()}
            assert len(columns) == 8, (f"width {width}: piece {c} of rows {first} to {first + 7} lies in the "
                                       f"bank columns {sorted(columns)}, wanted 8 different ones")


@pytest.mark.ex("c.11")
@pytest.mark.parametrize("T,causal", [(1, True), (64, False), (129, True), (320, False)])
def test_pipelines_of_one_tile_and_of_five(T, causal):
    """no next tile at all, one row of a next tile, five tiles"""
    o, wanted, lse, sums, _ = bf16_attention(4, T, causal)
    near(o, wanted, f"T = {T}, causal {causal}",
         "each tile of keys is copied once, and only those that there are")
    near(lse, sums, f"T = {T}, causal {causal}: the log-sum-exp", "each tile counts once", 1e-4)


@pytest.mark.ex("c.12")
@pytest.mark.parametrize("far,at,value", FAR)
def test_powers_of_two_that_are_nearly_zero(far, at, value):
    """values of a million, or 10^36, behind weights that are nearly zero, before and after the maximum"""
    q, k, v = (x.bfloat16() for x in one_far(70, 32, far, at, value, 32))
    o, *_ = forward(4, q, k, v, False)
    near(o, torch.ones(1, 1, 70, 32).double(),
         f"a score of {far} with key {at}, 0 with the others, whose values are {value:g}",
         "no limit inside exp2, neither for a weight nor for alpha")


@pytest.mark.ex("c.12")
def test_unscaled_scores_far_below_zero():
    """all unscaled scores near -131,000, causal, 70 tokens, a scale of 0.25"""
    q, k = torch.full((1, 1, 70, 32), -64.0), torch.full((1, 1, 70, 32), 64.0)
    k[..., 0] += torch.arange(70) % 3 / 2
    q, k, v = q.bfloat16(), k.bfloat16(), torch.randn(1, 1, 70, 32).bfloat16()
    o, _ = checked(flash_forward, library(FORWARD[4], 32, "check"), q, k, v, True, scale=0.25)
    hidden = torch.ones(70, 70).triu(1).bool()
    wanted = (q.double() @ k.double().mT * 0.25).masked_fill(hidden, float("-inf")).softmax(-1) @ v.double()
    near(o, wanted, "unscaled scores near -131,000", "minus infinity is the only floor")
