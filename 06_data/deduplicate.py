"""Finding copies: exact ones by hash, near ones by MinHash and locality-sensitive hashing.

Comes after the filters, because comparing is the step whose cost grows with the corpus. Two texts are as
similar as the share of five-word shingles they have in common (Jaccard). A MinHash signature is a short
vector in which each entry agrees between two texts with exactly that probability; cutting it into bands turns
"more similar than about 0.8" into "equal in one band", which a sort finds without comparing all pairs.

Sources: Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets" chapter 3; multiply-shift
hashing: Dietzfelbinger et al. 1997; Lee et al. 2022, "Deduplicating training data makes language models
better".

    python 06_data/bench_data.py               speed against datasketch (make bench)
"""
import hashlib
from collections.abc import Callable, Iterable

import numpy as np

SHINGLE = 5                                                  # words
PERMUTATIONS = 128
THRESHOLD = 0.8
EMPTY = np.uint32(0xFFFFFFFF)
_P = np.uint64(0x9E3779B97F4A7C15)                           # odd, so it has an inverse modulo 2^64
_P_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_WORD_BYTE = np.array([b >= 128 or chr(b).isalnum() for b in range(256)])
_POWERS: list[np.ndarray] = []                               # P^i and P^-i, grown when a longer text comes


def exact_key(text: str) -> bytes:
    """The same 16 bytes for texts that differ only in case and blanks."""
    return hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "replace"), digest_size=16).digest()


def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """P^0 .. P^n and their inverses modulo 2^64, each (n + 1,) or longer."""
    if not _POWERS or len(_POWERS[0]) <= n:
        size = 1 << max(16, int(n).bit_length())
        _POWERS[:] = [np.cumprod(np.concatenate([[np.uint64(1)], np.full(size, p)]))
                      for p in (_P, _P_INVERSE)]
    return _POWERS[0], _POWERS[1]


def word_hashes(text: str) -> np.ndarray:
    """One 64-bit hash for each word of a text, (n,) uint64, without a Python loop.

    With prefix[i] the sum of byte[j] P^j over j < i, the word at [s, e) is (prefix[e] - prefix[s]) P^-s: the
    same word has the same hash wherever it stands.
    """
    data = np.frombuffer(text.lower().encode("utf-8", "replace"), dtype=np.uint8)
    inside = np.concatenate([[False], _WORD_BYTE[data], [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    start, end = edges[::2], edges[1::2]
    up, down = _powers(len(data))
    prefix = np.concatenate([[np.uint64(0)], np.cumsum((data + np.uint64(1)) * up[:len(data)])])
    return _mix((prefix[end] - prefix[start]) * down[start])


def _mix(h: np.ndarray) -> np.ndarray:
    """Spread the bits of 64-bit numbers (the finaliser of splitmix64)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def shingles(text: str, n: int = SHINGLE) -> np.ndarray:
    """Hashes of all runs of `n` words (of all words if there are fewer), (k,) uint64, repeats included."""
    words = word_hashes(text)
    n = min(n, len(words))
    if n == 0:
        return np.empty(0, dtype=np.uint64)
    h = np.zeros(len(words) - n + 1, dtype=np.uint64)
    for i in range(n):
        h = h * _P + words[i:i + len(h)]
    return _mix(h)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """True similarity of two shingle arrays: shared over all distinct ones; 0 when both are empty."""
    a, b = np.unique(a), np.unique(b)
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(len(a) + len(b) - shared, 1)


def hash_functions(n: int = PERMUTATIONS, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(a, b), each (n,) uint32: functions h -> a h + b modulo 2^32, a odd, that stand for permutations."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 1 << 32, n, dtype=np.uint32), rng.integers(0, 1 << 32, n, dtype=np.uint32)
    return a | np.uint32(1), b


def signature_naive(hashed: Iterable[int], a: np.ndarray, b: np.ndarray) -> list[int]:
    """The definition: entry i is the smallest value of function i over the set. `signatures` must agree."""
    top = [int(h) >> 32 for h in hashed]
    return [min(((int(x) * h + int(y)) % (1 << 32) for h in top), default=int(EMPTY)) for x, y in zip(a, b)]


def signatures(docs: list[np.ndarray], a: np.ndarray, b: np.ndarray, block: int = 8192) -> np.ndarray:
    """MinHash signatures (D, n) uint32 of D shingle arrays. An empty document gets all EMPTY.

    Documents are laid end to end in runs of about `block` shingles, so that one run stays in the cache while
    all `n` functions pass over it.
    """
    out = np.full((len(docs), len(a)), EMPTY, dtype=np.uint32)
    first = 0
    while first < len(docs):
        last, size = first, 0
        while last < len(docs) and (size == 0 or size + len(docs[last]) <= block):
            size, last = size + len(docs[last]), last + 1
        group = [i for i in range(first, last) if len(docs[i])]
        if group:
            h = (np.concatenate([docs[i] for i in group]) >> np.uint64(32)).astype(np.uint32)
            # EXERCISE 6.9 minhash signatures
            starts = np.cumsum([0] + [len(docs[i]) for i in group[:-1]])
            values = np.empty_like(h)
            for k in range(len(a)):
                np.multiply(h, a[k], out=values)             # wraps modulo 2^32, as it should
                np.add(values, b[k], out=values)
                out[group, k] = np.minimum.reduceat(values, starts)
            # END EXERCISE 6.9
        first = last
    return out


def s_curve(similarity: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """Probability that two texts of this similarity agree in all rows of at least one band."""
    return 1 - (1 - similarity ** rows) ** bands


def choose_bands(n: int = PERMUTATIONS, threshold: float = THRESHOLD,
                 recall: float = 0.95) -> tuple[int, int]:
    """(bands, rows) with the steepest curve that still finds `recall` of the pairs exactly at `threshold`.

    More rows a band mean fewer wrong candidates and fewer right ones. Raises ValueError if nothing is enough.
    """
    # EXERCISE 6.6 bands from the S-curve
    for rows in range(n, 0, -1):
        bands = n // rows
        if s_curve(threshold, bands, rows) >= recall:
            return bands, rows
    # END EXERCISE 6.6
    raise ValueError(f"{n} hash functions cannot find {recall:.0%} of pairs at similarity {threshold}: "
                     "use more of them")


def candidates(sigs: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Pairs (i, j), i < j, (m, 2), that agree in a band: each of a bucket with its first and its neighbour.

    Not all pairs of a bucket: a page copied 10,000 times would give 50 million, and joining needs a chain
    only.
    """
    alive = np.flatnonzero(sigs[:, 0] != EMPTY)              # sigs may be a file far larger than memory
    found = []
    for band in range(bands):
        part = np.ascontiguousarray(sigs[alive, band * rows:(band + 1) * rows])
        _, bucket = np.unique(part, axis=0, return_inverse=True)
        # stable: within a bucket, documents stay in order
        order = np.argsort(bucket.ravel(), kind="stable")
        same = np.flatnonzero(np.diff(bucket.ravel()[order]) == 0) + 1
        heads = np.searchsorted(bucket.ravel()[order], bucket.ravel()[order[same]])
        found += [np.stack([alive[order[same - 1]], alive[order[same]]], 1),
                  np.stack([alive[order[heads]], alive[order[same]]], 1)]
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), dtype=np.int64)


class UnionFind:
    """Sets that can be joined; the root of a set is its smallest member, the document that came first."""

    def __init__(self, n: int):
        self.parent = list(range(n))

    def find(self, i: int) -> int:
        """The smallest member of the set of `i`."""
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]     # halve the path for the next one
            i = self.parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Make one set of two."""
        # EXERCISE 6.5 union-find
        low, high = sorted((self.find(i), self.find(j)))
        self.parent[high] = low
        # END EXERCISE 6.5


def near_duplicates(sigs: np.ndarray, bands: int, rows: int, threshold: float = THRESHOLD,
                    similarity: Callable[[int, int], float] | None = None) -> tuple[list[int], np.ndarray]:
    """(cluster of each document, named by the first of it; merged pairs (m, 3): i, j, similarity).

    A candidate is merged when `similarity(i, j)` reaches the threshold; without one, when the share of equal
    signature entries does, an estimate with standard deviation sqrt(s (1 - s) / n).
    """
    sets, merged = UnionFind(len(sigs)), []
    for i, j in candidates(sigs, bands, rows).tolist():
        s = similarity(i, j) if similarity else float((sigs[i] == sigs[j]).mean())
        if s >= threshold:
            sets.join(i, j)
            merged.append((i, j, s))
    return [sets.find(i) for i in range(len(sigs))], np.array(merged).reshape(-1, 3)
