"""Exercises of chapter 1, third part: Unigram and the alphabet of files. A learner sees the docstrings."""
import itertools
import math
import random

import pytest

from formats import byte_alphabet
from unigram import Unigram, viterbi
from unigram_training import expected_counts


def all_ways(word: str, p: dict[str, float]) -> list[list[str]]:
    """All segmentations of a word into tokens of p, by trying every set of cuts."""
    ways = []
    for cuts in itertools.product((False, True), repeat=max(0, len(word) - 1)):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]
        ways.append([word[a:b] for a, b in zip([0, *ends], ends)])
    return [way for way in ways if all(t in p for t in way)]


def random_probabilities() -> dict[str, float]:
    """Probabilities of a, b and some strings of both."""
    tokens = ["a", "b", *{"".join(random.choices("ab", k=random.randint(2, 3))) for _ in range(4)}]
    weights = [random.uniform(0.05, 1) for _ in tokens]
    return {t: w / sum(weights) for t, w in zip(tokens, weights)}


# 1.11 the best segmentation

@pytest.mark.ex("1.11")
def test_the_most_probable_segmentation_wins():
    """the segmentation with the highest sum wins, not the longest first token"""
    logp = {"a": -2.0, "b": -2.0, "c": -2.0, "ab": -3.0, "bc": -1.0, "abc": -4.0}
    got = viterbi("abc", logp, 3, -50.0)
    assert got == ["a", "bc"], (f"with {logp}, 'abc' gave {got}, wanted the list ['a', 'bc']: -2 - 1 = -3 "
                                "beats abc's -4 and ab + c's -5")
    logp |= {"a": -1.9999, "bc": -2.0}
    got = viterbi("abc", logp, 3, -50.0)
    assert got == ["a", "bc"], f"with {logp}, 'abc' gave {got}, wanted ['a', 'bc']: -3.9999 beats abc's -4"
    logp |= {"a": -2.0, "abc": -3.9999}
    got = viterbi("abc", logp, 3, -50.0)
    assert got == ["abc"], f"with {logp}, 'abc' gave {got}, wanted ['abc']: -3.9999 beats a + bc's -4"
    got = viterbi("aa", {"a": -2.0 ** -60, "aa": -2.0 ** -58}, 2, -50.0)   # both are lost beside a 1
    assert list(got) == ["a", "a"], (f"'aa' with a: -2^-60 and aa: -2^-58 gave {got}, wanted ['a', 'a'] with "
                                     "the sum -2^-59: a sum begins at 0")


@pytest.mark.ex("1.11")
def test_viterbi_equals_trying_all_segmentations():
    """the same sum as trying all segmentations, on random words"""
    p = random_probabilities()
    logp = {t: math.log(x) for t, x in p.items()}
    for _ in range(10):
        word = "".join(random.choices("ab", k=random.randint(1, 8)))
        wanted = max(sum(logp[t] for t in way) for way in all_ways(word, p))
        got = list(viterbi(word, logp, 3, -50.0))
        assert "".join(got) == word, f"{word!r} gave {got}: the tokens joined must be the word, in order"
        score = sum(logp.get(t, -50.0) for t in got)
        assert math.isclose(score, wanted), (f"{word!r} gave {got} with the sum {score:.4f}, wanted "
                                             f"{wanted:.4f}, of {logp}")


@pytest.mark.ex("1.11")
def test_a_character_without_a_token_costs_the_unknown_price():
    """a character without a token stands for itself, at the price of `unknown`; longer strings can't"""
    got = viterbi("ab", {"a": -30.0, "b": -30.0, "ab": -50.0}, 2, -20.0)
    assert list(got) == ["ab"], (
        f"'ab' with a and b: -30, ab: -50 and unknown -20 gave {got}, wanted ['ab']: a character that is a "
        "token has its own price, though it be worse than an unknown one's")
    got = viterbi("?" * 900 + "ab", {"a": -1.0, "b": -1.0, "ab": -3.0}, 2, -20.0)
    assert got == ["?"] * 900 + ["a", "b"], (
        f"900 unknown characters at -20 and 'ab' gave {len(got)} tokens that end in {got[-2:]}, wanted a, b: "
        "a long text has a sum of -18,002, and it is still better than minus infinity")
    got = viterbi("a?b", {"a": -1.0, "b": -1.0}, 1, -20.0)
    assert list(got) == ["a", "?", "b"], f"'a?b' with tokens for a and b gave {got}, wanted ['a', '?', 'b']"
    got = viterbi("?a", {"a": -1.0, "?a": -5.0}, 2, -10.0)
    assert list(got) == ["?a"], f"'?a' gave {got}, wanted ['?a']: its -5 beats -10 for ? and -1 for a"
    got = viterbi("xya", {"a": -1.0, "ya": -12.0, "xya": -30.0}, 3, -10.0)
    assert list(got) == ["x", "y", "a"], (
        f"'xya' gave {got}, wanted ['x', 'y', 'a']: -10 - 10 - 1 beats x + ya's -22 and xya's -30")


@pytest.mark.ex("1.11")
def test_no_token_longer_than_longest_is_looked_for():
    """the work grows with the length times `longest`: longer strings are not looked up"""
    class Counting(dict):
        asked = 0

        def get(self, key, default=None):
            Counting.asked = max(Counting.asked, len(key))
            return super().get(key, default)
    logp = Counting({"a": -1.0, "aa": -1.5})
    got = viterbi("a" * 9, logp, 2, -50.0)
    assert len(got) == 5, f"'aaaaaaaaa' with a: -1 and aa: -1.5 gave {got}, wanted four aa and one a"
    assert Counting.asked <= 2, f"'aaaaaaaaa' with `longest` 2 looked up {Counting.asked} characters at once"


@pytest.mark.ex("1.11")
def test_an_empty_text_has_no_tokens():
    """an empty text gives no tokens, and of equal sums the one with the longest last token is taken"""
    got = list(viterbi("", {"a": -1.0}, 1, -9.0))
    assert got == [], f"an empty text gave {got}, wanted an empty list"
    got = viterbi("aaa", {"a": -1.0, "aa": -2.0}, 2, -9.0)
    assert list(got) == ["a", "aa"], (f"'aaa' with a: -1 and aa: -2 gave {got}, wanted ['a', 'aa'], where "
                                      "all sums are -3")


# 1.12 one step of EM

@pytest.mark.ex("1.12")
def test_counts_of_one_word_are_those_worked_out_by_hand():
    """the counts of the word ab are those worked out by hand"""
    p = {"a": 0.5, "b": 0.25, "ab": 0.125, "c": 0.0625, "an unused token": 0.0625}
    counts, likelihood = expected_counts({"ab": 1}, p)
    assert isinstance(counts, dict) and counts.keys() == p.keys(), (
        f"got the counts {counts}, wanted a dictionary with every token of {list(p)}: one that does not "
        "occur has 0")
    # a + b has 0.5 x 0.25 = 0.125 and ab has 0.125: both are half of the whole, 0.25.
    for token, wanted in (("a", 0.5), ("b", 0.5), ("ab", 0.5)):
        assert math.isclose(counts[token], wanted), (f"the count of {token} is {counts[token]}, wanted "
                                                     f"{wanted}")
    assert math.isclose(likelihood, math.log(0.25)), f"the log-likelihood is {likelihood}, wanted ln 0.25"


@pytest.mark.ex("1.12")
def test_expected_counts_equal_the_average_over_all_segmentations():
    """the counts equal the average over all segmentations, each weighted by its probability"""
    p = random_probabilities()
    for _ in range(4):
        lengths = [random.randint(1, 7) for _ in range(3)]
        words = {"".join(random.choices("ab", k=n)): random.randint(1, 4) for n in lengths}
        wanted = dict.fromkeys(p, 0.0)
        log_likelihood = 0.0
        for word, times in words.items():
            ways = all_ways(word, p)
            total = sum(math.prod(p[t] for t in way) for way in ways)
            log_likelihood += times * math.log(total)
            for way in ways:
                for token in way:
                    wanted[token] += times * math.prod(p[t] for t in way) / total
        counts, got = expected_counts(words, p)
        for token in p:
            assert math.isclose(counts.get(token, 0.0), wanted[token], rel_tol=1e-6, abs_tol=1e-9), (
                f"with {p}, the words {words} gave {token!r} {counts.get(token, 0.0):.5f} times, wanted "
                f"{wanted[token]:.5f}: forward before the token, backward after it, divided by the whole "
                "word's sum")
        assert math.isclose(got, log_likelihood, rel_tol=1e-6), (f"log-likelihood {got}, wanted "
                                                                 f"{log_likelihood}")


@pytest.mark.ex("1.12")
def test_long_and_rare_tokens_count():
    """a token of fourteen characters, and one with a probability of 1e-6, are counted like others"""
    p = {"internationali": 1e-6, "inter": 0.01, "national": 0.01, "i": 0.01, "ii": 1e-4}
    counts, likelihood = expected_counts({"internationali": 4, "ii": 2}, p)
    for token, wanted in (("internationali", 2.0), ("inter", 2.0), ("national", 2.0), ("i", 4.0),
                          ("ii", 1.0)):
        assert math.isclose(counts[token], wanted), f"with {p}, {token} has {counts[token]}, wanted {wanted}"
    wanted = 4 * math.log(2e-6) + 2 * math.log(2e-4)
    assert math.isclose(likelihood, wanted), f"the log-likelihood is {likelihood}, wanted {wanted}"


@pytest.mark.ex("1.12")
def test_words_count_as_often_as_they_occur():
    """a word that occurs five times counts five times, in the counts and in the likelihood"""
    p = {"a": 0.6, "b": 0.3, "ab": 0.1}
    (one, first), (five, fifth) = expected_counts({"abba": 1}, p), expected_counts({"abba": 5}, p)
    for token in p:
        assert math.isclose(five[token], 5 * one[token]), (
            f"given abba five times, the count of {token} is {five[token]}, wanted {5 * one[token]}, five "
            "times that of abba once")
    assert math.isclose(fifth, 5 * first), (f"given abba five times, the log-likelihood is {fifth}, wanted "
                                            f"{5 * first}, five times that of abba once")


@pytest.mark.ex("1.12")
def test_the_likelihood_does_not_fall_from_step_to_step():
    """taking the counts for new probabilities never lowers the likelihood"""
    p, before = random_probabilities(), -math.inf
    words = {"".join(random.choices("ab", k=6)): random.randint(1, 3) for _ in range(4)}
    for step in range(6):
        counts, likelihood = expected_counts(words, p)
        assert likelihood >= before - 1e-9, (
            f"step {step}: the log-likelihood is {likelihood}, wanted at least {before}, as one step before")
        before, total = likelihood, sum(counts.values())
        characters = sum(len(t) * n for t, n in counts.items())
        wanted = sum(6 * n for n in words.values())
        assert math.isclose(characters, wanted, rel_tol=1e-6), (
            f"given {words}, the counted tokens have {characters} characters in all, wanted {wanted}")
        p = {t: n / total for t, n in counts.items() if n > 0}


# 1.13 byte fallback

def small_model() -> Unigram:
    """Tokens: a, b, ab, é; ids 256 for é (it is two bytes) and 257 for ab."""
    return Unigram({"a": -1.0, "b": -1.0, "é": -2.0, "ab": -2.0}, special=())


@pytest.mark.ex("1.13")
def test_known_tokens_have_their_ids():
    """a token of the vocabulary gives its one id"""
    got = small_model().ids_of_tokens(["ab", "é", "a", "ab"])
    assert got == [257, 256, 97, 257], (
        f"['ab', 'é', 'a', 'ab'] gave {got}, wanted the list [257, 256, 97, 257]")
    got = small_model().ids_of_tokens([])
    assert got == [], f"no tokens gave {got}, wanted an empty list"


@pytest.mark.ex("1.13")
def test_unknown_characters_become_their_bytes():
    """a character without a token gives the ids of its UTF-8 bytes, in order"""
    for character in "ßñ€漢\U0001F600 \n\0\ufeff":
        got = list(small_model().ids_of_tokens(["a", character, "b"]))
        wanted = [97, *character.encode(), 98]
        assert got == wanted, f"['a', {character!r}, 'b'] gave {got}, wanted {wanted}, its bytes between"


@pytest.mark.ex("1.13")
def test_ids_of_bytes_decode_to_the_text():
    """all ids together decode to the text"""
    model = small_model()
    text = "".join(random.choices("abé漢\U0001F600?", k=20))
    ids = model.ids_of_tokens(list(text))
    assert model.decode(ids) == text, (
        f"{text!r} became {list(ids)}, which decodes to {model.decode(ids)!r}, wanted the text again")
    assert max(ids) < model.vocab_size, f"got the id {max(ids)}, wanted ids below {model.vocab_size}"


# 1.14 the alphabet of bytes

@pytest.mark.ex("1.14")
def test_visible_bytes_stand_for_themselves():
    """a byte that is a visible Latin-1 character is written as that character"""
    got = byte_alphabet()
    for character in "!aZ~0¡¬®ÿé":
        assert got[ord(character)] == character, (f"byte {ord(character)} is {got[ord(character)]!r}, wanted "
                                                  f"{character!r}")


@pytest.mark.ex("1.14")
def test_hidden_bytes_are_numbered_from_256():
    """the others are the characters from U+0100 on, in order: the space is the 33rd, Ġ"""
    got = byte_alphabet()
    for byte, wanted in ((0, "Ā"), (10, "Ċ"), (32, "Ġ"), (127, "ġ"), (128, "Ģ"), (160, "ł"), (173, "Ń")):
        assert got[byte] == wanted, f"byte {byte} is {got[byte]!r}, wanted {wanted!r}"


@pytest.mark.ex("1.14")
def test_each_byte_has_a_character_of_its_own():
    """256 different characters, none of them a blank or a control character"""
    got = byte_alphabet()
    assert isinstance(got, list), f"got a {type(got).__name__}, wanted a list of 256 characters"
    assert len(got) == 256 and len(set(got)) == 256, f"{len(got)} characters, {len(set(got))} different ones"
    bad = [i for i, c in enumerate(got) if len(c) != 1 or c.isspace() or not c.isprintable()]
    assert not bad, f"the bytes {bad[:5]} are written as {[got[i] for i in bad[:5]]}, which can't be seen"
