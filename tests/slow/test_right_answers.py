"""Every exercise's independent right answer gets all points, through `grade` itself with all its walls.

    .venv/bin/python -m pytest tests/slow/test_right_answers.py -o addopts=-q
"""

import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from learn_bodies import course, graft
from learn_grade import Grader, Limits
from learn_trees import copy_tree
from right_answers import answers, right_answer

ROOT = Path(__file__).resolve().parents[2]
EXERCISES = course(ROOT)


@pytest.fixture(scope="module")
def grader():
    with tempfile.TemporaryDirectory() as place:     # pytest's own are closed to other users
        Path(place).chmod(0o711)
        copy_tree(ROOT, Path(place) / "base")
        with Grader(ROOT, Path(place) / "base", lambda e: True, Limits(seconds=60, minutes=60)) as one:
            yield one


@pytest.fixture(scope="module")
def hand_in(tmp_path_factory):
    """A folder with every answer in its place; one that is missing fails its own test alone."""
    folder, texts = tmp_path_factory.mktemp("hand-in"), {}
    for e in EXERCISES.values():
        text = texts.setdefault(e.path, (ROOT / e.path).read_text(encoding="utf-8"))
        texts[e.path] = graft(text, e.id, right_answer(e)) if e.id in answers() else text
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("id", EXERCISES)
def test_a_right_answer_written_differently_gets_all_points(grader, hand_in, id):
    assert id in answers(), f"tests/answers has no answer to {id} by another route"
    grader.chosen = [EXERCISES[id]]
    [result] = grader.grade(hand_in)
    assert result.score == EXERCISES[id].points, "\n".join([result.note, *result.lines])
