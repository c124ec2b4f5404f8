"""Defences around a submitted body: what it may say (`screen`), and what its process may do (`lock_in`).

Adds to learn_worker.py: `grade` runs code of strangers. First the body is read: it must stay inside its function
and use no name that reaches files, processes, the interpreter or the checker. Then its process gets limits of
CPU time, memory and file size, and on Linux a Landlock file-system rule (the reference cannot be opened) and a
seccomp filter (no sockets, no new programs). What is missing on a machine is reported, never assumed.
Sources: man pages seccomp(2), landlock(7), setrlimit(2); linux/bpf_common.h, linux/landlock.h.
"""
import ast
import ctypes
import os
import platform
import re
import resource
import struct
import subprocess
import sys

from learn_bodies import find, graft

MODULES = set("""os sys builtins inspect gc ctypes subprocess importlib io pickle marshal socket threading shutil signal
multiprocessing pathlib tempfile traceback types code codeop pytest unittest conftest faulthandler mmap runpy pkgutil
platform resource atexit warnings weakref dis ast linecache tokenize zipfile tarfile glob fileinput asyncio cffi
concurrent operator learn_worker learn_run learn_bodies learn_guard site sysconfig""".split())
NAMES = set("""open eval exec compile globals locals vars setattr delattr getattr input breakpoint exit quit help Path
memoryview fromfile tofile memmap from_file DataSource genfromtxt loadtxt savetxt ctypeslib testing load save
cpp_extension f_back f_globals f_locals f_builtins tb_frame gi_frame cr_frame ag_frame assert_close _testing hub
attrgetter methodcaller make_dataclass load_library import_module""".split()) | MODULES
ORDINARY = set("code types signal site help quit exit input vars compile eval resource platform dis warnings".split())
C_NAMES = re.compile(r"(?m)^\s*#(?!pragma unroll)|\b(asm|__asm\w*|system|popen|exec\w*|fork|vfork|clone|syscall|dlopen|"
                     r"dlsym|fopen|open|ifstream|ofstream|fstream|socket|kill|ptrace|mmap|getenv|__attribute__|"
                     r"constructor|exit|_exit|abort|longjmp|include|filesystem)\b")


class Strangers(ast.NodeVisitor):
    """Collects the words of a piece of Python through which it could reach past its own arithmetic."""

    def __init__(self):
        self.words = set()

    def visit_Name(self, node):
        """A bare name: forbidden ones (unless the body itself assigns it), and every double-underscore name."""
        if isinstance(node.ctx, ast.Load) and node.id in NAMES or node.id.startswith("__"):
            self.words.add(node.id)

    def visit_Attribute(self, node):
        """x.name: forbidden names, every double-underscore name, and assignment into a module."""
        if node.attr.lstrip("_") in NAMES - ORDINARY or node.attr.startswith("__"):
            self.words.add("." + node.attr)
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(node.ctx, (ast.Store, ast.Del)) and isinstance(root, ast.Name) and root.id in (
                "torch", "np", "numpy", "math", "random", "re", "regex", "F", "nn"):
            self.words.add(f"{root.id}.{node.attr} =")
        self.generic_visit(node)

    def visit_Constant(self, node):
        """Text with a double underscore: an attribute's name in disguise."""
        if isinstance(node.value, str) and "__" in node.value:
            self.words.add(repr(node.value[:20]))

    def visit_ClassDef(self, node):
        """class: an answer that says it equals everything."""
        self.words.add("class")

    visit_MatchClass = visit_ClassDef

    def visit_Call(self, node):
        """type(name, bases, names): the same without the word."""
        if isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) + len(node.keywords) > 1:
            self.words.add("type() of three arguments")
        self.generic_visit(node)

    def visit_Import(self, node):
        """import x: the standard numeric modules are fine, files and processes are not, nor are tests."""
        for name in [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."]:
            parts = set(name.split("."))
            if parts & NAMES or parts & {"", "_pytest"} or re.match(r"test_|mutants|_", name):
                self.words.add(f"import {name}")
        if any(a.name in NAMES or a.name == "*" for a in node.names):
            self.words.add(f"import {node.names[0].name}")

    visit_ImportFrom = visit_Import

    def visit_Global(self, node):
        """global x: a body has no business outside its function."""
        self.words.add(f"global {node.names[0]}")


def outside(tree: ast.AST, first: int, last: int) -> str:
    """A dump of everything but the statements inside functions within lines first..last."""
    class Cut(ast.NodeTransformer):
        def generic_visit(self, node):
            super().generic_visit(node)
            for field in ("body", "orelse", "finalbody"):
                block = getattr(node, field, None)
                if isinstance(block, list) and not isinstance(node, (ast.Module, ast.ClassDef)):
                    setattr(node, field, [s for s in block if not first <= s.lineno <= last])
            return node
    return ast.dump(Cut().visit(tree))


def words_of(text: str, id: str) -> set:
    """The risky words inside the body of exercise `id` in `text`."""
    spot = {e.id: e for e in find(text)}[id]
    first, last = spot.line + 1, spot.line + len(spot.body.splitlines())
    seen, own = Strangers(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt) and first <= node.lineno <= last:
            seen.visit(node)
            own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return {word for word in seen.words if word not in own or word.startswith("__")}


def screen(text: str, exercise, body: str) -> str:
    """Why `body` is refused as exercise in the reference file `text`: one sentence, or "" if it is not.

    Words that the reference body itself uses are allowed.
    """
    if len(body.encode()) > 20_000:
        return "the body is longer than 20,000 bytes"
    if any(marker in body for marker in (" EXERCISE ", "\0")):
        return "the body contains a marker line"
    if exercise.comment == "//":
        allowed = {m[0] for m in C_NAMES.finditer(exercise.body)}
        bad = sorted({m[0].strip() for m in C_NAMES.finditer(body)} - allowed)
        depth = 0
        for sign in re.findall(r"[{}]", re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', "", body, flags=re.S)):
            depth += 1 if sign == "{" else -1
            if depth < 0:
                return "the body closes a brace that it did not open, so it leaves its function"
        return f"the body uses {', '.join(bad)}, which no answer needs" if bad else ""
    whole = graft(text, exercise.id, body)
    first = exercise.line + 1
    try:
        tree = ast.parse(whole)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        where = f"line {max(1, (getattr(problem, 'lineno', 0) or 0) - exercise.line)} of the body"
        return f"the body is not Python: {getattr(problem, 'msg', 'too complex')} ({where})"
    height, original = len(body.splitlines()), len(exercise.body.splitlines())
    if outside(tree, first, first + height - 1) != outside(ast.parse(text), first, first + original - 1):
        return "the body leaves its function: indent every line as the marker is"
    bad = sorted(words_of(whole, exercise.id) - words_of(text, exercise.id))
    return f"the body uses {', '.join(bad)}, which no answer needs" if bad else ""


# --- what the process may do -------------------------------------------------------------------------------------
LIBC = ctypes.CDLL(None, use_errno=True)
ARCH = {"x86_64": (0xC000003E, dict(socket=41, connect=42, clone=56, fork=57, vfork=58, execve=59, kill=62, ptrace=101,
                                    tkill=200, readv=310, writev=311, execveat=322, clone3=435, pidfd=424, uring=425)),
        "aarch64": (0xC00000B7, dict(socket=198, connect=203, clone=220, execve=221, kill=129, ptrace=117, tkill=130,
                                     readv=270, writev=271, execveat=281, clone3=435, pidfd=424, uring=425))}
LEVELS = ("alone", "programs", "loopback")
READ, ALL = 0b1101, 0x1FFF  # Landlock rights: execute, read file, read folder; and every right of its first version


def seccomp(level: str) -> None:
    """Forbid sockets, signals to others and, at level "alone", new processes. OSError where there is no seccomp."""
    machine, calls = ARCH[platform.machine()]
    deny = [calls[c] for c in ("ptrace", "readv", "writev", "pidfd", "uring")]
    deny += [calls[c] for c in ("socket", "connect")] if level != "loopback" else []
    deny += [calls[c] for c in ("fork", "vfork", "execve", "execveat", "kill", "tkill") if c in calls] \
        if level == "alone" else []
    load, equal, at_least, any_of, give = 0x20, 0x15, 0x35, 0x45, 0x06
    no, absent, yes = 0x00050001, 0x00050026, 0x7FFF0000  # EPERM, ENOSYS (libc then falls back to clone), allow
    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), (give, 0, 0, no), (load, 0, 0, 0),
             (at_least, 0, 1, 0x40000000), (give, 0, 0, no)]
    for number in deny:
        steps += [(equal, 0, 1, number), (give, 0, 0, no)]
    if level == "alone":  # threads (CLONE_THREAD) are fine, processes are not
        steps += [(equal, 0, 1, calls["clone3"]), (give, 0, 0, absent),
                  (equal, 0, 3, calls["clone"]), (load, 0, 0, 16), (any_of, 1, 0, 0x10000), (give, 0, 0, no)]
    steps += [(give, 0, 0, yes)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    if LIBC.prctl(22, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def landlock(tree: str) -> None:
    """Only Python, the system's libraries and the case's own tree stay readable. OSError where unsupported."""
    fd = LIBC.syscall(444, struct.pack("Q", ALL), ctypes.c_size_t(8), 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    system = [sys.prefix, sys.base_prefix, *(p for p in sys.path if "site-packages" in p), "/usr", "/lib", "/lib64", "/etc",
              "/bin", "/proc", "/sys/devices/system", "/opt", "/dev"]
    for path, rights in [*((p, READ) for p in system), (tree, ALL), ("/dev/null", 0b110), ("/dev/shm", ALL)]:
        if os.path.exists(path):
            at = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if LIBC.syscall(445, fd, 1, struct.pack("=Qi", rights if os.path.isdir(path) else rights & 0b111, at), 0):
                raise OSError(ctypes.get_errno(), f"landlock {path}")
            os.close(at)
    if LIBC.syscall(446, fd, 0):
        raise OSError(ctypes.get_errno(), "landlock")
    os.close(fd)


def loopback() -> None:
    """A network of its own with nothing in it but this machine's loopback. OSError where that is not permitted."""
    if LIBC.unshare(0x40000000) and LIBC.unshare(0x50000000):  # CLONE_NEWNET, then with CLONE_NEWUSER
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False, capture_output=True)


def lock_in(case: dict) -> None:
    """Take from this process what a body does not need, at the level and with the limits that the case gives."""
    guard = case.get("guard")
    if not guard:
        return
    limits = {resource.RLIMIT_CPU: int(case["total"]), resource.RLIMIT_FSIZE: 64 << 20, resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = mapped + (guard["memory_mb"] << 20)
    if guard["level"] != "alone":
        limits[resource.RLIMIT_NPROC] = 256
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
        import socket
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
    """Which of the three defences this machine has: calls (seccomp), files (Landlock), network (namespaces)."""
    if sys.platform != "linux":
        return []
    return [name for name, ok in (("calls", tried(seccomp, "alone")), ("files", tried(landlock, "/tmp")),
                                  ("network", tried(loopback))) if ok]
