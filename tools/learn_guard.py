"""The walls around a stranger's body: limits, another user, Landlock for files, seccomp for the rest.

Adds to learn_worker.py: what `grade` puts up before a body is imported, in an order in which none can be
taken down. The body may compute, read Python's and the system's libraries and its own tree, and write to its
own scratch folder; one whose exercise is compiled may also start programs there. Everything else is refused:
other files (also to truncate or to change their mode), /proc, /dev/shm, sockets, signals to others, looking
into other processes. `available` tries which walls a machine has, so that what is missing is said and never
assumed. Sources: man pages landlock(7), seccomp(2), setrlimit(2), capabilities(7); chapter 6,
sandbox_child.py, teaches the same walls.
"""

import contextlib
import ctypes
import os
import platform
import resource
import secrets
import shutil
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
# System calls that are refused, by their numbers on (x86_64, aarch64); None where there is none.
DENIED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "ptrace": (101, 117),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "prlimit64": (302, 261), "io_uring_setup": (425, 425), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "bpf": (321, 280), "perf_event_open": (298, 241),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "userfaultfd": (323, 282),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "mknod": (133, None), "mknodat": (259, 33),
    "open_by_handle_at": (304, 265), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "personality": (135, 92), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "sethostname": (170, 161), "acct": (163, 89), "quotactl": (179, 60), "swapon": (167, 224),
    "syslog": (103, 116)}
PROGRAMS = {"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281)}
CLONE, CLONE3, TGKILL, THREAD = (56, 220), (435, 435), (234, 131), 0x10000
FILE_BYTES = 64 << 20                               # of any one file, printed output included
PROCESSES = 64                                      # at once, where the exercise starts programs


def seccomp(programs: bool = False) -> None:
    """Refuse the system calls above; without `programs` also new processes. OSError: no seccomp here."""
    which = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
    if which is None or sys.platform != "linux":
        raise OSError(f"the system calls of {platform.machine()} are not listed here")
    load, equal, at_least, any_of, give = 0x20, 0x15, 0x35, 0x45, 0x06
    # EPERM; ENOSYS: libc then takes clone
    yes, no, absent, die = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
    steps = [(load, 0, 0, 4), (equal, 1, 0, (0xC000003E, 0xC00000B7)[which]), (give, 0, 0, die),
             (load, 0, 0, 0)]
    if which == 0:                                  # the 32-bit numbering would be a way around
        steps += [(at_least, 0, 1, 0x40000000), (give, 0, 0, die)]
    for numbers in [*DENIED.values(), *([] if programs else PROGRAMS.values())]:
        if numbers[which] is not None:
            steps += [(equal, 0, 1, numbers[which]), (give, 0, 0, no)]
    if not programs:                                # threads may start, processes may not
        steps += [(equal, 0, 1, CLONE3[which]), (give, 0, 0, absent), (equal, 0, 4, CLONE[which]),
                  (load, 0, 0, 16),
                  (any_of, 1, 0, THREAD), (give, 0, 0, no), (give, 0, 0, yes)]
    steps += [(equal, 0, 4, TGKILL[which]), (load, 0, 0, 16), (equal, 1, 0, os.getpid()), (give, 0, 0, no),
              (give, 0, 0, yes), (give, 0, 0, yes)]   # a signal to oneself (abort) is nobody else's business
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    if LIBC.prctl(22, 2, struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def libraries(programs: bool) -> list[str]:
    """What stays readable: Python, the system's libraries, and a compiler where one is needed."""
    found = [sys.prefix, sys.base_prefix, *(p for p in sys.path if "site-packages" in p), "/usr", "/lib",
             "/lib64",
             "/bin", "/sys/devices/system/cpu", "/proc/cpuinfo", "/etc/ld.so.cache", "/etc/localtime",
             "/dev/urandom", "/dev/zero"]
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    if programs and compiler:
        found += ["/etc/alternatives", "/opt", os.path.dirname(os.path.dirname(os.path.realpath(compiler)))]
    return [p for p in dict.fromkeys(found) if p != "/" and os.path.exists(p)]


def landlock(tree: str, scratch: str, programs: bool = False) -> None:
    """Read the libraries and `tree`, write below `scratch`, and no other file. OSError: no Landlock here."""
    create, add, restrict = 444, 445, 446
    version = LIBC.syscall(create, None, ctypes.c_size_t(0), 1)
    if version < 1:
        raise OSError(ctypes.get_errno(), "landlock")
    # Rights by version: 13 at first, then REFER (renames across folders), TRUNCATE, and ioctl on devices.
    every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    network, scoped = 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0
    sizes = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = LIBC.syscall(create, struct.pack("QQQ", every, network, scoped), ctypes.c_size_t(sizes), 0)
    read, run = 0b1100, 0b1101                      # read a file, list a folder; and execute
    for path, rights in [*((p, run if programs else read) for p in libraries(programs)), (tree, read),
                         ("/dev/null", 0b110 | every & 1 << 14),
                         (scratch, every if programs else every & ~1)]:
        rights &= every if os.path.isdir(path) else 0b111 | every & 1 << 14
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if LIBC.syscall(add, rules, 1, struct.pack("=Qi", rights, at), 0):
            raise OSError(ctypes.get_errno(), f"landlock {path}")
        os.close(at)
    if LIBC.syscall(restrict, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock")
    os.close(rules)


def capabilities(kept: int) -> None:
    """Give up every power of root but those in the bit set `kept`."""
    LIBC.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", kept, kept, 0, 0, 0, 0))


def another_user(number: int, reads: bool) -> None:
    """Become a user of that number, who owns nothing. OSError: not root, or Python is not readable then.

    `reads`: it may read what others keep to themselves (CAP_DAC_READ_SEARCH), since Python may be installed
    below /root. Only where Landlock says afterwards which files there are.
    """
    LIBC.prctl(8, 1, 0, 0, 0)                       # PR_SET_KEEPCAPS, over the change of user
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    capabilities(1 << 2 if reads else 0)
    for path in (sys.prefix, sys.base_prefix, os.__file__):
        os.stat(path)


def limit(case: dict) -> None:
    """Limits of the operating system on time, memory, files and processes; on macOS memory is not limited."""
    limits = {resource.RLIMIT_CPU: int(case["total"]), resource.RLIMIT_FSIZE: FILE_BYTES,
              resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = mapped + (case["memory"] << 20)
    if case["guard"] and "user" in case["guard"]["has"]:
        limits[resource.RLIMIT_NPROC] = PROCESSES   # counts the processes of this user, who has no others
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def lock_in(case: dict) -> None:
    """Put up every wall that the case's guard has, around this process and all that it starts."""
    guard = case["guard"]
    limit(case)
    if not guard or sys.platform != "linux":
        return
    if "user" in guard["has"]:
        another_user(guard["user"], "files" in guard["has"])
    else:
        capabilities(0)
    # no new privileges, nobody looks in, ends with its parent
    for option, value in ((38, 1), (4, 0), (1, 9)):
        LIBC.prctl(option, value, 0, 0, 0)
    if "files" in guard["has"]:
        landlock(case["body"], case["home"], guard["programs"])
    if "calls" in guard["has"]:
        seccomp(guard["programs"])


def tried(what, *values) -> bool:
    """Can a child process of ours do `what`? Tried, not guessed."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            LIBC.prctl(38, 1, 0, 0, 0)
            what(*values)
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def new_user() -> int:
    """A number that no user has."""
    return (1 << 20) + secrets.randbelow(1 << 29)


def available() -> list[str]:
    """Which walls this machine has: calls (seccomp), files (Landlock), user (root can be somebody else)."""
    if sys.platform != "linux":
        return []
    has = [name for name, what in (("calls", (seccomp,)), ("files", (landlock, "/tmp", "/tmp")))
           if tried(*what)]
    return has + ["user"] * tried(another_user, new_user(), "files" in has)
