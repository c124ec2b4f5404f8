"""Byte-pair encoding against worked examples, a brute force and arbitrary bytes."""
import random
from collections import Counter

import pytest
import regex

from bpe import PATTERN, SPECIAL, Tokenizer, train
from bpe_naive import count_pairs, merge, train_naive
from streaming import StreamDecoder

TEXT = "low low low low low lower lower newest newest newest newest newest newest widest widest widest"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train([TEXT, "naïve café, 12345 tokens!\n\n  def f(x):\n    return x"] * 3, 300))


def test_the_example_of_the_paper():
    """Sennrich et al. 2016, section 3.2, on the dictionary of their algorithm 1, without the end-of-word symbol."""
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    merges = train_naive(words, 4)
    text = {i: bytes([i]) for i in range(256)}
    for i, (a, b) in enumerate(merges):
        text[256 + i] = text[a] + text[b]
    # e+s and s+t both occur 9 times; the pair with the smaller ids, (e, s), comes first. Then es+t, then l+o (7), lo+w.
    assert [text[256 + i] for i in range(4)] == [b"es", b"est", b"lo", b"low"]


def test_pairs_are_counted_with_overlaps_but_merged_without():
    assert count_pairs({(1, 1, 1): 2}) == {(1, 1): 4}
    assert merge([1, 1, 1], (1, 1), 9) == [9, 1]
    assert merge([1, 2, 1, 2, 3], (1, 2), 9) == [9, 9, 3]


@pytest.mark.parametrize("seed", range(5))
def test_fast_training_learns_the_naive_merges(seed):
    rng = random.Random(seed)
    text = "".join(rng.choice("aab bcé\n1") for _ in range(600))
    words = Counter(regex.findall(PATTERN, text))
    assert train([text], 256 + 60) == train_naive(words, 60)


@pytest.mark.parametrize("seed", range(20))
def test_any_text_survives_the_round_trip(tokenizer, seed):
    rng = random.Random(seed)
    text = "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xD800), rng.randrange(0x10000, 0x110000), 10])) for _ in range(300))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_arbitrary_bytes_survive_the_round_trip(tokenizer):
    data = bytes(random.Random(0).randrange(256) for _ in range(5000))
    assert tokenizer.decode_bytes(tokenizer.encode_piece(list(data))) == data


def test_encoding_applies_the_merges_in_the_order_they_were_learned():
    """Greedy by rank is what applying merge 0 everywhere, then merge 1, and so on, gives."""
    tokenizer = Tokenizer(train([TEXT], 280))
    for word in (" newest", " lowest", " widely", " tower"):
        ids = list(word.encode())
        for i, pair in enumerate(tokenizer.merges):
            ids = merge(ids, pair, 256 + i)
        assert tokenizer.encode(word) == ids


def test_merges_never_cross_pieces_and_digits_stand_alone(tokenizer):
    assert "".join(regex.findall(PATTERN, "a b  c\n\n12,x")) == "a b  c\n\n12,x"
    assert len(tokenizer.encode("12345")) == 5


def test_text_cannot_forge_a_special_token(tokenizer):
    for name in SPECIAL:
        ids = tokenizer.encode(f"hello {name}")
        assert max(ids) < len(tokenizer.bytes_of)
        assert tokenizer.decode(ids) == f"hello {name}"


def test_ids_outside_the_vocabulary_are_refused(tokenizer):
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            tokenizer.decode([bad])


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    again = Tokenizer.load(tmp_path / "t.json")
    assert again.encode(TEXT) == tokenizer.encode(TEXT) and again.special == tokenizer.special


@pytest.mark.parametrize("damage", ['{"merges": [[97, 98]]', '{"merges": [[97, 999]], "special": [], "pattern": "."}', "[1]",
                                    '{"merges": [], "special": [], "pattern": "("}'])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    (tmp_path / "t.json").write_text(damage)
    with pytest.raises(ValueError, match="t.json"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="below 256"):
        train(["x"], 100)


def test_streaming_holds_back_incomplete_characters(tokenizer):
    text = "déjà vu: 日本語 🙂"
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.feed(b) for b in text.encode()]   # the ids of single bytes: every character arrives in parts
    assert "".join(pieces) + decoder.finish() == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    decoder.feed("é".encode()[0])
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"
