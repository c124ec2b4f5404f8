"""What needs a tool that not every machine has: nvcc's budgets, a second compiler, gdb, other fibers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kernels
from ladder_counts import launches
from nvcc_report import blocks_of_sm, report

CSRC = Path(kernels.__file__).parent
KERNELS = [*sorted((CSRC / "ladder").glob("*.cu")), CSRC / "attention_naive.cu"]
# registers per thread; 65,536 per multiprocessor, so 128 threads x 176 leave room for two blocks
REGISTERS = {"flash_forward_kernel": 96, "flash_delta_kernel": 40, "flash_backward_kernel": 176}
# The rungs: registers, of which a thread has at most 255, and how many blocks must fit on a multiprocessor of
# an H100 at head widths 64 and 128.
RUNGS = {
    "flash_1_registers": {"flash_forward_kernel": (255, (2, 2))},
    "flash_2_mma": {"flash_forward_kernel": (176, (4, 2))},
    "flash_3_swizzle": {"flash_forward_kernel": (255, (2, 2))},
    "flash_4_pipeline": {"flash_forward_kernel": (255, (2, 2))},
    "flash_5_backward": {"flash_backward_kernel": (255, (2, 1))},
    "flash_5_deterministic": {"flash_dq_kernel": (216, (2, 2)), "flash_dk_dv_kernel": (255, (2, 2))},
}
# bytes stored and loaded
SPILLED = {("flash_4_pipeline", "sm_90", 128): 112, ("flash_5_backward", "sm_90", 64): 8}
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc found: nothing to compile with")
needs_gdb = pytest.mark.skipif(not shutil.which("gdb"), reason="no gdb found")


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("width", [16, 40, 64, 128])
def test_flash_attention_compiles_within_its_budget(arch, width):
    table = report(CSRC / "flash_attention.cu", arch, (f"-DHEAD_WIDTH={width}",))
    assert {kernel.name for kernel in table} == set(REGISTERS)
    for kernel in table:
        assert kernel.registers <= REGISTERS[kernel.name], kernel
        assert kernel.shared <= 48 << 10 and not kernel.spilled, kernel


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_compiles_within_its_budget(rung, width, arch):
    launched = launches(f"flash/{rung}.cu", width)
    for kernel in report(CSRC / f"flash/{rung}.cu", arch, (f"-DHEAD_WIDTH={width}",)):
        if kernel.name not in RUNGS[rung]:
            assert kernel.registers <= 40 and not kernel.spilled, kernel  # delta, rounding
            continue
        registers, blocks = RUNGS[rung][kernel.name]
        assert kernel.registers <= registers and kernel.spilled <= SPILLED.get((rung, arch, width), 0), kernel
        if arch == "sm_90":
            fit = blocks_of_sm(kernel, *launched[kernel.name], arch)
            assert fit >= blocks[width == 128], (kernel, launched)


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("cu", KERNELS, ids=[cu.stem for cu in KERNELS])
def test_the_other_kernels_compile_without_spills(cu, arch):
    for kernel in report(cu, arch):
        assert kernel.registers <= 64 and kernel.shared <= 16 << 10 and not kernel.spilled, kernel


@needs_nvcc
@pytest.mark.parametrize("cu", ["tricky_kernels.cu", "tensor_core_probe.cu"])
def test_the_kernels_of_the_tests_are_real_cuda(cu, tmp_path):
    path, flash = Path(__file__).parent.parent / cu, f"-I{CSRC / 'flash'}"
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "-shared", "-Xcompiler", "-fPIC", flash, path]
    done = subprocess.run([*map(str, command), "-o", str(tmp_path / "x.so")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_nvcc
def test_the_profile_of_the_ladder_is_printed_without_a_gpu():
    done = subprocess.run([sys.executable, str(CSRC / "bench_gpu.py"), "--profile", "--widths", "32"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1 + 2 * 13, done.stdout + done.stderr


def kernel_check(*args: str, **environment: str) -> subprocess.CompletedProcess:
    """Run kernel_check.py in a process of its own."""
    command = [sys.executable, str(CSRC / "kernel_check.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


# of all kernels: 10 of the small ones and rung 0, O of rungs 1 to 4, three gradients of each rung 5
RESULTS = 20


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_every_kernel_is_right_under_both_compilers(compiler, mode):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} found")
    done = kernel_check("--mode", mode, CXX=compiler)
    assert done.returncode == 0 and done.stdout.count("ok ") == RESULTS, done.stdout + done.stderr


@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_the_portable_fibers_give_the_same(mode):
    done = kernel_check("--mode", mode, EMU_FLAGS="-DEMU_UCONTEXT=1")
    assert done.returncode == 0 and done.stdout.count("ok ") == RESULTS, done.stdout + done.stderr


@needs_gdb
@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
def test_gdb_stops_in_one_thread_of_one_block(tmp_path):
    lines = (CSRC / "ladder/reduction.cu").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "outside the if" in text)
    script = tmp_path / "commands"
    script.write_text("set breakpoint pending on\n"
                      f"break reduction.cu:{line} if threadIdx.x == 5 && blockIdx.x == 1 && half == 64\n"
                      "run\nprint i\nprint half\nprint threadIdx\n")
    run = [sys.executable, str(CSRC / "kernel_check.py"), "reduction", "--mode", "debug"]
    gdb = ["gdb", "-q", "-batch", "-x", str(script), "--args", *run]
    done = subprocess.run(gdb, capture_output=True, text=True)
    for said in ("$1 = 261", "$2 = 64", "{x = 5, y = 0, z = 0}"):
        assert said in done.stdout, done.stdout


@needs_gdb
@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
def test_a_fault_stops_gdb_in_the_guilty_thread(tmp_path):
    (tmp_path / "oob.cu").write_text(
        "#include <cuda_runtime.h>\n__global__ void k(float* x) {\n  x[threadIdx.x] = 1;\n}\n"
        'extern "C" int go(float* x, cudaStream_t) { k<<<1, 40>>>(x); return cudaGetLastError(); }\n')
    (tmp_path / "go.py").write_text("import torch\nfrom cuda_library import CudaLibrary\n"
                                    f"CudaLibrary('{tmp_path}/oob.cu', 'check').call('go', "
                                    "x=torch.zeros(32))\n")
    (tmp_path / "commands").write_text("run\nbacktrace\nprint threadIdx\n")
    gdb = ["gdb", "-q", "-batch", "-x", str(tmp_path / "commands"), "--args", sys.executable]
    gdb.append(str(tmp_path / "go.py"))
    done = subprocess.run(gdb, capture_output=True, text=True,
                          env={**os.environ, "EMU_STOP": "1", "PYTHONPATH": str(CSRC)})
    assert "just past the end of x" in done.stdout + done.stderr, done.stdout
    assert "oob.cu:3" in done.stdout and "{x = 32, y = 0, z = 0}" in done.stdout, done.stdout
