"""Pieces: the published patterns, their fast twins, and the places where a text may be cut."""
import itertools
import random
from collections import Counter

import numpy as np
import pytest
import regex

import piece_counts
from ascii_table import piece_starts
from bpe import train
from piece_counts import count_here, count_pieces
from pretokenize import PATTERN, PATTERNS, safe_parts, splitter

GPT2, CL100K, LLAMA3 = (PATTERNS[name] for name in ("GPT-2", "GPT-4 (cl100k)", "Llama 3"))
BITS = ["'s", "'LL", "'ſ", " ", "  ", "\n", "\r\n", "\t", "\x85", "\xa0", "\u3000", "\x1c",
        "a", "Zq", "7", "123", "½", "!", ").", "_", "é", "\u0301", "日本", "שלום", "🙂", "\U0002f800"]


def by_alternatives(pattern: str, text: str) -> list[str]:
    """The slow truth: from each place the first match of the pattern, one after another, to the end."""
    pieces, place = [], 0
    while place < len(text):
        found = regex.compile(pattern).match(text, place)
        pieces.append(found[0])
        place = found.end()
    return pieces


@pytest.mark.parametrize("text, ours, gpt2, cl100k, llama3", [
    ("it's 2024!!", "it|'|s| |2|0|2|4|!|!", "it|'s| 2024|!!", "it|'s| |202|4|!!", "it|'s| |202|4|!!"),
    ("IT'S", "IT|'|S", "IT|'|S", "IT|'S", "IT|'S"),
    ("a  b\n\n c", "a| | b|\n\n| c", "a| | b|\n\n| c", "a| | b|\n\n| c", "a| | b|\n\n| c"),
    ("f(x):\n\n", "f|(|x|)|:|\n\n", "f|(|x|):|\n\n", "f|(x|):\n\n", "f|(x|):\n\n"),
    ("a\n\nb", "a|\n|\n|b", "a|\n|\n|b", "a|\n\n|b", "a|\n\n|b")])
def test_the_patterns_cut_as_worked_out_by_hand(text, ours, gpt2, cl100k, llama3):
    got = ["|".join(splitter(p)(text)) for p in (PATTERN, GPT2, CL100K, LLAMA3)]
    assert got == [ours, gpt2, cl100k, llama3]


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_the_twin_for_ascii_cuts_every_short_text_alike(pattern):
    split, compiled = splitter(pattern), regex.compile(pattern)
    one = [chr(i) for i in range(128)]
    few = "aZs'7 \t\r\n._\x1c"
    for text in itertools.chain(one, map("".join, itertools.product(one, repeat=2)),
                                map("".join, itertools.product(few, repeat=4))):
        assert split(text) == compiled.findall(text), repr(text)
    assert split(" " * 40 + "x") == compiled.findall(" " * 40 + "x")


def test_the_fast_path_finds_the_beginnings_of_all_pieces():
    few = "a7 \t.\n"
    for text in map("".join, itertools.product(few, repeat=4)):
        wanted = np.cumsum([0, *map(len, splitter(PATTERN)(text))])[:-1]
        got = piece_starts(np.frombuffer(text.encode(), np.uint8))
        assert got.tolist() == wanted.tolist(), repr(text)
    everything = bytes(range(128))
    wanted = np.cumsum([0, *map(len, splitter(PATTERN)(everything.decode()))])[:-1]
    assert piece_starts(np.frombuffer(everything, np.uint8)).tolist() == wanted.tolist()


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_nothing_is_lost_and_parts_change_no_piece(pattern):
    rng = random.Random(0)
    split = splitter(pattern)
    for _ in range(300):
        text = "".join(rng.choices(BITS, k=rng.randint(0, 50)))
        pieces = split(text)
        assert pieces == by_alternatives(pattern, text) and "".join(pieces) == text
        for size in (1, 3, 10):
            parts = list(safe_parts(text, pattern, size))
            assert "".join(parts) == text
            assert [p for part in parts for p in split(part)] == pieces, (text, parts)


def test_parts_are_small_where_the_text_allows_it():
    text = "some words, and more of them. " * 200
    assert max(map(len, safe_parts(text, PATTERN, 100))) < 120
    assert list(safe_parts("x" * 1000, PATTERN, 100)) == ["x" * 1000]
    assert list(safe_parts(text, "(?s).+", 100)) == [text], "of another pattern no safe cut is known"


@pytest.mark.parametrize("processes", [1, 2, 7])
def test_the_number_of_processes_changes_no_count(processes, monkeypatch):
    monkeypatch.setattr(piece_counts, "PART", 50)
    rng = random.Random(0)
    texts = ["".join(rng.choices(BITS, k=400)) for _ in range(3)] + ["", "x"]
    wanted = Counter(piece for text in texts for piece in by_alternatives(PATTERN, text))
    got = count_pieces(iter(texts), PATTERN, processes)
    assert got == wanted
    assert train(texts, 300, processes=processes) == train(texts, 300)


def test_counting_works_after_torch_has_computed():
    torch = pytest.importorskip("torch")
    torch.ones(300, 300, requires_grad=True).matmul(torch.ones(300, 300)).sum().backward()
    assert count_pieces(["a b " * 1000, "c"], processes=2) == {"a": 1, " b": 1000, " a": 999, "c": 1, " ": 1}


def test_an_error_in_the_texts_is_told_and_ends_the_workers():
    def texts():
        yield "good"
        yield b"bad"
    with pytest.raises(ValueError, match="decode bytes first"):
        count_pieces(texts(), processes=2)
    with pytest.raises(ValueError, match="capturing group"):
        count_pieces(["a"], "(a)", processes=2)
    with pytest.raises(ValueError, match="processes 0"):
        count_pieces(["a"], processes=0)


def test_a_worker_that_dies_is_told(monkeypatch, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(piece_counts, "__file__", str(script))
    with pytest.raises(RuntimeError, match="stopped with status 3"):
        count_pieces(["a " * 100], processes=2)


def test_white_space_without_end_is_cut_in_linear_time():
    for pattern in PATTERNS.values():
        for text in (" " * 300_000 + "x", "\n " * 150_000, "\t" * 300_000, "'" * 300_000,
                     "a" * 300_000 + "é", "é" * 300_000):
            assert sum(count_here(safe_parts(text, pattern), pattern).values()) > 0
