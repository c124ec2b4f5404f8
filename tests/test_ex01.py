"""Exercises of chapter 1, first part: counting, merging, learning. A learner sees the docstrings."""
import random
import re
import warnings
from collections import defaultdict

import pytest

from arithmetic import careless_answer, right_answer
from bpe import train
from bpe_naive import count_pairs, merge, train_naive
from linked_pieces import NONE, Row, merge_everywhere


def random_words(letters: str = "abc", n: int = 12) -> list[str]:
    """Words of 1 to 8 letters, few enough letters that pairs repeat and tie, some words several times."""
    words = ["".join(random.choices(letters, k=random.randint(1, 8))) for _ in range(n)]
    return [word for word in words for _ in range(random.randint(1, 5))]


# 1.1 pair counts

@pytest.mark.ex("1.1")
def test_the_pairs_of_one_piece_are_counted():
    """the pairs of neighbours in one piece are counted"""
    got = count_pairs([[1, 2, 1, 2, 2]])
    assert isinstance(got, dict), f"got a {type(got).__name__}, wanted a Counter or a dictionary"
    wanted = {(1, 2): 2, (2, 1): 1, (2, 2): 1}
    assert dict(got) == wanted, (f"given the piece [1, 2, 1, 2, 2], got {dict(got)}, wanted {wanted}: "
                                 "each place counts, the first and the last too, and (1, 2) is not (2, 1)")


@pytest.mark.ex("1.1")
def test_places_that_overlap_all_count():
    """in [7, 7, 7] the pair (7, 7) stands at two places, and both count"""
    got = count_pairs([[7, 7, 7]])
    assert dict(got) == {(7, 7): 2}, f"given [[7, 7, 7]], got {dict(got)}, wanted {{(7, 7): 2}}: count places"


@pytest.mark.ex("1.1")
def test_long_pieces_and_large_ids_count():
    """a pair of large ids that stands 70,000 times in one piece has the count 70,000"""
    got = count_pairs([[300, 5_000] * 70_000, [300]])
    assert dict(got) == {(300, 5_000): 70_000, (5_000, 300): 69_999}, (
        f"given (300, 5000) 70,000 times in one piece, got {dict(got)}: ids may be larger than 255, and a "
        "count has no upper end")


@pytest.mark.ex("1.1")
def test_pairs_of_many_pieces_add_up():
    """the counts of many pieces add up, and no pair spans two pieces"""
    pieces = [random.choices(range(4), k=random.randint(0, 7)) for _ in range(20)]
    pieces += pieces[:5]
    wanted = defaultdict(int)
    for ids in pieces:
        for i in range(len(ids) - 1):
            wanted[ids[i], ids[i + 1]] += 1
    got = dict(count_pairs(pieces))
    for pair in [*wanted, *got]:
        mine, right = (counts.get(pair, "no count") for counts in (got, wanted))
        assert mine == right, (
            f"given {len(pieces)} pieces of ids from 0 to 3, got {mine} for {pair}, wanted {right}: do the "
            "counts of a pair in several pieces add up, the same piece twice included?")


# 1.2 merge a pair

@pytest.mark.ex("1.2")
def test_each_occurrence_of_the_pair_is_replaced():
    """each occurrence of the pair is replaced, the first and the last too"""
    got = merge([1, 2, 3, 1, 2, 1, 2], (1, 2), 9)
    assert got == [9, 3, 9, 9], (f"merge([1, 2, 3, 1, 2, 1, 2], (1, 2), 9) gave {got}, wanted [9, 3, 9, 9]: "
                                 "go on after the first one, do not stop before the last, and return a list")
    got = merge([1_000, 2_000, 70_000, 1_000, 2_000], (1_000, 2_000), 300)
    assert got == [300, 70_000, 300], (
        f"merge([1000, 2000, 70000, 1000, 2000], (1000, 2000), 300) gave {got}, wanted [300, 70000, 300]: "
        "numbers are compared by ==; `is` asks for the same object, which Python promises for small numbers "
        "only")


@pytest.mark.ex("1.2")
def test_overlapping_pairs_are_merged_from_the_left():
    """an id belongs to one pair only: [1, 1, 1] becomes [9, 1]"""
    for n, wanted in ((2, [9]), (3, [9, 1]), (4, [9, 9]), (5, [9, 9, 1])):
        got = merge([1] * n, (1, 1), 9)
        assert list(got) == wanted, (f"merge({[1] * n}, (1, 1), 9) gave {got}, wanted {wanted}: "
                                     "after a merge, go on behind both of its ids")


@pytest.mark.ex("1.2")
def test_what_a_merge_has_made_is_not_merged_again():
    """a pair that a merge has just made stays, even if the new id is one of the pair"""
    for ids, new_id, wanted in (([1, 2, 2], 1, [1, 2]), ([1, 1, 2], 2, [1, 2]), ([1, 2, 1, 2], 1, [1, 1])):
        got = merge(ids, (1, 2), new_id)
        assert got == wanted, f"merge({ids}, (1, 2), {new_id}) gave {got}, wanted {wanted}: go through once"


@pytest.mark.ex("1.2")
def test_ids_that_are_not_the_pair_stay():
    """everything that is not the pair stays as it was, (2, 1) for the pair (1, 2) too"""
    for ids in ([], [1], [2, 1], [1, 3, 2], [5, 2, 1, 1], [11, 2], [1, 21], list(range(900, 400, -1))):
        got = merge(ids, (1, 2), 9)
        assert got == ids, (f"merge({ids}, (1, 2), 9) gave {got}, wanted it unchanged: "
                            "is the last id lost, or the order of the pair ignored?")
        assert got is not ids, f"merge({ids}, (1, 2), 9) gave the caller's own list back: return a new one"


@pytest.mark.ex("1.2")
def test_merging_leaves_the_callers_list_alone():
    """the caller's list is not changed"""
    given = [1, 2, 1, 2]
    merge(given, (1, 2), 9)
    assert given == [1, 2, 1, 2], f"the list [1, 2, 1, 2] that was given is now {given}, wanted it unchanged"


# 1.3 careless sums

@pytest.mark.ex("1.3")
def test_every_carry_is_forgotten():
    """every carry is forgotten: 5 + 7 is 2000 (ones first), not 2100"""
    for pair, wanted in (((5, 7), "2000"), ((999, 1), "0990"), ((999, 999), "8880"), ((58, 67), "5100"),
                         ((500, 700), "0020")):
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
    text = "low low low low low lower lower newest newest newest newest newest newest widest widest widest"
    got = train_naive(text, 4, str.split)
    wanted = [(101, 115), (256, 116), (108, 111), (258, 119)]   # es, est, lo, low
    kinds = type(got).__name__, {type(pair).__name__ for pair in got or ()}
    assert kinds == ("list", {"tuple"}), f"got a {kinds[0]} of {kinds[1]}, wanted a list of pairs (tuples)"
    assert got == wanted, (f"given {text!r}, cut into words, got {got}, wanted {wanted} "
                           "(es 9 times, then es+t 9, lo 7, lo+w 7): are all pieces counted, are equal "
                           "counts settled by the smaller ids, and does merge number i create token 256 + i?")


@pytest.mark.ex("1.6")
def test_the_smaller_pair_wins_a_tie():
    """among equally frequent pairs the one with the smaller ids wins, whatever the order of the words"""
    got = train_naive("d e \tn", 1, lambda text: text.split(" "))
    assert got == [(9, 110)], f"given the pieces d, e and a tab before n, got {got}, wanted [(9, 110)]"
    got = train_naive("dn \tn", 1, lambda text: text.split(" "))
    assert got == [(9, 110)], (f"given the pieces dn and a tab before n, got {got}, wanted [(9, 110)]: 9 is "
                               "smaller than 100, though as text it comes later")
    for text in ("xy ab az", "az xy ab"):
        got = train_naive(text, 3, str.split)
        larger = [(120, 121), (97, 122), (97, 98)]
        why = ("the larger pair wins" if got == larger else "the same pair again: is the merged piece kept?"
               if len(set(got)) < len(got) else "does the order of the words decide?")
        assert got == [(97, 98), (97, 122), (120, 121)], (
            f"given the words of {text!r}, got {got}, wanted (97, 98), (97, 122), (120, 121): {why}")


@pytest.mark.ex("1.6")
def test_learning_stops_when_no_pair_is_left():
    """learning stops early when no pair is left"""
    for text, wanted in (("ab ab", [(97, 98)]), ("a a b", []), ("", [])):
        try:
            got = train_naive(text, 5, str.split)
        except ValueError as error:
            pytest.fail(f"given the words of {text!r} and 5 merges, it raised '{error}': stop when there is "
                        "no pair to choose from")
        assert got == wanted, f"given the words of {text!r} and 5 merges, got {got}, wanted {wanted}"
    got = train_naive("abcd", 0)
    assert got == [], f"given 'abcd' and 0 merges, got {got}, wanted an empty list"


@pytest.mark.ex("1.6")
def test_the_numbering_goes_on_after_256_merges():
    """merge number 256 creates token 512"""
    text = " ".join(2 * [chr(a) + chr(b) for a in range(33, 49) for b in range(65, 81)] + ["xyz"])
    got = train_naive(text, 258, str.split)[256:]
    assert got == [(120, 121), (512, 122)], (
        f"after 256 more frequent pairs, 'xyz' gave the merges {got}, wanted [(120, 121), (512, 122)]: "
        + ("equal counts go to the smaller pair" if got == [(121, 122), (120, 512)] else
           "the same pair again: is the merged piece kept?" if len(set(got)) < len(got) else "add 256 to i"))


@pytest.mark.ex("1.6")
def test_slow_and_fast_training_learn_the_same_merges():
    """the same merges as bpe.train, which works differently, accents included, with and without cuts"""
    text = "   ".join(random_words("abé€"))
    n = random.randint(3, 20)
    for split, pattern in ((str.split, r"\S+"), (lambda text: [text], r"(?s).+"),
                           (lambda text: re.findall(r"\s+|\S+", text), r"\s+|\S+")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")   # the text may have fewer merges
            pieces = split(text)
            wanted = train(pieces, 256 + n, pattern=pattern)
        got = train_naive(text, n, split)
        assert got == wanted, (f"given {text!r} as the pieces {pieces}, got {got}, bpe.train learned "
                               f"{wanted}: " + ("a piece is its bytes (piece.encode()), not its characters"
                                                if any(ord("é") in pair for pair in got)
                                                else "is the text cut by `split`, is each merged piece kept "
                                                "for the next count, are ties settled by the smaller ids?"))


# 1.9 counts after a merge

def row_of(pieces: list[list[int]], times: list[int]) -> Row:
    """The tables, counted from nothing."""
    row = Row([], [], [], [], defaultdict(int), defaultdict(list))
    for ids, n in zip(pieces, times):
        begin, end = len(row.ids), len(row.ids) + len(ids)
        row.ids += ids
        row.left += [NONE, *range(begin, end - 1)]
        row.right += [*range(begin + 1, end), NONE]
        row.times += [n] * len(ids)
        for i in range(len(ids) - 1):
            row.counts[ids[i], ids[i + 1]] += n
            row.where[ids[i], ids[i + 1]].append(begin + i)
    return row


def pieces_in(row: Row) -> list[list[int]]:
    """The pieces, read along `right` from each beginning, and checked along `left`."""
    found = []
    for i, before in enumerate(row.left):
        if before == NONE and row.ids[i] != NONE:
            piece, place = [], i
            while place != NONE:
                piece.append(row.ids[place])
                after = row.right[place]
                assert after == NONE or row.left[after] == place, (
                    f"right[{place}] is {after}, but left[{after}] is {row.left[after]}, wanted {place}")
                place = after
            found.append(piece)
    return found


@pytest.mark.ex("1.9")
def test_counts_after_a_merge_equal_counting_again():
    """after each merge the pieces and the counts equal merging and counting everything again"""
    pieces = [list(word.encode()) for word in sorted(set(random_words("ab", 15)))]
    times = [random.randint(1, 6) for _ in pieces]
    row = row_of(pieces, times)
    for new_id in range(256, 262):
        pairs = [p for p, n in row.counts.items() if n > 0]
        if not pairs:
            break
        pair = max(pairs, key=lambda p: (row.counts[p], p))
        before, pieces = pieces, [merge(ids, pair, new_id) for ids in pieces]
        merge_everywhere(row, pair, new_id)
        got = pieces_in(row)
        assert got == pieces, f"merging {pair} into {new_id} in {before} gave {got}, wanted {pieces}"
        wanted = row_of(pieces, times).counts
        wrong = {p: (row.counts.get(p, 0), wanted.get(p, 0)) for p in {**row.counts, **wanted}
                 if row.counts.get(p, 0) != wanted.get(p, 0)}
        assert not wrong, (f"merging {pair} in {before} with times {times}, these pairs have "
                           f"(count, wanted count) {wrong}: the pair with the neighbour on each side is "
                           "gone, one with the new token has come, each `times` the piece")


@pytest.mark.ex("1.9")
def test_a_run_is_merged_from_the_left():
    """in a run the first two become one, then the next two"""
    for n, wanted in ((2, [9]), (3, [9, 1]), (4, [9, 9]), (5, [9, 9, 1])):
        row = row_of([[1] * n], [3])
        merge_everywhere(row, (1, 1), 9)
        got = pieces_in(row)
        assert got == [wanted], f"merging (1, 1) into 9 in {[1] * n} gave {got}, wanted {[wanted]}"
        counts = {p: c for p, c in row.counts.items() if c}
        assert counts == dict(row_of([wanted], [3]).counts), (
            f"after merging (1, 1) into 9 in {[1] * n}, three times, the counts are {counts}, wanted "
            f"{dict(row_of([wanted], [3]).counts)}, those of {wanted} three times")


@pytest.mark.ex("1.9")
def test_the_new_pairs_are_returned():
    """exactly the pairs with the new token that are there now are returned"""
    for pieces, wanted in (([[1, 2, 3, 3], [4, 1, 2, 1, 2], [3, 4, 3]], {(9, 3), (4, 9), (9, 9)}),
                           ([[1, 2], [5, 6]], set())):
        got = merge_everywhere(row_of(pieces, [2, 1, 5]), (1, 2), 9)
        assert isinstance(got, set) and got == wanted, (
            f"merging (1, 2) into 9 in {pieces}, got {got}, wanted the set {wanted}")


@pytest.mark.ex("1.9")
def test_where_finds_the_new_pairs():
    """`where` names the places of each new pair, and the merged pair is gone from it"""
    row = row_of([[1, 2, 3], [4, 1, 2, 3], [3, 4, 3]], [2, 1, 5])
    merge_everywhere(row, (1, 2), 9)
    got = {pair: places for pair, places in row.where.items() if 9 in pair}
    assert got == {(9, 3): [0, 4], (4, 9): [3]}, (
        f"after merging (1, 2) into 9 in [1, 2, 3], [4, 1, 2, 3], [3, 4, 3], where says {got} for pairs with "
        "9, wanted {(9, 3): [0, 4], (4, 9): [3]}: a pair is noted at the place of its left token")
    assert (1, 2) not in row.where, ("after merging (1, 2) into 9 in the same pieces, where[1, 2] is "
                                     f"{row.where[1, 2]}, wanted no entry: the pair occurs nowhere now")


@pytest.mark.ex("1.9")
def test_places_that_changed_meanwhile_are_passed_over():
    """a place that no longer holds the pair is passed over: `where` may name it still"""
    for first, second, wanted in (((1, 2), (2, 3), [[9, 3], [9, 7], [10]]),   # the left token was merged away
                                  ((2, 3), (1, 2), [[1, 9], [10, 7], [9]])):  # the right one has changed
        row = row_of([[1, 2, 3], [1, 2, 7], [2, 3]], [2, 1, 1])
        merge_everywhere(row, first, 9)
        merge_everywhere(row, second, 10)
        got = pieces_in(row)
        assert got == wanted, (
            f"[1, 2, 3], [1, 2, 7] and [2, 3] gave {got} after {first} became 9 and then {second} 10, wanted "
            f"{wanted}: look whether both tokens of the pair are still there")
    # [1, 2, 3, 2] is [1, 9, 2], then [10, 2]: where 1, 2 stood there is a 2 again, but no 1 before it.
    # New numbers need not be the largest: [1, 20, 3] is [1, 9].
    for pieces, pairs, wanted in (([[1, 2, 3, 2], [1, 2]], ((2, 3), (1, 9), (1, 2)), [[10, 2], [11]]),
                                  ([[1, 20, 3], [1, 20]], ((20, 3), (1, 20)), [[1, 9], [10]])):
        row = row_of(pieces, [2, 1])
        for new_id, pair in enumerate(pairs, 9):
            merge_everywhere(row, pair, new_id)
        got = pieces_in(row)
        assert got == wanted, (f"{pieces} gave {got} after the pairs {pairs} became 9 and those that follow, "
                               f"wanted {wanted}: look whether it is these two tokens")


class Watched(list):
    """A list that remembers which places were read."""

    def __init__(self, items):
        super().__init__(items)
        self.read = set()

    def __getitem__(self, i):
        self.read.add(i)
        return super().__getitem__(i)


@pytest.mark.ex("1.9")
def test_only_places_of_the_pair_are_touched():
    """only the places that `where` names and their neighbours are read: that is what makes training fast"""
    row = row_of([[5, 1, 2, 6, 7], [7, 8]], [1, 1])
    row.ids, row.right = Watched(row.ids), Watched(row.right)
    merge_everywhere(row, (1, 2), 9)
    read = row.ids.read | row.right.read
    assert read <= {0, 1, 2, 3}, (
        f"merging (1, 2) in [5, 1, 2, 6, 7] and [7, 8] read the places {sorted(read)}, wanted the pair's and "
        "their neighbours', 0 to 3: go through where[pair] only")
