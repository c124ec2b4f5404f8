"""Batches made ahead of time on a thread, and on their way to the device before they are asked for.

A GPU that waits for Python to cut rows and tokenize sums is idle. The thread makes the next steps while this
one runs; a copy from pinned memory does not wait either. It changes no number: a batch is a function of its
step.

    python 03_training/bench_train.py      prints the share of time that goes into waiting for data
"""
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch


def to_device(batch, device: torch.device):
    """Every tensor of a nested tuple on the device; the copy to a GPU is started, not awaited."""
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(part, device) for part in batch)
    if device.type == "cuda" and batch.device.type == "cpu":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)


class Prefetch:
    """`prefetch(step)` is make(step) on the device, with `depth` later steps in the making.

    Steps may be asked for in any order (a continued run starts in the middle); an error of `make` comes out
    here.
    """

    def __init__(self, make: Callable[[int], tuple], device: torch.device, depth: int = 2):
        self.make, self.device, self.depth = make, device, depth
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.coming: dict[int, Future] = {}

    def __call__(self, step: int) -> tuple:
        wanted = range(step, step + self.depth + 1)
        for late in [s for s in self.coming if s not in wanted]:   # nobody will ask for it any more
            self.coming.pop(late).cancel()
        for s in wanted:
            if s not in self.coming:
                self.coming[s] = self.pool.submit(self.make, s)
        return to_device(self.coming.pop(step).result(), self.device)
