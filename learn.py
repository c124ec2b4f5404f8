"""The exercise tool: blank the key functions of a chapter, write them again, be told exactly what is wrong.

    python learn.py                 where you stand           python learn.py start 2       begin chapter 2
    python learn.py check [2.1]     test what you wrote       python learn.py check --watch test on every save
    python learn.py hint 2.1        the next of three hints   python learn.py reset 2.1     blank it again
    python learn.py solution 2.1    the reference's body      python learn.py run 2.1 [command] all on yours
    python learn.py bring OLD       your answers from last week's folder, or from a branch

Standard library only; the tests run in the .venv that `make setup` builds. Ids are as in NN_x/EXERCISES.md.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "tools"))
from learn_bodies import Exercise, chapters, digest, graft, is_stub, text_of, write
from learn_check import bench_of, check, watch
from learn_mine import bring, narrow, run
from learn_student import (
    BRANCH,
    ROOT,
    TRAILER,
    Student,
    columns,
    command,
    counted,
    duration,
    folded,
    page,
    paint,
    place,
    way_out,
)
from learn_trees import git

try:
    import learn_teach
except ModuleNotFoundError:   # a student's tree comes without it
    learn_teach = None

TEACHERS = ("release", "grade", "alike", "exam", "mistakes", "prove")


def status(student: Student) -> None:
    """Where the learner stands: one line a chapter, what is next and where it is."""
    todo = [e for e in [student.next()] if e]
    marks = {"passed": ("✓", "green"), "blank": ("·", "dim"), "written": ("✗", "red"), "given": ("=", "dim")}
    names = [c for c in chapters(ROOT) if any(e.chapter == c for e in student.exercises.values())]
    wide, room = max(map(len, names)) + 2, shutil.get_terminal_size((80, 24)).columns - 2
    for name in names:
        mine = [e for e in student.exercises.values() if e.chapter == name]
        if not student.started(name):
            hours = duration(sum(e.minutes for e in mine))
            number = "c" if name == "csrc" else str(int(name[:2]))
            says = ("given whole" if student.release else hours if student.elsewhere()
                    else f"{hours}: {command('start ' + number)}")
            print(" " + paint(f"{name:<{wide}}{counted(mine)}, {says}", "dim"))
            continue
        line, used = f" {name:<{wide}}", wide + 1
        for e in mine:
            mark, colour = ("▶", "yellow") if todo and e is todo[0] else marks[student.state(e.id)]
            cell = f"{e.id} {e.title}"
            if used + len(cell) + 5 > room and used > wide + 1:
                line, used = line.rstrip() + "\n" + " " * (wide + 1), wide + 1
            line, used = line + f"{paint(mark, colour)} {cell}   ", used + len(cell) + 5
        print(line.rstrip())
    done = sum(student.state(id) == "passed" for id in student.exercises)
    rest = "chapters not started run the reference" if student.given else "· is still blank"
    if not student.elsewhere():
        print(f" {done} of {len(student.exercises)} yours and passing; {rest}")
    if student.open():
        print(paint(" ✓ passes  ✗ fails or unchecked  ▶ next  · blank: stops what needs it  = given", "dim"))
    if todo:
        e = todo[0]
        print(f" next: {paint(f'{e.id} {e.title}', 'bold')} (~{e.minutes} min)   {place(e)}")
        print(f"       task in {page(e)}, then {command('check ' + e.id)}")
    elif student.elsewhere():
        print(f" this is the reference; your work is on the branch {BRANCH}: git switch {BRANCH}")
    elif done == 0:
        print(f" begin with: {command('start 1')}")


def start(student: Student, number: str) -> None:
    """Switch to the branch `mine` and blank one chapter's exercises there, as one commit."""
    if student.release:
        raise ValueError(f"this tree's exercises are already blank: {command('').strip()}")
    if student.elsewhere():
        raise ValueError(f"your work is on the branch {BRANCH}: git switch {BRANCH}, then start there")
    if not student.git:
        raise ValueError("start needs git, to keep the reference and your work apart: clone the repository "
                         "with git, or in this folder run: git init && git add -A && git commit -m 'Begin'")
    names = {("c" if c == "csrc" else str(int(c[:2]))): c for c in chapters(ROOT)}
    chapter = names.get(number)
    if not any(e.chapter == chapter for e in student.exercises.values()):
        has = [n for n, c in names.items() if any(e.chapter == c for e in student.exercises.values())]
        raise ValueError(f"chapter {number} has no exercises: choose one of {', '.join(has)}")
    changed = git(ROOT, "diff", "HEAD", "--name-only").splitlines()
    if changed:
        raise ValueError(f"you have changes that are not committed ({', '.join(changed[:3])}): keep them "
                         "with git commit -am 'My work', then start again")
    here = git(ROOT, "rev-parse", "--abbrev-ref", "HEAD")
    if here != BRANCH:
        back = here if here != "HEAD" else f"--detach {git(ROOT, 'rev-parse', '--short', 'HEAD')}"
        git(ROOT, "switch", "-c", BRANCH)
        print(f" on branch {BRANCH} now; back to the reference: commit first (git commit -am 'My work'),\n"
              f" then git switch {back}")
        student = Student()
    reference = student.commit or git(ROOT, "rev-parse", "HEAD")
    given = student.given or {id: e.body for id, e in student.exercises.items()}
    chosen = [e for e in student.exercises.values() if e.chapter == chapter
              and digest(given.get(e.id, "")) == digest(e.body)]
    if not chosen:
        raise ValueError(f"chapter {number} is already yours: blank one of its exercises with "
                         f"{command('reset ID')}")
    for e in chosen:
        write(ROOT / e.path, graft(text_of(ROOT / e.path), e.id, e.stub))
    (ROOT / ".learn").mkdir(exist_ok=True)
    who = ["-c", "commit.gpgsign=false"]    # nor ask for a pass phrase, nor run the learner's own hooks
    for key, value in (("user.name", "learner"), ("user.email", "learner@localhost")):
        known = subprocess.run(["git", "-C", str(ROOT), "config", key], capture_output=True, check=False)
        who += [] if known.stdout.strip() else ["-c", f"{key}={value}"]
    student.remember("here", "chapter", chapter)
    git(ROOT, *who, "commit", "-q", "--no-verify", "-am",
        f"Start chapter {number}: blank its exercises\n\n{TRAILER}: {reference}")
    print(f" {counted(chosen)} of {chapter} blank now, {duration(sum(e.minutes for e in chosen))}")
    status(Student())


def hint(student: Student, exercise: Exercise) -> None:
    """Show the next hint; after the third, all three."""
    if not exercise.hints:
        raise ValueError(f"exercise {exercise.id} has no hints in {exercise.chapter}/EXERCISES.md")
    seen = student.progress.get("hints", {}).get(exercise.id, 0)
    student.remember("here", "chapter", exercise.chapter)
    for title, text in exercise.hints[seen : seen + 1] or exercise.hints:
        print(f" {paint(title, 'bold')}\n\n{text}\n")
    if seen + 1 < len(exercise.hints):
        print(f" the next one: {command('hint ' + exercise.id)}")
    else:
        print(" these are all the hints there are")
    student.remember("hints", exercise.id, min(seen + 1, len(exercise.hints)))


def reset(student: Student, exercise: Exercise) -> None:
    """Blank one exercise, after keeping what was there under .learn/kept/."""
    if is_stub(exercise.body):
        raise ValueError(f"exercise {exercise.id} is already blank")
    if not student.started(exercise.chapter):
        if student.release:
            raise ValueError(f"{exercise.chapter} is given whole here: its exercises are not for this tree")
        start = command("start " + exercise.id.split(".")[0])
        raise ValueError(f"{exercise.chapter} is not started here: begin with {start}")
    name = f"{exercise.id}-{time.strftime('%Y%m%d-%H%M%S')}-{digest(exercise.body)[:6]}.txt"
    kept = ROOT / ".learn/kept" / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    write(kept, exercise.body)
    write(ROOT / exercise.path, graft(text_of(ROOT / exercise.path), exercise.id, exercise.stub))
    print(f" {exercise.id} is blank again; what was there is in {os.path.relpath(kept)}\n"
          " (to have it again, paste it between the two EXERCISE lines)")


def solution(student: Student, exercise: Exercise) -> None:
    """Print the reference's body."""
    body = student.given.get(exercise.id)
    if body is None:
        raise ValueError("this tree has no solutions: ask whoever gave it to you")
    e = student.exercises[exercise.id]
    print(narrow(body, columns() if sys.stdout.isatty() or "COLUMNS" in os.environ else 80, e.comment),
          end="")


def above_zero(kind: type):
    """An argparse type: a number above 0, neither infinite nor NaN."""

    def read_number(text: str):
        try:
            if 0 < kind(text) < float("inf"):
                return kind(text)
        except ValueError:
            pass
        wanted = "1 or more" if kind is int else "a number above 0"
        raise argparse.ArgumentTypeError(f"{text!r}: give {wanted}")

    return read_number


def read(words: list[str]) -> argparse.Namespace:
    """The command line."""
    says = (__doc__ or "") + (f"\n{learn_teach.SAYS}" if learn_teach else "")
    parser = argparse.ArgumentParser(prog="learn.py", description=says,
                                     formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, says: str, *arguments, **options):
        one = commands.add_parser(name, help=says, description=says)
        for argument in arguments:
            one.add_argument(argument.lower(), metavar=argument, **options)
        return one

    add("start", "blank the exercises of chapter N on the branch 'mine'", "N")
    one = add("check", "test one exercise, a chapter, or all you wrote", "ID", nargs="?")
    one.add_argument("--watch", action="store_true",
                     help="again on every save, going on to the next when it passes")
    one.add_argument("--seconds", type=above_zero(float), default=20,
                     help="when a test is stopped (default 20)")
    add("hint", "the next of three hints", "ID")
    add("reset", "blank an exercise again (what was there is kept)", "ID")
    add("solution", "show the reference's body", "ID")
    one = add("run", "run the pipeline on your body of an exercise, with the reference of all the rest", "ID")
    one.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER,
                     help="default: make QUICK=1 and the chapter")
    add("bring", "bring your answers from another folder or branch into this tree", "OLD")
    if learn_teach:
        learn_teach.add_commands(add, above_zero)
    else:
        for name in TEACHERS:
            add(name, "for teachers", "WORDS", nargs="*")
    return parser.parse_args(words)


def chapter_id(word: str | None) -> str | None:
    """A chapter as exercises' ids begin: c for "csrc", 4 for "04" and "04_systems/"; else the word itself."""
    name = (word or "").rstrip("/").split("_")[0]
    return "c" if name == "csrc" else name[1:] if len(name) == 2 and name.isdigit() else word


def main(words: list[str]) -> int:
    """Do what the command line says; the exit status."""
    asked = read(words)
    if asked.command in TEACHERS and learn_teach:
        return learn_teach.act(ROOT, asked)
    if asked.command in TEACHERS:
        raise ValueError(f"{asked.command} is for teachers and not part of a student tree")
    student = Student()
    for name in {"n", "id"} & vars(asked).keys():
        setattr(asked, name, chapter_id(getattr(asked, name)))
    if asked.command is None:
        status(student)
    elif asked.command == "start":
        start(student, asked.n)
    elif asked.command == "check" and asked.watch:
        watch(student, asked.id, asked.seconds)
    elif asked.command == "check":
        mine = [e for e in student.exercises.values() if student.state(e.id) in ("written", "passed")]
        inside = [e for e in student.exercises.values() if asked.id and e.id.split(".")[0] == asked.id]
        wanted = inside or ([student.pick(asked.id)] if asked.id else mine)
        if not wanted:
            first = student.next().id if student.open() else command("start 1")
            raise ValueError(f"you have written nothing to check yet: begin with {first}")
        with bench_of(student) as bench:
            good = check(student, wanted, bench, asked.seconds)
        todo = student.open()
        if good and todo:  # go on in the same chapter if it has more to do
            e = next((e for e in todo if e.chapter == wanted[-1].chapter), todo[0])
            print(f" next: {e.id} {e.title} (~{e.minutes} min)   {place(e)}")
        return 0 if good else 1
    elif asked.command == "run":
        return run(student, asked.id, asked.words)
    elif asked.command == "bring":
        bring(student, asked.old)
    else:
        {"hint": hint, "reset": reset, "solution": solution}[asked.command](student, student.pick(asked.id))
    return 0


def take_care_of(environ) -> None:
    """Of what a shell, an IDE or a hook of git may have set: other streams, another repository."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:   # closed: the next file to be opened would be taken for it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environ.pop(name, None)


if __name__ == "__main__":
    take_care_of(os.environ)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (ValueError, OSError, RuntimeError, subprocess.CalledProcessError) as problem:
        print(folded(f"learn.py: {problem}{way_out(problem)}", "", "  "), file=sys.stderr)
        sys.exit(2)
