"""A network for one untrusted program: a loopback interface, and nothing that leads out.

Adds to sandbox_child.py what a program needs that has to serve. Source: network_namespaces(7) and
user_namespaces(7) of the Linux manual.

    python 07_alignment/terminal_tasks.py  asks servers that live in one
"""
import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWUSER, CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x10000000, 0x40000000, 0x8914, 1


def own_network(libc: ctypes.CDLL, doors: int, channel: int) -> bool:
    """A network for this process alone, nothing in it but a loopback interface. False: the kernel has none.

    A socket belongs to the network in which it was made. `doors` of them, not connected to anything, are
    handed out through the socket `channel`: with each, the process outside can connect once to a server in
    here. In here nothing leads out, and `connect` is refused besides.
    """
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) and libc.unshare(CLONE_NEWNET):
        return False
    try:
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
    except OSError:                                         # allowed to make a network, not to switch it on
        return False
    handed_out = [socket.socket() for _ in range(doors)]
    with socket.socket(fileno=os.dup(channel)) as to_outside:
        socket.send_fds(to_outside, [b"."], [door.fileno() for door in handed_out])
    for door in handed_out:
        door.close()
    return True
