"""What editors, Windows, Excel and Moodle do to files on their way to `check`, `bring` and `grade`."""

import csv
import errno
import io
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from learn_bodies import digest, find, graft, moved, text_of
from learn_handin import body_of, line_of, read, second_tries
from learn_marks import table_of
from learn_student import way_out
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


def test_utf_16_is_read_with_its_mark_and_named_without(student, tmp_path):
    [exercise, _] = find(text := (student / FILE).read_text(), FILE)
    for name, code in (("a", "utf-16"), ("b", "utf-16-be"), ("c", "utf-16-le")):
        (tmp_path / name).mkdir()
        mark = b"\xfe\xff" if name == "b" else b""
        (tmp_path / name / "pairs.py").write_bytes(mark + text.encode(code))
    for name in "ab":
        assert read(tmp_path / name, {FILE}) == {FILE: text}
    with pytest.raises(ValueError, match=f"{FILE} is not text in UTF-8: save it again"):
        body_of(read(tmp_path / "c", {FILE})[FILE], exercise)
    with pytest.raises(ValueError, match="is not text in UTF-8: save it again"):
        text_of(tmp_path / "c/pairs.py")


def test_an_answer_is_found_by_its_name_where_an_older_release_has_other_numbers(course):
    first, second = find((course / "reference" / FILE).read_text(), FILE)
    old = (course / "student" / FILE).read_text()
    for before, after in (("1.2", "1.x"), ("1.1", "1.2"), ("1.x", "1.1")):
        old = old.replace(f"EXERCISE {before}", f"EXERCISE {after}")
    assert [body_of(old, e) for e in (first, second)] == [GOOD["1.1"], GOOD["1.2"]]
    assert old.split("\n")[line_of(old, second) - 1].strip() == f"# EXERCISE 1.1 {second.title}"
    unnamed = old.replace(f"1.2 {first.title}", "1.2 my own name")
    assert body_of(unnamed, second) == GOOD["1.2"]


@pytest.mark.parametrize("odd", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_a_line_ends_where_python_says(odd):
    """Inside a string such a character is text: str.splitlines would cut there."""
    text = f"# EXERCISE 1.1 a\nx = '{odd}# END EXERCISE 1.1'\ny = 1{odd}\n# END EXERCISE 1.1\nlast\n"
    [exercise] = find(text)
    assert exercise.body == text[text.index("x") : text.rindex("# END")]
    assert graft(text, "1.1", "z\n") == "# EXERCISE 1.1 a\nz\n# END EXERCISE 1.1\nlast\n"
    assert moved(f"  x = '{odd}  '\n", "  ", "\t") == f"\tx = '{odd}  '\n"
    assert digest(f"a{odd}b") != digest("a\nb")


def test_a_second_download_is_said_to_count_as_a_student():
    names = ["eve", "eve (1)", "eve (2).zip", "ada(1)", "bo", "bo - Copy", "photocopy", "dan 2",
             "Al (17)_file"]
    said = second_tries(names)
    assert [sentence.split(" counts")[0] for sentence in said] == \
        ["eve (1)", "eve (2).zip", "ada(1)", "bo - Copy"]
    assert "second download of eve, which is there too: delete one" in said[0]
    assert "second download of ada: then rename it" in said[2]


def test_names_reach_excel_whole_and_never_as_a_formula(course, tmp_path):
    for name in ("=1+1", "@zoë", "@zoë (1)", "eve"):
        (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "late.csv").write_text("submission,days\n'=1+1,1\n@zoë,2\n", encoding="utf-8")
    said = learn(course / "reference", "grade", str(tmp_path / "in"), str(tmp_path / "out"), "--many",
                 "--only", "1.1", "--late", str(tmp_path / "late.csv"))
    assert "@zoë (1) counts as a student of its own" in said and "no hand-in has this name" not in said
    data = (tmp_path / "out/grades.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfsubmission,")
    assert [row["submission"] for row in table_of(tmp_path / "out/grades.csv", "submission")] == [
        "=1+1", "@zoë", "@zoë (1)", "eve"]
    for name in ("grades", "canvas", "moodle"):
        rows = csv.reader((tmp_path / f"out/{name}.csv").open(encoding="utf-8-sig"))
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "@"))]


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
    ada, ben = csv.DictReader((tmp_path / "grades/grades.csv").open(encoding="utf-8-sig"))
    assert (ada["total"], ada["1.1"], ada["after late days"], ada["not judged"]) == ("", "", "", "2")
    assert (ben["total"], ben["1.1"], ben["after late days"], ben["not judged"]) == ("0", "0", "0", "0")


@pytest.mark.parametrize("name", ["../eve", "a/b", "a\\b", ".hidden"])
def test_a_name_that_is_no_folder_gets_no_mistakes_planted(course, tmp_path, name):
    (tmp_path / "names").write_text(f"ada\n{name}\n")
    said = learn(course / "reference", "exam", str(tmp_path / "out/put"), "--plant", str(tmp_path / "names"),
                 code=2)
    assert "is no name of a folder" in " ".join(said.split())
    assert [*Path(tmp_path / "out/put").iterdir()] == []


def test_a_tree_that_cannot_be_written_to_is_to_be_copied():
    for kind in (errno.EROFS, errno.EACCES):
        assert way_out(OSError(kind, "no", "x")) == ": copy the course to where you may write, and work there"
    assert way_out(OSError(errno.ENOSPC, "no")) == way_out(ValueError("x")) == ""
