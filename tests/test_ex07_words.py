"""The exercise of chapter 7 about words whose rate changed."""
import math
import random
from collections import Counter

import pytest

from ex_compare import call, same
from word_rates import rate_scores

# 7.26 which words multiplied


def score_of(a, n, b, m):
    """By the table of four counts, each with a half added: its log odds ratio over its standard error."""
    with_it, without = (b + 0.5, a + 0.5), (m - b + 0.5, n - a + 0.5)
    odds = [w / o for w, o in zip(with_it, without)]
    return math.log(odds[0] / odds[1]) / sum(1 / x for x in (*with_it, *without)) ** 0.5


def check(before, n, after, m, why=""):
    """The scores of all words of either side."""
    want = {w: score_of(before[w], n, after[w], m) for w in {*before, *after}}
    given = f"before {dict(before)} of {n}, after {dict(after)} of {m}"
    same(call(given, rate_scores, before, n, after, m), want, given, why)


@pytest.mark.ex("7.26")
def test_the_worked_example():
    """10 of 40, then 30 of 40: 4.215; a word that stayed has 0"""
    given = "it 10 > 30 and so 4 > 4 of 40"
    got = call(given, rate_scores, Counter(it=10, so=4), 40, Counter(it=30, so=4), 40)
    assert isinstance(got, dict) and got.keys() == {"it", "so"}, f"given {given}, got {got}"
    assert math.isclose(got["it"], 4.2147, abs_tol=5e-5) and got["so"] == 0, \
        f"given {given}, got {got}, wanted it 4.2147, so 0"


@pytest.mark.ex("7.26")
def test_counts_of_different_numbers_of_samples():
    """against the table of four counts"""
    for _ in range(20):
        n, m = random.randrange(5, 60), random.randrange(5, 300)
        before, after = (Counter({w: random.randrange(1, size) for w in "abcd"}) for size in (n, m))
        check(before, n, after, m)


@pytest.mark.ex("7.26")
def test_a_word_that_is_new_or_gone_or_always_there_has_a_finite_score():
    """0 of n, n of n, in one of the two only"""
    for n, m in ((5, 5), (1, 30)):
        check(Counter(gone=n, always=n, never=0), n, Counter(new=m, always=m), m,
              "the half that is added keeps every logarithm and quotient finite")
    check(Counter(), 3, Counter(), 4)


@pytest.mark.ex("7.26")
def test_the_sign_says_which_way():
    """more is positive, less is negative; the other order changes the sign and nothing else"""
    before, after = Counter(a=3, b=9), Counter(a=8, b=2)
    there = call("a 3 > 8, b 9 > 2 of 12", rate_scores, before, 12, after, 12)
    back = call("a 8 > 3, b 2 > 9 of 12", rate_scores, after, 12, before, 12)
    assert there["a"] > 0 > there["b"], f"given a 3 > 8, b 9 > 2 of 12, got {there}"
    same({w: -z for w, z in back.items()}, there, "the two in the other order")
