"""Byte-pair encoding against worked examples, brute force and arbitrary text."""
import random
import warnings

import numpy as np
import pytest
import regex
import torch

import ascii_table
from bpe import EOS, SPECIAL, Known, Tokenizer, train
from bpe_naive import count_pairs, decode_naive, encode_naive, merge, train_naive
from commands import command
from linked_pieces import merge_long
from pretokenize import PATTERN, PATTERNS, splitter
from streaming import StreamDecoder
from unigram_training import train_unigram

TEXT = "low low low low low lower lower newest newest newest newest newest newest widest widest widest"
# Many scripts, combining marks, right to left, joiners, emoji with modifiers, NUL, line ends, odd blanks.
UNICODE = ("naïve e\u0301 A\u030a\u0327 שָׁלוֹם עולם مَرْحَبًا नमस्ते ไทย 한국어 日本語 Ελλάδα \U00010348 "
           "\U0002f800 👩‍👩‍👧‍👦 👍🏽 🇳🇱 \u200d\u200f\ufeff\u0000\u0007\u001c\x7f\x85\xa0\u1680\u2028\u3000 "
           "a\r\nb\rc\n\n\t d  \r\n ½²Ⅳ٣ ﬁ ſ İ ı")


@pytest.fixture(scope="module")
def tokenizer():
    return quiet(TEXT, "naïve café, 12345 tokens!\n\n  def f(x):\n    return x", size=300)


def quiet(*texts: str, size: int = 400, pattern: str = PATTERN) -> Tokenizer:
    """A tokenizer of these texts, however few merges they have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Tokenizer(train(texts, size, pattern), pattern=pattern)


def random_text(rng: random.Random, n: int) -> str:
    ranges = (32, 127), (0, 0xD800), (0x10000, 0x110000), (10, 11)
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(n))


def test_the_example_of_the_paper():
    """Sennrich et al. 2016, section 3.2: the words of their algorithm 1, without the end-of-word mark."""
    merges = train_naive(TEXT, 4, str.split)
    text = Tokenizer(merges).bytes_of
    # e+s and s+t both occur 9 times; the pair with the smaller ids, (e, s), comes first. Then es+t, also 9
    # times, then l+o, 7 times, then lo+w.
    assert text[256:] == [b"es", b"est", b"lo", b"low"]


@pytest.mark.parametrize("words", [[], ["low"], ["low", "lower", "5"], ["low", "x"], ["low", "-1"]])
def test_the_command_of_the_plain_form_says_how_it_is_called(words):
    done = command("01_tokenizer/bpe_naive.py", *words)
    assert done.returncode == 1 and done.stderr.startswith("bpe_naive.py: give a text in quotes")


def test_the_example_of_wikipedia():
    """aaabdaaabac: Z is aa, Y is ab, X is ZY, and the text becomes XdXac (Gage 1994's algorithm)."""
    merges = train_naive("aaabdaaabac", 3)
    assert merges == [(97, 97), (97, 98), (256, 257)]
    assert encode_naive("aaabdaaabac", merges) == [258, ord("d"), 258, ord("a"), ord("c")]
    assert decode_naive([258, 100], merges) == "aaabd" and decode_naive([0xC3], merges) == "\ufffd"


def test_pairs_are_counted_with_overlaps_but_merged_without():
    assert count_pairs([[1, 1, 1], [1, 1, 1]]) == {(1, 1): 4}
    assert merge([1, 1, 1], (1, 1), 9) == [9, 1]
    assert merge([1, 2, 1, 2, 3], (1, 2), 9) == [9, 9, 3]


@pytest.mark.parametrize("seed", range(20))
def test_fast_training_learns_the_naive_merges(seed):
    """200 small corpora of few letters, so that pairs tie and runs overlap; every pattern, and no cut."""
    rng = random.Random(seed)
    for _ in range(10):
        letters = rng.choice(["ab", "aab bc\u00e9\n1", "a ", "xyz.. 12\t\r\n"])
        text = "".join(rng.choices(letters, k=rng.randint(2, 60)))
        for pattern in (*PATTERNS.values(), "(?s).+"):
            tokenizer = quiet(text, size=256 + 25, pattern=pattern)
            assert tokenizer.merges == train_naive(text, 25, splitter(pattern)), (text, pattern)
            for piece in splitter(pattern)(text):
                naive = encode_naive(piece, tokenizer.merges)
                assert tokenizer.encode_piece(list(piece.encode())) == naive
                assert merge_long(piece, tokenizer.merges, tokenizer.rank) == naive


@pytest.mark.parametrize("seed", range(20))
def test_any_text_survives_the_round_trip(tokenizer, seed):
    text = random_text(random.Random(seed), 300)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_a_broad_sample_of_unicode_survives_the_round_trip(pattern):
    tokenizer = quiet(UNICODE, size=330, pattern=pattern)
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 211)]))
    for text in (UNICODE, UNICODE[::-1], everything):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert list(tokenizer.encode_iterable(text)) == tokenizer.encode(text)


def test_arbitrary_bytes_survive_the_round_trip(tokenizer):
    data = bytes(random.Random(0).randrange(256) for _ in range(5000))
    assert tokenizer.decode_bytes(tokenizer.encode_piece(list(data))) == data
    assert tokenizer.decode(list(data)) == data.decode("utf-8", "replace"), "cut characters become marks"


def test_encoding_applies_the_merges_in_the_order_they_were_learned():
    """Greedy by rank is what applying merge 0 everywhere, then merge 1, and so on, gives."""
    tokenizer = quiet(TEXT, size=270)
    for word in (" newest", " lowest", " widely", " tower"):
        assert tokenizer.encode(word) == encode_naive(word, tokenizer.merges)


def test_a_very_long_piece_takes_linear_time():
    """Hundreds of thousands of letters without a space: in quadratic time this test would run for hours."""
    tokenizer = quiet("abcabcabcaabbcca" * 50, size=290, pattern="(?s).+")
    text = "abcaab" * 100_000
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and len(ids) < len(text) / 3
    rng = random.Random(0)
    text = "".join(rng.choices("abc", k=3000))
    assert tokenizer.encode(text) == encode_naive(text, tokenizer.merges)


def test_the_fast_path_gives_the_ids_of_the_plain_path(monkeypatch):
    """Long ASCII texts with pieces of 1 to 40 bytes, twice, with a table that is full again and again."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdE_(.,09 \n\t\x00\x1c", k=rng.randint(1, 40))) for _ in range(900)]
    tokenizer = quiet(" ".join(words), size=500)
    monkeypatch.setattr(ascii_table, "FULL", 60_000)
    for _ in range(6):
        text = "".join(rng.choices(words, k=900))
        plain = [i for piece in splitter(PATTERN)(text) for i in tokenizer.encode_piece(list(piece.encode()))]
        assert tokenizer.encode(text) == plain and tokenizer.encode(text) == plain
    assert tokenizer._table is not None, "the fast path was not taken"


def test_two_pieces_in_one_slot_of_the_fast_path_keep_apart(monkeypatch):
    monkeypatch.setattr(ascii_table, "SLOT_BITS", 2)
    tokenizer = quiet(TEXT)
    text = " ".join([TEXT, "tower a b c low", "wide"] * 60)
    assert tokenizer.encode(text) == [i for p in splitter(PATTERN)(text) for i in tokenizer.encode(p)]


def test_what_is_remembered_of_pieces_is_bounded():
    known = Known(len, limit=3)
    assert [known[word] for word in ("a", "bb", "a", "c", "dd", "long" * 100)] == [1, 2, 1, 1, 2, 400]
    assert set(known) == {"dd"}, "full at three, so it began again; a long piece is not kept"


def test_merges_never_cross_pieces_and_digits_stand_alone(tokenizer):
    assert "".join(regex.findall(PATTERN, "a b  c\n\n12,x")) == "a b  c\n\n12,x"
    assert len(tokenizer.encode("12345")) == 5


def test_a_stream_holds_back_incomplete_characters(tokenizer):
    text = "déjà vu: 日本語 🙂"
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.feed(b) for b in text.encode()]   # ids of single bytes: characters in parts
    assert "".join(pieces) + decoder.finish() == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    decoder.feed("é".encode()[0])
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"


# What is refused, and what is taken.

def test_rows_of_ids_may_be_arrays_or_tensors(tokenizer):
    ids = tokenizer.encode("low newest")
    tensor = torch.tensor(ids)
    for row in (ids, tuple(ids), iter(ids), np.array(ids, np.uint16), tensor, list(tensor)):
        assert tokenizer.decode(row) == "low newest"
    for bad, message in ((torch.zeros(2, 3, dtype=torch.long), "row by row"), (torch.tensor(5), "one row"),
                         (5, "not int"), ([1.5], "1.5 is no whole number"), ("ab", "'a' is no whole number"),
                         (torch.tensor([0.5]), "no whole number"), (None, "not NoneType")):
        with pytest.raises(ValueError, match=message):
            tokenizer.decode(bad)


def test_ids_outside_the_vocabulary_are_refused(tokenizer):
    for bad in (-1, tokenizer.vocab_size, torch.tensor(-1), 10**30):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            tokenizer.decode([bad])


@pytest.mark.parametrize("text", ["ab\ud800c", "\udfff", "é" * 20_000 + " \udc80 x", "x " * 5000 + "\ud83d"],
                         ids=["middle", "alone", "after a long piece", "in a long text"])
def test_a_lone_surrogate_is_refused_with_its_place(tokenizer, text):
    place = next(i for i, c in enumerate(text) if "\ud800" <= c < "\ue000")
    for call in (tokenizer.encode, lambda t: list(tokenizer.encode_iterable([t])), lambda t: train([t], 300)):
        with pytest.raises(ValueError, match=r"lone surrogate '\\ud"):
            call(text)
    with pytest.raises(ValueError, match=f"character {place} of the text"):
        tokenizer.encode(text)


def test_what_is_no_text_is_refused(tokenizer):
    for bad in (b"bytes", 5, None, ["a"]):
        with pytest.raises(ValueError, match="encode takes a text"):
            tokenizer.encode(bad)
    with pytest.raises(ValueError, match="put it in brackets"):
        train("one string", 300)
    with pytest.raises(ValueError, match="decode bytes first"):
        train([b"bytes"], 300)


@pytest.mark.parametrize("learn", [train, train_unigram])
@pytest.mark.parametrize("size", [300.5, 300.0, float("nan"), float("inf"), "300"])
def test_a_vocabulary_that_is_no_whole_number_is_refused(learn, size):
    with pytest.raises(ValueError, match=f"vocab_size {size} is no whole number"):
        learn(["hello hello"] * 9, size)


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ValueError, match="below 256"):
        train(["x"], 100)


@pytest.mark.parametrize("texts", [[], [""], iter([]), ["", ""]])
def test_an_empty_corpus_is_refused(texts):
    with pytest.raises(ValueError, match="corpus is empty"):
        train(texts, 300)


def test_fewer_merges_than_asked_are_said():
    with pytest.warns(UserWarning, match="only 2 merges, not 44: the vocabulary has 258 tokens"):
        assert train(["aaa"], 300) == [(97, 97), (256, 97)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(["aaa"], 258) == train(["aaa"], 258)


@pytest.mark.parametrize("special, message", [
    (("<a>", "<a>"), "there twice"), (("",), "empty"), ((5,), "no text")])
def test_special_tokens_that_cannot_be_are_refused(special, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer([], special)


@pytest.mark.parametrize("merges, message", [
    ([(97, 256)], "does not exist yet"), ([(-1, 97)], "does not exist yet"),
    ([(97, 98), (97, 98)], "same pair")])
def test_merges_that_cannot_be_are_refused(merges, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(merges)


@pytest.mark.parametrize("pattern, message", [("(", "no regular expression"), ("(a)|b", "capturing group"),
                                              (5, "no regular expression")])
def test_patterns_that_cannot_be_are_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer([], pattern=pattern)


def test_a_pattern_that_loses_text_is_refused_when_it_does():
    tokenizer = Tokenizer([], pattern=r"\w+")
    assert tokenizer.encode("ab") == [97, 98]
    with pytest.raises(ValueError, match="leaves out characters"):
        tokenizer.encode("a b")


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    again = Tokenizer.load(tmp_path / "t.json")
    assert again.encode(TEXT) == tokenizer.encode(TEXT) and again.special == tokenizer.special


@pytest.mark.parametrize("damage", [
    '{"merges": [[97, 98]]', '{"merges": [[97, 999]], "special": [], "pattern": "."}', "[1]", "", "null",
    '{"merges": [], "special": [], "pattern": "("}',
    '{"merges": [[97, 98.5]], "special": [], "pattern": "."}',
    '{"merges": [[97]], "special": [], "pattern": "."}', '{"merges": [97], "special": [], "pattern": "."}',
    '{"merges": [], "special": "ab", "pattern": "."}',
    '{"merges": [], "special": ["a", "a"], "pattern": "."}',
    '{"merges": [], "special": []}', '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path, damage):
    (tmp_path / "t.json").write_text(damage)
    with pytest.raises(ValueError, match="t.json"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_binary_file_is_refused_by_name(tmp_path):
    (tmp_path / "t.model").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="t.model"):
        Tokenizer.load(tmp_path / "t.model")


def test_a_full_disk_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path / "t.json")
    before = (tmp_path / "t.json").read_bytes()

    def half(path, text, **_):
        path.write_bytes(text[:20].encode())
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("pathlib.Path.write_text", half)
    with pytest.raises(OSError):
        tokenizer.save(tmp_path / "t.json")
    assert (tmp_path / "t.json").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# Special tokens, streams.

def test_text_cannot_forge_a_special_token(tokenizer):
    for name in SPECIAL:
        ids = tokenizer.encode(f"hello {name}")
        assert max(ids) < len(tokenizer.bytes_of)
        assert tokenizer.decode(ids) == f"hello {name}"


def test_special_tokens_count_where_the_caller_allows_them(tokenizer):
    eos, user = tokenizer.special[EOS], tokenizer.special["<|user|>"]
    text = "low<|eos|> <|user|>low"
    assert tokenizer.encode(text, allowed_special={EOS}) == (tokenizer.encode("low") + [eos]
                                                             + tokenizer.encode(" <|user|>low"))
    assert tokenizer.encode(text, "all") == (tokenizer.encode("low") + [eos] + tokenizer.encode(" ") + [user]
                                             + tokenizer.encode("low"))
    assert tokenizer.encode(text, ()) == tokenizer.encode(text, None) == tokenizer.encode(text)
    for bad, message in ((EOS, "all"), (["<|nobody|>"], "no special token")):
        with pytest.raises(ValueError, match=message):
            tokenizer.encode(text, allowed_special=bad)


def test_the_longest_special_token_counts_in_streams_too():
    tokenizer = Tokenizer([(97, 98)], ("<e>", "<e><e>x", "<", "e> y"))
    rng = random.Random(0)
    for _ in range(60):
        text = "".join(rng.choices(["<e>", "<", "e", ">", "x", " ", "ab", "e> y"], k=30))
        whole = tokenizer.encode(text, "all")
        assert tokenizer.decode(whole) == text
        for size in (1, 2, 3, 7):
            blocks = [text[i:i + size] for i in range(0, len(text), size)]
            assert list(tokenizer.encode_iterable(blocks, "all")) == whole


@pytest.mark.parametrize("pattern", [*PATTERNS.values(), "(?s).+"], ids=[*PATTERNS, "one piece"])
def test_a_stream_gives_the_ids_of_the_whole_text(pattern, monkeypatch):
    monkeypatch.setattr("special_tokens.BLOCK", 8)   # so that small texts are cut often
    rng = random.Random(0)
    bits = ["'s", "'LL", " ", "  ", "\n", "\r\n", "\t", "a", "Zq", "7", "123", "!", ").", "é",
            "\u0301", "日本", "\u3000", "🙂", EOS, "<|"]
    tokenizer = quiet("".join(rng.choices(bits, k=2000)), size=330, pattern=pattern)
    for _ in range(150):
        text = "".join(rng.choices(bits, k=rng.randint(0, 60)))
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 20)))
        blocks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
        for allowed in ((), "all"):
            ids = list(tokenizer.encode_iterable(blocks, allowed))
            assert ids == tokenizer.encode(text, allowed), (blocks, allowed)


def test_a_stream_is_read_as_it_is_needed(tokenizer):
    """Of a stream without end the first ids come after a bounded part: memory is constant."""
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield "newest lower " * 100
    ids = tokenizer.encode_iterable(endless())
    first = [next(ids) for _ in range(100_000)]
    assert first == tokenizer.encode("newest lower " * 60_000)[:100_000]
    assert read < 600, "it read far ahead"
