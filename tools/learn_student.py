"""The learner's side of a tree: which bodies are blank, given, written or passed, and what to call them.

Adds to learn_bodies.py: progress is the hash of each body when it passed, so a later edit un-ticks it. The
reference is the commit that the branch `mine` began from; `start` writes it into its first commit message.
"""

import difflib
import errno
import json
import os
import shutil
import sys
import textwrap
from pathlib import Path

from learn_bodies import Exercise, course, digest, find, is_stub, ranges, write
from learn_trees import git, has_git

ROOT = Path(__file__).resolve().parent.parent
BRANCH, TRAILER = "mine", "Reference-commit"
COLOURS = {"green": 32, "red": 31, "yellow": 33, "dim": 2, "bold": 1}


def paint(text: str, colour: str) -> str:
    """`text` in colour when a person is looking, plain in a pipe, with NO_COLOR or on a dumb terminal."""
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{COLOURS[colour]}m{text}\033[0m"


def command(words: str) -> str:
    """How to call this tool from where the reader stands."""
    return f"python {os.path.relpath(ROOT / 'learn.py')} {words}"


def columns() -> int:
    """How wide the reader's terminal is; 80 where that is not known."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def folded(text: str, first: str = "", rest: str = "") -> str:
    """`text` folded to the terminal, its first line beginning with `first`, all others with `rest`."""
    lines = []
    for line in text.splitlines():
        lines += textwrap.wrap(line, columns() - 1, initial_indent=rest if lines else first,
                               subsequent_indent=rest,
                               break_long_words=False, break_on_hyphens=False) or [""]
    return "\n".join(lines)


def way_out(problem: Exception) -> str:
    """What helps where nothing may be written: a mounted course, a folder of somebody else."""
    locked = getattr(problem, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM)
    return ": copy the course to where you may write, and work there" if locked else ""


def duration(minutes: int) -> str:
    """45 min; 3 h."""
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.0f} h"


def counted(exercises: list[Exercise]) -> str:
    """1 exercise; 7 exercises."""
    return f"{len(exercises)} exercise{'' if len(exercises) == 1 else 's'}"


def place(exercise: Exercise) -> str:
    """Where an exercise is, as the reader would open it: 01_tokenizer/bpe.py:40."""
    return f"{os.path.relpath(ROOT / exercise.path)}:{exercise.line}"


def page(exercise: Exercise) -> str:
    """Where its task is told."""
    return f"{os.path.relpath(ROOT / exercise.chapter)}/EXERCISES.md"


class Student:
    """The learner's tree: its exercises, the reference they are compared with, and what has passed."""

    def __init__(self):
        self.git = has_git(ROOT)
        self.exercises = course(ROOT)
        if not self.exercises:
            raise ValueError("there are no exercises here: run this in a full copy of the repository")
        self.notes = ROOT / ".learn/progress.json"
        self.progress = json.loads(self.notes.read_text()) if self.notes.exists() else {}
        self.commit = git_reference(ROOT, "HEAD") if self.git else ""
        paper = ROOT / "release.json"
        self.release = json.loads(paper.read_text(encoding="utf-8")) if paper.exists() else {}
        self.given = {}  # id: the reference's body, where it is known
        if self.commit:
            for path in sorted({e.path for e in self.exercises.values()}):
                try:
                    self.given.update({e.id: e.body for e in find(git(ROOT, "show", f"{self.commit}:{path}")
                                                                  + "\n")})
                except ValueError:
                    pass  # the file came later than the reference
        else:  # a student tree (release.json names what was blanked), or nothing is started yet
            mine = self.release.get("exercises", [id for id, e in self.exercises.items() if is_stub(e.body)])
            self.given = {id: e.body for id, e in self.exercises.items() if id not in mine}

    def pick(self, name: str) -> Exercise:
        """The exercise with this id; ValueError with what there is."""
        if name not in self.exercises:
            near = difflib.get_close_matches(name, self.exercises, cutoff=0.7)
            same = [id for id in self.exercises if id.split(".")[0] == name.split(".")[0]]
            advice = (f"did you mean {' or '.join(near)}?" if near
                      else f"the ids are {ranges(same or list(self.exercises))}")
            raise ValueError(f"there is no exercise {name}: {advice}")
        return self.exercises[name]

    def state(self, id: str) -> str:
        """blank, given (the reference's own body), passed (since its last change) or written."""
        body = self.exercises[id].body
        if is_stub(body):
            return "blank"
        if id in self.given and digest(self.given[id]) == digest(body):
            return "given"
        return "passed" if self.progress.get("passed", {}).get(id) == digest(body) else "written"

    def elsewhere(self) -> bool:
        """Is the learner's work on the branch `mine`, and another one checked out?"""
        return self.git and not self.commit and bool(git(ROOT, "branch", "--list", BRANCH))

    def started(self, chapter: str) -> bool:
        """Has the learner taken anything of this chapter into their own hands?"""
        return any(self.state(e.id) != "given" for e in self.exercises.values() if e.chapter == chapter)

    def open(self) -> list[Exercise]:
        """What is still to do in the started chapters, in order."""
        return [e for e in self.exercises.values() if self.state(e.id) in ("blank", "written")]

    def next(self) -> Exercise | None:
        """What to do next: the first that is open in the chapter worked in last, else the first of all."""
        todo, here = self.open(), self.progress.get("here", {}).get("chapter")
        return next((e for e in todo if e.chapter == here), todo[0] if todo else None)

    def remember(self, key: str, id: str, value) -> None:
        """Keep progress in .learn/progress.json (None forgets)."""
        self.progress.setdefault(key, {})[id] = value
        if value is None:
            del self.progress[key][id]
        self.notes.parent.mkdir(exist_ok=True)
        write(self.notes, json.dumps(self.progress, indent=1))


def git_reference(root: Path, branch: str) -> str:
    """The commit that a learner's branch began from, as `start` noted it ("" if nothing is started)."""
    return git(root, "log", "-1", branch, "--grep", f"^{TRAILER}: ",
               f"--format=%(trailers:key={TRAILER},valueonly)").strip()
