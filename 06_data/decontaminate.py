"""Has the model seen the exam? Evaluation items found inside training documents, and what a leak does.

Comes last before training: an item that is in the training text measures memory. An item counts as leaked in
a document when a large share of its word n-grams occur there; the document is removed and the report names
both.

Source: Brown et al. 2020 (GPT-3), appendix C, with 13-grams; we use 8 by default, because our items are
short. Used by pipeline.py; the leak that run.py plants is found here. As a command it audits the main model's
own split:

    python 06_data/decontaminate.py        held-out text and questions inside chapter 1's training stream
"""
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np

from bpe import EOS, Tokenizer
from deduplicate import shingles
from tasks import load_tasks
from token_file import open_tokens

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
    """Knows the n-grams of all evaluation items; the time a document takes does not grow with the items."""

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
        return sorted((leak for leak in found if leak.overlap >= self.threshold),
                      key=lambda leak: -leak.overlap)


def report(items: list[str], documents: list[str], n: int = N, threshold: float = 0.5) -> dict:
    """{"leaked_items": share of items found, "documents": indexes to remove, "leaks": all findings}."""
    detector = Detector(items, n, threshold)
    leaks = [leak for i, text in enumerate(documents) for leak in detector.leaks(text, i)]
    return {"leaked_items": len({leak.item for leak in leaks}) / max(len(items), 1),
            "documents": sorted({leak.document for leak in leaks}), "leaks": leaks}


def documents_of(tokenizer: Tokenizer, path: Path) -> list[str]:
    """The texts of a token stream, cut at the end-of-text tokens."""
    ids = np.asarray(open_tokens(path))
    return [tokenizer.decode(part[1:].tolist())
            for part in np.split(ids, np.flatnonzero(ids == tokenizer.special[EOS]))
            if len(part) > 1]


@dataclass
class Settings:
    """Which run to audit."""
    out: str = "out"      # folder for the results of all chapters


def main() -> None:
    """How much of what chapters 3, 7 and 8 test on is in what chapter 3 trains on."""
    home = Path(parse_settings(Settings, __doc__).out, "01_tokenizer")
    tokenizer = Tokenizer.load(home / "tokenizer.json")
    asked = load_tasks(home / "tasks.json").held_out_questions
    train, held_out = (documents_of(tokenizer, home / name) for name in ("train.bin", "valid.bin"))
    paragraphs = [p for text in held_out for p in text.split("\n\n") if len(p) > 200]
    found = {leak.item for leak in report(paragraphs, train)["leaks"]}
    print(f"held-out paragraphs of which half the {N}-grams stand in one training document: {len(found)} of "
          f"{len(paragraphs)}")
    whole = "\n".join(train)
    print(f"held-out questions that stand in the training text: {sum(q.text in whole for q in asked)} of "
          f"{len(asked)}")


if __name__ == "__main__":
    run_main(main)
