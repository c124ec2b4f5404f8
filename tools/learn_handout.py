"""The pages of a student tree: its README.md, and what a clone's pages promise that this tree cannot give.

Adds to learn_release.py: a README.md of its own (setup, where you stand, check, hint, run, hand in) with a
line for each chapter that is there; a note under the title of each EXERCISES.md whose exercises are blank; no
line of AGENTS.md that links to a page for authors, no goal of the Makefile and no helper of tests/ that needs
a later chapter.
"""

import re
from pathlib import Path

from learn_bodies import Exercise, chapters, write

# what the tasks say of a clone
PROMISE = re.compile(r":\s+each\s+answer\s+is\s+tested\s+with\s+the\s+reference\s+of\s+all\s+the\s+rest")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# what these goals of the Makefile need
NEEDS = {"prove": "tools/learn_prove.py", "peers": "tests/peers", "kernels": "csrc",
         **dict.fromkeys(("seeds", "study", "serve", "export", "chat"), "08_inference")}
NOTE = """
*In this tree the exercises below are blank already, without `start`. An answer is tested with your own
answers to the others, not with the reference: some tests wait for an exercise that comes later, and name it.*
"""
PAGE = """# Five Pillars: {which}

Exercises of a course on how language models are made. The key functions of {which} are blank: you write them
again, are told what is wrong, and run the result.

## Set up

You need Python 3.10 or newer and make; the network once, for five packages.

```
make setup
source .venv/bin/activate   # in each new terminal
```

## Work

```
python learn.py             # where you stand, and what is next
python learn.py check {id}   # your code against the tests, in words
python learn.py hint {id}    # the next of three hints
python learn.py check       # all that you have written
python learn.py reset {id}   # blank again; what was there is kept
```

The tasks are in each chapter's EXERCISES.md. The code to write is between the two lines `EXERCISE {id}` and
`END EXERCISE {id}`: only what stands there is tested and handed in.

A check runs your answer with your own answers to the other exercises, since there is no reference of them
here. A test that needs one that is still blank fails and names it: some of an early exercise wait for a later
one. For the same reason there is no `start` and no `solution`. A file that a page names and that is not here
belongs to a later chapter, or to the tests of the repository that this tree was cut from.

{map}
## Run

A program stops at the first blank that it needs, and names it. When nothing is blank any more,
`make QUICK=1 {last}` runs everything up to chapter {number} with a toy model, and `make {last}` with the
real one, in minutes. `make test` skips what is still blank.

## Hand in

The whole folder as a zip, without `.venv` and `out`:

```
zip -qr ../answers.zip . -x '.venv/*' 'out/*' '.learn/*' '.git/*' '*/__pycache__/*'
```

A newer release takes your answers along: in its folder, `python learn.py bring ../old-folder`, then
`python learn.py check`. [AGENTS.md](AGENTS.md) says what a coding assistant should and should not do for you.
"""


def readme(tree: Path, blank: list[Exercise]) -> str:
    """The README.md of a student tree in which the exercises `blank` are blank."""
    mine = {e.chapter for e in blank}
    numbers = sorted({4 if chapter == "csrc" else int(chapter[:2]) for chapter in mine})
    which = f"chapter {numbers[0]}" if len(numbers) == 1 else f"chapters {numbers[0]} to {numbers[-1]}"
    lines = []
    for chapter in chapters(tree):
        pages = [f"[{says}]({chapter}/{name})"
                 for says, name in (("lesson", "README.md"), ("exercises", "EXERCISES.md"))
                 if (tree / chapter / name).exists()]
        lines.append(f"- `{chapter}`: {', '.join(pages)}{'' if chapter in mine else ' (given whole)'}\n")
    return PAGE.format(which=which, id=blank[0].id, map="".join(lines), last=f"{numbers[-1]:02}",
                       number=numbers[-1])


def dead(page: Path) -> list[str]:
    """The links of a page to files that are not there."""
    return [target for target in LINK.findall(page.read_text(encoding="utf-8"))
            if not re.match(r"\w+:", target) and not (page.parent / target).exists()]


def drop_goals(makefile: Path) -> None:
    """Take the goals out of a Makefile whose files are not beside it; a goal ends at a blank line."""
    gone = [goal for goal, path in NEEDS.items() if not (makefile.parent / path).exists()]
    parts = makefile.read_text(encoding="utf-8").split("\n\n")
    kept = [part for part in parts if not any(re.search(rf"^{goal}:", part, re.M) for goal in gone)]
    write(makefile, "\n\n".join(kept))


def drop_helpers(tree: Path) -> None:
    """Take out what lies in tests/ beside the tests and is named neither by them, nor by what they name."""
    idle = {p for p in tree.glob("tests/*.*") if not p.name.startswith("test_")}
    used = [*tree.glob("tests/test_*.*"), *tree.glob("tools/*.py"), *tree.glob("conftest.py")]
    for file in used:                               # grows as it goes
        text = file.read_text(encoding="utf-8")
        found = {p for p in idle if re.search(rf"\b{p.stem}\b", text)}
        used += found
        idle -= found
    for file in idle:
        file.unlink()


def write_pages(tree: Path, blank: list[Exercise]) -> None:
    """Turn the pages of a clone into those of a student tree in which `blank` are blank."""
    drop_helpers(tree)
    if (tree / "Makefile").exists():
        drop_goals(tree / "Makefile")
    write(tree / "README.md", readme(tree, blank))
    for chapter in sorted({e.chapter for e in blank}):
        page = tree / chapter / "EXERCISES.md"
        title, _, rest = page.read_text(encoding="utf-8").partition("\n")
        write(page, f"{title}\n{NOTE}{PROMISE.sub('', rest)}")
    agents = tree / "AGENTS.md"
    lines, gone = agents.read_text(encoding="utf-8").splitlines(keepends=True), dead(agents)
    kept = [line for line in lines if not any(f"]({target}" in line for target in gone)]
    write(agents, "".join(kept).rstrip("\n") + "\n")
