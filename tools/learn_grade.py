"""`python learn.py grade`: points for hand-ins, which may be broken or hostile.

Adds to learn_run.py: the walls of learn_guard.py around each body, limits of time for an exercise and for a
hand-in, and points. A body computes in a process of its own; the tests, their expected values and the verdict
are in another, so a body can only earn points by returning what the tests want. What this does not protect
from is in TEACHING.md.
"""

import math
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import learn_handin
from learn_bodies import Exercise, is_stub, ranges
from learn_guard import available, new_user
from learn_marks import Lateness, entry, roster_of, write_marks
from learn_run import Bench
from learn_trees import copy_tree, export, git, has_git

PLAIN = ("passed", "wrong")  # outcomes that need no word beside their mark


@dataclass
class Result:
    """What one exercise of one hand-in deserves, and why; the score is None if it could not be judged."""

    exercise: Exercise
    score: float | None = 0.0
    note: str = ""
    body: str = ""
    shift: int = 0    # how much further down the body stands in the hand-in than in the reference
    lines: list = field(default_factory=list)

    def place(self, report: dict) -> str:
        """Where in the hand-in an error came from, if it came from the body."""
        line, e = report.get("line", 0), self.exercise
        return f" ({e.path}:{line + self.shift})" if line > e.line else ""

    def cannot(self, why: str) -> "Result":
        """Not judged, which is not the student's doing."""
        self.score, self.note = None, f"not judged: {why}"
        return self


@dataclass
class Limits:
    """What a hand-in may use."""

    seconds: float = 20    # of one test
    memory: int = 2000     # MB
    minutes: float = 30    # of one hand-in


class Grader:
    """Grades hand-ins against one reference; use `with Grader(...) as grader`."""

    def __init__(self, root: Path, base: Path, chosen, limits: Limits):
        self.base, self.limits, self.has = base, limits, available()
        self.bench, self.controls = Bench(root, base), {}
        self.chosen = [e for e in self.bench.exercises.values() if chosen(e)]
        blank = [e.id for e in self.chosen if is_stub(e.body)]
        if blank:
            raise ValueError(f"the reference is blank ({', '.join(blank)}): grade from the branch main")
        if not self.chosen:
            raise ValueError("there are no such exercises: leave --chapters and --only out, or name others")

    def __enter__(self):
        self.bench.__enter__()
        self.bench.warm([e.id for e in self.chosen])
        return self

    def __exit__(self, *problem):
        self.bench.__exit__()

    def run(self, e: Exercise, body: str, total: float = 1200):
        """The verdict on a body behind the walls; once more if the tests' own process died."""
        for _ in range(2):
            guard = {"has": self.has, "user": new_user()}
            verdict = self.bench.run(e.id, body, seconds=self.limits.seconds, memory=self.limits.memory,
                                     guard=guard,
                                     total=total)
            if verdict.end != "crash":
                break
        return verdict

    def control(self, e: Exercise) -> str:
        """Why the reference itself does not pass on this machine ("" if it does)."""
        if e.id not in self.controls:
            self.bench.run(e.id, e.body)  # outside the walls, so that what it compiles is there for everybody
            verdict = self.run(e, e.body)
            bad = [f"{r['name']}: {r['message']}" for r in verdict.reports if r["outcome"] != "passed"]
            why = "" if verdict.passed else (bad or [verdict.log[-300:]
                                                     or verdict.end])[0].splitlines()[0][:300]
            self.controls[e.id] = why
        return self.controls[e.id]

    def grade(self, submission: Path, say=lambda result: None) -> list[Result]:
        """Every chosen exercise of one hand-in; `say` hears of each."""
        try:
            handed = learn_handin.read(submission, {e.path for e in self.chosen})
        except learn_handin.UNREADABLE as problem:
            handed = f"it could not be read: {problem}"
        results, end = [], time.monotonic() + 60 * self.limits.minutes
        for e in self.chosen:
            result = Result(e)
            if isinstance(handed, str):
                result.cannot(handed)
            elif e.path not in handed:
                result.note = f"{e.path} was not handed in"
            else:
                self.judge(result, handed[e.path], end)
            results.append(result)
            say(result)
        return results

    def judge(self, result: Result, text: str, end: float) -> None:
        """Run one body and give it points: a share for each test that passes under every seed."""
        e = result.exercise
        try:
            result.body = learn_handin.body_of(text, e)
            result.shift = learn_handin.line_of(text, e) - e.line
        except ValueError as problem:
            result.note = str(problem)
            return
        if is_stub(result.body):
            result.note = "left blank"
        elif why := self.control(e):
            result.cannot(f"the reference itself fails on this machine: {why}")
        elif (left := end - time.monotonic()) <= 0:
            result.cannot(f"the hand-in has used up its {self.limits.minutes:g} minutes")
        else:
            verdict = self.run(e, result.body, left)
            if why := not_python(verdict):
                said = "".join(c for c in why["message"] if c.isprintable())[:80]
                result.note = f"not Python: {said}{result.place(why)}"
            else:
                self.points(result, verdict, left < 1200)

    def points(self, result: Result, verdict, hurried: bool) -> None:
        """The points of a verdict, and what its tests said."""
        for name, outcome in verdict.outcomes.items():
            report = next((r for r in verdict.reports if r["name"] == name and r["outcome"] == outcome),
                          {"title": name, "message": "", "error": ""})
            said = report["message"].split("\nassert ")[0].splitlines()[:8]
            if outcome == "error":
                said = [": ".join([report["error"], *said[:1]]) + result.place(report), *said[1:]]
            mark, how = "✓" if outcome == "passed" else "✗", "" if outcome in PLAIN else f" ({outcome})"
            result.lines.append(f"{mark} {report['title']}{how}")
            result.lines += [f"    {line}" for line in said if outcome != "passed"]
        if verdict.end == "late" and hurried:
            result.cannot(f"the hand-in has used up its {self.limits.minutes:g} minutes")
        elif verdict.end == "late":
            result.note = "no points: its time was up"
        elif verdict.end != "finished" or not verdict.names:
            said = (verdict.broken or verdict.log)[-200:].strip()
            result.cannot(f"the process of the tests ended early, twice ({said})")
        else:
            passed = sum(outcome == "passed" for outcome in verdict.outcomes.values())
            result.score = math.floor(result.exercise.points * passed / len(verdict.outcomes) * 10
                                      + 1e-9) / 10


def not_python(verdict) -> dict | None:
    """The report of a body that Python cannot even read: the same syntax error, of its own, in every test."""
    reports, kinds = verdict.reports, ("SyntaxError", "IndentationError", "TabError")
    same = len({(r["outcome"], r.get("error"), r["line"]) for r in reports}) == 1
    whole = verdict.end == "finished" and set(verdict.outcomes.values()) == {"error"}
    return reports[0] if whole and same and reports[0]["error"] in kinds and reports[0]["line"] else None


def protections(has: list[str], limits: Limits) -> str:
    """What stood between the hand-ins and this machine, in a sentence."""
    calls = "no network, no new programs but a compiler, no signals to others (seccomp)"
    user = "as a user who owns nothing" if "user" in has else "as the user who grades"
    return (f"Limits: {limits.seconds:g} s a test, {limits.minutes:g} min a hand-in, {limits.memory} MB; "
            + (calls if "calls" in has else "network and programs NOT closed: no seccomp here") + "; "
            + ("other files closed (Landlock)" if "files" in has else "files NOT closed: no Landlock here")
            + f"; {user}.")


def wanted(asked, known: list[str]):
    """The exercises that --chapters and --only name, as a condition."""
    from learn_release import number, span

    chapters = span(asked.chapters) if asked.chapters else None
    only = re.split(r"[,\s]+", asked.only) if asked.only else None
    for id in only or ():
        if id not in known:
            raise ValueError(f"there is no exercise {id}: the ids are {ranges(known)}")
    return lambda e: (not chapters or number(e.chapter) in chapters) and (not only or e.id in only)


def command(root: Path, asked) -> int:
    """`python learn.py grade SUBMISSION OUT`; the exit status says whether all could be judged."""
    from learn_bodies import course

    submission = Path(asked.submission).resolve()
    if not submission.exists():
        raise ValueError(f"there is no {submission}: name the folder or zip that was handed in")
    several = {submission.name.removesuffix(".zip"): submission}
    if asked.many:
        several = learn_handin.hand_ins(submission)
    if not several:
        raise ValueError(f"{submission} has no folders or zip files: leave --many out if it is one hand-in")
    lateness, limits = Lateness.read(asked), Limits(asked.seconds, asked.memory, asked.minutes)
    if asked.roster and not asked.many:
        raise ValueError("--roster is for the tables that --many writes: add --many, or leave it out")
    roster, there = roster_of(asked), {name.removesuffix(".zip") for name in several}
    for says, names in (("late", lateness.days), ("on the roster", roster)):
        unknown = [name for name in names if name.removesuffix(".zip") not in there]
        if asked.many and unknown:
            print(f" {says}, but no hand-in has this name: {', '.join(unknown)}")
    unlisted = [name for name in several if roster and not entry(roster, name, None)]
    if unlisted:
        print(f" handed in, but not on the roster: {', '.join(unlisted)}")

    for sentence in learn_handin.second_tries(several) if asked.many else ():
        print(f" {sentence}")

    def say(result: Result) -> None:
        score = "–" if result.score is None else f"{result.score:g}"
        said.append(result.note)
        same = len(result.note) > 80 and said[-2:-1] == [result.note]
        note = f"   {'not judged: the same' if same else result.note}" if result.note else ""
        print(f"   {score}/{result.exercise.points}  {result.exercise.id} {result.exercise.title}{note}",
              flush=True)

    with tempfile.TemporaryDirectory(prefix="grade-") as place:
        Path(place).chmod(0o711)   # a body runs as another user, who must reach its own tree
        base = Path(place) / "base"
        export(root, git(root, "rev-parse", "HEAD"), base) if has_git(root) else copy_tree(root, base)
        base.chmod(0o700)
        rows, said = {}, []
        with Grader(root, base, wanted(asked, list(course(base))), limits) as grader:
            for n, (name, each) in enumerate(several.items(), 1):
                print(f" {name}" + (f"   ({n} of {len(several)})" if asked.many else ""), flush=True)
                said.clear()
                rows[name] = grader.grade(each, say)
                print(f" {lateness.summary(name, rows[name])}", flush=True)
            about = protections(grader.has, limits)
    written = write_marks(Path(asked.out), rows, about, lateness, roster, asked)
    missing = sum(r.score is None for results in rows.values() for r in results)
    print(f" {about}\n Written: {', '.join(map(str, written))}")
    if missing:
        print(f" {missing} answers could not be judged: their points are open, not 0 (the page says why)")
    return 1 if missing else 0
