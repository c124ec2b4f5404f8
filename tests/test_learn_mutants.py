"""The bank of wrong answers does not give the right ones away: a learner's clone has it too."""
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from learn_bodies import course  # noqa: E402
from learn_release import leaks  # noqa: E402


def test_no_file_of_mutants_shows_half_of_a_body(tmp_path):
    """A mutant is stored as an edit: the few words that change, not the lines around them."""
    for file in (ROOT / "tests").glob("mutants_*.py"):
        shutil.copy(file, tmp_path)
    shown = leaks(tmp_path, {id: e.body for id, e in course(ROOT).items()})
    assert not shown, "shorten both fragments to what differs:\n" + "\n".join(shown)
