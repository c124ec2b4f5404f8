"""Running the tests of one exercise on one body: scratch trees, and the worker that runs them.

Adds to learn_bodies.py: a body is grafted ALONE into a clean copy of the reference, so an unfinished exercise
next door cannot break it and edits outside the markers do not count. `check`, `prove` and `grade` all use
`Bench`.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from learn_bodies import chapters, course, find, graft

PICTURES = {".png", ".svg", ".jpg", ".gif", ".pdf", ".ico"}
SKIP = {".git", ".venv", "out", "__pycache__", ".learn", "peers", ".ci", "node_modules"}
HEAVY = ("numpy", "torch", "regex", "matplotlib")


def git(root: Path, *words: str) -> str:
    """The output of a git command; ValueError with git's own last line when it fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError("git is not installed: install it, then run this again") from None
    if done.returncode:
        raise ValueError(f"git {words[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout.strip()


def has_git(root: Path) -> bool:
    """True if `root` itself is the top of a git work tree with a commit."""
    try:
        return Path(git(root, "rev-parse", "--show-toplevel")) == root and bool(
            git(root, "rev-parse", "HEAD")
        )
    except ValueError:
        return False


def needed(path: str) -> bool:
    """Does a test run need this file? Not pictures, other tests, the answers in the mutants, or this tool."""
    parts = path.split("/")
    if SKIP & set(parts) or Path(path).suffix in PICTURES or re.match(r"(learn\.py|tools/.*)$", path):
        return False
    return not (parts[0] == "tests" and re.match(r"(test_(?!ex)|mutants)", parts[-1]))


def copy_tree(root: Path, to: Path, keep=needed) -> None:
    """Copy the working tree's files that `keep` accepts (what git ignores is left out where there is git)."""
    if has_git(root):
        paths = git(root, "ls-files", "-co", "--exclude-standard").splitlines()
    else:
        paths = [
            p.relative_to(root).as_posix()
            for p in root.rglob("*")
            if not SKIP & set(p.relative_to(root).parts)
        ]
    for path in paths:
        if keep(path) and (root / path).is_file() and not (root / path).is_symlink():
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, to / path)


def export(root: Path, commit: str, to: Path, keep=needed) -> None:
    """The same from a commit: the clean reference."""
    data = subprocess.run(["git", "-C", str(root), "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isfile() and keep(member.name):
                (to / member.name).parent.mkdir(parents=True, exist_ok=True)
                (to / member.name).write_bytes(archive.extractfile(member).read())


@dataclass
class Verdict:
    """What the tests of an exercise said of a body, and how the process ended."""

    end: str
    reports: list = field(default_factory=list)
    nodes: list = field(default_factory=list)
    names: list = field(default_factory=list)
    replaced: list = field(default_factory=list)
    broken: str = ""
    log: str = ""
    cpu: float = 0.0

    @property
    def outcomes(self) -> dict:
        """One outcome a test function: the worst over its parameters and seeds, `lost` if it did not end."""
        order = ["passed", "skipped", "blank", "error", "lost", "stopped", "wrong"]
        done = {r["node"] for r in self.reports}
        seen = [(r["name"], r["outcome"]) for r in self.reports]
        seen += [(node.split("::")[-1].split("[")[0], "lost") for node in self.nodes if node not in done]
        worst = {name: "passed" for name in self.names}
        for name, outcome in seen:
            worst[name] = max(worst[name], outcome, key=order.index)
        return worst

    @property
    def passed(self) -> bool:
        """Every test ran to its end and passed, and there was at least one."""
        return self.end == "finished" and bool(self.names) and set(self.outcomes.values()) == {"passed"}


def python_for(root: Path) -> str:
    """The interpreter with the packages: this tree's .venv, its main work tree's, or the one running now."""
    homes = [root]
    if has_git(root):
        homes.append(Path(git(root, "rev-parse", "--path-format=absolute", "--git-common-dir")).parent)
    for home in homes:
        if (home / ".venv/bin/python").exists():
            return str(home / ".venv/bin/python")
    return sys.executable


class Bench:
    """A clean base tree and a worker; `run` grafts a body into a copy of the base and returns a Verdict.

    Use as a context manager. Several benches may share one base (`base=`): prove runs one per core.
    """

    def __init__(self, root: Path, base: Path, built: Path | None = None):
        self.root, self.base = root, base
        self.built = built or base.parent / "kernels"  # what tests compile: shared, but copied for strangers
        self.exercises = course(base)
        self.tests = {
            id: [
                f"tests/{p.name}"
                for p in sorted((base / "tests").glob("test_ex*.py"))
                if re.search(rf"[\"']{re.escape(id)}[\"']", p.read_text(encoding="utf-8"))
            ]
            for id in self.exercises
        }
        used = " ".join(
            p.read_text(encoding="utf-8") for c in chapters(base) for p in (base / c).glob("*.py")
        )
        self.heavy = ["pytest", *(name for name in HEAVY if re.search(rf"\b(import|from) {name}\b", used))]
        self.worker, self.scratch, self.count = None, None, 0

    def __enter__(self):
        self.scratch = Path(tempfile.mkdtemp(prefix="case-", dir=self.base.parent))
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1"}
        self.worker = subprocess.Popen(
            [python_for(self.root), str(Path(__file__).with_name("learn_worker.py")), *self.heavy],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        hello = json.loads(self.worker.stdout.readline() or '{"cannot": "the worker did not start"}')
        if "cannot" in hello:
            self.__exit__()
            raise ValueError(f"the tests cannot run: {hello['cannot']}. Run 'make setup' first")
        return self

    def __exit__(self, *problem):
        if problem and problem[0]:
            self.worker.kill()
        with contextlib.suppress(BrokenPipeError):
            self.worker.stdin.close()
        try:
            self.worker.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            self.worker.wait()
        self.worker.stdout.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def warm(self, ids) -> None:
        """Write the base tree's bytecode once, so that hundreds of cases need not compile it again."""
        files = sorted({t for id in ids for t in self.tests[id]})
        self.ask(
            {
                "tree": str(self.base),
                "tests": files,
                "id": "none",
                "file": "",
                "seeds": [0],
                "seconds": 60,
                "total": 120,
                "bytecode": True,
            }
        )

    def ask(self, case: dict) -> dict:
        """Send one case to the worker and wait for its answer."""
        try:
            self.worker.stdin.write(json.dumps(case) + "\n")
            self.worker.stdin.flush()
            return json.loads(self.worker.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise ValueError("the process that runs the tests died: run the command again") from None

    def run(self, id: str, body: str, seeds=(0,), seconds: float = 20, guard=None, stops: int = 2) -> Verdict:
        """The verdict on `body` as exercise `id`, every other exercise being the base's."""
        self.count += 1
        path, tree = self.exercises[id].path, self.scratch / str(self.count)
        shutil.copytree(self.base, tree)
        self.built.mkdir(parents=True, exist_ok=True)
        if guard:
            shutil.copytree(self.built, tree / "out/kernels")
        else:
            (tree / "out").mkdir()
            (tree / "out/kernels").symlink_to(self.built)
        file = tree / path
        file.write_text(graft(file.read_text(encoding="utf-8"), id, body), encoding="utf-8")
        for old in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
            old.unlink()
        tests = len(seeds) * 40
        case = {
            "tree": str(tree),
            "tests": self.tests[id],
            "id": id,
            "file": str(file),
            "seeds": list(seeds),
            "seconds": seconds,
            "total": min(seconds * (stops + 2) + tests, 1200),
            "guard": guard,
            "stops": stops,
        }
        try:
            answer = (
                self.ask(case) if self.tests[id] else {"reports": [], "end": "finished", "log": "", "cpu": 0}
            )
        finally:
            shutil.rmtree(tree, ignore_errors=True)
        verdict = Verdict(answer["end"], log=answer["log"], cpu=answer["cpu"])
        for report in answer["reports"]:
            verdict.nodes += report.get("collected", [])
            verdict.replaced += report.get("replaced", [])
            verdict.broken = report.get("broken", verdict.broken)
            verdict.reports += [report] if "outcome" in report else []
        verdict.names = list(dict.fromkeys(node.split("::")[-1].split("[")[0] for node in verdict.nodes))
        return verdict


def line_in_file(text: str, exercise, line: int) -> int:
    """Where line `line` of the grafted reference file is in the learner's own file (0: outside the body)."""
    mine = {e.id: e for e in find(text)}[exercise.id]
    inside = exercise.line < line
    return line - exercise.line + mine.line if inside else 0
