"""The tokenizer of this repository: byte-level BPE, fast, with special tokens.

Adds to bpe_naive.py: text is cut into pieces first (pretokenize.py), which are counted once each, by several
processes if wanted (piece_counts.py); a merge looks only at the places of its pair (linked_pieces.py); pieces
seen lately are remembered; special tokens mark structure and ordinary text can't produce them
(special_tokens.py).

    python 01_tokenizer/run.py             trains it on the corpus
    python 01_tokenizer/bpe.py             trains both versions side by side and compares
"""
import heapq
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from ascii_table import LIMIT, AsciiTable
from bpe_naive import Pair, bytes_of_tokens, train_naive
from linked_pieces import linked_row, merge_everywhere, merge_long
from piece_counts import count_pieces, surrogate_message
from pretokenize import PATTERN, safe_parts, splitter, whole
from special_tokens import allowed_names, check_special, split_special, stream_parts
from workbench import read_json, write_json

EOS, USER, BOT, PAD = SPECIAL = ("<|eos|>", "<|user|>", "<|bot|>", "<|pad|>")
LONG = 128   # bytes of a piece from which linked places beat the plain loop of encode_piece


def train(texts: Iterable[str], vocab_size: int, pattern: str = PATTERN, processes: int = 1,
          told: Callable[[int], None] = lambda done: None) -> list[Pair]:
    """Learn the merges of a vocabulary of `vocab_size` tokens: 256 bytes and the merges, no special tokens.

    The merges of bpe_naive.train_naive, whatever `processes` is. Fewer, and a warning that says how many,
    when the text has no more pairs; ValueError for a text without any. `told` hears how many merges are done.
    A heap holds (-count, pair). A count that has changed since it was pushed is stale and is pushed again
    with its true value when it comes to the top ("lazy" heap); counts of old pairs only fall, so none is met
    too late.
    """
    if not hasattr(vocab_size, "__index__"):  # 300.5 and NaN would end somewhere, without a word
        raise ValueError(f"vocab_size {vocab_size} is no whole number: give one from 256 on")
    if vocab_size < 256:
        raise ValueError(f"vocab_size {vocab_size} is below 256: byte-level BPE starts with one token for "
                         "each byte")
    row = linked_row(count_pieces(texts, pattern, processes))
    if not row.ids:
        raise ValueError("the corpus is empty: a tokenizer is learned from text, give some")
    heap = [(-n, pair) for pair, n in row.counts.items()]
    heapq.heapify(heap)

    merges = []
    while len(merges) < vocab_size - 256 and heap:
        n, pair = heapq.heappop(heap)
        count = row.counts.get(pair, 0)
        if count != -n:
            if count > 0:
                heapq.heappush(heap, (-count, pair))
            continue
        merges.append(pair)
        for new in merge_everywhere(row, pair, 255 + len(merges)):
            heapq.heappush(heap, (-row.counts[new], new))
        told(len(merges))
    if len(merges) < vocab_size - 256:
        warnings.warn(f"the text has only {len(merges)} merges, not {vocab_size - 256}: the vocabulary has "
                      f"{256 + len(merges)} tokens; give more text for more", stacklevel=2)
    return merges


class Known(dict):
    """A dictionary that computes what is missing and keeps `limit` entries, then begins again."""

    def __init__(self, compute: Callable, limit: int = 1 << 17):
        super().__init__()
        self.compute, self.limit = compute, limit

    def __missing__(self, piece: str):
        value = self.compute(piece)
        if len(piece) <= LONG:   # a longer one will not come again
            if len(self) >= self.limit:
                self.clear()
            self[piece] = value
        return value


class Tokenizer:
    """Text to ids and back. Ids 0 to 255 are the bytes, then one id a merge, then the special tokens."""

    def __init__(self, merges: Iterable[Pair], special: Iterable[str] = SPECIAL, pattern: str = PATTERN):
        """ValueError for merges of tokens that do not exist yet, bad special tokens, and bad patterns."""
        self.merges, self.pattern = [(a, b) for a, b in merges], pattern
        for i, pair in enumerate(self.merges):
            if not 0 <= min(pair) <= max(pair) < 256 + i:
                raise ValueError(f"merge {i} {pair} uses a token that does not exist yet: are the merges in "
                                 "order?")
        self.rank = {pair: i for i, pair in enumerate(self.merges)}
        if len(self.rank) < len(self.merges):
            raise ValueError("two merges are the same pair: each can be learned once only")
        self.bytes_of = bytes_of_tokens(self.merges)
        special = tuple(special)
        check_special(special)
        self.special = {text: len(self.bytes_of) + i for i, text in enumerate(special)}
        self._special_of = {i: text for text, i in self.special.items()}
        self._split = splitter(pattern)
        self._ids_of = Known(self._encode_unseen)    # most text is pieces seen before
        self._table: AsciiTable | None = None        # the same for long ASCII texts

    def __reduce__(self):
        """Pickled as what it was made from."""
        return type(self), (self.merges, tuple(self.special), self.pattern)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.bytes_of) + len(self.special)

    def encode_piece(self, ids: list[int]) -> list[int]:
        """Merge the bytes of one piece: always the pair that was learned first, until none is left."""
        # EXERCISE 1.7 encode one piece
        ids, unknown = list(ids), len(self.merges)
        ranks = [self.rank.get(pair, unknown) for pair in zip(ids, ids[1:])]
        while ranks and (best := min(ranks)) < unknown:
            i = ranks.index(best)
            ids[i:i + 2] = [256 + best]
            del ranks[i]   # the pairs on both sides have a new neighbour
            if i > 0:
                ranks[i - 1] = self.rank.get((ids[i - 1], ids[i]), unknown)
            if i < len(ranks):
                ranks[i] = self.rank.get((ids[i], ids[i + 1]), unknown)
        return ids
        # END EXERCISE 1.7

    def encode_bytes(self, piece: bytes) -> list[int]:
        """The ids of the bytes of one piece, however long it is and whether or not they are text."""
        if len(piece) > LONG:   # the loop of encode_piece takes the square of the length
            return merge_long(piece, self.merges, self.rank)
        return self.encode_piece(list(piece))

    def _encode_unseen(self, piece: str) -> tuple[int, ...]:
        return tuple(self.encode_bytes(piece.encode()))

    def _encode_text(self, text: str) -> list[int]:
        out: list[int] = []
        try:
            for part in safe_parts(text, self.pattern):
                if self.pattern == PATTERN and 4096 < len(part) < LIMIT and part.isascii():   # fast path
                    self._table = self._table or AsciiTable(self._ids_of.__getitem__)
                    out += self._table.encode(part)
                else:
                    for ids in map(self._ids_of.__getitem__, whole(self._split(part), part, self.pattern)):
                        out += ids
        except UnicodeEncodeError:
            raise ValueError(surrogate_message(text)) from None
        return out

    def encode(self, text: str, allowed_special: str | Collection[str] = ()) -> list[int]:
        """Ids of a text. A special token's name in it is text too, so that nobody can forge structure, unless
        it is in `allowed_special`: a set of names, or "all". Where several begin at one place the longest
        counts.
        """
        if not isinstance(text, str):
            raise ValueError(f"encode takes a text (str), not {type(text).__name__}")
        if not allowed_special:
            return self._encode_text(text)
        out = []
        for part, is_special in split_special(text, allowed_names(allowed_special, self.special)):
            out += [self.special[part]] if is_special else self._encode_text(part)
        return out

    def encode_iterable(self, blocks: Iterable[str],
                        allowed_special: str | Collection[str] = ()) -> Iterator[int]:
        """The ids of a text that arrives in blocks, the lines of an open file for example, one by one.

        The same as encode of all blocks joined, wherever they are cut, in constant memory (but for a piece
        that is itself larger than that, and for patterns that are not in pretokenize.py, where no safe cut is
        known).
        """
        names = allowed_names(allowed_special, self.special)
        for part, is_special in stream_parts(blocks, self.pattern, names):
            yield from [self.special[part]] if is_special else self._encode_text(part)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes behind ids (a list, an array or a tensor (T,)); special tokens appear by name.

        Raises ValueError for an id that does not exist.
        """
        ids = plain_ids(ids)
        # EXERCISE 1.5 ids to bytes
        out = []
        for i in ids:
            if 0 <= i < len(self.bytes_of):
                out.append(self.bytes_of[i])
            elif i in self._special_of:
                out.append(self._special_of[i].encode())
            else:
                raise ValueError(f"token id {i} is outside the vocabulary "
                                 f"of {self.vocab_size}: "
                                 "was another tokenizer used?")
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
        if isinstance(data, dict) and "model" in data:
            raise ValueError(f"{path} is a Hugging Face tokenizer.json: read it with formats.from_hf")
        try:
            numbers = all(type(i) is int for pair in data["merges"] for i in pair)
            if not numbers or not isinstance(data["special"], list):
                raise TypeError("special tokens are a list, merges pairs of whole numbers")
            return cls(data["merges"], data["special"], data["pattern"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a tokenizer file ({error}): delete it and run `make 01` "
                             "again") from None


def plain_ids(ids: Any) -> list[int]:
    """Ids as whole numbers, from a list, an array or a tensor. Anything else is a ValueError."""
    try:
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    except TypeError:
        raise ValueError(f"decode takes a row of ids, not {type(ids).__name__}: put one id in a "
                         "list") from None
    if not isinstance(ids, list) or any(isinstance(i, list) for i in ids):
        raise ValueError("decode takes one row of ids: for a batch, decode row by row; for one id, put it "
                         "in a list")
    ids = [i.item() if hasattr(i, "item") else i for i in ids]
    wrong = next((i for i in ids if not isinstance(i, int)), None)
    if wrong is not None:
        raise ValueError(f"token id {wrong!r} is no whole number")
    return ids


if __name__ == "__main__":
    from corpus import real_text

    sample = "\n".join(real_text()[:400])
    begin = time.process_time()
    fast = train([sample], 256 + 50)
    middle = time.process_time()
    slow = train_naive(sample, 50, splitter(PATTERN))
    print(f"{len(sample):,} characters, 50 merges: the same merges {fast == slow}, "
          f"{(time.process_time() - middle) / (middle - begin):.0f} times as fast as counting again")
