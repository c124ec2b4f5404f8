"""The rungs of flash/ as a table, and their C functions as functions of tensors.

Adds to cuda_library.py: which file is which rung, what numbers and head widths it takes, how it is called.
The kernels themselves are flash_attention.cu (rung 0) and flash/ (rungs 1 to 5); kernels.py chooses one.
    lib = library(FORWARD[4], width=64, mode="check");  o, lse = flash_forward(lib, q, k, v, causal=True)
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from cuda_library import CudaLibrary

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    number: int
    source: str  # below csrc/
    dtype: torch.dtype  # of Q, K, V and O; sums are float32
    step: int  # head widths it is compiled for: multiples of this; 0: 32, 64 and 128
    idea: str

    def width(self, D: int) -> int:
        """The least head width of this rung that holds D columns."""
        if self.step:
            return -(-D // self.step) * self.step
        return next(width for width in (32, 64, 128) if width >= D)


FP32, BF16 = torch.float32, torch.bfloat16
FORWARD = {
    0: Rung(0, "flash_attention.cu", FP32, 8, "a thread computes one score at a time"),
    1: Rung(1, "flash/flash_1_registers.cu", FP32, 32, "a thread computes 8 x 8 scores from registers"),
    2: Rung(2, "flash/flash_2_mma.cu", BF16, 0, "tensor cores; P stays in registers"),
    3: Rung(3, "flash/flash_3_swizzle.cu", BF16, 0, "ldmatrix from swizzled tiles"),
    4: Rung(4, "flash/flash_4_pipeline.cu", BF16, 0, "copies ahead, exp2, masks only where needed")}
BACKWARD = {0: Rung(0, "flash_attention.cu", FP32, 8, "fp32, dQ by atomics"),
            5: Rung(5, "flash/flash_5_backward.cu", BF16, 0, "tensor cores, five products, dQ by atomics")}
DETERMINISTIC = Rung(5, "flash/flash_5_deterministic.cu", BF16, 0, "tensor cores, seven products, no atomics")
FORWARD[5] = FORWARD[4]  # rung 5 adds the backward pass


@functools.cache
def compiled(source: str, text: str, mode: str, flags: tuple) -> CudaLibrary:
    """The compiled library of csrc/`source`, once per process for each content `text`."""
    return CudaLibrary(HERE / source, mode, flags)


def load(source: str, mode: str = "fast", flags: tuple = ()) -> CudaLibrary:
    """csrc/`source`, compiled at first use and again when the file, or a header beside it, has changed."""
    headers = sorted((HERE / source).parent.glob("*.cuh"))
    return compiled(source, "".join(path.read_text() for path in [HERE / source, *headers]), mode, flags)


def library(rung: Rung, width: int, mode: str, flags: tuple = ()) -> CudaLibrary:
    """The library of one rung for a head width; flags: other choices, such as -DSWIZZLE=0."""
    return load(rung.source, mode, (f"-DHEAD_WIDTH={width}", *flags))


def flash_forward(lib: CudaLibrary, q, k, v, causal: bool, scale: float = 0.0, **options) -> tuple:
    """q (B, H, T, D), k and v (B, K, T, D) -> O (B, H, T, D), the scores' log-sum-exp (B, H, T) in float32.

    scale: of the scores; 0 means 1 / sqrt(D).
    """
    B, H, T, D = q.shape
    o, lse = torch.empty_like(q), torch.empty(B, H, T, device=q.device)
    sizes = dict(heads=B * H, T=T, group=H // k.shape[1], scale=scale or D**-0.5, causal=causal)
    lib.call("flash_forward", q=q, k=k, v=v, out_o=o, out_lse=lse, **sizes, **options)
    return o, lse


def flash_backward(lib: CudaLibrary, q, k, v, o, lse, d_o, causal: bool, scale: float = 0.0,
                   **options) -> tuple:
    """The gradients dq (B, H, T, D), dk and dv (B, K, T, D) of sum(O * d_o), d_o (B, H, T, D)."""
    B, H, T, D = q.shape
    delta, dq, dk, dv = torch.empty_like(lse), torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    scratch = {}
    if lib.cu.name == "flash_5_backward.cu":  # dQ is added up in fp32, tile by tile of 64 rows
        scratch = dict(out_sums=torch.empty(B * H, -(-T // 64), 64 * D, device=q.device))
    sizes = dict(heads=B * H, T=T, group=H // k.shape[1], scale=scale or D**-0.5, causal=causal)
    outputs = dict(out_delta=delta, **scratch, out_dq=dq, out_dk=dk, out_dv=dv)
    lib.call("flash_backward", q=q, k=k, v=v, o=o, lse=lse, d_o=d_o, **outputs, **sizes, **options)
    return dq, dk, dv
