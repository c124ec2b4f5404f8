"""Three things that a systems claim needs: peak memory, bytes on the wire, floating-point operations. All are counted.

    python 04_systems/run.py               its tables come from these
"""
import os
import socket
import stat
import struct
import sys

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class PeakMemory(TorchDispatchMode):
    """with PeakMemory(model, ...) as memory: ... ; memory.peak: the most bytes that torch tensors held at one time.

    After each operation torch calls __torch_dispatch__; we note the storages of what came out and add up all that
    are still alive. Works on CPU and GPU alike, gives the same number every time; does not see scratch space inside
    one operation. Tensors made before are seen when given to the constructor (modules, tensors or lists of them).
    """

    def __init__(self, *known):
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}   # reference and bytes when last seen
        self.peak = self.at_most = 0   # at_most: bytes alive at the last count plus all that came since
        for item in known:
            self.note(list(item.parameters()) + list(item.buffers()) if isinstance(item, torch.nn.Module) else item)

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


def tcp_bytes_sent() -> int | None:
    """Bytes that this process has sent over its open TCP connections, by the kernel's own count; None off Linux.

    gloo speaks TCP even to the same machine, so this measures any collective, ours or torch's, headers included.
    Now and then a socket does not answer, so a reading can be too small, never too large: the largest of three counts.
    """
    return max(_count_sockets() for _ in range(3)) if sys.platform.startswith("linux") else None


def _count_sockets() -> int:
    total = 0
    for number in range(max(map(int, os.listdir("/proc/self/fd"))) + 1):
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    sent, again = struct.unpack_from("QQ", info, 200)   # tcpi_bytes_sent, tcpi_bytes_retrans: Linux 4.19
                    total += sent - again
        except (OSError, struct.error):
            continue   # no such file, or closed in the meantime
    return total


def tensor_bytes(*trees) -> int:
    """Bytes of the different storages behind all tensors in nests of lists and dictionaries."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes()
                for t in tree_iter(trees) if isinstance(t, torch.Tensor)}
    return sum(storages.values())
