"""The process that runs tests: imports the heavy packages once, then forks one child per case.

Adds to learn_bodies.py: the verdict on one body. `check`, `prove` and `grade` start this file and send one
JSON line a case (a tree, its test files, an exercise id, seeds, limits); the answer is one JSON line: every
test with its outcome. The child runs pytest on the tree and sends each result through a pipe, signed with a
random number that is made after the fork and that only the recorder below holds. This process itself never
computes: where there is a CUDA device, a process forked after a backward pass cannot run one. Not for calling by
hand; see learn_run.py.
"""

import builtins
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
import sys
import time
import traceback

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))   # the repository
WATCHED = (
    "builtins",
    "math",
    "random",
    "pytest",
    "_pytest.runner",
    "_pytest.python",
    "_pytest.outcomes",
    "_pytest.assertion.rewrite",
    "_pytest.assertion.util",
    "_pytest.python_api",
    "numpy",
    "numpy.testing",
    "torch",
    "torch.testing",
    "torch.testing._comparison",
    "torch.nn.functional",
    "torch.Tensor",
)
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
BLANK = r"(?:^|__trap\(\);\s+// )exercise \S+: "  # what the line in a blank body says


class Stopped(BaseException):
    """A test ran past its time limit. Not an Exception, so that `except Exception` cannot hide it."""


def alarm(signum, frame):
    """Turn the timer's signal into a failure of the test that is running."""
    raise Stopped()


def watched() -> dict:
    """The identity of everything in the modules that decide whether a test passes."""
    seen = {}
    for name in WATCHED:
        module = sys.modules.get(name) or getattr(sys.modules.get("torch"), name.rpartition(".")[2], None)
        if module is not None and (name in sys.modules or name == "torch.Tensor"):
            seen.update({(name, key): id(value) for key, value in vars(module).items() if key != "_"})
    seen.pop(("torch", "manual_seed"), None)  # torch wraps it itself when a test's message loads its compiler
    return seen


class Recorder:
    """A pytest plugin: keeps the tests of one exercise and reports each result through `send`."""

    def __init__(self, case: dict, send):
        import pytest

        self.pytest, self.case, self.send, self.stopped, self.first = pytest, case, send, 0, watched()

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
            report.update(
                outcome=kind(error, self.pytest), error=type(error).__name__, message=str(error)[:3000]
            )
            for cause in (error, error.__cause__ or error.__context__):       # a test may put an error into words
                for frame in traceback.extract_tb(getattr(cause, "__traceback__", None)):
                    if os.path.realpath(frame.filename) == os.path.realpath(self.case["file"]):
                        report["line"] = frame.lineno
        report["prints"] = "".join(text for _, head, text in item._report_sections if head == "stdout")[:2000]
        self.send(report)

    def pytest_sessionfinish(self):
        """Last: has anything that decides a verdict been replaced while the tests ran?"""
        now = watched()
        self.send({"replaced": [".".join(key) for key in self.first if now.get(key) != self.first[key]][:9]})


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


def child(case: dict, out: int, nonce: str) -> None:
    """Run one case and leave; everything the parent believes goes through `send`."""

    def send(report, write=os.write, dumps=json.dumps, out=out, nonce=nonce):
        line = (nonce + dumps(report) + "\n").encode()
        while line:
            line = line[write(out, line) :]

    tree = case["tree"]
    os.setsid()
    if LIBC:
        LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: never outlive the worker
    log = os.open(os.path.join(tree, "case.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(source, target)
    os.closerange(3, out)  # above all the descriptor on which this worker answers
    os.closerange(out + 1, 65536)
    os.chdir(tree)
    os.makedirs("tmp", exist_ok=True)
    folders = [os.path.join(tree, f) for f in sorted(os.listdir(tree)) if f[:1] == "0" or f == "csrc"]
    os.environ.update(
        LEARN_SEEDS=",".join(map(str, case["seeds"])),
        PYTHONPATH=os.pathsep.join(folders),
        LEARN_CASE="1",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        TMPDIR=os.path.join(tree, "tmp"),
        NO_COLOR="1",
        COLUMNS="100",
    )
    sys.dont_write_bytecode = not case.get("bytecode")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    signal.signal(signal.SIGALRM, alarm)
    if case.get("guard") is not None:
        sys.modules["learn_guard"].lock_in(case)
    import pytest

    recorder = Recorder(case, send)
    pytest.main(
        [
            "-p",
            "no:cacheprovider",
            "--basetemp",
            os.path.join(tree, "tmp", "pytest"),
            "--rootdir",
            tree,
            "-c",
            os.path.join(tree, "pyproject.toml"),
            *case["tests"],
        ],
        plugins=[recorder],
    )
    send({"end": "finished"})


def descendants() -> list[int]:
    """The processes that a case left behind (Linux; elsewhere the process group has to do)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def run(case: dict) -> dict:
    """Fork, collect signed results until the child ends or its time is up, and leave nothing running."""
    nonce = os.urandom(16).hex()
    reading, writing = os.pipe()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            child(case, writing, nonce)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    deadline, data, ended = time.monotonic() + case["total"], b"", (nonce + '{"end"').encode()
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], min(left, 1))[0]:
            chunk = os.read(reading, 65536)
            data += chunk
            if not chunk or len(data) > 20_000_000 or ended in data:
                break
    late = left <= 0
    for victim in (-pid, pid):
        try:
            os.kill(victim, signal.SIGKILL)
        except OSError:
            pass
    status = os.waitpid(pid, 0)[1]
    while left_over := descendants():
        for victim in left_over:
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
    os.close(reading)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [
        line[len(nonce) :] for line in data.decode(errors="replace").splitlines() if line.startswith(nonce)
    ]
    reports = [json.loads(line) for line in lines]
    finished = any(r.get("end") == "finished" for r in reports)
    end = (
        "late"
        if late
        else "finished"
        if finished
        else f"crash (signal {status & 127})"
        if status & 127
        else "crash"
    )
    with open(os.path.join(case["tree"], "case.log"), errors="replace") as log:
        said = log.read()[-3000:]
    return {
        "reports": reports,
        "end": end,
        "log": said,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def main() -> None:
    """Import what the tree needs, then answer cases until standard input closes."""
    importlib.import_module("learn_guard")
    # The tests must see the tree of their case only; the editable install lists this one's folders.
    sys.path[:] = [
        p for p in sys.path if HERE not in (os.path.abspath(p), os.path.dirname(os.path.abspath(p)))
    ]
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    try:
        for name in sys.argv[1:]:
            importlib.import_module(name)
        if "torch" in sys.modules:
            with contextlib.suppress(ImportError):  # slow, and assert_close imports it
                importlib.import_module("torch.distributed.tensor")
    except ImportError as problem:
        builtins.print(json.dumps({"cannot": str(problem)}), file=answers, flush=True)
        return
    if LIBC:
        LIBC.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans of a case come to us
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command that started us; it then ends us
    gc.collect()
    gc.freeze()  # the children need not look through all of this again
    builtins.print(json.dumps({"ready": sys.version.split()[0]}), file=answers, flush=True)
    for line in sys.stdin:
        builtins.print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
