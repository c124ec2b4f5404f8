"""Merging without quadratic time: pieces as one row of linked places, and the places of each pair.

Adds to bpe_naive.py what makes it fast. A merge there reads the whole text; here it reads the places of its
pair and their neighbours, so the time is proportional to what changes. The same idea trains
(`merge_everywhere`) and encodes a piece that is very long (`merge_long`). Used by bpe.py.
"""
import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from bpe_naive import Pair

NONE = -1   # no neighbour on this side; also what stands where a token was merged away


@dataclass
class Row:
    """All different pieces of a text, one after another, as a doubly linked list of tokens."""
    ids: list[int]                  # ids[i]: the token at place i
    left: list[int]                 # left[i], right[i]: the places of its neighbours in the same piece
    right: list[int]
    times: list[int]                # times[i]: how often the piece of place i occurs in the text
    counts: dict[Pair, int]         # how often a pair occurs in the text
    where: dict[Pair, list[int]]    # ascending places where a pair begins, maybe some where it did once


def linked_row(pieces: Mapping[str | bytes, int]) -> Row:
    """The row of the bytes of `pieces`, {text or bytes: how often it occurs}."""
    row = Row([], [], [], [], defaultdict(int), defaultdict(list))
    for piece, times in pieces.items():
        data, begin = piece if isinstance(piece, bytes) else piece.encode(), len(row.ids)
        if not data:
            continue
        end = begin + len(data)
        row.ids += data
        row.left += [NONE, *range(begin, end - 1)]
        row.right += [*range(begin + 1, end), NONE]
        row.times += [times] * len(data)
        for place, pair in enumerate(zip(data, data[1:]), begin):
            row.counts[pair] += times
            row.where[pair].append(place)
    return row


def merge_everywhere(row: Row, pair: Pair, new_id: int) -> set[Pair]:
    """Merge `pair` at the places that `row.where` names, in place; returns the pairs with `new_id`.

    Left to right, so that in a run like "aaa" the first two become one. Afterwards `pair` is in no table.
    """
    # EXERCISE 1.9 counts after a merge
    ids, left, right, counts, where = row.ids, row.left, row.right, row.counts, row.where
    a, b = pair
    created = set()
    for i in where.pop(pair):
        j = right[i]
        if ids[i] != a or j == NONE or ids[j] != b:
            continue   # an earlier merge took one of the two
        before, after, times = left[i], right[j], row.times[i]
        ids[i], ids[j], right[i] = new_id, NONE, after
        if before != NONE:
            counts[ids[before], a] -= times
            new = ids[before], new_id
            counts[new] += times
            where[new].append(before)
            created.add(new)
        if after != NONE:
            left[after] = i
            counts[b, ids[after]] -= times
            new = new_id, ids[after]
            counts[new] += times
            where[new].append(i)
            created.add(new)
    del counts[pair]
    return {new for new in created if counts[new] > 0}
    # END EXERCISE 1.9


def merge_long(piece: str | bytes, merges: list[Pair], rank: dict[Pair, int]) -> list[int]:
    """The ids of one piece, as Tokenizer.encode_piece gives them, without time quadratic in its length.

    Training again, on one piece, with merges that are known: `waiting` holds the ranks of the pairs that are
    there. A merge creates only pairs with its own new token, which were learned later, so each rank's turn
    comes once.
    """
    row = linked_row({piece: 1})
    waiting = [rank[pair] for pair in row.where if pair in rank]
    heapq.heapify(waiting)
    while waiting:
        best = heapq.heappop(waiting)
        for pair in merge_everywhere(row, merges[best], 256 + best):
            if pair in rank:
                heapq.heappush(waiting, rank[pair])
    return [i for i in row.ids if i != NONE]
