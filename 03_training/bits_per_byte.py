"""Held-out loss in bits per byte: how many bits this model needs to store a byte of text it has never seen.

Unlike loss a token it does not depend on the vocabulary, so models with different tokenizers can be compared.

    python 03_training/run.py              prints it before and after training
"""
import math

import numpy as np
import torch

from cross_entropy import cross_entropy
from transformer import Transformer


@torch.no_grad()
def bits_per_byte(model: Transformer, tokens: np.ndarray, n_bytes: float, length: int = 128,
                  batch: int = 16) -> float:
    """Bits a byte on a token stream (N,) of `n_bytes` bytes. Every token but the first is predicted once.

    The stream is cut into windows of `length` predictions; the first tokens of a window see little before
    them, so this is an upper bound of what the model can do.
    """
    device = next(model.parameters()).device
    ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(device)
    # EXERCISE 3.7 bits per byte
    n_full = (len(ids) - 1) // length
    x, y = ids[:n_full * length].view(n_full, length), ids[1:n_full * length + 1].view(n_full, length)
    pieces = [(x[i:i + batch], y[i:i + batch]) for i in range(0, n_full, batch)]
    if (len(ids) - 1) % length:
        # the last, shorter window
        pieces.append((ids[None, n_full * length:-1], ids[None, n_full * length + 1:]))
    nats = sum(cross_entropy(model(a), b).item() * b.numel() for a, b in pieces)
    return nats / math.log(2) / n_bytes
    # END EXERCISE 3.7
