"""The five kernels of ladder/ as functions on torch tensors: what comes before attention, one new idea each.

Adds to cuda_library.py: nothing but the calls. `python csrc/kernel_check.py` runs them all.
"""

import torch

from cuda_library import CudaLibrary
from kernels import load


def ladder(name: str, mode: str = "check", flags: tuple = ()) -> CudaLibrary:
    """The compiled library of ladder/`name`.cu; mode "check" watches every memory access."""
    return load(f"ladder/{name}.cu", mode, flags)


def vector_add(x: torch.Tensor, y: torch.Tensor, mode: str = "check") -> torch.Tensor:
    """x + y for two tensors of shape (n)."""
    z = torch.empty_like(x)
    ladder("vector_add", mode).call("vector_add", x=x, y=y, out_z=z, n=x.numel())
    return z


def reduction(x: torch.Tensor, mode: str = "check") -> torch.Tensor:
    """The sum of each 256 numbers of x (n): (ceil(n / 256)). Their sum is the sum of x."""
    partial = x.new_empty((x.numel() + 255) // 256)
    ladder("reduction", mode).call("reduction", x=x, out_partial=partial, n=x.numel())
    return partial


def transpose(x: torch.Tensor, mode: str = "check", flags: tuple = (), profile: bool = False) -> torch.Tensor:
    """x (rows, cols) -> its transpose (cols, rows), contiguous."""
    rows, cols = x.shape
    y = x.new_empty(cols, rows)
    ladder("transpose", mode, flags).call("transpose", profile=profile, x=x, out_y=y, rows=rows, cols=cols)
    return y


def matmul(A: torch.Tensor, B: torch.Tensor, mode: str = "check") -> torch.Tensor:
    """A (n, k) times B (k, m) -> (n, m)."""
    (n, k), m = A.shape, B.shape[1]
    C = A.new_empty(n, m)
    ladder("matmul", mode).call("matmul", A=A, B=B, out_C=C, n=n, k=k, m=m)
    return C


def online_softmax(x: torch.Tensor, mode: str = "check") -> torch.Tensor:
    """The softmax of each row of x (rows, n)."""
    y = torch.empty_like(x)
    ladder("online_softmax", mode).call("online_softmax", x=x, out_y=y, rows=x.shape[0], n=x.shape[1])
    return y
