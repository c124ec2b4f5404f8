"""Comparing documents of all shards without holding them: small keys a shard, one decision, one list a shard.

Adds to pipeline.py the stages that no shard can do alone: exact copies, near copies, repeated paragraphs and
lines.

Source: the two passes of Lee et al. 2022 and of FineWeb (Penedo et al. 2024), appendix C.
Used by pipeline.py.
"""
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import deduplicate
from workbench import atomic

PARTS = {"paragraphs": "\n\n", "lines": "\n"}   # stages that compare parts of documents, and what ends a part
ACROSS = {"exact", "near", *PARTS}
SHORTEST = 40                                    # characters; shorter parts (headings, list items) may repeat


def read_documents(path: Path) -> Iterator[dict]:
    """The documents of one shard, one at a time."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def shard_keys(stage: str, source: str, target: str) -> float:
    """What a comparing stage needs of one shard, as an .npy file; gives the CPU seconds."""
    begin = time.process_time()
    texts = (doc["text"] for doc in read_documents(Path(source)))
    if stage == "near":
        a, b = deduplicate.hash_functions()
        rows = [deduplicate.signatures([deduplicate.shingles(text)], a, b)[0] for text in texts]
        keys = np.stack(rows) if rows else np.empty((0, len(a)), dtype=np.uint32)     # (documents, functions)
    elif stage == "exact":
        keys = np.array([int.from_bytes(deduplicate.exact_key(t)[:8], "little") for t in texts],
                        dtype=np.uint64)
    else:                                                    # (document, part, key)
        keys = np.array([(d, p, int.from_bytes(deduplicate.exact_key(part)[:8], "little"))
                         for d, text in enumerate(texts) for p, part in enumerate(text.split(PARTS[stage]))
                         if len(part) >= SHORTEST], dtype=np.uint64).reshape(-1, 3)
    with atomic(target) as temporary, open(temporary, "wb") as file:
        np.save(file, keys)
    return time.process_time() - begin


def decide(stage: str, keys: list[Path], threshold: float) -> list[dict]:
    """What to drop in each shard: {document: the one it repeats} or, for parts, {document: [their numbers]}.

    The first in shard order is kept, so the decision depends on nothing but the shards. Memory: 8 bytes a
    document or part; for near copies one band of the signatures at a time, read from a file.
    """
    parts = [np.load(path, mmap_mode="r") for path in keys]
    ends = np.cumsum([len(p) for p in parts])
    starts, drops = ends - [len(p) for p in parts], [{} for _ in parts]

    def place(i: int) -> tuple[int, int]:
        where = int(np.searchsorted(ends, i, side="right"))
        return where, int(i - starts[where])
    if stage == "near":
        bands = deduplicate.choose_bands(threshold=threshold)
        clusters, _ = deduplicate.near_duplicates(_joined(parts, keys[0].with_name("all.npy")), *bands,
                                                  threshold)
        repeats = [(i, first) for i, first in enumerate(clusters) if first != i]
    else:
        flat = np.concatenate([p if stage == "exact" else p[:, 2] for p in parts])
        _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
        repeats = [(i, int(first[inverse[i]]))
                   for i in np.flatnonzero(first[inverse] != np.arange(len(flat))).tolist()]
    for i, original in repeats:
        where, row = place(i)
        if stage in PARTS:
            doc, number, _ = parts[where][row].tolist()
            drops[where].setdefault(str(doc), []).append(number)
        else:
            drops[where][str(row)] = "shard {}, document {}".format(*place(original))
    return drops


def _joined(parts: list[np.ndarray], path: Path) -> np.ndarray:
    """The signatures of all shards as one array in a file, of which only the band in use is in memory."""
    if not any(map(len, parts)):                           # nothing is left, and a file of nothing has no map
        return parts[0]
    head = {"descr": "<u4", "fortran_order": False, "shape": (sum(map(len, parts)), parts[0].shape[1])}
    with atomic(path) as temporary, open(temporary, "wb") as file:   # through a map, a full disk kills us
        np.lib.format.write_array_header_1_0(file, head)
        for part in parts:
            file.write(part.astype("<u4", copy=False).data)
    return np.load(path, mmap_mode="r")
