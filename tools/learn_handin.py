"""Reading a hand-in: a folder or a zip in which the files of the exercises are found by name.

Adds to learn_bodies.py: only the text between the two marker lines of each exercise is taken. Nothing is
unpacked, and .venv, out, .git and the like are passed over, so the zip of a whole working folder is as good
as that of one file.
"""

import os
import re
import zipfile
from pathlib import Path, PurePosixPath

from learn_bodies import Exercise

PACKED = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")   # the first is read, the others named
UNREADABLE = (ValueError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile)
IGNORED = {".git", ".venv", "venv", "out", "node_modules", ".learn", "__MACOSX"}
MOST = 1 << 20      # bytes of one file
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


def members(submission: Path):
    """(path in the hand-in, size, how to read it) of its files. ValueError: neither a folder nor a zip."""
    if submission.is_dir():
        for top, folders, names in os.walk(submission):
            folders[:] = [f for f in folders if worth([f])]
            for file in (Path(top) / name for name in names):
                if file.is_file() and not file.is_symlink():
                    inside = PurePosixPath(file.relative_to(submission).as_posix())
                    yield inside, file.stat().st_size, file.read_bytes
    elif not zipfile.is_zipfile(submission):
        raise ValueError(f"{submission.name} is neither a folder nor a zip file: unpack it into a folder of "
                         "the student's name, or ask for a zip")
    else:
        with zipfile.ZipFile(submission) as archive:
            for member in archive.infolist():
                inside = PurePosixPath(member.filename)
                if not member.is_dir() and worth(inside.parts[:-1]):
                    yield inside, member.file_size, lambda m=member: archive.open(m).read(MOST + 1)


def read(submission: Path, paths: set[str]) -> dict[str, str]:
    """The text of each of these files that was handed in, by its path in the course.

    A file counts at that path, below any folder, or anywhere under its own name; the most complete match is
    taken.
    """
    wanted = {path.split("/")[-1] for path in paths}
    texts = {where: take() for where, size, take in members(submission) if where.name in wanted
             and size <= MOST}
    handed = {}
    for path in paths:
        fits = [p for p in texts if p.name == path.split("/")[-1] and len(texts[p]) <= MOST]
        if fits:
            best = min(fits, key=lambda p: (not f"/{p}".endswith("/" + path), len(p.parts), str(p)))
            handed[path] = texts[best].decode("utf-8", errors="replace").replace("\r\n", "\n")
    return handed


def beginnings(text: str, exercise: Exercise) -> list[re.Match]:
    """The marker lines in a hand-in with which an exercise begins."""
    sign, id = exercise.comment, re.escape(exercise.id)
    return list(re.finditer(rf"^[ \t]*{sign} EXERCISE {id}( .*)?\n", text, re.M))


def line_of(text: str, exercise: Exercise) -> int:
    """The line of a hand-in, counted from 1, in which an exercise begins."""
    return text[: beginnings(text, exercise)[0].end()].count("\n")


def body_of(text: str, exercise: Exercise) -> str:
    """What stands between the marker lines of one exercise. ValueError: what the student should mend."""
    sign, id = exercise.comment, re.escape(exercise.id)
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
    return body
