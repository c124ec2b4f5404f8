"""Rows of text, and rows that hide a pass key: a few digits somewhere in a text, asked for at its end.

A model can have a low loss on a long text and still see nothing but its last lines. The pass key tells:
nothing but the place where it stands can predict it (Mohtashami and Jaggi 2023, section 4.2). Everything
depends on (seed, step) alone.

    python 03_training/long_context.py           trains on both and measures both
"""
import numpy as np
import torch
from torch import Tensor

from batches import inputs_and_targets
from bpe import EOS, Tokenizer
from cross_entropy import IGNORE

DIGITS = 3


class Rows:
    """Rows cut from a token stream (N,)."""

    def __init__(self, tokens: np.ndarray, tokenizer: Tokenizer, seed: int):
        self.tokens, self.seed = tokens, seed
        self.marker = tokenizer.special[EOS]
        self.digits = [tokenizer.encode(str(d))[0] for d in range(10)]

    def text(self, step: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (rows, length)."""
        return inputs_and_targets(self._cut(np.random.default_rng([self.seed, step, 0]), rows, length))

    def keys(self, step: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Text with two markers: marker and digits anywhere, marker and the same digits at the end.

        Only the digits at the end carry loss. (rows, length) each.
        """
        rng = np.random.default_rng([self.seed, step, 1])
        ids, n = self._cut(rng, rows, length), DIGITS + 1
        ids[ids == self.marker] = self.digits[0]                  # no marker but ours
        for row in ids:
            key = torch.tensor([self.marker, *(self.digits[d] for d in rng.integers(10, size=DIGITS))])
            place = rng.integers(length + 1 - 2 * n)
            row[place:place + n] = key
            row[-n:] = key
        x, y = inputs_and_targets(ids)
        y[:, :-DIGITS] = IGNORE
        return x, y

    def _cut(self, rng: np.random.Generator, rows: int, length: int) -> Tensor:
        """(rows, length + 1) int64, from anywhere in the stream."""
        starts = rng.integers(len(self.tokens) - length, size=rows)
        return torch.from_numpy(self.tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64))
