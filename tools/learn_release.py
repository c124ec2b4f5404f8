"""`python learn.py release`: a student tree in which the chosen chapters are blank and no solution survives.

Adds to learn_bodies.py: what students get (earlier chapters whole, the chosen ones blank, later ones not at
all, no git history, no mutants) and the search for copies of a solution in code, docs, notebooks and figures.
With `--autograder` it also writes the Gradescope zip for the same commit.
"""

import gzip
import html
import json
import math
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

from learn_bodies import blanked, chapters, course, digest, graft, is_stub, write
from learn_handout import write_pages
from learn_trees import export, git, has_git, needed

TEACHERS = {"TEACHING.md", "CONTRIBUTING.md", "CHANGELOG.md", "NEGATIVE.md", "tests/tiny_course.py",
            *(f"tools/learn_{name}.py" for name in (
                "teach", "grade", "marks", "handin", "prove", "release", "handout", "exam", "alike"))}
SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, when the autograder is built: Python, a C++ compiler and the five packages.
set -euo pipefail
apt-get update && apt-get install -y make g++ python3 python3-venv
cd /autograder/source/course && make setup
"""
RUN = """#!/usr/bin/env bash
# Gradescope runs this for each hand-in and reads results/results.json.
set -euo pipefail
AUTOGRADER="${AUTOGRADER:-/autograder}"
cd "$AUTOGRADER/source/course"
.venv/bin/python learn.py grade "$AUTOGRADER/submission" "$AUTOGRADER/results" --chapters CHAPTERS
"""


def span(text: str) -> range:
    """The chapter numbers of "1-3" or "2"."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not found or int(found[1]) > int(found[2] or found[1]):
        raise ValueError(f"'{text}' is no range of chapters: write 2 or 1-3")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def number(chapter: str) -> int:
    """2 for 02_transformer; csrc counts as part of chapter 4."""
    return 4 if chapter == "csrc" else int(chapter[:2])


def for_students(path: str, last: int) -> bool:
    """Does this file belong in a student tree that ends with chapter `last`?"""
    top, name = path.split("/")[0], path.split("/")[-1]
    private = re.match(r"tests/(mutants|peers|test_learn|(right_)?answers)", path)
    if path in TEACHERS or top in (".ci", ".github", "templates") or private:
        return False
    if re.match(r"0\d_|csrc$", top):
        return number(top) <= last
    if path.startswith("tests/slow/"):   # CI's tests, and csrc's planted bugs, which its lesson runs
        return last >= number("csrc") and not name.startswith("test_")
    if top == "tests" and name.startswith("test_"):
        which = re.match(r"test_(?:ex_?)?(csrc|\d\d)", name)
        return bool(which) and number(which[1]) <= last
    return True


def squeezed(text: str) -> list[str]:
    """The lines of a text that say something, without comments, white space and quotes."""
    lines = [re.sub(r"(^|\s)(#|//)( .*)?$|[\s\"'`]", "", line) for line in text.splitlines()]
    return [line for line in lines if len(line) >= 8]


def texts(name: str, data: bytes) -> list[str]:
    """All text that a file holds: its own, and what is packed in notebooks, pages, pictures and archives."""
    plain = data.decode("utf-8", errors="replace")
    found = [plain]
    if name.endswith((".ipynb", ".json")):
        strings = []

        def note(d: dict) -> dict:
            strings.extend("".join(v) if isinstance(v, list) and all(isinstance(x, str) for x in v) else v
                           for v in d.values() if isinstance(v, (str, list)))
            return d

        try:
            json.loads(plain, object_hook=note)
        except ValueError:
            pass
        found += [s for s in strings if isinstance(s, str)]
    if name.endswith((".svg", ".html", ".md", ".xml", ".ipynb")):
        found.append(html.unescape(re.sub(r"<[^>]*>", "\n", plain)))
        found.append(html.unescape(re.sub(r"<[^>]*>", "", plain)))
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        at = 8
        while at + 8 <= len(data):
            size, kind = struct.unpack(">I4s", data[at : at + 8])
            chunk, at = data[at + 8 : at + 8 + size], at + 12 + size
            if kind in (b"zTXt", b"iTXt") and b"\0" in chunk:
                for cut in range(min(len(chunk), 200)):
                    if chunk[cut : cut + 1] == b"\x78":  # the first byte of a zlib stream
                        try:
                            found.append(zlib.decompress(chunk[cut:]).decode("utf-8", errors="replace"))
                        except zlib.error:
                            continue
    if data[:2] == b"\x1f\x8b":
        found += texts(name.removesuffix(".gz"), gzip.decompress(data))
    if data[:4] == b"PK\x03\x04":
        with tempfile.TemporaryFile() as file:
            file.write(data)
            with zipfile.ZipFile(file) as archive:
                for member in archive.namelist():
                    found += texts(member, archive.read(member))
    return found


def leaks(tree: Path, bodies: dict[str, str]) -> list[str]:
    """Where half a solution or more (consecutive lines) survives: "path: exercise 2.1 (its line ...)"."""
    windows = []
    for id, body in bodies.items():
        lines = squeezed(body)
        size = math.ceil(len(lines) / 2)
        for at in range(len(lines) - size + 1):
            if len("".join(lines[at : at + size])) >= 20:
                windows.append((id, "".join(lines[at : at + size]), lines[at]))
    found = {}
    for file in sorted(p for p in tree.rglob("*") if p.is_file()):
        for text in texts(file.name, file.read_bytes()):
            stream = "".join(squeezed(text))
            for id, window, first in windows:
                if window in stream:
                    found.setdefault((file.relative_to(tree).as_posix(), id), first)
    return [f"{path}: exercise {id} ({first[:60]})" for (path, id), first in found.items()]


def release(root: Path, chosen: range, out: Path) -> dict[str, str]:
    """Write the student tree to `out`; the bodies that were taken out. ValueError: a solution survives."""
    if not has_git(root):
        raise ValueError("release needs git: it hands out what is committed, nothing else")
    if git(root, "diff", "HEAD", "--name-only"):
        raise ValueError("there are changes that are not committed: commit them, release hands out only what "
                         "is committed")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name a new folder")
    numbers = {number(c) for c in chapters(root)}
    if not set(chosen) & numbers:
        raise ValueError(f"there are no such chapters: choose from {min(numbers)}-{max(numbers)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release-", dir=out.parent) as place:
        new = Path(place) / "tree"
        export(root, "HEAD", new, keep=lambda path: for_students(path, chosen[-1]))
        taken = {e.id: e for e in course(new).values() if number(e.chapter) in chosen}
        blank = [id for id, e in taken.items() if is_stub(e.body)]
        if blank:
            raise ValueError(f"{', '.join(blank)} is blank here already: release from the branch main")
        for e in taken.values():
            write(new / e.path, graft((new / e.path).read_text(encoding="utf-8"), e.id, e.stub))
        write_pages(new, list(taken.values()))
        survivors = leaks(new, {id: e.body for id, e in taken.items()})
        if survivors:
            raise ValueError("nothing was released, because solutions survive in\n  "
                             + "\n  ".join(survivors))
        files = {path: digest(blanked((new / path).read_text(encoding="utf-8")))
                 for path in {e.path for e in taken.values()}}
        paper = {"chapters": f"{chosen[0]}-{chosen[-1]}", "exercises": list(taken), "files": files}
        write(new / "release.json", json.dumps(paper, indent=1) + "\n")
        if out.exists():
            out.rmdir()
        shutil.move(new, out)
    return {id: e.body for id, e in taken.items()}


def autograder(root: Path, chosen: range, file: Path) -> None:
    """The zip that Gradescope takes: setup.sh, run_autograder and the reference with this tool."""
    with tempfile.TemporaryDirectory(prefix="autograder-") as place:
        folder = Path(place)
        export(root, "HEAD", folder / "course",
               keep=lambda path: needed(path) or re.match(r"(learn\.py|tools/.*)$", path))
        for name, text in (("setup.sh", SETUP),
                           ("run_autograder", RUN.replace("CHAPTERS", f"{chosen[0]}-{chosen[-1]}"))):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        made = shutil.make_archive(str(folder.parent / f"{folder.name}-zip"), "zip", folder)
        shutil.move(made, file)


def command(root: Path, asked) -> int:
    """`python learn.py release --chapters 1-3 --out DIR [--autograder FILE.zip]`; the exit status."""
    chosen, out = span(asked.chapters), Path(asked.out)
    taken = release(root, chosen, out)
    files = sum(p.is_file() for p in out.rglob("*"))
    print(f" {out}: {files} files, {len(taken)} exercises blank, no solution survives")
    if asked.autograder:
        autograder(root, chosen, Path(asked.autograder))
        print(f" {asked.autograder}: the Gradescope autograder (it holds the solutions: keep it private)")
    return 0
