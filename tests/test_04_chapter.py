"""The chapter's commands: errors are one sentence, and everything named in the lesson exists."""
import subprocess
import sys
from pathlib import Path

import pytest

CHAPTER = Path(__file__).resolve().parent.parent / "04_systems"


@pytest.mark.parametrize("command, sentence", [
    (["planner.py", "--model", "llama-1t"], "model 'llama-1t' is unknown"),
    (["parallel_3d.py", "--out", "nowhere"], "nowhere/01_tokenizer/train.bin"),
    (["parallel_3d.py", "--device", "mps"], "--device mps: torchrun gives each rank a GPU"),
])
def test_a_wrong_command_ends_with_one_sentence(command, sentence, tmp_path):
    done = subprocess.run([sys.executable, CHAPTER / command[0], *command[1:]], capture_output=True,
                          text=True, cwd=tmp_path)
    assert done.returncode != 0 and sentence in done.stderr and "Traceback" not in done.stderr
