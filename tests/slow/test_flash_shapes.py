"""Every rung at every shape: lengths, head widths, groups of heads, causal and not, in every mode."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from test_csrc_flash import HEADS, LENGTHS, MODES, RUNGS, hold


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("D", [32, 64, 128])
@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_stays_within_its_bound_at_every_shape(name, D, mode):
    for i, T in enumerate(LENGTHS):
        for causal in (False, True):
            heads = HEADS if mode == "gpu" else [HEADS[(i + D // 32 + causal) % len(HEADS)]]
            for one in heads:
                hold(RUNGS[name], one, T, D, causal, mode)
