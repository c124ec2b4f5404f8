"""Times the ladder on a GPU beside torch's attention, forward and backward, in one run.

Prints for each shape and kernel milliseconds, TFLOP/s, the share of the card's peak, and the ratio to
FlashAttention-2 (torch's flash backend). Without a GPU it says so, and prints what the emulator can count:
bytes, turns of shared memory, mma instructions, and the speed if only the busiest unit had to be waited for.
    python csrc/bench_gpu.py                  about two minutes on a GPU, half a minute without
    python csrc/bench_gpu.py --profile        registers, spills, shared memory, occupancy (needs nvcc, no GPU)
    python csrc/bench_gpu.py --shapes 2,16,4096,64 --widths 64
"""

import argparse
import itertools
import shutil
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from torch.nn.attention import SDPBackend, sdpa_kernel

import kernels
import ladder_counts
from flash_rungs import BACKWARD, DETERMINISTIC, FORWARD, HERE, flash_backward, flash_forward, library
from nvcc_report import blocks_of_sm, report

SHAPES = [(4, 16, 2048, 64), (2, 16, 4096, 64), (2, 16, 4096, 128), (1, 8, 16384, 64)]  # B, H, T, D
# TFLOP/s in fp32 and bf16: NVIDIA's data sheets
PEAKS = {"H100": (67, 989), "H200": (67, 989), "A100": (19.5, 312)}
BACKENDS = {"torch efficient, fp32": (SDPBackend.EFFICIENT_ATTENTION, torch.float32),
            "torch flash, bf16": (SDPBackend.FLASH_ATTENTION, torch.bfloat16),
            "cuDNN, bf16": (SDPBackend.CUDNN_ATTENTION, torch.bfloat16)}
BASELINE = "torch flash, bf16"


@dataclass(frozen=True)
class Time:
    """One kernel at one shape."""

    name: str
    way: str  # "forward" or "backward"
    dtype: torch.dtype
    ms: float


def milliseconds(call, device: str, budget: float = 100.0, rounds: int = 5) -> float:
    """The median over rounds of the mean time of many calls in a row: launches hide behind kernels."""
    times, calls = [], 1
    for _ in range(2 + rounds):  # the first two warm up and choose the number of calls
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        if device == "cuda":
            end.record()
            end.synchronize()
        spent = start.elapsed_time(end) if device == "cuda" else 1000 * (time.perf_counter() - began)
        times.append(spent / calls)
        calls = max(1, min(200, int(budget / rounds / times[-1])))
    return sorted(times[2:])[rounds // 2]


def inputs(shape: tuple, dtype: torch.dtype, device: str) -> list:
    """q, k, v and d_o."""
    return [torch.randn(shape, device=device, dtype=dtype) for _ in range(4)]


def time_ours(shape: tuple, causal: bool, device: str) -> list[Time]:
    """The naive kernels, every rung forward, and the backward passes."""
    mode, D, times = "gpu" if device == "cuda" else "fast", shape[-1], []
    q, k, v, _ = inputs(shape, torch.float32, device)
    if shape[0] * shape[1] * shape[2] ** 2 < 2**31:  # its T x T scores
        naive = milliseconds(lambda: kernels.naive_attention(q, k, v, causal, mode), device)
        times.append(Time("naive, three kernels", "forward", torch.float32, naive))
    for number in range(5):
        rung = FORWARD[number]
        lib, (q, k, v, _) = library(rung, D, mode), inputs(shape, rung.dtype, device)
        ms = milliseconds(lambda: flash_forward(lib, q, k, v, causal), device)
        times.append(Time(f"rung {number}", "forward", rung.dtype, ms))
    backward = {"rung 0": BACKWARD[0], "rung 5": BACKWARD[5], "rung 5, no atomics": DETERMINISTIC}
    for name, rung in backward.items():
        q, k, v, d_o = inputs(shape, rung.dtype, device)
        o, lse = flash_forward(library(FORWARD[rung.number], D, mode), q, k, v, causal)
        lib = library(rung, D, mode)
        ms = milliseconds(lambda: flash_backward(lib, q, k, v, o, lse, d_o, causal), device)
        times.append(Time(name, "backward", rung.dtype, ms))
    return times


def time_torch(shape: tuple, causal: bool, device: str) -> list[Time]:
    """Torch's own kernels, and attention written in plain torch."""
    times = []
    for name, (backend, dtype) in {"plain torch, fp32": (None, torch.float32), **BACKENDS}.items():
        if backend is None and shape[0] * shape[1] * shape[2] ** 2 >= 2**31:
            continue
        q, k, v, d_o = inputs(shape, dtype, device)
        leaves = [x.requires_grad_() for x in (q, k, v)]

        def attend():
            if backend is None:
                return kernels.attention_torch(q, k, v, causal)
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

        try:
            with sdpa_kernel(backend) if backend else nullcontext():
                with torch.no_grad():
                    times.append(Time(name, "forward", dtype, milliseconds(attend, device)))
                o = attend()
                back = milliseconds(lambda: torch.autograd.grad(o, leaves, d_o, retain_graph=True), device)
                times.append(Time(name, "backward", dtype, back))
        except RuntimeError as reason:
            print(f"{name} does not run at {shape}: {str(reason).splitlines()[0]}")
    return times


def print_times(shape: tuple, causal: bool, times: list[Time], device: str) -> None:
    """One table: TFLOP/s counts 2 products forward and 5 backward, half of them where causal."""
    B, H, T, D = shape
    card = torch.cuda.get_device_name() if device == "cuda" else ""
    peaks = next((both for name, both in PEAKS.items() if name in card), None)
    print(f"\nB {B}, H {H}, T {T}, D {D}, {'causal' if causal else 'not causal'}")
    print(f"{'':32} {'ms':>9} {'TFLOP/s':>8} {'of peak':>8} {'x flash':>8}")
    for way, products in (("forward", 2), ("backward", 5)):
        baseline = next((x.ms for x in times if (x.name, x.way) == (BASELINE, way)), None)
        for x in (x for x in times if x.way == way):
            tflops = products * 2 * B * H * T * T * D / (2 if causal else 1) / x.ms / 1e9
            share = f"{tflops / peaks[x.dtype == torch.bfloat16]:8.1%}" if peaks else f"{'-':>8}"
            ratio = f"{baseline / x.ms:8.2f}" if baseline else f"{'-':>8}"
            print(f"{way:8} {x.name:23} {x.ms:9.3f} {tflops:8.1f} {share} {ratio}", flush=True)


def print_counts(widths: list) -> None:
    """What the emulator counts, and what follows for the busiest unit."""
    print("Counted on the emulator: one head, not causal, T = 256 forward and 128 backward. For each score:\n"
          "turns of shared memory, and cycles of the arithmetic. Bound: TFLOP/s on an H100 or H200 if the\n"
          "busier of the two were all that counts. No time of a GPU is in this table.")
    for D in widths:
        print(f"\nD {D:<23} {'global KiB':>10} {'turns':>7} {'conflicts':>9} {'cycles':>7} {'mma':>6} "
              f"{'copying':>8} {'bound':>6}")
        for way, rows in zip(("forward", "backward"), ladder_counts.all_counts(D)):
            for row in rows:
                copying = f"{row.mma_during_copies / row.mma:8.0%}" if row.mma else f"{'-':>8}"
                arithmetic, conflicts = row.cycles_a_score["arithmetic"], row.turns / row.least_turns
                line = f"{way:8} {row.name:18} {row.global_bytes / 1024:8.0f} {row.turns_a_score:7.3f}"
                print(f"{line} {conflicts:9.2f} {arithmetic:7.3f} {row.mma:6} {copying} {row.bound:6.0f}",
                      flush=True)
    print("\nconflicts: turns over the least possible (rung 1: pairs of lanes read the same 16 bytes, and a\n"
          "GPU is said to serve such a pair at once; the emulator does not count on it). copying: share of\n"
          "the mma during which the next tile is on its way.")


def print_profile(widths: list, arches: tuple = ("sm_80", "sm_90")) -> None:
    """Registers, spills, shared memory and occupancy of every kernel, as nvcc compiles it."""
    print(f"{'':44} {'arch':6} registers  spills, B  shared, KiB  threads  blocks/SM")
    rungs = [*FORWARD.values(), *BACKWARD.values(), DETERMINISTIC]
    for source, D in itertools.product(dict.fromkeys(rung.source for rung in rungs), widths):
        launched = ladder_counts.launches(source, D)
        for arch in arches:
            for kernel in report(HERE / source, arch, (f"-DHEAD_WIDTH={D}",)):
                threads, dynamic = launched[kernel.name]
                fit, shared = blocks_of_sm(kernel, threads, dynamic, arch), (kernel.shared + dynamic) / 1024
                name = f"{(HERE / source).stem:21} D {D:3} {kernel.name[6:-7]:15} {arch:6}"
                print(f"{name} {kernel.registers:9} {kernel.spilled:10} {shared:12.1f} {threads:8} {fit:10}",
                      flush=True)


def parse_shape(text: str) -> tuple:
    """"4,16,2048,64" -> (4, 16, 2048, 64)."""
    numbers = text.split(",")
    if len(numbers) != 4 or not all(n.isdigit() and int(n) for n in numbers):
        sys.exit(f"{text} is no shape: write B,H,T,D, for example 4,16,2048,64")
    return tuple(map(int, numbers))


def main() -> None:
    """Time on a GPU, or count."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--profile", action="store_true", help="what nvcc says of the kernels instead")
    parser.add_argument("--shapes", nargs="*", help="B,H,T,D (default: those of the lesson)")
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128],
                        help="head widths to count or profile: 32, 64, 128")
    args = parser.parse_args()
    if args.profile:
        if not shutil.which("nvcc"):
            sys.exit("no nvcc found: install the CUDA toolkit to see registers and spills")
        return print_profile(args.widths)
    missing = kernels.why_not("cuda")
    if missing:
        print(f"No times: {missing}.\n")
        if kernels.why_not():
            sys.exit(kernels.why_not())
        return print_counts(args.widths)
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    shapes = [parse_shape(text) for text in args.shapes or []] or SHAPES
    for shape in shapes:
        for causal in (True, False):
            times = time_ours(shape, causal, "cuda") + time_torch(shape, causal, "cuda")
            print_times(shape, causal, times, "cuda")


if __name__ == "__main__":
    main()
