"""`python learn.py grade`: points for a hand-in, which may be broken or hostile.

Adds to learn_guard.py: only the bodies between the EXERCISE lines are taken, each alone into a clean
reference, so edited tests do not matter and one error cannot sink the rest. Writes results.json (Gradescope),
grades.csv and a page to read. What this does not protect from is in TEACHING.md.
"""

import csv
import html
import io
import json
import math
import os
import re
import secrets
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from learn_bodies import Exercise, is_stub, write
from learn_guard import LEVELS, available
from learn_run import Bench, copy_tree, export, git, has_git
from learn_screen import screen

PLAIN = ("passed", "wrong")  # outcomes that need no word beside their mark
MOST = 50 << 20  # bytes that an unpacked hand-in may have
PAGE = """<!doctype html><meta charset="utf-8"><title>Grades</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { border: 1px solid #999; padding: .2rem .6rem; text-align: left }
pre { background: #f4f4f4; color: #111; padding: .6rem; overflow-x: auto }
</style>"""


@dataclass
class Result:
    """What one exercise of one hand-in deserves, and why."""

    exercise: Exercise
    score: float = 0.0
    note: str = ""
    body: str = ""
    lines: list = field(default_factory=list)


def unpack(submission: Path, place: Path) -> Path:
    """The folder of a hand-in; a zip is unpacked into `place`. ValueError: neither, or too large."""
    if submission.is_dir():
        return submission
    if not zipfile.is_zipfile(submission):
        raise ValueError(f"{submission.name} is neither a folder nor a zip file")
    with zipfile.ZipFile(submission) as archive:
        members = archive.infolist()
        if len(members) > 5000 or sum(m.file_size for m in members) > MOST:
            raise ValueError(f"{submission.name} unpacks to more than 5,000 files or 50 MB")
        archive.extractall(place)
    return place


def handed_in(folder: Path, path: str) -> str | None:
    """The text of the file that was handed in for `path`: at that path, or anywhere under its name."""
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith((".", "__"))]
        found += [Path(top) / n for n in names if n == path.split("/")[-1]]
    files = [p for p in found if not p.is_symlink() and p.stat().st_size < 1 << 20]
    if not files:
        return None
    best = min(files, key=lambda p: (not p.as_posix().endswith("/" + path), len(p.parts), str(p)))
    return best.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")


def body_of(text: str, exercise: Exercise) -> str | None:
    """What stands between the marker lines of one exercise; None unless both are there once, in order."""
    sign, id = exercise.comment, re.escape(exercise.id)
    begins = list(re.finditer(rf"^[ \t]*{sign} EXERCISE {id}( .*)?\n", text, re.M))
    ends = list(re.finditer(rf"^[ \t]*{sign} END EXERCISE {id}[ \t]*$", text, re.M))
    once = len(begins) == len(ends) == 1 and begins[0].end() <= ends[0].start()
    return text[begins[0].end() : ends[0].start()] if once else None


class Grader:
    """Grades hand-ins against one reference; use `with Grader(...) as grader`."""

    def __init__(self, root: Path, base: Path, chosen, seconds: float, memory: int):
        self.base, self.seconds, self.memory, self.has = base, seconds, memory, available()
        self.bench, self.controls = Bench(root, base), {}
        self.chosen = [e for e in self.bench.exercises.values() if chosen is None or e.chapter in chosen]
        blank = [e.id for e in self.chosen if is_stub(e.body)]
        if blank or not self.chosen:
            raise ValueError(
                f"the reference is blank ({', '.join(blank)}): grade from the branch main"
                if blank
                else "these chapters have no exercises: leave --chapters out, or name others"
            )

    def __enter__(self):
        self.bench.__enter__()
        return self

    def __exit__(self, *problem):
        self.bench.__exit__()

    def control(self, e: Exercise):
        """(level, seeds, tests) under which the reference itself passes, at the tightest level it can."""
        if e.id not in self.controls:
            self.bench.run(e.id, e.body)  # outside the guard, so that what it compiles is there for everybody
            for level in LEVELS:
                for _ in range(2):
                    seeds = [0, secrets.randbelow(1 << 31), secrets.randbelow(1 << 31)]
                    verdict = self.run(e, e.body, level, seeds)
                    if verdict.passed:
                        self.controls[e.id] = (level, seeds, verdict.nodes)
                        return self.controls[e.id]
            failed = next(
                (f"{r['name']}: {r['message']}" for r in verdict.reports if r["outcome"] != "passed"),
                verdict.log[-300:],
            )
            raise ValueError(
                f"exercise {e.id} cannot be graded on this machine, its reference fails: {failed[:300]}"
            )
        return self.controls[e.id]

    def run(self, e: Exercise, body: str, level: str, seeds: list[int]):
        """The verdict on a body inside the guard."""
        guard = {"level": level, "memory_mb": self.memory, "has": self.has}
        return self.bench.run(e.id, body, seeds, seconds=self.seconds, guard=guard)

    def grade(self, folder: Path) -> list[Result]:
        """Every chosen exercise of one hand-in."""
        results = []
        for e in self.chosen:
            text = handed_in(folder, e.path)
            result = Result(e, body=(body_of(text, e) or "") if text else "")
            results.append(result)
            reference = (self.base / e.path).read_text(encoding="utf-8")
            if text is None:
                result.note = f"{e.path} was not handed in"
            elif body_of(text, e) is None:
                result.note = (
                    f"the two marker lines of exercise {e.id} are not in {e.path} exactly once: put them back"
                )
            elif is_stub(result.body):
                result.note = "left blank"
            elif refused := screen(reference, e, result.body):
                result.note = f"not run: {refused}"
            else:
                self.judge(result)
        return results

    def judge(self, result: Result) -> None:
        """Run one body and give it points: a share for each test that passes under every seed."""
        e = result.exercise
        level, seeds, nodes = self.control(e)
        verdict = self.run(e, result.body, level, seeds)
        outcomes = verdict.outcomes
        for name, outcome in outcomes.items():
            matching = [r for r in verdict.reports if r["name"] == name and r["outcome"] == outcome]
            report = matching[0] if matching else {"title": name, "message": "", "error": ""}
            said = report["message"].split("\nassert ")[0].splitlines()[:8]
            if outcome == "error":
                said = [": ".join([report["error"], *said[:1]]), *said[1:]]
            mark, how = ("✓" if outcome == "passed" else "✗"), ("" if outcome in PLAIN else f" ({outcome})")
            result.lines.append(f"{mark} {report['title']}{how}")
            result.lines += [f"    {line}" for line in said if outcome != "passed"]
        if verdict.replaced:
            result.note = f"no points: it replaced {', '.join(verdict.replaced)}, which decides the verdict"
        elif verdict.end != "finished":
            result.note = "no points: " + (
                "its time was up" if verdict.end == "late" else f"its process ended early: {verdict.end}"
            )
        elif sorted(verdict.nodes) != sorted(nodes):
            result.note = "no points: not every test came back" + (
                f": {verdict.broken.splitlines()[-1]}" if verdict.broken else ""
            )
        else:
            share = sum(outcome == "passed" for outcome in outcomes.values()) / len(outcomes)
            result.score = math.floor(e.points * share * 10 + 1e-9) / 10


def protections(has: list[str], seconds: float, memory: int) -> str:
    """What stood between the hand-in and this machine, in a sentence."""
    parts = [
        f"{seconds:g} s a test and {memory} MB",
        "no network, no new programs (seccomp)" if "calls" in has else "network only blocked in Python",
        "the reference's files closed (Landlock)" if "files" in has else "files NOT closed: no Landlock here",
    ]
    return "Limits: " + "; ".join(parts) + "."


def page(rows: dict[str, list[Result]], about: str) -> str:
    """The page to read: a table, then each answer with what its tests said."""
    ids = [r.exercise.id for r in next(iter(rows.values()))]
    parts = [
        PAGE,
        "<h1>Grades</h1><table><tr><th>hand-in<th>total" + "".join(f"<th>{html.escape(i)}" for i in ids),
    ]
    for name, results in rows.items():
        parts.append(
            f"<tr><td><a href='#{html.escape(name)}'>{html.escape(name)}</a><td>{total(results):g}"
            + "".join(f"<td>{r.score:g}" for r in results)
        )
    parts.append(f"</table><p>{html.escape(about)}")
    for name, results in rows.items():
        parts.append(
            f"<h2 id='{html.escape(name)}'>{html.escape(name)}: {total(results):g} of "
            f"{sum(r.exercise.points for r in results)} points</h2>"
        )
        for r in results:
            parts.append(
                "<h3>"
                + html.escape(f"{r.exercise.id} {r.exercise.title}: {r.score:g} of {r.exercise.points}")
                + "</h3>"
                f"<p>{html.escape(r.note)}<pre>{html.escape(chr(10).join(r.lines))}</pre>"
                f"<details><summary>the answer</summary><pre>{html.escape(r.body)}</pre></details>"
            )
    return "\n".join(parts)


def total(results: list[Result]) -> float:
    """The points of a hand-in."""
    return round(sum(r.score for r in results), 1)


def gradescope(results: list[Result], about: str) -> str:
    """results.json as Gradescope reads it."""
    tests = [
        {
            "name": f"{r.exercise.id} {r.exercise.title}",
            "score": r.score,
            "max_score": r.exercise.points,
            "status": "passed" if r.score == r.exercise.points else "failed",
            "output": "\n".join([r.note] * bool(r.note) + r.lines),
        }
        for r in results
    ]
    return json.dumps(
        {"score": total(results), "output": about, "output_format": "text", "tests": tests}, indent=1
    )


def command(root: Path, asked) -> int:
    """`python learn.py grade SUBMISSION OUT`; the exit status says whether grading worked, not how well."""
    from learn_release import number, span

    submission, out = Path(asked.submission).resolve(), Path(asked.out)
    if not submission.exists():
        raise ValueError(f"there is no {submission}: name the folder or zip that was handed in")
    several = (
        sorted(p for p in submission.iterdir() if p.is_dir() or p.suffix == ".zip")
        if asked.many
        else [submission]
    )
    with tempfile.TemporaryDirectory(prefix="grade-") as place:
        base = Path(place) / "base"
        export(root, git(root, "rev-parse", "HEAD"), base) if has_git(root) else copy_tree(root, base)
        names = {p.name for p in base.iterdir() if re.match(r"0\d_|csrc$", p.name)}
        chosen = {n for n in names if number(n) in span(asked.chapters)} if asked.chapters else None
        rows = {}
        with Grader(root, base, chosen, asked.seconds, asked.memory) as grader:
            about = protections(grader.has, asked.seconds, asked.memory)
            for each in several:
                unpacked = Path(place) / f"hand-in-{len(rows)}"
                try:
                    rows[each.name] = grader.grade(unpack(each, unpacked))
                except (zipfile.BadZipFile, RuntimeError, OSError) as problem:
                    rows[each.name] = [Result(e, note=f"could not be read: {problem}") for e in grader.chosen]
                except ValueError as problem:
                    if len(several) == 1 or "cannot be graded" in str(problem):
                        raise
                    rows[each.name] = [Result(e, note=str(problem)) for e in grader.chosen]
                results = rows[each.name]
                print(f" {each.name}: {total(results):g} of {sum(r.exercise.points for r in results)}")
                for r in results:
                    print(
                        f"   {r.score:g}/{r.exercise.points}  {r.exercise.id} {r.exercise.title}"
                        + (f"   {r.note}" if r.note else "")
                    )
    if not rows:
        raise ValueError(
            f"{submission} has no folders or zip files: leave --many out to grade it as one hand-in"
        )
    for name, results in rows.items():
        where = out / name if asked.many else out
        where.mkdir(parents=True, exist_ok=True)
        write(where / "results.json", gradescope(results, about))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["submission", "total", *(r.exercise.id for r in next(iter(rows.values())))])
    writer.writerows(
        [name, f"{total(results):g}", *(f"{r.score:g}" for r in results)] for name, results in rows.items()
    )
    write(out / "grades.csv", table.getvalue())
    write(out / "grades.html", page(rows, about))
    print(f" {about}\n Written: {out / 'grades.csv'}, {out / 'grades.html'}, results.json")
    return 0
