"""The exercises of chapter 7 about tool calls and intervals."""
import math
import random

import pytest

from ex_compare import call, same
from red_team import wilson
from tool_calls import LONGEST, Call, parse_call

# 7.21 read a tool call


@pytest.mark.ex("7.21")
def test_a_call_is_read():
    """the name before the first bracket, the argument to the last"""
    long, every = "x" * LONGEST, "thequickbrownfoxjumpsoverthelazydog"
    for text, name, argument in (("calc(723*540)", "calc", "723*540"), ("f(a(b)c)", "f", "a(b)c"),
                                 ("a((1))", "a", "(1)"), ("find( a b )", "find", " a b "),
                                 ("f(1)", "f", "1"), (f"{every}(ab)", every, "ab"),
                                 (f"f({long})", "f", long), ("f(()())", "f", "()()")):
        got = call(f"text {text!r}", parse_call, text)
        same((got.tool, got.argument), (name, argument), f"text {text!r}", "nothing is stripped")
        assert isinstance(got, Call), f"given text {text!r}, got a {type(got).__name__}, wanted a Call"


def refused(texts):
    """Every text must raise ValueError."""
    for text in texts:
        try:
            got = parse_call(text)
        except ValueError:
            continue
        raise AssertionError(f"given text {text!r}, got {got}, wanted ValueError")


@pytest.mark.ex("7.21")
def test_text_of_another_form_is_refused():
    """no bracket, no name, something before or behind"""
    refused(["", "calc", "calc(1", "calc(12", "calc)", "(1)", "calc (1)", " calc(1)", "calc(1) ", "calc(1).",
             "Calc(1)", "calc2(1)", "a.b(1)", "caf\u00e9(1)", "calc(1)\n"])


@pytest.mark.ex("7.21")
def test_a_hostile_argument_is_refused():
    """empty, too long, invisible characters, brackets that do not match"""
    refused(["f()", f"f({'x' * (LONGEST + 1)})", "f(a\nb)", "f(\x00)", "f(\u202ea)", "f((1)", "f(1))",
             "f(1)(2)", "f(1)+g(2)", "f())(()"])


# 7.22 an interval for a rate


def ends_of(hits, n, z):
    """The two rates p at which |hits/n - p| is z standard deviations, by bisection."""
    q = hits / n

    def bisect(inside, outside):
        for _ in range(200):
            p = (inside + outside) / 2
            inside, outside = (p, outside) if (q - p) ** 2 <= z * z * p * (1 - p) / n else (inside, p)
        return inside
    return bisect(q, 0.0) if hits else 0.0, bisect(q, 1.0) if hits < n else 1.0


@pytest.mark.ex("7.22")
def test_the_ends_are_where_the_hits_are_z_deviations_away():
    """against bisection, many hits, trials and z"""
    for _ in range(20):
        n = random.randrange(2, 200)
        hits, z = random.randrange(1, n), random.uniform(0.5, 3)
        given = f"hits {hits}, n {n}, z {z:.3f}"
        got, want = call(given, wilson, hits, n, z), ends_of(hits, n, z)
        assert len(got) == 2 and all(math.isclose(a, b, abs_tol=1e-7) for a, b in zip(got, want)), \
            f"given {given}, got {got}, wanted {want}"


@pytest.mark.ex("7.22")
def test_nothing_and_everything_still_have_an_interval():
    """0 of 10 with z 2: 0 to 0.286; 10 of 10: the mirror image"""
    for hits, want in ((0, (0.0, 0.4 / 1.4)), (10, (1 / 1.4, 1.0))):
        got = call(f"hits {hits}, n 10, z 2", wilson, hits, 10, 2.0)
        assert all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(got, want)), \
            f"given {hits} of 10, got {got}, wanted {want}"
