"""A machine for an agent: files, a command line, and a server, all in chapter 6's sandbox.

Each command runs terminal_shell.py in a fresh process, so that one that hangs costs a step and no more; the
files are carried from one to the next. A server is asked over the loopback interface of the sandbox's own
network, through the sockets that it handed out before the program ran; where it has none, through named pipes
in its folder. What comes out is a stranger's: no link is followed, and nothing is waited for long.

    python 07_alignment/terminal_tasks.py  grades agents on it
"""
import errno
import os
import select
import shlex
import signal
import socket
import stat
import time
from pathlib import Path

from agent_loop import Budget, first_line, quoted
from sandbox import Failed, Limits, Sandbox
from terminal_shell import PORT

SHELL = Path(__file__).with_name("terminal_shell.py").read_text(encoding="utf-8")
LIMITS = Limits(cpu_seconds=2, wall_seconds=4.0)
MOST_FILES, MOST_BYTES = 200, 1 << 16
Files = dict[str, str]


def run(files: Files, command: str) -> tuple[str, Files]:
    """One command on these files, in a sandbox: what it printed, and the files after it."""
    try:
        with Sandbox(SHELL, LIMITS, doors=int(command.startswith("serve "))) as box:
            box.call("put", files)
            said = box.call("run", command)
            os.killpg(box.process.pid, signal.SIGKILL)       # its threads too, before the files are looked at
            box.process.wait()
            return (said if isinstance(said, str) else "error: no text"), collect(box.scratch)
    except Failed as failure:
        return f"error: {failure}", files


def collect(folder: str) -> Files:
    """The text of all plain files below a folder that a stranger filled, when nobody is there to change it.

    No links, nothing large, not too many. An empty folder is a path that ends in a slash.
    """
    found: Files = {}
    for inside, folders, names in os.walk(folder):           # does not follow links to folders
        if not folders and not names and inside != folder and len(found) < MOST_FILES:
            found[os.path.relpath(inside, folder) + "/"] = ""
        for name in sorted(names):
            path = os.path.join(inside, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and len(found) < MOST_FILES:
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                    found[os.path.relpath(path, folder)] = file.read(MOST_BYTES).decode("utf-8", "replace")
    return found


def ask(files: Files, app: str, *paths: str) -> list[str]:
    r"""Serve a file's application on these files and GET these paths: "200 OK\n\nbody" each, or ""."""
    try:
        with Sandbox(SHELL, LIMITS, doors=len(paths)) as box:
            box.call("put", files)
            if box.call("run", f"serve {shlex.quote(app)}") != f"serving {app}":
                return [""] * len(paths)
            doors = box.doors or [None] * len(paths)
            return [get(path, door, box.scratch) for path, door in zip(paths, doors, strict=True)]
    except (Failed, OSError):
        return [""] * len(paths)


def get(path: str, door: socket.socket | None, folder: str, seconds: float = 2.0) -> str:
    """One HTTP request, through a socket of the server's own network or the pipes in its folder.

    The status and the body of what came before the deadline; "" for anything that is not HTTP.
    """
    deadline = time.monotonic() + seconds
    request = f"GET {path} HTTP/1.0\r\n\r\n".encode()
    if door is not None:
        door.settimeout(seconds)
        door.connect(("127.0.0.1", PORT))
        door.sendall(request)
        said = read_all(door.fileno(), deadline)
    else:
        replies = pipe(folder, "replies", os.O_RDONLY)
        try:
            with os.fdopen(when_read(folder, deadline), "wb") as requests:
                requests.write(request)
            said = read_all(replies, deadline)
        finally:
            os.close(replies)
    head, _, body = said.decode("utf-8", "replace").partition("\r\n\r\n")
    protocol, _, status = head.split("\r\n")[0].partition(" ")
    return f"{status}\n\n{body}" if protocol in ("HTTP/1.0", "HTTP/1.1") else ""


def read_all(source: int, deadline: float) -> bytes:
    """What comes out of a socket or a pipe until it is closed, it is much, or the time is up."""
    said = b""
    while (left := deadline - time.monotonic()) > 0 and len(said) < MOST_BYTES:
        if select.select([source], [], [], left)[0]:
            part = os.read(source, 4096)
            if not part:                                     # written and closed
                break
            said += part
    return said


def when_read(folder: str, deadline: float) -> int:
    """The pipe of requests, open to be written, as soon as somebody reads it."""
    while True:
        try:
            return pipe(folder, "requests", os.O_WRONLY)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def pipe(folder: str, name: str, flags: int) -> int:
    """Open a named pipe in a stranger's folder. OSError if it is a link, or anything else in its place."""
    number = os.open(os.path.join(folder, name), flags | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISFIFO(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not a pipe", name)
    return number


class Machine:
    """Files and a command line. `serving` is the file that `serve` started last, if it did start."""

    def __init__(self, text: str, files: Files, budget: Budget = Budget(steps=12)):
        self.files, self.budget, self.serving = dict(files), budget, ""
        self.transcript, self.steps, self.submitted = f"{text}\n> ", 0, False

    @property
    def done(self) -> bool:
        """Submitted, or out of steps."""
        return self.submitted or self.steps >= self.budget.steps

    def act(self, said: str) -> None:
        """One command; of several lines only the first is kept, and none is done."""
        self.steps += 1
        first = first_line(said)[:self.budget.action_chars]
        self.transcript += f"{first}\n"
        if said == "submit":
            self.submitted = True
            return
        answer = f"error: a command is one line of at most {self.budget.action_chars} characters"
        if first == said:
            answer, self.files = run(self.files, said)
        if said.startswith("serve ") and answer.startswith("serving "):
            self.serving = answer.removeprefix("serving ")
        self.transcript += f"{quoted(answer[:self.budget.shown_chars])}\n> "
