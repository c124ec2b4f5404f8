"""Patches as programmers exchange them: read a unified diff, apply it to files, and write one.

The form is that of `diff -u` and git: for each file `--- a/path`, `+++ b/path` and hunks. A hunk says where
it begins and holds lines that stay (" "), go ("-") and come ("+"). It is applied where all lines that stay or
go are found, nearest to the line it names; nothing is guessed.

    python 07_alignment/code_tasks.py      grades patches
"""
import difflib
import re
from dataclasses import dataclass, field


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


@dataclass
class FileChange:
    """What a patch does to one file; `old` and `new` are paths, None where there is no file.

    `moved`: the old text is that of another file, "rename" or "copy".
    """
    old: str | None
    new: str | None
    hunks: list[Hunk] = field(default_factory=list)
    moved: str = ""


def parse_patch(patch: str) -> list[FileChange]:
    """The changes in the order of the patch.

    DoesNotApply for text that is no unified diff, and for what is not of text: binary files and links.
    """
    changes: list[FileChange] = []
    lines, at, header = lines_of(patch), 0, False       # header: git has named the file, "--- " has not yet
    while at < len(lines):
        line, at = lines[at], at + 1
        if line.startswith("diff --git "):
            changes, header = [*changes, FileChange(*names_of_git(line))], True
        elif line.startswith("+++ "):
            before = lines[at - 2] if at > 1 else ""
            if not before.startswith("--- "):
                raise DoesNotApply(f"{line!r} without a line '--- ' before it")
            if not header:
                changes.append(FileChange("", ""))
            changes[-1].old, changes[-1].new = name_of(before[4:]), name_of(line[4:])
            header = False
        elif line.startswith("@@"):
            if not changes:
                raise DoesNotApply("a hunk without the name of a file before it")
            hunk, at = read_hunk(lines, at - 1)
            changes[-1].hunks.append(hunk)
        elif line.startswith(("Binary files ", "GIT binary patch")) or line == "new file mode 120000":
            raise DoesNotApply(f"{line[:60]!r}: only files of text can be patched here")
        elif header:
            read_git(line, changes[-1])
    if not changes:
        raise DoesNotApply("no file is named: a unified diff begins with '--- a/path' and '+++ b/path'")
    return changes


def read_hunk(lines: list[str], at: int) -> tuple[Hunk, int]:
    """The hunk whose head is line `at`, and the number of the line behind it."""
    found = re.match(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", lines[at])
    if found is None:
        raise DoesNotApply(f"{lines[at][:60]!r} is no head of a hunk, which is like '@@ -3,4 +3,5 @@'")
    hunk, left = Hunk(int(found[1])), [int(n) if n else 1 for n in found.group(2, 3)]
    for number, line in enumerate(lines[at + 1:], at + 1):
        if not any(left) and line[:1] != "\\":
            if line[:1] in ("+", "-") and not line.startswith(("--- ", "+++ ")) and line.rstrip() != "--":
                raise DoesNotApply(f"a hunk has more lines than its head says, from {line[:60]!r} on")
            return hunk, number                       # a mail may end in "-- "
        left[0] -= line[:1] in ("", " ", "-")
        left[1] -= line[:1] in ("", " ", "+")
        if line[:1] not in ("", " ", "-", "+", "\\") or min(left) < 0:
            raise DoesNotApply(f"a hunk ends too early, at {line[:60]!r}")
        if line[:1] != "\\":
            hunk.lines.append(line or " ")
    if any(left):
        raise DoesNotApply("the last hunk is cut off")
    return hunk, len(lines)


def names_of_git(line: str) -> tuple[str | None, str | None]:
    """The paths of "diff --git a/path b/path"; two that differ are told by later lines."""
    names = line.removeprefix("diff --git ")
    half = len(names) // 2
    if names[half:half + 1] == " " and name_of(names[:half]) == name_of(names[half + 1:]):
        return name_of(names[:half]), name_of(names[:half])
    return "", ""


def read_git(line: str, change: FileChange) -> None:
    """What else a line of git's header says of the file."""
    if found := re.match("(rename|copy) (from|to) (.*)", line):
        change.moved = found[1]
        setattr(change, "old" if found[2] == "from" else "new", checked(unquoted(found[3])))
    elif line.startswith("new file mode "):
        change.old = None
    elif line.startswith("deleted file mode "):
        change.new = None


def name_of(text: str) -> str | None:
    """The path behind '--- ' or '+++ ', without git's a/ and b/ and without a time; None for /dev/null."""
    path = unquoted(text.split("\t")[0].strip())
    return None if path == "/dev/null" else checked(path[2:] if path[:2] in ("a/", "b/") else path)


def unquoted(path: str) -> str:
    """git writes café.py as "caf\\303\\251.py", in quotes: UTF-8 in octal, and C's backslashes."""
    if len(path) < 2 or path[0] != '"' or path[-1] != '"':
        return path
    letters = dict(zip("abtnvfr", range(7, 14)))

    def byte(found: re.Match) -> bytes:
        said = found[1].decode()
        return bytes([int(said, 8) if len(said) == 3 else letters.get(said, ord(said))])
    return re.sub(rb"\\([0-3][0-7]{2}|[!-~])", byte, path[1:-1].encode()).decode(errors="replace")


def checked(path: str) -> str:
    """The path, which must not lead out of the repository."""
    if path.startswith("/") or ".." in path.split("/"):
        raise DoesNotApply(f"{path} is outside the repository")
    return path


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


def text_before(change: FileChange, files: dict[str, str], after: dict[str, str]) -> str:
    """What a change begins from, of the files before the patch and after the changes so far.

    DoesNotApply if it is not there, or if it would be written over another file.
    """
    path = change.new or change.old
    if not path:
        raise DoesNotApply("'diff --git' names two files: 'rename from' and 'rename to' must follow it")
    if (change.moved or change.old is None) and path in after:
        raise DoesNotApply(f"{path} is there already")
    found = "" if change.old is None else files.get(change.old) if change.moved else after.get(path)
    if found is None and not (change.hunks and all(hunk.begin == 0 for hunk in change.hunks)):
        raise DoesNotApply(f"there is no {change.old if change.moved else path}")
    return found or ""               # a hunk of line 0 makes a file, also where /dev/null is not named


def apply_patch(files: dict[str, str], patch: str) -> dict[str, str]:
    """New {path: text}; the given one stays as it is. DoesNotApply if any hunk does not fit.

    A changed file ends in a line break, whether it did before or not.
    """
    changes = parse_patch(patch)
    away = {change.old for change in changes if change.moved == "rename"}
    after = {path: text for path, text in files.items() if path not in away}
    for change in changes:
        path = change.new or change.old or ""
        before = text_before(change, files, after)
        text, shift = lines_of(before), 0
        for hunk in change.hunks:
            try:
                text, shift = apply_hunk(text, hunk, shift)
            except DoesNotApply as error:
                raise DoesNotApply(f"{path}: {error}") from None
        if change.new is None and text:
            raise DoesNotApply(f"{path} is to be deleted, and the patch leaves lines of it")
        after[path] = "".join(line + "\n" for line in text) if change.hunks else before
        if change.new is None:
            del after[path]
    return after


def make_patch(before: dict[str, str], after: dict[str, str]) -> str:
    """The unified diff from one set of files to another."""
    parts = []
    for path in sorted({*before, *after}):
        old, new = ([line + "\n" for line in lines_of(files.get(path, ""))] for files in (before, after))
        names = f"a/{path}" if path in before else "/dev/null", f"b/{path}" if path in after else "/dev/null"
        parts += difflib.unified_diff(old, new, *names)
    return "".join(parts)
