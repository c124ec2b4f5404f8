"""The releases of the real course run their own tests: skipped while blank, passing once the answers are
back.

tests/test_learn_course.py makes one release; here every range is made, and some run their tests.
Each test file runs in the release in which its chapter is the newest. Python starts without the installed
repository (-S), so a release that needs a file of a later chapter fails. Not part of `make test`:

    .venv/bin/python -m pytest tests/slow -o addopts=-q
"""
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from learn_bodies import course, graft, write
from learn_handout import dead
from learn_release import number, release, span
from test_learn_course import committed

ROOT = Path(__file__).resolve().parents[2]
LAST = max(number(e.chapter) for e in course(ROOT).values())


def own_tests(tree, newest):
    """(exit status, {"passed": 3, "skipped": 1 ...}, the output) of the tests of these chapters in `tree`."""
    files = [str(p) for p in sorted((tree / "tests").glob("test_*.py"))
             if re.match(r"test_(ex)?_?(\d\d)", p.name)
             and int(re.search(r"\d\d", p.name)[0]) in newest]
    assert files
    folders = [*sorted(str(p) for p in tree.glob("0*_*")), str(tree), str(tree / "tests"),
               sysconfig.get_path("purelib")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_WAIT_POLICY": "PASSIVE",
           "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-S", "-m", "pytest", "-rsfE", "-p", "no:cacheprovider", *files],
                          cwd=tree, env=env, capture_output=True, text=True, timeout=1200)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|skipped|failed|errors?)\b",
                                                     done.stdout[-400:])}
    return done.returncode, counts, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("last", range(1, LAST + 1))
def test_no_solution_survives_in_any_release_and_each_collects_its_own_tests(last, tmp_path):
    committed()
    tree = tmp_path / "students"
    taken = release(ROOT, span(f"1-{last}"), tree)
    assert list(taken) == [id for id, e in course(ROOT).items() if number(e.chapter) <= last]
    assert {str(page): dead(page) for page in tree.rglob("*.md") if dead(page)} == {}
    run = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(run, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("chapters, newest", [("1", [1]), ("1-2", [2]), ("1-3", [3]), ("7-8", [7, 8])])
def test_a_release_of_the_course_runs_its_own_tests(chapters, newest, tmp_path):
    committed()
    tree = tmp_path / "students"
    answers = release(ROOT, span(chapters), tree)
    status, blank, said = own_tests(tree, newest)
    assert status == 0, said
    assert blank["skipped"] >= sum(id.split(".")[0] in map(str, newest) for id in answers), said

    for id, body in answers.items():
        file = tree / course(tree)[id].path
        write(file, graft(file.read_text(encoding="utf-8"), id, body))
    status, filled, said = own_tests(tree, newest)
    assert status == 0, said
    assert set(filled) <= {"passed", "skipped"} and filled["passed"] > blank.get("passed", 0), said
    assert "still blank" not in said   # others may skip: what an older torch or this machine lacks
