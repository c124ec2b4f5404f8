"""Reading a hand-in: a folder or a zip in which the files of the exercises are found by name.

Adds to learn_bodies.py: only the text between the two marker lines of each exercise is taken. Nothing is
unpacked, and .venv, out, .git and the like are passed over, so the zip of a whole working folder is as good
as that of one file.
"""

import codecs
import io
import os
import re
import zipfile
from pathlib import Path, PurePosixPath

from learn_bodies import Exercise, moved

PACKED = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")   # the first is read, the others named
UNREADABLE = (ValueError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile)
IGNORED = {".git", ".venv", "venv", "out", "node_modules", ".learn", "__MACOSX"}
MOST = 1 << 20      # bytes of one file
INNER = 64 << 20    # bytes of a zip inside the hand-in
BODY = 20_000       # bytes of one body


def worth(parts) -> bool:
    """Is nothing on this way (names of folders) what no student wrote?"""
    return not any(p in IGNORED or p.startswith((".", "__")) for p in parts)


def hand_ins(folder: Path) -> dict[str, Path]:
    """The folders and archives in a folder by student: the name without .zip, unless another has it too.

    Archives of a kind that is not read are among them, so that nobody is left out in silence.
    """
    several = sorted(p for p in folder.iterdir()
                     if worth([p.name]) and (p.is_dir() or p.suffix.lower() in PACKED))
    names = [p.name if p.is_dir() else p.stem.removesuffix(".tar") for p in several]
    return {name if p.is_dir() or names.count(name) == 1 else p.name: p for name, p in zip(names, several)}


def second_tries(names) -> list[str]:
    """A sentence about each name that a browser or a file manager gives to what is there already."""
    known, said = {name.removesuffix(".zip") for name in names}, []
    for name in names:
        copy = re.fullmatch(r"(.+?)(?: ?\(\d+\)|[- ]\d| - Copy| copy)", name.removesuffix(".zip"))
        if copy and (copy[1] in known or copy[0].endswith(")")):
            also = ", which is there too: delete one of the two" if copy[1] in known else ": then rename it"
            said.append(f"{name} counts as a student of its own. Is it a second download of {copy[1]}{also}?")
    return said


def members(submission: Path | io.BytesIO, called: str):
    """(path in the hand-in, size, how to read its first bytes) of its files.

    ValueError: neither a folder nor a zip. Some programs of Windows write backslashes into a zip.
    """
    if isinstance(submission, Path) and submission.is_dir():
        for top, folders, names in os.walk(submission):
            folders[:] = sorted(f for f in folders if worth([f]))
            for file in (Path(top) / name for name in sorted(names)):
                if file.is_file() and not file.is_symlink():
                    inside = PurePosixPath(file.relative_to(submission).as_posix())
                    yield inside, file.stat().st_size, lambda n, f=file: f.read_bytes()[:n]
    elif not zipfile.is_zipfile(submission):
        raise ValueError(f"{called} is neither a folder nor a zip file: unpack it into a folder of "
                         "the student's name, or ask for a zip")
    else:
        with zipfile.ZipFile(submission) as archive:
            for member in archive.infolist():
                inside = PurePosixPath(member.filename.replace("\\", "/"))
                if not member.is_dir() and worth(inside.parts[:-1]):
                    yield inside, member.file_size, lambda n, m=member: archive.open(m).read(n)


def texts_of(submission: Path | io.BytesIO, called: str, wanted: set[str]) -> dict[PurePosixPath, bytes]:
    """The files with these names, of a hand-in or, where it has none of them, of the one zip inside it.

    Moodle gives a folder for each student, with what was uploaded in it as it was.
    """
    texts, packed = {}, {}
    for where, size, take in members(submission, called):
        if where.name in wanted and size <= MOST:
            texts[where] = take(MOST + 1)
        elif where.suffix.lower() in PACKED and worth([where.name]) and size <= INNER and len(packed) < 2:
            packed[where] = take(INNER + 1)
    if texts or not packed:
        return texts
    if len(packed) > 1:
        raise ValueError(f"{called} holds {' and '.join(map(str, packed))}: leave the one that counts")
    [(where, data)] = packed.items()
    if not isinstance(submission, Path):
        raise ValueError(f"{called} holds one more archive, {where}: unpack it")
    return texts_of(io.BytesIO(data), f"{called}/{where}", wanted)


def read(submission: Path, paths: set[str]) -> dict[str, str]:
    """The text of each of these files that was handed in, by its path in the course.

    A file counts at that path, below any folder, or anywhere under its own name; the most complete match is
    taken.
    """
    wanted = {path.split("/")[-1] for path in paths}
    texts = texts_of(submission, submission.name, wanted)
    handed = {}
    for path in paths:
        fits = [p for p in texts if p.name == path.split("/")[-1] and len(texts[p]) <= MOST]
        if fits:
            best = min(fits, key=lambda p: (not f"/{p}".endswith("/" + path), len(p.parts), str(p)))
            data = texts[best]
            code = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
            text = data.decode(code, errors="replace")   # PowerShell's > writes UTF-16
            handed[path] = text.replace("\r\n", "\n").replace("\r", "\n")
    return handed


def id_in(text: str, exercise: Exercise) -> str:
    """What an exercise is numbered in a hand-in: ids move from release to release, names stay."""
    named = rf"^[ \t]*{exercise.comment} EXERCISE (\S+) {re.escape(exercise.title)}[ \t]*\n"
    ids = re.findall(named, text, re.M)
    return ids[0] if len(ids) == 1 else exercise.id


def beginnings(text: str, exercise: Exercise) -> list[re.Match]:
    """The marker lines in a hand-in with which an exercise begins."""
    sign, id = exercise.comment, re.escape(id_in(text, exercise))
    return list(re.finditer(rf"^[ \t]*{sign} EXERCISE {id}( .*)?\n", text, re.M))


def line_of(text: str, exercise: Exercise) -> int:
    """The line of a hand-in, counted from 1, in which an exercise begins."""
    return text[: beginnings(text, exercise)[0].end()].count("\n")


def body_of(text: str, exercise: Exercise) -> str:
    """What stands between the marker lines of one exercise, indented as in the reference.

    ValueError: what the student should mend.
    """
    if "\0" in text:
        raise ValueError(f"{exercise.path} is not text in UTF-8: save it again with that encoding")
    sign, id = exercise.comment, re.escape(id_in(text, exercise))
    begins = beginnings(text, exercise)
    ends = list(re.finditer(rf"^[ \t]*{sign} END EXERCISE {id}[ \t]*$", text, re.M))
    if not len(begins) == len(ends) == 1 or begins[0].end() > ends[0].start():
        raise ValueError(f"the two marker lines of exercise {exercise.id} are not in {exercise.path} exactly "
                         "once: put them back")
    body = text[begins[0].end() : ends[0].start()]
    if len(body.encode()) > BODY:
        raise ValueError(f"the body is longer than {BODY:,} bytes")
    if re.search(r"^[ \t]*(#|//) (END )?EXERCISE ", body, re.M):
        raise ValueError("another exercise's marker line is inside the body: take it out")
    return moved(body, re.match(r"[ \t]*", begins[0][0])[0], exercise.indent)
