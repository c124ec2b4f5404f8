"""The exercise of chapter 7 about the agreement of two judges."""
import math
import random
from fractions import Fraction

import pytest

from constitution import cohen_kappa
from ex_compare import call


def check(a, b, want, hint):
    """Kappa of two lists is what is wanted."""
    given = f"a {a}, b {b}"
    got = call(given, cohen_kappa, a, b)
    equal = isinstance(got, (int, float)) and (math.isnan(got) if math.isnan(want)
                                               else math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-12))
    assert equal, f"given {given}, got {got}, wanted {want}: {hint}"


@pytest.mark.ex("7.25")
def test_kappa_of_the_worked_example():
    """AABB and ABBB 1/2, AABB and BBBB 0"""
    check(list("AABB"), list("ABBB"), 0.5, "they agree on 3 of 4, luck on 2 of 4")
    check(list("AABB"), list("BBBB"), 0.0, "luck agrees on half as well")


@pytest.mark.ex("7.25")
def test_kappa_is_what_exact_fractions_say():
    """two to four kinds of verdicts, some of which one judge never gives"""
    for _ in range(20):
        kinds = [1, -1, 0, "tie"][:random.randrange(2, 5)]
        n = random.randrange(3, 12)
        a, b = random.choices(kinds, k=n), random.choices(kinds[:2], weights=(3, 1), k=n)
        agreed = Fraction(sum(x == y for x, y in zip(a, b)), n)
        luck = sum(Fraction(x == y) for x in a for y in b) / n ** 2   # each verdict meets each of the other
        want = float((agreed - luck) / (1 - luck)) if luck < 1 else math.nan
        check(a, b, want, "in exact fractions, all n² meetings")


@pytest.mark.ex("7.25")
def test_kappa_at_its_ends():
    """always agreed 1; never, half and half, -1; one verdict only: nothing can be said"""
    check([True, False, True], [True, False, True], 1.0, "they agree on all")
    check([1, -1], [-1, 1], -1.0, "worse than luck is below 0")
    check(["A"] * 3, ["A"] * 3, math.nan, "luck agrees always: 0/0")
    check(["A"], ["B"], 0.0, "no verdict is shared, so luck agrees as rarely as they do")


@pytest.mark.ex("7.25")
def test_verdicts_may_be_words_and_large_numbers():
    """what can be compared and counted: equal verdicts need not be one object"""
    for yes, no in (("agree", "disagree"), (1000, -1000), (("a", 1), ("a", 2))):
        a, b = [yes, yes, no, no], [yes, no, no, no]
        check(a, b, 0.5, "they agree on 3 of 4, luck on 2 of 4")
