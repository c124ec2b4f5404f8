"""The Unigram tokenizer against the enumeration of all segmentations, and text that must survive."""
import math
import random
import warnings
from collections import Counter

import pytest

from unigram import UNKNOWN_PENALTY, Unigram, sample, viterbi
from unigram_training import expected_counts, frequent_characters, losses, normalised, train_unigram

TEXT = ["the lower the newer, the widest tower of the town is lower than the newest tower of towns " * 4,
        "naïve cafés: 12345 日本語 🙂\n\n  the the"]


def segmentations(word: str, p: dict[str, float]):
    """Every way to cut a word into tokens, with its probability."""
    if not word:
        yield (), 1.0
    for end in range(1, len(word) + 1):
        if word[:end] in p:
            for rest, probability in segmentations(word[end:], p):
                yield (word[:end], *rest), p[word[:end]] * probability


def random_model(rng: random.Random, letters: str = "abc", n: int = 9) -> dict[str, float]:
    """Random probabilities for the letters and some strings of them."""
    tokens = {*letters, *("".join(rng.choices(letters, k=rng.randint(2, 4))) for _ in range(n))}
    weights = {t: rng.random() + 0.01 for t in sorted(tokens)}
    total = sum(weights.values())
    return {t: w / total for t, w in weights.items()}


@pytest.fixture(scope="module")
def model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Unigram(train_unigram(TEXT, 256 + 40))


@pytest.mark.parametrize("seed", range(30))
def test_viterbi_finds_the_best_of_all_segmentations(seed):
    rng = random.Random(seed)
    p = random_model(rng)
    logp = {t: math.log(x) for t, x in p.items()}
    for _ in range(10):
        word = "".join(rng.choices("abc", k=rng.randint(0, 9)))
        best = max(segmentations(word, p), key=lambda found: found[1])
        got = viterbi(word, logp, 4, -99.0)
        assert math.prod(p[t] for t in got) == pytest.approx(best[1], rel=1e-12) and "".join(got) == word


@pytest.mark.parametrize("seed", range(30))
def test_expected_counts_are_those_of_all_segmentations(seed):
    rng = random.Random(seed)
    p = random_model(rng)
    words = {"".join(rng.choices("abc", k=rng.randint(1, 8))): rng.randint(1, 5) for _ in range(6)}
    wanted, likelihood = Counter(), 0.0
    for word, times in words.items():
        ways = list(segmentations(word, p))
        total = sum(probability for _, probability in ways)
        likelihood += times * math.log(total)
        for tokens, probability in ways:
            for token in tokens:
                wanted[token] += times * probability / total
    counts, got = expected_counts(words, p)
    assert got == pytest.approx(likelihood, rel=1e-12)
    for token in p:
        assert counts[token] == pytest.approx(wanted[token], rel=1e-9, abs=1e-12)
    # The marginals of a word's characters are one each: the tokens' lengths add up to the text.
    characters = sum(len(word) * times for word, times in words.items())
    assert sum(len(t) * n for t, n in counts.items()) == pytest.approx(characters)


@pytest.mark.parametrize("seed", range(5))
def test_the_likelihood_never_falls_under_em(seed):
    rng = random.Random(seed)
    p = random_model(rng)
    words = {"".join(rng.choices("abc", k=rng.randint(1, 8))): rng.randint(1, 5) for _ in range(8)}
    before = -math.inf
    for _ in range(25):
        counts, likelihood = expected_counts(words, p)
        assert likelihood >= before - 1e-9
        before = likelihood
        total = sum(counts.values())
        p = {t: n / total for t, n in counts.items() if n > 0}


def test_the_loss_of_a_token_is_what_viterbi_loses_without_it():
    p = {"a": 0.2, "b": 0.2, "ab": 0.5, "abab": 0.1}
    lost = losses({"a": 1, "b": 1, "ab": 7.0, "abab": 3.0}, p, {"a", "b"})
    assert lost == pytest.approx({"ab": 7 * (math.log(0.5) - 2 * math.log(0.2)),
                                  "abab": 3 * (math.log(0.1) - 2 * math.log(0.5))})
    assert lost["abab"] < 0, "two times ab is more probable than abab: the text would gain"


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_samples_come_as_often_as_their_probability_says(alpha):
    p = {"a": 0.3, "b": 0.2, "ab": 0.25, "ba": 0.15, "aba": 0.1}
    ways = dict(segmentations("ababa", p))
    total = sum(x ** alpha for x in ways.values())
    rng, n = random.Random(0), 8000
    logp = {t: math.log(x) for t, x in p.items()}
    got = Counter(tuple(sample("ababa", logp, 3, -99.0, alpha, rng)) for _ in range(n))
    assert set(got) <= set(ways)
    for way, probability in ways.items():
        expected = probability ** alpha / total
        assert abs(got[way] / n - expected) < 5 * math.sqrt(expected / n), way


def test_a_large_alpha_gives_the_best_segmentation(model):
    rng = random.Random(0)
    for text in ("the lowest town", "naïve", "xyz!", ""):
        assert model.sample(text, 200.0, rng) == model.encode(text)
        assert model.decode(model.sample(text, 0.0, rng)) == text


@pytest.mark.parametrize("seed", range(10))
def test_any_text_survives_the_round_trip(model, seed):
    rng = random.Random(seed)
    ranges = (32, 127), (0, 0xD800), (0x10000, 0x110000), (10, 11)
    text = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(200))
    assert model.decode(model.encode(text)) == text


def test_what_has_no_token_is_bytes():
    model = Unigram({"a": math.log(0.5), "日": math.log(0.25), "ab": math.log(0.25)}, special=("<s>",))
    assert model.tokens == ["日", "ab"] and model.special == {"<s>": 258} and model.vocab_size == 259
    assert model.encode("aab日本") == [97, 257, 256, *"本".encode()]
    assert model.decode([*"本".encode()[:2]]) == "\ufffd" and model.decode([258, 97]) == "<s>a"
    assert model.unknown == math.log(0.25) - UNKNOWN_PENALTY


def test_training_finds_words_and_reaches_the_size(model):
    assert len(model.bytes_of) <= 256 + 40
    assert " the" in model.logp and " tower" in model.logp
    assert len(model.encode(TEXT[0])) < len(TEXT[0]) / 3
    assert math.fsum(map(math.exp, model.logp.values())) == pytest.approx(1)


def test_the_number_of_processes_does_not_change_the_model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert train_unigram(TEXT, 300) == train_unigram(TEXT, 300, processes=2)


def test_the_alphabet_covers_nearly_all_characters():
    words = {"a" * 10_000: 1, "é" * 100: 1, "日": 1, "b": 1}
    assert frequent_characters(words) == {"a", "é", "b"}, "日 is one of 10,102 characters: bytes will do"
    assert normalised({"a": 3.0, "bc": 0.4, "d": 0.0}, {"a", "d"}).keys() == {"a", "d"}


@pytest.mark.parametrize("texts, size, message", [
    ([], 300, "corpus is empty"), ([""], 300, "corpus is empty"), ("text", 300, "in brackets"),
    (["日本語"], 256, "need 259"), (["a\ud800"], 300, "lone surrogate")])
def test_what_cannot_be_learned_is_said(texts, size, message):
    with pytest.raises(ValueError, match=message):
        train_unigram(texts, size)


def test_fewer_tokens_than_asked_are_said():
    with pytest.warns(UserWarning, match="only 2 tokens that are used, not 44"):
        train_unigram(["ab ab ab"], 300)


@pytest.mark.parametrize("logp", [{}, {"a": 0.1}, {"": -1.0}, {"a": -math.inf},
                                  {"a": float("nan")}, {5: -1.0}])
def test_what_is_no_model_is_refused(logp):
    with pytest.raises(ValueError, match="at least one token"):
        Unigram(logp)


def test_a_saved_model_is_the_same_and_others_are_refused(model, tmp_path):
    model.save(tmp_path / "u.json")
    again = Unigram.load(tmp_path / "u.json")
    assert again.encode(TEXT[1]) == model.encode(TEXT[1]) and again.special == model.special
    for damage in ("{}", "[]", '{"unigram": [1], "special": [], "pattern": "."}', "x"):
        (tmp_path / "u.json").write_text(damage)
        with pytest.raises(ValueError, match="u.json"):
            Unigram.load(tmp_path / "u.json")


def test_ids_and_texts_that_cannot_be_are_refused(model):
    for bad in ([-1], [model.vocab_size], [1.5]):
        with pytest.raises(ValueError, match="outside the vocabulary|whole number"):
            model.decode(bad)
    with pytest.raises(ValueError, match="lone surrogate"):
        model.encode("a\udc00")
    with pytest.raises(ValueError, match="takes a text"):
        model.encode(b"a")


def test_a_pattern_that_loses_text_and_weights_that_cannot_be_are_refused(model):
    lossy = Unigram({"a": -1.0, "b": -2.0}, (), r"\w+")
    assert lossy.encode("ab") == [97, 98]
    for call in (lossy.encode, lambda text: lossy.sample(text, 0.5, random.Random(0))):
        with pytest.raises(ValueError, match="leaves out characters"):
            call("a b")
    for alpha in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"alpha {alpha}"):
            model.sample("the", alpha, random.Random(0))
    with pytest.raises(ValueError, match="lone surrogate"):
        model.sample("a\ud800", 0.5, random.Random(0))


def test_a_very_long_piece_takes_linear_time(model):
    text = "tower" * 20_000
    assert model.decode(model.encode(text)) == text
