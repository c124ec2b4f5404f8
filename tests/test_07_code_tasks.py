"""Patches and the grade of SWE-bench: against difflib, `patch` by hand, and patches that try to cheat."""
import dataclasses
import json
import random
import shutil
import subprocess

import pytest

import code_tasks
from code_tasks import TASKS, Instance, grade, is_test, load_instances, resolved
from unified_diff import DoesNotApply, FileChange, Hunk, apply_hunk, apply_patch, make_patch, parse_patch

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
    hunk = Hunk(1, [" one", "-two", "+2", "+2.5", " three"])
    assert parse_patch(GIT) == [FileChange("pkg/f.py", "pkg/f.py", [hunk])]
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
    ("--- a//etc/x\n+++ b//etc/x\n@@ -0,0 +1 @@\n+b\n", "outside"),
    ("diff --git a/f.py b/g.py\nrename from f.py\nrename to ../g.py\n", "outside"),
    ("--- a/f.py\n+++ b/f.py\n@@ -1,2 +1,2 @@\n a\nnot a hunk\n", "too early"),
    ("--- a/f.py\n+++ b/f.py\n@@ -1 +1 @@\n-a\n+b\n+c\n", "more lines than its head says"),
    ("--- a/f.py\n+++ b/f.py\n@@ def f():\n-a\n+b\n", "no head of a hunk"),
    ("--- /dev/null\n+++ b/f.py\n@@ -0,0 +1 @@\n+b\n", "f.py is there already"),
    ("--- a/f.py\n+++ /dev/null\n@@ -0,0 +1 @@\n+b\n", "leaves lines of it"),
    ("--- a/g.py\n+++ b/g.py\n@@ -3,0 +4 @@\n+b\n", "there is no g.py"),
    ("diff --git a/g.py b/h.py\nrename from g.py\nrename to h.py\n", "there is no g.py"),
    ("diff --git a/f.py b/h.py\n", "names two files"),
    ("diff --git a/x.png b/x.png\nBinary files a/x.png and b/x.png differ\n", "only files of text"),
    ("diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+/etc\n",
     "only files of text")])
def test_what_does_not_apply_is_one_sentence(patch, said):
    with pytest.raises(DoesNotApply, match=said):
        apply_patch({"f.py": "a\n"}, patch)


@pytest.mark.parametrize("patch, after", [
    ("diff --git a/f.py b/g h.py\nsimilarity index 100%\nrename from f.py\nrename to g h.py\n",
     {"g h.py": "a\n"}),
    ("diff --git a/f.py b/g.py\nsimilarity index 60%\nrename from f.py\nrename to g.py\n"
     "--- a/f.py\n+++ b/g.py\n@@ -1 +1,2 @@\n a\n+b\n", {"g.py": "a\nb\n"}),
    ("diff --git a/f.py b/g.py\ncopy from f.py\ncopy to g.py\n", {"f.py": "a\n", "g.py": "a\n"}),
    ("diff --git a/__init__.py b/__init__.py\nnew file mode 100644\nindex 0000000..e69de29\n",
     {"f.py": "a\n", "__init__.py": ""}),
    ("diff --git a/f.py b/f.py\nold mode 100644\nnew mode 100755\n", {"f.py": "a\n"}),
    ('diff --git "a/caf\\303\\251\\t\\"2\\".py" "b/caf\\303\\251\\t\\"2\\".py"\n'
     'new file mode 100644\n--- /dev/null\n'
     '+++ "b/caf\\303\\251\\t\\"2\\".py"\n@@ -0,0 +1 @@\n+b\n', {"f.py": "a\n", 'café\t"2".py': "b\n"}),
    ("--- f.py\t2026-01-01\n+++ f.py\t2026-01-02\n@@ -1 +1 @@\n-a\n+b\n-- \n2.50.1\n\n", {"f.py": "b\n"})])
def test_what_git_says_without_a_hunk_or_in_quotes_is_done(patch, after):
    assert apply_patch({"f.py": "a\n"}, patch) == after


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
@pytest.mark.parametrize("seed", range(4))
def test_a_patch_that_git_makes_gives_what_git_has(seed, tmp_path):
    """Files of odd names and with lines like parts of a patch: edited, deleted, made, renamed, swapped."""
    rng = random.Random(seed)
    names = ["f.py", "café.py", "a b.py", "tab\tx.py", 'q"x.py', "a/y.py", "b/z.py", "-d.py", "n\nl.py",
             "x\\y"]

    def lines():
        odd = ["a", "b", "", "-- x", "++ y", "@@ -1 +1 @@", "diff --git a/f b/f", "\x0c", "d\r"]
        return "".join(line + "\n" for line in rng.choices(odd, k=rng.randrange(14)))
    before = {name: lines() for name in rng.sample(names, 6)}
    one, two, three, four, *_ = before
    made, moved = [name for name in names if name not in before][:2]
    after = {**before, one: before[two], two: before[one], three: before[three] + "new\n", made: lines(),
             moved: before[four]}
    del after[four]

    def git(*words):
        return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a", *words], cwd=tmp_path,
                              check=True, capture_output=True).stdout.decode()
    git("init", "-q")
    for files in (before, after):
        for path in tmp_path.iterdir():
            if path.name != ".git":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, newline="")
        git("add", "-A")
        if files == before:
            git("commit", "-qm", "before")
    for flags in ("-M", "--no-renames", "-B", "-U0"):
        assert apply_patch(before, git("diff", "--cached", flags, "HEAD")) == after, flags


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
    wall = 0.5 if name == "never ends" else 2.0
    monkeypatch.setattr(code_tasks, "LIMITS", dataclasses.replace(code_tasks.LIMITS, wall_seconds=wall))
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


def test_what_the_set_itself_has_wrong_is_said_of_the_instance():
    with pytest.raises(ValueError, match="the test_patch of x-1 does not apply: there is no t.py"):
        grade(Instance("x-1", "p", "", "--- a/t.py\n+++ b/t.py\n@@ -1 +1 @@\n-a\n+b\n", ["t.py::a"], []), "")


def test_under_python_o_a_test_still_asserts(monkeypatch):
    def compile_as_there(*words, optimize=-1, **named):
        return compile(*words, optimize=1 if optimize == -1 else optimize, **named)
    monkeypatch.setattr(code_tasks, "compile", compile_as_there, raising=False)
    assert not grade(ROWS["intervals-1"], "").resolved


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
    odd = {**row, "patch": None, "problem_statement": "one\u2028two\x85"}     # unescaped, as many write it
    file.write_text(json.dumps(odd, ensure_ascii=False) + "\r\n" + json.dumps(row), encoding="utf-8")
    first, second = load_instances(file)
    assert (first.patch, first.problem_statement, second.instance_id) == ("", "one\u2028two\x85", "x-1")
    for bad in ("{", "[]", json.dumps({**row, "FAIL_TO_PASS": "[5]"}),
                json.dumps({**row, "FAIL_TO_PASS": '"ab"'}), json.dumps({**row, "FAIL_TO_PASS": "x"}),
                json.dumps({k: v for k, v in row.items() if k != "patch"})):
        file.write_text(json.dumps(row) + "\n" + bad + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match="line 2"):
            load_instances(file)
