"""The most bytes that torch's tensors held at one time: counted, so the same number on every machine.

    python 03_training/bench_train.py      prints it for a training step, plain and fast
"""
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class PeakMemory(TorchDispatchMode):
    """with PeakMemory(model, ...) as memory: ... ; memory.peak: the most bytes that tensors held at once.

    After each operation torch calls __torch_dispatch__; we note the storages of what came out and add up all
    that are still alive. Works on CPU and GPU alike, gives the same number every time; does not see scratch
    space inside one operation. Tensors made before are seen when given to the constructor (modules, tensors
    or lists of them).
    """

    def __init__(self, *known):
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}   # reference and bytes when last seen
        self.peak = self.at_most = 0   # at_most: bytes alive at the last count plus all that came since
        for item in known:
            if isinstance(item, torch.nn.Module):
                item = [*item.parameters(), *item.buffers()]
            self.note(item)

    def note(self, tree) -> None:
        """Remember the storages of all tensors in a nest of lists and dictionaries."""
        for tensor in tree_iter(tree):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                reference, before = self.storages.get(storage._cdata, (None, 0))
                if reference is None or storage.nbytes() != before:
                    self.storages[storage._cdata] = (reference or StorageWeakRef(storage), storage.nbytes())
                    self.at_most += max(0, storage.nbytes() - before)
        if self.at_most > self.peak:   # counting is slow: only when there may be a new peak
            self.peak = max(self.peak, self.live())

    def live(self) -> int:
        """Bytes held by the storages that are alive now."""
        total = 0
        for key, (reference, _) in list(self.storages.items()):
            storage = None if reference.expired() else torch.UntypedStorage._new_with_weak_ptr(key)
            if storage is None:
                del self.storages[key]
            else:
                self.storages[key] = (reference, storage.nbytes())
                total += storage.nbytes()
        self.at_most = total
        return total

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        self.note(out)
        return out
