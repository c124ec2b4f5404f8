"""Exercises of chapter 8: BM25 and fusing rankings. A learner sees the docstrings."""
import math
import random
from fractions import Fraction

import pytest

from bm25 import bm25, fuse
from ex_compare import call, same

SHELF = ["the cat sat", "the dog sat on the cat", "a fish sleeps"]


def by_hand(query: list[str], documents: list[list[str]], k1: float, b: float) -> list[float]:
    """Each document on its own, with the weight of a word as the book writes it."""
    scores = []
    for d in documents:
        score = 0.0
        for t in filter(d.__contains__, query):
            n = len([1 for e in documents if t in e])
            rsj = math.log(len(documents) - n + 0.5) - math.log(n + 0.5)
            B = (1 - b) + b * len(d) / (sum(len(e) for e in documents) / len(documents))
            score += max(rsj, 0.0) * (d.count(t) / B) / (k1 + d.count(t) / B) * (k1 + 1)
        scores.append(score)
    return scores


def check(query: str, shelf: list[str], k1: float = 1.5, b: float = 0.75, says: str = "") -> None:
    """The scores of these texts."""
    documents = [text.split() for text in shelf]
    got = call(f"{query!r}, {shelf}, k1={k1}, b={b}", bm25, query.split(), documents, k1, b)
    same(got, by_hand(query.split(), documents, k1, b), f"{query!r}, {shelf}, k1={k1}, b={b}", says)


@pytest.mark.ex("8.20")
def test_the_worked_example():
    """only the second of three documents has the dog, and "the" is in too many to count"""
    documents = [text.split() for text in SHELF]
    got = call(f"'the dog', {SHELF}", bm25, ["the", "dog"], documents, 1.5, 0.75)
    same(got, [0.0, 0.417001, 0.0], f"'the dog', {SHELF}", "0.5108 * 2.5 / (1 + 1.5 * 1.375)", rtol=1e-4)


@pytest.mark.ex("8.20")
def test_a_word_that_most_documents_have_counts_nothing():
    """idf is never negative, and 0 for a word in half of them"""
    check("x", ["x a", "x b", "x c", "d e"], says="log(1.5 / 3.5) is negative: 0 then")
    check("x a", ["x a", "x b", "c d", "e f"], says="log(2.5 / 2.5) is 0")


@pytest.mark.ex("8.20")
def test_repeating_a_word_counts_less_each_time_and_k1_says_how_soon():
    """tf grows, the score saturates; with k1 = 0 once is as good as often"""
    shelf = ["x a a a", "x x a a", "x x x x", "b b b b", "c c c c", "d d d d", "e e e e", "f f f f"]
    for k1 in (0.0, 0.4, 1.5, 20.0):
        check("x", shelf, k1=k1, says="tf (k1 + 1) / (tf + k1 ...)")


@pytest.mark.ex("8.20")
def test_a_long_document_needs_more_of_a_word_and_b_says_how_much():
    """|D| / average, from not at all with b = 0 to in full with b = 1"""
    shelf = ["x", "x a a a a a a a", "x x b b b b b b", "c", "d", "e e", "f"]
    for b in (0.0, 0.3, 0.75, 1.0):
        check("x", shelf, b=b, says="1 - b + b |D| / average, all words counted")


@pytest.mark.ex("8.20")
def test_each_word_of_the_query_adds_as_often_as_it_stands_there():
    """two words add up, a repeated one counts twice, an unknown one nothing"""
    check("x y x unknown", ["x a", "y b y", "x y", "c", "d d", "e", "f"], says="add, word by word")


@pytest.mark.ex("8.20")
def test_empty_documents_and_an_empty_shelf():
    """an empty document scores 0; no documents, no scores"""
    check("x", ["x", "", "a", ""], says="an empty document has no words")
    got = call("'x' and no documents", bm25, ["x"], [], 1.5, 0.75)
    same(got, [], "'x' and no documents", "a list of no scores")
    check("", ["x", "a", "b"], says="no words, no score")


@pytest.mark.ex("8.20")
def test_shelves_at_random():
    """twenty shelves of random words"""
    for _ in range(20):
        shelf = [" ".join(random.choices("abcdefghijklmnop", k=random.randint(1, 12)))
                 for _ in range(random.randint(3, 15))]
        query = " ".join(random.choices("abcdefghijklmnopq", k=4))
        check(query, shelf, random.uniform(0.5, 3), random.random())


def check_fuse(rankings: list[list[int]], k: int, wanted: list[int], says: str) -> None:
    """The order of these rankings."""
    same(call(f"{rankings}, k={k}", fuse, rankings, k), wanted, f"{rankings}, k={k}", says)


@pytest.mark.ex("8.21")
def test_the_worked_example_of_two_rankings():
    """2 0 1 and 0 3 2 give 0 2 3 1"""
    check_fuse([[2, 0, 1], [0, 3, 2]], 60, [0, 2, 3, 1], "0 has 1/62 + 1/61, 2 has 1/61 + 1/63")


@pytest.mark.ex("8.21")
def test_being_in_two_rankings_beats_being_first_in_one_when_k_is_large():
    """with k = 60 two third places beat a first one; with k = 0 the first place wins"""
    rankings = [[7, 1, 4], [9, 5, 4]]
    check_fuse(rankings, 60, [4, 7, 9, 1, 5], "2 / 63 is more than 1 / 61")
    check_fuse(rankings, 0, [7, 9, 4, 1, 5], "2 / 3 is less than 1 / 1")
    # ranks from 1: 2 / (2 + 3) is more than 1 / (2 + 1); counted from 0 they would be equal, and 3 first
    check_fuse([[3, 0, 8], [1, 2, 8]], 2, [8, 1, 3, 0, 2], "ranks begin at 1: 2 / 5 is more than 1 / 3")


@pytest.mark.ex("8.21")
def test_of_equal_sums_the_smaller_number_comes_first():
    """two rankings that say the opposite"""
    check_fuse([[5, 3], [3, 5]], 60, [3, 5], "both have 1/61 + 1/62")
    check_fuse([[9, 4], [2, 6]], 60, [2, 9, 4, 6], "2 and 9 are first in one ranking each")


@pytest.mark.ex("8.21")
def test_rankings_of_different_lengths_one_alone_and_none():
    """an item that a ranking lacks gets nothing from it"""
    check_fuse([[], [4, 2], [2]], 60, [2, 4], "2 has 1/62 + 1/61")
    check_fuse([[8, 6, 7]], 60, [8, 6, 7], "one ranking keeps its order")
    check_fuse([], 60, [], "nothing was ranked")


@pytest.mark.ex("8.21")
def test_many_rankings_at_random():
    """up to five rankings against exact fractions"""
    done = 0
    while done < 20:
        k = random.randint(0, 80)
        rankings = [random.sample(range(12), random.randint(0, 9)) for _ in range(random.randint(3, 5))]
        items = {i for r in rankings for i in r}
        total = {i: sum(Fraction(1, k + 1 + r.index(i)) for r in rankings if i in r) for i in items}
        if len(set(total.values())) == len(total):   # sums that are equal may differ in their last bit
            check_fuse(rankings, k, sorted(total, key=total.get, reverse=True), "add over all rankings")
            done += 1
