"""What editors, Windows, Excel and Moodle do to files on their way to `check`, `bring` and `grade`."""

import csv
import io
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from learn_bodies import find, graft, moved
from learn_handin import body_of, read
from learn_marks import table_of
from tiny_course import GOOD, ROOT, git, learn, make, put

FILE = "01_first/pairs.py"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The tiny course, a student tree of it with right answers, and the same as bytes of a zip."""
    place = tmp_path_factory.mktemp("course")
    make(place / "reference")
    learn(place / "reference", "release", "--chapters", "1", "--out", str(place / "student"))
    for id in ("1.1", "1.2"):
        put(place / "student", id, GOOD[id])
    return place


@pytest.fixture
def student(course, tmp_path):
    shutil.copytree(course / "student", tmp_path / "student")
    return tmp_path / "student"


def packed(*files: tuple[str, bytes]) -> bytes:
    """A zip with these files, under the very names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files:
            member = zipfile.ZipInfo("x")
            member.filename = name
            archive.writestr(member, data)
    return out.getvalue()


def indented(text: str, unit: str) -> str:
    """A file in which an editor has replaced every four spaces at the beginning of a line."""
    return re.sub(r"^(    )+", lambda spaces: unit * (len(spaces[0]) // 4), text, flags=re.M)


def test_a_zip_with_backslashes_is_read(tmp_path):
    (tmp_path / "ada.zip").write_bytes(packed(("course\\01_first\\pairs.py", b"right"),
                                              ("course\\out\\01_first\\pairs.py", b"wrong"),
                                              ("pairs.py", b"wrong")))
    assert read(tmp_path / "ada.zip", {FILE}) == {FILE: "right"}


@pytest.mark.parametrize("outer", ["folder", "zip"])
def test_a_zip_alone_in_a_hand_in_is_read(tmp_path, outer):
    inner = packed((FILE, b"right"))
    if outer == "folder":
        (tmp_path / "Ada_17_assignsubmission_file").mkdir()
        (tmp_path / "Ada_17_assignsubmission_file/answers.zip").write_bytes(inner)
    else:
        (tmp_path / "ada.zip").write_bytes(packed(("answers.zip", inner), ("__MACOSX/x.zip", b"")))
    assert read(next(tmp_path.iterdir()), {FILE}) == {FILE: "right"}


@pytest.mark.parametrize("names, sentence", [(["a.zip", "b.zip"], "holds a.zip and b.zip: leave the one"),
                                             (["a.rar"], "ada/a.rar is neither a folder nor a zip file")])
def test_archives_that_cannot_be_chosen_from_or_read_are_named(tmp_path, names, sentence):
    (tmp_path / "ada").mkdir()
    for name in names:
        (tmp_path / "ada" / name).write_bytes(packed((FILE, b"")) if name.endswith("zip") else b"Rar!")
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path / "ada", {FILE})


@pytest.mark.parametrize("unit", ["\t", "  ", "        "])
def test_an_answer_in_a_file_that_was_indented_anew_fits_into_the_reference(course, unit):
    """Also where a method's markers stand deeper, and where a line of a string begins further left."""
    clean = (course / "reference" / FILE).read_text()
    for exercise in find(clean, FILE):
        body = body_of(indented(clean, unit), exercise)
        compile(graft(clean, exercise.id, body), FILE, "exec")
    assert moved("\t\tif x:\n\t\t\t'''\na'''\n\n", "\t\t", " " * 8) == \
        "        if x:\n        \t'''\na'''\n\n"


def test_every_solution_survives_an_editor_that_writes_tabs():
    for path in sorted(ROOT.glob("0*/*.py")):
        clean = path.read_text(encoding="utf-8")
        for exercise in find(clean, path.relative_to(ROOT).as_posix()):
            compile(graft(clean, exercise.id, body_of(indented(clean, "\t"), exercise)), path.name, "exec")


def test_check_bring_and_grade_take_a_file_with_tabs_crlf_and_a_byte_order_mark(course, student, tmp_path):
    text = indented((student / FILE).read_text(), "\t").replace("\n", "\r\n")
    (student / FILE).write_bytes(b"\xef\xbb\xbf" + text.encode())
    said = learn(student, "check")
    assert said.count("✓") == 4 and "✗" not in said
    learn(course / "reference", "release", "--chapters", "1", "--out", str(tmp_path / "newer"))
    assert "2 exercises brought" in learn(tmp_path / "newer", "bring", str(student))
    assert "✗" not in learn(tmp_path / "newer", "check")
    said = learn(course / "reference", "grade", str(student), str(tmp_path / "grades"), "--chapters", "1")
    assert "student: 6 of 6" in said


def test_in_a_clone_a_file_with_tabs_is_checked_too(course, tmp_path):
    shutil.copytree(course / "reference", tmp_path / "clone")
    git(tmp_path / "clone", "config", "user.email", "t@t")
    learn(tmp_path / "clone", "start", "1")
    put(tmp_path / "clone", "1.1", GOOD["1.1"])
    file = tmp_path / "clone" / FILE
    file.write_text(indented(file.read_text(), "\t"))
    assert "✗" not in learn(tmp_path / "clone", "check", "1.1")


def test_a_file_in_another_encoding_is_named(student):
    file = student / FILE
    file.write_bytes(file.read_bytes() + "# zählt\n".encode("latin-1"))
    said = " ".join(learn(student, "check", "1.1", code=2).split())
    assert f"{FILE} is not text in UTF-8: save it again with that encoding" in said


@pytest.mark.parametrize("between", [", ", ";", "\t"])
def test_a_table_is_read_as_excel_writes_it(tmp_path, between):
    rows = [("submission", "name"), ("ada", "Lovelace, Ada"), ("zoë",)]
    lines = [between.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows]
    (tmp_path / "roster.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert table_of(tmp_path / "roster.csv", "submission") == [
        {"submission": "ada", "name": "Lovelace, Ada"}, {"submission": "zoë", "name": ""}]


@pytest.mark.parametrize("data, sentence", [
    (b"submission,days\nada\n", "'' is no number of days for ada"),
    ("submission,days\nzoë,1\n".encode("latin-1"), "is not text in UTF-8"), (b"", "no column submission")])
def test_a_table_that_cannot_be_used_is_refused_before_anything_is_graded(course, tmp_path, data, sentence):
    (tmp_path / "late.csv").write_bytes(data)
    said = learn(course / "reference", "grade", str(course / "student"), str(tmp_path / "grades"), "--late",
                 str(tmp_path / "late.csv"), code=2)
    assert sentence in " ".join(said.split()) and not (tmp_path / "grades").exists()


def test_what_cannot_be_read_is_said_once_and_has_no_total(course, tmp_path):
    (tmp_path / "in/ada").mkdir(parents=True)
    (tmp_path / "in/ada/answers.rar").write_bytes(b"Rar!")
    (tmp_path / "in/ben").mkdir()
    said = learn(course / "reference", "grade", str(tmp_path / "in"), str(tmp_path / "grades"), "--many",
                 "--chapters", "1", code=1)
    assert said.count("ada/answers.rar is neither") == 1 and said.count("not judged: the same") == 1
    ada, ben = csv.DictReader((tmp_path / "grades/grades.csv").open())
    assert (ada["total"], ada["1.1"], ada["after late days"], ada["not judged"]) == ("", "", "", "2")
    assert (ben["total"], ben["1.1"], ben["after late days"], ben["not judged"]) == ("0", "0", "0", "0")


@pytest.mark.parametrize("name", ["../eve", "a/b", "a\\b", ".hidden"])
def test_a_name_that_is_no_folder_gets_no_mistakes_planted(course, tmp_path, name):
    (tmp_path / "names").write_text(f"ada\n{name}\n")
    said = learn(course / "reference", "exam", str(tmp_path / "out/put"), "--plant", str(tmp_path / "names"),
                 code=2)
    assert "is no name of a folder" in " ".join(said.split())
    assert [*Path(tmp_path / "out/put").iterdir()] == []
