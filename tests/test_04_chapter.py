"""The chapter's commands: errors are one sentence, and everything named in the lesson exists."""
from pathlib import Path

import pytest

from commands import command

CHAPTER = Path(__file__).resolve().parent.parent / "04_systems"


@pytest.mark.parametrize("words, sentence", [
    (["planner.py", "--model", "llama-1t"], "model 'llama-1t' is unknown"),
    (["parallel_3d.py", "--out", "nowhere"], "nowhere/01_tokenizer/train.bin"),
    (["parallel_3d.py", "--device", "mps"], "--device mps: torchrun gives each rank a GPU"),
])
def test_a_wrong_command_ends_with_one_sentence(words, sentence, tmp_path):
    done = command(CHAPTER / words[0], *words[1:], cwd=tmp_path)
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
