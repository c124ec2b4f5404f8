"""The learner's code is what the system runs: `make quick` with a body written another way, a wrong one, a
blank one.

Each run is a scratch copy of the tree in which learn_bodies.graft has replaced bodies of chapter 3. Chapters
1 and 2 are not touched, so make keeps what the reference run made of them. Not part of `make test`:

    .venv/bin/python -m pytest tests/slow -o addopts=-q
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from learn_bodies import course, find, graft, write
from learn_trees import copy_tree
from workbench import read_json

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif((ROOT / ".learn").exists() or (ROOT / "release.json").exists(),
                                reason="a learner's tree")

REWRITTEN = {   # right answers, not written as the reference writes them
    "3.1": """\
    B, T = rows.shape[0], rows.shape[1] - 1
    x, y = rows.new_empty(B, T), rows.new_empty(B, T)
    for t in range(T):
        x[:, t] = rows[:, t]
        y[:, t] = rows[:, t + 1]
    return x, y
""",
    "3.9": """\
    probabilities = torch.e ** (logits - log_z.unsqueeze(1))
    wanted = torch.arange(logits.shape[1], device=logits.device).eq(safe.unsqueeze(1))
    n = max(int(kept.sum()), 1)
    difference = probabilities - wanted.to(logits.dtype)
    return torch.where(kept.unsqueeze(1), difference, torch.zeros_like(logits)) / n * grad
""",
}
# right shapes, and a loss that falls fast
NOT_SHIFTED = "    return rows[:, :-1].clone(), rows[:, :-1].clone()\n"


def make(tree: Path) -> subprocess.CompletedProcess:
    """`make quick` in `tree`, its own chapters first on the path; no set-up, and this interpreter."""
    folders = [str(p) for p in sorted(tree.glob("0*_*"))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_WAIT_POLICY": "PASSIVE",
           "OMP_NUM_THREADS": "2",
           "CUDA_VISIBLE_DEVICES": ""}
    command = ["make", "-o", ".venv/ready", f"PY={sys.executable}", "QUICK=1", "OUT=out/quick", "SEED=0",
               "CORPUS=", "all"]
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=1500)


def bits(tree: Path) -> dict:
    """The row of the scoreboard about held-out text, `before` and `after` training."""
    return next(r for r in read_json(tree / "out/quick/scoreboard.json")
                if r["metric"] == "real text, bits per byte")


def last_loss(tree: Path) -> float:
    """The training loss at the end of pretraining, a mean of ten steps."""
    return sum(r["loss"] for r in read_json(tree / "out/quick/03_training/metrics.json")["log"][-10:]) / 10


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A copy of the tree in which the quick run has finished."""
    tree = tmp_path_factory.mktemp("reference") / "tree"
    copy_tree(ROOT, tree, keep=lambda path: not path.startswith("tests/"))
    done = make(tree)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return tree


@pytest.fixture
def run_with(reference, tmp_path):
    """A function that grafts {id: body} into a copy of the reference run and makes it: (tree, the run)."""
    def run(bodies: dict[str, str]):
        tree = tmp_path / "tree"
        shutil.copytree(reference, tree)
        for id, body in bodies.items():
            file = tree / course(tree)[id].path
            write(file, graft(file.read_text(encoding="utf-8"), id, body))
        return tree, make(tree)
    return run


def test_a_right_answer_written_another_way_trains_the_same_model(reference, run_with):
    theirs = {e.id: e.body for path in (reference / "03_training").glob("*.py")
              for e in find(path.read_text(encoding="utf-8"))}
    assert all(body.strip() != theirs[id].strip() for id, body in REWRITTEN.items())
    tree, done = run_with(REWRITTEN)
    assert done.returncode == 0, done.stderr[-3000:]
    # trained anew, and nothing else
    assert "== 03 training" in done.stdout and "== 01 tokenizer" not in done.stdout
    wanted, got = bits(reference), bits(tree)
    assert got["before"] == wanted["before"]
    assert got["after"] == pytest.approx(wanted["after"], abs=0.02)
    assert wanted["after"] < wanted["before"] - 0.5   # or the tolerance would prove nothing


def test_targets_that_are_not_shifted_please_the_training_loss_and_spoil_the_scoreboard(reference, run_with):
    tree, done = run_with({"3.1": NOT_SHIFTED})
    assert done.returncode == 0, done.stderr[-3000:]   # nothing crashes: only the scoreboard tells
    assert last_loss(tree) < last_loss(reference)
    assert bits(tree)["after"] > bits(reference)["after"] + 1


def test_a_blank_exercise_stops_the_run_with_its_name(reference, run_with):
    exercise = course(reference)["3.9"]
    tree, done = run_with({"3.9": exercise.stub})
    assert done.returncode != 0
    assert "exercise 3.9: the gradient of cross-entropy" in done.stderr
    assert read_json(tree / "out/quick/scoreboard.json") == read_json(reference / "out/quick/scoreboard.json")
