"""The Makefile: what counts, what is made again and when, and paths with blanks. Chapters are stubs here."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUB = """import pathlib, sys
name = pathlib.Path(__file__).parent.name
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1], name)
out.mkdir(parents=True, exist_ok=True)
(out / "metrics.json").write_text("{}")
print(name, sys.argv[1:], flush=True)
"""


@pytest.fixture
def course(tmp_path):
    """The Makefile over three chapters that only say what they were called with, in a folder with a blank."""
    place = tmp_path / "my course"
    place.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, place)
    for name in ("01_tokenizer", "02_transformer", "03_training"):
        (place / name).mkdir()
        (place / name / "run.py").write_text(STUB)
    for name in ("made_from.py", "settings.py"):
        shutil.copy(ROOT / "01_tokenizer" / name, place / "01_tokenizer")
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (place / ".venv" / "ready").touch()
    for file in [*place.rglob("*.py"), place / "pyproject.toml", place / "constraints.txt"]:
        os.utime(file, (1, 1))
    return place


def make(place: Path, *words: str, **environment: str) -> list[tuple[str, str]]:
    """The chapters that `make words` ran, each with its arguments."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"} | environment
    done = subprocess.run(["make", "--no-print-directory", *words], cwd=place, env=env, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return re.findall(r"^(\d\d_\w+) (\[.*\])$", done.stdout, re.MULTILINE)


def names(ran: list[tuple[str, str]]) -> list[str]:
    return [name[:2] for name, _ in ran]


def test_a_second_make_has_nothing_to_do_and_an_edited_file_only_what_depends_on_it(course):
    assert names(make(course, "02")) == ["01", "02"]
    assert names(make(course, "03")) == ["03"]
    assert make(course) == []
    (course / "02_transformer" / "new.py").touch()
    assert names(make(course)) == ["02", "03"]


def test_the_environment_does_not_count(course):
    noise = dict(OUT="/nowhere", SEED="7", QUICK="1", CORPUS="/nowhere", DEVICE="tpu", PYTHON="python2",
                 FULL="1", FAST="1", RUN="false", PY="false", TEXT="x", O="x", GIVEN="x", CHAPTERS="x")
    ran = make(course, "02", **noise)
    assert ran == [(name, "['--out', 'out', '--seed', '0']") for name in ("01_tokenizer", "02_transformer")]
    assert not [line for line in (ROOT / "Makefile").read_text().splitlines()
                if "?=" in line and not line.startswith(("export OMP_", "export GOMP_"))]


def test_the_command_line_counts(course):
    (course / "a.txt").write_text("text")
    ran = make(course, "01", "SEED=3", "QUICK=1", "CORPUS=a.txt", "DEVICE=cpu")
    words = "['--out', 'out/quick/seed3', '--seed', '3', '--quick', '--device', 'cpu', '--corpus', 'a.txt']"
    assert ran == [("01_tokenizer", words)]


def test_another_or_an_edited_corpus_makes_everything_again(course):
    (course / "a b").mkdir()
    (course / "a b" / "1.txt").write_text("text")
    (course / "c.txt").write_text("text")
    assert names(make(course, "CORPUS=a b")) == ["01", "02", "03"]
    assert make(course, "CORPUS=a b") == []
    os.utime(course / "a b" / "1.txt", (5, 5))
    assert make(course, "CORPUS=a b") == [], "the same text at another time is the same text"
    (course / "a b" / "1.txt").write_text("edited")
    assert names(make(course, "CORPUS=a b")) == ["01", "02", "03"]
    (course / "a b" / "1.txt").rename(course / "a b" / "2.txt")
    (course / "a b" / "1.txt").touch()
    assert names(make(course, "CORPUS=a b")) == ["01", "02", "03"]
    assert names(make(course, "CORPUS=c.txt")) == ["01", "02", "03"]
    assert names(make(course, "CORPUS=c.txt", "OUT=out/corpus", "SEED=1")) == ["01", "02", "03"]
    assert names(make(course)) == ["01", "02", "03"], "without CORPUS the results are elsewhere"


@pytest.mark.parametrize("out", ["a:b", "a;b", "a#b", "a=b", "a%b", "a*b", "a?", "[a]", "a\\b", "a|b"])
def test_a_folder_that_make_cannot_name_is_refused_in_a_sentence(course, out):
    done = subprocess.run(["make", f"OUT={out}", "01"], cwd=course, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("\n") == 1 and f"OUT={out} has: name another" in done.stderr


@pytest.mark.parametrize("out", ["my results", "it's mine", "a  b/c d"])
def test_folders_with_blanks_work(course, out):
    (course / "my text.txt").write_text("text")
    ran = make(course, f"OUT={out}", "CORPUS=my text.txt")
    assert names(ran) == ["01", "02", "03"] and repr(out) in ran[0][1] and "'my text.txt'" in ran[0][1]
    assert (course / out / "03_training" / "metrics.json").exists()
    assert make(course, f"OUT={out}", "CORPUS=my text.txt") == []
    assert names(make(course, f"OUT={course / out}", "02", "CORPUS=my text.txt")) == []
    assert not (course / "out").exists()


@pytest.mark.parametrize("out", ["", ".", "./", "/", "here"])
def test_results_never_go_among_the_course_s_own_files(course, out):
    out = course if out == "here" else out
    before = sorted(course.rglob("*"))
    done = subprocess.run(["make", f"OUT={out}", "01"], cwd=course, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("\n") == 1 and ": name" in done.stderr
    assert sorted(course.rglob("*")) == before


def test_a_slip_of_the_pen_is_one_sentence_and_puts_no_finished_result_out_of_date(course):
    make(course)
    for words, said in ((["SEED=1e3", "OUT=out"], "SEED=1e3: give a whole number"),
                        (["SEED=1 2", "OUT=out"], "SEED=1 2: give a whole number"),
                        (["DEVICE=gpu"], "--device gpu: give auto"),
                        (["FAST=maybe"], "--fast maybe: give auto"),
                        (["CORPUS=c.txt", "OUT=out"], "CORPUS=c.txt: no such file or folder"),
                        (["CORPUS=~no one", "OUT=out"], "CORPUS=~no one: no such file")):
        done = subprocess.run(["make", *words, "01"], cwd=course, capture_output=True, text=True)
        assert done.returncode and f"error: {said}" in done.stderr and "Traceback" not in done.stderr
    assert make(course) == []


def test_a_switch_can_be_off(course):
    assert make(course, "01", "QUICK=0", "FULL=0", "FAST=off") == [
        ("01_tokenizer", "['--out', 'out', '--seed', '0', '--fast', 'off']")]
