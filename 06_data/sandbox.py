"""Running programs that a model wrote, and judging them, without trusting them.

The program runs in a process of its own with limits on time, memory, output, files and processes
(sandbox_child.py puts up the walls). The *verdict* is protected by where it is made: the tests run out here
and call the program's function through a pipe. Only plain values come back, so printing "passed", leaving
with status 0, patching `assert`, or returning an object that equals everything changes nothing: there is no
checker inside to deceive.

What it does not protect from: a bug in the kernel or the interpreter; timing and cache side channels; reading
the Python installation; using up the limits it is given. Without Landlock and seccomp (older Linux, macOS)
only the limits and the audit hook remain, and a determined program can pass an audit hook: `Sandbox.walls`
says what is up. For programs of unknown people use a virtual machine.

    python 06_data/sandbox.py program.py       runs a file in the sandbox and prints what came of it
"""
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import values
from benchmark_tests import define, long_numbers, unknown_names
from remote import Failed, Remote, items, raise_as

CHILD = Path(__file__).with_name("sandbox_child.py")


@dataclass(frozen=True)
class Limits:
    """What one program may use."""
    cpu_seconds: int = 4
    wall_seconds: float = 8.0          # for the program and all calls together
    memory_mb: int = 512
    file_bytes: int = 1 << 20          # of any one file it writes, its printed output included
    reply_bytes: int = 1 << 20         # of all answers together


class Sandbox:
    """One untrusted program, as a context manager: leaving it kills all and deletes the scratch folder.

    >>> with Sandbox("def f(x): return x + 1") as program:
    ...     program.call("f", 2)
    3
    """

    def __init__(self, source: str, limits: Limits = Limits(), audit: bool = True, doors: int = 0):
        self.source, self.limits = source, limits
        self.audit = audit                                   # False: the kernel's walls alone, for the tests
        # above 0: the program may serve on a loopback interface of its own, and each of `self.doors` is a
        # socket that can connect to it, once. There are none where the kernel makes no network for it.
        self.wanted_doors, self.doors = doors, []
        self.walls: list[str] = []

    def __enter__(self) -> "Sandbox":
        self.scratch = tempfile.mkdtemp(prefix="sandbox-")
        self.output = tempfile.TemporaryFile()               # a file, not a pipe: RLIMIT_FSIZE ends a flood
        self.left, self.pending = self.limits.reply_bytes, b""
        read, write = os.pipe()
        self.replies = read
        outside, inside = socket.socketpair()                # doors come through here
        channel = inside.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-u", "-c",
             f"import sys; sys.path.insert(0, {str(CHILD.parent)!r}); "
             "import sandbox_child; sandbox_child.main()"],
            cwd=self.scratch, env={"PYTHONHASHSEED": "0"}, stdin=subprocess.PIPE, stdout=self.output,
            stderr=subprocess.STDOUT, pass_fds=(write, channel) if self.wanted_doors else (write,),
            start_new_session=True)
        os.close(write)
        inside.close()
        self.deadline = time.monotonic() + self.limits.wall_seconds
        try:
            self._send({"source": self.source, "limits": asdict(self.limits), "replies": write,
                        "audit": self.audit, "doors": self.wanted_doors, "channel": channel})
            first = self._receive()
            self.walls = [w for w in first.get("walls", []) if isinstance(w, str)]
            if self.wanted_doors:
                found = socket.recv_fds(outside, 1, self.wanted_doors)[1]
                self.doors = [socket.socket(fileno=door) for door in found]
            self._value(first)
        except BaseException:
            self.close()
            raise
        finally:
            outside.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the whole process group, also when its first process has ended, and delete what it left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):     # nobody left; macOS: only a zombie
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()
        os.close(self.replies)
        for door in self.doors:
            door.close()
        self.output.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def call(self, function: str, /, *args: object, **kwargs: object) -> object:
        """Call a function of the program; its value, or Failed with the reason. Arguments may change."""
        return self.ask("call", function, args, kwargs)

    def ask(self, do: str, on: str | int, args: tuple, kwargs: dict) -> object:
        """Call, get or set what has a name (str) or a number (int) in the program."""
        shared = values.Shared()

        def inside(value: object) -> object:
            if type(value) is Remote:
                return {"ref": value._number}
            raise TypeError(f"a {type(value).__name__}")
        try:
            encoded = {"do": do, "on": on, "args": [values.encode(a, shared, inside) for a in args],
                       "kwargs": {k: values.encode(v, shared, inside) for k, v in kwargs.items()}}
        except TypeError as error:
            raise Failed(f"the test passes what cannot cross: {error}") from None
        self._send(encoded)
        return self._value(self._receive(), shared)

    def raise_as_in(self, space: dict) -> None:
        """From now on what the program raises is raised out here, as the class of that name in `space`."""
        def ask(*request: Any) -> Any:
            try:
                return Sandbox.ask(self, *request)
            except Failed as failure:
                raise_as(failure, space)
        vars(self)["ask"] = ask

    def printed(self) -> str:
        """What the program has printed so far (its end, if it is long)."""
        size = self.output.seek(0, os.SEEK_END)
        self.output.seek(max(0, size - 10_000))
        return self.output.read().decode("utf-8", "replace")

    def _send(self, message: dict) -> None:
        """Write a request, without waiting longer than the deadline for a program that does not read."""
        assert self.process.stdin
        data, pipe = json.dumps(message).encode() + b"\n", self.process.stdin.fileno()
        os.set_blocking(pipe, False)
        while data:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([], [pipe], [], left)[1]:
                raise Failed("time limit")
            try:
                data = data[os.write(pipe, data):]
            except BrokenPipeError:
                raise Failed(self._end()) from None

    def _receive(self) -> dict:
        while b"\n" not in self.pending:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.replies], [], [], left)[0]:
                raise Failed("time limit")
            part = os.read(self.replies, 1 << 16)
            if not part:
                raise Failed(self._end())
            self.left -= len(part)
            self.pending += part
            if self.left < 0:
                raise Failed("too much output")
        line, _, self.pending = self.pending.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise Failed("malformed reply") from None
        if not isinstance(message, dict):
            raise Failed("malformed reply")
        return message

    def _value(self, message: dict, shared: values.Shared | None = None) -> object:
        """The value in a reply, after the arguments that the call changed have been changed out here too."""
        try:
            for number, content in message.get("changed", []):
                if shared is not None:
                    values.fill(shared.objects[number], content, shared, self._outside)
            if "value" in message:
                return values.decode(message["value"], shared, self._outside)
            raised = tuple(name for name in message.get("raised", ()) if isinstance(name, str))
            given = tuple(values.decode(v, shared, self._outside) for v in message.get("args", ()))
        except (ValueError, TypeError, LookupError, RecursionError):
            raise Failed("malformed reply") from None
        raise Failed(str(message.get("error", "malformed reply"))[:300], raised, given)

    def _outside(self, kind: str, data: object) -> object:
        """What stands out here for an object that stays inside."""
        if kind == "iterator" and type(data) is int:
            return items(self.ask, data)
        if kind == "ref" and isinstance(data, list) and len(data) == 2 and type(data[0]) is int:
            return Remote(self.ask, data[0], str(data[1]))
        raise ValueError("malformed value")

    def _end(self) -> str:
        """Why the process is gone."""
        try:
            status = self.process.wait(timeout=max(0.1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "stopped answering"
        names = {-signal.SIGXCPU: "CPU limit", -signal.SIGXFSZ: "output limit", -signal.SIGKILL: "CPU limit"}
        return names.get(status, f"ended with status {status} before it answered")


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed its tests, and if not, why."""
    passed: bool
    reason: str = ""


def judge(prompt: str, completion: str, test: str, entry_point: str, limits: Limits = Limits()) -> Verdict:
    """Run a benchmark's tests against `prompt + completion`, HumanEval's or MBPP's.

    `test` is trusted (it belongs to the benchmark) and runs in this process, with the definitions of the
    prompt. The program's function, and every other name that only the program has, asks the sandbox. If the
    test defines `check(candidate)`, that is called.
    """
    space: dict = {"__name__": "checker"}
    try:
        with long_numbers(), Sandbox(prompt + completion, limits) as program:
            program.raise_as_in(space)
            define(prompt, space)
            for name in unknown_names(test, space):
                with contextlib.suppress(NameError):
                    space[name] = program.ask("name", name, (), {})
            space[entry_point] = functools.partial(program.call, entry_point)
            space[entry_point].__name__ = entry_point
            exec(compile(test, "<test>", "exec"), space)
            if "check" in space:
                space["check"](space[entry_point])
    except Failed as failure:
        return Verdict(False, str(failure))
    except Exception as failure:
        if cause := getattr(failure, "from_program", None):
            return Verdict(False, str(cause))
        if isinstance(failure, AssertionError):
            return Verdict(False, f"wrong answer: {str(failure)[:200]}")
        return Verdict(False, f"unusable answer: {type(failure).__name__}")      # e.g. 1 is added to a None
    return Verdict(True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).exists() or Path(sys.argv[1]).is_dir():
        sys.exit("sandbox.py: name one program: python 06_data/sandbox.py program.py")
    box = Sandbox(Path(sys.argv[1]).read_text("utf-8"))
    try:
        with box:
            print(box.printed(), end="")
            print("finished; walls:", ", ".join(box.walls))
    except Failed as failure:
        sys.exit(f"sandbox.py: stopped: {failure}")
