"""Ten thousand damaged files of each kind: refused with a sentence, or read; no crash, no memory without end.

    .venv/bin/python -m pytest tests/slow
"""
import resource
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from damaged_files import read_damaged  # noqa: E402


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_ten_thousand_damaged_files_never_crash_the_reader(kind, tmp_path):
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    counts = read_damaged(tmp_path, kind, 10_000, seed=1)
    print(f"{kind}: {counts}")
    assert counts["refused"] > 5000 and counts["read"] > 50, counts
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 500e6
