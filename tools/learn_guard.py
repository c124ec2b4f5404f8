"""What the process that runs a submitted body may do: limits of time, memory, files, processes and network.

Adds to learn_worker.py: the second of `grade`'s two defences (the first is learn_screen.py). Every process
gets limits of CPU time, memory and file size; on Linux also a Landlock rule, under which the reference's
files cannot be opened, and a seccomp filter, under which no socket and no new program can be. `available`
tries which of them a machine has, so that what is missing is reported and never assumed. Sources: man pages
seccomp(2), landlock(7), setrlimit(2); linux/filter.h, linux/landlock.h.
"""

import ctypes
import fcntl
import os
import platform
import resource
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
ARCH = {
    "x86_64": (
        0xC000003E,
        dict(
            socket=41,
            connect=42,
            clone=56,
            fork=57,
            vfork=58,
            execve=59,
            kill=62,
            ptrace=101,
            tkill=200,
            readv=310,
            writev=311,
            execveat=322,
            clone3=435,
            pidfd=424,
            uring=425,
        ),
    ),
    "aarch64": (
        0xC00000B7,
        dict(
            socket=198,
            connect=203,
            clone=220,
            execve=221,
            kill=129,
            ptrace=117,
            tkill=130,
            readv=270,
            writev=271,
            execveat=281,
            clone3=435,
            pidfd=424,
            uring=425,
        ),
    ),
}
LEVELS = ("alone", "programs", "loopback")
READ, ALL = (
    0b1101,
    0x1FFF,
)  # Landlock rights: execute, read file, read folder; and every right of its first version


def seccomp(level: str) -> None:
    """Forbid sockets and, at level "alone", new processes and signals. OSError where there is no seccomp."""
    machine, calls = ARCH[platform.machine()]
    deny = [calls[c] for c in ("ptrace", "readv", "writev", "pidfd", "uring")]
    deny += [calls[c] for c in ("socket", "connect")] if level != "loopback" else []
    deny += (
        [calls[c] for c in ("fork", "vfork", "execve", "execveat", "kill", "tkill") if c in calls]
        if level == "alone"
        else []
    )
    load, equal, at_least, any_of, give = 0x20, 0x15, 0x35, 0x45, 0x06
    no, absent, yes = (
        0x00050001,
        0x00050026,
        0x7FFF0000,
    )  # EPERM, ENOSYS (libc then falls back to clone), allow
    steps = [
        (load, 0, 0, 4),
        (equal, 1, 0, machine),
        (give, 0, 0, no),
        (load, 0, 0, 0),
        (at_least, 0, 1, 0x40000000),
        (give, 0, 0, no),
    ]
    for number in deny:
        steps += [(equal, 0, 1, number), (give, 0, 0, no)]
    if level == "alone":  # threads (CLONE_THREAD) are fine, processes are not
        steps += [
            (equal, 0, 1, calls["clone3"]),
            (give, 0, 0, absent),
            (equal, 0, 3, calls["clone"]),
            (load, 0, 0, 16),
            (any_of, 1, 0, 0x10000),
            (give, 0, 0, no),
        ]
    steps += [(give, 0, 0, yes)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    if LIBC.prctl(22, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def landlock(tree: str) -> None:
    """Only Python, the system's libraries and the case's own tree stay readable. OSError if unsupported."""
    fd = LIBC.syscall(444, struct.pack("Q", ALL), ctypes.c_size_t(8), 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    system = [
        sys.prefix,
        sys.base_prefix,
        *(p for p in sys.path if "site-packages" in p),
        "/usr",
        "/lib",
        "/lib64",
        "/etc",
        "/bin",
        "/proc",
        "/sys/devices/system",
        "/opt",
        "/dev",
    ]
    for path, rights in [*((p, READ) for p in system), (tree, ALL), ("/dev/null", 0b110), ("/dev/shm", ALL)]:
        if os.path.exists(path):
            at = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if LIBC.syscall(
                445, fd, 1, struct.pack("=Qi", rights if os.path.isdir(path) else rights & 0b111, at), 0
            ):
                raise OSError(ctypes.get_errno(), f"landlock {path}")
            os.close(at)
    if LIBC.syscall(446, fd, 0):
        raise OSError(ctypes.get_errno(), "landlock")
    os.close(fd)


def loopback() -> None:
    """A network of its own with nothing but loopback in it. OSError where that is not permitted."""
    if LIBC.unshare(0x40000000) and LIBC.unshare(0x50000000):  # CLONE_NEWNET, then with CLONE_NEWUSER
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket() as any_socket:  # switch lo on: SIOCSIFFLAGS with IFF_UP and IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x41))


def lock_in(case: dict) -> None:
    """Take from this process what a body does not need, as the case's guard says."""
    guard = case.get("guard")
    if not guard:
        return
    limits = {
        resource.RLIMIT_CPU: int(case["total"]),
        resource.RLIMIT_FSIZE: 64 << 20,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = mapped + (guard["memory_mb"] << 20)
    if guard["level"] != "alone":
        limits[resource.RLIMIT_NPROC] = 1024  # counts all of this user's; root's are not limited
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    if guard["level"] == "loopback" and "network" in guard["has"]:
        loopback()
    LIBC.prctl(38, 1, 0, 0, 0) if sys.platform == "linux" else None  # PR_SET_NO_NEW_PRIVS
    if "files" in guard["has"]:
        landlock(case["tree"])
    if "calls" in guard["has"]:
        seccomp(guard["level"])
    else:  # the best that is left: Python's own sockets are gone, a determined body can still make one
        socket.socket = socket.create_connection = None


def tried(what, *values) -> bool:
    """Can a child process of ours do `what`? Tried, not guessed."""
    pid = os.fork()
    if pid == 0:
        try:
            LIBC.prctl(38, 1, 0, 0, 0)
            what(*values)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def available() -> list[str]:
    """Which defences this machine has: calls (seccomp), files (Landlock), network (namespaces)."""
    if sys.platform != "linux":
        return []
    return [
        name
        for name, ok in (
            ("calls", tried(seccomp, "alone")),
            ("files", tried(landlock, "/tmp")),
            ("network", tried(loopback)),
        )
        if ok
    ]
