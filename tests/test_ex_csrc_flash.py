"""The exercises of csrc/flash, in check mode: a fault of a kernel is a failed test, with the sentence."""

from pathlib import Path

import pytest
import torch

import kernels
from cuda_library import CudaLibrary
from flash_rungs import FORWARD, HERE, flash_forward, library
from test_ex_csrc import checked

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
D = 32


def bf16(*shape: int) -> torch.Tensor:
    """Normal random numbers in bfloat16."""
    return torch.randn(*shape).bfloat16()


def forward(rung: int, q, k, v, causal: bool) -> tuple:
    """O, L and the counts of one rung, watched."""
    lib = library(FORWARD[rung], D, "check")
    o, lse = checked(flash_forward, lib, q, k, v, causal)
    return o, lse, lib.counts()


def near(got: torch.Tensor, wanted: torch.Tensor, given: str, mistake: str, bound: float = 2**-6) -> None:
    """Assert closeness with one readable sentence: where, got, wanted, and the likely mistake."""
    off = (got.double() - wanted).abs().nan_to_num(float("inf"))
    if off.max() > bound * (1 + wanted.abs().max()):
        at = tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape))
        raise AssertionError(f"given {given}: element {list(at)} is {got[at].item():.4g}, wanted "
                             f"{wanted[at].item():.4g}: {mistake}")


def attention(rung: int, T: int, causal: bool, scale: float = 1.0) -> tuple:
    """(O, O in float64, L, L in float64, counts) of a rung for random numbers, two heads that share keys."""
    q, k, v = (scale * bf16(1, heads, T, D) for heads in (2, 1, 1))
    o, lse, counts = forward(rung, q, k, v, causal)
    scores = q.double() @ k.double().mT * D**-0.5
    if causal:
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
    return o, scores.softmax(-1) @ v.double(), lse, scores.logsumexp(-1), counts


@pytest.mark.ex("c.8")
@pytest.mark.parametrize("T,causal", [(16, False), (70, True)])
def test_scores_of_fragments_are_those_of_attention(T, causal):
    """the output is softmax(Q K^T) V, for full tiles and ragged ones"""
    o, wanted, *_ = attention(2, T, causal)
    near(o, wanted, f"T = {T}, causal {causal}", "which number of K has lane 4 g + t in b0, which in b1?")


@pytest.mark.ex("c.8")
def test_each_query_meets_the_key_that_it_points_at():
    """query i points at key 31 - i alone, and brings that key's value"""
    q, k = 100 * torch.eye(32).flip(0), torch.eye(32)
    v = torch.arange(32.0)[:, None].expand(32, D)
    o, *_ = forward(2, *(x.bfloat16().contiguous().view(1, 1, 32, D) for x in (q, k, v)), False)
    for i, got in enumerate(o[0, 0, :, 0].tolist()):
        assert abs(got - (31 - i)) < 0.1, (
            f"query {i} has its one large number in column {31 - i}, as key {31 - i} has: wanted that key's "
            f"value {31 - i}, got {got:.4g}: n runs over keys, k along a row of K")


@pytest.mark.ex("c.9")
def test_weights_keep_their_order_on_the_way_into_the_second_product():
    """where V is the identity, the output is P itself"""
    q, k = bf16(1, 1, 32, D), bf16(1, 1, 32, D)
    o, *_ = forward(2, q, k, torch.eye(32).bfloat16().view(1, 1, 32, D), False)
    P = (q.double() @ k.double().mT * D**-0.5).softmax(-1)
    near(o, P, "V = 1, so O = P", "rows g, g + 8, columns 2t, 2t + 8: which register holds which?", 2**-8)


@pytest.mark.ex("c.9")
@pytest.mark.parametrize("rung", [2, 4])
def test_a_sum_becomes_a_factor_on_every_rung(rung):
    """the output is softmax(Q K^T) V, 70 keys, causal"""
    o, wanted, *_ = attention(rung, 70, True)
    near(o, wanted, f"rung {rung}, T = 70", "two tiles C side by side are one tile A: left, right, up, down")


def places(width: int, flags: tuple = ()) -> torch.Tensor:
    """(64, width / 8): where each piece of a tile of 64 rows lies, in numbers from the tile's start."""
    table = torch.zeros(64, width // 8, dtype=torch.int32)
    probe = Path(__file__).parent / "swizzle_probe.cu"
    lib = CudaLibrary(probe, "fast", (f"-I{HERE / 'flash'}", f"-DHEAD_WIDTH={width}", *flags))
    checked(lib.call, "places", out_places=table)
    return table


@pytest.mark.ex("c.10")
@pytest.mark.parametrize("width", [32, 64, 128])
def test_every_piece_has_a_place_of_its_own_in_its_row(width):
    """a row's pieces are reordered within the row: none leaves it, none shares a place"""
    table = places(width)
    for r, row in enumerate(table.tolist()):
        wanted = list(range(r * width, (r + 1) * width, 8))
        assert sorted(row) == wanted, f"width {width}, row {r}: pieces at {row}, wanted {wanted} reordered"


@pytest.mark.ex("c.10")
@pytest.mark.parametrize("width", [32, 64, 128])
def test_the_same_piece_of_eight_rows_lies_in_eight_columns(width):
    """what one ldmatrix reads together lies in different banks"""
    table = places(width)
    for first, c in ((0, 0), (8, 1)):
        columns = [place % 64 // 8 for place in table[first : first + 8, c].tolist()]  # of lines of 128 bytes
        assert len(set(columns)) == 8, (
            f"width {width}: piece {c} of rows {first} to {first + 7} lies in the bank columns {columns}, "
            "wanted 8 different ones: let the row (if narrow, the line of 128 bytes) change the order")


@pytest.mark.ex("c.10")
def test_who_writes_and_who_reads_agree_on_the_swizzle():
    """the output is right, whatever the order"""
    o, wanted, *_ = attention(3, 70, True)
    near(o, wanted, "rung 3, T = 70", "does every piece keep its 8 numbers together?")


@pytest.mark.ex("c.11")
@pytest.mark.parametrize("causal", [False, True])
def test_no_tile_is_read_before_it_has_arrived_or_overwritten_while_it_is_read(causal):
    """the output is right, and the checker has nothing to say"""
    o, wanted, *_ = attention(4, 200, causal)
    near(o, wanted, f"T = 200, causal {causal}", "wait, meet, begin the next, commit: in which order?")


@pytest.mark.ex("c.11")
def test_the_next_tile_is_on_its_way_while_this_one_is_computed():
    """of 4 tiles of keys, 3 are computed during a copy"""
    counts = attention(4, 256, False)[-1]
    share = counts["mma_during_copies"] / counts["mma"]
    assert share == 0.75, (f"given T = 256, 4 tiles: {share:.0%} of the products run while a copy is on its "
                           "way, wanted 75%: begin the next copy before you compute, do not wait for it yet")


@pytest.mark.ex("c.11")
def test_a_tile_costs_one_barrier():
    """the block meets once per tile of keys"""
    got = attention(4, 256, False)[-1]["barriers"]
    assert got == 16, (f"given T = 256, 2 heads, 2 blocks, 4 tiles: {got} barriers, wanted 16: one meeting "
                       "both shows everybody the tile and frees the other stage")


@pytest.mark.ex("c.12")
@pytest.mark.parametrize("T,causal", [(40, False), (200, True)])
def test_output_in_powers_of_two_is_that_of_attention(T, causal):
    """the output is softmax(Q K^T) V, over one tile and over four"""
    o, wanted, *_ = attention(4, T, causal)
    near(o, wanted, f"T = {T}, causal {causal}", "2^(unit s - unit m), and rescale O and l when m grows")


@pytest.mark.ex("c.12")
def test_log_sum_exp_in_powers_of_two():
    """m and l together give the log-sum-exp, also for scores of some hundreds"""
    _, _, lse, wanted, _ = attention(4, 200, False, scale=6.0)
    mistake = "m is the row's largest unscaled score, l the sum of 2^(unit (s - m)) over this lane's columns"
    near(lse, wanted, "scores up to some hundreds", mistake, 1e-4)


@pytest.mark.ex("c.12")
@pytest.mark.parametrize("key", [36, 37])
def test_one_score_far_above_the_others_does_not_overflow(key):
    """wherever a row's largest score stands, its key's value comes out"""
    q, k, v = torch.zeros(1, 1, 40, D), torch.zeros(1, 1, 40, D), torch.randn(1, 1, 40, D)
    q[..., 0], k[..., key, 0] = 30, 30
    o, *_ = forward(4, q.bfloat16(), k.bfloat16(), v.bfloat16(), False)
    wanted = v[..., key : key + 1, :].bfloat16().double().expand(o.shape)
    near(o, wanted, f"a score of 159 with key {key}, all others 0", "is m the maximum over all columns?")
