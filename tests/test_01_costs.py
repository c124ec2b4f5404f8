"""What a tokenizer costs, on numbers that can be worked out."""
import pytest

from bpe import Tokenizer
from tokenizer_costs import BODY, KINDS, LANGUAGES, WIDTH, by_size, bytes_per_token, tokens_of

TEXT = "the lower the newer the widest tower of the town " * 20


def test_bytes_a_token_by_hand():
    assert bytes_per_token(Tokenizer([]), "abcé") == 1.0
    assert bytes_per_token(Tokenizer([(97, 98)]), "abab") == 2.0


def test_sizes_are_those_asked_and_the_embedding_is_counted():
    rows = by_size([TEXT], TEXT, [270, 280, 100_000])
    assert [row["vocabulary"] for row in rows] == [270, 280], "the text has no 99,740 merges: the list ends"
    assert rows[0]["embedding"] == 270 * WIDTH
    assert rows[0]["share"] == pytest.approx(270 * WIDTH / (270 * WIDTH + BODY))
    assert rows[0]["bpe"] < rows[1]["bpe"] and rows[1]["unigram"] > 1


def test_texts_are_counted_in_characters_bytes_and_tokens():
    assert tokens_of(Tokenizer([]), {"a": "é日"}) == {"a": {"characters": 2, "bytes": 5, "tokens": 5}}
    for name, row in tokens_of(Tokenizer([]), KINDS | LANGUAGES).items():
        assert row["tokens"] == row["bytes"] >= row["characters"] > 0, name
