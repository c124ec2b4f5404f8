"""The learner's commands of learn.py, on scratch copies of a tiny course."""

import errno
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from learn_check import explain
from tiny_course import GOOD, commit, git, learn, make, put


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course") / "fresh")


@pytest.fixture
def tree(fresh, tmp_path):
    shutil.copytree(fresh, tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def started(tree):
    learn(tree, "start", "1")
    return tree


def test_status_of_a_fresh_clone_says_how_to_begin(tree):
    said = learn(tree)
    assert "01_first   2 exercises, 20 min: python learn.py start 1" in said
    assert "0 of 4 yours and passing; chapters not started run the reference" in said


def test_start_blanks_one_chapter_on_its_own_branch(tree):
    before = (tree / "02_second/blend.py").read_text()
    said = learn(tree, "start", "1")
    assert git(tree, "rev-parse", "--abbrev-ref", "HEAD").strip() == "mine"
    blank = (tree / "01_first/pairs.py").read_text()
    assert 'raise NotImplementedError("exercise 1.1: count pairs")' in blank
    assert (tree / "02_second/blend.py").read_text() == before
    assert git(tree, "status", "--porcelain") == ""
    assert "▶ 1.1 count pairs" in said and "01_first/pairs.py:6" in said
    assert "NotImplementedError" not in git(tree, "show", "main:01_first/pairs.py")


def test_from_a_commit_without_a_branch_the_way_back_is_one_that_git_takes(tree):
    git(tree, "switch", "-q", "--detach", "main")
    back = re.search(r"then (git switch --detach \w+)", learn(tree, "start", "1"))
    git(tree, *back[1].split()[1:])
    assert git(tree, "rev-parse", "HEAD") == git(tree, "rev-parse", "main")


def test_settings_of_python_pytest_and_git_in_the_environment_change_nothing(started, tmp_path):
    put(started, "1.1", GOOD["1.1"])
    other = {"PYTHONOPTIMIZE": "2", "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "error",
             "GIT_DIR": str(tmp_path), "PYTEST_ADDOPTS": "--no-such-option", "PYTEST_PLUGINS": "no_such"}
    assert learn(started, "check", "1.1", **other) == learn(started, "check", "1.1")


def test_a_learner_who_signs_or_checks_commits_or_has_no_name_can_start(tree, tmp_path, monkeypatch):
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    hook = tmp_path / "pre-commit"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (tmp_path / "config").write_text("[commit]\ngpgsign = true\n[gpg]\nprogram = false\n"
                                     f"[core]\nhooksPath = {tmp_path}\n[user]\nemail = ada@example.org\n")
    for key in ("user.name", "user.email"):
        subprocess.run(["git", "config", "--unset", key], cwd=tree, check=False)
    learn(tree, "start", "1", HOME=str(tmp_path), GIT_CONFIG_GLOBAL=str(tmp_path / "config"))
    assert git(tree, "log", "-1", "--format=%an %ae").strip() == "learner ada@example.org"


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- 2>&-"])
def test_streams_that_are_closed_are_not_taken_for_files(started, closed):
    put(started, "1.1", GOOD["1.1"])
    done = subprocess.run(["sh", "-c", f"exec {shlex.quote(sys.executable)} learn.py check 1.1 {closed}"],
                          cwd=started, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_named_with_what_git_wants(tree, tmp_path):
    os.chown(tree, 4321, 4321)
    os.chown(tree / ".git", 4321, 4321)
    other = {"HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": str(tmp_path / "none"), "GIT_CONFIG_NOSYSTEM": "1",
             "GIT_CONFIG_COUNT": "0"}
    said = " ".join(learn(tree, "start", "1", code=2, **other).split())
    assert "another user owns it" in said and "safe.directory" in said


def test_a_blank_kernel_traps_and_names_its_exercise(tree):
    learn(tree, "start", "c")
    assert '__trap();  // exercise c.1: sum in C++' in (tree / "csrc/sums.cu").read_text()


def test_start_refuses_a_dirty_tree_and_changes_nothing(tree):
    (tree / "README.md").write_text("mine")
    assert "not committed (README.md)" in learn(tree, "start", "1", code=2)
    assert git(tree, "branch", "--list", "mine") == ""


def test_start_refuses_a_folder_without_git(tmp_path):
    place = make(tmp_path / "plain", with_git=False)
    assert "start needs git" in learn(place, "start", "1", code=2)
    assert "NotImplementedError" not in (place / "01_first/pairs.py").read_text()


def test_start_refuses_a_chapter_without_exercises(tree):
    assert "choose one of 1, 2, c" in learn(tree, "start", "7", code=2)


def test_a_chapter_may_be_called_by_its_folder_and_by_its_number_with_a_zero(tree):
    for chapter in ("csrc", "01_first/", "02"):
        assert "blank now" in learn(tree, "start", chapter)
    assert "already yours" in learn(tree, "start", "c", code=2)
    assert "1.1" in learn(tree, "check", "01", code=1)


def test_on_main_one_is_told_where_ones_work_is(started):
    put(started, "1.1", GOOD["1.1"])
    commit(started, "Count pairs")
    learn(started, "check", "1.1")
    git(started, "switch", "-q", "main")
    said = learn(started)
    assert "your work is on the branch mine: git switch mine" in said
    assert "learn.py start" not in said and "yours and passing" not in said
    for chapter in ("1", "2"):
        said = " ".join(learn(started, "start", chapter, code=2).split())
        assert "your work is on the branch mine: git switch mine, then start there" in said
    assert git(started, "rev-parse", "--abbrev-ref", "HEAD").strip() == "main"


def test_what_was_checked_on_the_reference_is_kept_apart_from_ones_own(started):
    put(started, "1.1", GOOD["1.1"])
    commit(started, "Count pairs")
    learn(started, "check", "1.1")
    git(started, "switch", "-q", "main")
    assert "reference's own body" in learn(started, "check", "1.1")
    git(started, "switch", "-q", "mine")
    assert "✓ 1.1 count pairs" in learn(started)


def test_the_way_back_to_the_reference_is_one_that_git_takes(tree):
    said = " ".join(learn(tree, "start", "1").split())
    assert "commit first (git commit -am 'My work'), then git switch main" in said
    put(tree, "1.1", GOOD["1.1"])
    git(tree, "commit", "-am", "My work")
    git(tree, "switch", "main")


def test_starting_again_never_touches_what_was_written(started):
    put(started, "1.1", GOOD["1.1"])
    commit(started, "Count pairs")
    assert "already yours" in learn(started, "start", "1", code=2)
    learn(started, "start", "2")
    assert GOOD["1.1"] in (started / "01_first/pairs.py").read_text()


def test_check_shows_what_was_given_got_and_wanted(started):
    put(started, "1.1", "    print('here')\n    return {pair: 1 for pair in zip(ids, ids[1:])}\n")
    said = learn(started, "check", "1.1", code=1)
    assert "✗ a pair is counted each time it occurs" in said
    given = "given [1, 2, 1, 2], got {(1, 2): 1, (2, 1): 1}, wanted {(1, 2): 2, (2, 1): 1}"
    assert given in " ".join(said.split()) and max(map(len, said.splitlines())) <= 80
    assert "printed: here" in said
    assert "✓ an empty list and a list of one have no pairs" in said
    assert "stuck?  python learn.py hint 1.1   (1 of 3)" in said


def test_one_fault_is_told_once_however_many_tests_it_fails(tree):
    """The checker's reports of one race may differ from test to test in the element and the threads alone."""
    cases = "".join(
        f'@pytest.mark.ex("1.1")\ndef test_{name}():\n    """{name}"""\n'
        f'    assert count_pairs([]) == {{}}, "race on P[{element}]: thread ({thread},0,0) wrote it at line '
        f'{line}"\n\n\n'
        for name, element, thread, line in (("output", 253, 29, 92), ("sum", 7, 1, 92),
                                            ("future", 253, 29, 14)))
    (tree / "tests/test_ex01.py").write_text("import pytest\nfrom pairs import count_pairs\n\n\n" + cases)
    commit(tree, "Let three tests fail by two faults")
    learn(tree, "start", "1")
    put(tree, "1.1", "    return 0\n")
    said = learn(tree, "check", "1.1", code=1)
    told = [line.strip() for line in said.splitlines() if line.startswith("     ")]
    first, second = (f"race on P[253]: thread (29,0,0) wrote it at line {line}" for line in (92, 14))
    assert told == [first, "the same", second], said


def test_an_exercise_is_checked_while_the_one_it_calls_is_still_blank(started):
    put(started, "1.2", GOOD["1.2"])
    assert "✗" not in learn(started, "check", "1.2")


def test_a_right_answer_is_ticked_until_it_is_edited(started):
    put(started, "1.1", GOOD["1.1"])
    assert "next: 1.2 most common pair (~10 min)   01_first/pairs.py:14" in learn(started, "check")
    assert "✓ 1.1 count pairs   ▶ 1.2" in learn(started)
    put(started, "1.1", GOOD["1.1"].replace("1:", "2:"))
    assert "▶ 1.1 count pairs" in learn(started)


def test_an_error_is_shown_with_its_line_in_the_learners_own_file(started):
    put(started, "1.2", "    counts = count_pairs(ids)\n    a = 1\n    return counst\n")
    file = started / "01_first/pairs.py"
    file.write_text("# a line more, so that line numbers differ from the reference's\n" + file.read_text())
    line = 1 + file.read_text().splitlines().index("    return counst")
    said = learn(started, "check", "1.2", code=1)
    assert f"NameError: name 'counst' is not defined   (01_first/pairs.py:{line})" in said
    assert "changed outside the EXERCISE lines" in said


def test_an_error_that_a_test_puts_into_words_is_shown_with_its_line(started):
    put(started, "1.2", "    counts = count_pairs(ids)\n    return max(counts, key=counts.get)\n")
    lines = (started / "01_first/pairs.py").read_text().splitlines()
    line = 1 + lines.index("    return max(counts, key=counts.get)")
    said = learn(started, "check", "1.2", code=1)
    assert "given [3], it raised" in said and f"at 01_first/pairs.py:{line}" in said


def test_a_syntax_error_is_shown_with_its_line(started):
    put(started, "1.1", "    return {\n")
    assert re.search(r"not Python yet: '\{' was never closed   \(01_first/pairs.py:7\)",
                     learn(started, "check", "1.1", code=1))


def test_prints_without_measure_are_named():
    report = {"outcome": "wrong", "line": 0, "prints": "",
              "message": f"got  OSError: [Errno {errno.EFBIG}] File too large"}
    assert "take the prints out" in explain(report, "", None, "")[-1]
    assert len(explain({**report, "message": "got  7"}, "", None, "")) == 1


def test_an_endless_loop_is_stopped_and_named(started):
    put(started, "1.1", "    while True:\n        pass\n")
    assert "Does a loop never end?" in learn(started, "check", "1.1", "--seconds", "0.5", code=1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ctrl_c_ends_at_once_and_leaves_no_process(started):
    note = f"    open({str(started / 'pid')!r}, 'w').write(str(__import__('os').getpid()))\n"
    put(started, "1.1", note + "    while True:\n        pass\n")

    def obey():   # a job in the background ignores Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen([sys.executable, "learn.py", "check", "1.1"], cwd=started, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                          preexec_fn=obey) as process:
        end = time.monotonic() + 60
        while not (started / "pid").exists() or not (started / "pid").read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=15)[0]
    assert process.returncode == 130 and "Traceback" not in said, said
    gone, end = f"/proc/{(started / 'pid').read_text()}", time.monotonic() + 15
    while os.path.exists(gone):
        assert time.monotonic() < end, "the test's process is still running"
        time.sleep(0.05)


def test_a_missing_marker_is_named(started):
    file = started / "01_first/pairs.py"
    file.write_text(file.read_text().replace("    # END EXERCISE 1.2\n", ""))
    assert "put back '# END EXERCISE 1.2'" in " ".join(learn(started, "check", "1.1", code=2).split())


def test_hints_come_one_at_a_time(started):
    assert "Hint 1: a question" in learn(started, "hint", "1.1")
    assert "Hint 2: the formula" in learn(started, "hint", "1.1")
    assert "pseudocode" in learn(started, "hint", "1.1")
    said = learn(started, "hint", "1.1")
    assert all(f"Hint {n}" in said for n in (1, 2, 3))
    said = " ".join(learn(started, "hint", "9.9", code=2).split())
    assert said.endswith("there is no exercise 9.9: the ids are 1.1 to 1.2, 2.1, c.1")


def test_reset_keeps_what_it_replaces_and_says_where(started):
    put(started, "1.1", "    return 'precious'\n")
    said = learn(started, "reset", "1.1")
    kept = re.search(r"\.learn/kept/\S+", said)[0]
    assert (started / kept).read_text() == "    return 'precious'\n"
    assert "precious" not in (started / "01_first/pairs.py").read_text()
    assert "already blank" in learn(started, "reset", "1.1", code=2)


def test_reset_refuses_before_anything_is_started(tree):
    assert "begin with python learn.py start 1" in learn(tree, "reset", "1.1", code=2)


def test_reset_refuses_in_a_chapter_that_is_not_started(started):
    before = (started / "csrc/sums.cu").read_text()
    said = learn(started, "reset", "c.1", code=2)
    assert "csrc is not started here: begin with python learn.py start c" in said
    assert (started / "csrc/sums.cu").read_text() == before


def test_the_solution_is_the_reference_body(started):
    assert "counts[pair] = counts.get(pair, 0) + 1" in learn(started, "solution", "1.1")


def test_the_tool_works_from_any_folder(started, tmp_path):
    put(started, "1.1", GOOD["1.1"])
    assert "../pairs.py" not in learn(started, "check", "1.1", cwd=started / "02_second")
    (tmp_path / "elsewhere").mkdir()
    assert "python ../tree/learn.py check 1.2" in learn(started, cwd=tmp_path / "elsewhere")


def test_the_reference_survives_a_clone_of_the_learners_branch(started, tmp_path):
    subprocess.run(["git", "clone", "-q", started, tmp_path / "again"], check=True)
    put(tmp_path / "again", "1.1", GOOD["1.1"])
    learn(tmp_path / "again", "check", "1.1")
    assert "✓ 1.1" in learn(tmp_path / "again")


@pytest.mark.parametrize("columns", [80, 100])
def test_no_line_of_the_status_is_wider_than_the_terminal(started, columns):
    learn(started, "start", "2")
    assert max(map(len, learn(started, COLUMNS=str(columns)).splitlines())) <= columns


def in_a_terminal(tree, **env):
    parent, child = pty.openpty()
    with subprocess.Popen([sys.executable, "learn.py"], cwd=tree, stdout=child, stderr=child,
                          env={**os.environ, "TERM": "xterm", **env}) as process:
        process.wait()
    os.close(child)
    said = b""
    try:
        while chunk := os.read(parent, 65536):
            said += chunk
    except OSError:
        pass  # Linux says so when the other side is closed
    os.close(parent)
    return said.decode()


def test_colour_only_where_a_person_is_looking(started, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[33m▶\033[0m" in in_a_terminal(started)
    assert "\033[" not in in_a_terminal(started, NO_COLOR="1")
    assert "\033[" not in in_a_terminal(started, TERM="dumb")
    assert "\033[" not in learn(started)


def test_watch_checks_again_when_a_file_is_saved(started, tmp_path):
    log = tmp_path / "watch.log"
    with (open(log, "w") as out, subprocess.Popen([sys.executable, "learn.py", "check", "--watch"],
                                                  cwd=started, stdout=out, stderr=out) as process):

        def wait_for(text):
            end = time.monotonic() + 60
            while text not in log.read_text():
                assert time.monotonic() < end and process.poll() is None, log.read_text()
                time.sleep(0.05)

        try:
            wait_for("waiting for you")
            put(started, "1.1", GOOD["1.1"])
            wait_for("1.2 most common pair   01_first")
            put(started, "1.2", GOOD["1.2"])
            wait_for("every exercise you started passes")
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def test_the_learners_own_tests_skip_what_is_blank(started):
    said = subprocess.run([sys.executable, "-m", "pytest", "-rs", "tests/test_01_pairs.py",
                           "tests/test_02_blend.py"], cwd=started, capture_output=True, text=True).stdout
    assert "1 passed, 1 skipped" in said and "exercise 1.2: most common pair is still blank" in said


@pytest.mark.parametrize("words", [("check", "--seconds", "nan"), ("check", "--seconds=-1"),
                                   ("prove", "-j", "0"),
                                   ("prove", "--seeds", "0"), ("grade", "a", "b", "--memory", "0"),
                                   ("grade", "a", "b", "--free-days=-1")])
def test_a_number_that_makes_no_sense_is_refused(fresh, words):
    assert re.search(r": give ([01] or more|a number above 0)", learn(fresh, *words, code=2))
