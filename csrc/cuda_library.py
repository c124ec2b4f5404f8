"""Calls the functions of a compiled .cu file with torch tensors, through ctypes: raw pointers and a stream.

Adds to cuda_build.py: the library as an object. In check mode each tensor is handed over as a copy with unused
memory around it, outputs start as NaN, and the checker's sentence comes back as a KernelFault. Used by kernels.py:
    CudaLibrary("csrc/ladder/vector_add.cu", "check").call("vector_add", x=x, y=y, out_z=z, n=1000)
"""
import ctypes
import re
import subprocess
import threading
from pathlib import Path

import torch

from cuda_build import build

COUNTERS = ("global_read", "global_write", "global_atomic", "shared_read", "shared_write", "barriers", "shuffles")
GUARD = 1 << 20  # bytes of unused memory on both sides of a tensor in check mode
MAX_STATIC_SHARED = 48 << 10  # bytes of __shared__ arrays that one kernel may declare; nvcc refuses more
ONE_AT_A_TIME = threading.Lock()  # the emulator is one machine


class KernelFault(RuntimeError):
    """What the checker (or the GPU) says about a kernel."""


def shared_variables(library: Path) -> list:
    """(offset, bytes, function, name) of each __shared__ array, from the symbol table of an emulated library."""
    listing = subprocess.run(["readelf", "-sWC", str(library)], capture_output=True, text=True).stdout
    found = {}
    for line in listing.splitlines():
        field = line.split(None, 7)
        if len(field) == 8 and field[3] == "TLS" and field[6] != "UND":
            function, _, name = field[7].rpartition("::")
            found[int(field[1], 16)] = (int(field[2], 0), function, name)
    return [(offset, *rest) for offset, rest in sorted(found.items())]


class CudaLibrary:
    """The `extern "C"` functions of one .cu file, in mode "fast", "check", "debug" (CPU) or "gpu"."""

    def __init__(self, cu: str | Path, mode: str = "fast", flags: tuple = ()):
        arch = "sm_80"
        if mode == "gpu":
            major, minor = torch.cuda.get_device_capability()
            arch = f"sm_{major}{minor}"
        self.source = Path(cu).read_text()
        self.mode, self.path = mode, build(Path(cu), mode, flags, arch)
        self.c = ctypes.CDLL(str(self.path))
        if mode == "gpu":
            return
        self.c.cudaGetErrorString.restype = ctypes.c_char_p
        if mode == "check":
            self.c.emu_profile.restype = ctypes.c_char_p
            used = {}
            for offset, size, function, name in shared_variables(self.path):
                self.c.emu_shared_variable(ctypes.c_size_t(offset), ctypes.c_size_t(size), name.encode())
                used[function] = used.get(function, 0) + (size if function else 0)
            for function, size in used.items():
                if size > MAX_STATIC_SHARED:
                    raise KernelFault(f"{function} declares {size} bytes of __shared__ arrays: a kernel has at most 49152")

    def call(self, function: str, profile: bool = False, **arguments) -> None:
        """Call `function` with the arguments in their order. Tensors go as pointers, int, float and bool by value.

        The name of an output tensor begins with out_: in check mode it starts uninitialised. Tensors must be
        contiguous, on the CPU ("gpu": on the GPU). Raises KernelFault with the checker's sentence, NotImplementedError
        where the kernel meets a blank exercise: a line `__trap();  // exercise c.1: vector add`.
        """
        with ONE_AT_A_TIME:
            self._call(function, profile, arguments)

    def _call(self, function: str, profile: bool, arguments: dict) -> None:
        values, copies = [], []
        if self.mode == "check":
            self.c.emu_forget_tensors()
            self.c.emu_reset_counters(int(profile))
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                if not value.is_contiguous() or value.is_cuda != (self.mode == "gpu"):
                    raise ValueError(f"{name} of {function} must be contiguous and on the "
                                     f"{'GPU' if self.mode == 'gpu' else 'CPU'}: call .contiguous() or .to(device)")
                if self.mode == "check":
                    room, copy = self._guarded(name, value)
                    copies.append((value, copy, room))
                    value = copy
                values.append(ctypes.c_void_p(value.data_ptr()))
            else:
                kind = {bool: ctypes.c_bool, int: ctypes.c_int, float: ctypes.c_float}[type(value)]
                values.append(kind(value))
        stream = torch.cuda.current_stream().cuda_stream if self.mode == "gpu" else 0
        code = getattr(self.c, function)(*values, ctypes.c_void_p(stream))
        for original, copy, _ in copies:
            original.copy_(copy)
        if code and self.mode == "gpu":
            raise KernelFault(f"CUDA error {code} in {function}: run it on the CPU in check mode to learn why")
        if code:
            sentence = self.c.cudaGetErrorString(code).decode()
            trap = re.search(r"__trap\(\) of line (\d+)", sentence)
            blank = trap and re.search(r"exercise \w+\.\d+: .*", self.source.splitlines()[int(trap[1]) - 1])
            if blank:
                raise NotImplementedError(blank[0])
            raise KernelFault(re.sub(r"\bout_(\w+)", r"\1", sentence))

    def _guarded(self, name: str, value: torch.Tensor) -> tuple:
        """A copy with GUARD unused bytes on both sides, registered with the checker. Returns (its room, the copy)."""
        size, output = value.numel() * value.element_size(), name.startswith("out_")
        room = torch.empty(size + 2 * GUARD + 64, dtype=torch.uint8)
        start = GUARD + -(room.data_ptr() + GUARD) % 64
        copy = room[start:start + size].view(value.dtype).view(value.shape)
        if output:
            room[start:start + size] = 0xFF  # not a number, if nobody writes it
        else:
            copy.copy_(value)
        self.c.emu_tensor(ctypes.c_void_p(copy.data_ptr()), ctypes.c_size_t(size), name.encode(), int(not output))
        return room, copy

    def counts(self) -> dict:
        """Bytes moved, barriers and shuffles of the last call (check mode): a dictionary of COUNTERS."""
        numbers = (ctypes.c_uint64 * len(COUNTERS))()
        self.c.emu_counters(numbers)
        return dict(zip(COUNTERS, numbers))

    def profile(self) -> dict:
        """{(file, line, "shared" or "global", "read" or "write"): (warp requests, cost, least cost)} of one block.

        cost: passes over the banks of shared memory, or 32-byte sectors of global memory. After call(profile=True).
        """
        table = {}
        for row in self.c.emu_profile().decode().splitlines():
            line, space, access, *numbers = row.split()
            if ":" not in line:
                continue
            file, _, number = line.rpartition(":")
            key = (file, int(number), space, access)
            table[key] = tuple(a + int(b) for a, b in zip(table.get(key, (0, 0, 0)), numbers))
        return table
