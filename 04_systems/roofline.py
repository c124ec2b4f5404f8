"""How fast can an operation be? It must do its arithmetic and move its bytes; the slower of the two decides.

seconds >= max(operations / peak, bytes / bandwidth). Their ratio, operations a byte, says which: left of the
ridge peak / bandwidth an operation is limited by memory, right of it by arithmetic. Williams, Waterman,
Patterson 2009.

    python 04_systems/run.py --only roofline
"""
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from adamw import AdamW
from attention import attend
from normalization import RMSNorm


@dataclass(frozen=True)
class Machine:
    """Two numbers that bound every operation."""
    flops: float       # operations a second
    bandwidth: float   # bytes a second, read and written together

    @property
    def ridge(self) -> float:
        """Operations a byte from which on arithmetic is the limit."""
        return self.flops / self.bandwidth

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so many operations and bytes."""
        return max(flops / self.flops, moved / self.bandwidth)


H100 = Machine(989e12, 3.35e12)   # SXM5, dense bfloat16, data sheet


@dataclass(frozen=True)
class Work:
    """An operation: what it costs on paper, and how to run it."""
    name: str
    flops: float
    moved: float       # bytes that this code reads and writes, every temporary counted
    run: Callable[[], object]

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.moved


def best_seconds(run: Callable[[], object], repeats: int = 7) -> float:
    """The shortest of several runs after one to warm up: what disturbs a run only makes it longer.

    On a CPU this is processor time of one thread, which others on the machine disturb least.
    """
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(1 + repeats):
        begin = clock()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(clock() - begin)
    torch.set_num_threads(threads)
    return min(times[1:])


def measure_machine(device: torch.device, n: int = 1024, megabytes: int = 128) -> Machine:
    """Peak by an n x n x n float32 matrix product, bandwidth by copying a block larger than the caches."""
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    out = torch.empty_like(a)
    flops = 2 * n**3 / best_seconds(lambda: torch.mm(a, b, out=out))
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    return Machine(flops, 2 * 4 * source.numel() / best_seconds(lambda: target.copy_(source)))


def operations(device: torch.device, small: bool = False) -> list[Work]:
    """The parts of a language model, in float32, too large for the caches (unless `small`)."""
    C, F, T, H, S = (64, 128, 32, 2, 64) if small else (1024, 8192, 512, 16, 8192)
    D, N = C // H, 32 if small else 7168
    x, W, one = (torch.randn(s, device=device) for s in ((T, C), (C, F), (1, C)))
    q, K, V = (torch.randn(1, H, n, D, device=device) for n in (T, S, S))
    rows, norm = torch.randn(N, C, device=device), RMSNorm(C).to(device)
    p = torch.nn.Parameter(torch.randn(N * C, device=device))
    p.grad = torch.randn_like(p)
    optimizer = AdamW([p], lr=1e-3, weight_decay=0.1)
    scores, numbers = H * T * T, N * C

    def no_grad(run):
        def quiet():
            with torch.no_grad():
                return run()
        return quiet

    return [
        Work("matrix product", 2 * T * C * F, 4 * (T * C + C * F + T * F), no_grad(lambda: x @ W)),
        # scores written, then masked, maximum, minus, exp, sum, quotient, read again: 12 passes over T x T
        Work("attention, prefill", 4 * scores * D, 4 * (4 * H * T * D + 12 * scores),
             no_grad(lambda: attend(q, K[:, :, :T], V[:, :, :T]))),
        Work("attention, decode", 4 * H * S * D, 4 * 2 * H * S * D,
             no_grad(lambda: attend(q[:, :, :1], K, V))),
        Work("matrix product, decode", 2 * C * F, 4 * C * F, no_grad(lambda: one @ W)),
        # square (read, write), mean (read), two products (read, write): 7 passes
        Work("RMSNorm", 4 * numbers, 4 * 7 * numbers, no_grad(lambda: norm(rows))),
        # thirteen element-wise operations in a row read and write 32 numbers a weight; a fused one needs 7
        Work("AdamW step", 16 * numbers, 4 * 32 * numbers, optimizer.step),
    ]
