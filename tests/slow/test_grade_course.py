"""Grading an honest wrong answer of the real course: it gets no points, and is not accused of an attack.

    .venv/bin/python -m pytest tests/slow -o addopts=-q
"""
from pathlib import Path

import pytest

from learn_bodies import course, graft
from learn_grade import Grader, Limits
from learn_trees import copy_tree

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("id, right, wrong",
                         [("2.2", "key > query", "key >= query"), ("7.6", "margin = beta", "margin = -beta")])
def test_an_honest_mistake_loses_points_and_nothing_else(id, right, wrong, tmp_path):
    copy_tree(ROOT, tmp_path / "work/base")
    exercise = course(ROOT)[id]
    assert right in exercise.body
    handed = tmp_path / "hand-in" / exercise.path
    handed.parent.mkdir(parents=True)
    text = (ROOT / exercise.path).read_text(encoding="utf-8")
    handed.write_text(graft(text, id, exercise.body.replace(right, wrong)), encoding="utf-8")
    with Grader(ROOT, tmp_path / "work/base", lambda e: e.id == id, Limits()) as grader:
        [result] = grader.grade(tmp_path / "hand-in")
    assert result.note == "", result.note
    assert result.score < exercise.points and any(line.startswith("✗") for line in result.lines)
