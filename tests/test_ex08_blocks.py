"""Exercise of chapter 8: a block of Q4_0. A learner sees the docstrings."""
import struct

import pytest
import torch

from ex_compare import call
from ggml_blocks import pack_q4_0


def block(*first: float) -> list[float]:
    """These weights and zeros up to 32."""
    return [*first] + [0.0] * (32 - len(first))


def by_hand(weights: list[float]) -> list[int]:
    """The 18 bytes of one block whose divisions are exact."""
    d = max(weights, key=abs) / -8
    q = [min(15, int(w / d + 8.5)) if d else 8 for w in weights]
    return [*struct.pack("<e", d), *(q[i] + 16 * q[i + 16] for i in range(16))]


def check(rows: list[list[float]], says: str) -> None:
    """The bytes of these blocks."""
    got = call(f"{[r[:4] for r in rows]}, ...", pack_q4_0, torch.tensor(rows))
    assert tuple(got.shape) == (len(rows), 18) and got.dtype == torch.uint8, (
        f"given {len(rows)} blocks, got {got.dtype} {tuple(got.shape)}, wanted torch.uint8 ({len(rows)}, 18)")
    for row, mine in zip(rows, got.tolist()):
        wanted = by_hand(row)
        assert mine == wanted, f"given {row},\n got {mine},\n wanted {wanted}:\n {says}"


@pytest.mark.ex("8.16")
def test_the_worked_example():
    """4, -2, 1 and zeros: d is -0.5, and they become 0, 12, 6 and 8"""
    check([block(4.0, -2.0, 1.0)], "d = 4 / -8; q = x / d + 8.5 without its fraction")


@pytest.mark.ex("8.16")
def test_the_largest_magnitude_becomes_minus_eight_and_the_other_side_is_cut():
    """the scale is that of the largest magnitude, positive or negative; 8 on the other side becomes 7"""
    check([block(-8.0, 7.0, 7.75, 3.0), block(16.0, -15.5, 2.0), block(-0.5, 0.25), block(8.0, -8.0)],
          "the weight of the largest magnitude is -8 times d; q is at most 15")


@pytest.mark.ex("8.16")
def test_each_block_has_its_own_scale_and_zeros_have_none():
    """blocks do not share a scale, and a block of zeros is d = 0 and q = 8"""
    check([block(-8.0, 2.0), block(), block(0.125, 0.0625), block(-64.0, 24.0)],
          "1 / 0 is infinite: inverse(0) is 0")


@pytest.mark.ex("8.16")
def test_weight_i_and_weight_i_plus_16_share_a_byte():
    """the first sixteen are the low halves, the last sixteen the high ones"""
    places = torch.randperm(31)[:7] + 1
    rows = torch.zeros(3, 32)
    rows[:, places] = torch.randint(-7, 8, (3, 7)).float()
    rows[:, 0] = -8
    check(rows.tolist(), "byte 2 + i is q[i] + 16 * q[i + 16]")


@pytest.mark.ex("8.16")
def test_halves_are_rounded_up():
    """2.5 steps become 3 and 3.5 become 4: x / d + 8.5 without its fraction"""
    check([block(-8.0, 2.5, 3.5, -2.5, -3.5, 1.75, -1.75, 1.25)], "round() takes 2.5 to 2 and 3.5 to 4")
