"""The emulator's bf16, mma, ldmatrix and cp.async against what is published, and the faults they name."""

import re
from pathlib import Path

import pytest
import torch

import kernels
from cuda_build import BuildError, build
from cuda_library import CudaLibrary, KernelFault
from test_csrc_attention import MODES, needs

CSRC = Path(kernels.__file__).parent
PROBE = Path(__file__).parent / "tensor_core_probe.cu"

# Which element a register of a lane holds, as NVIDIA's CUTLASS states it (cute/atom/mma_traits_sm80.hpp,
# SM80_16x8x16_F32BF16BF16F32_TN): lane = t + 4 g and the number within the lane count through these (size,
# stride), and their sum is a column-major index of the matrix. A is (16, 16), B (8, 16) as n x k, C (16, 8).
CUTLASS = {"A": (16, ((4, 32), (8, 1)), ((2, 16), (2, 8), (2, 128))),
           "B": (8, ((4, 16), (8, 1)), ((2, 8), (2, 64))), "C": (16, ((4, 32), (8, 1)), ((2, 16), (2, 8)))}


def places(name: str) -> list:
    """For each lane, the (row, column) of each of its numbers, in the order of its registers."""
    rows, lane_modes, value_modes = CUTLASS[name]

    def offset(index: int, modes: tuple) -> int:
        total = 0
        for size, stride in modes:
            total, index = total + index % size * stride, index // size
        return total

    values = range(2 ** len(value_modes))
    at = [[offset(lane, lane_modes) + offset(v, value_modes) for v in values] for lane in range(32)]
    return [[(place % rows, place // rows) for place in lane] for lane in at]


def pairs(numbers: torch.Tensor) -> torch.Tensor:
    """bf16 numbers (..., 2 n) as registers (..., n), the first of two in the lower half."""
    bits = numbers.to(torch.bfloat16).contiguous().view(torch.int16).int() & 0xFFFF
    return bits[..., ::2] | bits[..., 1::2] << 16


def spread(x: torch.Tensor, name: str) -> torch.Tensor:
    """The matrix x as the lanes hold it: (32, numbers of a lane)."""
    return torch.stack([torch.stack([x[place] for place in lane]) for lane in places(name)])


def probe(mode: str) -> CudaLibrary:
    return CudaLibrary(PROBE, mode, (f"-I{CSRC / 'flash'}",))


def on(mode: str, *tensors: torch.Tensor) -> list:
    """The tensors, contiguous, on the device of the mode."""
    return [x.contiguous().to("cuda" if mode == "gpu" else "cpu") for x in tensors]


@pytest.mark.parametrize("mode", MODES)
def test_mma_multiplies_fragments_that_lie_in_the_lanes_as_cutlass_says(mode):
    A, B, C = torch.randn(16, 16).bfloat16(), torch.randn(8, 16).bfloat16(), torch.randn(16, 8)
    a, b, c = on(mode, pairs(spread(A, "A")), pairs(spread(B, "B")), spread(C, "C"))
    probe(mode).call("mma", a=a, b=b, c=c, threads=32, lanes=32)
    wanted = spread(C.double() + A.double() @ B.double().T, "C")
    torch.testing.assert_close(c.cpu().double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_hands_out_four_tiles_as_the_ptx_manual_says(transposed, mode):
    """Of a tile, lane 4 g + t receives (g, 2t), (g, 2t + 1); of a transposed one (2t, g), (2t + 1, g)."""
    tiles = torch.arange(256.0).bfloat16().view(4, 8, 8)  # integers up to 256 are exact
    r, x = on(mode, torch.zeros(32, 4, dtype=torch.int32), tiles)
    probe(mode).call("ldmatrix", tiles=x, out_r=r, transposed=transposed, fault=0)
    seen = tiles.mT if transposed else tiles
    for lane in range(32):
        g, t = divmod(lane, 4)
        assert torch.equal(r[lane].cpu(), pairs(seen[:, g, 2 * t : 2 * t + 2]).view(4)), lane


TOO_EARLY = (r"too early: thread \(0,0,0\) .* reads pieces\[\d+\] at tensor_core_probe.cu:45, but it, which "
             r"began to copy there at tensor_core_probe.cu:38, has not waited for the copy")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("newest", [0, 1, 2])
def test_a_wait_for_all_but_the_newest_groups_brings_the_older_ones(newest, mode):
    """On a GPU the others may have come too; in fast mode they have not, in check mode looking is a fault."""
    for look in range(3):
        x, y = on(mode, torch.arange(3 * 32 * 4.0), torch.zeros(32))
        arrived = look < 3 - newest
        if not arrived and mode == "check":
            with pytest.raises(KernelFault, match=TOO_EARLY):
                probe(mode).call("copies", x=x, out_y=y, newest=newest, look=look, inside=True, fault=0)
            continue
        probe(mode).call("copies", x=x, out_y=y, newest=newest, look=look, inside=True, fault=0)
        if arrived or mode == "fast":
            wanted = x.cpu().view(3, 32, 4)[look, :, 0] if arrived else torch.full((32,), -1.0)
            assert torch.equal(y.cpu(), wanted)


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_from_outside_writes_zeros(mode):
    x, y = on(mode, torch.ones(400), torch.ones(32))
    probe(mode).call("copies", x=x, out_y=y, newest=0, look=1, inside=False, fault=0)
    assert (y == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_rounds_as_torch_does(mode):
    """Every exponent, all ties, denormal numbers, infinities and what is not a number."""
    bits = torch.randint(-(2**31), 2**31, (100000,), dtype=torch.int64)
    ties = (torch.arange(65536, dtype=torch.int64) << 16) + 0x8000
    x = torch.cat([bits, ties, ties - 1, ties + 1]).to(torch.int32).view(torch.float32)
    given, y, back = on(mode, x, torch.zeros(len(x), dtype=torch.bfloat16), torch.zeros(len(x)))
    probe("fast" if mode == "check" else mode).call("round_all", x=given, out_y=y, out_back=back, n=len(x))
    real = ~x.isnan()
    assert torch.equal(y.cpu().view(torch.int16)[real], x.bfloat16().view(torch.int16)[real])
    assert torch.equal(back.cpu()[real], x.bfloat16().float()[real]) and y.cpu()[~real].isnan().all()


FAULTS = [
    ("mma", dict(threads=20, lanes=20), r"mma_m16n8k16 \(line 12\) needs the 32 threads .* has 20"),
    ("mma", dict(threads=32, lanes=16), r"waits at mma_m16n8k16 of line 12, which thread \(16,0,0\)"),
    ("ldmatrix", dict(transposed=False, fault=1), r"race on rows\[\d+\]: .*:21 .* reads it at .*:26"),
    ("ldmatrix", dict(transposed=True, fault=1), r"race on rows\[\d+\]: .*:21 .* reads it at .*:25"),
    ("ldmatrix", dict(transposed=False, fault=2), r"misaligned: .* reads 16 bytes at .*:26"),
    ("ldmatrix", dict(transposed=False, fault=3), r"ldmatrix: .*:26 names an address that is not in shared"),
    ("copies", dict(inside=True, fault=1), r"cp_async: .* at .*:38 names an address that is not in shared"),
    ("copies", dict(inside=True, fault=2), r"misaligned: .* reads 16 bytes at .*:38"),
    ("copies", dict(inside=True, fault=4), r"race on pieces\[\d+\]"),
    ("copies", dict(inside=True, fault=5), r"returns without waiting for the copy that it began at line 38"),
]


@needs("cpu")
@pytest.mark.parametrize("function,how,sentence", FAULTS)
def test_a_fault_of_a_warps_instruction_is_named(function, how, sentence):
    registers, newest = torch.zeros(32, 4, dtype=torch.int32), 1 if how.get("fault") == 5 else 0
    given = {"mma": dict(a=registers, b=registers[:, :2].contiguous(), c=torch.zeros(32, 4)),
             "ldmatrix": dict(tiles=torch.zeros(4, 8, 8).bfloat16(), out_r=registers),
             "copies": dict(x=torch.zeros(400), out_y=torch.zeros(32), newest=newest, look=0)}
    with pytest.raises(KernelFault) as report:
        probe("check").call(function, **given[function], **how)
    assert re.search(sentence, str(report.value)), report.value


@needs("cpu")
def test_a_copy_that_has_arrived_is_its_threads_own_and_after_a_meeting_everybodys():
    y = torch.zeros(32)
    probe("check").call("copies", x=torch.arange(400.0), out_y=y, newest=0, look=0, inside=True, fault=3)
    assert torch.equal(y, torch.arange(0, 128, 4.0).flip(0))


@pytest.mark.parametrize("line,sentence", [
    ("x[0] = __bfloat162float(y[0] + y[1]);", "no arithmetic in bfloat16: use __bfloat162float"),
    ('asm volatile("wgmma.fence.sync.aligned;");', "does not read PTX assembly: use the functions of flash/"),
])
def test_what_the_tensor_cores_have_beyond_this_is_refused_with_a_sentence(line, sentence, tmp_path):
    cu = tmp_path / "refused.cu"
    head = "#include <cuda_bf16.h>\n__global__ void k(float* x, const __nv_bfloat16* y)"
    cu.write_text(f"{head} {{ {line} }}\n")
    with pytest.raises(BuildError, match=sentence):
        build(cu, "fast")


def test_assembly_in_a_header_is_refused_too_unless_the_emulator_never_sees_it(tmp_path):
    kernel = '#include <cuda_runtime.h>\n#include "two.cuh"\n__global__ void k() { two(); }\n'
    (tmp_path / "two.cu").write_text(kernel)
    (tmp_path / "two.cuh").write_text('inline void two() { asm volatile("nanosleep.u32 2;"); }\n')
    with pytest.raises(BuildError, match="does not read PTX"):
        build(tmp_path / "two.cu", "fast")
    emulated, real = "inline void two() {}", 'inline void two() { asm("nanosleep.u32 2;"); }'
    (tmp_path / "two.cuh").write_text(f"#ifdef __CUDA_EMULATOR__\n{emulated}\n#else\n{real}\n#endif\n")
    assert build(tmp_path / "two.cu", "fast").exists()


def test_a_library_is_built_again_when_a_header_has_changed(tmp_path):
    (tmp_path / "a.cu").write_text('#include <cuda_runtime.h>\n#include "a.cuh"\n')
    built = []
    for number in (1, 1, 2):
        (tmp_path / "a.cuh").write_text(f"constexpr int A = {number};\n")
        built.append(build(tmp_path / "a.cu", "fast"))
    assert built[0] == built[1] != built[2]


def test_a_blank_exercise_in_a_header_is_named(tmp_path):
    blank = "  __trap();  // exercise c.10: the swizzle\n"
    (tmp_path / "a.cuh").write_text("\n__device__ inline void f() {\n" + blank + "}\n")
    (tmp_path / "a.cu").write_text(
        '#include <cuda_runtime.h>\n#include "a.cuh"\n__global__ void k(float* x) { f(); }\n'
        'extern "C" int go(float* x, cudaStream_t) { k<<<1, 1>>>(x); return cudaGetLastError(); }\n')
    with pytest.raises(NotImplementedError, match="^exercise c.10: the swizzle$"):
        CudaLibrary(tmp_path / "a.cu", "fast").call("go", x=torch.zeros(1))
