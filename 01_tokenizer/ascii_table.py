"""The fast path of encoding: long ASCII text in columns of numbers, without a Python object for each piece.

Adds to bpe.py speed and nothing else; the ids are those of the plain path, which a test demands. One gather
finds where the pieces of a block begin, and three more fetch the ids of all its pieces from a table of pieces
seen before. Only for ASCII text and the pattern of this repository; all else takes the plain path.

    python 01_tokenizer/bench_tokenizers.py     what it gains
"""
from collections.abc import Callable
from itertools import chain

import numpy as np

SHORT = 15        # bytes of the longest piece in the table: two numbers of 64 bits, one byte for its length
SLOT_BITS = 18    # the table is a cache of fixed size: a new piece takes the slot of an older one
FULL = 1 << 20    # ids in the table, after which it begins again
LIMIT = 1 << 17   # characters of a text; fewer ids than FULL
EDGE, LETTER, DIGIT, MARK, SPACE, BLANK = range(6)   # BLANK: white space that is not " "


def begins_piece(before: int, here: int, after: int) -> bool:
    r"""Does a piece of pretokenize.PATTERN begin at a character of this kind, between two of those kinds?

    ` ?\p{L}+` and the like: a letter goes with a letter or a " " before it, a mark with a " ". `\p{N}`: each
    digit alone. `\s+(?!\S)|\s+`: white space goes with white space, but the last before something else is for
    the word.
    """
    white = (SPACE, BLANK)
    if here in white:
        return before not in white or after not in (*white, EDGE)
    return here == DIGIT or before != SPACE and not here == before == LETTER


KIND = np.array([LETTER if chr(i).isalpha() else DIGIT if chr(i).isdigit() else SPACE if i == 32 else
                 BLANK if 9 <= i <= 13 else MARK for i in range(128)], dtype=np.uint16)
BEGINS = np.array([begins_piece(i >> 6, i >> 3 & 7, i & 7) for i in range(512)])   # three kinds of 3 bits
KEEP = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)   # KEEP[n] & x: the first n bytes of x


def piece_starts(data: np.ndarray) -> np.ndarray:
    """Where the pieces begin in ASCII text, (bytes,) uint8: places (pieces,)."""
    kind = np.zeros(len(data) + 2, np.uint16)   # EDGE on both sides
    kind[1:-1] = KIND[data]
    return np.flatnonzero(BEGINS[kind[:-2] << 6 | kind[1:-1] << 3 | kind[2:]])


class AsciiTable:
    """Ids of pieces by their bytes. `ids_of(piece)` is asked for a piece that is not in the table."""

    def __init__(self, ids_of: Callable[[str], tuple[int, ...]]):
        self.ids_of = ids_of
        self.forget()

    def forget(self) -> None:
        """An empty table. No piece has length 0, so a tail of 0 marks a free slot."""
        self.head = np.zeros(1 << SLOT_BITS, np.uint64)    # bytes 0 to 7 of a piece
        self.tail = np.zeros(1 << SLOT_BITS, np.uint64)    # bytes 8 to 14, and its length in the last byte
        self.found = np.zeros(1 << SLOT_BITS, np.int64)    # where its ids begin in `ids`; 24 bits: how many
        self.ids, self.used = np.zeros(FULL, np.int32), 0

    def encode(self, text: str) -> list[int]:
        """The ids of an ASCII text of 1 to LIMIT characters."""
        data = np.frombuffer(text.encode("ascii") + bytes(16), np.uint8)
        starts = piece_starts(data[:-16])                                # (pieces,), like all that follows
        length = np.diff(starts, append=len(text))
        windows = np.ndarray(len(text) + 9, "<u8", data, strides=(1,))   # 8 bytes from each place
        head = windows[starts] & KEEP[np.minimum(length, 8)]
        tail = windows[starts + 8] & KEEP[np.clip(length - 8, 0, 7)]
        tail |= length.astype(np.uint64) << np.uint64(56)
        mixed = (head * np.uint64(0x9E3779B97F4A7C15) ^ tail) * np.uint64(0xC2B2AE3D27D4EB4F)
        slot = (mixed >> np.uint64(64 - SLOT_BITS)).astype(np.int64)

        found = self.found[slot]
        new = np.flatnonzero((self.head[slot] != head) | (self.tail[slot] != tail) | (length > SHORT))
        if len(new):
            asked = [self.ids_of(text[a:a + n]) for a, n in zip(starts[new].tolist(), length[new].tolist())]
            ids = list(chain.from_iterable(asked))
            if self.used + len(ids) > FULL:
                self.forget()
                return self.encode(text)
            self.ids[self.used:self.used + len(ids)] = ids
            number = np.array([len(a) for a in asked])
            found[new] = (self.used + np.cumsum(number) - number) << 24 | number
            self.used += len(ids)
            kept = new[length[new] <= SHORT]
            where = slot[kept]
            self.head[where], self.tail[where], self.found[where] = head[kept], tail[kept], found[kept]

        first, number = found >> 24, found & 0xFFFFFF
        ends = np.cumsum(number)   # the ids of piece p come before place ends[p] of the result
        return self.ids[np.repeat(first - ends + number, number) + np.arange(ends[-1])].tolist()
