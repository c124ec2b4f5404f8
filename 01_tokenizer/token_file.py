"""Token streams on disk: one document after another, each followed by <|eos|>, two bytes a token.

The file is memory-mapped when read, so a corpus larger than memory costs nothing until a batch touches it.

    python 01_tokenizer/run.py             writes out/01_tokenizer/train.bin and valid.bin
"""
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bpe import EOS, Tokenizer
from workbench import atomic

DTYPE = np.dtype("<u2")   # little-endian uint16 on every machine: vocabularies up to 65,536


def pack(tokenizer: Tokenizer, documents: Iterable[str]) -> np.ndarray:
    """Ids of all documents in one row, (N,) uint16; <|eos|> stands before every document, also the first."""
    if tokenizer.vocab_size > 2**16:
        raise ValueError(f"a vocabulary of {tokenizer.vocab_size} does not fit two bytes a token: "
                         "use 65536 or fewer")
    # EXERCISE 1.4 pack documents
    eos = tokenizer.special[EOS]
    ids = [eos]
    for text in documents:
        ids += tokenizer.encode(text)
        ids.append(eos)
    return np.array(ids, dtype=DTYPE)
    # END EXERCISE 1.4


def shuffled(*sources: list[str], rng: random.Random) -> list[str]:
    """The documents of all sources in one random order."""
    documents = [text for source in sources for text in source]
    rng.shuffle(documents)
    return documents


def write_tokens(path: Path | str, ids: np.ndarray) -> None:
    """Write a token stream atomically."""
    with atomic(path) as temporary:
        ids.astype(DTYPE).tofile(temporary)


def open_tokens(path: Path | str) -> np.ndarray:
    """Memory-map a token stream, (N,) uint16, read-only. Raises ValueError for a file that can't be one."""
    path = Path(path)
    size = path.stat().st_size
    if size == 0 or size % DTYPE.itemsize:
        raise ValueError(f"{path} has {size} bytes, which is no stream of two-byte tokens: delete it and run "
                         "`make 01` again")
    return np.memmap(path, dtype=DTYPE, mode="r")
