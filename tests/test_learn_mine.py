"""learn.py run, bring, solution and next: what a learner does with bodies of their own."""
import shutil
import sys

import pytest

from tiny_course import FILES, GOOD, ROOT, commit, git, learn, make, put

sys.path.insert(0, str(ROOT / "tools"))
from learn_bodies import course  # noqa: E402
from learn_mine import narrow, tree_of  # noqa: E402

SHOW = ("python", "-c", "import pairs; print(pairs.most_common('abcbc'), pairs.count_pairs('aab'))")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course") / "fresh")


@pytest.fixture
def started(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "tree")
    learn(tmp_path / "tree", "start", "1")
    return tmp_path / "tree"


# run

def test_a_command_runs_on_ones_own_body_with_the_reference_of_the_rest(started):
    put(started, "1.2", "    return 'mine'\n")
    said = learn(started, "run", "1.2", *SHOW)
    assert "mine {('a', 'a'): 1, ('a', 'b'): 1}" in said   # 1.1 is blank here, and works there
    assert "your 1.2, the reference of all the rest, in .learn/run/1.2" in said
    assert git(started, "status", "--porcelain").splitlines() == [" M 01_first/pairs.py"]


def test_what_was_edited_runs_and_what_was_made_stays(started):
    put(started, "1.2", "    return 'one'\n")
    learn(started, "run", "1.2", "python", "-c", "import os; os.mkdir('out'); open('out/made', 'w')")
    untouched = (started / ".learn/run/1.2/02_second/blend.py").stat().st_mtime_ns
    put(started, "1.2", "    return 'two'\n")
    assert "two {" in learn(started, "run", "1.2", *SHOW)
    assert (started / ".learn/run/1.2/out/made").exists()
    assert (started / ".learn/run/1.2/02_second/blend.py").stat().st_mtime_ns == untouched


def test_a_run_begins_with_copies_of_ones_own_results_of_earlier_chapters(started):
    learn(started, "start", "2")
    put(started, "2.1", GOOD["2.1"])
    for name in ("01_first", "02_second"):
        (started / "out" / name).mkdir(parents=True)
        (started / "out" / name / "table").write_text("mine")
    change = ("python", "-c", "import os; print(os.listdir('out'), open('out/01_first/table').read()); "
              "open('out/01_first/table', 'w').write('theirs')")
    said = learn(started, "run", "2.1", *change)
    assert "an out/ of its own, with copies from yours: 01_first" in said and "['01_first'] mine" in said
    said = learn(started, "run", "2.1", *change)
    assert "copies" not in said and "['01_first'] theirs" in said   # what was made there stays
    assert (started / "out/01_first/table").read_text() == "mine"


def test_several_bodies_or_all_that_are_written_of_a_chapter_run_together(started):
    put(started, "1.1", "    return {'mine': 1}\n")
    put(started, "1.2", "    return 'mine'\n")
    for names in ("1.1,1.2", "1"):
        assert "mine {'mine': 1}" in learn(started, "run", names, *SHOW)


def test_the_exit_status_is_that_of_the_command(started):
    put(started, "1.2", GOOD["1.2"])
    learn(started, "run", "1.2", "python", "-c", "raise SystemExit(3)", code=3)
    assert "there is no command nonsense" in learn(started, "run", "1.2", "nonsense", code=2)


def test_a_blank_body_cannot_run(started):
    said = " ".join(learn(started, "run", "1.1", *SHOW, code=2).split())
    assert "exercise 1.1 is still blank: write it first, in 01_first/pairs.py:6" in said
    said = " ".join(learn(started, "run", "1", *SHOW, code=2).split())
    assert "you have written nothing of chapter 1" in said


def test_a_tree_without_the_reference_says_what_is_missing(fresh, tmp_path):
    learn(fresh, "release", "--chapters", "1", "--out", str(tmp_path / "given"))
    put(tmp_path / "given", "1.2", GOOD["1.2"])
    said = " ".join(learn(tmp_path / "given", "run", "1.2", *SHOW, code=2).split())
    assert "this tree has no reference of 1.1: run needs a git clone" in said
    put(tmp_path / "given", "1.1", GOOD["1.1"])
    assert "('b', 'c') {" in learn(tmp_path / "given", "run", "1", *SHOW)


# bring

def test_last_weeks_answers_come_into_this_weeks_release(fresh, tmp_path):
    """Week 2 has chapter 2 as well, an exercise more before 1.1, and other numbers therefore."""
    learn(fresh, "release", "--chapters", "1", "--out", str(tmp_path / "week1"))
    put(tmp_path / "week1", "1.1", GOOD["1.1"])
    newer = tmp_path / "newer"
    shutil.copytree(fresh, newer)
    for name in ("01_first/pairs.py", "01_first/EXERCISES.md", "tests/test_ex01.py", "tests/mutants_01.py"):
        text = (newer / name).read_text()
        for old, new in (("1.2", "1.3"), ("1.1", "1.2")):
            text = text.replace(old, new)
        (newer / name).write_text(text)
    code = ('\n\ndef first(ids):\n    """The first."""\n'
            "    # EXERCISE 1.1 first\n    one = ids[0]\n    return one\n    # END EXERCISE 1.1\n")
    with open(newer / "01_first/pairs.py", "a") as file:
        file.write(code)
    page = (newer / "01_first/EXERCISES.md").read_text()
    entry = page[page.index("## 1.2"):page.index("## 1.3")]
    entry = entry.replace("1.2 count pairs", "1.1 first").replace("`count_pairs`", "`first`")
    (newer / "01_first/EXERCISES.md").write_text(page.replace("## 1.2", entry + "## 1.2", 1))
    commit(newer, "Add an exercise")
    learn(newer, "release", "--chapters", "1-2", "--out", str(tmp_path / "week2"))
    said = " ".join(learn(tmp_path / "week2", "bring", str(tmp_path / "week1")).split())
    assert "1 exercise brought from" in said
    assert ": 1.2 the tests may be others now: python learn.py check" in said
    assert GOOD["1.1"] in (tmp_path / "week2/01_first/pairs.py").read_text()
    assert "✗" not in learn(tmp_path / "week2", "check", "1.2")
    assert "blank" in learn(tmp_path / "week2", "check", "1.3", code=1)


def test_a_learners_branch_comes_into_a_newer_main(started):
    put(started, "1.1", GOOD["1.1"])
    commit(started, "Count pairs")
    git(started, "branch", "-m", "mine", "before")
    git(started, "switch", "-q", "main")
    file = started / "01_first/pairs.py"
    # the reference has changed too
    file.write_text(file.read_text().replace("counts = {}\n", "counts = dict()\n"))
    commit(started, "Write an empty dictionary out")
    learn(started, "start", "1")
    said = learn(started, "bring", "before")
    assert "1 exercise brought from before: 1.1" in said
    assert "✓ 1.1 count pairs" not in said and GOOD["1.1"] in file.read_text()
    assert "✗" not in learn(started, "check", "1.1")


def test_nothing_is_written_over_and_what_has_no_place_is_named(fresh, started, tmp_path):
    put(started, "1.1", GOOD["1.1"])
    put(started, "1.2", GOOD["1.2"])
    shutil.copytree(fresh, tmp_path / "other")
    file = tmp_path / "other/01_first/pairs.py"
    file.write_text(file.read_text().replace("count pairs", "tally"))
    page = tmp_path / "other/01_first/EXERCISES.md"
    page.write_text(page.read_text().replace("1.1 count pairs", "1.1 tally"))
    commit(tmp_path / "other", "Rename an exercise")
    learn(tmp_path / "other", "start", "1")
    put(tmp_path / "other", "1.2", "    return 'precious'\n")
    said = " ".join(learn(tmp_path / "other", "bring", str(started)).split())
    assert "0 exercises brought" in said and "left as here, because not blank: 1.2" in said
    assert "no exercise of that name here: 1.1 count pairs" in said
    assert "precious" in file.read_text()


@pytest.mark.parametrize("source, sentence",
                         [("nowhere", "neither a folder nor a branch"),
                          ("main", "nothing was started in main")])
def test_a_source_without_answers_is_refused(started, source, sentence):
    assert sentence in " ".join(learn(started, "bring", source, code=2).split())


# next, and widths

def test_next_stays_in_the_chapter_one_works_in(started):
    learn(started, "start", "2")
    assert "next: 2.1" in learn(started)
    learn(started, "hint", "1.2")
    assert "next: 1.1" in learn(started)
    learn(started, "check", "2.1", code=1)
    assert "next: 2.1" in learn(started)
    put(started, "2.1", GOOD["2.1"])
    assert "next: 1.1" in learn(started, "check", "2.1")   # nothing else is open there


def test_every_solution_fits_80_columns_and_is_the_same_program():
    for e in course(ROOT).values():
        shown = narrow(e.body, 80, e.comment)
        assert max(map(len, shown.splitlines())) <= 80, f"{e.id}: {max(shown.splitlines(), key=len)}"
        if e.comment == "#":
            assert tree_of(shown) == tree_of(e.body), e.id
        else:
            assert "".join(strip_comments(shown)) == "".join(strip_comments(e.body)), e.id


def strip_comments(text: str) -> list[str]:
    """The text without `//` comments and blanks."""
    return ["".join(line.split("//")[0].split()) for line in text.splitlines()]


def test_solution_and_errors_fit_80_columns(tmp_path):
    long = "    counts = {}   # " + "a remark that goes on and on " * 4 + "\n"
    place = make(tmp_path / "wide", with_git=False)
    file = place / "01_first/pairs.py"
    file.write_text(FILES["01_first/pairs.py"].replace("    counts = {}\n", long))
    git(place, "init", "-q", "-b", "main")
    commit(place, "Begin")
    learn(place, "start", "1")
    for words in (("solution", "1.1"), ("solution", "7.7"), ("start", "9"), ("start", "1"),
                  ("bring", "nowhere")):
        said = learn(place, *words, code=None)
        assert max(map(len, said.splitlines())) <= 80, said
    assert "# a remark that goes on" in learn(place, "solution", "1.1")
    put(place, "1.1", "    return {" + "1, " * 60 + "\n")
    assert max(map(len, learn(place, "check", "1.1", code=1).splitlines())) <= 80
