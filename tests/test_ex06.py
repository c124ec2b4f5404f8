"""The exercises of chapter 6. The first line of each docstring is what the learner sees."""
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import decontaminate
import deduplicate
import evaluate
import extract
import filters
import mix
import quality


def close(given: str, got: object, wanted: object, hint: str) -> None:
    """Fail with a sentence if `got` is not `wanted` (numbers or lists of numbers)."""
    try:
        made, right = (torch.tensor(x, dtype=torch.float64) for x in (got, wanted))
        torch.testing.assert_close(made, right, rtol=1e-9, atol=1e-12)
    except (AssertionError, TypeError, ValueError, RuntimeError):
        raise AssertionError(f"given {given}: got {got}, wanted {wanted}; {hint}") from None


def guarded(given: str, call):
    """The value of a call; an error inside it becomes a sentence."""
    try:
        return call()
    except Exception as error:
        raise AssertionError(f"given {given}: your code raised {type(error).__name__}: {error}") from None


SIZES = {"web": 800.0, "books": 50.0, "code": 200.0}


@pytest.mark.ex("6.1")
def test_temperature_two_gives_shares_by_square_roots():
    """temperature 2 shares by the square root of the size"""
    for sizes in (SIZES, {"a": 9.0, "b": 1.0}, {"x": 5.0}):
        got = guarded(f"{sizes}, 2", lambda: mix.temperature_weights(sizes, 2))
        roots = [s ** 0.5 for s in sizes.values()]
        close(f"{sizes}, temperature 2", [got.get(name) for name in sizes], [r / sum(roots) for r in roots],
              "is the exponent 1/temperature, and do the shares sum to 1?")


@pytest.mark.ex("6.1")
def test_the_ends_of_the_temperature_are_size_and_equality():
    """temperature 1 is by size, a huge one is equal, an empty source gets nothing"""
    got = guarded("temperature 1", lambda: mix.temperature_weights(SIZES, 1))
    close("temperature 1", [got.get(n) for n in SIZES], [s / 1050 for s in SIZES.values()],
          "at 1 the shares are proportional to the sizes")
    sizes = {**SIZES, "none": 0.0}
    got = guarded("temperature 3, one source empty", lambda: mix.temperature_weights(sizes, 3))
    cubes = [s ** (1 / 3) for s in SIZES.values()]
    close("temperature 3, one source empty", [got.get(n) for n in [*SIZES, "none"]],
          [c / sum(cubes) for c in cubes] + [0.0],
          "an empty source cannot be sampled: its share is 0, and the others share everything")


@pytest.mark.ex("6.2")
def test_standard_error_agrees_with_numpy():
    """the error is the sample standard deviation over the root of n"""
    for items in ([1.0, 0.0, 1.0, 1.0], [2.5, 2.5], [2.0, 3.0], [0.1 * i * i for i in range(11)],
                  [-3.0, 4.0, 0.0]):
        got = guarded(str(items), lambda: evaluate.Score.of(items))
        close(f"items {items}", got.mean, float(np.mean(items)), "this is the mean")
        close(f"items {items}", got.error, float(np.std(items, ddof=1) / math.sqrt(len(items))),
              "divide the squares by n - 1, then by n, then take the root")


@pytest.mark.ex("6.2")
def test_one_item_has_no_spread_and_the_items_are_kept():
    """a single item gives an error of 0, and the items come back in order"""
    got = guarded("[7.0]", lambda: evaluate.Score.of([7.0]))
    close("one item, 7.0", [got.mean, got.error], [7.0, 0.0],
          "n - 1 is 0 here: there is no spread to estimate")
    got = guarded("[1, 0, 5]", lambda: evaluate.Score.of([1.0, 0.0, 5.0]))
    assert tuple(got.items) == (1.0, 0.0, 5.0), (
        f"given [1, 0, 5]: items are {got.items}, wanted them in order: paired comparison needs them")


@pytest.mark.ex("6.3")
def test_pass_at_k_is_the_average_over_all_draws():
    """pass@k is the share of all draws of k samples that hold a right one"""
    for n, c, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if c <= n and k <= n:
            draws = list(itertools.combinations(range(n), k))
            wanted = sum(any(i < c for i in d) for d in draws) / len(draws)
            got = guarded(f"n={n}, c={c}, k={k}", lambda: evaluate.pass_at_k(n, c, k))
            close(f"n={n}, c={c}, k={k}", got, wanted,
                  "a sample cannot be drawn twice; with fewer wrong ones than k the answer is 1")


@pytest.mark.ex("6.3")
def test_pass_at_k_works_for_many_samples():
    """pass@100 of 1000 samples is a number between 0 and 1"""
    for n, c, k in ((1000, 3, 100), (2000, 1, 1000), (500, 400, 200)):
        got = guarded(f"n={n}, c={c}, k={k}", lambda: evaluate.pass_at_k(n, c, k))
        close(f"n={n}, c={c}, k={k}", got, 1 - math.comb(n - c, k) / math.comb(n, k),
              "multiply the k factors (n-c-i)/(n-i)")


@pytest.mark.ex("6.4")
def test_overlap_is_the_share_of_the_items_ngrams():
    """overlap is the part of the item that the document contains"""
    for item, document, wanted in (([1, 2, 3, 4], {2, 4, 9}, 0.5), ([1, 2, 3], {1, 2, 3, 4, 5, 6}, 1.0),
                                   ([7], {1}, 0.0), ([5, 6, 7], {5}, 1 / 3)):
        got = guarded(f"item {item}, document {document}",
                      lambda: decontaminate.overlap(np.array(item, dtype=np.uint64), document))
        close(f"item {item}, document {document}", got, wanted,
              "divide by the item's n-grams, not by the document's: a long document may hold a whole item")


@pytest.mark.ex("6.4")
def test_repeated_ngrams_count_once_and_an_empty_item_is_no_leak():
    """an n-gram that is in the item twice counts once; an empty item overlaps with nothing"""
    got = guarded("item [1, 1, 1, 2]",
                  lambda: decontaminate.overlap(np.array([1, 1, 1, 2], dtype=np.uint64), {1}))
    close("item [1, 1, 1, 2], document {1}", got, 0.5, "use the distinct n-grams")
    for document in (set(), {1, 2}):
        got = guarded("an empty item", lambda: decontaminate.overlap(np.array([], dtype=np.uint64), document))
        close(f"an empty item, document {document}", got, 0.0, "there is nothing that could have leaked")


def check_joins(n, pairs):
    """After these joins, every member's root is the smallest of its set."""
    group, sets = list(range(n)), deduplicate.UnionFind(n)
    for i, j in pairs:
        low, high = sorted((group[i], group[j]))
        group = [low if g == high else g for g in group]
        guarded(f"join({i}, {j})", lambda: sets.join(i, j))
    got = [_root(sets, i) for i in range(n)]
    shown = ", ".join(f"{i}-{j}" for i, j in pairs)
    assert got == group, (
        f"given {n} documents and the joins {shown}: roots {got}, wanted {group}. A join changes the "
        "parent of a ROOT (another parent would cut a member off from its set), and the smaller root stays")


@pytest.mark.ex("6.5")
def test_four_follows_two_to_one():
    """the worked example: join(4, 2), join(4, 1)"""
    check_joins(5, [(4, 2), (4, 1)])


@pytest.mark.ex("6.5")
def test_joined_sets_are_the_connected_components():
    """after joining pairs, connected members have one root: the smallest"""
    rng = np.random.default_rng(0)
    for n in [3, 4, 5, 6] * 10 + [30] * 5:  # small ones first: the first that fails can be followed by hand
        check_joins(n, rng.integers(0, n, (n - 1, 2)).tolist())


@pytest.mark.ex("6.5")
def test_joining_twice_or_with_itself_changes_nothing():
    """join(i, i) and a second join of the same pair do no harm"""
    check_joins(5, [(4, 2), (2, 4), (3, 3), (4, 1), (1, 4)])


def _root(sets: deduplicate.UnionFind, i: int) -> int:
    for _ in range(100):
        if sets.parent[i] == i:
            return i
        i = sets.parent[i]
    raise AssertionError(f"got the parents {sets.parent}, which run in a circle from {i}; wanted a root")


@pytest.mark.ex("6.6")
def test_the_bands_reach_the_recall_with_as_many_rows_as_possible():
    """the most rows whose S-curve still reaches the recall at the threshold"""
    for n, t, recall in ((128, 0.8, 0.95), (128, 0.5, 0.95), (64, 0.7, 0.9), (30, 0.9, 0.99), (7, 0.9, 0.5),
                         (4, 0.5, 0.9)):
        wanted = max(((n // r, r) for r in range(1, n + 1) if 1 - (1 - t ** r) ** (n // r) >= recall),
                     key=lambda p: p[1])
        got = guarded(f"{n} functions, threshold {t}, recall {recall}",
                      lambda: deduplicate.choose_bands(n, t, recall))
        assert got == wanted, (
            f"given {n} functions, threshold {t}, recall {recall}: got {got}, wanted {wanted} (bands, "
            "rows): start from many rows and stop at the first that is enough")


@pytest.mark.ex("6.6")
def test_impossible_recall_is_refused():
    """too few functions for the recall is an error, not a guess"""
    for n, t in ((4, 0.1), (1, 0.5)):
        try:
            got = deduplicate.choose_bands(n, t, 0.99)
        except ValueError:
            continue
        except Exception as error:
            raise AssertionError(f"given {n} functions, threshold {t}: {type(error).__name__}, wanted the "
                                 "ValueError") from None
        raise AssertionError(f"given {n} functions, threshold {t}, recall 0.99: got {got}, wanted a "
                             "ValueError: none is")
    got = guarded("10 functions", lambda: deduplicate.choose_bands(10, 1.0, 1.0))
    assert got == (1, 10), (
        f"given 10 functions, threshold 1, recall 1: got {got}, wanted (1, 10), one band of all rows")


@pytest.mark.ex("6.7")
def test_repeated_ngrams_are_those_that_came_before():
    """only later occurrences count, and each character once"""
    for text, n in (("a b c a b c", 2), ("a a a a a", 2), ("x y z", 2), ("one two one two one two", 3),
                    ("aa b aa b", 1)):
        words = text.split()
        covered = {k for i in range(len(words) - n + 1) for j in range(i) if words[i:i + n] == words[j:j + n]
                   for k in range(i, i + n)}
        wanted = sum(len(words[k]) for k in covered) / sum(map(len, words))
        got = guarded(f"{text!r}, n={n}", lambda: filters.repeated_ngram_share(words, n))
        close(f"{text!r}, n={n}", got, wanted,
              "collect the positions of words inside repeated n-grams, then add their lengths")


@pytest.mark.ex("6.7")
def test_long_words_weigh_more_and_short_texts_are_fine():
    """the share is of characters, not of words; a text shorter than n repeats nothing"""
    words = "tremendous a b tremendous c".split()
    got = guarded("'tremendous a b tremendous c', n=1", lambda: filters.repeated_ngram_share(words, 1))
    close("'tremendous a b tremendous c', n=1", got, 10 / 23, "weigh each word by its characters")
    for words in ([], ["a"], ["a", "b"]):
        close(f"{words}, n=3", guarded(f"{words}", lambda: filters.repeated_ngram_share(words, 3)), 0.0,
              "there is no n-gram at all")


def block(density: float, links: float = 0.0, words: int = 40) -> extract.Block:
    """A block with this text density (words a line) and link density."""
    if density == 0:
        return extract.Block("", 0, 0, False, False)
    return extract.Block("x" * max(80, round(80 * words / density)), words, round(words * links), False,
                         False)


@pytest.mark.ex("6.8")
def test_every_leaf_of_the_tree():
    """each branch of the decision tree decides as published"""
    empty, short, long, menu = block(0), block(5), block(12), block(5, links=0.9)
    cases = [("a menu between texts", long, menu, long, False),
             ("a text between texts", long, long, long, True),
             ("a dense block behind a menu with text after it", menu, long, short, True),
             ("a dense last block behind a menu", menu, long, empty, False),
             ("a short block behind a menu before a dense one", menu, short, long, True),
             ("a short block behind a menu before a short one", menu, short, short, False),
             ("a short block before a dense one", short, short, long, True),
             ("a short block after a dense long one", long, short, short, True),
             ("a short block after a dense but tiny one", block(12, words=13), short, short, False),
             ("a short block among short ones", short, short, short, False),
             ("a long last block", short, long, empty, True),
             ("a dense but tiny last block", short, block(12, words=12), empty, False)]
    for name, before, this, after, wanted in cases:
        got = guarded(name, lambda: extract.is_content(before, this, after))
        assert bool(got) == wanted, (
            f"given {name}: got {bool(got)}, wanted {wanted}; walk down the tree of the task")


@pytest.mark.ex("6.8")
def test_a_third_of_links_is_the_limit():
    """a block with exactly one third of its words in links may stay, with more it goes"""
    long = block(12, words=60)
    for links, wanted in ((20, True), (21, False)):
        this = extract.Block("x" * 400, 60, links, False, False)
        got = guarded(f"{links} of 60 words in links", lambda: extract.is_content(long, this, long))
        assert bool(got) == wanted, (f"given {links} of 60 words in links: got {bool(got)}, wanted {wanted}: "
                                     "the limit is 1/3 of the words")


@pytest.mark.ex("6.8")
def test_each_limit_is_where_the_task_says():
    """exactly at a limit and just above it"""
    def at(density, links=0.0, words=40):
        return SimpleNamespace(text_density=density, link_density=links, words=words)

    nothing, thin, dense = at(0, words=0), at(5), at(12)
    limits = [("5/9 links before", at(5, 5 / 9), at(5, 0.56), dense, nothing, (True, False)),
              ("density 9 behind a menu", at(5, 0.9), None, (at(9), at(9.01)), at(0.5), (False, True)),
              ("density 11 after, behind a menu", at(5, 0.9), None, thin, (at(11), at(11.01)), (False, True)),
              ("density 9", thin, None, (at(9), at(9.01)), at(0.5), (False, True)),
              ("20 words at the end", thin, None, (at(12, words=19), at(12, words=20)), nothing,
               (False, True)),
              ("something after a short dense block", thin, None, at(12, words=10), (nothing, at(0.5)),
               (False, True)), ("density 10 after", thin, None, thin, (at(10), at(10.01)), (False, True)),
              ("density 10 before", at(10), at(10.01), thin, thin, (False, True)),
              ("20 words before", at(12, words=19), at(12, words=20), thin, thin, (False, True))]
    for name, before, before2, this, after, wanted in limits:
        got = []
        for side in (0, 1):
            args = (before2 if side and before2 else before, this[side] if isinstance(this, tuple) else this,
                    after[side] if isinstance(after, tuple) else after)
            got.append(bool(guarded(name, lambda: extract.is_content(*args))))
        assert tuple(got) == wanted, (f"given {name}: below or at the limit {got[0]}, just above {got[1]}; "
                                      f"wanted {wanted[0]} and {wanted[1]}")


A, B = deduplicate.hash_functions(32, seed=3)


@pytest.mark.ex("6.9")
def test_signatures_agree_with_the_definition():
    """entry k is the smallest value of function k over the set"""
    rng = np.random.default_rng(1)
    docs = [rng.integers(0, 1 << 64, n, dtype=np.uint64) for n in (3, 1, 50, 7)]
    wanted = [deduplicate.signature_naive(doc.tolist(), A, B) for doc in docs]
    got = guarded("4 documents", lambda: deduplicate.signatures(docs, A, B)).tolist()
    for i, (g, w) in enumerate(zip(got, wanted)):
        assert g == w, (f"given document {i} of {len(docs[i])} shingles: entries start {g[:3]}, wanted "
                        f"{w[:3]}; multiply, add, and take the smallest of each document")


@pytest.mark.ex("6.9")
def test_signatures_do_not_depend_on_the_company():
    """a document has the same signature alone, in a crowd and with empty neighbours"""
    rng = np.random.default_rng(2)
    docs = [rng.integers(0, 1 << 64, n, dtype=np.uint64) for n in (5, 0, 9, 4, 0)]
    alone = [deduplicate.signature_naive(doc.tolist(), A, B) for doc in docs]
    for limit in (1, 12, 1000):
        got = guarded(f"blocks of {limit}", lambda: deduplicate.signatures(docs, A, B, block=limit)).tolist()
        assert got == alone, (
            f"given documents of 5, 0, 9, 4 and 0 shingles in blocks of {limit}: the signatures are "
            f"{str(got)[:99]} ..., wanted {str(alone)[:99]} ..., those of each document alone")


TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog sat", "San Francisco",
         "San Francisco"]


@pytest.mark.ex("6.10")
def test_probabilities_sum_to_one_after_every_context():
    """after any context, seen or not, the probabilities sum to one"""
    for order in (1, 2, 3):
        model = quality.NgramModel(TEXTS, order=order, min_count=1)
        for context in (("the", "cat"), ("sat", "on"), ("never", "seen"), ("<s>", "<s>"), ()):
            got = guarded(f"context {context}",
                          lambda: sum(model.p(w, context) for w in sorted(model.vocabulary)))
            close(f"order {order}, context {context}", got, 1.0,
                  "what the discount takes away is d * (kinds after the context) / (total after it): "
                  "give exactly that to the shorter context")


@pytest.mark.ex("6.10")
def test_probabilities_follow_the_formula():
    """p = max(count - d, 0)/total + d * kinds/total * p(shorter), by hand for one word"""
    def by_hand(model, word, context):
        """From the whole context down: what the discount takes goes to the context less its first word."""
        shorter = by_hand(model, word, context[1:]) if context else 1 / len(model.vocabulary)
        n = len(context) + 1
        total = model.totals[n].get(context)
        if not total:
            return shorter
        d, kinds = model.discount[n], model.kinds[n][context]
        return max(model.counts[n][(*context, word)] - d, 0) / total + d * kinds / total * shorter

    contexts = [("sat", "the cat"), ("francisco", "san"), ("francisco", "in the"), ("log", "on the"),
                ("never", "on the"), ("sat", "never"), ("sat", "7"), ("sat", "never cat"),
                ("sat", "never was"), ("cat", "<s> the"), ("san", "<s> <s>")]
    for order, min_count in ((2, 1), (2, 2), (3, 1), (3, 2)):  # with 2, mat, log and "and" are unknown
        model = quality.NgramModel(TEXTS, order=order, min_count=min_count)
        for word, before in contexts:
            words = tuple(before.split())[1 - order:]
            known = [w if w in model.vocabulary or w == "<s>" else "<unk>" for w in (*words, word)]
            got = guarded(f"p({word} | {before})", lambda: model.p(word, words))
            close(f"order {order}, p({word} | {before})", got, by_hand(model, known[-1], tuple(known[:-1])),
                  "start from 1/|V| and go up one order at a time; unknown words are <unk>; a context never "
                  "seen keeps the shorter answer")


@pytest.mark.ex("6.10")
def test_only_the_last_words_of_a_long_context_count():
    """a context longer than the model can use is cut to its last words"""
    model = quality.NgramModel(TEXTS, order=2, min_count=1)
    got = guarded("a context of three words", lambda: model.p("sat", ("a", "the", "cat")))
    close("p(sat | a the cat) with bigrams", got, guarded("p(sat | cat)", lambda: model.p("sat", ("cat",))),
          "take the end of the context, not its beginning")
    assert got > 0.1, f"given p(sat | cat): got {got}, wanted a large number: sat follows cat"
