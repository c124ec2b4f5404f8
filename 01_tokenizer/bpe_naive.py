"""Byte-pair encoding in its plainest form: count all pairs, join the most frequent, repeat.

Source: Sennrich, Haddow, Birch 2016 (section 3.2, on characters); Radford et al. 2019 (section 2.2, on
bytes). Slow on purpose: every merge counts the whole text again. `bpe.py` gives the same merges many times
faster, and the tests hold the two equal.

    python 01_tokenizer/bpe_naive.py "low lower lowest" 5
"""
import sys
from collections import Counter
from collections.abc import Callable

Pair = tuple[int, int]


def count_pairs(pieces: list[list[int]]) -> Counter:
    """How often each pair of neighbours occurs. [[1, 2, 1, 2], [2, 1]] gives {(1, 2): 2, (2, 1): 2}."""
    # EXERCISE 1.1 pair counts
    counts = Counter()
    for ids in pieces:
        for pair in zip(ids, ids[1:]):
            counts[pair] += 1
    return counts
    # END EXERCISE 1.1


def merge(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """Replace each `pair` in `ids` by `new_id`, from the left. merge([1, 1, 1], (1, 1), 9) gives [9, 1]."""
    # EXERCISE 1.2 merge a pair
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            out.append(new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out
    # END EXERCISE 1.2


def train_naive(text: str, n_merges: int,
                split: Callable[[str], list[str]] = lambda text: [text]) -> list[Pair]:
    """Learn merges from a text; merge number i creates token 256 + i.

    Among equally frequent pairs the one with the smaller ids wins. Stops early when no pair is left. `split`
    cuts the text into pieces that no merge may cross (pretokenize.py says why); without it the text is one
    piece.
    """
    # EXERCISE 1.6 learn the merges
    pieces = [list(piece.encode()) for piece in split(text)]
    merges = []
    for new_id in range(256, 256 + n_merges):
        counts = count_pairs(pieces)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        pieces = [merge(ids, best, new_id) for ids in pieces]
        merges.append(best)
    return merges
    # END EXERCISE 1.6


def encode_naive(text: str, merges: list[Pair]) -> list[int]:
    """Text to ids: start from the bytes and repeat the merges, in the order they were learned."""
    ids = list(text.encode())
    for new_id, pair in enumerate(merges, 256):
        ids = merge(ids, pair, new_id)
    return ids


def bytes_of_tokens(merges: list[Pair]) -> list[bytes]:
    """The bytes that each id stands for: 256 single bytes, then each merge's two halves joined."""
    bytes_of = [bytes([i]) for i in range(256)]
    for a, b in merges:
        bytes_of.append(bytes_of[a] + bytes_of[b])
    return bytes_of


def decode_naive(ids: list[int], merges: list[Pair]) -> str:
    """Ids to text. Half a character becomes the mark U+FFFD."""
    bytes_of = bytes_of_tokens(merges)
    return b"".join(bytes_of[i] for i in ids).decode("utf-8", errors="replace")


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        sys.exit("bpe_naive.py: give a text in quotes and a number of merges: "
                 'python 01_tokenizer/bpe_naive.py "low lower lowest" 5')
    text, n = sys.argv[1].encode(errors="surrogateescape").decode(errors="replace"), int(sys.argv[2])
    merges = train_naive(text, n)
    spelled = bytes_of_tokens(merges)
    for new_id, (a, b) in enumerate(merges, 256):
        print(f"{new_id}: {spelled[a]!r} + {spelled[b]!r} -> {spelled[new_id]!r}")
    ids = encode_naive(text, merges)
    print(f"{len(text.encode())} bytes, {len(ids)} tokens: {ids}")
    print(" | ".join(spelled[i].decode("utf-8", "replace") for i in ids))
    assert decode_naive(ids, merges) == text
