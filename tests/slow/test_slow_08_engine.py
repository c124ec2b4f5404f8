"""Two thousand random schedules through the engine, half of them with the compiled step where there is a
compiler: each request gets its tokens, and no block is lost.

    .venv/bin/python -m pytest tests/slow
"""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cuda_build import cpu_compiler  # noqa: E402
from engine_cases import families, lively_model, run_schedule  # noqa: E402


@pytest.mark.parametrize("part", range(20))
def test_two_thousand_schedules(part):
    model = lively_model()
    known = families(model, 30, seed=1000 + part)
    compiled = part % 2 == 1 and cpu_compiler() is not None
    engines = [run_schedule(model, known, 10_000 + 100 * part + i, compiled) for i in range(100)]
    assert sum(e.scheduler.preemptions for e in engines) > 50
