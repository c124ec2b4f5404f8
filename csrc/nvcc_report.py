"""What nvcc says about a kernel: registers, spills, shared memory; how many blocks fit on a multiprocessor.

Adds to cuda_build.py: nothing is run, so it needs nvcc and no GPU. Used by bench_gpu.py --profile and by the
tests that hold the kernels within their budgets.
    report(Path("csrc/flash/flash_4_pipeline.cu"), "sm_90", ("-DHEAD_WIDTH=64",))
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

REGISTERS_OF_SM, SHARED_OF_SM = 65536, {"sm_80": 164 << 10, "sm_90": 228 << 10}  # CUDA C++ guide, 20.1
RESERVED = 1 << 10  # bytes of shared memory that the system takes for each block


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes."""

    name: str
    registers: int  # of a thread
    spilled: int  # bytes of a thread: stores and loads of registers that did not fit
    shared: int  # bytes of static shared memory of a block


def report(cu: Path, arch: str, flags: tuple = ()) -> list[Kernel]:
    """The kernels of one file as ptxas reports them. ValueError with nvcc's first error or warning."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", f"-arch={arch}", "-Xptxas", "-v", "-Werror", "all-warnings",
                   "-shared", "-Xcompiler", "-fPIC", *flags, str(cu), "-o", f"{folder}/x.so"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"nvcc refuses {cu.name}: {done.stderr.splitlines()[0]}")
    kernels = []
    for part in re.split(r"Compiling entry function ", done.stderr)[1:]:
        shared = re.search(r"(\d+) bytes smem", part)
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", part)))
        registers = int(re.findall(r"Used (\d+) registers", part)[0])
        name = re.findall(r"\A'_Z\d+([a-z_]+?_kernel)", part)[0]
        kernels.append(Kernel(name, registers, spilled, int(shared[1]) if shared else 0))
    return sorted(kernels, key=lambda kernel: kernel.name)


def blocks_of_sm(kernel: Kernel, threads: int, dynamic_bytes: int, arch: str) -> int:
    """How many blocks of `threads` threads fit on a multiprocessor: by registers, shared memory, threads."""
    of_a_warp = -(-kernel.registers * 32 // 256) * 256  # registers are given out in units of 256 to a warp
    by_registers = REGISTERS_OF_SM // of_a_warp // (threads // 32)
    by_shared = SHARED_OF_SM[arch] // (kernel.shared + dynamic_bytes + RESERVED)
    return min(by_registers, by_shared, 2048 // threads, 32)
