"""BM25 and joined rankings, against numbers worked by hand and a brute force in exact fractions."""
import math
import random
from fractions import Fraction

import pytest

from bm25 import Index, best_first, bm25, fuse, words

SHELF = ["the cat sat", "the dog sat on the cat", "a fish sleeps"]


def brute_force(query: list[str], documents: list[list[str]], k1: Fraction, b: Fraction) -> list[float]:
    """The formula term by term, everything but the logarithm exact."""
    N, total = len(documents), sum(len(d) for d in documents)

    def term(t: str, d: list[str]) -> float:
        n, tf = sum(1 for e in documents if t in e), sum(1 for w in d if w == t)
        odds = Fraction(2 * N - 2 * n + 1, 2 * n + 1)
        norm = k1 * (1 - b + b * Fraction(len(d) * N, total)) if total else k1
        return float(tf * (k1 + 1) / (tf + norm)) * math.log(odds) if odds > 1 and tf else 0.0

    return [sum(term(t, d) for t in query) for d in documents]


def test_words_are_lower_case_runs_of_letters_digits_and_underscores():
    assert words("You get lr_scheduler from torch.optim, 2 of them!") == [
        "you", "get", "lr_scheduler", "from", "torch", "optim", "2", "of", "them"]


def test_scores_worked_by_hand():
    documents = [text.split() for text in SHELF]
    assert bm25(["the", "dog"], documents) == pytest.approx([0, 0.417001, 0], abs=1e-6)
    twice = 2 * 0.510826 * 2.5 / 2.21875   # idf, k1 + 1, and 1 + 1.5 (0.25 + 0.75 * 3 / 4)
    assert bm25(["fish", "fish"], documents) == pytest.approx([0, 0, twice], abs=1e-5)


def test_naive_and_indexed_scores_are_those_of_the_brute_force():
    for _ in range(30):
        lengths = [random.randint(0, 9) for _ in range(random.randint(1, 12))]
        documents = [random.choices("abcdefghij", k=n) for n in lengths]
        query = random.choices("abcdefghijk", k=5)
        k1, b = Fraction(random.randint(1, 30), 10), Fraction(random.randint(0, 10), 10)
        wanted = pytest.approx(brute_force(query, documents, k1, b), abs=1e-9)
        assert bm25(query, documents, float(k1), float(b)) == wanted
        assert Index([" ".join(d) for d in documents], float(k1), float(b)).scores(" ".join(query)) == wanted


def test_a_replaced_document_is_found_by_its_new_words_alone():
    index = Index([*SHELF])
    index[1] = "a parrot speaks"
    assert index.scores("dog parrot") == Index([SHELF[0], "a parrot speaks", SHELF[2]]).scores("dog parrot")
    assert index.scores("dog") == [0, 0, 0] and best_first(index.scores("parrot"))[0] == 1
    with pytest.raises(IndexError):
        index[3] = "there is no such document"


def test_of_equal_scores_the_earlier_document_comes_first():
    assert best_first([0.0, 2.0, 2.0, 5.0]) == [3, 1, 2, 0]


def test_fused_rankings_worked_by_hand_and_against_exact_fractions():
    assert fuse([[2, 0, 1], [0, 3, 2]]) == [0, 2, 3, 1]
    assert fuse([]) == [] and fuse([[], [5]]) == [5]
    for _ in range(30):
        rankings = [random.sample(range(9), random.randint(0, 9)) for _ in range(4)]
        sums = {i: sum(Fraction(1, 61 + r.index(i)) for r in rankings if i in r)
                for i in {i for r in rankings for i in r}}
        order = [sums[i] for i in fuse(rankings)]
        assert len(order) == len(sums) and order == sorted(order, reverse=True)
