"""The same rows in the same order for any batch size and any number of processes.

Adds to batches.TextBatches what a run needs whose machine changes under it: rows are numbered 0, 1, 2, ...
through all epochs, and a run's position is one number, how many rows it has taken. A step of 8 rows on one
process, of 4 on each of two, or of 16 after the batch was doubled all take the next rows of one sequence. As
an option rows begin where documents do, so that no token stands without the beginning of its document (and
short documents are seen whole).

    python -m pytest tests/test_03_data.py
"""
import numpy as np
import torch
from torch import Tensor

from batches import inputs_and_targets


class RowStream:
    """Rows of `length` + 1 tokens of a stream (N,), in an order that depends on nothing but `seed`.

    With `eos` given, rows begin at documents (at the <|eos|> before each); a row that would run past the end
    of the stream begins earlier. Raises ValueError for a stream that is too short for one row.
    """

    def __init__(self, tokens: np.ndarray, length: int, seed: int, eos: int | None = None):
        if len(tokens) < length + 1:
            raise ValueError(f"{len(tokens)} tokens do not fill one row of {length} and its last target: "
                             "use more text or shorter rows")
        self.tokens, self.length, self.seed = tokens, length, seed
        last = len(tokens) - length - 1                                # the last place where a row can begin
        self.documents, self.n_rows = None, (last + 1 + length - 1) // length
        if eos is not None:
            begins = np.flatnonzero(np.asarray(tokens) == eos)
            begins = begins[begins < len(tokens) - 1]                  # the final <|eos|> opens no document
            self.documents = np.unique(np.minimum(begins, last))
            self.n_rows = len(self.documents)
        if not self.n_rows:
            raise ValueError("no document begins in these tokens: is `eos` the id that separates documents?")
        self._epochs: dict[int, np.ndarray] = {}

    def starts(self, epoch: int) -> np.ndarray:
        """Where an epoch's rows begin, in order: (n_rows,). Without `eos` each has another offset."""
        generator = np.random.default_rng((self.seed, epoch))
        if self.documents is not None:
            return generator.permutation(self.documents)
        offset, last = generator.integers(self.length), len(self.tokens) - self.length - 1
        return np.minimum(offset + self.length * generator.permutation(self.n_rows), last)

    def start(self, row: int) -> int:
        """Where row number `row` of the endless sequence begins."""
        epoch, i = divmod(row, self.n_rows)
        if epoch not in self._epochs:
            self._epochs = {epoch: self.starts(epoch)}
        return int(self._epochs[epoch][i])

    def take(self, first: int, count: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (count / world, length), of every world-th row from first + rank on.

        The ranks share the rows first ... first + count - 1. The position after this step is first + count,
        whatever `world` is. Raises ValueError if `count` does not divide.
        """
        if count % world:
            raise ValueError(f"{count} rows do not divide among {world} processes: "
                             f"take {count // world * world + world}")
        begins = np.array([self.start(row) for row in range(first + rank, first + count, world)])
        rows = self.tokens[begins[:, None] + np.arange(self.length + 1)]       # (count / world, length + 1)
        return inputs_and_targets(torch.from_numpy(rows.astype(np.int64)))
