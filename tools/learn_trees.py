"""Trees of files: the clean reference of a commit or of the working tree, and the two of each case.

Adds to learn_bodies.py: the judge's tree is the reference with the tests, in which the function of one
exercise is blank and only asks (`far`, learn_judge.py); the body's tree is the reference's chapters without
any test, in which that one body is somebody's. So neither process has both a verdict and a body, and neither
has the reference's body.
"""

import ast
import io
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

from learn_bodies import Exercise, chapters, graft, lines_of, text_of

PICTURES = {".png", ".svg", ".jpg", ".gif", ".pdf", ".ico"}
SKIP = {".git", ".venv", "out", "__pycache__", ".learn", "peers", ".ci", "node_modules"}


def git(root: Path, *words: str) -> str:
    """The output of a git command; ValueError with git's own last line when it fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError("git is not installed: install it, then run this again") from None
    if done.returncode:
        raise ValueError(f"git {words[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout.strip()


def has_git(root: Path) -> bool:
    """True if `root` itself is the top of a git work tree with a commit."""
    try:
        top = Path(git(root, "rev-parse", "--show-toplevel"))
        return top == root and bool(git(root, "rev-parse", "HEAD"))
    except ValueError as problem:
        if "safe.directory" in str(problem) and (root / ".git").exists():   # a mounted folder, often
            raise ValueError(f"git leaves {root} alone, because another user owns it; to allow it: "
                             f"git config --global --add safe.directory {shlex.quote(str(root))}") from None
        return False


def needed(path: str) -> bool:
    """Does a test run need this file? Not pictures, other tests, the answers in the mutants, or this tool."""
    parts = path.split("/")
    if SKIP & set(parts) or Path(path).suffix in PICTURES or re.match(r"(learn\.py|tools/.*)$", path):
        return False
    others = re.match(r"tests/(test_(?!ex)|mutants|right_answers|answers(/|$))", path)
    return not others


def copy_tree(root: Path, to: Path, keep=needed) -> None:
    """Copy the working tree's files that `keep` accepts (what git ignores is left out where there is git)."""
    if has_git(root):
        paths = git(root, "ls-files", "-co", "--exclude-standard").splitlines()
    else:
        paths = [p.relative_to(root).as_posix() for p in root.rglob("*")
                 if not SKIP & set(p.relative_to(root).parts)]
    for path in paths:
        if keep(path) and (root / path).is_file() and not (root / path).is_symlink():
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, to / path)


def export(root: Path, commit: str, to: Path, keep=needed) -> None:
    """The same from a commit: the clean reference."""
    data = subprocess.run(["git", "-C", str(root), "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.isfile() and keep(member.name):
                (to / member.name).parent.mkdir(parents=True, exist_ok=True)
                (to / member.name).write_bytes(archive.extractfile(member).read())


# the comment above the class or function of csrc/ that runs compiled kernels
SIDE = "# far side of the .cu files"


def asking(text: str, exercise: Exercise) -> str:
    """A reference file in which the exercise is blank and its function, or method, is decorated to ask."""
    blank = graft(text, exercise.id, exercise.stub)
    scopes = [node.body for node in ast.walk(ast.parse(blank))
              if isinstance(node, (ast.Module, ast.ClassDef))]
    outer = [n for scope in scopes for n in scope if isinstance(n, ast.FunctionDef)
             and n.lineno <= exercise.line <= n.end_lineno]
    if not outer:
        raise ValueError(f"exercise {exercise.id} is not inside a function of {exercise.path}")
    return decorated(blank, outer[0].lineno, outer[0].col_offset, exercise.changes)


def decorated(text: str, line: int, indent: int, changes: tuple) -> str:
    """`text` with one decorator more, directly above the `def` or `class` in `line`."""
    lines = lines_of(text)
    return "".join([*lines[: line - 1], " " * indent + f"@__import__('learn_judge').far(*{changes!r})\n",
                    *lines[line - 1 :]])


def judge_tree(base: Path, exercise: Exercise, to: Path) -> None:
    """Copy `base` for the judge of one exercise."""
    shutil.copytree(base, to)
    file = to / exercise.path
    text = text_of(file)
    if exercise.comment == "#":
        file.write_text(asking(text, exercise), encoding="utf-8")
        forget(file)
        return
    file.write_text(graft(text, exercise.id, exercise.stub), encoding="utf-8")
    for file in (to / exercise.chapter).glob("*.py"):
        text = text_of(file)
        if SIDE in text:
            line = text[: text.index(SIDE)].count("\n") + 2
            file.write_text(decorated(text, line, 0, ()), encoding="utf-8")
            forget(file)


def body_tree(base: Path, to: Path) -> None:
    """Copy the chapters of `base`, without its tests."""
    to.mkdir()
    for chapter in chapters(base):
        shutil.copytree(base / chapter, to / chapter)


def forget(file: Path) -> None:
    """Delete what Python has compiled of a file that was changed (its size and second may be the same)."""
    for old in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        old.unlink()
