"""`learn.py grade` on good, blank, broken and late hand-ins: points, files, and what could not be judged."""

import csv
import html
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from learn_handin import hand_ins
from learn_marks import Lateness
from learn_run import seeds_for
from tiny_course import GOOD, learn, make, put

POINTS = {"1.1": 2, "1.2": 4, "2.1": 3, "c.1": 1}


def hand_in(reference, folder, **bodies):
    """A hand-in of right answers, some of them replaced (_1_1="...")."""
    shutil.copytree(reference, folder, ignore=shutil.ignore_patterns(".git", "learn*", "tools", "tests",
            "__pycache__"))
    for id, body in {**GOOD, **{key[1:].replace("_", "."): body for key, body in bodies.items()}}.items():
        put(folder, id, body)
    return folder


def scores(out) -> dict:
    """Exercise id to (score, output) from a results.json."""
    tests = json.loads((out / "results.json").read_text())["tests"]
    return {t["name"].split()[0]: (t.get("score"), t["output"]) for t in tests}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course") / "reference")


@pytest.fixture(scope="module")
def class_of(reference, tmp_path_factory):
    """Everybody's hand-in, graded in one run: name to (exercise id to (score, output))."""
    place = tmp_path_factory.mktemp("class")
    hand_in(reference, place / "in/good")
    flat = place / "in" / "flat"
    flat.mkdir()
    for file in [*(place / "in/good").rglob("*.py"), *(place / "in/good").rglob("*.cu")]:
        shutil.copy(file, flat)
    with zipfile.ZipFile(place / "in/zipped.zip", "w") as archive:
        archive.write(flat / "pairs.py", "hand-in/pairs.py")
    # a working folder after `make setup` and `make`
    with zipfile.ZipFile(place / "in/whole.zip", "w") as archive:
        for file in (place / "in/good").rglob("*.*"):
            archive.write(file, f"course/{file.relative_to(place / 'in/good')}")
        for n in range(6000):
            archive.writestr(f"course/.venv/lib/pairs.py/{n}.py", "x")
        archive.writestr("course/out/01_first/pairs.py", "not this one")
        archive.writestr("course/out/large", bytes(60 << 20), zipfile.ZIP_DEFLATED)
    (place / "in/broken.zip").write_bytes(b"PK no zip")
    (place / "in/packed.rar").write_bytes(b"Rar!")
    (place / "in/notes.txt").write_text("no hand-in")
    hand_in(reference, place / "in/blank",
            _1_1='    raise NotImplementedError("exercise 1.1: count pairs")\n')
    hand_in(reference, place / "in/typo", _1_2="    counts = (count_pairs(ids)\n    return counts\n")
    hand_in(reference, place / "in/half", _2_1="    return 0.75\n")
    hand_in(reference, place / "in/crash", _1_2="    return 1 // 0\n", _c_1="    int *p = 0; return *p;\n")
    edited = hand_in(reference, place / "in/edited",
                     _c_1='    return 10;\n}\nextern "C" int more() { return 1;\n')
    (edited / "tests").mkdir()
    (edited / "tests/test_ex01.py").write_text("")
    (edited / "conftest.py").write_text("raise SystemExit")
    lost = hand_in(reference, place / "in/no_marker")
    text = (lost / "01_first/pairs.py").read_text()
    (lost / "01_first/pairs.py").write_text(text.replace("    # END EXERCISE 1.1\n", ""))
    (place / "late.csv").write_text("submission,days\ngood,1\nhalf,4\nwhole.zip,11\nGood,9\n")
    roster = "submission,name,id,login,email\ngood,Ada Lovelace,17,ada,ada@example.org\n" \
        "Flat,Flann,18,flann,\n"
    (place / "roster.csv").write_text(roster)
    said = learn(reference, "grade", str(place / "in"), str(place / "out"), "--many", "--seconds", "4",
                 "--late", str(place / "late.csv"), "--free-days", "2", "--roster", str(place / "roster.csv"),
                 "--assignment", "Exercises 1", code=1)
    out = place / "out"
    return {file.parent.name: scores(file.parent) for file in out.glob("*/results.json")}, out, said


def test_right_answers_written_differently_get_all_points(class_of):
    assert {id: score for id, (score, _) in class_of[0]["good"].items()} == POINTS


def test_files_are_found_by_name_in_a_flat_folder_and_in_a_zip(class_of):
    assert {id: score for id, (score, _) in class_of[0]["flat"].items()} == POINTS
    zipped = class_of[0]["zipped"]
    assert (zipped["1.1"][0], zipped["1.2"][0]) == (2, 4)
    assert zipped["2.1"] == (0, "02_second/blend.py was not handed in")


def test_the_zip_of_a_whole_working_folder_is_read(class_of):
    assert {id: score for id, (score, _) in class_of[0]["whole"].items()} == POINTS


def test_what_cannot_be_read_is_not_judged_and_does_not_stop_the_others(class_of):
    results, out, said = class_of
    score, output = results["broken"]["1.1"]
    assert score is None
    assert "not judged: it could not be read: broken.zip is neither a folder nor a zip" in output
    score, output = results["packed"]["1.1"]
    assert score is None and "packed.rar is neither a folder nor a zip file: unpack it" in output
    assert "score" not in json.loads((out / "broken/results.json").read_text())
    assert "–/2  1.1 count pairs   not judged" in said and "8 answers could not be judged" in said


def test_a_blank_exercise_costs_its_own_points_only(class_of):
    assert class_of[0]["blank"]["1.1"] == (0, "left blank") and class_of[0]["blank"]["1.2"][0] == 4


def test_what_is_not_python_is_said_once_with_its_line_in_the_hand_in(class_of):
    results, out, said = class_of
    line = 1 + (out.parent / "in/typo/01_first/pairs.py").read_text().splitlines().index(
        "    counts = (count_pairs(ids)")
    note = f"not Python: '(' was never closed (01_first/pairs.py:{line})"
    assert results["typo"]["1.2"] == (0, note) and results["typo"]["1.1"][0] == 2
    assert f"0/4  1.2 most common pair   {note}" in said
    assert html.unescape((out / "grades.html").read_text()).count("never closed") == 1


def test_a_body_that_raises_a_syntax_error_of_its_own_making_is_no_more_than_that(reference, tmp_path):
    body = "    eval('1 +') if len(ids) > 2 else None\n    return {}\n"
    made = hand_in(reference, tmp_path / "made", _1_1=body)
    said = learn(reference, "grade", str(made), str(tmp_path / "out"), "--only", "1.1")
    assert "not Python" not in said


def test_a_zip_and_a_folder_of_one_name_stay_apart_and_a_dot_is_part_of_a_name(tmp_path):
    for name in ("ada", "ben.smith", "__MACOSX", ".git"):
        (tmp_path / name).mkdir()
    for name in ("ada.zip", "cleo.zip", "ben.zip", "dora.ZIP", "eve.ZIP", "eve.zip", ".hidden.zip", "fay.7z",
                 "gus.tar.gz", "hal.zip", "hal.rar", "late.csv", "page.html"):
        (tmp_path / name).write_bytes(b"")
    assert {name: path.name for name, path in hand_ins(tmp_path).items()} == {
        "ada": "ada", "ada.zip": "ada.zip", "ben.smith": "ben.smith", "ben": "ben.zip", "cleo": "cleo.zip",
        "dora": "dora.ZIP", "eve.ZIP": "eve.ZIP", "eve.zip": "eve.zip", "fay": "fay.7z",
        "gus": "gus.tar.gz", "hal.zip": "hal.zip", "hal.rar": "hal.rar"}
    days = Lateness({"ben": 4, "cleo.zip": 5})
    assert [days.factor(name) for name in ("ben", "ben.smith", "cleo", "ada")] == [0.6, 1, 0.5, 1]


def test_points_are_shared_over_the_tests_that_pass(class_of):
    score, output = class_of[0]["half"]["2.1"]
    assert score == 1.5
    assert "✓ a heavier value counts more" in output and "✗ weights need not sum to one" in output


def test_a_crash_never_passes_and_costs_nothing_else(class_of):
    got = class_of[0]["crash"]
    lines = (class_of[1].parent / "in/crash/01_first/pairs.py").read_text().splitlines()
    line = 1 + lines.index("    return 1 // 0")
    assert got["1.2"][0] == 0
    assert re.search(rf"ZeroDivisionError: .* by zero \(01_first/pairs.py:{line}\)", got["1.2"][1])
    assert got["c.1"][0] == 0 and "its process ended: SIGSEGV" in got["c.1"][1]
    assert (got["1.1"][0], got["2.1"][0]) == (2, 3)


def test_edited_tests_and_settings_in_the_hand_in_do_not_matter(class_of):
    got = class_of[0]["edited"]
    assert (got["1.1"][0], got["1.2"][0]) == (2, 4)
    # it leaves its function, harms nobody, and returns the right sum of this one test
    assert got["c.1"][0] == 1


def test_a_deleted_marker_costs_that_exercise_only(class_of):
    got = class_of[0]["no_marker"]
    assert got["1.1"][0] == 0 and "marker lines of exercise 1.1" in got["1.1"][1] and got["1.2"][0] == 4


def test_the_table_and_the_page_have_a_row_a_hand_in(class_of):
    results, out, said = class_of
    table = (out / "grades.csv").open(encoding="utf-8-sig")
    rows = {row["submission"]: row for row in csv.DictReader(table)}
    assert set(rows) == set(results) and rows["good"]["total"] == "10" and rows["half"]["2.1"] == "1.5"
    assert rows["broken"]["1.1"] == "" and rows["broken"]["not judged"] == "4"
    page = (out / "grades.html").read_text()
    assert "<h2 id='good'>good: 10 of 10 points</h2>" in page and "<script" not in page
    assert "Limits: 4 s a test, 30 min a hand-in" in said and "half   (7 of 12)" in said
    assert "late, but no hand-in has this name: Good\n" in said
    assert "on the roster, but no hand-in has this name: Flat\n" in said
    assert "handed in, but not on the roster: blank, broken, crash, edited, flat, half" in said


def test_late_days_beyond_the_free_ones_cost_points(class_of):
    table = (class_of[1] / "grades.csv").open(encoding="utf-8-sig")
    rows = {row["submission"]: row for row in csv.DictReader(table)}
    assert {name: rows[name]["after late days"] for name in ("good", "half", "whole")} == {
        "good": "10", "half": "6.8", "whole": "1"}   # 1, 4 and 11 days, 2 free: 100%, 80% of 8.5, 10%


def test_platforms_get_whoever_was_judged_completely(class_of):
    canvas = list(csv.DictReader((class_of[1] / "canvas.csv").open()))
    assert canvas[0]["Student"].strip() == "Points Possible" and canvas[0]["Exercises 1"] == "10"
    ada = next(row for row in canvas if row["SIS Login ID"] == "ada")
    assert (ada["Student"], ada["SIS User ID"], ada["Exercises 1"]) == ("Ada Lovelace", "17", "10")
    moodle = list(csv.DictReader((class_of[1] / "moodle.csv").open()))
    assert {"ada@example.org"} == {row["Email address"] for row in moodle if row["Username"] == "ada"}
    assert "broken" not in {row["Username"] for row in moodle} | {row["SIS Login ID"] for row in canvas}


def test_a_single_hand_in_is_graded_for_some_chapters_or_exercises(reference, tmp_path):
    said = learn(reference, "grade", str(reference), str(tmp_path), "--chapters", "2")
    assert "3/3  2.1 weighted mean" in said and "1.1" not in said
    assert json.loads((tmp_path / "results.json").read_text())["score"] == 3
    said = learn(reference, "grade", str(reference), str(tmp_path), "--only", "1.2,2.1")
    assert "4/4  1.2" in said and "3/3  2.1" in said and "1.1" not in said
    assert "there is no exercise 9.9" in learn(reference, "grade", str(reference), str(tmp_path), "--only",
                                               "9.9", code=2)


def test_a_missing_hand_in_is_named(reference, tmp_path):
    said = learn(reference, "grade", str(tmp_path / "none"), str(tmp_path / "out"), code=2)
    (tmp_path / "roster.csv").write_text("submission\n")
    alone = learn(reference, "grade", str(reference), str(tmp_path / "out"), "--roster",
                  str(tmp_path / "roster.csv"), code=2)
    assert "--roster is for the tables that --many writes" in " ".join(alone.split())
    # folded to the terminal
    assert "there is no" in said and "none: name the folder" in " ".join(said.split())


def test_what_this_machine_cannot_run_is_not_judged(reference, tmp_path):
    """Without a compiler the reference of c.1 fails too: the hand-in gets its other points, and no 0 here."""
    (tmp_path / "bin").mkdir()
    git = shutil.which("git")
    os.symlink(git, tmp_path / "bin/git")
    said = learn(reference, "grade", str(reference), str(tmp_path / "out"), "--only", "2.1,c.1", code=1,
                 PATH=str(tmp_path / "bin"))
    assert "3/3  2.1" in said
    assert "–/1  c.1 sum in C++   not judged: the reference itself fails on this machine" in said


def test_a_hand_in_that_uses_up_its_time_keeps_the_points_of_what_was_judged(reference, tmp_path):
    slow = hand_in(reference, tmp_path / "slow", _1_2="    __import__('time').sleep(999)\n")
    said = learn(reference, "grade", str(slow), str(tmp_path / "out"), "--only", "1.1,1.2,2.1", "--minutes",
                 "0.1", code=1)
    assert "2/2  1.1" in said and "–/4  1.2" in said and "–/3  2.1" in said
    assert said.count("not judged: the hand-in has used up its 0.1 minutes") == 2


def test_check_and_grade_draw_the_same_seeds_for_the_same_answer():
    one, other = seeds_for(GOOD["1.1"]), seeds_for(GOOD["1.2"])
    assert one == seeds_for(GOOD["1.1"]) and one[0] == other[0] == 0 and len({*one, *other}) == 5
    assert all(0 <= seed < 1 << 31 for seed in one)
    sources = "".join(Path(__file__).parents[1].joinpath("tools", f"learn_{n}.py").read_text()
                      for n in ("check", "grade"))
    assert "seeds" not in sources.replace("every seed", "")   # neither has a say in it
