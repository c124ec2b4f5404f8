"""The real course: what must hold of the exercises of every chapter that has some."""
import json
import re
import subprocess
from pathlib import Path

import pytest

from learn_bodies import audit, chapters, course, is_stub
from learn_prove import LEAST, mutant, mutants
from learn_release import leaks, number, release, span
from learn_run import git, has_git

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = course(ROOT)
LAST = max((number(e.chapter) for e in EXERCISES.values()), default=0)
pytestmark = [
    pytest.mark.skipif(not EXERCISES, reason="no chapter has exercises yet"),
    pytest.mark.skipif(any(is_stub(e.body) for e in EXERCISES.values()), reason="a learner's tree"),
]


def test_pages_markers_and_tests_agree():
    assert audit(ROOT) == []


def test_every_exercise_has_enough_mutants_that_fit_its_body():
    bank = mutants(ROOT)
    for id, exercise in EXERCISES.items():
        named = [m for m in bank if m[0] == id]
        assert len(named) >= LEAST, f"{id} has {len(named)} mutants"
        for _, what, right, wrong in named:
            assert mutant(exercise.body, right, wrong) != exercise.body, f"{id}: {what}"
    assert {m[0] for m in bank} <= set(EXERCISES)


def test_the_pages_ask_for_the_easiest_first_in_order_of_their_ids():
    for chapter in chapters(ROOT):
        mine = [e for e in EXERCISES.values() if e.chapter == chapter]
        assert [int(e.id.split(".")[1]) for e in mine] == list(range(1, len(mine) + 1))
        assert all(e.minutes > 0 and e.points > 0 for e in mine)


@pytest.mark.parametrize("last", range(1, LAST + 1))
def test_no_solution_survives_in_a_release(last, tmp_path):
    """Each range 1-N, from the committed files; and the search itself finds the solutions in the reference."""
    if not has_git(ROOT) or git(ROOT, "diff", "HEAD", "--name-only"):
        pytest.skip("a release is made from a clean git tree")
    taken = release(ROOT, span(f"1-{last}"), tmp_path / "students")
    assert list(taken) == [id for id, e in EXERCISES.items() if number(e.chapter) <= last]
    assert json.loads((tmp_path / "students/release.json").read_text())["exercises"] == list(taken)
    if last == LAST:
        found = {re.search(r"exercise (\S+)", line)[1] for line in leaks(ROOT / f"{EXERCISES[id].chapter}", taken)
                 for id in list(taken)[:1]}
        assert next(iter(taken)) in found


def test_a_release_collects_its_own_tests(tmp_path):
    if not has_git(ROOT) or git(ROOT, "diff", "HEAD", "--name-only"):
        pytest.skip("a release is made from a clean git tree")
    for last in sorted({number(e.chapter) for e in EXERCISES.values()}):
        out = tmp_path / str(last)
        release(ROOT, span(f"1-{last}"), out)
        python = ROOT / ".venv/bin/python"
        done = subprocess.run([python, "-m", "pytest", "--collect-only", "-q"], cwd=out, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
