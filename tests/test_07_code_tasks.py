"""Patches and the grade of SWE-bench: against difflib, `patch` by hand, and patches that try to cheat."""
import dataclasses
import json
import random

import pytest

from code_tasks import TASKS, Instance, grade, is_test, load_instances, resolved
from unified_diff import DoesNotApply, Hunk, apply_hunk, apply_patch, make_patch, parse_patch

ROWS = {row.instance_id: row for row in load_instances(TASKS)}


def test_patches_made_by_difflib_give_the_other_text_back():
    rng = random.Random(0)
    for _ in range(200):
        old = [rng.choice("abcd") for _ in range(rng.randrange(30))]
        new = list(old)
        for _ in range(rng.randrange(6)):
            at = rng.randrange(len(new) + 1)
            new[at:at + rng.randrange(3)] = [rng.choice("abxy") for _ in range(rng.randrange(3))]
        before, after = ({"f.txt": "".join(line + "\n" for line in lines)} for lines in (old, new))
        if before != after:
            assert apply_patch(before, make_patch(before, after)) == after


def test_files_come_and_go():
    before, after = {"old.py": "x = 1\n"}, {"new/made.py": "y = 2\n"}
    assert apply_patch(before, make_patch(before, after)) == after
    assert before == {"old.py": "x = 1\n"}


GIT = """diff --git a/pkg/f.py b/pkg/f.py
index 83db48f..bf12b5c 100644
--- a/pkg/f.py
+++ b/pkg/f.py
@@ -1,3 +1,4 @@ def f():
 one
-two
+2
+2.5
 three
\\ No newline at end of file
"""


def test_what_git_writes_is_read():
    assert parse_patch(GIT) == {"pkg/f.py": [Hunk(1, [" one", "-two", "+2", "+2.5", " three"])]}
    assert apply_patch({"pkg/f.py": "one\ntwo\nthree"}, GIT) == {"pkg/f.py": "one\n2\n2.5\nthree\n"}


def test_a_hunk_is_found_where_lines_have_moved_and_nearest_to_its_number():
    hunk = Hunk(2, [" a", "-b", "+B"])
    assert apply_hunk(["new", "new", "a", "b"], hunk, 0) == (["new", "new", "a", "B"], 1)
    text = ["a", "b", "x", "x", "x", "a", "b"]
    assert apply_hunk(text, dataclasses.replace(hunk, begin=5), 0)[0] == ["a", "b", "x", "x", "x", "a", "B"]
    assert apply_hunk(text, dataclasses.replace(hunk, begin=1), 0)[0] == ["a", "B", "x", "x", "x", "a", "b"]


@pytest.mark.parametrize("patch, said", [
    ("", "no file is named"), ("hello", "no file is named"),
    ("+++ b/f.py\n@@ -1 +1 @@\n-a\n+b\n", "before it"),
    ("--- a/f.py\n+++ b/f.py\n@@ -1,2 +1,2 @@\n a\n", "cut off"), ("@@ -1 +1 @@\n-a\n+b\n", "before it"),
    ("--- a/f.py\n+++ b/f.py\n@@ -1 +1 @@\n-z\n+b\n", "not as the patch says"),
    ("--- a/../f.py\n+++ b/../f.py\n@@ -1 +1 @@\n-z\n+b\n", "outside"),
    ("--- /etc/x\n+++ /etc/x\n@@ -1 +1 @@\n-z\n+b\n", "outside"),
    ("--- a/f.py\n+++ b/f.py\n@@ -1,2 +1,2 @@\n a\nnot a hunk\n", "too early")])
def test_what_does_not_apply_is_one_sentence(patch, said):
    with pytest.raises(DoesNotApply, match=said):
        apply_patch({"f.py": "a\n"}, patch)


# The grade.

def test_all_of_both_lists_must_pass():
    assert resolved({"a": True, "b": True, "other": False}, ["a"], ["b"])
    assert not resolved({"a": True, "b": False}, ["a"], ["b"])
    assert not resolved({"a": False, "b": True}, ["a"], ["b"])
    assert not resolved({"a": True}, ["a"], ["b"])
    assert resolved({"a": True}, ["a"], [])
    with pytest.raises(ValueError, match="no test fails"):
        resolved({"b": True}, [], ["b"])


@pytest.mark.parametrize("id", ROWS)
def test_the_reference_resolves_each_task_and_no_patch_none(id):
    row = ROWS[id]
    assert grade(row, row.patch).resolved
    nothing = grade(row, "")
    assert not nothing.resolved and sorted(nothing.failed) == sorted(row.FAIL_TO_PASS)


def changed(row, path, text):
    """The patch that gives one file this text."""
    return make_patch(row.files, {**row.files, path: text})


CHEATS = {
    "leaves at once": "raise SystemExit(0)\n",
    "leaves when called": "import os\n\n\ndef merge(intervals):\n    os._exit(0)\n",
    "is equal to everything": "class Yes(list):\n    def __eq__(self, other):\n        return True\n\n\n"
                              "def merge(x):\n    return Yes()\n",
    "patches assert's exception": "import builtins\nbuiltins.AssertionError = ValueError\n\n\n"
                                  "def merge(x):\n    return []\n",
    "never ends": "def merge(x):\n    while True:\n        pass\n",
    "writes the tests anew": "open('test_intervals.py', 'w').write('')\n\n\ndef merge(x):\n    return []\n"}


@pytest.mark.parametrize("name", CHEATS)
def test_a_patch_that_cheats_resolves_nothing(name, monkeypatch):
    import code_tasks
    monkeypatch.setattr(code_tasks, "LIMITS",
                        dataclasses.replace(code_tasks.LIMITS, wall_seconds=2.0, cpu_seconds=1))
    row = ROWS["intervals-1"]
    assert not grade(row, changed(row, "intervals.py", CHEATS[name])).resolved


def test_a_solvers_tests_are_not_the_ones_that_count():
    row = ROWS["intervals-1"]
    easy = "def test_touching():\n    pass\n\n\ndef test_overlapping():\n    pass\n"
    assert not grade(row, changed(row, "test_intervals.py", easy)).resolved


def only(files, test, hidden=None):
    """An instance with one test that must be mended."""
    return Instance("x-1", "p", "", make_patch(files, hidden) if hidden else "", [test], [], files)


def test_a_patch_that_brings_its_own_math_or_pytest_decides_nothing():
    files = {"f.py": "def f():\n    return 1.0\n",
             "test_f.py": "import math\nfrom f import f\n\n\ndef test_f():\n"
                          "    assert math.isclose(f(), 2.0)\n"}
    cheat = {"math.py": "def isclose(a, b):\n    return True\n"}
    assert not grade(only(files, "test_f.py::test_f"), make_patch(files, {**files, **cheat})).resolved
    right = {**files, "f.py": "from two import TWO\n\n\ndef f():\n    return TWO\n", "two.py": "TWO = 2.0\n"}
    assert grade(only(files, "test_f.py::test_f"), make_patch(files, right)).resolved


def test_what_unittest_and_pytest_do_around_a_test_is_done():
    text = ("import unittest\nimport pytest\nfrom f import f\n\n\nclass A(unittest.TestCase):\n"
            "    def setUp(self):\n        self.x = f()\n\n    def test_a(self):\n"
            "        self.assertEqual(self.x, 1)\n\n\nclass TestB:\n    def setup_method(self):\n"
            "        self.x = f()\n\n    def test_b(self):\n        assert self.x == 1\n\n\n"
            "def test_skipped():\n    pytest.skip('not today')\n\n\ndef test_key():\n    {}['a']\n")
    files = {"f.py": "def f():\n    return 1\n", "test_f.py": text}
    for test, reason in (("A::test_a", None), ("TestB::test_b", None), ("test_skipped", "Skipped: not today"),
                         ("test_key", "KeyError: 'a'"), ("test_none", "there is no such test"),
                         ("A::none", "there is no such test")):
        got = grade(only(files, f"test_f.py::{test}"), "")
        assert got.failed.get(f"test_f.py::{test}") == reason


def test_files_below_a_folder_of_tests_are_not_the_solvers():
    assert all(map(is_test, ("tests/helper.py", "pkg/test/a.py", "a_test.py", "conftest.py")))
    assert not any(map(is_test, ("testing.py", "latest/a.py")))


def test_form_feeds_and_carriage_returns_stay():
    before = {"f.py": "a = 1\r\n\x0cb = 2\r\nc = '\u2028'\r\n"}
    after = {"f.py": before["f.py"].replace("b = 2", "b = 3")}
    assert apply_patch(before, make_patch(before, after)) == after


def test_a_mended_bug_that_breaks_another_test_is_not_resolved():
    row = ROWS["dates-6"]
    broken = row.files["dates.py"].replace("year % 4 == 0", "year % 4 == 0 and year % 100 != 0")
    got = grade(row, changed(row, "dates.py", broken))
    assert not got.resolved and list(got.failed) == ["test_dates.py::test_every_fourth_century"]


def test_rows_of_the_published_form_are_read_and_damaged_ones_named(tmp_path):
    row = {"instance_id": "x-1", "problem_statement": "p", "patch": "", "test_patch": "",
           "FAIL_TO_PASS": '["t.py::a"]',
           "PASS_TO_PASS": "[]", "repo": "x/y", "base_commit": "abc", "version": "1", "hints_text": ""}
    file = tmp_path / "set.jsonl"
    file.write_text("\ufeff" + json.dumps(row) + "\n\n", encoding="utf-8")
    assert load_instances(file)[0].FAIL_TO_PASS == ["t.py::a"]
    for bad in ("{", "[]", json.dumps({**row, "FAIL_TO_PASS": "x"}),
                json.dumps({k: v for k, v in row.items() if k != "patch"})):
        file.write_text(json.dumps(row) + "\n" + bad + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match="line 2"):
            load_instances(file)
