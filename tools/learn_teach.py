"""The commands of learn.py for teachers and authors: what each takes, and which file does it.

A student tree comes without this file and without the others that it names. TEACHING.md shows each command
at work.
"""

import argparse
import importlib
import os
import subprocess
from pathlib import Path

from learn_run import python_for

SAYS = "for teachers (TEACHING.md): release, grade, alike, exam, mistakes, prove"
DOES = {"release": "learn_release", "grade": "learn_grade", "prove": "learn_prove", "exam": "learn_exam",
        "mistakes": "learn_exam"}


def at_least_zero(text: str) -> float:
    """An argparse type."""
    try:
        if 0 <= float(text) < float("inf"):
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: give 0 or more")


def add_commands(add, above_zero) -> None:
    """Tell the command line of them; `add` and `above_zero` are learn.py's."""
    def choice(one) -> None:
        one.add_argument("--chapters", metavar="1-3", help="these chapters only (default: all)")
        one.add_argument("--only", metavar="IDS", help="these exercises only: 2.1 or 2.1,2.4")

    one = add("release", "teachers: a student tree with blanks, and a Gradescope autograder")
    one.add_argument("--chapters", metavar="1-3", required=True, help="to blank; earlier ones come whole")
    one.add_argument("--out", metavar="DIR", required=True, help="the new folder")
    one.add_argument("--autograder", metavar="FILE.zip", help="write the matching Gradescope autograder too")
    one = add("grade", "teachers: grade a hand-in (folder or zip), or a folder of them", "SUBMISSION", "OUT")
    choice(one)
    one.add_argument("--many", action="store_true", help="SUBMISSION holds one folder or zip a student")
    one.add_argument("--seconds", type=above_zero(float), default=20, help="limit of one test (default 20)")
    one.add_argument("--minutes", type=above_zero(float), default=30, help="of one hand-in (default 30)")
    one.add_argument("--memory", type=above_zero(int), default=2000, help="limit in MB (default 2000)")
    one.add_argument("--late", metavar="FILE.csv", help="days late: columns submission and days")
    one.add_argument("--free-days", type=at_least_zero, default=0,
                     help="late days that cost nothing (default 0)")
    one.add_argument("--late-percent", type=at_least_zero, default=10, help="of a further day (default 10)")
    one.add_argument("--roster", metavar="FILE.csv", help="who is who, for Canvas and Moodle: columns\n"
                     "submission, and any of name, id, login, email, section")
    one.add_argument("--assignment", default="Five Pillars", help="its name on the platform")
    one = add("alike", "teachers: which hand-ins are alike, whatever their variables are called", "FOLDER")
    one.add_argument("--least", type=above_zero(float), default=0.6, help="share to tell from (default 0.6)")
    one = add("exam", "teachers: sheets of questions made from wrong answers, with their answers", "OUT")
    choice(one)
    one.add_argument("--questions", type=above_zero(int), default=6, help="on a sheet (default 6)")
    one.add_argument("--seed", type=int, default=0, help="another seed, another sheet (default 0)")
    one.add_argument("--copies", type=above_zero(int), default=1,
                     help="sheets, each its own seed (default 1)")
    one.add_argument("--plant", metavar="NAMES", help="instead: a folder for each name in this file, with\n"
                     "mistakes of its own to find and mend; `grade` grades them")
    choice(add("mistakes", "teachers: a page of common mistakes, for graders", "OUT"))
    one = add("prove", "authors: prove that the tests reject wrong answers", "ID", nargs="*")
    one.add_argument("--seeds", type=above_zero(int), default=20, help="seeds for the reference (default 20)")
    one.add_argument("--seconds", type=above_zero(float), default=10, help="of a mutant's test (default 10)")
    one.add_argument("-j", "--jobs", type=above_zero(int), default=os.cpu_count() or 1,
                     help="workers (default: one a core)")


def act(root: Path, asked) -> int:
    """Do one of them; the exit status."""
    if asked.command == "alike":                    # numpy is in the .venv
        folder = Path(asked.folder).resolve()
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}: name the one with the hand-ins")
        tool = str(Path(__file__).with_name("learn_alike.py"))
        words = [python_for(root), tool, str(root), str(folder), str(asked.least)]
        return subprocess.run(words, check=False).returncode
    return importlib.import_module(DOES[asked.command]).command(root, asked)
