"""The tokenizer of this repository: byte-level BPE with a regex that cuts words first, special tokens, fast training.

Adds three ideas to bpe_naive.py: text is first cut into pieces that merges never cross (Radford et al. 2019);
training updates the pair counts where a merge happened in place of counting again; special tokens mark structure
and can never be produced by ordinary text.

    python 01_tokenizer/run.py             trains it on the corpus
    python 01_tokenizer/bpe.py             trains both versions side by side and compares
"""
import heapq
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import regex

from bpe_naive import merge, train_naive
from workbench import read_json, write_json

# A word with its leading space | one digit (so that numbers line up digit by digit) | punctuation | white space.
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+"
Pair = tuple[int, int]
EOS, USER, BOT, PAD = SPECIAL = ("<|eos|>", "<|user|>", "<|bot|>", "<|pad|>")


def train(texts: Iterable[str], vocab_size: int, pattern: str = PATTERN) -> list[tuple[int, int]]:
    """Learn the merges of a vocabulary of `vocab_size` tokens (256 bytes + merges, special tokens not counted).

    Same result as bpe_naive.train_naive. A heap holds (-count, pair); a count that has changed since it was pushed is
    stale and is pushed again with its true value ("lazy" heap). `where` knows which words a pair may occur in.
    """
    if vocab_size < 256:
        raise ValueError(f"vocab_size {vocab_size} is below 256: byte-level BPE starts with one token for each byte")
    counted = Counter(itertools.chain.from_iterable(regex.findall(pattern, text) for text in texts))
    words = [list(word.encode()) for word in counted]
    times = list(counted.values())

    counts, where = Counter(), defaultdict(set)
    for w, word in enumerate(words):
        for pair in zip(word, word[1:]):
            counts[pair] += times[w]
            where[pair].add(w)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)

    merges = []
    while len(merges) < vocab_size - 256 and heap:
        n, pair = heapq.heappop(heap)
        if counts[pair] != -n:
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        new_id = 256 + len(merges)
        merges.append(pair)
        # Counts of old pairs only fall, so their stale entries are caught above; only new pairs must be pushed.
        for p in merge_everywhere(words, times, counts, where, pair, new_id):
            heapq.heappush(heap, (-counts[p], p))
    return merges


def merge_everywhere(words: list[list[int]], times: list[int], counts: Counter, where: dict[Pair, set[int]],
                     pair: Pair, new_id: int) -> set[Pair]:
    """Merge `pair` in the words that `where` names and correct all tables in place; returns the pairs with `new_id`.

    words[w] occurs times[w] times; counts[p] is how often p occurs in all; where[p] has every w whose word contains p,
    and maybe some that did once. Afterwards `pair` is in no table of `where`.
    """
    # EXERCISE 1.9 counts after a merge
    created = set()
    for w in where.pop(pair):
        before, after = words[w], merge(words[w], pair, new_id)
        for p in zip(before, before[1:]):
            counts[p] -= times[w]
        for p in zip(after, after[1:]):
            counts[p] += times[w]
            if new_id in p:
                where[p].add(w)
                created.add(p)
        words[w] = after
    return created
    # END EXERCISE 1.9


class Tokenizer:
    """Text to token ids and back. Ids 0 to 255 are the bytes, then one id a merge, then the special tokens."""

    def __init__(self, merges: list[tuple[int, int]], special: tuple[str, ...] = SPECIAL, pattern: str = PATTERN):
        self.merges, self.pattern = [tuple(p) for p in merges], pattern
        self.rank = {pair: i for i, pair in enumerate(self.merges)}
        self.bytes_of = [bytes([i]) for i in range(256)]
        for a, b in self.merges:
            self.bytes_of.append(self.bytes_of[a] + self.bytes_of[b])
        self.special = {text: len(self.bytes_of) + i for i, text in enumerate(special)}
        self._special_of = {i: text for text, i in self.special.items()}
        self._cut = regex.compile(pattern).findall
        self._known: dict[str, list[int]] = {}   # pieces encoded before: most text is words seen already

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.bytes_of) + len(self.special)

    def encode_piece(self, ids: list[int]) -> list[int]:
        """Merge the bytes of one piece: always the pair that was learned first, until none is left."""
        # EXERCISE 1.7 encode one piece
        while len(ids) > 1:
            pair = min(zip(ids, ids[1:]), key=lambda p: self.rank.get(p, len(self.merges)))
            if pair not in self.rank:
                break
            ids = merge(ids, pair, 256 + self.rank[pair])
        return ids
        # END EXERCISE 1.7

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. A special token's name inside it is text too: a user cannot forge structure."""
        out = []
        for piece in self._cut(text):
            ids = self._known.get(piece)
            if ids is None:
                ids = self._known[piece] = self.encode_piece(list(piece.encode()))
            out += ids
        return out

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes behind ids; special tokens appear by name. Raises ValueError for an id that does not exist."""
        # EXERCISE 1.5 ids to bytes
        out = []
        for i in ids:
            if 0 <= i < len(self.bytes_of):
                out.append(self.bytes_of[i])
            elif i in self._special_of:
                out.append(self._special_of[i].encode())
            else:
                raise ValueError(f"token id {i} is outside the vocabulary of {self.vocab_size}: was another tokenizer used?")
        return b"".join(out)
        # END EXERCISE 1.5

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text. Bytes that are not UTF-8 (a character cut in half) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, path: Path | str) -> None:
        """Write the tokenizer as JSON, atomically."""
        write_json(path, {"pattern": self.pattern, "special": list(self.special), "merges": self.merges})

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a tokenizer; a file that is not one gives a ValueError that names it."""
        data = read_json(path)
        try:
            merges = [(int(a), int(b)) for a, b in data["merges"]]
            if any(max(pair) >= 256 + i or min(pair) < 0 for i, pair in enumerate(merges)):
                raise ValueError("a merge uses a token that does not exist yet")
            return cls(merges, tuple(data["special"]), data["pattern"])
        except (KeyError, TypeError, ValueError, regex.error) as error:
            raise ValueError(f"{path} is not a tokenizer file ({error}): delete it and run `make 01` again") from None


if __name__ == "__main__":
    from corpus import real_text

    sample = real_text()[:400]
    begin = time.process_time()
    fast = train(sample, 256 + 300)
    middle = time.process_time()
    slow = train_naive(Counter(itertools.chain.from_iterable(regex.findall(PATTERN, text) for text in sample)), 300)
    print(f"{sum(map(len, sample)):,} characters, 300 merges: the same merges {fast == slow}, "
          f"{(time.process_time() - middle) / (middle - begin):.0f} times as fast as counting again")
