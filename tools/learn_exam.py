"""`python learn.py exam` and `mistakes`: questions from the bank of wrong answers, a page for graders.

Adds to learn_prove.py: three uses of its bank. `exam` writes a sheet of questions ("one of these two is
wrong: which, and what would you see?") and an answer sheet that quotes what the tests say. With `--plant
NAMES` it writes each student a hand-in folder of their own in which each chosen exercise holds one mistake,
drawn from the seed and the name: they mend it and hand it in, and `grade` grades it. `mistakes` lists what
goes wrong in each exercise and how it looks.
"""

import ast
import io
import random
import re
import tempfile
import textwrap
import tokenize
from pathlib import Path

from learn_bodies import Exercise, course, find, graft, text_of, write
from learn_prove import mutant, mutants
from learn_run import Bench
from learn_trees import copy_tree

LETTERS = "AB"


def bank(root: Path, chosen: list[Exercise]) -> dict[str, list[tuple[str, str, str, str]]]:
    """The wrong answers of each chosen exercise: (what is wrong, body, right fragment, wrong fragment)."""
    found = {e.id: [] for e in chosen}
    for id, what, right, wrong in mutants(root):
        if id in found:
            e = next(e for e in chosen if e.id == id)
            try:
                found[id].append((what, mutant(e.body, right, wrong), right, wrong))
            except ValueError:
                continue                            # the bank is behind the code: prove says so
    return found


def function_of(text: str, exercise: Exercise) -> str:
    """The whole function around an exercise, without marker lines and comments, which would tell."""
    if exercise.comment == "//":
        body = next(e.body for e in find(text) if e.id == exercise.id)
        return re.sub(r"[ \t]*//[^\n]*", "", body)
    lines = text.splitlines(keepends=True)
    scopes = [n.body for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.Module, ast.ClassDef))]
    outer = next(n for scope in scopes for n in scope if isinstance(n, ast.FunctionDef)
                 and n.lineno <= exercise.line <= n.end_lineno)
    shown = "".join(lines[outer.lineno - 1 : outer.end_lineno])
    rows = shown.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(textwrap.dedent(shown)).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start[0] - 1, token.start[1] + outer.col_offset
            rows[row] = rows[row][:column].rstrip()
    return "\n".join(row for row in rows if row.strip()) + "\n"


def flat(code: str) -> str:
    """A fragment of code in one line."""
    return " ".join(code.split()) or "(nothing)"


def symptom(bench: Bench, exercise: Exercise, body: str) -> str:
    """What the tests say of a wrong body: the first failure, in its own words."""
    verdict = bench.run(exercise.id, body, [0])
    failed = next((r for r in verdict.reports if r["outcome"] != "passed"), None)
    if failed is None:
        return "the tests do not notice it"
    said = failed["message"].split("\nassert ")[0].strip() or failed["outcome"]
    return f"{failed['title']}: {' '.join(said.split())[:400]}"


def draw(chosen: list[Exercise], wrong: dict, number: int, dice: random.Random) -> list[tuple]:
    """`number` exercises, each with one of its wrong answers, in course order."""
    have = [e for e in chosen if wrong[e.id]]
    if len(have) < number:
        raise ValueError(f"{number} questions were asked for, but only {len(have)} exercises are there")
    picked = {e.id for e in dice.sample(have, number)}
    return [(e, dice.choice(wrong[e.id])) for e in have if e.id in picked]


def exam(root: Path, chosen: list[Exercise], number: int, seed: int) -> tuple[str, str]:
    """The sheet and the answer sheet, both Markdown."""
    dice, wrong = random.Random(seed), bank(root, chosen)
    sheet = [f"# Find the mistake (sheet {seed})\n\nIn each question one of the two versions is wrong. Which "
             "one, in which line, and what would you *see* if it ran: which number, shape or loss, and would "
             "anybody notice?\n"]
    answers = [f"# Answers to sheet {seed}\n"]
    with tempfile.TemporaryDirectory(prefix="exam-") as place:
        copy_tree(root, Path(place) / "base")
        with Bench(root, Path(place) / "base") as bench:
            for n, (e, (what, body, right, false)) in enumerate(draw(chosen, wrong, number, dice), 1):
                text = (root / e.path).read_text(encoding="utf-8")
                versions = [function_of(text, e), function_of(graft(text, e.id, body), e)]
                place_of_wrong = dice.randrange(2)
                shown = versions if place_of_wrong else versions[::-1]
                kind = "python" if e.comment == "#" else "cpp"
                sheet.append(f"## {n}. {e.title} ({e.points} points)\n")
                for letter, code in zip(LETTERS, shown):
                    sheet.append(f"**{letter}**\n```{kind}\n{code.rstrip()}\n```\n")
                answers.append(f"## {n}. {e.title} ({e.id}): {LETTERS[place_of_wrong]} is wrong\n\n"
                               f"Wrong: {what}. `{flat(right)}` became `{flat(false)}`. What one would see: "
                               f"{symptom(bench, e, body)}\n")
    return "\n".join(sheet), "\n".join(answers)


def plant(root: Path, chosen: list[Exercise], names: list[str], number: int, seed: int, out: Path) -> dict:
    """Each student's own mistakes below `out`/NAME; returns {name: [(exercise id, what is wrong)]}."""
    wrong, planted = bank(root, chosen), {}
    for name in names:
        texts, planted[name] = {}, []
        for e, (what, body, _, _) in draw(chosen, wrong, number, random.Random(f"{seed} {name}")):
            text = texts.setdefault(e.path, (root / e.path).read_text(encoding="utf-8"))
            texts[e.path] = graft(text, e.id, body)
            planted[name].append((e.id, what))
        for path, text in texts.items():
            (out / name / path).parent.mkdir(parents=True, exist_ok=True)
            write(out / name / path, text)
        tasks = "\n".join(f"- {id}, in the file that EXERCISES.md names" for id, _ in planted[name])
        write(out / name / "TASK.md",
              f"# For {name}\n\nEach of these exercises holds one mistake, yours alone. "
              f"Find it, mend it between the marker lines, and hand in this folder.\n\n{tasks}\n")
    return planted


def mistakes(root: Path, chosen: list[Exercise]) -> str:
    """A page: for each exercise what is often wrong, and how that looks in the code."""
    parts = ["# Common mistakes\n\nMade from the bank of wrong answers (tests/mutants_*.py) by `python "
             "learn.py mistakes`. For graders: it holds the solutions.\n"]
    for e in chosen:
        parts.append(f"\n## {e.id} {e.title}\n\n{e.path}, `{e.function}`\n")
        for what, _, right, wrong in bank(root, [e])[e.id]:
            parts.append(f"- {what}: `{flat(wrong)}` in place of `{flat(right)}`")
    return "\n".join(parts) + "\n"


def command(root: Path, asked) -> int:
    """`python learn.py exam OUT` and `python learn.py mistakes OUT`; the exit status."""
    from learn_grade import wanted

    exercises, out = course(root), Path(asked.out)
    keep = wanted(asked, list(exercises))
    chosen = [e for e in exercises.values() if keep(e)]
    if asked.command == "mistakes":
        write(out, mistakes(root, chosen))
        print(f" {out}: {sum(map(len, bank(root, chosen).values()))} mistakes of {len(chosen)} exercises")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    if asked.plant:
        names = [n.strip() for n in text_of(Path(asked.plant)).splitlines() if n.strip()]
        for name in names:
            if re.search(r"[/\\]|^\.", name):
                raise ValueError(f"{asked.plant}: {name!r} is no name of a folder: leave out / and \\, and a "
                                 "dot at the beginning")
        planted = plant(root, chosen, names, asked.questions, asked.seed, out)
        lines = [f"- {name}: " + "; ".join(map(" ".join, found)) for name, found in planted.items()]
        write(out / "answers.md", f"# What was planted (seed {asked.seed})\n\n" + "\n".join(lines) + "\n")
        print(f" {out}: {len(names)} folders with {asked.questions} mistakes each; answers.md is yours")
        return 0
    for seed in range(asked.seed, asked.seed + asked.copies):
        sheet, answers = exam(root, chosen, asked.questions, seed)
        write(out / f"sheet-{seed}.md", sheet)
        write(out / f"answers-{seed}.md", answers)
    print(f" {out}: {asked.copies} sheets of {asked.questions} questions, each with its answers")
    return 0
