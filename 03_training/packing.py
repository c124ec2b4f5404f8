"""Documents that share a row, and whether they may look at each other.

A stream of documents is cut into rows without regard for where they begin, so that no position is wasted on
padding. A token may then attend to the end of a document that has nothing to do with its own. That is mostly
harmless, as the model learns what <|eos|> means; with masking across borders it cannot happen at all
(Dubey et al. 2024, section 3.2, found it matters little in ordinary pretraining and much for very long
rows).

    python 03_training/what_breaks.py      trains with and without the mask
"""
import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from transformer import Transformer


def packing_mask(ids: Tensor, eos: int) -> Tensor:
    """True where a query may not look because the key is of another document: ids (B, T) to (B, T, T).

    Every document follows an <|eos|>, as in token_file.pack, so `eos` is the first token of the document
    after it.
    """
    # EXERCISE 3.15 packing mask
    document = (ids == eos).cumsum(-1)                                             # (B, T)
    return document[:, :, None] != document[:, None, :]                            # (B, queries, keys)
    # END EXERCISE 3.15


@contextlib.contextmanager
def documents_apart(model: Transformer, ids: Tensor, eos: int) -> Iterator[None]:
    """Inside this block, model(ids) lets no token look at another document; ids (B, T) are its input."""
    hidden = torch.zeros(ids.shape[0], 1, ids.shape[1], ids.shape[1], device=ids.device)
    hidden = hidden.masked_fill(packing_mask(ids, eos)[:, None], float("-inf"))     # (B, 1, T, T)
    layers = [layer.self_attn for layer in model.model.layers]
    plain = [layer.attend for layer in layers]

    def apart(attend):
        def attend_apart(q, k, v, bias=None):
            mask = hidden.to(q.dtype)
            if k.shape[2] > mask.shape[3]:  # a sink, before all documents
                mask = torch.cat((mask.new_zeros(*mask.shape[:3], 1), mask), 3)    # (B, 1, T, T + 1)
            return attend(q, k, v, mask if bias is None else mask + bias)
        return attend_apart

    try:
        for layer in layers:
            layer.attend = apart(layer.attend)
        yield
    finally:
        for layer, attend in zip(layers, plain):
            layer.attend = attend
