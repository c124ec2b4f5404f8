"""Byte-level byte-pair encoding in its plainest form: count all pairs, merge the most frequent, repeat.

Source: Sennrich, Haddow, Birch 2016 (section 3.2, on characters); Radford et al. 2019 (section 2.2, on bytes).
Slow on purpose: every merge counts the whole text again. `bpe.py` gives the same merges tens of times faster (more for longer texts),
and the tests hold the two equal.

    python 01_tokenizer/bpe_naive.py "low lower lowest" 5
"""
import sys
from collections import Counter


def count_pairs(words: dict[tuple[int, ...], int]) -> Counter:
    """How often each pair of neighbours occurs. {(1, 2, 1, 2): 3} gives {(1, 2): 6, (2, 1): 3}."""
    # EXERCISE 1.1 pair counts
    counts = Counter()
    for word, times in words.items():
        for pair in zip(word, word[1:]):
            counts[pair] += times
    return counts
    # END EXERCISE 1.1


def merge(ids: list[int] | tuple[int, ...], pair: tuple[int, int], new_id: int) -> list[int]:
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


def train_naive(words: dict[str, int], n_merges: int) -> list[tuple[int, int]]:
    """Learn merges from words and how often each occurs; merge number i creates token 256 + i.

    Among equally frequent pairs the one with the smaller ids wins. Stops early when no pair is left.
    """
    # EXERCISE 1.6 learn the merges
    coded = {tuple(word.encode()): times for word, times in words.items()}
    merges = []
    for i in range(n_merges):
        counts = count_pairs(coded)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        coded = {tuple(merge(word, best, 256 + i)): times for word, times in coded.items()}
        merges.append(best)
    return merges
    # END EXERCISE 1.6


if __name__ == "__main__":
    text, n = sys.argv[1], int(sys.argv[2])
    vocabulary = {i: bytes([i]) for i in range(256)}
    for i, (a, b) in enumerate(train_naive(Counter(text.split()), n)):
        vocabulary[256 + i] = vocabulary[a] + vocabulary[b]
        print(f"{256 + i}: {vocabulary[a]!r} + {vocabulary[b]!r} -> {vocabulary[256 + i]!r}")
