"""What each rung of csrc/flash asks of the machine, counted: the claims of the lesson that need no GPU."""

import pytest
import torch

import kernels
from flash_rungs import BACKWARD, DETERMINISTIC, FORWARD, HERE, flash_backward, flash_forward, library

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")


def counted(rung, T: int, D: int, causal: bool = False, flags: tuple = ()) -> tuple:
    """(counts, profile) of one rung on one head: of the pass that it computes."""
    q, k, v, d_o = (torch.randn(1, 1, T, D).to(rung.dtype) for _ in range(4))
    lib = library(rung, D, "check", flags)
    if rung in FORWARD.values():
        flash_forward(lib, q, k, v, causal, profile=True)
    else:
        o, lse = flash_forward(library(FORWARD[5], D, "fast"), q, k, v, causal)
        flash_backward(lib, q, k, v, o, lse, d_o, causal, profile=True)
    return lib.counts(), lib.profile()


def worst_turns(profile: dict, accesses: tuple = ("read", "write")) -> float:
    """Of the lines that touch shared memory, the most turns over the least possible."""
    return max(cost / least for (_, _, space, access), (_, cost, least) in profile.items()
               if space == "shared" and access in accesses)


ON_TENSOR_CORES = [FORWARD[2], FORWARD[3], FORWARD[4], BACKWARD[5], DETERMINISTIC]


@pytest.mark.parametrize("D", [32, 64])
@pytest.mark.parametrize("rung", ON_TENSOR_CORES, ids=lambda r: r.source[6:-3])
def test_no_line_of_a_tensor_core_rung_waits_for_a_bank(rung, D):
    profile = counted(rung, 100, D, True)[1]
    assert sum(space == "shared" for _, _, space, _ in profile) >= 3
    # The padding of rung 2 is made for its reads: at head width 32 its 16-byte writes meet in 4 banks. Those
    # of rung 3 are split in two by clang++.
    assert worst_turns(profile, ("read",) if rung.number in (2, 3) else ("read", "write")) <= 1.01


@pytest.mark.parametrize("D,turns", [(32, 4), (64, 8)])
def test_without_the_swizzle_ldmatrix_waits_for_its_banks(D, turns):
    """8 rows of 128 bytes lie under one another: 8 turns; rows of 64 bytes in two columns: 4."""
    assert worst_turns(counted(FORWARD[3], 100, D, flags=("-DSWIZZLE=0",))[1], ("read",)) == turns


def test_the_number_of_mma_is_that_of_the_products():
    """An mma is 16 x 8 x 16: forward 2 products, backward 5, the deterministic one 7."""
    T, D = 128, 32
    one = (T // 16) * (T // 8) * (D // 16)
    for rung, products in zip(ON_TENSOR_CORES, (2, 2, 2, 5, 7)):
        assert counted(rung, T, D)[0]["mma"] == products * one, rung.source


def test_only_the_pipelined_rungs_copy_while_they_multiply():
    """Of n tiles of keys, all but the last are computed while the next one is on its way."""
    for rung in (FORWARD[2], FORWARD[3]):
        assert counted(rung, 256, 32)[0]["mma_during_copies"] == 0
    counts = counted(FORWARD[4], 256, 32)[0]
    assert counts["mma_during_copies"] == counts["mma"] * 3 / 4


def test_two_rows_of_fragments_a_warp_read_half_as_much_of_k_and_v():
    reads = {m: counted(FORWARD[3], 256, 64, flags=(f"-DM_TILES={m}",))[0]["shared_read"] for m in (1, 2)}
    # bytes: Q once per tile of 64 keys; K and V once per 16 rows
    q, kv = 2 * 256 * 64 * 4, 2 * 2 * 64 * 256 * 16
    assert reads == {1: q + kv, 2: q + kv / 2}


def test_a_causal_pass_skips_what_nobody_sees():
    """Of 8 x 4 tiles of 32 rows by 64 keys, those up to the diagonal are computed: 2 (1 + 2 + 3 + 4)."""
    full, causal = (counted(FORWARD[4], 256, 32, c)[0]["mma"] for c in (False, True))
    assert causal == full * 20 / 32


def test_the_lanes_of_an_atomic_add_lie_side_by_side():
    """32 floats in 4 sectors of 32 bytes: that is what the scratch order of dQ is for."""
    table = counted(BACKWARD[5], 130, 32)[1]
    line = next(n for n, text in enumerate((HERE / BACKWARD[5].source).read_text().splitlines(), 1)
                if "atomicAdd(to" in text)
    requests, sectors, _ = table["flash_5_backward.cu", line, "global", "write"]
    assert sectors == 4 * requests > 0
