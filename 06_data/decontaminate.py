"""Has the model seen the exam? Finding evaluation items inside training documents, and measuring what a leak does.

Comes last before training: an item that is in the training text measures memory. An item counts as leaked in a
document when a large share of its word n-grams occur there; the document is removed and the report names both.

Source: Brown et al. 2020 (GPT-3), appendix C, with 13-grams; we use 8 by default, because our items are short.
Used by pipeline.py; the leak that run.py plants is found here.
"""
from collections import defaultdict
from dataclasses import dataclass
from typing import Iterable

import numpy as np

from deduplicate import shingles

N = 8


@dataclass
class Leak:
    """One evaluation item found in one training document."""
    item: int
    document: int
    overlap: float                     # share of the item's n-grams that the document contains


def overlap(item: np.ndarray, document: set[int]) -> float:
    """Share of the distinct n-grams of an item that occur in a document."""
    # EXERCISE 6.4 contamination
    grams = set(item.tolist())
    return len(grams & document) / len(grams) if grams else 0.0
    # END EXERCISE 6.4


class Detector:
    """Knows the n-grams of all evaluation items; asks each document in time that does not grow with the items."""

    def __init__(self, items: Iterable[str], n: int = N, threshold: float = 0.5):
        self.n, self.threshold = n, threshold
        self.grams = [shingles(item, n) for item in items]
        # An item shorter than n words is one n-gram as a whole; the document is searched for its length too.
        self.lengths = sorted({min(n, len(shingles(item, 1))) for item in items} - {0}) if self.grams else []
        self.where: dict[int, list[int]] = defaultdict(list)
        for i, grams in enumerate(self.grams):
            for gram in set(grams.tolist()):
                self.where[gram].append(i)

    def leaks(self, document: str, index: int = 0) -> list[Leak]:
        """Items whose overlap with this document reaches the threshold, worst first."""
        grams = {g for length in self.lengths for g in shingles(document, length).tolist() if g in self.where}
        suspects = {i for gram in grams for i in self.where[gram]}
        found = [Leak(i, index, overlap(self.grams[i], grams)) for i in sorted(suspects)]
        return sorted((leak for leak in found if leak.overlap >= self.threshold), key=lambda leak: -leak.overlap)


def report(items: list[str], documents: list[str], n: int = N, threshold: float = 0.5) -> dict:
    """{"leaked_items": share of items found, "documents": indexes to remove, "leaks": all findings}."""
    detector = Detector(items, n, threshold)
    leaks = [leak for i, text in enumerate(documents) for leak in detector.leaks(text, i)]
    return {"leaked_items": len({leak.item for leak in leaks}) / max(len(items), 1),
            "documents": sorted({leak.document for leak in leaks}), "leaks": leaks}
