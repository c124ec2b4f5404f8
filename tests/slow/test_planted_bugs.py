"""Every bug of the bank is reported in check mode by its own sentence, or rejected against float64."""

import re
from pathlib import Path

import pytest
import torch

import kernels
from cuda_library import CudaLibrary
from planted_bugs import BUGS, FLASH

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
CSRC = Path(kernels.__file__).parent
T, GROUP = 77, 2


def worst_error(cu: Path, mode: str) -> float:
    """Run forward and backward (or the naive forward) and return the largest difference from float64."""
    generator, D = (torch.Generator().manual_seed(0),
                    16 if cu.name == FLASH else 40)  # the naive kernels' tiles are 32 wide
    q, k, v, d_o = (torch.randn(1, heads, T, D, generator=generator) for heads in (4, 2, 2, 4))
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    wanted = kernels.attention_torch(*leaves)
    if cu.name != FLASH:
        scores, o = torch.empty(1, 4, T, T), torch.empty_like(q)
        CudaLibrary(cu, mode).call("naive_forward", Q=q, K=k, V=v, out_S=scores, out_O=o, heads=4, T=T, D=D,
                                   group=GROUP, scale=D**-0.5, causal=True)
        return (o - wanted).abs().max().item()
    lib = CudaLibrary(cu, mode, (f"-DHEAD_WIDTH={D}",))
    o, lse = kernels.flash_forward(lib, q, k, v, True)
    got = [o, *kernels.flash_backward(lib, q, k, v, o, lse, d_o, True)]
    right = [wanted, *torch.autograd.grad(wanted, leaves, d_o.double())]
    return max((a - b).abs().nan_to_num(1e9).max().item() for a, b in zip(got, right))


@pytest.mark.parametrize("name", [FLASH, "attention_naive.cu"])
def test_the_kernels_without_a_bug_pass(name):
    assert worst_error(CSRC / name, "check") < 1e-5


@pytest.mark.parametrize("bug", BUGS, ids=[bug[0] for bug in BUGS])
def test_a_planted_bug_is_found(bug, tmp_path):
    _, file, right, wrong, report = bug
    source = (CSRC / file).read_text()
    assert right in source, "the bank does not fit the kernel any more"
    cu = tmp_path / file
    cu.write_text(source.replace(right, wrong, 1))
    if report == "WRONG":
        assert worst_error(cu, "check") > 1e-3
        return
    with pytest.raises(kernels.KernelFault) as fault:
        worst_error(cu, "check")
    assert re.search(report, str(fault.value)), fault.value
