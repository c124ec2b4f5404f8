"""What needs a tool that not every machine has: nvcc's budgets, a second compiler, gdb, other fibers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kernels

CSRC = Path(kernels.__file__).parent
KERNELS = [*sorted((CSRC / "ladder").glob("*.cu")), CSRC / "attention_naive.cu"]
# registers per thread; 65,536 per multiprocessor, so 128 threads x 176 leave room for two blocks
REGISTERS = {"flash_forward_kernel": 96, "flash_delta_kernel": 40, "flash_backward_kernel": 176}
needs_nvcc = pytest.mark.skipif(
    not shutil.which("nvcc"), reason="no nvcc found: kernels are not compiled for a GPU"
)
needs_gdb = pytest.mark.skipif(not shutil.which("gdb"), reason="no gdb found")


def resources(cu: Path, arch: str, out: Path, *flags: str) -> dict:
    """{kernel: (registers, bytes of shared memory, bytes spilled)} as ptxas reports them."""
    command = [
        "nvcc",
        "-std=c++17",
        "-O3",
        f"-arch={arch}",
        "-Xptxas",
        "-v",
        "-Werror",
        "all-warnings",
        "-shared",
        "-Xcompiler",
        "-fPIC",
        *flags,
        str(cu),
        "-o",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = {}
    for part in re.split(r"Compiling entry function ", done.stderr)[1:]:
        kernel = re.match(r"'_Z\d+([a-z_]+?_kernel)", part)[1]
        shared = re.search(r"(\d+) bytes smem", part)
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", part)))
        table[kernel] = (
            int(re.search(r"Used (\d+) registers", part)[1]),
            int(shared[1]) if shared else 0,
            spilled,
        )
    return table


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("width", [16, 40, 64, 128])
def test_flash_attention_compiles_within_its_budget(arch, width, tmp_path):
    table = resources(CSRC / "flash_attention.cu", arch, tmp_path / "x.so", f"-DHEAD_WIDTH={width}")
    assert set(table) == set(REGISTERS)
    for kernel, (registers, shared, spilled) in table.items():
        assert registers <= REGISTERS[kernel], (kernel, registers)
        assert shared <= 48 << 10 and spilled == 0, (kernel, shared, spilled)


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("cu", KERNELS, ids=[cu.stem for cu in KERNELS])
def test_the_other_kernels_compile_without_spills(cu, arch, tmp_path):
    for kernel, (registers, shared, spilled) in resources(cu, arch, tmp_path / "x.so").items():
        assert registers <= 64 and shared <= 16 << 10 and spilled == 0, (kernel, registers, shared, spilled)


@needs_nvcc
def test_the_tricky_kernels_are_real_cuda(tmp_path):
    done = subprocess.run(
        [
            "nvcc",
            "-std=c++17",
            "-arch=sm_80",
            "-shared",
            "-Xcompiler",
            "-fPIC",
            str(Path(__file__).parent.parent / "tricky_kernels.cu"),
            "-o",
            str(tmp_path / "x.so"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def kernel_check(*args: str, **environment: str) -> subprocess.CompletedProcess:
    """Run kernel_check.py in a process of its own."""
    return subprocess.run(
        [sys.executable, str(CSRC / "kernel_check.py"), *args],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_every_kernel_is_right_under_both_compilers(compiler, mode):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} found")
    done = kernel_check("--mode", mode, CXX=compiler)
    assert done.returncode == 0 and done.stdout.count("ok ") == 10, done.stdout + done.stderr


@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_the_portable_fibers_give_the_same(mode):
    done = kernel_check("--mode", mode, EMU_FLAGS="-DEMU_UCONTEXT=1")
    assert done.returncode == 0 and done.stdout.count("ok ") == 10, done.stdout + done.stderr


@needs_gdb
@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
def test_gdb_stops_in_one_thread_of_one_block(tmp_path):
    line = next(
        n
        for n, text in enumerate((CSRC / "ladder/reduction.cu").read_text().splitlines(), 1)
        if "outside the if" in text
    )
    script = tmp_path / "commands"
    script.write_text(
        f"set breakpoint pending on\nbreak reduction.cu:{line} if threadIdx.x == 5 && blockIdx.x == 1 && half == 64\n"
        "run\nprint i\nprint half\nprint threadIdx\n"
    )
    done = subprocess.run(
        [
            "gdb",
            "-q",
            "-batch",
            "-x",
            str(script),
            "--args",
            sys.executable,
            str(CSRC / "kernel_check.py"),
            "reduction",
            "--mode",
            "debug",
        ],
        capture_output=True,
        text=True,
    )
    assert (
        "$1 = 261" in done.stdout and "$2 = 64" in done.stdout and "{x = 5, y = 0, z = 0}" in done.stdout
    ), done.stdout


@needs_gdb
@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
def test_a_fault_stops_gdb_in_the_guilty_thread(tmp_path):
    (tmp_path / "oob.cu").write_text(
        "#include <cuda_runtime.h>\n__global__ void k(float* x) {\n  x[threadIdx.x] = 1;\n}\n"
        'extern "C" int go(float* x, cudaStream_t) { k<<<1, 40>>>(x); return cudaGetLastError(); }\n'
    )
    (tmp_path / "go.py").write_text(
        "import torch\nfrom cuda_library import CudaLibrary\n"
        f"CudaLibrary('{tmp_path}/oob.cu', 'check').call('go', x=torch.zeros(32))\n"
    )
    (tmp_path / "commands").write_text("run\nbacktrace\nprint threadIdx\n")
    done = subprocess.run(
        [
            "gdb",
            "-q",
            "-batch",
            "-x",
            str(tmp_path / "commands"),
            "--args",
            sys.executable,
            str(tmp_path / "go.py"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "EMU_STOP": "1", "PYTHONPATH": str(CSRC)},
    )
    assert "just past the end of x" in done.stdout + done.stderr, done.stdout
    assert "oob.cu:3" in done.stdout and "{x = 32, y = 0, z = 0}" in done.stdout, done.stdout
