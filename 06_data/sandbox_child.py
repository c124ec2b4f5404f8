"""The inside of the sandbox: gives up every power it does not need, then runs one program and answers calls.

Started by sandbox.py as a process of its own; never imported by anything else. The order matters: limits
first, then the kernel walls (Landlock for files, seccomp for system calls), then an audit hook in Python, and
only then the program. A wall, once up, cannot be taken down by anyone in this process.

Sources: Landlock, https://docs.kernel.org/userspace-api/landlock.html; seccomp, Linux
Documentation/userspace-api/ seccomp_filter.rst; audit hooks, PEP 578 (which warns that they alone are no
sandbox).
"""
import contextlib
import ctypes
import gc
import io
import itertools
import json
import os
import platform
import resource
import struct
import sys
import types
from typing import Any

# isort: split
import values  # before the walls, from this folder

# System calls by architecture: (x86_64, aarch64); None where it does not exist.
DENIED = {
    "fork": (57, None), "vfork": (58, None), "clone3": (435, 435), "execve": (59, 221),
    "execveat": (322, 281), "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203),
    "ptrace": (101, 117), "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "umount2": (166, 39), "chroot": (161, 51), "pivot_root": (155, 41), "bpf": (321, 280),
    "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217), "userfaultfd": (323, 282),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
    "setpriority": (141, 140), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88),
    "futimesat": (261, None), "setxattr": (188, 5), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "setsid": (112, 157), "setpgid": (109, 154),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161)}
CLONE, TGKILL, PRLIMIT = (56, 220), (234, 131), (302, 261)
CLONE_THREAD = 0x00010000
AF_INET, SOCK_STREAM = 2, 1
REFUSED_EVENTS = ("socket.", "subprocess.", "ctypes.", "os.fork", "os.exec", "os.posix_spawn", "os.system",
                  "os.kill", "os.putenv", "pty.", "signal.", "syslog.", "mmap.", "resource.prlimit",
                  "shutil.", "ensurepip.", "winreg.", "cpython.run_", "os.chmod", "os.chown", "gc.")

REFUSED_IMPORTS = ("ctypes", "_ctypes", "_posixsubprocess", "_socket", "gc")


def limit(limits: dict) -> None:
    """Resource limits of the operating system, which also hold for threads and for C code."""
    for name, value in (("RLIMIT_CPU", limits["cpu_seconds"]), ("RLIMIT_AS", limits["memory_mb"] << 20),
                        ("RLIMIT_FSIZE", limits["file_bytes"]), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 32)):
        resource.setrlimit(getattr(resource, name), (value, value))


def landlock(libc: ctypes.CDLL, scratch: str, readable: list[str], loopback: bool) -> bool:
    """Files: read below `readable`, read and write below `scratch`, no more. False without kernel support.

    No TCP, or with a loopback interface of its own none that reaches out.
    """
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    everything = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    read, scoped = 0b1101, 0b11 if version >= 6 else 0        # execute, read a file, list a folder
    network = 0b10 if loopback else 0b11                      # connect; bind and connect
    rules = struct.pack("QQQ", everything, network if version >= 4 else 0, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(create, rules, ctypes.c_size_t(size), 0)
    for path, allowed in [(p, read) for p in readable] + [(scratch, everything)]:
        folder = os.open(path, os.O_PATH)
        allowed &= everything if os.path.isdir(path) else 0b101
        if libc.syscall(add, ruleset, 1, struct.pack("=Qi", allowed, folder), 0):
            raise OSError(f"Landlock refused {path}")
        os.close(folder)
    return libc.syscall(restrict, ruleset, 0) == 0


def seccomp(libc: ctypes.CDLL, loopback: bool) -> bool:
    """Refuse dangerous system calls with EPERM. False on a processor whose numbers are not listed here.

    With `loopback`, one kind of socket can be made: TCP over IPv4.
    """
    which = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
    if which is None or sys.platform != "linux":
        return False
    LOAD, EQUAL, AT_LEAST, MASK, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    ALLOW, ENOSYS, EPERM, KILL = 0x7FFF0000, 0x00050000 | 38, 0x00050000 | 1, 0x80000000
    program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, (0xC000003E, 0xC00000B7)[which]), (RETURN, 0, 0, KILL),
               (LOAD, 0, 0, 0)]
    if which == 0:                                           # the 32-bit numbering would be a way around
        program += [(AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, KILL)]
    if loopback:                                             # domain, type without its flags, protocol
        program += [(EQUAL, 0, 9, DENIED["socket"][which]), (LOAD, 0, 0, 16), (EQUAL, 0, 6, AF_INET),
                    (LOAD, 0, 0, 24), (AND, 0, 0, 0xF), (EQUAL, 0, 3, SOCK_STREAM), (LOAD, 0, 0, 32),
                    (EQUAL, 0, 1, 0), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]
    for name, numbers in DENIED.items():
        if numbers[which] is not None:
            # libc tries clone3; on "no such call" it takes clone, whose flags a filter can read
            program += [(EQUAL, 0, 1, numbers[which]), (RETURN, 0, 0, ENOSYS if name == "clone3" else EPERM)]
    program += [(EQUAL, 0, 4, CLONE[which]), (LOAD, 0, 0, 16), (MASK, 1, 0, CLONE_THREAD),
                (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]      # threads may start, processes may not
    program += [(EQUAL, 0, 4, TGKILL[which]), (LOAD, 0, 0, 16), (EQUAL, 1, 0, os.getpid()),
                (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]      # signals to itself (abort) only
    program += [(EQUAL, 0, 4, PRLIMIT[which]), (LOAD, 0, 0, 16), (EQUAL, 1, 0, 0), (RETURN, 0, 0, EPERM),
                (RETURN, 0, 0, ALLOW)]                       # its own limits only, and those cannot rise
    program += [(RETURN, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    argument = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    return libc.prctl(22, 2, argument, 0, 0) == 0


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root without capabilities cannot raise limits, read others' files or load modules."""
    libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6))


def audit(scratch: str, readable: list[str], loopback: bool) -> None:
    """Refuse in Python what the walls refuse below it: the only wall where the kernel has none."""
    granted = ("_socket", "socket.__new__", "socket.bind") if loopback else ()
    allowed, writable = tuple(os.path.realpath(p) for p in readable), os.path.realpath(scratch)
    realpath, fsdecode, fspath = os.path.realpath, os.fsdecode, os.fspath
    paths = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
             "os.listdir",
             "os.scandir"}

    def inside(path: Any, folders: tuple[str, ...]) -> bool:
        if isinstance(path, int):
            return True
        where = realpath(fsdecode(fspath(path))) + "/"
        return any(where.startswith(folder + "/") for folder in folders)

    def hook(event: str, args: tuple) -> None:
        if event in granted or event == "import" and args[0] in granted:
            return
        if event == "import" and args[0].partition(".")[0] in REFUSED_IMPORTS:
            raise PermissionError(f"sandbox: import {args[0]} is refused")
        if event.startswith(REFUSED_EVENTS):
            raise PermissionError(f"sandbox: {event} is refused")
        if event == "open":
            write = isinstance(args[1], str) and set(args[1]) & set("wax+") or (args[2] or 0) & 3
            if not inside(args[0], (writable,) if write else (*allowed, writable)):
                raise PermissionError(f"sandbox: {args[0]!r} is out of bounds")
        elif event in paths and args and args[0] is not None and not inside(args[0], (writable,)):
            if event not in ("os.listdir", "os.scandir") or not inside(args[0], allowed):
                raise PermissionError(f"sandbox: {args[0]!r} is out of bounds")
    sys.addaudithook(hook)


def main() -> None:
    """Read the job, put up the walls, run the program, answer calls until the input ends."""
    job = json.loads(sys.stdin.readline())
    replies = os.fdopen(job["replies"], "w", encoding="utf-8", errors="backslashreplace")
    requests, scratch = sys.stdin, os.getcwd()
    readable = [p for p in dict.fromkeys([sys.base_prefix + "/lib", sys.base_exec_prefix + "/lib",
                                          "/usr/lib"])
                if os.path.isdir(p)]
    walls = ["limits"]
    limit(job["limits"])
    loopback = False
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)                      # no new privileges: what seccomp and Landlock ask for
        libc.prctl(4, 0, 0, 0, 0)                           # not dumpable: no other process reads this memory
        if job["doors"]:
            from own_network import own_network  # loads `socket`: not for other programs

            loopback = own_network(libc, job["doors"], job["channel"])
        drop_capabilities(libc)
        walls += ["landlock"] if landlock(libc, scratch, readable, loopback) else []
        walls += ["seccomp"] if seccomp(libc, loopback) else []
        walls += ["own network"] if loopback else []
    if job["doors"]:
        os.close(job["channel"])                             # the program has no way to send doors of its own
    for name in [n for n in sys.modules if n.partition(".")[0] in ("ctypes", "_ctypes", "gc", "__main__")]:
        del sys.modules[name]
    gc.collect()
    if job["audit"]:
        audit(scratch, readable, loopback)
        walls.append("audit hook")
    sys.path[:] = [p for p in sys.path if p.startswith(sys.base_prefix)]
    sys.stdin = io.StringIO()

    def reply(message: dict) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    module = types.ModuleType("candidate")                   # dataclasses look their module up
    sys.modules["candidate"] = module
    with contextlib.suppress(AttributeError):
        sys.set_int_max_str_digits(0)                       # the limit of CPU time holds for long numbers too
    inside = Inside(module.__dict__)
    reply({"walls": walls, **_attempt(lambda: exec(compile(job["source"], "<candidate>", "exec"),
                                                   inside.space))})
    for line in requests:
        reply(inside.answer(json.loads(line)))


class Inside:
    """The program's names, and those of its objects that the test outside holds by number."""

    def __init__(self, space: dict):
        self.space, self.held = space, []

    def number(self, value: object) -> dict:
        """What goes out in place of a value that cannot."""
        if len(self.held) >= 10_000:
            raise TypeError("too many objects outside")
        self.held.append(value)
        kind, number = type(value), len(self.held) - 1
        if hasattr(kind, "__next__") and kind.__module__ in ("builtins", "itertools"):
            return {"iterator": number}
        return {"ref": [number, kind.__name__]}

    def meant(self, kind: str, data: int) -> object:
        """What the test means by a number it was given."""
        return self.held[data]

    def named(self, on: str | int) -> Any:
        """What a request is about: a number, or a name of the program."""
        if isinstance(on, int):
            return self.held[on]
        if on not in self.space:
            raise NameError(f"name {on!r} is not defined")
        return self.space[on]

    def answer(self, call: dict) -> dict:
        """Do what one request asks."""
        shared = values.Shared()
        args = [values.decode(a, shared, self.meant) for a in call["args"]]
        kwargs = {k: values.decode(v, shared, self.meant) for k, v in call["kwargs"].items()}
        before = [_items(x) for x in shared.objects]

        def act() -> object:
            target = self.named(call["on"])
            if call["do"] == "next":
                return [*itertools.islice(target, 1)]
            return {"call": lambda: target(*args, **kwargs), "name": lambda: target,
                    "get": lambda: getattr(target, *args),
                    "set": lambda: setattr(target, *args)}[call["do"]]()
        found = _attempt(act, lambda error: {
            "raised": [c.__name__ for c in type(error).__mro__] if isinstance(error, Exception) else [],
            "args": [a if type(a) in (int, str, float, bool) else str(a) for a in error.args]})

        def out() -> object:
            changed = [[i, values.content(shared.objects[i], shared, self.number)]
                       for i, old in enumerate(before) if not _same(old, _items(shared.objects[i]))]
            if "value" in found:
                found["value"] = values.encode(found["value"], shared, self.number)
            return {**found, "changed": changed}
        sent = _attempt(out)
        return sent.get("value", sent)


def _items(value: Any) -> list:
    return [x for pair in value.items() for x in pair] if hasattr(value, "items") else list(value)


def _same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b))


def _attempt(action, describe=lambda error: {}) -> dict:
    with contextlib.suppress(RecursionError):
        try:
            return {"value": action()}
        except BaseException as error:                       # SystemExit too: leaving is not succeeding
            return {"error": f"{type(error).__name__}: {str(error)[:200]}", **describe(error)}
    return {"error": "RecursionError", "raised": ["RecursionError", "RuntimeError"]}


if __name__ == "__main__":
    main()
