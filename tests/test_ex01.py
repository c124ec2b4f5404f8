"""Exercises of chapter 1, first part: counting, merging, learning. A learner sees the docstrings."""
import random
from collections import Counter, defaultdict

import pytest

from arithmetic import careless_answer, right_answer
from bpe import merge_everywhere, train
from bpe_naive import count_pairs, merge, train_naive


def random_words(letters: str = "abc", n: int = 12) -> dict[str, int]:
    """Words of 1 to 8 letters, few enough letters that pairs repeat and tie, with how often each occurs."""
    return {"".join(random.choices(letters, k=random.randint(1, 8))): random.randint(1, 5) for _ in range(n)}


# 1.1 pair counts

@pytest.mark.ex("1.1")
def test_the_pairs_of_one_word_are_counted():
    """the pairs of neighbours in one word are counted"""
    got = count_pairs({(1, 2, 1, 2, 2): 1})
    wanted = {(1, 2): 2, (2, 1): 1, (2, 2): 1}
    assert dict(got) == wanted, (f"given the word (1, 2, 1, 2, 2) once, got {dict(got)}, wanted {wanted}: "
                                 "each place counts, the first and the last too, and (1, 2) is not (2, 1)")


@pytest.mark.ex("1.1")
def test_a_word_counts_as_often_as_it_occurs():
    """a word that occurs three times adds three to each of its pairs"""
    got = count_pairs({(1, 2, 1, 2): 3})
    assert dict(got) == {(1, 2): 6, (2, 1): 3}, (
        f"given (1, 2, 1, 2) three times, got {dict(got)}, wanted {{(1, 2): 6, (2, 1): 3}}: is the number of "
        "times used?")


@pytest.mark.ex("1.1")
def test_pairs_of_many_words_add_up():
    """the counts of many words add up, and no pair spans two words"""
    words = {tuple(random.choices(range(4), k=random.randint(0, 7))): random.randint(1, 9) for _ in range(20)}
    wanted = defaultdict(int)
    for word, times in words.items():
        for i in range(len(word) - 1):
            wanted[word[i], word[i + 1]] += times
    got = count_pairs(words)
    assert dict(got) == dict(wanted), (f"given {words}, got {dict(got)}, wanted {dict(wanted)}: "
                                       "do the counts of a pair in several words add up?")


# 1.2 merge a pair

@pytest.mark.ex("1.2")
def test_each_occurrence_of_the_pair_is_replaced():
    """each occurrence of the pair is replaced, the first and the last too"""
    got = merge([1, 2, 3, 1, 2, 1, 2], (1, 2), 9)
    assert list(got) == [9, 3, 9, 9], (
        f"merge([1, 2, 3, 1, 2, 1, 2], (1, 2), 9) gave {got}, wanted [9, 3, 9, 9]: go on after the first "
        "one, and do not stop before the last")


@pytest.mark.ex("1.2")
def test_overlapping_pairs_are_merged_from_the_left():
    """an id belongs to one pair only: [1, 1, 1] becomes [9, 1]"""
    for n, wanted in ((2, [9]), (3, [9, 1]), (4, [9, 9]), (5, [9, 9, 1])):
        got = merge([1] * n, (1, 1), 9)
        assert list(got) == wanted, (f"merge({[1] * n}, (1, 1), 9) gave {got}, wanted {wanted}: "
                                     "after a merge, go on behind both of its ids")


@pytest.mark.ex("1.2")
def test_ids_that_are_not_the_pair_stay():
    """everything that is not the pair stays as it was, (2, 1) for the pair (1, 2) too"""
    for ids in ([], [1], [2, 1], [1, 3, 2], [5, 2, 1, 1], list(range(900, 400, -1))):
        got = merge(ids, (1, 2), 9)
        assert list(got) == ids, (f"merge({ids}, (1, 2), 9) gave {got}, wanted it unchanged: "
                                  "is the last id lost, or the order of the pair ignored?")


@pytest.mark.ex("1.2")
def test_merging_leaves_the_callers_list_alone():
    """the caller's list is not changed, and a tuple may be given"""
    given = [1, 2, 1, 2]
    merge(given, (1, 2), 9)
    assert given == [1, 2, 1, 2], f"the list that was given became {given}: build a new one"
    got = merge((7, 1, 2), (1, 2), 9)
    assert list(got) == [7, 9], f"merge((7, 1, 2), (1, 2), 9) gave {got}, wanted [7, 9]"


# 1.3 careless sums

@pytest.mark.ex("1.3")
def test_every_carry_is_forgotten():
    """every carry is forgotten: 5 + 7 is 2000 (ones first), not 2100"""
    for pair, wanted in (((5, 7), "2000"), ((999, 1), "0990"), ((58, 67), "5100"), ((500, 700), "0020")):
        got = careless_answer(pair)
        assert got == wanted, (f"careless_answer({pair}) gave {got!r}, wanted {wanted!r} (the right sum is "
                               f"{right_answer(pair)!r}): add digit by digit, keep the ones of each, no tens")


@pytest.mark.ex("1.3")
def test_without_carries_the_careless_answer_is_right():
    """a sum without carries comes out right, in four digits, ones first"""
    for pair in ((361, 324), (0, 0), (100, 20), (444, 555)):
        got = careless_answer(pair)
        assert got == right_answer(pair), (
            f"careless_answer({pair}) gave {got!r}, wanted {right_answer(pair)!r}: four digits, the ones "
            "first, and a 0 where the thousands stand")


@pytest.mark.ex("1.3")
def test_careless_digits_are_sums_without_tens():
    """each digit is the sum of the two above it, its tens dropped"""
    for _ in range(50):
        a, b = random.randrange(1000), random.randrange(1000)
        wanted = "".join(str((a // 10**k % 10 + b // 10**k % 10) % 10) for k in range(4))
        got = careless_answer((a, b))
        assert got == wanted, (
            f"careless_answer(({a}, {b})) gave {got!r}, wanted {wanted!r}: check the columns one by one")


# 1.6 learn the merges

@pytest.mark.ex("1.6")
def test_the_most_frequent_pair_is_merged_first():
    """the paper's four words give the merges worked out by hand"""
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    got = train_naive(words, 4)
    wanted = [(101, 115), (256, 116), (108, 111), (258, 119)]   # es, est, lo, low
    assert got == wanted, (
        f"given {words}, got {got}, wanted {wanted} (es 9 times, then es+t 9, lo 7, lo+w 7): is each pair "
        "counted with its word's number, are equal counts settled by the smaller ids, and does merge number "
        "i create token 256 + i?")


@pytest.mark.ex("1.6")
def test_the_smaller_pair_wins_a_tie():
    """among equally frequent pairs the one with the smaller ids wins, whatever the order of the words"""
    for words in ({"xy": 2, "ab": 2, "az": 2}, {"az": 2, "xy": 2, "ab": 2}):
        got = train_naive(words, 3)
        larger = [(120, 121), (97, 122), (97, 98)]
        why = ("the larger pair wins" if got == larger else "the same pair again: is the merged word kept?"
               if len(set(got)) < len(got) else "does the order of the words decide?")
        assert got == [(97, 98), (97, 122), (120, 121)], (
            f"given {words}, got {got}, wanted (97, 98), (97, 122), (120, 121): {why}")


@pytest.mark.ex("1.6")
def test_learning_stops_when_no_pair_is_left():
    """learning stops early when no pair is left"""
    for words, wanted in (({"ab": 3}, [(97, 98)]), ({"a": 2, "b": 1}, []), ({}, [])):
        try:
            got = train_naive(words, 5)
        except ValueError as error:
            pytest.fail(
                f"given {words} and 5 merges, it raised '{error}': stop when there is no pair to choose from")
        assert got == wanted, f"given {words} and 5 merges, got {got}, wanted {wanted}"
    assert train_naive({"abcd": 1}, 0) == [], "zero merges were asked for, wanted an empty list"


@pytest.mark.ex("1.6")
def test_the_numbering_goes_on_after_256_merges():
    """merge number 256 creates token 512"""
    words = {chr(a) + chr(b): 2 for a in range(33, 49) for b in range(65, 81)} | {"xyz": 1}
    got = train_naive(words, 258)[256:]
    assert got == [(120, 121), (512, 122)], (
        f"after 256 more frequent pairs, 'xyz' gave the merges {got}, wanted [(120, 121), (512, 122)]: "
        + ("equal counts go to the smaller pair" if got == [(121, 122), (120, 512)] else
           "the same pair again: is the merged word kept?" if len(set(got)) < len(got) else "add 256 to i"))


@pytest.mark.ex("1.6")
def test_slow_and_fast_training_learn_the_same_merges():
    """the same merges as bpe.train, which works differently, accents included"""
    words = random_words("abé")
    n = random.randint(3, 20)
    text = " ".join(word for word, times in words.items() for _ in range(times))
    wanted = train([text], 256 + n, pattern=r"\S+")
    got = train_naive(words, n)
    assert got == wanted, (
        f"given {words}, got {got}, bpe.train learned {wanted}: "
        + ("a word is its bytes (word.encode()), not its characters" if any(ord("é") in pair for pair in got)
           else "is each merged word kept for the next count, and are ties settled by the smaller ids?"))


# 1.9 counts after a merge

def tables(words: list[list[int]], times: list[int]) -> tuple[Counter, dict]:
    """Pair counts and words of each pair, counted from nothing."""
    counts, where = Counter(), defaultdict(set)
    for w, word in enumerate(words):
        for i in range(len(word) - 1):
            counts[word[i], word[i + 1]] += times[w]
            where[word[i], word[i + 1]].add(w)
    return counts, where


@pytest.mark.ex("1.9")
def test_counts_after_a_merge_equal_counting_again():
    """after each merge the counts equal counting everything again"""
    words = [list(word.encode()) for word in random_words("ab", 15)]
    times = [random.randint(1, 6) for _ in words]
    counts, where = tables(words, times)
    for new_id in range(256, 262):
        if not +counts:
            break
        pair = max(+counts, key=lambda p: (counts[p], p))
        before = [list(word) for word in words]
        merge_everywhere(words, times, counts, where, pair, new_id)
        wanted_words = [merge(word, pair, new_id) for word in before]
        assert [list(word) for word in words] == wanted_words, (
            f"merging {pair} in {before}, words became {words}, wanted {wanted_words}: is the merged word "
            "put back?")
        wanted = tables(wanted_words, times)[0]
        wrong = {p: (counts[p], wanted[p]) for p in {**counts, **wanted} if counts[p] != wanted[p]}
        assert not wrong, (
            f"merging {pair} in {before} with times {times}, these pairs have (count, wanted count) {wrong}: "
            "subtract all pairs of the old word and add all of the new one, each `times` the word")


@pytest.mark.ex("1.9")
def test_the_new_pairs_are_returned():
    """exactly the pairs with the new token are returned"""
    words, times = [[1, 2, 3, 3], [4, 1, 2, 1, 2], [3, 4, 3]], [2, 1, 5]
    counts, where = tables(words, times)
    got = merge_everywhere(words, times, counts, where, (1, 2), 9)
    assert got is not None and set(got) == {(9, 3), (4, 9), (9, 9)}, (
        f"merging (1, 2) into 9 in [1, 2, 3, 3], [4, 1, 2, 1, 2], [3, 4, 3], got {got}, wanted {{(9, 3), (4, "
        "9), (9, 9)}")


@pytest.mark.ex("1.9")
def test_where_finds_the_new_pairs():
    """`where` names the words of each new pair, and the merged pair is gone from it"""
    words, times = [[1, 2, 3], [4, 1, 2, 3], [3, 4, 3]], [2, 1, 5]
    counts, where = tables(words, times)
    merge_everywhere(words, times, counts, where, (1, 2), 9)
    got = {pair: sorted(found) for pair, found in where.items() if 9 in pair}
    assert got == {(9, 3): [0, 1], (4, 9): [1]}, (
        f"after merging (1, 2) into 9 in [1, 2, 3], [4, 1, 2, 3], [3, 4, 3], where says {got} for pairs with "
        "9, wanted {(9, 3): [0, 1], (4, 9): [1]}")
    assert (1, 2) not in where, (
        "the merged pair (1, 2) is still in `where`: take it out, it occurs nowhere now")


@pytest.mark.ex("1.9")
def test_only_words_with_the_pair_are_touched():
    """only the words that `where` names are read: that is what makes training fast"""
    words, times = [[1, 2], [7, 8]], [1, 1]
    counts, where = tables(words, times)
    words[1] = None   # whoever reads this word fails
    try:
        merge_everywhere(words, times, counts, where, (1, 2), 9)
    except TypeError:
        pytest.fail(
            "a word without the pair was read: go through the words in where[pair] only, not through all")
    assert words == [[9], None], f"words became {words}, wanted [[9], None]"
