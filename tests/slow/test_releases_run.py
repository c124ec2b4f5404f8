"""The releases of the real course run their own tests: skipped while blank, passing once the answers are
back.

tests/test_learn_course.py shows that every range can be released and that its tests can be collected; here
they run. Each test file runs in the release in which its chapter is the newest. Python starts without the
installed repository (-S), so a release that needs a file of a later chapter fails. Not part of `make test`:

    .venv/bin/python -m pytest tests/slow -o addopts=-q
"""
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from learn_bodies import course, graft, write
from learn_release import release, span
from learn_trees import git, has_git

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("chapters, newest", [("1", [1]), ("1-2", [2]), ("1-3", [3]), ("7-8", [7, 8])])
def test_a_release_of_the_course_runs_its_own_tests(chapters, newest, tmp_path):
    if not has_git(ROOT) or git(ROOT, "diff", "HEAD", "--name-only"):
        pytest.skip("release hands out what is committed: the tree has other changes, or no git")
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
