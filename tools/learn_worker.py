"""The process that runs tests: imports the heavy packages once, then forks a judge and a body for each case.

Adds to learn_judge.py and learn_body.py: the verdict on one body. `check`, `prove` and `grade` start this
file and send one JSON line a case (trees, test files, an exercise id, seeds, limits); the answer is one JSON
line: every test with its outcome. The judge runs pytest on a tree in which the exercise's function only asks;
the body's process, forked from here too and so without anything of the tests, answers. It is started when the
judge first needs it, and again after it has died. This process itself never computes: where there is a CUDA
device, a process forked after a backward pass cannot run one. Not for calling by hand; see learn_run.py.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import resource
import select
import signal
import socket
import sys
import time
import traceback

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))   # the repository
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
BLANK = r"(?:^|__trap\(\);\s+// )exercise \S+: "  # what the line in a blank body says


class Stopped(BaseException):
    """A test ran past its time limit. Not an Exception, so that `except Exception` cannot hide it."""


def alarm(signum, frame):
    """Turn the timer's signal into a failure of the test that is running."""
    # between a question to the worker and its answer: soon
    if sys.modules["learn_judge"].BODIES.lock.locked():
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        raise Stopped()


class Recorder:
    """A pytest plugin: keeps the tests of one exercise and reports each result through `send`."""

    def __init__(self, case: dict, send):
        import pytest

        self.pytest, self.case, self.send, self.stopped = pytest, case, send, 0

    def pytest_collection_modifyitems(self, items):
        """Keep the tests marked with the exercise's id and say which they are."""
        marked = [m for m in items if any(k.args[:1] == (self.case["id"],) for k in m.iter_markers("ex"))]
        items[:] = marked
        self.send({"collected": [item.nodeid for item in items]})

    def pytest_collectreport(self, report):
        """A test file that cannot even be imported."""
        if report.failed:
            self.send({"broken": str(report.longrepr)[-1500:]})

    def pytest_runtest_setup(self, item):
        """After a second test that had to be stopped the rest would only wait as well."""
        self.send({"begin": item.nodeid})
        if self.stopped >= self.case.get("stops", 2):
            raise Stopped("not run")

    def pytest_runtest_call(self, item):
        """Start the clock of one test."""
        signal.setitimer(signal.ITIMER_REAL, self.case["seconds"])

    def pytest_runtest_makereport(self, item, call):
        """Send what became of each phase that failed, and of each test that passed."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if call.when != "call" and not call.excinfo:
            return
        name = getattr(item, "originalname", None) or item.name
        doc = (getattr(item.obj, "__doc__", None) or "").strip().splitlines()
        report = {
            "node": item.nodeid,
            "name": name,
            "title": doc[0] if doc else name,
            "when": call.when,
            "took": call.duration,
            "outcome": "passed",
            "message": "",
            "line": 0,
        }
        if call.excinfo:
            error = call.excinfo.value
            self.stopped += isinstance(error, Stopped)
            sys.modules["learn_judge"].BODIES.end() if isinstance(error, Stopped) else None
            report.update(outcome=kind(error, self.pytest), error=type(error).__name__,
                          message=str(error)[:3000])
            # a test may put an error into words
            for cause in (error, error.__cause__ or error.__context__):
                for file, line in getattr(cause, "far", ()):
                    report["line"] = line if file == self.case["file"] else report["line"]
        report["prints"] = "".join(text for _, head, text in item._report_sections if head == "stdout")[:2000]
        self.send(report)


def kind(error: BaseException, pytest) -> str:
    """wrong (an assertion), stopped (time), lost (not run), blank (not written yet), skipped or error."""
    if isinstance(error, Stopped):
        return "lost" if error.args else "stopped"
    if isinstance(error, pytest.skip.Exception):
        return "skipped"
    if isinstance(error, (AssertionError, pytest.fail.Exception)):
        return "wrong"
    blank = isinstance(error, (NotImplementedError, RuntimeError)) and re.search(BLANK, str(error))
    return "blank" if blank else "error"


def alone(case: dict, home: str, keep: int) -> None:
    """Make this forked process one of its own: no descriptor but `keep`, output to a file, a session."""
    os.setsid()
    if LIBC:
        LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)      # PR_SET_PDEATHSIG: never outlive the worker
    os.makedirs(home, exist_ok=True)
    log = os.open(home + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(source, target)
    os.closerange(3, keep)                          # above all the descriptor on which this worker answers
    os.closerange(keep + 1, 65536)
    os.environ.update(TMPDIR=home, HOME=home, NO_COLOR="1", COLUMNS="100", LEARN_CASE="1")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = home    # made by torch for the device meta, else where it may not
    sys.dont_write_bytecode = not case.get("bytecode")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def folders(tree: str) -> list[str]:
    """The chapter folders of a tree."""
    return [os.path.join(tree, f) for f in sorted(os.listdir(tree)) if f[:1] == "0" or f == "csrc"]


def judge(case: dict, control: socket.socket) -> None:
    """Run the tests, telling the worker what becomes of each and asking it for processes with the body."""
    tree, home = case["judge"], os.path.join(case["scratch"], "judge")
    alone(case, home, control.fileno())
    os.chdir(tree)
    os.environ.update(LEARN_SEEDS=",".join(map(str, case["seeds"])),
                      PYTHONPATH=os.pathsep.join(folders(tree)),
                      PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    signal.signal(signal.SIGALRM, alarm)
    import pytest

    bodies = sys.modules["learn_judge"].BODIES
    bodies.begin(control, tree)
    recorder = Recorder(case, lambda report: bodies.ask("tell " + json.dumps(report)))
    pytest.main(["-p", "no:cacheprovider", "--basetemp", os.path.join(home, "pytest"), "--rootdir", tree,
                 "-c", os.path.join(tree, "pyproject.toml"), *case["tests"]], plugins=[recorder])
    bodies.ask("tell " + json.dumps({"end": "finished"}))


def body(case: dict, line: socket.socket) -> None:
    """Answer the judge's calls from behind the walls."""
    case["home"] = home = os.path.join(case["scratch"], "body")
    alone(case, home, line.fileno())
    os.chdir(home)
    sys.path[:0] = folders(case["body"])
    sys.modules["learn_guard"].lock_in(case)
    sys.modules["learn_body"].run(line, case["body"])


def forked(what, case: dict, line: socket.socket) -> int:
    """Run `what` in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            what(case, line)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    return pid


def how_it_ended(pid: int) -> str:
    """What became of a process, in words."""
    for _ in range(100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done and os.WIFSIGNALED(status):
            return signal.Signals(os.WTERMSIG(status)).name
        if done:
            return f"it left with status {os.WEXITSTATUS(status)}"
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "it closed its line"


def descendants() -> list[int]:
    """The processes that a case left behind (Linux; elsewhere the process groups have to do)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def end_all(pids: list[int]) -> None:
    """Leave nothing running."""
    for pid in pids:
        for victim in (-pid, pid):
            with contextlib.suppress(OSError):
                os.kill(victim, signal.SIGKILL)
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    while left_over := descendants():
        for pid in left_over:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def run(case: dict) -> dict:
    """Fork the judge, serve it until it ends or its time is up, and leave nothing running."""
    before, deadline = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() + case["total"]
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pids, reports, late, said = [forked(judge, case, theirs)], [], False, b""
    theirs.close()
    while not (reports and "end" in reports[-1]):
        late = time.monotonic() >= deadline
        if late or not select.select([mine], [], [], min(deadline - time.monotonic(), 1))[0]:
            if late:
                break
            continue
        data = mine.recv(1 << 16)
        if not data:
            break
        said += data
        while b"\n" in said:
            line, _, said = said.partition(b"\n")
            word, _, rest = line.decode().partition(" ")
            if word == "tell":
                reports.append(json.loads(rest))
                mine.sendall(b"ok\n")
            elif word == "end":
                pids.remove(int(rest))
                mine.sendall(how_it_ended(int(rest)).encode() + b"\n")
            else:
                near, far = socket.socketpair()
                pids.append(forked(body, case, far))
                socket.send_fds(mine, [f"{pids[-1]}\n".encode()], [near.fileno()])
                near.close()
                far.close()
    mine.close()
    end_all(pids)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = ""
    for name in ("judge.log", "body.log"):
        with contextlib.suppress(OSError), open(os.path.join(case["scratch"], name),
                                                errors="replace") as file:
            log += file.read()[-3000:]
    end = "late" if late else "finished" if reports and "end" in reports[-1] else "crash"
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"reports": reports, "end": end, "log": log, "cpu": spent}


def main() -> None:
    """Import what the tree needs, then answer cases until standard input closes."""
    for name in ("learn_guard", "learn_judge", "learn_body"):
        importlib.import_module(name)
    # The tests must see the tree of their case only; the editable install lists this one's folders.
    sys.path[:] = [p for p in sys.path if HERE not in (os.path.abspath(p),
                                                       os.path.dirname(os.path.abspath(p)))]
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    try:
        for name in sys.argv[1:]:
            importlib.import_module(name)
        if "torch" in sys.modules:
            with contextlib.suppress(ImportError):  # slow, and assert_close imports it
                importlib.import_module("torch.distributed.tensor")
    except ImportError as problem:
        print(json.dumps({"cannot": str(problem)}), file=answers, flush=True)
        return
    if LIBC:
        LIBC.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans of a case come to us
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command that started us; it then ends us
    gc.collect()
    gc.freeze()  # the children need not look through all of this again
    print(json.dumps({"ready": sys.version.split()[0]}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
