"""Attention by our own CUDA kernels, on a GPU or emulated on the CPU, differentiable by torch.

Adds to flash_rungs.py: shapes, limits, autograd, and the choice of rung and machine. FlashAttention: arXiv
2205.14135, 2307.08691. Built at first use. Where there is no compiler, one sentence is printed and plain
torch computes the same.
    from kernels import flash_attention;  o = flash_attention(q, k, v, causal=True)
"""

import shutil
import sys
import warnings

import torch

from cuda_build import cpu_compiler, no_compiler
from cuda_library import CudaLibrary, KernelFault
from flash_rungs import BACKWARD, DETERMINISTIC, FORWARD, flash_backward, flash_forward, library, load

__all__ = ["CudaLibrary", "KernelFault", "attention_torch", "available", "flash_attention", "flash_backward",
           "flash_forward", "load", "naive_attention", "why_not"]
MOST_BLOCKS = 65535  # in the y direction of a grid
MOST_NUMBERS = 2**31 - 1  # what an int counts


def why_not(device: str = "cpu") -> str:
    """Why the kernels cannot run on this device, in one sentence; "" if they can."""
    kind = str(device).split(":")[0]
    if kind == "cuda":
        if not torch.cuda.is_available():
            return "no CUDA device found: the kernels run emulated on the CPU"
        if not shutil.which("nvcc"):
            return "no nvcc found: install the CUDA toolkit to run the kernels on the GPU"
    elif kind != "cpu":
        return f"the kernels run on CUDA devices and emulated on the CPU, not on {kind}"
    elif sys.platform == "win32":
        return "the CPU emulation needs fibers of POSIX: on Windows run it in WSL"
    elif not cpu_compiler():
        return no_compiler()
    return ""


def available(device: str = "cpu") -> bool:
    """Can the kernels run on this device ("cpu": emulated, "cuda")? why_not(device) says what is missing."""
    return not why_not(device)


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
    """Raise ValueError, one sentence, for shapes, sizes and types that the kernels do not take."""
    if q.dim() != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: "
                         "want (B, H, T, D) and twice (B, K, T, D)")
    B, H, T, D = q.shape
    if min(*q.shape, k.shape[1]) < 1:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}: attention needs at least one token")
    if H % k.shape[1]:
        raise ValueError(f"{H} query heads cannot share {k.shape[1]} key heads: choose a divisor of {H}")
    if D % 8 or not 16 <= D <= 128:
        raise ValueError(f"head width {D}: the kernels take multiples of 8 from 16 to 128")
    if not (q.dtype == k.dtype == v.dtype and q.dtype in (torch.float32, torch.bfloat16)):
        raise ValueError(f"the kernels take float32 or bfloat16, the same for q, k and v, not {q.dtype}, "
                         f"{k.dtype}, {v.dtype}: call .float() or .bfloat16()")
    if B * H > MOST_BLOCKS:
        raise ValueError(f"{B} x {H} heads: a GPU has at most {MOST_BLOCKS:,} blocks in y: split the batch")
    if q.numel() > MOST_NUMBERS:
        raise ValueError(f"q {tuple(q.shape)} has {q.numel():,} numbers: the kernels count up to "
                         f"{MOST_NUMBERS:,}: split the batch")


def choose_rung(rung: int | None, dtype: torch.dtype, D: int) -> int:
    """The rung asked for, else the fastest for these numbers. ValueError if it cannot take them."""
    if rung is None:
        return 5 if dtype == torch.bfloat16 else 0 if D % 32 else 1
    if rung not in FORWARD:
        raise ValueError(f"there is no rung {rung}: choose one of 0 to {max(FORWARD)}")
    if FORWARD[rung].dtype != dtype:
        fit = " or ".join(str(n) for n, r in FORWARD.items() if r.dtype == dtype)
        raise ValueError(f"rung {rung} computes in {FORWARD[rung].dtype}, these tensors are {dtype}: "
                         f"choose rung {fit}")
    return rung


def laid_out(x: torch.Tensor, width: int) -> torch.Tensor:
    """x (B, H, T, D) as kernels read it: D filled up to `width` with zeros, contiguous, 16-byte aligned."""
    if x.shape[-1] < width:
        x = torch.nn.functional.pad(x, (0, width - x.shape[-1]))
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


class FlashAttention(torch.autograd.Function):
    """Keeps Q, K, V, O and one number per row for the backward pass: no T x T matrix."""

    @staticmethod
    def forward(ctx, q, k, v, causal: bool, mode: str, rung: int, deterministic: bool):
        """(B, H, T, D), (B, K, T, D), (B, K, T, D) -> (B, H, T, D)."""
        D, forward = q.shape[-1], FORWARD[rung]
        on_tensor_cores = DETERMINISTIC if deterministic else BACKWARD[5]
        ctx.backward_rung = on_tensor_cores if q.dtype == torch.bfloat16 else BACKWARD[0]
        width, ctx.width = forward.width(D), ctx.backward_rung.width(D)
        q, k, v = (laid_out(x, width) for x in (q, k, v))
        o, lse = flash_forward(library(forward, width, mode), q, k, v, causal, D**-0.5)
        ctx.save_for_backward(*(x[..., : ctx.width] for x in (q, k, v, o)), lse)
        ctx.causal, ctx.mode, ctx.D = causal, mode, D
        return o[..., :D]

    @staticmethod
    def backward(ctx, d_o):
        """(B, H, T, D) -> the gradients of q, k and v."""
        if torch.is_grad_enabled():  # create_graph=True: torch does not see what a kernel does
            raise NotImplementedError("the kernel has no second derivative: use attention_torch for that")
        *saved, lse = ctx.saved_tensors
        q, k, v, o, d_o = (laid_out(x, ctx.width) for x in (*saved, d_o))
        lib = library(ctx.backward_rung, ctx.width, ctx.mode)
        gradients = flash_backward(lib, q, k, v, o, lse, d_o, ctx.causal, ctx.D**-0.5)
        return *(x[..., : ctx.D] for x in gradients), None, None, None, None


def flash_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True, mode: str = "",
                    rung: int | None = None, deterministic: bool | None = None) -> torch.Tensor:
    """softmax(q k^T / sqrt(D), causal or not) v by our own kernels. Differentiable once; float32 or bfloat16.

    q (B, H, T, D); k, v (B, K, T, D) with K a divisor of H; returns (B, H, T, D). mode: "gpu" for CUDA
    tensors and "fast" else, unless given: "check" or "debug". rung: 0 or 1 for float32, 2 to 5 for bfloat16,
    by default the fastest. deterministic: bfloat16 gradients without atomics, the same bits in each run; by
    default as torch.use_deterministic_algorithms says. Raises ValueError for other shapes, sizes and types.
    """
    check_shapes(q, k, v)
    rung = choose_rung(rung, q.dtype, q.shape[-1])
    reason = why_not(q.device.type)
    if reason:
        warnings.warn(f"{reason}; plain torch computes the attention", stacklevel=2)
        return attention_torch(q.float(), k.float(), v.float(), causal).to(q.dtype)
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    mode = mode or ("gpu" if q.is_cuda else "fast")
    return FlashAttention.apply(q, k, v, causal, mode, rung, deterministic)


def naive_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True,
                    mode: str = "") -> torch.Tensor:
    """The same by the three kernels of attention_naive.cu, forward only, float32, to measure against."""
    check_shapes(q, k, v)
    if q.dtype != torch.float32:
        raise ValueError(f"the naive kernels compute in float32, not {q.dtype}: call .float()")
    B, H, T, D = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    scores, o = q.new_empty(B, H, T, T), torch.empty_like(q)
    sizes = dict(heads=B * H, T=T, D=D, group=H // k.shape[1], scale=D**-0.5, causal=causal)
    lib = load("attention_naive.cu", mode or ("gpu" if q.is_cuda else "fast"))
    lib.call("naive_forward", Q=q, K=k, V=v, out_S=scores, out_O=o, **sizes)
    return o
