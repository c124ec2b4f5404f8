"""Every bug of flash_bugs.py is reported in check mode by its own sentence, or rejected against float64."""

import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import kernels
from cuda_library import CudaLibrary
from flash_bugs import BUGS
from flash_rungs import FORWARD, HERE, flash_backward, flash_forward, library
from test_csrc_flash import RUNGS, tensors, wanted_and_bounds

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")


def excess(name: str, folder: Path, mode: str) -> float:
    """How far a rung, built from `folder`, leaves its error bound: at most 0 for a right one."""
    rung, worst = RUNGS[name], -1.0
    lib = CudaLibrary(folder / Path(rung.source).name, mode, ("-DHEAD_WIDTH=64",))
    for T, causal in ((200, True), (129, False)):
        q, k, v, d_o = tensors(1, 2, 1, T, 64, rung.dtype, mode)
        if rung in FORWARD.values():
            got = dict(zip("OL", flash_forward(lib, q, k, v, causal)))
        else:
            o, lse = flash_forward(library(FORWARD[5], 64, "fast"), q, k, v, causal)
            got = dict(zip(("dQ", "dK", "dV"), flash_backward(lib, q, k, v, o, lse, d_o, causal)))
        bounds = wanted_and_bounds(q, k, v, d_o, causal)
        for result, x in got.items():
            wanted, bound = bounds[result]
            worst = max(worst, ((x.double() - wanted).abs().nan_to_num(1e9) - bound).max().item())
    return worst


def copy(folder: Path, file: str = "", right: str = "", wrong: str = "") -> Path:
    """The sources of csrc/flash in `folder`, one text replaced."""
    shutil.copytree(HERE / "flash", folder / "flash")
    if file:
        source = (folder / "flash" / file).read_text()
        assert right in source, "the bank does not fit the kernel any more"
        (folder / "flash" / file).write_text(source.replace(right, wrong))
    return folder / "flash"


@pytest.mark.parametrize("name", RUNGS)
def test_the_rungs_without_a_bug_pass(name, tmp_path):
    assert excess(name, copy(tmp_path), "check") <= 0


@pytest.mark.parametrize("bug", BUGS, ids=[bug[0] for bug in BUGS])
def test_a_bug_planted_in_a_rung_is_found(bug, tmp_path):
    _, name, file, right, wrong, report = bug
    folder = copy(tmp_path, file, right, wrong)
    if report == "WRONG":
        assert excess(name, folder, "check") > 0
        return
    with pytest.raises(kernels.KernelFault) as fault:
        excess(name, folder, "check")
    assert re.search(report, str(fault.value)), fault.value
