"""Comparing tensors in exercises' tests: a difference becomes a sentence that names the likely mistake."""

import pytest
import torch
from torch import Tensor


def agree(got, wanted: Tensor, given: str, mistakes: dict[str, Tensor] | None = None, ask: str = "",
          atol: float = 1e-6, rtol: float = 1e-5) -> None:
    """Fail unless `got` is `wanted`, in shape, type and value (relative difference at most `rtol`).

    `mistakes` are the results of known wrong ways, by the sentence that tells the learner; `ask` is said when
    none of them fits.
    """
    mistakes = mistakes or {}

    def fail(got: str, wanted: str, say: str = "") -> None:
        pytest.fail(f"given  {given}\ngot    {got}\nwanted {wanted}\n{say}".rstrip())

    if not isinstance(got, Tensor):
        fail(repr(got), "a tensor", "is the return missing?")
    likely = next((sentence for sentence, wrong in mistakes.items() if same(got, wrong, atol, rtol)), ask)
    if got.shape != wanted.shape:
        fail(f"the shape {tuple(got.shape)}", f"{tuple(wanted.shape)}", likely)
    if got.dtype != wanted.dtype:
        fail(f"numbers of type {got.dtype}", f"{wanted.dtype}", "the type must not change on the way")
    if got.device != wanted.device:
        fail(f"a tensor on {got.device}", f"it on {wanted.device}", "is the argument `device` passed on?")
    if got.device.type == "meta" or same(got, wanted, atol, rtol):
        return
    if got.isnan().any() and not wanted.isnan().any():
        fail(f"NaN (not a number) in {int(got.isnan().sum())} of {got.numel()} places", few(wanted),
             ask or "is there an infinity, or a division by zero?")
    away = (got.detach().double() - wanted.detach().double()).abs()
    worst = tuple(int(i) for i in torch.unravel_index(away.nan_to_num(torch.inf).argmax(), away.shape))
    where = f"   (furthest off at {list(worst)}: {got[worst]:.5g}, not {wanted[worst]:.5g})"
    where = where if worst and likely == ask else ""
    fail(few(got), few(wanted) + where, likely)


def same(a: Tensor, b: Tensor, atol: float, rtol: float = 1e-5) -> bool:
    """True if two tensors have one shape and one value; nothing equals NaN."""
    try:
        torch.testing.assert_close(a.detach().double(), b.detach().double(), rtol=rtol, atol=atol)
    except AssertionError:
        return False
    return True


def few(x: Tensor) -> str:
    """The first numbers of a tensor, as the learner sees them."""
    shown = [f"{v:.4g}" for v in x.detach().flatten()[:6].tolist()]
    return f"[{', '.join(shown)}{', ...' if x.numel() > 6 else ''}]"


def unchanged(function, *inputs: Tensor) -> None:
    """Fail if the call changes a number of its own inputs."""
    before = [x.clone() for x in inputs]
    function(*inputs)
    for i, (old, new) in enumerate(zip(before, inputs)):
        if not torch.equal(old, new):
            pytest.fail(f"argument {i + 1} was {few(old)} before the call and is {few(new)} after it: make a "
                        "new tensor instead of changing the caller's (no x += ..., no sub_, no x[...] = ...)")


def same_gradients(ours, theirs, *inputs: Tensor,
                   ask: str = "is a .detach(), .data or .item() in the way?") -> None:
    """Fail unless the gradients of a random projection of both functions agree, for every input."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    a, b = ours(*inputs), theirs(*inputs)
    weight = torch.randn_like(b)
    wanted = torch.autograd.grad((b * weight).sum(), inputs)
    if not a.requires_grad:
        pytest.fail(f"the result knows no gradient: {ask}")
    for i, (ga, gb) in enumerate(zip(torch.autograd.grad((a * weight).sum(), inputs, allow_unused=True),
                                     wanted)):
        if ga is None:
            pytest.fail(f"no gradient reaches argument {i + 1}: {ask}")
        agree(ga, gb, f"random numbers, the gradient of argument {i + 1}", ask=ask)
