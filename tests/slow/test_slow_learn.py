"""Releases of a part of the tiny course run their own tests; tests/test_learn_release.py takes the whole."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_learn_release import own_tests_pass
from tiny_course import make


@pytest.mark.parametrize("chapters", ["1", "2", "1-2"])
def test_a_release_of_some_chapters_runs_its_own_tests(tmp_path, chapters):
    own_tests_pass(make(tmp_path / "fresh"), tmp_path / "out", chapters)
