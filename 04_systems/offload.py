"""When even one rank's share does not fit: keep the rest in host memory or on disk until it is needed.

    optimizer     the moments live elsewhere; each unit's come in for its update, while the next are read
    parameters    the weights too: read before use, forward and backward, updated with their gradients

Ren et al. 2021 (ZeRO-Offload), Rajbhandari et al. 2021 (ZeRO-Infinity).

    python 04_systems/run.py --only offload
"""
import ctypes
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from adamw import AdamW
from flat_unit import FlatUnit, make_units, stream, when_left
from transformer import Transformer


class HostStore:
    """Vectors in host memory, pinned where there is a GPU so that copies run beside computation."""

    def __init__(self):
        self.kept: dict[str, Tensor] = {}

    def write(self, key: str, x: Tensor) -> None:
        """Keep a copy of x (n,)."""
        if key not in self.kept:
            self.kept[key] = torch.empty(x.shape, dtype=x.dtype, pin_memory=torch.cuda.is_available())
        self.kept[key].copy_(x)

    def read(self, key: str, into: Tensor) -> None:
        """Copy what was written under `key` into a vector of the same size."""
        into.copy_(self.kept[key])

    def bytes(self) -> int:
        """How much it holds."""
        return sum(x.numel() * x.element_size() for x in self.kept.values())


def _memory(x: Tensor) -> memoryview:
    """The bytes of x. (x.numpy() would do, but marks the storage as one that may never be resized.)"""
    return memoryview((ctypes.c_char * (x.numel() * x.element_size())).from_address(x.data_ptr())).cast("B")


class DiskStore:
    """Vectors as files of plain numbers in a folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, key: str, x: Tensor) -> None:
        """Write x (n,)."""
        with open(self.folder / key, "wb") as file:
            file.write(_memory(x.detach().cpu()))

    def read(self, key: str, into: Tensor) -> None:
        """Read what was written under `key` into a vector of its size. Raises ValueError if it is shorter."""
        on_cpu = into.device.type == "cpu"
        buffer = into if on_cpu else torch.empty(into.shape, dtype=into.dtype, pin_memory=True)
        with open(self.folder / key, "rb") as file:
            if file.readinto(_memory(buffer)) != buffer.numel() * buffer.element_size():
                raise ValueError(f"{self.folder / key} is shorter than it was written: the disk is failing "
                                 "or was changed")
        if buffer is not into:
            into.copy_(buffer)

    def bytes(self) -> int:
        """Nothing in memory."""
        return 0


class Prefetcher:
    """Reads vectors of a store one ahead: get(key, then=next) returns one while a thread reads the next."""

    def __init__(self, store: HostStore | DiskStore, sizes: dict[str, int], like: Tensor):
        self.store, self.sizes, self.like = store, sizes, like
        self.thread = ThreadPoolExecutor(1)               # one: a read never overtakes the write before it
        self.coming: tuple[str, Tensor, Future] | None = None

    def start(self, key: str) -> None:
        """Begin to read `key`."""
        into = torch.empty(self.sizes[key], dtype=self.like.dtype, device=self.like.device)
        self.coming = (key, into, self.thread.submit(self.store.read, key, into))

    def get(self, key: str, then: str | None) -> Tensor:
        """The vector called `key`, (n,); `then` is the one that will be asked for next, if any."""
        if self.coming is None or self.coming[0] != key:
            self.start(key)
        assert self.coming
        _, x, future = self.coming
        future.result()                                   # raises here what went wrong there
        self.coming = None
        if then is not None:
            self.start(then)
        return x

    def write(self, key: str, x: Tensor) -> Future:
        """Begin to write x, which may not change until the returned future's result() has come."""
        return self.thread.submit(self.store.write, key, x)


class Offloaded:
    """A model trained with AdamW whose moments, and with `parameters` weights, live in `store`.

        offloaded = Offloaded(model, DiskStore(folder), AdamW([], lr=1e-3), parameters=True)
        loss(offloaded.model(ids), targets).backward()
        offloaded.step()

    With `parameters` each block is updated inside the backward pass, so one step is exactly one backward
    pass, and gradients cannot be clipped by their joint length. Frozen weights and those without a gradient
    stay as they are.
    """

    def __init__(self, model: Transformer, store: HostStore | DiskStore, rule: AdamW,
                 parameters: bool = False):
        self.model, self.store, self.rule, self.streaming = model, store, rule, parameters
        blocks, root = make_units(model, 1)
        self.units = blocks + [root]
        self.number = {unit: i for i, unit in enumerate(self.units)}
        sizes = {}
        for i, unit in enumerate(self.units):
            sizes[f"moments{i}"], sizes[f"weights{i}"] = 2 * unit.full.numel(), unit.full.numel()
            store.write(f"moments{i}", torch.zeros(2 * unit.full.numel(), dtype=unit.full.dtype))
            if parameters:
                store.write(f"weights{i}", unit.full)
        self.moments = Prefetcher(store, sizes, root.full)
        self.weights = Prefetcher(store, sizes, root.full)
        rule.steps = 1                                    # the number of the step that is being computed
        self.updated: set[FlatUnit] = set()               # in this step
        if parameters:
            when_left(model, blocks, root, self._update_and_leave)
            stream(model, blocks, root, self._fill)

    def _fill(self, unit: FlatUnit, then: FlatUnit | None) -> None:
        """Bring in a unit's weights, and start to read those of the unit that is used next."""
        unit.fill(self.weights.get(self._key("weights", unit), then and self._key("weights", then)))

    def _key(self, what: str, unit: FlatUnit) -> str:
        return f"{what}{self.number[unit]}"

    @torch.no_grad()
    def _update(self, unit: FlatUnit, then: FlatUnit | None) -> None:
        """One AdamW update of a unit whose weights and gradients are in memory; `then` is the next unit."""
        grads, rule = unit.pieces(unit.take_gradients()), self.rule
        if any(unit.used):
            both = self.moments.get(self._key("moments", unit), then and self._key("moments", then))
            m_and_v = map(unit.pieces, both.chunk(2))
            for used, w, grad, m, v in zip(unit.used, unit.pieces(unit.full), grads, *m_and_v):
                if used:
                    w.mul_(1 - rule.lr * rule.weight_decay)
                    w.sub_(rule.lr * rule.direction(grad, m, v))
            self.moments.write(self._key("moments", unit), both).result()
        unit.used = [False] * len(unit.used)

    def _update_and_leave(self, unit: FlatUnit) -> None:
        if any(p.grad is not None for p in unit.parameters):
            if unit in self.updated:
                raise ValueError("weights in a store are updated in the backward pass: call step after each "
                                 "one, and make the batch smaller instead of accumulating gradients")
            self.updated.add(unit)
            self._update(unit, None)
            self.weights.write(self._key("weights", unit), unit.full).result()
        unit.empty()

    def step(self) -> None:
        """Finish the step: update what the backward pass has not updated."""
        if not self.streaming:
            for unit, then in zip(self.units, [*self.units[1:], None]):
                self._update(unit, then)
        self.updated.clear()
        self.rule.steps += 1

    def zero_grad(self) -> None:
        """Forget gradients, as in torch.optim; with `parameters` a backward pass leaves none."""
        for p in self.model.parameters():
            p.grad = None

    def load_all(self) -> Transformer:
        """The model with all its weights in memory (they stay until the next forward pass)."""
        for unit in self.units:
            if not unit.filled:
                self._fill(unit, None)
        return self.model
