"""Exercises of chapter 8, second part: four bits a weight. A learner sees the docstrings."""
import numpy as np
import pytest
import torch

from quantize import dequantize, pack_nibbles, quantize_groups, unpack_nibbles


def random_integers(rows: int, n: int) -> torch.Tensor:
    """Integers from -8 to 7, (rows, n) int8."""
    return torch.randint(-8, 8, (rows, n), dtype=torch.int8)


# 8.2 integers to weights

@pytest.mark.ex("8.2")
def test_each_group_is_multiplied_by_its_own_scale():
    """each integer is multiplied by the scale of its group"""
    integers = torch.tensor([[1, 2, 3, 4], [-8, 7, 0, 1]], dtype=torch.int8)
    scales = torch.tensor([[0.5, 2.0], [1.0, 0.25]]).half()
    got, wanted = dequantize(integers, scales), [[0.5, 1.0, 6.0, 8.0], [-8.0, 7.0, 0.0, 0.25]]
    assert got.tolist() == wanted, (
        f"given {integers.tolist()} and the scales {scales.tolist()}, got {got.tolist()}, wanted {wanted}: "
        "neighbours share a scale, 1 and 2 the first, 3 and 4 the second")


@pytest.mark.ex("8.2")
def test_the_group_size_follows_from_the_shapes():
    """groups of any size work, and the weights are float32"""
    for group, groups in ((32, 3), (8, 2), (5, 1), (1, 6)):
        integers = torch.randint(-128, 128, (4, group * groups), dtype=torch.int8)
        scales = (torch.rand(4, groups) + 0.01).half()
        try:
            got = dequantize(integers, scales)
        except RuntimeError as error:
            pytest.fail(f"{groups} groups of {group} raised '{error}': the size of a group follows from the "
                        "two shapes")
        wide = scales.numpy().astype(np.float32)[..., None]
        wanted = integers.numpy().astype(np.float32).reshape(4, groups, group) * wide
        assert got.dtype == torch.float32, (
            f"got weights of {got.dtype}, wanted float32: convert before multiplying")
        assert np.array_equal(got.numpy(), wanted.reshape(4, -1)), (
            f"{groups} groups of {group}: the first row is {got[0].tolist()}, wanted "
            f"{wanted[0].ravel().tolist()}: multiply in float32, half precision rounds the products")


# 8.3 two weights in a byte

@pytest.mark.ex("8.3")
def test_the_even_column_is_the_low_half():
    """[-8, 7] is 240 and [7, -8] is 15: add 8, even column in the low half"""
    for pair, wanted in (([-8, 7], 240), ([7, -8], 15), ([-8, -8], 0), ([0, -7], 24), ([-1, 1], 151)):
        got = pack_nibbles(torch.tensor([pair], dtype=torch.int8)).tolist()
        assert got == [[wanted]], (
            f"given {pair}, got {got}, wanted [[{wanted}]]: ({pair[0]} + 8) + 16 * ({pair[1]} + 8)")


@pytest.mark.ex("8.3")
def test_packing_halves_the_columns():
    """neighbours share a byte: (rows, n) int8 becomes (rows, n / 2) uint8"""
    integers = random_integers(3, 10)
    before = integers.clone()
    got = pack_nibbles(integers)
    assert got.dtype == torch.uint8 and got.shape == (3, 5), (
        f"got {got.dtype} {tuple(got.shape)}, wanted torch.uint8 (3, 5)")
    wanted = [[row[2 * j] + 8 + 16 * (row[2 * j + 1] + 8) for j in range(5)] for row in integers.tolist()]
    assert got.tolist() == wanted, (
        f"given {before.tolist()}, got {got.tolist()}, wanted {wanted}: columns 0 and 1, 2 and 3, ...")
    assert torch.equal(integers, before), (
        f"given {before.tolist()}, the integers are now {integers.tolist()}, wanted them unchanged")


# 8.4 two weights from a byte

@pytest.mark.ex("8.4")
def test_a_byte_gives_its_two_integers():
    """240 gives [-8, 7] and 15 gives [7, -8]"""
    for byte, wanted in ((240, [-8, 7]), (15, [7, -8]), (0, [-8, -8]), (24, [0, -7]), (255, [7, 7])):
        got = unpack_nibbles(torch.tensor([[byte]], dtype=torch.uint8)).tolist()
        assert got == [wanted], (f"given {byte} (bits {byte:08b}), got {got}, wanted [{wanted}]: the low "
                                 "four bits first, then the high four, 8 subtracted from each")


@pytest.mark.ex("8.4")
def test_unpacking_restores_every_pair_in_place():
    """unpacking gives back what was packed, for all 256 bytes, as int8"""
    packed = torch.randperm(256).reshape(16, 16).to(torch.uint8)
    got = unpack_nibbles(packed)
    assert got.shape == (16, 32) and got.dtype == torch.int8, (
        f"got {tuple(got.shape)} {got.dtype}, wanted (16, 32) torch.int8")
    wanted = [[x for byte in row for x in (byte % 16 - 8, byte // 16 - 8)] for row in packed.tolist()]
    assert got.tolist() == wanted, (
        f"the row {packed[0].tolist()} gave {got[0].tolist()}, wanted {wanted[0]}: two neighbours a byte")


# 8.8 group int4

def best_error(group: np.ndarray, top: int) -> float:
    """Smallest squared error of one group over the eight scales of the task, by trying them in float64."""
    shrinks = np.linspace(1.0, 0.65, 8)
    scales = [np.abs(group).max() * shrink / top for shrink in shrinks]
    return min(((np.rint(group / scale).clip(-top - 1, top) * scale - group) ** 2).sum() for scale in scales)


def restored(integers: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """Integer times scale in float64, (rows, groups, group)."""
    rows, groups = scales.shape
    return integers.numpy().astype(float).reshape(rows, groups, -1) * scales.numpy().astype(float)[..., None]


@pytest.mark.ex("8.8")
def test_integers_and_scales_have_the_promised_form():
    """integers of the range that the bits allow, and one float32 scale a group"""
    for bits, group in ((4, 32), (8, 16), (3, 8)):
        weight = torch.randn(200, 64)
        before = weight.clone()
        integers, scales = quantize_groups(weight, bits, group)
        assert integers.dtype == torch.int8 and integers.shape == (200, 64), (
            f"integers are {integers.dtype} {tuple(integers.shape)}, wanted torch.int8 (200, 64)")
        assert scales.dtype == torch.float32 and scales.shape == (200, 64 // group), (
            f"scales are {scales.dtype} {tuple(scales.shape)}, wanted torch.float32 (200, {64 // group})")
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        assert low <= integers.min() and integers.max() <= high, (
            f"{bits} bits: integers from {integers.min()} to {integers.max()}, wanted {low} to {high}: a "
            "smaller scale makes the largest weights overflow, so clip")
        assert (scales > 0).all(), f"{bits} bits: the least scale is {scales.min()}, wanted more than 0"
        assert torch.equal(weight, before), (
            f"{bits} bits: {int((weight != before).sum())} of the given weights changed, wanted none")


@pytest.mark.ex("8.8")
def test_each_group_has_its_own_scale():
    """a group of large weights does not spoil its neighbour"""
    weight = torch.cat((torch.randn(2, 32) * 100, torch.randn(2, 32) * 0.01), 1)
    got = restored(*quantize_groups(weight, 4, 32))[:, 1]
    wrong = float(np.abs(got - weight[:, 32:].numpy()).max())
    assert wrong < 0.01, (
        f"weights of about 0.01 next to a group of about 100 came back with an error of {wrong:.3g}, wanted "
        "less than 0.01: is the largest taken over each group, not over the row?")


@pytest.mark.ex("8.8")
def test_an_outlier_stays_in_its_group():
    """one weight of a million comes back, and all other groups as if it were not there"""
    weight = torch.randn(3, 96)
    alone = restored(*quantize_groups(weight, 4, 32))
    weight[1, 40] = 1e6
    got = restored(*quantize_groups(weight, 4, 32))
    bad = int((~np.isfinite(got)).sum())
    assert bad == 0, f"with a weight of 1e6, {bad} of {got.size} came back infinite or NaN, wanted none"
    assert abs(got[1, 1, 8] / 1e6 - 1) < 0.2, f"a weight of 1e6 became {got[1, 1, 8]:.4g}, wanted 1e6"
    others = np.ones((3, 3), dtype=bool)
    others[1, 1] = False
    assert np.array_equal(got[others], alone[others]), (
        f"with a weight of 1e6 in one group, {int((got[others] != alone[others]).sum())} others came back "
        "otherwise, wanted none")


@pytest.mark.ex("8.8")
def test_a_group_of_zeros_stays_zero():
    """a group of zeros comes back as zeros, not as NaN"""
    weight = torch.cat((torch.zeros(1, 32), torch.randn(1, 32)), 1)
    integers, scales = quantize_groups(weight, 4, 32)
    assert bool(scales.isfinite().all()) and bool((scales > 0).all()) and not integers[:, :32].any(), (
        f"32 zeros gave the integers {integers[0, :4].tolist()}... and the scale {scales[0, 0].item()}: 0 / "
        "0 is NaN, keep the largest weight at 1e-4 or more")


@pytest.mark.ex("8.8")
def test_the_best_of_eight_scales_is_found():
    """the squared error is the smallest of the eight scales, group by group"""
    for bits in (4, 3):
        weight = torch.randn(30, 64) * torch.tensor([0.02, 1.0, 30.0]).repeat(10)[:, None]
        weight[::2, 5] *= 3.0                               # an outlier: clipping it pays
        weight[1, 40:44] = -weight[1].abs().max()           # here the most negative integer pays
        groups = weight.numpy().astype(float).reshape(30, 2, 32)
        got = ((restored(*quantize_groups(weight, bits, 32)) - groups) ** 2).sum(-1)
        wanted = np.array([[best_error(g, 2 ** (bits - 1) - 1) for g in row] for row in groups])
        assert (got <= wanted * 1.01).all(), (
            f"{bits} bits: in {(got > wanted * 1.01).sum()} of 60 groups the squared error is larger than it "
            f"could be, the worst {(got / wanted).max():.3f} times: try all eight factors from 1 to 0.65, "
            "measure with the rounded and clipped integers, and keep the best scale of each group")


@pytest.mark.ex("8.8")
def test_eight_bits_are_finer_than_four():
    """eight bits are at least ten times finer than four"""
    weight = torch.randn(4, 64)
    groups = weight.numpy().reshape(4, 2, 32)
    errors = {bits: np.abs(restored(*quantize_groups(weight, bits, 32)) - groups).mean() for bits in (4, 8)}
    assert errors[8] < errors[4] / 10, (
        f"mean error with 4 bits {errors[4]:.4f}, with 8 bits {errors[8]:.4f}, wanted less than a tenth")
