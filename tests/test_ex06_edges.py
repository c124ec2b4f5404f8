"""Chapter 6's exercises at their edges: types, digits, limits met exactly, long inputs, odd texts.

Adds to test_ex06.py. The first line of each docstring is what a learner sees.
"""
import math
import random
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

import decontaminate
import deduplicate
import evaluate
import extract
import filters
import mix
import quality
from ex_compare import call, digits, same


@pytest.mark.ex("6.1")
def test_shares_at_an_infinite_temperature():
    """an infinite temperature shares equally among all sources but the empty ones"""
    sizes = {"none": 0.0, "web": 1e12, "notes": 1.0, "code": 5e6}
    got = call(f"{sizes}, temperature inf", mix.temperature_weights, sizes, math.inf)
    digits(got, {"none": 0.0, "web": 1 / 3, "notes": 1 / 3, "code": 1 / 3}, f"{sizes}, temperature inf",
           "0 to the power 0 is 1: an empty source needs a case of its own")


@pytest.mark.ex("6.1")
def test_shares_are_not_rounded():
    """whole numbers as sizes, shares of a millionth, a temperature with a fraction, every name"""
    for sizes, t in (({"a": 1, "b": 10**9, "c": 0}, 1.0), ({"x": 3, "y": 7}, 1.5),
                     ({"z": 4, "q": 10**6}, 400.0), ({"web": 15 * 10**12, "wiki": 4 * 10**9}, 2)):
        powers = {n: math.exp(math.log(s) / t) if s else 0.0 for n, s in sizes.items()}
        want = {n: p / sum(powers.values()) for n, p in powers.items()}
        digits(call(f"{sizes}, {t}", mix.temperature_weights, sizes, t), want, f"{sizes}, temperature {t}",
               "size^(1/temperature) over the sum of all, nothing rounded", 1e-11)


@pytest.mark.ex("6.2")
def test_small_differences_of_large_scores():
    """scores near a hundred million that differ by one: the error keeps its digits"""
    for base in (1e8, -3e7):
        items = [base + x for x in (0, 1, 0, 1, 1, 2)]
        got = call(f"items {items}", evaluate.Score.of, items)
        digits(got.error, math.sqrt(17 / 30 / 6), f"items {items}: the error",
               "subtract the mean before you square: two large sums cancel badly", 1e-7)
        digits(got.mean, base + 5 / 6, f"items {items}: the mean")


@pytest.mark.ex("6.2")
def test_the_items_are_a_tuple_and_the_numbers_floats():
    """items of 0 and 1 as whole numbers: mean and error are floats, the items a tuple, of many too"""
    for items in ([1, 0, 1, 1], [5, 5], [3, -1] * 35000):
        got, n = call("items", evaluate.Score.of, items), len(items)
        mean = Fraction(sum(items), n)
        error = math.sqrt(sum((x - mean) ** 2 for x in items) / (n - 1) / n)
        given = f"{n} items {items[:4]}"
        digits((got.mean, got.error), (float(mean), error), given, rtol=1e-11)
        kinds = type(got.mean), type(got.error), type(got.items)
        assert kinds == (float, float, tuple), f"given {given}: got {kinds}, wanted (float, float, tuple)"
        same(got.items, tuple(items), given + ": the items", "all of them, in order, as a tuple")


@pytest.mark.ex("6.3")
@pytest.mark.parametrize("n, c, k", [(5000, 1, 1), (300, 2, 150), (10 ** 6, 1, 3), (10 ** 5, 10 ** 4, 2),
                                     (400, 400, 1), (400, 0, 400), (3000, 2999, 1), (3000, 1, 2999)])
def test_pass_at_k_at_its_ends(n, c, k):
    """one right one of very many, all draws, all right, none right: as a fraction says"""
    want = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    got = call(f"n={n}, c={c}, k={k}", evaluate.pass_at_k, n, c, k)
    digits(got, float(want), f"n={n}, c={c}, k={k}", "k factors, however many; nothing rounded", 1e-9, 1e-12)


@pytest.mark.ex("6.4")
def test_hashes_keep_all_their_bits():
    """hashes that differ in the first bit, the last bit or the upper half are different hashes"""
    big = 2**63 + 12345
    for document in ({big + 1, big + 2**32}, {big ^ 1, 12345}, {big - 2**63, big % 2**32}):
        got = call(f"item [{big}]", decontaminate.overlap, np.array([big], dtype=np.uint64), document)
        digits(got, 0.0, f"item [{big}], document {document}",
               "64 bits: no float, no shorter integer holds them")
    got = call("two", decontaminate.overlap, np.array([big, big + 1, big], dtype=np.uint64), {big, big + 2})
    digits(got, 0.5, f"item [{big}, {big + 1}, {big}], document with the first")


@pytest.mark.ex("6.4")
def test_a_long_item_counts_whole():
    """an item of 70,000 n-grams of which one is missing"""
    got = call("70,000 n-grams", decontaminate.overlap, np.arange(70000, dtype=np.uint64) << np.uint64(40),
               {i << 40 for i in range(1, 70000)})
    digits(got, 69999 / 70000, "70,000 n-grams, all but one in the document")


@pytest.mark.ex("6.5")
def test_long_chains_and_numbers_of_two_digits():
    """documents 9 and 10, chains of 500, and pairs in which the larger comes first"""
    for n, pairs in ((12, [(10, 9), (11, 10)]), (500, [(i + 1, i) for i in range(498, -1, -1)]),
                     (200, [(i, 199 - i) for i in range(100)] + [(0, 99), (150, 3)])):
        sets, group = deduplicate.UnionFind(n), list(range(n))
        for i, j in pairs:
            low, high = sorted((group[i], group[j]))
            group = [low if g == high else g for g in group]
            same(call(f"join({i}, {j})", sets.join, i, j), None, f"join({i}, {j})", "it returns nothing")
        same([sets.find(i) for i in range(n)], group, f"{n} documents, joins {pairs[:4]} ...: the roots",
             "the smaller NUMBER stays root")


@pytest.mark.ex("6.6")
@pytest.mark.parametrize("n, t, recall, want", [
    (1, 0.5, 0.5, (1, 1)), (2, 0.5, 0.75, (2, 1)), (4, 0.5, 0.4375, (2, 2)), (256, 0.99, 0.9, None),
    (1000, 0.95, 0.999, None), (96, 0.35, 0.97, None), (17, 0.85, 0.2, None)])
def test_bands_at_their_limits(n, t, recall, want):
    """a recall that is met exactly is enough; more than 16 rows, and counts that rows do not divide"""
    if want is None:
        want = max(((n // r, r) for r in range(1, n + 1) if 1 - (1 - t ** r) ** (n // r) >= recall),
                   key=lambda x: x[1])
    same(call("bands", deduplicate.choose_bands, n, t, recall), want,
         f"{n} functions, threshold {t}, recall {recall}",
         "(bands, rows), whole numbers, with the most rows that reach the recall")


@pytest.mark.ex("6.7")
def test_words_are_compared_as_they_are():
    """case, blanks inside a word and accents: an n-gram is repeated if each of its words is the same"""
    for text, n, want in (("a b|c|a|b c", 2, 0.0), ("ab|c|a|bc", 2, 0.0), ("The|cat|the|cat", 2, 0.0),
                          ("The|cat|the|cat", 1, 3 / 12), ("é|b|é", 1, 1 / 3), ("ß|zz|ss|zz", 1, 2 / 7),
                          ("||", 1, 0.0), ("cat.|cat|cat,", 1, 0.0)):
        words = text.split("|")
        same(call(f"{words}", filters.repeated_ngram_share, words, n), want, f"{words}, n={n}",
             "characters, not bytes; words as they are", rtol=1e-12)


@pytest.mark.ex("6.7")
def test_long_texts_and_long_ngrams():
    """hundreds of words with overlapping repetitions, n up to 12"""
    words = [random.choice(["a", "bb", "ccc"]) for _ in range(60)]
    words = words + words[7:40] + ["dddd"] + words[20:60]
    for n in (1, 3, 7, 12):
        hit = {k for i in range(len(words) - n + 1) for j in range(i) if words[i:i + n] == words[j:j + n]
               for k in range(i, i + n)}
        want = sum(len(words[k]) for k in hit) / sum(map(len, words))
        digits(call("words", filters.repeated_ngram_share, words, n), want, f"{len(words)} words, n={n}")


@pytest.mark.ex("6.8")
def test_any_three_blocks():
    """a hundred and fifty draws of three blocks, at and around every limit: True or False as the tree says"""
    def drawn():
        return SimpleNamespace(link_density=random.choice([0, 1 / 3, 0.34, 0.5, 5 / 9, 0.56, 1.0]),
                               text_density=random.choice([0, 0.5, 5, 9, 9.5, 10, 10.5, 11, 11.5, 80, 300]),
                               words=random.choice([1, 19, 20, 21, 500]))
    for _ in range(150):
        before, block, after = drawn(), drawn(), drawn()
        dense = block.text_density > 9
        if block.link_density > 1 / 3:
            want = False
        elif before.link_density > 5 / 9:
            want = after.text_density > 11 or dense and after.text_density > 0
        elif dense:
            want = block.words >= 20 or after.text_density > 0
        else:
            want = after.text_density > 10 or before.words >= 20 and before.text_density > 10
        given = f"{before} / {block} / {after}".replace("namespace", "")
        same(call(given, extract.is_content, before, block, after), want, given,
             "True or False, nothing else")


@pytest.mark.ex("6.9")
def test_many_functions_and_very_long_documents():
    """128 functions, a document of 70,000 shingles, and hashes at both ends of 32 bits"""
    a, b = deduplicate.hash_functions(128, seed=5)
    edge = np.array([0, 2**64 - 1, 2**63, 2**32, 2**32 - 1], dtype=np.uint64)
    docs = [np.random.randint(0, 2**62, 7).astype(np.uint64), edge, edge[1:2]]
    got = call("3 documents", deduplicate.signatures, docs, a, b)
    for i, doc in enumerate(docs):
        same(got[i].tolist(), deduplicate.signature_naive(doc.tolist(), a, b), f"document {i}, 128 functions",
             "32 bits wrap by themselves; all functions")
    values = [((int(a[k]) * h + int(b[k])) % 2**32) for k in range(2) for h in range(70000)]
    late = [min(range(70000), key=lambda h: values[70000 * k + h]) for k in range(2)]
    order = np.array([h for h in range(70000) if h not in late] + late, dtype=np.uint64)  # smallest come last
    docs = [order << np.uint64(32), order[5:6] << np.uint64(32)]
    got = call("70,001 shingles", deduplicate.signatures, docs, a[:2], b[:2], block=1 << 20)
    for k in range(2):
        want = [values[70000 * k + late[k]], values[70000 * k + int(order[5])]]
        same(got[:, k].tolist(), want, f"documents of 70,000 shingles and of one, function {k}", "all count")


@pytest.mark.ex("6.10")
def test_long_contexts_and_rare_words():
    """order 5, probabilities of one in thousands with all their digits, words in another case"""
    texts = [" ".join(f"w{i * j % 41}" for i in range(40)) for j in range(1, 12)]
    texts += ["w1 w2 w3 w4 w5 w6"] * 40
    model = quality.NgramModel(texts, order=5, min_count=1)

    def by_hand(word, context):
        n = len(context) + 1
        lower = by_hand(word, context[1:]) if context else 1 / len(model.vocabulary)
        total = model.totals[n].get(context)
        if not total:
            return lower
        d = model.discount[n]
        direct = max(model.counts[n][(*context, word)] - d, 0) / total
        return direct + d * model.kinds[n][context] / total * lower

    for word, context in (("w5", "w1 w2 w3 w4"), ("w40", "w1 w2 w3 w4"), ("w7", "w0 w0 w0 w0"),
                          ("w3", "w9 w1 w2"), ("W5", "w1 w2 w3 w4"), ("w5", "w1 W2 w3 w4"),
                          ("w6", "<s> <s> <s> <s>"), ("", "w1 w2 w3 w4")):
        words = tuple(context.split())
        known = tuple(w if w in model.vocabulary or w == "<s>" else "<unk>" for w in (*words, word))
        got = call(f"p({word} | {context})", model.p, word, words)
        same(got, by_hand(known[-1], known[:-1]), f"p({word} | {context}) of an order-5 model",
             "every order up to the last, nothing rounded or limited", rtol=1e-11, atol=0.0)
