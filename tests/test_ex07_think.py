"""The exercises of chapter 7 about thoughts and votes."""
import random

import pytest

from ex_compare import call, same
from scratchpad import DIGITS, thought, vote

# 7.23 write the carries out


@pytest.mark.ex("7.23")
@pytest.mark.parametrize("numbers, want, without", [
    ((473, 526, 918, 264), "211821", "211620"), ((5, 60, 0), "050600", "050600"), ((7,), "070000", "070000")])
def test_totals_on_worked_examples(numbers, want, without):
    """three sums by hand, with carries and without"""
    same(call(f"{numbers}", thought, numbers), want, f"{numbers}", "two digits a column, the ones first", {
        "carries are forgotten": without})
    given = f"{numbers}, forgets=True"
    same(call(given, thought, numbers, True), without, given, "nothing is carried", {
        "carries are not forgotten": want})


@pytest.mark.ex("7.23")
def test_totals_give_the_sum():
    """the ones digits of the totals, and all of the last one, are the sum"""
    rng = random.Random(0)
    for n in (2, 4, 10):
        numbers = tuple(rng.randrange(500, 10**DIGITS) for _ in range(n))
        given = f"{numbers}, whose sum is {sum(numbers)}"
        got = call(given, thought, numbers)
        same(len(got), 2 * DIGITS, given + f"; the length of {got!r}", "two digits a column")
        totals = [int(got[2 * i:2 * i + 2]) for i in range(DIGITS)]
        value = sum(t % 10 * 10**i for i, t in enumerate(totals)) + totals[-1] // 10 * 10**DIGITS
        same(value, sum(numbers), given + f"; what the totals {totals} come to", "carry the tens digit")


@pytest.mark.ex("7.23")
def test_a_carry_can_be_larger_than_one():
    """ten times 999: totals 90, 99, 99"""
    same(call("ten times 999", thought, (999,) * 10), "909999", "ten times 999", "the carry is total // 10")
    given = "ten times 999, forgets=True"
    same(call(given, thought, (999,) * 10, forgets=True), "909090", given)


# 7.24 a vote


@pytest.mark.ex("7.24")
@pytest.mark.parametrize("answers, want", [
    (["7", "8", "8"], "8"), (["8", "7", "7", "8"], "8"), (["", "", "5"], "5"), ([], ""), (["", ""], ""),
    (["9", "10", "10", "9", "11"], "9"), (["1", "01", "1 ", "2", "2"], "2"), (["b", "a"], "b"),
    (["3", "1", "1", "3", "3"], "3")])
def test_the_winner_by_hand(answers, want):
    """small elections"""
    asked = list(answers)
    same(call(f"{answers}", vote, asked), want, f"{answers}", "the most frequent; of equals the first")
    same(asked, answers, f"{answers}; the list afterwards", "leave it as it is")


@pytest.mark.ex("7.24")
def test_the_winner_of_many():
    """random elections, counted one by one"""
    rng = random.Random(2)
    for _ in range(60):
        answers = [rng.choice(["", "12", "21", "120", "7", "3"]) for _ in range(rng.randrange(1, 12))]
        voters = [a for a in answers if a]
        most = max([voters.count(a) for a in voters], default=0)
        want = next((a for a in voters if voters.count(a) == most), "")
        same(call(f"{answers}", vote, answers), want, f"{answers}", "the most frequent; of equals the first")
