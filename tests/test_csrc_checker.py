"""The checker: no word about kernels that are right for subtle reasons, one exact sentence about a fault."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from cuda_build import BuildError, build, rewrite_launches
from cuda_library import CudaLibrary, KernelFault
from kernels import why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
SOURCE = Path(__file__).parent / "tricky_kernels.cu"
X = torch.randn(1024, generator=torch.Generator().manual_seed(0))


def spread(x: torch.Tensor) -> torch.Tensor:
    """Three steps of s[t] + s[t + 1] around a ring of 64."""
    for _ in range(3):
        x = x + x.roll(-1)
    return x


def compacted() -> torch.Tensor:
    """The positive numbers of each 32, moved to the front; zeros after them."""
    y = torch.zeros(64)
    for warp in range(2):
        kept = [v for v in X[warp * 32 : warp * 32 + 32] if v > 0]
        y[warp * 32 : warp * 32 + len(kept)] = torch.tensor(kept)
    return y


# name, the first values of y, and what the report of its fault must say
KERNELS = [
    ("tree", X.view(4, 256).sum(1),
     r"race on s\[\d+\]: thread .* (read|wrote) it at tricky_kernels.cu:12 and thread .* at "
     r"tricky_kernels.cu:12, with no barrier"),
    ("warp_tree", X[:64].view(2, 32).sum(1),
     r"race on s\[\d+\]: .* read it at tricky_kernels.cu:23 .* writes it at tricky_kernels.cu:25"),
    ("histogram", torch.bincount((X[:512].abs() * 4).int() % 8, minlength=8).float(),
     r"race on bins\[\d\]: .*tricky_kernels.cu:35"),
    ("two_masks", X[:64].view(4, 16).sum(1), r"lanes of a warp diverge|can never reach|reads lane"),
    ("broadcast", X[:4].sum().expand(64),
     r"race on s\[0\]: thread \(\d+,0,0\) .* read it at tricky_kernels.cu:53 and .* writes it at "
     r"tricky_kernels.cu:51"),
    ("vectors", X,
     r"out of bounds: thread \(255,0,0\) .* reads \d+ bytes at tricky_kernels.cu:60, just past the end of x"),
    ("misaligned", X[:1000], r"misaligned: thread \(0,0,0\) .* at tricky_kernels.cu:65.* multiple of 8"),
    ("carved", X[:64].flip(0) + X[64:128].flip(0), r"race on smem\[32\]: .* wrote it .* writes it"),
    ("ping_pong", spread(X[:64]), r"race on s\[\d+\]: .*tricky_kernels.cu:84"),
    ("bytes", (X[:64] > 0).float().flip(0),
     r"race on flag\[0\]: thread \(0,0,0\) .* wrote it .* thread \(1,0,0\)"),
    ("early_exit", torch.cat([X[:64].flip(0), X[64:128].flip(0)]),
     r"not all threads reach a barrier: .*thread \(60,0,0\) .* can never reach: it has returned"),
    ("relay", X[:1], r"race on s\[0\]: thread \(0,0,0\) .* wrote it .* thread \(16,0,0\) .* reads it"),
    ("float_max", X.abs().max().view(1),
     r"race on y\[0\]: thread .* wrote it at .* thread .* reads it|race on y\[0\]"),
    ("interleaved", X, r"race on y\[0\]: .* nothing orders two blocks"),
    ("shift", torch.arange(128.0).roll(-1),
     r"race on y\[0\]: .*read it .* writes it|race on y\[1\]: .*read it .* writes it"),
    ("ragged", X[:40].view(5, 8).sum(1).repeat_interleave(8),
     r"__shfl_down_sync \(line \d+\) reads lane 13, which is not in the mask"),
    ("ballot", compacted(), r""),
    ("chain", 2 * X[:256].flip(0),
     r"uninitialised: thread \(0,0,0\) .* reads scratch\[255\] .* before anyone wrote it"),
    ("columns", X[:64].view(8, 8).T.reshape(-1),
     r"out of bounds: thread \(7,0,0\) .* uses index 9 of an array 'float ?\[9\]' at tricky_kernels.cu:\d+"),
    ("launch", X, r"invalid launch: a block has 1 to 1024 threads"),
]
NAMES = [name for name, *_ in KERNELS]


def run(name: str, fault: bool, mode: str) -> torch.Tensor:
    y = torch.zeros(1024)
    CudaLibrary(SOURCE, mode).call("tricky", x=X, y=y, out_scratch=torch.zeros(256), which=NAMES.index(name),
                                   fault=int(fault))
    return y


@pytest.mark.parametrize("mode", ["check", "fast"])
@pytest.mark.parametrize("name", NAMES)
def test_a_correct_tricky_kernel_gives_its_result_and_no_report(name, mode):
    wanted = KERNELS[NAMES.index(name)][1]
    torch.testing.assert_close(run(name, False, mode)[: len(wanted)], wanted)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ballot"])
def test_a_fault_is_reported_by_array_line_and_thread(name):
    with pytest.raises(KernelFault) as report:
        run(name, True, "check")
    assert re.search(KERNELS[NAMES.index(name)][2], str(report.value)), report.value


@pytest.mark.parametrize("order", ["1", "2", "3"])
def test_no_order_of_the_threads_changes_a_correct_kernel_or_hides_a_fault(order, monkeypatch):
    monkeypatch.setenv("EMU_ORDER", order)
    for name in ("tree", "warp_tree", "broadcast", "ping_pong", "relay"):
        wanted = KERNELS[NAMES.index(name)][1]
        torch.testing.assert_close(run(name, False, "check")[: len(wanted)], wanted)
        with pytest.raises(KernelFault, match="race on s"):
            run(name, True, "check")


def test_the_next_call_after_a_fault_works():
    with pytest.raises(KernelFault):
        run("tree", True, "check")
    torch.testing.assert_close(run("tree", False, "check")[:4], X.view(4, 256).sum(1))


def test_nothing_in_the_emulator_needs_the_state_of_the_cpp_runtime():
    """A library that carries a copy of the runtime (g++ -static-libstdc++) never set up its streams."""
    needed = subprocess.run(["readelf", "-sWC", build(SOURCE, "check")], capture_output=True, text=True,
                            check=True).stdout
    assert "emu_tensor" in needed
    assert not re.findall(r"std::\S*(?:stream|locale|ios_base|basic_ios|stringbuf)\S*", needed)


REFUSED = [
    ("__threadfence();", "blocks run one after another"),
    ("memcpy(x, x, 4);", "no memcpy in a kernel"),
    ('asm volatile("mov.u32 %0, %laneid;");', "does not read PTX"),
    ("x[0] = clock64();", "no clock"),
    ("x[0] = __activemask();", "state the mask"),
    ("extern __shared__ float buffer[];", "one name for dynamic shared memory"),
]


@pytest.mark.parametrize("line,sentence", REFUSED)
def test_what_is_not_emulated_is_a_compile_error_with_a_sentence(tmp_path, line, sentence):
    cu = tmp_path / "refused.cu"
    cu.write_text(f"#include <cuda_runtime.h>\n__global__ void k(float* x) {{ {line} }}\n")
    with pytest.raises(BuildError, match=sentence):
        build(cu, "fast")


def test_a_header_that_is_not_emulated_is_refused_with_a_sentence(tmp_path):
    cu = tmp_path / "half.cu"
    cu.write_text("#include <cuda_runtime.h>\n#include <cuda_fp16.h>\n")
    with pytest.raises(BuildError, match="no half precision"):
        build(cu, "fast")


@pytest.mark.parametrize("mode", ["check", "fast"])
def test_a_blank_exercise_is_named_when_a_kernel_meets_it(tmp_path, mode):
    cu = tmp_path / "blank.cu"
    cu.write_text(
        "#include <cuda_runtime.h>\n__global__ void k(float* x) {\n"
        "  __trap();  // exercise c.1: vector add\n}\n"
        'extern "C" int go(float* x, cudaStream_t) { k<<<1, 1>>>(x); return cudaGetLastError(); }\n')
    with pytest.raises(NotImplementedError, match="^exercise c.1: vector add$"):
        CudaLibrary(cu, mode).call("go", x=torch.zeros(1))


def test_too_much_static_shared_memory_is_refused_as_nvcc_would(tmp_path):
    cu = tmp_path / "large.cu"
    cu.write_text(
        "#include <cuda_runtime.h>\n__global__ void k(float* x) { __shared__ float s[13000]; s[threadIdx.x] "
        "= *x; __syncthreads(); *x = s[1]; }\n"
        'extern "C" int go(float* x, cudaStream_t) { k<<<1, 1>>>(x); return cudaGetLastError(); }\n')
    with pytest.raises(KernelFault, match="52000 bytes of __shared__ arrays: a kernel has at most 49152"):
        CudaLibrary(cu, "check")


def test_rewriting_a_launch_keeps_every_line_where_it_was():
    source = "a<<<1,\n  2>>>(x);\nb<64, true><<<dim3(1, 2), 3, 4, s>>>(y);\n"
    assert rewrite_launches(source) == ('emu::launch("a", a, 1,\n  2)(x);\n'
                                        'emu::launch("b<64, true>", b<64, true>, dim3(1, 2), 3, 4, s)(y);\n')


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_fault_inside_an_inlined_function_has_the_line_of_the_kernel(compiler, tmp_path, monkeypatch):
    """clang's DWARF 5 says where inlined functions are in a way that addr2line does not read."""
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} found")
    monkeypatch.setenv("CXX", compiler)
    cu = tmp_path / "inlined.cu"
    cu.write_text(
        "#include <cuda_runtime.h>\n__global__ void k(float* x) {\n#pragma unroll\n"
        "  for (int i = 0; i < 4; i++)\n    atomicAdd(x + 4 * threadIdx.x + i, 1.f);\n}\n"
        'extern "C" int go(float* x, cudaStream_t) { k<<<1, 40>>>(x); return cudaGetLastError(); }\n')
    with pytest.raises(KernelFault, match=r"at inlined.cu:5, just past the end of x"):
        CudaLibrary(cu, "check").call("go", x=torch.zeros(128))
