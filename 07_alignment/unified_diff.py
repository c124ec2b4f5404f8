"""Patches as programmers exchange them: read a unified diff, apply it to files, and write one.

The form is that of `diff -u` and git: for each file `--- a/path`, `+++ b/path` and hunks. A hunk says where
it begins and holds lines that stay (" "), go ("-") and come ("+"). It is applied where all lines that stay or
go are found, nearest to the line it names; nothing is guessed.

    python 07_alignment/code_tasks.py      grades patches
"""
import difflib
import re
from dataclasses import dataclass, field
from typing import Any


class DoesNotApply(ValueError):
    """The patch does not fit the files; the message says where."""


@dataclass
class Hunk:
    """`begin`: the first line of the old text, from 1; `lines` with their first characters."""
    begin: int
    lines: list[str] = field(default_factory=list)


def lines_of(text: str) -> list[str]:
    """Its lines without their ends. Not splitlines: that ends a line at a form feed too."""
    return text.removesuffix("\n").split("\n") if text else []


def parse_patch(patch: str) -> dict[str, list[Hunk]]:
    """Path to hunks.

    A file to be made has the old path /dev/null, one to be deleted the new path: its key is "-path".

    DoesNotApply for text that is no unified diff.
    """
    files: dict[str, list[Hunk]] = {}
    hunks: Any = None
    old, left = None, [0, 0]
    for line in lines_of(patch):
        if any(left):
            left[0] -= line[:1] in ("", " ", "-")
            left[1] -= line[:1] in ("", " ", "+")
            if line[:1] not in ("", " ", "-", "+", "\\") or min(left) < 0:
                raise DoesNotApply(f"a hunk ends too early, at {line[:60]!r}")
            if line[:1] != "\\":
                hunks[-1].lines.append(line or " ")
        elif line.startswith("--- "):
            old = name_of(line)
        elif line.startswith("+++ "):
            new = name_of(line)
            if old is None:
                raise DoesNotApply(f"{line!r} without a line '--- ' before it")
            hunks = files.setdefault(new if new != "/dev/null" else "-" + old, [])
        elif found := re.match(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
            if hunks is None:
                raise DoesNotApply("a hunk without the name of a file before it")
            hunks.append(Hunk(int(found[1])))
            left = [int(n) if n else 1 for n in found.group(2, 3)]
    if any(left):
        raise DoesNotApply("the last hunk is cut off")
    if not files:
        raise DoesNotApply("no file is named: a unified diff begins with '--- a/path' and '+++ b/path'")
    return files


def name_of(line: str) -> str:
    """The path in a line '--- a/path' or '+++ b/path', without git's a/ and b/ and without a time."""
    path = line[4:].split("\t")[0].strip()
    if path != "/dev/null" and (path.startswith("/") or ".." in path.split("/")):
        raise DoesNotApply(f"{path} is outside the repository")
    return path[2:] if path[:2] in ("a/", "b/") else path


def apply_hunk(text: list[str], hunk: Hunk, shift: int) -> tuple[list[str], int]:
    """The lines with the hunk applied, and where the next one is to be looked for: how far lines have moved.

    Of several places that fit the one nearest to `begin` + `shift` is taken.
    """
    # EXERCISE 7.16 apply a hunk
    before = [line[1:] for line in hunk.lines if line[0] in " -"]
    after = [line[1:] for line in hunk.lines if line[0] in " +"]
    # a hunk of new lines alone stands after its line
    wanted = max(hunk.begin - 1, 0) + shift if before else hunk.begin + shift
    fits = [i for i in range(len(text) - len(before) + 1) if text[i:i + len(before)] == before]
    if not fits:
        raise DoesNotApply(f"the lines after line {hunk.begin} are not as the patch says")
    at = min(fits, key=lambda i: abs(i - wanted))
    return text[:at] + after + text[at + len(before):], at - wanted + shift + len(after) - len(before)
    # END EXERCISE 7.16


def apply_patch(files: dict[str, str], patch: str) -> dict[str, str]:
    """New {path: text}; the given one stays as it is. DoesNotApply if any hunk does not fit.

    A changed file ends in a line break, whether it did before or not.
    """
    files = dict(files)
    for path, hunks in parse_patch(patch).items():
        deleted, path = path.startswith("-"), path.removeprefix("-")
        text, shift = lines_of(files.get(path, "")), 0
        for hunk in hunks:
            try:
                text, shift = apply_hunk(text, hunk, shift)
            except DoesNotApply as error:
                raise DoesNotApply(f"{path}: {error}") from None
        if deleted:
            files.pop(path, None)
        else:
            files[path] = "".join(line + "\n" for line in text)
    return files


def make_patch(before: dict[str, str], after: dict[str, str]) -> str:
    """The unified diff from one set of files to another."""
    parts = []
    for path in sorted({*before, *after}):
        old, new = ([line + "\n" for line in lines_of(files.get(path, ""))] for files in (before, after))
        names = f"a/{path}" if path in before else "/dev/null", f"b/{path}" if path in after else "/dev/null"
        parts += difflib.unified_diff(old, new, *names)
    return "".join(parts)
