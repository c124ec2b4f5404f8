"""What each rung asks of a multiprocessor, counted on the emulator, and what speed that allows.

Adds to flash_rungs.py: one row a rung. No GPU is needed, and nothing here is a measurement of one: a bound is
what a rung could reach if it waited for its busiest unit only. Used by bench_gpu.py.
"""

from dataclasses import dataclass

import torch

from attention_traffic import inputs
from flash_rungs import BACKWARD, DETERMINISTIC, FORWARD, Rung, flash_backward, flash_forward, library, load

# An H100 or H200 (known elsewhere: NVIDIA's data sheet; mma.sync at 63% of wgmma's rate: arXiv 2402.13499)
MULTIPROCESSORS, HERTZ = 132, 1.98e9
FMA_A_CYCLE = 128  # multiply-adds in fp32 of one multiprocessor
MMA_A_CYCLE = 2580 / 2  # multiply-adds of mma.sync in bf16


@dataclass(frozen=True)
class Count:
    """One kernel, or what a rung launches, on one head of length T, not causal."""

    name: str
    T: int
    D: int
    products: int  # that attention needs: 2 forward, 5 backward
    global_bytes: int
    turns: int  # of the banks of shared memory
    least_turns: int  # without any conflict
    mma: int
    mma_during_copies: int

    @property
    def turns_a_score(self) -> float:
        """Turns of shared memory for each of the T x T scores."""
        return self.turns / self.T**2

    @property
    def cycles_a_score(self) -> dict:
        """Cycles of one multiprocessor for a score: of shared memory, and of the arithmetic."""
        cycles = self.mma * 16 * 8 * 16 / MMA_A_CYCLE or self.products * self.T**2 * self.D / FMA_A_CYCLE
        return {"shared": self.turns_a_score, "arithmetic": cycles / self.T**2}

    @property
    def bound(self) -> float:
        """TFLOP/s if the busiest of the two were the only one to wait for."""
        useful = self.products * 2 * self.D  # operations of a score
        return useful / max(self.cycles_a_score.values()) * MULTIPROCESSORS * HERTZ / 1e12


def count(name: str, lib, T: int, D: int, products: int) -> Count:
    """The last call of `lib`, which must have been made with profile=2."""
    counts, profile = lib.counts(), lib.profile()
    shared = [(turns, least) for (_, _, space, _), (_, turns, least) in profile.items() if space == "shared"]
    turns, least = (sum(column) for column in zip(*shared))
    moved = sum(counts[f"global_{kind}"] for kind in ("read", "write", "atomic"))
    return Count(name, T, D, products, moved, turns, least, counts["mma"], counts["mma_during_copies"])


def head(T: int, D: int, dtype: torch.dtype) -> list:
    """q, k, v and d_o of one head, (1, 1, T, D) each."""
    return [x.to(dtype) for x in inputs(T, D)]


def count_naive(T: int, D: int) -> Count:
    """The three kernels of attention_naive.cu."""
    q, k, v, _ = head(T, D, torch.float32)
    lib, scores = load("attention_naive.cu", "check"), torch.empty(1, 1, T, T)
    sizes = dict(heads=1, T=T, D=D, group=1, scale=D**-0.5, causal=False)
    lib.call("naive_forward", profile=2, Q=q, K=k, V=v, out_S=scores, out_O=torch.empty_like(q), **sizes)
    return count("naive", lib, T, D, 2)


def count_forward(rung: Rung, T: int, D: int, flags: tuple = (), name: str = "") -> Count:
    """The forward pass of one rung."""
    lib = library(rung, D, "check", flags)
    q, k, v, _ = head(T, D, rung.dtype)
    flash_forward(lib, q, k, v, False, profile=2)
    return count(name or f"rung {rung.number}", lib, T, D, 2)


def count_backward(rung: Rung, T: int, D: int, name: str = "") -> Count:
    """The backward pass of one rung."""
    q, k, v, d_o = head(T, D, rung.dtype)
    o, lse = flash_forward(library(FORWARD[5 if rung.number else 0], D, "fast"), q, k, v, False)
    lib = library(rung, D, "check")
    flash_backward(lib, q, k, v, o, lse, d_o, False, profile=2)
    return count(name or f"rung {rung.number}", lib, T, D, 5)


def launches(source: str, D: int) -> dict:
    """{kernel: (threads of a block, bytes of dynamic shared memory)} of all that csrc/`source` launches."""
    launched = {}
    for rungs, back in ((FORWARD.values(), False), ((*BACKWARD.values(), DETERMINISTIC), True)):
        for rung in (rung for rung in rungs if rung.source == source):
            q, k, v, d_o = head(64, D, rung.dtype)
            lib = library(rung, D, "fast")
            if back:
                flash_backward(lib, q, k, v, torch.zeros_like(q), torch.zeros(1, 1, 64), d_o, False)
            else:
                flash_forward(lib, q, k, v, False)
            launched |= {name: (threads, dynamic) for name, _, threads, dynamic in lib.launches()}
    return launched


def all_counts(D: int, T: int = 256, T_backward: int = 128) -> tuple[list, list]:
    """(forward, backward): a Count of each kernel for head width D."""
    forward = [count_naive(T, D), *(count_forward(FORWARD[n], T, D) for n in range(5))]
    forward.insert(4, count_forward(FORWARD[3], T, D, ("-DSWIZZLE=0",), "rung 3, no swizzle"))
    backward = [count_backward(BACKWARD[n], T_backward, D) for n in (0, 5)]
    return forward, [*backward, count_backward(DETERMINISTIC, T_backward, D, "rung 5, no atomics")]
