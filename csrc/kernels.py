"""Attention by our own CUDA kernels, on a GPU or emulated on the CPU, differentiable by torch.

Adds to cuda_library.py: shapes, autograd, and the choice of machine. FlashAttention: arXiv 2205.14135,
2307.08691. Built at first use. Where there is no compiler, one sentence is printed and plain torch computes
the same.
    from kernels import flash_attention;  o = flash_attention(q, k, v, causal=True)
"""

import functools
import shutil
import sys
import warnings
from pathlib import Path

import torch

from cuda_build import cpu_compiler
from cuda_library import CudaLibrary, KernelFault

HERE = Path(__file__).resolve().parent
__all__ = [
    "KernelFault",
    "attention_torch",
    "available",
    "flash_attention",
    "load",
    "naive_attention",
    "why_not",
]


def why_not(device: str = "cpu") -> str:
    """Why the kernels cannot run on this device, in one sentence; "" if they can."""
    if str(device).startswith("cuda"):
        if not torch.cuda.is_available():
            return "no CUDA device found: the kernels run emulated on the CPU"
        return (
            ""
            if shutil.which("nvcc")
            else "no nvcc found: install the CUDA toolkit to run the kernels on the GPU"
        )
    if sys.platform == "win32":
        return "the CPU emulation needs fibers of POSIX: on Windows run it in WSL"
    return (
        ""
        if cpu_compiler()
        else "no C++ compiler found: install g++ or clang++ to run the kernels on the CPU"
    )


def available(device: str = "cpu") -> bool:
    """Can the kernels run on this device ("cpu": emulated, "cuda")? why_not(device) says what is missing."""
    return not why_not(device)


@functools.cache
def library(source: str, text: str, mode: str, flags: tuple) -> CudaLibrary:
    """The compiled library of csrc/`source`, once per process for each content `text`."""
    return CudaLibrary(HERE / source, mode, flags)


def load(source: str, mode: str = "fast", flags: tuple = ()) -> CudaLibrary:
    """csrc/`source`, compiled at first use and again whenever the file has changed."""
    return library(source, (HERE / source).read_text(), mode, flags)


def attention_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True) -> torch.Tensor:
    """The same attention in plain torch: (B, H, T, D), (B, K, T, D), (B, K, T, D) -> (B, H, T, D)."""
    group, T = q.shape[1] // k.shape[1], q.shape[2]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # (B, H, T, D)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (B, H, T, T)
    if causal:
        future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


def check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Raise ValueError, one sentence, for shapes and types that the kernels do not take."""
    if q.dim() != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: "
            "want (B, H, T, D) and twice (B, K, T, D)"
        )
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads: choose a divisor of {q.shape[1]}"
        )
    if q.shape[3] % 8 or not 16 <= q.shape[3] <= 128:
        raise ValueError(f"head width {q.shape[3]}: the kernels take multiples of 8 from 16 to 128")
    if not q.dtype == k.dtype == v.dtype == torch.float32:
        raise ValueError(f"the kernels compute in float32, not {q.dtype}: call .float()")
    if min(q.shape) < 1:
        raise ValueError(f"q {tuple(q.shape)} is empty: attention needs at least one token")


def flash_forward(lib: CudaLibrary, q, k, v, causal: bool, **options) -> tuple:
    """q (B, H, T, D), k and v (B, K, T, D) -> O (B, H, T, D) and the log-sum-exp of the scores (B, H, T)."""
    B, H, T, D = q.shape
    o, lse = torch.empty_like(q), q.new_empty(B, H, T)
    lib.call(
        "flash_forward",
        q=q,
        k=k,
        v=v,
        out_o=o,
        out_lse=lse,
        heads=B * H,
        T=T,
        group=H // k.shape[1],
        scale=D**-0.5,
        causal=causal,
        **options,
    )
    return o, lse


def flash_backward(lib: CudaLibrary, q, k, v, o, lse, d_o, causal: bool, **options) -> tuple:
    """The gradients dq (B, H, T, D), dk and dv (B, K, T, D) of sum(O * d_o), d_o (B, H, T, D)."""
    B, H, T, D = q.shape
    delta, dq, dk, dv = torch.empty_like(lse), torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    lib.call(
        "flash_backward",
        q=q,
        k=k,
        v=v,
        o=o,
        lse=lse,
        d_o=d_o,
        out_delta=delta,
        out_dq=dq,
        out_dk=dk,
        out_dv=dv,
        heads=B * H,
        T=T,
        group=H // k.shape[1],
        scale=D**-0.5,
        causal=causal,
        **options,
    )
    return dq, dk, dv


class FlashAttention(torch.autograd.Function):
    """Keeps Q, K, V, O and one number per row for the backward pass: no T x T matrix."""

    @staticmethod
    def forward(ctx, q, k, v, causal: bool, mode: str):
        """(B, H, T, D), (B, K, T, D), (B, K, T, D) -> (B, H, T, D)."""
        lib = load("flash_attention.cu", mode, (f"-DHEAD_WIDTH={q.shape[3]}",))
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        o, lse = flash_forward(lib, q, k, v, causal)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.lib, ctx.causal = lib, causal
        return o

    @staticmethod
    def backward(ctx, d_o):
        """(B, H, T, D) -> the gradients of q, k and v."""
        if torch.is_grad_enabled():  # create_graph=True: what lse depends on would be missing, without a word
            raise NotImplementedError("the kernel has no second derivative: use attention_torch for that")
        return *flash_backward(ctx.lib, *ctx.saved_tensors, d_o.contiguous(), ctx.causal), None, None


def flash_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True, mode: str = ""
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D), causal or not) v by csrc/flash_attention.cu. Differentiable once, float32.

    q (B, H, T, D); k, v (B, K, T, D) with K a divisor of H; returns (B, H, T, D). mode: "gpu" for CUDA
    tensors and "fast" else, unless given: "check" or "debug". Raises ValueError for other shapes and types.
    """
    check_shapes(q, k, v)
    reason = why_not(q.device.type)
    if reason:
        warnings.warn(f"{reason}; plain torch computes the attention", stacklevel=2)
        return attention_torch(q, k, v, causal)
    return FlashAttention.apply(q, k, v, causal, mode or ("gpu" if q.is_cuda else "fast"))


def naive_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True, mode: str = ""
) -> torch.Tensor:
    """The same by the three kernels of attention_naive.cu, forward only, to measure against."""
    check_shapes(q, k, v)
    B, H, T, D = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    scores, o = q.new_empty(B, H, T, T), torch.empty_like(q)
    load("attention_naive.cu", mode or ("gpu" if q.is_cuda else "fast")).call(
        "naive_forward",
        Q=q,
        K=k,
        V=v,
        out_S=scores,
        out_O=o,
        heads=B * H,
        T=T,
        D=D,
        group=H // k.shape[1],
        scale=D**-0.5,
        causal=causal,
    )
    return o
