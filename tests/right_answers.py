"""Right answers to all exercises, written by other routes than the reference: tests/answers/*.txt, read.

Each begins with a line `== 2.1` and is not indented. They are kept out of what students get, and out of the
trees that a body can see. tests/slow/test_right_answers.py grades them all: what passes here must not depend
on how it is written.
"""

import re
from pathlib import Path

HERE = Path(__file__).parent


def answers() -> dict[str, str]:
    """Exercise id to answer, not yet indented."""
    text = "".join(file.read_text(encoding="utf-8") for file in sorted((HERE / "answers").glob("*.txt")))
    parts = [part.partition("\n") for part in re.split(r"^== ", text, flags=re.M)[1:]]
    return {id: body for id, _, body in parts}


def right_answer(exercise) -> str:
    """The answer to one exercise, indented as its marker is."""
    lines = answers()[exercise.id].splitlines(keepends=True)
    return "".join(exercise.indent + line if line.strip() else line for line in lines)
