"""A command line of ten commands, for inside the sandbox, where no process can be started.

terminal_machine.py sends this text into the sandbox, with the files of a machine, for every command that an
agent gives. `serve` is an HTTP server on the loopback interface, where the sandbox has one of its own;
elsewhere (macOS, most containers) the sandbox refuses every network, and two named pipes take its place.

    python 07_alignment/terminal_tasks.py  uses it
"""
import contextlib
import functools
import io
import os
import shlex
import threading

COMMANDS = ("ls [FOLDER], cat FILE, grep TEXT, echo TEXT > FILE, sed s/OLD/NEW/ FILE, mkdir FOLDER, "
            "mv FILE FILE, rm FILE, python FILE, serve FILE, submit")
PORT = 8000          # on the loopback interface of one sandbox, which nobody else sees


def put(files: dict) -> None:
    """Write {path: text} below the working folder; a path that ends in a slash is a folder."""
    for path, text in files.items():
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if path.endswith("/"):
            continue
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def read(path: str) -> str:
    """The text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def everything() -> list[str]:
    """All files below the working folder."""
    return sorted(os.path.relpath(os.path.join(folder, name))
                  for folder, _, names in os.walk(".") for name in names)


def run(line: str) -> str:
    """Do one command; what it prints. Everything that is wrong is one line that begins with "error: "."""
    try:
        words = shlex.split(line)
        redirect = words[0] == "echo" and len(words) >= 3 and words[-2] == ">"
        action = ACTIONS.get(words[0]) if redirect or words[0] != "echo" else None
        if action is None:
            raise ValueError("no command")
        return action(" ".join(words[1:-2]), words[-1]) if redirect else action(*words[1:])
    except UnicodeError:
        return "error: not text in UTF-8"
    except (ValueError, TypeError, IndexError):
        return f"error: no such command; there are: {COMMANDS}"
    except OSError as error:
        return f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}"


def ls(folder: str = ".") -> str:
    """The names in a folder; those of folders end in a slash."""
    return "\n".join(sorted(e.name + "/" * e.is_dir() for e in os.scandir(folder)))


def grep(text: str) -> str:
    """path:number:line of every line, in any file, that has the text."""
    return "\n".join(f"{path}:{i}:{line}" for path in everything()
                     for i, line in enumerate(read(path).split("\n"), 1) if text in line)


def echo(text: str, path: str) -> str:
    """Make a file of one line."""
    put({path: text + "\n"})
    return ""


def sed(rule: str, path: str) -> str:
    """Replace a text wherever it stands in a file; the sign after the s separates."""
    command, old, new, rest = rule.split(rule[1])
    if command != "s" or not old or rest not in ("", "g"):
        raise ValueError(rule)
    put({path: read(path).replace(old, new)})
    return ""


def python(path: str) -> str:
    """Run a file; what it prints, and how it ended if that was with an error (leaving by `exit` is none)."""
    printed, ended, code = io.StringIO(), "", read(path)
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(code, path, "exec"), {"__name__": "__main__"})
        except SystemExit as leaving:
            ended = f"exit {leaving.code}\n" if leaving.code else ""
        except BaseException as error:                       # a program may raise KeyboardInterrupt too
            ended = f"{type(error).__name__}: {error}\n"
    return (printed.getvalue() + ended).removesuffix("\n")


def serve(path: str) -> str:
    """Answer requests with the WSGI application `app` of a file (PEP 3333), until the process ends."""
    code, space = read(path), {"__name__": "server"}
    try:
        exec(compile(code, path, "exec"), space)
        app = space["app"]
    except BaseException as error:                           # leaving by `exit` too: nothing is served
        return f"{type(error).__name__}: {error}"
    try:
        from wsgiref.simple_server import make_server
        work = make_server("127.0.0.1", PORT, functools.partial(answer, app)).serve_forever
    except OSError:                                          # the sandbox has no network
        for pipe in ("requests", "replies"):
            os.mkfifo(pipe)
        work = functools.partial(answer_pipes, app)
    threading.Thread(target=work, daemon=True).start()
    return f"serving {path}"


def answer(app, environ: dict, start) -> list[bytes]:
    """What an application answers; if it fails, 500 and the name of its error."""
    begun = [("500 no answer", [])]

    def begin(status: str, headers: list, exc_info=None) -> None:
        begun.insert(0, (status, headers))
    try:
        body = b"".join(app(environ, begin))
    except Exception as error:
        begun, body = [("500 Internal Server Error", [])], type(error).__name__.encode()
    start(*begun[0])
    return [body]


def answer_pipes(app) -> None:
    """One request after another: "GET /path HTTP/1.0" comes in; the answer has no headers."""
    while True:
        with open("requests", encoding="utf-8") as pipe:
            method, path, protocol = pipe.read().split()
        begun = []
        body = answer(app, {"REQUEST_METHOD": method, "PATH_INFO": path, "SERVER_PROTOCOL": protocol},
                      lambda status, headers, begun=begun: begun.append(status))
        with open("replies", "wb") as pipe:
            pipe.write(f"{protocol} {begun[0]}\r\n\r\n".encode() + b"".join(body))


ACTIONS = {"ls": ls, "cat": read, "grep": grep, "echo": echo, "sed": sed, "python": python, "serve": serve,
           "mkdir": lambda path: os.makedirs(path, exist_ok=True) or "",
           "mv": lambda old, new: os.rename(old, new) or "", "rm": lambda path: os.remove(path) or ""}
