"""The counters: global bytes equal the formulas, bank conflicts appear where the padding is taken away."""

import pytest
import torch

import attention_traffic as traffic
import kernels
from kernel_ladder import ladder, transpose

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")


@pytest.mark.parametrize("T,D,causal", [(64, 64, False), (100, 64, True), (77, 16, True), (77, 16, False),
                                        (70, 128, True), (40, 24, False)])
def test_flash_moves_exactly_the_bytes_of_the_formula(T, D, causal):
    wanted = traffic.flash_forward_bytes(T, D, causal), traffic.flash_backward_bytes(T, D, causal)
    assert traffic.count_flash(T, D, causal) == wanted


@pytest.mark.parametrize("T,D", [(1, 16), (64, 64), (50, 48)])
def test_naive_moves_exactly_the_bytes_of_the_formula(T, D):
    assert traffic.count_naive(T, D) == traffic.naive_forward_bytes(T, D)


def test_flash_moves_at_least_four_and_a_half_times_fewer_bytes_than_naive():
    naive, flash = traffic.count_naive(256, 64), traffic.count_flash_forward(256, 64)
    assert naive >= 4.5 * flash, (naive, flash)


def test_the_advantage_grows_with_the_length_and_with_the_tile():
    ratios = [traffic.count_naive(T, 64) / traffic.count_flash_forward(T, 64) for T in (64, 128)]
    assert ratios[0] < ratios[1]
    by_tile = [traffic.count_flash_forward(128, 16, tile) for tile in (16, 32)]
    assert by_tile == [traffic.flash_forward_bytes(128, 16, query_tile=tile) for tile in (16, 32)]
    assert by_tile[0] > 1.5 * by_tile[1]


@pytest.mark.parametrize("pad,passes", [(1, 1), (0, 32)])
def test_a_transpose_without_padding_waits_32_times_for_one_bank(pad, passes):
    transpose(torch.randn(64, 64), "check", (f"-DPAD={pad}",), profile=True)
    table = ladder("transpose", "check", (f"-DPAD={pad}",)).profile()
    reads = [cost / requests for (_, _, space, access), (requests, cost, _) in table.items()
             if (space, access) == ("shared", "read")]
    assert reads == [passes]


def test_a_write_down_a_column_touches_32_sectors(tmp_path):
    cu = tmp_path / "column.cu"
    cu.write_text("#include <cuda_runtime.h>\n__global__ void k(const float* x, float* y) { "
                  "y[threadIdx.x * 32] = x[threadIdx.x]; }\n"
                  'extern "C" int go(const float* x, float* y, cudaStream_t) '
                  '{ k<<<1, 32>>>(x, y); return cudaGetLastError(); }\n')
    lib = kernels.CudaLibrary(cu, "check")
    lib.call("go", profile=True, x=torch.randn(32), y=torch.zeros(1024))
    assert lib.profile() == {
        ("column.cu", 2, "global", "read"): (1, 4, 4),
        ("column.cu", 2, "global", "write"): (1, 32, 4),
    }


@pytest.mark.parametrize("D", [32, 64, 128])
def test_the_inner_loops_of_flash_attention_have_no_bank_conflicts(D):
    lib, (q, k, v, d_o) = traffic.flash_library(D), traffic.inputs(70, D)
    o, lse = kernels.flash_forward(lib, q, k, v, True, profile=True)
    table = lib.profile()
    kernels.flash_backward(lib, q, k, v, o, lse, d_o, True, profile=True)
    table.update(lib.profile())
    shared = [
        (place, cost / requests) for place, (requests, cost, _) in table.items() if place[2] == "shared"]
    assert len(shared) >= 8
    assert [place for place, passes in shared if passes > 1.01] == []
