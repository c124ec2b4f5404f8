"""What a systems claim needs beside peak memory (peak_memory.py): bytes on the wire and in tensors, counted.

    python 04_systems/run.py               its tables come from these
"""
import os
import socket
import stat
import struct
import sys

import torch
from torch.utils._pytree import tree_iter


def tcp_bytes_sent() -> int | None:
    """Bytes that this process has sent over its open TCP connections, by the kernel's own count.

    None where the system is not Linux. gloo speaks TCP even to the same machine, so this measures any
    collective, ours or torch's, headers included. Now and then a socket does not answer, so a reading can be
    too small, never too large: the largest of three counts.
    """
    return max(_count_sockets() for _ in range(3)) if sys.platform.startswith("linux") else None


def _count_sockets() -> int:
    total = 0
    for number in range(max(map(int, os.listdir("/proc/self/fd"))) + 1):
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                internet = connection.family in (socket.AF_INET, socket.AF_INET6)
                if internet and connection.type == socket.SOCK_STREAM:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    # tcpi_bytes_sent, tcpi_bytes_retrans: Linux 4.19
                    sent, again = struct.unpack_from("QQ", info, 200)
                    total += sent - again
        except (OSError, struct.error):
            continue   # no such file, or closed in the meantime
    return total


def tensor_bytes(*trees) -> int:
    """Bytes of the different storages behind all tensors in nests of lists and dictionaries."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes()
                for t in tree_iter(trees) if isinstance(t, torch.Tensor)}
    return sum(storages.values())
