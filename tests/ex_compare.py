"""What tests of exercises share: compare with a known answer, name the mistake that gives what came out."""

import numbers

import pytest
import torch


def call(given: str, function, *args, **kwargs):
    """function(*args, **kwargs). An error becomes a failure with a sentence; a blank exercise stays one."""
    try:
        return function(*args, **kwargs)
    except NotImplementedError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        why = "wanted a value, not an error"
        if function is torch.autograd.grad:
            why = "wanted a gradient: .item(), .detach() or a new tensor cuts a value off from what made it"
        pytest.fail(f"given {given}\n got  {said}\n {why}", pytrace=False)


def show(value) -> str:
    """A value in one line: small tensors as lists, large ones by shape and size."""
    if isinstance(value, (tuple, list)):
        first = [show(v) for v in (value if len(value) <= 24 else value[:8])]
        return "(" + ", ".join(first) + (f", ... {len(value)} in all)" if len(value) > 24 else ")")
    if not isinstance(value, torch.Tensor):
        return f"{value:.6g}" if isinstance(value, float) else repr(value)
    if value.numel() > 24:
        return f"a tensor {tuple(value.shape)} of size {value.double().norm().item():.4g}"
    return shorter(value.tolist())


def shorter(values) -> str:
    """A nested list with four significant digits a number."""
    if isinstance(values, list):
        return "[" + ", ".join(shorter(v) for v in values) + "]"
    return f"{values:.4g}" if isinstance(values, float) else str(values)


def where(got, want) -> str:
    """The first number that is off, where `show` prints both sides alike or cuts them short; else nothing."""
    a, b = (v.flatten().tolist() if isinstance(v, torch.Tensor) else v for v in (got, want))
    rows = isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b)
    if not rows or not all(isinstance(v, numbers.Number) for v in (*a, *b)):
        return ""
    if len(b) <= 24 and show(got) != show(want):
        return ""
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
    return "" if at is None else f"   (the first to differ is number {at}: {a[at]!r}, not {b[at]!r})"


def differs(got, want, rtol: float = 1e-6, atol: float = 1e-9) -> bool:
    """Is `got` of another kind, type, shape or value than `want`? NaN differs from everything.

    A tensor has the same dtype; True is not 1, a list no tuple, a tensor no number. A whole number may stand
    for a fraction, not the other way round, and any dictionary for another.
    """
    if isinstance(want, (tuple, list)):
        return (not isinstance(got, type(want))
                or len(got) != len(want)
                or any(differs(g, w, rtol, atol) for g, w in zip(got, want)))
    if isinstance(want, dict):
        return not isinstance(got, dict) or got.keys() != want.keys() or any(
            differs(got[k], want[k], rtol, atol) for k in want)
    if isinstance(want, torch.Tensor):
        if not isinstance(got, torch.Tensor) or got.shape != want.shape or got.dtype != want.dtype:
            return True
        return not torch.allclose(got.detach().double(), want.detach().double(), rtol, atol)
    if isinstance(want, numbers.Number) and not isinstance(want, bool):
        kind = numbers.Integral if isinstance(want, numbers.Integral) else numbers.Number
        return (not isinstance(got, kind)
                or isinstance(got, bool)
                or not abs(got - want) <= atol + rtol * abs(want))
    return type(got) is not type(want) or got != want


def digits(got, want, given: str, hint: str = "", rtol: float = 1e-12, atol: float = 0.0) -> None:
    """`same` in all but the last digits of float64."""
    same(got, want, given, hint, rtol=rtol, atol=atol)


def kind(value) -> str:
    """What a value is, in words: "a tensor of float32", "a list"."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {str(value.dtype)[6:]}"
    return f"a {type(value).__name__}"


def same(got, want, given: str, hint: str = "", mistakes: dict | None = None, **tolerance) -> None:
    """Fail unless `got` is `want`. `mistakes` maps a sentence to the value which that mistake would give."""
    if differs(got, want, **tolerance):
        named = [said for said, value in (mistakes or {}).items() if differs(value, want, **tolerance)
                 and not differs(got, value, **tolerance)]
        if got is None:
            named = ["it returned None: is the `return` missing?"]
        if not named and isinstance(want, torch.Tensor) and getattr(got, "shape", None) != want.shape:
            named = [f"the shape is {tuple(getattr(got, 'shape', ()))}, it should be {tuple(want.shape)}"]
        if not named and kind(got) != kind(want) and not (isinstance(got, int) and isinstance(want, float)):
            named = [f"this is {kind(got)}, it should be {kind(want)}"]
        if not named and isinstance(got, torch.Tensor) and got.isnan().any():
            named = ["NaN is 0 / 0 or infinity - infinity: what is zero here, or infinite?"]
        why = f"\n likely: {'; '.join(named)}" if named else f"\n hint: {hint}" if hint else ""
        pytest.fail(f"given {given}\n got  {show(got)}\n wanted {show(want)}{where(got, want)}{why}",
                    pytrace=False)
