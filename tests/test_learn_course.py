"""The real course: what must hold of the exercises of every chapter that has some."""

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from learn_bodies import audit, chapters, course, is_stub
from learn_handout import dead
from learn_prove import LEAST, mutant, mutants
from learn_release import leaks, number, release, span, squeezed
from learn_run import Bench
from learn_trees import copy_tree, git, has_git
from no_fork import after_backward
from right_answers import answers, right_answer

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = course(ROOT)
LAST = max((number(e.chapter) for e in EXERCISES.values()), default=0)
pytestmark = [pytest.mark.skipif(not EXERCISES, reason="no chapter has exercises yet"),
              pytest.mark.skipif(any(is_stub(e.body) for e in EXERCISES.values()), reason="a learner's tree")]


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


def test_every_exercise_has_a_right_answer_of_another_kind():
    """Not the reference with other spaces or comments; tests/slow/test_right_answers.py grades them."""
    assert set(answers()) == set(EXERCISES)
    for id, e in EXERCISES.items():
        mine, theirs = ("".join(squeezed(body)) for body in (right_answer(e), e.body))
        assert difflib.SequenceMatcher(None, mine, theirs, autojunk=False).ratio() < 0.9, id


def test_the_pages_ask_for_the_easiest_first_in_order_of_their_ids():
    for chapter in chapters(ROOT):
        mine = [e for e in EXERCISES.values() if e.chapter == chapter]
        assert [int(e.id.split(".")[1]) for e in mine] == list(range(1, len(mine) + 1))
        assert all(e.minutes > 0 and e.points > 0 for e in mine)


def test_the_teachers_page_states_the_hours_of_the_exercises():
    """Within a tenth, so that a new exercise does not break it at once; the sums of the weeks exactly."""
    page = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    stated = float(re.search(r"add up to (\d+) hours", page)[1])
    assert abs(stated - sum(e.minutes for e in EXERCISES.values()) / 60) < stated / 10
    rows = re.findall(r"^\| (\d+) \| (.*?) \| ([\d.]+) \|$", page, re.M)
    assert len(rows) == 10 and 105 <= sum(float(whole) for _, _, whole in rows) <= 115
    for week, cells, whole in rows:
        assert sum(map(float, re.findall(r"\(([\d.]+)\)", cells))) + 2 == pytest.approx(float(whole)), (
            f"week {week}")
    parts = re.findall(r"(?:chapter \d|\(csrc\)) (\d+\.\d)", page)
    fewer = sum(map(float, parts[:3] + parts[6:]))   # without chapter 4, csrc and chapter 5
    assert len(parts) == 9 and float(re.search(r"only: (\d+) hours", page)[1]) == round(fewer)


def committed():
    """A release is made of what is committed, so there must be git and nothing else."""
    if not has_git(ROOT) or git(ROOT, "diff", "HEAD", "--name-only"):
        pytest.skip("the tree has changes that are not committed, or no git")


def test_no_solution_survives_in_a_release_which_collects_its_own_tests(tmp_path):
    committed()
    last = min(3, LAST)   # tests/slow/test_releases_run.py makes the others
    out = tmp_path / "students"
    taken = release(ROOT, span(f"1-{last}"), out)
    assert list(taken) == [id for id, e in EXERCISES.items() if number(e.chapter) <= last]
    for page in out.glob("0*/EXERCISES.md"):
        said = " ".join(page.read_text(encoding="utf-8").split())
        assert "not with the reference" in said and "with the reference of all the rest" not in said
    assert {str(page): dead(page) for page in out.rglob("*.md") if dead(page)} == {}
    run = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(run, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_search_for_solutions_finds_each_of_them_in_the_reference():
    for chapter in sorted({e.chapter for e in EXERCISES.values()}):
        bodies = {id: e.body for id, e in EXERCISES.items() if e.chapter == chapter}
        found = {re.search(r"exercise (\S+)", line)[1] for line in leaks(ROOT / chapter, bodies)}
        assert found == set(bodies)


@pytest.mark.skipif("3.9" not in EXERCISES, reason="chapter 3 is not in this copy")
def test_the_worker_tests_gradients_also_when_this_process_has_computed_some(monkeypatch, tmp_path):
    after_backward(monkeypatch)
    copy_tree(ROOT, tmp_path / "base")
    with Bench(ROOT, tmp_path / "base") as bench:
        for _ in range(2):   # each in a process forked from a worker that never computes
            verdict = bench.run("3.9", EXERCISES["3.9"].body)
            assert verdict.passed, verdict
