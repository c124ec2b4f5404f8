"""The exercise of chapter 7 about rejection sampling."""

import random

import pytest

from ex_compare import call, same
from synthetic import keep_verified


def by_hand(answers, right, k):
    """One question after the other, one answer after the other."""
    kept = []
    for tried, verdicts in zip(answers, right):
        some = []
        for answer, ok in zip(tried, verdicts):
            if ok and answer not in some and len(some) < k:
                some.append(answer)
        kept.append(some)
    return kept


@pytest.mark.ex("7.17")
def test_the_worked_example():
    """three questions: two right answers of which one came twice, none, and one"""
    answers = [["b", "a", "b", "c"], ["x", "y"], ["z", "w"]]
    right = [[True, True, True, False], [False, False], [False, True]]
    given = "answers [[b, a, b, c], [x, y], [z, w]], right [[1, 1, 1, 0], [0, 0], [0, 1]], k 2"
    same(call(given, keep_verified, answers, right, 2), [["b", "a"], [], ["w"]], given, "", {
        "copies count twice": [["b", "a", "b"][:2], [], ["w"]], "they are sorted": [["a", "b"], [], ["w"]],
        "a question without a right answer is missing": [["b", "a"], ["w"]]})


@pytest.mark.ex("7.17")
@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_at_most_k_different_right_answers_in_the_order_they_came(k):
    """many questions with many answers, against one loop inside another"""
    answers = [[random.choice("abcdefg") * random.randint(1, 2) for _ in range(12)] for _ in range(20)]
    right = [[random.random() < 0.6 for _ in tried] for tried in answers]
    given = f"20 questions with 12 answers each, k {k}"
    accepted = [[a for a, ok in zip(*both) if ok] for both in zip(answers, right)]
    early = [[a for a, ok in list(zip(*both))[:k] if ok] for both in zip(answers, right)]
    same(call(given, keep_verified, answers, right, k), by_hand(answers, right, k), given,
         "for each question the first k of the different answers that are right", {
             "copies count towards k": [list(dict.fromkeys(some[:k])) for some in accepted],
             "wrong answers count towards k": [list(dict.fromkeys(some)) for some in early]})


@pytest.mark.ex("7.17")
def test_an_answer_can_be_right_for_one_question_and_wrong_for_another():
    """verdicts belong to a place, not to a text; a second question may keep what the first one kept"""
    answers, right = [["a", "b"], ["a", "b"], ["b", "b"]], [[True, False], [True, True], [False, True]]
    given = "answers [[a, b], [a, b], [b, b]], right [[1, 0], [1, 1], [0, 1]], k 5"
    same(call(given, keep_verified, answers, right, 5), [["a"], ["a", "b"], ["b"]], given,
         "look at the verdict of each answer itself")


@pytest.mark.ex("7.17")
def test_the_inputs_stay_and_k_is_at_least_one():
    """answers and verdicts are the caller's; k = 0 keeps nothing and is refused with a ValueError"""
    answers, right = [["b", "a", "b"]], [[True, True, True]]
    got = call("k 3", keep_verified, answers, right, 3)
    same([answers, right], [[["b", "a", "b"]], [[True, True, True]]], "k 3; the inputs afterwards",
         "make new lists")
    same(got, [["b", "a"]], "answers [[b, a, b]], all right, k 3", "")
    for k in (0, -1):
        try:
            kept = keep_verified(answers, right, k)
        except ValueError:
            continue
        pytest.fail(f"given k {k}\n got  {kept}\n wanted a ValueError", pytrace=False)
