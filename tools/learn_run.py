"""Running the tests of one exercise on one body: scratch trees, and the worker that runs them.

Adds to learn_trees.py: a body is grafted ALONE into a clean copy of the reference, so an unfinished exercise
next door cannot break it and edits outside the markers do not count. `check`, `prove` and `grade` all use
`Bench`, and so judge an answer by the same tests, in the same way, from the same seeds.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from learn_bodies import chapters, course, find, graft, text_of
from learn_trees import body_tree, forget, git, has_git, judge_tree

HEAVY = ("numpy", "torch", "regex", "matplotlib")
# Of Python's own settings: asserts would be left out, the tool's modules not be found, warnings be errors.
UNWANTED = {"PYTHONOPTIMIZE", "PYTHONSAFEPATH", "PYTHONWARNINGS"}
MEMORY = 2000   # MB that a body may take


def seeds_for(body: str) -> list[int]:
    """The seeds under which a body is tested: 0 and two that this very body has, everywhere and always."""
    drawn = hashlib.sha256(body.encode()).digest()
    return [0, int.from_bytes(drawn[:4], "big") >> 1, int.from_bytes(drawn[4:8], "big") >> 1]


@dataclass
class Verdict:
    """What the tests of an exercise said of a body, and how the process ended."""

    end: str
    reports: list = field(default_factory=list)
    nodes: list = field(default_factory=list)
    names: list = field(default_factory=list)
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
    """A clean base tree and a worker; `run` judges a body in it and returns a Verdict.

    Use as a context manager. Several benches may share one base (`base=`): prove runs one per core.
    """

    def __init__(self, root: Path, base: Path, built: Path | None = None):
        self.root, self.base = root, base
        self.built = built or base.parent / "kernels"  # what tests compile: shared, but copied for strangers
        self.exercises = course(base)
        self.tests = {id: [f"tests/{p.name}" for p in sorted((base / "tests").glob("test_ex*.py"))
                           if re.search(rf"[\"']{re.escape(id)}[\"']", p.read_text(encoding="utf-8"))]
                      for id in self.exercises}
        used = " ".join(p.read_text(encoding="utf-8") for c in chapters(base)
                        for p in (base / c).glob("*.py"))
        self.heavy = ["pytest", *(name for name in HEAVY if re.search(rf"\b(import|from) {name}\b", used))]
        self.worker, self.scratch, self.count = None, None, 0

    def __enter__(self):
        self.scratch = Path(tempfile.mkdtemp(prefix="case-", dir=self.base.parent))
        # a body may run as another user, who must reach its own tree, and no other
        self.scratch.chmod(0o711)
        self.start()
        return self

    def start(self) -> None:
        """Start the worker. ValueError: the packages are missing."""
        env = {name: value for name, value in os.environ.items()
               if name not in UNWANTED and not name.startswith("PYTEST_")}
        env |= {"PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1"}
        command = [python_for(self.root), str(Path(__file__).with_name("learn_worker.py")), *self.heavy]
        self.worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                       env=env)
        hello = json.loads(self.worker.stdout.readline() or '{"cannot": "the worker did not start"}')
        if "cannot" in hello:
            self.__exit__()
            raise ValueError(f"the tests cannot run: {hello['cannot']}. Run 'make setup' first")

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
        scratch = Path(tempfile.mkdtemp(dir=self.scratch))
        self.ask({"judge": str(self.base), "body": str(self.base), "scratch": str(scratch), "tests": files,
                  "id": "none", "file": "", "seeds": [0], "seconds": 60, "total": 120, "memory": MEMORY,
                  "guard": None, "bytecode": True})

    def ask(self, case: dict) -> dict:
        """Send one case to the worker and wait for its answer; a worker that has died is started again."""
        for _ in range(2):
            try:
                self.worker.stdin.write(json.dumps(case) + "\n")
                self.worker.stdin.flush()
                return json.loads(self.worker.stdout.readline())
            except (BrokenPipeError, json.JSONDecodeError):
                self.worker.kill()
                self.worker.wait()
                self.start()
        return {"reports": [], "end": "crash", "log": "the process that runs the tests died twice", "cpu": 0}

    def trees(self, id: str) -> tuple[Path, Path]:
        """The judge's and the body's tree of one exercise."""
        judge, body = self.scratch / f"judge-{id}", self.scratch / f"body-{id}"
        if not judge.exists():
            judge_tree(self.base, self.exercises[id], judge)
            judge.chmod(0o700)
            body_tree(self.base, body)
        return judge, body

    def run(self, id: str, body: str, seeds=None, seconds: float = 20, guard=None, stops: int = 2,
            memory: int = MEMORY, total: float = 1200) -> Verdict:
        """The verdict on `body` as exercise `id`, every other exercise being the base's."""
        self.count += 1
        seeds = seeds_for(body) if seeds is None else list(seeds)
        exercise, scratch = self.exercises[id], self.scratch / f"{self.count}"
        judge, tree = self.trees(id)
        file = tree / exercise.path
        file.write_text(graft(text_of(self.base / exercise.path), id, body), encoding="utf-8")
        forget(file)
        out = scratch / "body/out"                  # where the chapters write, the compiled kernels above all
        out.mkdir(parents=True)
        scratch.chmod(0o711)
        self.built.mkdir(parents=True, exist_ok=True)
        if guard:
            shutil.copytree(self.built, out / "kernels")
        else:
            (out / "kernels").symlink_to(self.built)
        for path in [out.parent, *out.parent.rglob("*")] if guard and "user" in guard["has"] else ():
            os.chown(path, guard["user"], guard["user"], follow_symlinks=False)
        (tree / "out").unlink(missing_ok=True)
        (tree / "out").symlink_to(out)
        case = {"judge": str(judge), "body": str(tree), "scratch": str(scratch), "file": str(file), "id": id,
                "tests": self.tests[id], "seeds": seeds, "seconds": seconds, "stops": stops, "memory": memory,
                "guard": guard and {**guard, "programs": exercise.comment == "//"},
                "total": min(seconds * (stops + 2) + len(seeds) * 40, total)}
        answer = {"reports": [], "end": "finished", "log": "", "cpu": 0}
        try:
            if self.tests[id]:
                answer = self.ask(case)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        verdict = Verdict(answer["end"], log=answer["log"], cpu=answer["cpu"])
        for report in answer["reports"]:
            verdict.nodes += report.get("collected", [])
            verdict.broken = report.get("broken", verdict.broken)
            verdict.reports += [report] if "outcome" in report else []
        verdict.names = list(dict.fromkeys(node.split("::")[-1].split("[")[0] for node in verdict.nodes))
        return verdict


def line_in_file(text: str, exercise, line: int) -> int:
    """Where line `line` of the grafted reference file is in the learner's own file (0: outside the body)."""
    mine = {e.id: e for e in find(text)}[exercise.id]
    return line - exercise.line + mine.line if exercise.line < line else 0
