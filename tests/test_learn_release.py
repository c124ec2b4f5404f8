"""`learn.py release`: what students get, and that no solution is left in it."""

import json
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import pytest

from learn_bodies import find
from learn_handout import drop_goals, drop_helpers
from learn_release import leaks, span
from tiny_course import FILES, GOOD, commit, git, learn, make, put


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course") / "fresh")


@pytest.fixture
def tree(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture(scope="module")
def students(fresh, tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "students"
    learn(fresh, "release", "--chapters", "2-2", "--out", str(out))
    return out


def test_a_release_has_its_chapters_blank_and_earlier_ones_whole(students):
    assert 'NotImplementedError("exercise 2.1' in (students / "02_second/blend.py").read_text()
    assert "NotImplementedError" not in (students / "01_first/pairs.py").read_text()
    assert not (students / "csrc").exists()
    assert json.loads((students / "release.json").read_text())["exercises"] == ["2.1"]


def test_a_release_has_no_history_no_mutants_and_no_grader(students):
    names = {p.relative_to(students).as_posix() for p in students.rglob("*")}
    assert not any(re.search(r"\.git/|mutants|grade|prove|learn_release|tiny_course|csrc", name)
                   for name in names), names


def test_a_student_can_work_in_a_release_without_git(students, tmp_path):
    shutil.copytree(students, tmp_path / "mine")
    mine = tmp_path / "mine"
    assert "▶ 2.1 weighted mean" in learn(mine) and "begin" not in learn(mine)
    put(mine, "2.1", "    return sum(values) / len(values)\n")
    assert "a heavier value counts more" in learn(mine, "check", "2.1", code=1)
    put(mine, "2.1", GOOD["2.1"])
    learn(mine, "check")
    assert "1 of 3 yours and passing" in learn(mine)
    assert "no solutions" in learn(mine, "solution", "2.1", code=2)
    assert "not part of a student tree" in learn(mine, "prove", code=2)


def test_the_help_of_a_release_names_no_page_that_only_the_clone_has(fresh, students):
    assert "for teachers (TEACHING.md): release" in learn(fresh, "-h")
    said = learn(students, "-h")
    assert "python learn.py check [2.1]" in said and "TEACHING" not in said


def test_the_pages_of_a_release_are_its_own_and_no_link_is_dead(students):
    page = (students / "README.md").read_text()
    assert page.startswith("# Five Pillars: chapter 2\n") and "python learn.py check 2.1 " in page
    assert "- `01_first`: [exercises](01_first/EXERCISES.md) (given whole)\n" in page
    assert "- `02_second`: [exercises](02_second/EXERCISES.md)\n" in page and "learn.py start" not in page
    for path in students.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path} links to {target}"
    assert (students / "AGENTS.md").read_text() == "# For coding assistants\n\nExplain.\n"


def test_a_release_keeps_the_goals_that_work_there_and_the_helpers_that_its_tests_use(tmp_path):
    rules = ["# about\nA := 1", "all: run", "chat: out  ## talk\n\tpython 08_inference/chat.py",
             "# every one\nSTUDIES = x\nstudy:  ## long\nstudy: out\n\tpython $(STUDIES)",
             "clean:\n\trm out\n"]
    (tmp_path / "Makefile").write_text("\n\n".join(rules))
    drop_goals(tmp_path / "Makefile")
    assert (tmp_path / "Makefile").read_text() == "\n\n".join([*rules[:2], rules[4]])
    (tmp_path / "tests").mkdir()
    for name, text in {"test_01_a.py": "from one import x", "one.py": "open('two.cu')", "two.cu": "//",
                       "three.py": "import four, one", "four.py": "from three import y"}.items():
        (tmp_path / "tests" / name).write_text(text)
    drop_helpers(tmp_path)
    assert {p.name for p in (tmp_path / "tests").iterdir()} == {"test_01_a.py", "one.py", "two.cu"}
    (tmp_path / "08_inference").mkdir()
    (tmp_path / "Makefile").write_text("\n\n".join(rules))
    drop_goals(tmp_path / "Makefile")
    assert (tmp_path / "Makefile").read_text() == "\n\n".join(rules)


def test_only_the_blank_chapters_say_that_there_is_no_reference(students):
    for folder, blank in (("01_first", False), ("02_second", True)):
        assert ("not with the reference" in (students / folder / "EXERCISES.md").read_text()) == blank


@pytest.mark.skipif(not shutil.which("zip"), reason="zip is not installed here")
def test_the_zip_that_the_page_asks_for_holds_the_answers_and_nothing_that_was_made(students, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(students, mine)
    for made in (".venv/bin/python", "out/made.json", "02_second/__pycache__/blend.pyc", ".git/HEAD"):
        (mine / made).parent.mkdir(parents=True, exist_ok=True)
        (mine / made).write_text("made")
    learn(mine, "hint", "2.1")
    shown = re.search(r"^zip .*", (mine / "README.md").read_text(), re.M)[0]
    subprocess.run(shown, shell=True, cwd=mine, check=True)
    with zipfile.ZipFile(tmp_path / "answers.zip") as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
    there = {p.relative_to(students).as_posix() for p in students.rglob("*") if p.is_file()}
    assert files == {name for name in there if "__pycache__" not in name}


def test_nothing_is_started_in_a_release_with_or_without_git(students, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(students, mine)
    assert "2 exercises, given whole" in learn(mine) and "learn.py start" not in learn(mine)
    says = "this tree's exercises are already blank: python learn.py"
    assert learn(mine, "start", "2", code=2).strip().endswith(says)
    git(mine, "init", "-q", "-b", "main")
    commit(mine, "Begin")
    assert learn(mine, "start", "2", code=2).strip().endswith(says)
    assert git(mine, "branch", "--list", "mine") == ""
    assert "given whole" in learn(mine, "reset", "1.1", code=2)


def test_a_test_through_another_blank_exercise_says_which_one(fresh, tmp_path):
    learn(fresh, "release", "--chapters", "1", "--out", str(tmp_path / "out"))
    put(tmp_path / "out", "1.2", GOOD["1.2"])
    said = learn(tmp_path / "out", "check", "1.2", code=1)
    says = "it goes through exercise 1.1: count pairs, which is still blank: write that one first"
    assert says in " ".join(said.split())


def own_tests_pass(fresh, out, chapters):
    """In a release of these chapters: some skip while it is blank, and all pass once it is not."""
    learn(fresh, "release", "--chapters", chapters, "--out", str(out))
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    blank = subprocess.run(run, cwd=out, capture_output=True, text=True)
    assert blank.returncode == 0 and "s" in blank.stdout.split()[0], blank.stdout
    for id in json.loads((out / "release.json").read_text())["exercises"]:
        put(out, id, GOOD[id])
    filled = subprocess.run(run, cwd=out, capture_output=True, text=True)
    assert filled.returncode == 0 and set(filled.stdout.split()[0]) == {"."}, filled.stdout


def test_a_release_runs_its_own_tests(fresh, tmp_path):
    own_tests_pass(fresh, tmp_path / "out", "1-4")   # tests/slow/test_slow_learn.py has fewer chapters


BODY = find(FILES["02_second/blend.py"])[0].body


def png(text):
    chunk = b"zTXt" + b"Comment\0\0" + zlib.compress(text.encode())
    return (b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", len(chunk) - 4)
            + chunk
            + struct.pack(">I", zlib.crc32(chunk)))


HIDING = {
    "01_first/README.md": "```python\n" + BODY.replace("    ", "") + "```\n",
    "notes.ipynb": json.dumps({"cells": [{"source": BODY.splitlines(keepends=True)}]}),
    "figure.svg": "<svg>" + "".join(f"<text>{line}</text>" for line in BODY.splitlines()) + "</svg>",
    "figure.png": png(BODY),
    "page.html": "<pre>" + BODY.replace("total", "<b>total</b>") + "</pre>",
    "01_first/copy.py": "def f(values, weights):\n" + BODY.replace("0.0\n", "0.0  # begin\n\n") + "\n",
    "half.txt": "".join(BODY.splitlines(keepends=True)[2:]),
}


@pytest.mark.parametrize("name", HIDING)
def test_a_solution_that_survives_somewhere_stops_the_release(tree, tmp_path, name):
    text = HIDING[name]
    (tree / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    commit(tree, "Leak")
    said = learn(tree, "release", "--chapters", "2", "--out", str(tmp_path / "out"), code=2)
    assert f"{name}: exercise 2.1" in said
    assert not (tmp_path / "out").exists()


def test_a_line_alone_or_a_different_solution_is_no_leak(tmp_path):
    (tmp_path / "a.py").write_text("total += value * weight\n" + GOOD["2.1"])
    assert leaks(tmp_path, {"2.1": BODY}) == []


def test_a_release_is_of_what_is_committed(tree, tmp_path):
    (tree / "README.md").write_text("changed")
    assert "not committed" in learn(tree, "release", "--chapters", "1", "--out", str(tmp_path / "out"),
                                    code=2)


def test_a_release_does_not_overwrite_a_folder(tree, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").write_text("x")
    assert "not empty" in learn(tree, "release", "--chapters", "1", "--out", str(tmp_path / "out"), code=2)


def test_a_range_of_chapters_is_read_and_a_wrong_one_refused():
    assert list(span("1-3")) == [1, 2, 3] and list(span("2")) == [2]
    for wrong in ("3-1", "a", "1,2"):
        with pytest.raises(ValueError, match="no range of chapters"):
            span(wrong)


def test_the_autograder_zip_grades_a_hand_in(fresh, students, tmp_path):
    learn(fresh, "release", "--chapters", "2", "--out", str(tmp_path / "s"), "--autograder",
          str(tmp_path / "a.zip"))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "autograder/source")
        modes = {m.filename: m.external_attr >> 16 & 0o111 for m in archive.infolist()}
    assert modes["run_autograder"] and modes["setup.sh"]
    course = tmp_path / "autograder/source/course"
    assert not (course / "tests/mutants_01.py").exists()
    (course / ".venv/bin").mkdir(parents=True)
    (course / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (course / ".venv/bin/python").chmod(0o755)
    hand_in = tmp_path / "autograder/submission"
    hand_in.mkdir()
    shutil.copy(tmp_path / "s/02_second/blend.py", hand_in)
    put(tmp_path / "s", "2.1", GOOD["2.1"])
    shutil.copy(tmp_path / "s/02_second/blend.py", hand_in)
    subprocess.run(["bash", tmp_path / "autograder/source/run_autograder"], check=True, capture_output=True,
                   env={"PATH": "/usr/bin:/bin", "AUTOGRADER": str(tmp_path / "autograder")})
    results = json.loads((tmp_path / "autograder/results/results.json").read_text())
    assert results["score"] == 3 and results["tests"][0]["status"] == "passed"
