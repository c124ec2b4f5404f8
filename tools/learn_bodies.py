"""Exercise bodies: finding them in the chapters, and replacing one (`graft`, on which the whole tool rests).

Adds to the chapters: two comment lines around the body of a key function make it an exercise,

    # EXERCISE 2.2 scaled dot-product attention
    ...the body, 2 to 40 lines...
    # END EXERCISE 2.2

(`//` in .cu and .cpp files, ids `c.1`, `c.2` in csrc/). NN_x/EXERCISES.md says the rest: the order, the task,
a worked example, minutes, points and three hints. GitHub, the tool and the tests read the same text.
"""

import hashlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

MARK = re.compile(r"^([ \t]*)(#|//) EXERCISE (\S+) (\S.*?)[ \t]*$")
END = re.compile(r"^[ \t]*(?:#|//) END EXERCISE (\S+)[ \t]*$")
HEADING = re.compile(r"^## (\S+) (\S.*?)[ \t]*$", re.M)
FACTS = re.compile(r"^`([^`]+)` · `([^`]+)` · (\d+) min · (\d+) points?[ \t]*$", re.M)
CHANGES = re.compile(r"^Changes in place: ((?:`[^`\n]+`,?\s+)+)", re.M)
HINT = re.compile(r"<details>\s*<summary>(Hint \d: [^<]+)</summary>\n(.*?)\n</details>", re.S)
CODE = {".py", ".cu", ".cuh", ".cpp", ".h"}


@dataclass(frozen=True)
class Exercise:
    """One exercise: where its body is (path, 1-based line of the marker) and what EXERCISES.md says of it."""

    id: str
    title: str
    path: str
    line: int
    body: str
    indent: str = ""
    comment: str = "#"
    function: str = ""
    minutes: int = 0
    points: int = 0
    hints: tuple = ()
    # what a call may change in place: arguments, `self.attributes`, `gradients` or `random`
    changes: tuple = ()

    @property
    def chapter(self) -> str:
        """The folder the exercise is in: `02_transformer`, `csrc`."""
        return self.path.split("/")[0]

    @property
    def stub(self) -> str:
        """What stands in the file while the exercise is blank."""
        says = f"exercise {self.id}: {self.title}"
        if self.comment == "//":   # a kernel still compiles, and stops where the blank is reached
            return f"{self.indent}__trap();  // {says}\n"
        return f"{self.indent}raise NotImplementedError({json.dumps(says, ensure_ascii=False)})\n"


def is_stub(body: str) -> bool:
    """True while the line that `start` wrote is still there."""
    return re.search(r'^\s*(raise NotImplementedError\("|__trap\(\);  // )exercise ', body, re.M) is not None


def lines_of(text: str) -> list[str]:
    """The lines of a text with their ends, as Python and editors count them.

    str.splitlines also cuts at a form feed or U+2028, which may stand inside a string.
    """
    return list(io.StringIO(text))


def digest(body: str) -> str:
    """A short hash of a body that white space at the end of lines does not change."""
    lines = [line.rstrip() for line in lines_of(body.strip("\n"))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def text_of(file: Path) -> str:
    """What a person's editor or Excel has saved, a byte order mark aside. ValueError: it is not UTF-8."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if "\0" in text:   # UTF-16 of plain letters is UTF-8 too, with a zero between them
            raise ValueError("zeros")
        return text
    except ValueError:
        raise ValueError(f"{file} is not text in UTF-8: save it again with that encoding (Excel: the kind "
                         "'CSV UTF-8')") from None


def moved(body: str, old: str, new: str) -> str:
    """A body whose marker lines stand at the indent `old`, for a file in which they stand at `new`.

    So the answer of somebody whose editor has turned the whole file's spaces into tabs, or four into two,
    fits into the reference: Python asks only that the lines of one block begin alike.
    """
    if old == new:
        return body
    return "".join(new + line.removeprefix(old) if old and line.startswith(old) else line
                   for line in lines_of(body))


def find(text: str, path: str = "") -> list[Exercise]:
    """All exercises of one file, in order. ValueError: a marker is missing, doubled or crossed."""
    found, mark, start = [], None, 0
    lines = lines_of(text)
    for number, line in enumerate(lines, 1):
        begin, end = MARK.match(line.rstrip("\n")), END.match(line.rstrip("\n"))
        if end is None and begin is None:
            continue
        if begin:
            if mark:
                raise ValueError(f"{path}:{number}: exercise {mark[3]} has no END line: put one before this "
                                 "line")
            if begin[3] in [e.id for e in found]:
                raise ValueError(f"{path}:{number}: exercise {begin[3]} begins twice: keep one of the two "
                                 "markers")
            mark, start = begin, number
        else:
            if not mark or mark[3] != end[1]:
                raise ValueError(f"{path}:{number}: END EXERCISE {end[1]} has no EXERCISE line: put it back")
            body = "".join(lines[start : number - 1])
            found.append(Exercise(mark[3], mark[4], path, start, body, mark[1], mark[2]))
            mark = None
    if mark:
        raise ValueError(f"{path}: exercise {mark[3]} has no END line: put back '{mark[2]} END EXERCISE "
                         f"{mark[3]}'")
    return found


def graft(text: str, id: str, body: str) -> str:
    """`text` with the body of exercise `id` replaced. ValueError: no such exercise.

    graft("# EXERCISE 1.1 add\\nold\\n# END EXERCISE 1.1\\n", "1.1", "new") puts new in place of old.
    """
    for exercise in find(text):
        if exercise.id == id:
            lines = lines_of(text)
            height = len(lines_of(exercise.body))
            body = body if body.endswith("\n") or not body else body + "\n"
            return "".join(lines[: exercise.line]) + body + "".join(lines[exercise.line + height :])
    raise ValueError(f"exercise {id} is not in this file: its two marker lines must both be there")


def blanked(text: str) -> str:
    """`text` with every exercise blank: what is left is not the learner's to change."""
    for exercise in find(text):
        text = graft(text, exercise.id, exercise.stub)
    return text


def by_chapter(name: str) -> str:
    """Sort key of a chapter folder: csrc comes after 04, of which it is a part."""
    return "04_zz" if name == "csrc" else name


def chapters(root: Path) -> list[str]:
    """The chapter folders in order."""
    names = [p.name for p in [*root.glob("0[0-9]_*"), root / "csrc"] if p.is_dir()]
    return sorted(names, key=by_chapter)


def ranges(ids: list[str]) -> str:
    """Many ids in few words: "1.1 to 1.14, 2.1 to 2.20"."""
    chapters: dict[str, list[str]] = {}
    for id in ids:
        chapters.setdefault(id.split(".")[0], []).append(id)
    return ", ".join(" to ".join(dict.fromkeys((inside[0], inside[-1]))) for inside in chapters.values())


def described(text: str) -> list[dict]:
    """The entries of one EXERCISES.md, in order: id, title, path, function, minutes, points, hints, text."""
    heads = list(HEADING.finditer(text))
    entries = []
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        section = text[head.end() : following.start() if following else len(text)]
        facts = FACTS.search(section)
        if not facts:
            raise ValueError(f"EXERCISES.md, {head[1]}: no line '`file` · `function` · 40 min · 5 points'")
        hints = tuple((title, hint.strip()) for title, hint in HINT.findall(section))
        changes = CHANGES.search(section)
        entries.append({"id": head[1], "title": head[2], "path": facts[1], "function": facts[2],
                        "minutes": int(facts[3]), "points": int(facts[4]), "hints": hints,
                        "changes": tuple(re.findall(r"`([^`]+)`", changes[1])) if changes else (),
                        "text": section})
    return entries


def course(root: Path) -> dict[str, Exercise]:
    """Every exercise under `root` by id, in course order; what EXERCISES.md does not list comes last."""
    exercises = {}
    for chapter in chapters(root):
        here = {}
        for file in sorted((root / chapter).rglob("*")):
            if file.suffix in CODE and "__pycache__" not in file.parts:
                path = file.relative_to(root).as_posix()
                for exercise in find(text_of(file), path):
                    here[exercise.id] = exercise
        page = root / chapter / "EXERCISES.md"
        told = {e["id"]: e for e in described(page.read_text(encoding="utf-8"))} if page.exists() else {}
        for id in [*(i for i in told if i in here), *(i for i in here if i not in told)]:
            facts = {k: told[id][k] for k in ("function", "minutes", "points", "hints",
                                              "changes")} if id in told else {}
            exercises[id] = Exercise(**{**vars(here[id]), **facts})
    return exercises


def audit(root: Path) -> list[str]:
    """Where markers, EXERCISES.md and tests disagree: a sentence each (an empty list when all agree)."""
    wrong, exercises = [], course(root)
    marked = set()
    for file in sorted((root / "tests").glob("test_ex*.py")):
        marked |= set(re.findall(r"mark\.ex\(\s*[\"']([^\"']+)[\"']\s*\)", file.read_text(encoding="utf-8")))
    for chapter in chapters(root):
        page = root / chapter / "EXERCISES.md"
        entries = described(page.read_text(encoding="utf-8")) if page.exists() else []
        ids = [e["id"] for e in entries]
        prefix = "c" if chapter == "csrc" else str(int(chapter[:2]))
        if ids != [f"{prefix}.{n}" for n in range(1, len(ids) + 1)]:
            wrong.append(f"{chapter}/EXERCISES.md: the ids must run {prefix}.1, {prefix}.2, ... not "
                         f"{', '.join(ids)}")
        for entry in entries:
            there, id = exercises.get(entry["id"]), entry["id"]
            if there is None:
                wrong.append(f"{id}: in EXERCISES.md but no code is marked with it")
                continue
            if (there.title, there.path) != (entry["title"], entry["path"]):
                wrong.append(f"{id}: EXERCISES.md says '{entry['title']}' in {entry['path']}, "
                             f"the code '{there.title}' in {there.path}")
            name = re.escape(entry["function"].split(".")[-1])
            if not re.search(rf"\bclass {name}\b|\b{name}\s*\(",
                             (root / there.path).read_text(encoding="utf-8")):
                wrong.append(f"{id}: {there.path} has no `{entry['function']}`")
            if [title[:6] for title, _ in entry["hints"]] != ["Hint 1", "Hint 2", "Hint 3"]:
                wrong.append(f"{id}: EXERCISES.md must give Hint 1, Hint 2 and Hint 3")
            if "**Worked example.**" not in entry["text"]:
                wrong.append(f"{id}: EXERCISES.md gives no **Worked example.**")
            if not 2 <= (height := len(lines_of(there.body))) <= 40 and not is_stub(there.body):
                wrong.append(f"{id}: its body has {height} lines, not 2 to 40")
        wrong += [f"{e.id}: marked in {e.path} but not in {chapter}/EXERCISES.md" for e in exercises.values()
                  if e.chapter == chapter and e.id not in ids]
    wrong += [f'{id}: no test is marked @pytest.mark.ex("{id}")' for id in exercises if id not in marked]
    wrong += [f"{id}: tests are marked with it but there is no such exercise"
              for id in sorted(marked - set(exercises))]
    return wrong


def write(file: Path, text: str) -> None:
    """Write a file whole or not at all, keeping its permissions."""
    new = file.with_name(file.name + ".tmp")
    new.write_text(text, encoding="utf-8")
    if file.exists():
        os.chmod(new, file.stat().st_mode)
    os.replace(new, file)
