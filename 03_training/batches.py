"""Training batches: rows of a memory-mapped token stream, and rows of sums made on the fly.

A batch is a pure function of (seed, step): nothing about the data order has to be saved for a run to continue
exactly.

    python 03_training/run.py --batch 16 --length 128
"""
import random

import numpy as np
import torch
from torch import Tensor

from arithmetic import Pair, easy_pair, problem, right_answer
from bpe import EOS, Tokenizer
from cross_entropy import IGNORE


def inputs_and_targets(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows (B, T + 1) to inputs (B, T) and targets (B, T): the target of each token is the token after it."""
    # EXERCISE 3.1 shifted batches
    inputs, targets = rows[:, :-1], rows[:, 1:]
    return inputs.clone(), targets.clone()   # a mask written into the targets must not reach the inputs
    # END EXERCISE 3.1


class TextBatches:
    """Rows of `length` tokens that cover the stream about once an epoch, in random order.

    Each epoch is cut at another offset: rows begin in other places, and every token is a target in some
    epoch.
    """

    def __init__(self, tokens: np.ndarray, batch: int, length: int, seed: int):
        self.n_rows = (len(tokens) - length) // length      # leaves room for at least `length` offsets
        self.n_offsets = len(tokens) - self.n_rows * length  # then the last row ends in the last token
        if self.n_rows < batch:
            raise ValueError(f"{len(tokens)} tokens are too few for a batch of {batch} rows of {length}: "
                             "take fewer or shorter rows, or more text")
        self.tokens, self.batch, self.length, self.seed = tokens, batch, length, seed
        self.steps_per_epoch = self.n_rows // batch
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)

    def starts(self, epoch: int) -> np.ndarray:
        """Where the rows of one epoch begin, in the order of the epoch: (n_rows,)."""
        # EXERCISE 3.6 the rows of an epoch
        rng = np.random.default_rng([self.seed, epoch])
        return rng.integers(self.n_offsets) + self.length * rng.permutation(self.n_rows)
        # END EXERCISE 3.6

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one step, both (batch, length) int64."""
        epoch, i = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._starts = epoch, self.starts(epoch)
        starts = self._starts[i * self.batch:(i + 1) * self.batch]
        rows = self.tokens[starts[:, None] + np.arange(self.length + 1)]               # (batch, length + 1)
        return inputs_and_targets(torch.from_numpy(rows.astype(np.int64)))


def sum_rows(tokenizer: Tokenizer, rows: int, banned: set[Pair], seed: int,
             step: int) -> tuple[Tensor, Tensor]:
    """Easy sums, each `<|eos|>163+423=5860<|eos|>`: inputs and targets, both (rows, 13).

    Only the result carries loss, as the operands cannot be predicted.
    """
    rng = random.Random(f"sums {seed} {step}")
    eos = tokenizer.special[EOS]
    pairs = [easy_pair(rng, banned) for _ in range(rows)]
    ids = [[eos] + tokenizer.encode(f"{problem(p)}={right_answer(p)}") + [eos] for p in pairs]
    x, y = inputs_and_targets(torch.tensor(ids))
    y[:, :len(problem(pairs[0])) + 1] = IGNORE   # the operands, "+" and "=": one token a character
    return x, y
