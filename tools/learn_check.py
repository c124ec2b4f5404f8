"""Checking what the learner wrote: run an exercise's tests on their body and say what the tests say.

Adds to learn_run.py: the words. A failure is shown as the test's own sentence, the line of the learner's file
where an error came from, and what the body printed.
"""

import contextlib
import errno
import os
import re
import tempfile
import time
from pathlib import Path

from learn_bodies import Exercise, blanked, digest, is_stub, moved, text_of
from learn_run import Bench, line_in_file
from learn_student import ROOT, Student, command, folded, page, paint, place
from learn_trees import copy_tree, export

# What may differ between two reports of one fault in a kernel: which element, which threads met there.
ELEMENT_OR_THREAD = re.compile(r"\[\d+\]|\(\d+,\d+,\d+\)")


def explain(report: dict, text: str, exercise: Exercise, path: str) -> list[str]:
    """The lines below a failed test: what it says, where in the learner's file, and what the body printed."""
    outcome, message = report["outcome"], report["message"].strip()
    if outcome == "stopped":
        return ["stopped: it ran too long. Does a loop never end?"]
    if outcome == "blank" and f"exercise {exercise.id}:" not in message:
        other = message[message.index("exercise ") :].split('"')[0].splitlines()[0]
        return [f"it goes through {other}, which is still blank: write that one first"]
    said = [line for line in message.split("\nassert ")[0].splitlines() if line.strip()]
    line = line_in_file(text, exercise, report["line"]) if report["line"] else 0
    if outcome == "error" or not said:
        where = f"   ({path}:{line})" if line else ""
        said = [f"{report['error']}{': ' if said else ''}{said[0] if said else ''}{where}", *said[1:]]
    elif line:                                            # the test put an error of the body into words
        said = [*said[:8], f"at {path}:{line}"]
    if f"[Errno {errno.EFBIG}]" in message:
        said = [*said[:8], "too much was printed or written for one test: take the prints out"]
    prints = [f"printed: {line}" for line in report["prints"].splitlines()[:8]]
    return said[:9] + prints


def indented(line: str) -> str:
    """A line of a message below its test, folded to the terminal's width."""
    return folded(line, " " * 5, " " * 7)


def check_one(student: Student, exercise: Exercise, bench: Bench, seconds: float) -> bool:
    """Run one exercise's tests on the learner's body and tell what they say."""
    path = os.path.relpath(ROOT / exercise.path)
    print(paint(f" {exercise.id} {exercise.title}", "bold") + f"   {place(exercise)}")
    if is_stub(exercise.body):
        print(f" · still blank: the task is in {page(exercise)}")
        return False
    text = text_of(ROOT / exercise.path)
    try:
        if exercise.comment == "#":
            compile(text, path, "exec")
    except SyntaxError as problem:
        print(folded(f"{paint(' ✗', 'red')} not Python yet: {problem.msg}   ({path}:{problem.lineno})", "",
                     "   "))
        print(indented((problem.text or "").strip()))
        return False
    reference = bench.exercises[exercise.id]
    body = moved(exercise.body, exercise.indent, reference.indent)
    verdict = bench.run(exercise.id, body, seconds=seconds)
    if verdict.broken or verdict.end not in ("finished", "late") or not verdict.names:
        why = (verdict.broken or verdict.log).strip().splitlines()[-6:]
        why = why or [f"the tests ended early: {verdict.end}"]
        print(paint(" ✗", "red") + " the tests could not run\n" + "\n".join(map(indented, why)))
    told = set()
    for name, outcome in verdict.outcomes.items():
        report = next((r for r in verdict.reports if r["name"] == name and r["outcome"] == outcome), None)
        title = report["title"] if report else name
        mark = {"passed": paint("✓", "green"), "skipped": "-"}.get(outcome, paint("✗", "red"))
        print(f" {mark} {title}")
        if outcome == "lost":
            print("     not run: the process ended before it")
        elif outcome != "passed":
            shown = [report["message"]] if outcome == "skipped" else explain(report, text, reference, path)
            cause = ELEMENT_OR_THREAD.sub("", " ".join(shown))
            shown = ["the same error" if outcome == "error" else "the same"] if cause in told else shown
            told.add(cause)
            print("\n".join(indented(line) for line in shown))
    clean = text_of(bench.base / exercise.path)
    theirs = student.release.get("files", {}).get(exercise.path, digest(blanked(clean)))
    if digest(blanked(text)) != theirs:
        print(folded(f"note: {path} is changed outside the EXERCISE lines; only what is between them "
                     "is tested", " ", "   "))
    if verdict.passed and student.state(exercise.id) != "given":   # the reference's own is not theirs
        student.remember("passed", exercise.id, digest(exercise.body))
    return verdict.passed


@contextlib.contextmanager
def bench_of(student: Student):
    """A bench on the learner's reference commit, or on this very tree where there is none."""
    with tempfile.TemporaryDirectory(prefix="learn-") as scratch:
        base = Path(scratch) / "base"
        export(ROOT, student.commit, base) if student.commit else copy_tree(ROOT, base)
        with Bench(ROOT, base, ROOT / "out/kernels") as bench:
            yield bench


def check(student: Student, wanted: list[Exercise], bench: Bench, seconds: float) -> bool:
    """Check these exercises one after the other; True if all pass."""
    good = True
    for exercise in wanted:
        if exercise.id not in bench.exercises:
            raise ValueError(f"exercise {exercise.id} is newer than your branch: keep the branch "
                             "under another name (git branch -m mine old), then start again on main")
        student.remember("here", "chapter", exercise.chapter)
        passed = check_one(student, exercise, bench, seconds)
        good &= passed
        if passed and student.state(exercise.id) == "given":
            begin = f"reset {exercise.id}" if student.commit else f"start {exercise.id.split('.')[0]}"
            print(" this is the reference's own body, word for word"
                  + ("" if student.release or student.elsewhere() else
                     ". If you wrote it, add a comment of\n"
                     f" your own and it counts as yours; to begin anew: {command(begin)}"))
        elif not passed:
            seen = min(student.progress.get("hints", {}).get(exercise.id, 0) + 1, 3)
            print(f" stuck?  {command('hint ' + exercise.id)}   ({seen} of 3)")
    return good


def watch(student: Student, id: str | None, seconds: float) -> None:
    """Check on every save: the exercise `id`, or the first open one, going on to the next when it passes."""
    with bench_of(student) as bench:
        while True:
            passed = False
            before = {p: (ROOT / p).stat().st_mtime_ns for p in {e.path for e in student.exercises.values()}}
            try:
                student = Student()
                wanted = [student.pick(id)] if id else [e for e in [student.next()] if e]
                if not wanted:
                    print(" nothing is open: every exercise you started passes")
                    return
                print(paint(f"--- {time.strftime('%H:%M:%S')} {'-' * 40}", "dim"))
                passed = check(student, wanted, bench, seconds)
            except ValueError as problem:
                print(f" {problem}")
            if passed and not id:
                continue
            print(paint(" waiting for you to save a file (Ctrl-C ends)", "dim"))
            while all((ROOT / p).exists() and (ROOT / p).stat().st_mtime_ns == t for p, t in before.items()):
                time.sleep(0.3)
