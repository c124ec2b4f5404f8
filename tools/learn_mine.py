"""What a learner does with bodies of their own: run the pipeline on one, bring them along, read one.

Adds to learn_trees.py: a tree of the reference in which some bodies are the learner's, so that one blank next
door stops nothing; answers found in another folder or branch, by their titles; a solution folded to a width.
"""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import textwrap
import tokenize
from pathlib import Path

from learn_bodies import CODE, Exercise, chapters, course, digest, find, graft, is_stub, moved, text_of, write
from learn_run import python_for
from learn_student import ROOT, Student, command, counted, folded, git_reference, place
from learn_trees import copy_tree, export, git

LEAVE = {".venv", "out", "__pycache__", ".learn"}   # of a tree to run in: what was made there


def chosen(student: Student, names: str) -> list[Exercise]:
    """The exercises of "2.3", "2.3,2.5" or "2" (all of the chapter that are written)."""
    wanted = []
    for name in names.split(","):
        inside = [e for e in student.exercises.values() if e.id.split(".")[0] == name]
        written = [e for e in inside if student.state(e.id) in ("written", "passed")]
        if inside and not written:
            raise ValueError(f"you have written nothing of chapter {name} yet: name an exercise")
        wanted += written or [student.pick(name)]
    for e in wanted:
        if is_stub(e.body):
            raise ValueError(f"exercise {e.id} is still blank: write it first, in {place(e)}")
    return wanted


def run_tree(student: Student, wanted: list[Exercise], to: Path) -> None:
    """Bring the tree `to` up to date: the reference, with the learner's bodies of `wanted`.

    Files that did not change keep their times, so that `make` there repeats only what it must.
    """
    fresh = to.with_name(to.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    if student.commit:
        export(ROOT, student.commit, fresh, keep=lambda path: True)
    else:
        copy_tree(ROOT, fresh, keep=lambda path: True)
    for e in wanted:
        file = fresh / e.path
        text = file.read_text(encoding="utf-8")
        there = next(each for each in find(text) if each.id == e.id)
        file.write_text(graft(text, e.id, moved(e.body, e.indent, there.indent)), encoding="utf-8")
    blank = [e.id for e in course(fresh).values() if is_stub(e.body)]
    if blank:
        shutil.rmtree(fresh, ignore_errors=True)
        named = ", ".join(blank[:6]) + (" ..." if len(blank) > 6 else "")
        raise ValueError(f"this tree has no reference of {named}: "
                         "run needs a git clone, or these exercises written")
    new = {p.relative_to(fresh) for p in fresh.rglob("*") if p.is_file()}
    for path in new:
        if not (to / path).exists() or (to / path).read_bytes() != (fresh / path).read_bytes():
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(fresh / path, to / path)
    for old in [p for p in to.rglob("*") if p.is_file() and not LEAVE & set(p.relative_to(to).parts)]:
        if old.relative_to(to) not in new:
            old.unlink()
    shutil.rmtree(fresh, ignore_errors=True)
    # older than the .venv that it shares: nothing to install
    for name in ("pyproject.toml", "constraints.txt"):
        if (to / name).exists():
            os.utime(to / name, (0, 0))
    home = Path(python_for(ROOT)).parent.parent
    if (home / "ready").exists() and not (to / ".venv").is_symlink():
        (to / ".venv").symlink_to(home)


def lend(out: Path, to: Path, names: list[str]) -> list[str]:
    """Copy to the run's own folder of results those of the learner's for these chapters that it lacks.

    A copy, because a run there must not change them; with its times, so that `make` there makes it anew.
    """
    lent = [name for name in names if (out / name).is_dir() and not (to / name).exists()]
    for name in lent:
        half = to / f"{name}.tmp"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(out / name, half)
        os.replace(half, to / name)
    return lent


def run(student: Student, names: str, words: list[str]) -> int:
    """Run a command on the learner's bodies of `names` and the reference of the rest; its exit status."""
    wanted = chosen(student, names)
    tree = ROOT / ".learn/run" / names.replace(",", "+")
    tree.mkdir(parents=True, exist_ok=True)
    run_tree(student, wanted, tree)
    first = wanted[0].chapter
    if not words:
        words = (["make", "QUICK=1", first[:2]] if first != "csrc" else ["python", "csrc/kernel_check.py"])
    python = python_for(ROOT)
    paths = [str(tree / name) for name in chapters(tree)]   # before those of the .venv, which are this tree's
    search = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": search,
           "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])}
    mine, before = ", ".join(e.id for e in wanted), chapters(ROOT)[: chapters(ROOT).index(first)]
    lent = lend(ROOT / "out", tree / "out", before)
    copied = f", with copies from yours: {', '.join(lent)}" if lent else ""
    print(f" your {mine}, the reference of all the rest, in {os.path.relpath(tree)},\n"
          f" which has an out/ of its own{copied}\n $ {' '.join(words)}",
          flush=True)
    try:
        return subprocess.run([python if words[0] in ("python", "python3") else words[0], *words[1:]],
                              cwd=tree, env=env, check=False).returncode
    except (FileNotFoundError, PermissionError):
        raise ValueError(f"there is no command {words[0]}: give one that works in a clone, "
                         "as make 03") from None


def answers_in(source: str) -> list[Exercise]:
    """What somebody wrote in another folder or on a branch: not blank, and not what they were given."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        found = list(course(folder).values())
        paper = folder / "release.json"
        if paper.exists():
            blanked = set(json.loads(paper.read_text(encoding="utf-8")).get("exercises", []))
            return [e for e in found if e.id in blanked and not is_stub(e.body)]
        repository, commit = folder, git_reference(folder, "HEAD")
    else:
        try:
            names = git(ROOT, "ls-tree", "-r", "--name-only", source).splitlines()
        except ValueError:
            raise ValueError(f"{source} is neither a folder nor a branch here") from None
        paths = [p for p in names if re.match(r"(0\d_|csrc/)", p) and Path(p).suffix in CODE]
        found = [e for p in paths for e in find(git(ROOT, "show", f"{source}:{p}") + "\n", p)]
        repository, commit = ROOT, git_reference(ROOT, source)
    if not commit:
        raise ValueError(f"nothing was started in {source}: there is nothing to bring")
    given = {}
    for path in {e.path for e in found}:
        try:
            given.update({e.id: e.body for e in find(git(repository, "show", f"{commit}:{path}") + "\n")})
        except ValueError:
            pass   # a file that is newer than the reference
    return [e for e in found if not is_stub(e.body) and digest(given.get(e.id, "")) != digest(e.body)]


def bring(student: Student, source: str) -> None:
    """Write the answers of another folder or branch into this tree, where the same exercise is blank."""
    by_title = {e.title: e for e in student.exercises.values()}
    done, full, gone = [], [], []
    for answer in answers_in(source):
        here = by_title.get(answer.title)   # ids move when exercises are added, titles stay
        if here is None:
            gone.append(f"{answer.id} {answer.title}")
        elif is_stub(here.body):
            file = ROOT / here.path
            write(file, graft(text_of(file), here.id, moved(answer.body, answer.indent, here.indent)))
            done.append(here)
        elif digest(here.body) != digest(answer.body):
            full.append(here.id)
    print(folded(f" {counted(done)} brought from {source}{': ' if done else ''}"
                 f"{', '.join(e.id for e in done)}", "", "   "))
    if full:
        print(folded(f" left as here, because not blank: {', '.join(full)} "
                     "(start its chapter or reset it, then again)", "", "   "))
    for name in gone:
        print(f" no exercise of that name here: {name}")
    if done:
        print(f" the tests may be others now: {command('check')}")


def narrow(body: str, width: int, comment: str = "#") -> str:
    """The body with lines up to `width` where that can be had: comments go first, breaks into brackets.

    The same program: a Python body whose syntax tree would change is returned as it is.
    """
    if all(len(line) <= width for line in body.splitlines()):
        return body
    breaks, comments = places(body) if comment == "#" else places_c(body)
    lines = []
    for n, line in enumerate(body.splitlines(), 1):
        indent = line[: len(line) - len(line.lstrip())]
        at = comments.get(n)
        if len(line) > width and at is not None:
            words = line[at:].lstrip("#/ ")
            lines += textwrap.wrap(words, width, initial_indent=f"{indent}{comment} ",
                                   subsequent_indent=f"{indent}{comment} ")
            line = line[:at].rstrip()
        cut, shift = breaks.get(n, {}), 0
        while len(line) > width and (fits := [c for c in cut if len(indent) + 8 < c + shift <= width - 2]):
            inside = [c for c in fits if cut[c]]
            p = (inside or fits)[-1] + shift
            # outside of brackets Python wants a backslash
            lines.append(line[:p].rstrip() + ("" if inside else " \\"))
            line = indent + " " * 8 + line[p:].lstrip()
            shift = shift - p + len(indent) + 8
            cut = {c: free for c, free in cut.items() if c + shift > len(indent) + 8}
        lines += [line] if line.strip() or not at else []
    folded = "\n".join(lines) + "\n"
    return folded if comment != "#" or tree_of(folded) == tree_of(body) else body


def tree_of(body: str) -> str:
    """The syntax tree of a body, as text."""
    return ast.dump(ast.parse("class _:\n def f():\n" + textwrap.indent(textwrap.dedent(body), "  ")))


def places(body: str) -> tuple[dict, dict]:
    """Of a Python body, by line: where it may break, {column: in brackets?}, and where comments begin."""
    breaks, comments, depth, quoted = {}, {}, 0, 0
    for token in tokenize.generate_tokens(io.StringIO("if 1:\n" + body).readline):
        row, column = token.end[0] - 1, token.end[1]
        kind = tokenize.tok_name[token.type]   # from Python 3.12 on an f-string is several tokens
        quoted += kind.endswith("STRING_START") - kind.endswith("STRING_END")
        if quoted:
            continue
        if token.type == tokenize.OP:
            depth += (token.string in ("(", "[", "{")) - (token.string in (")", "]", "}"))
        if token.type == tokenize.COMMENT:
            comments[token.start[0] - 1] = token.start[1]
        elif token.type == tokenize.OP or token.string in ("and", "or", "if", "else", "for", "in"):
            follows = body.splitlines()[row - 1][column: column + 1] if row >= 1 else ""
            if follows == " " or depth > 0 and token.string in "([{":
                breaks.setdefault(row, {})[column] = depth > 0
    return breaks, comments


def places_c(body: str) -> tuple[dict, dict]:
    """The same of a C++ body: at blanks, outside of strings and comments."""
    breaks, comments = {}, {}
    for n, line in enumerate(body.splitlines(), 1):
        at = line.find("//")
        if at >= 0:
            comments[n] = at
        if '"' not in line and not line.lstrip().startswith("#"):
            code = line if at < 0 else line[:at]
            breaks[n] = {i + 1: True for i, c in enumerate(code) if c == " " and code[:i].strip()}
    return breaks, comments
