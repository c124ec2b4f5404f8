"""The KV cache: keep the keys and values of earlier tokens, so that a new token costs one token's work.

Adds to rollout.GrowingCache that memory is reserved once, so that nothing is copied as the text grows. The
model is the same; only who remembers changes, and the tests hold the output equal to running everything
again.

    python 08_inference/run.py             measures it against generate.generate
"""
from collections.abc import Iterator

import torch
from torch import Tensor

from sampling import pick
from transformer import Config, Transformer


class KVCache:
    """Room for the keys and values of `max_len` tokens: two tensors (L, B, K, max_len, D)."""

    def __init__(self, config: Config, batch: int, max_len: int, device: torch.device | str = "cpu",
                 dtype=torch.float32):
        heads, *widths = config.cache_shape                  # latent attention stores two widths, not D twice
        self.k, self.v = (torch.empty(config.n_layers, batch, heads, max_len, width, device=device,
                                      dtype=dtype)
                          for width in widths)
        self.filled = [0] * config.n_layers

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, K, T, D) of new tokens; views of all of the sequence, (B, K, S, D)."""
        # EXERCISE 8.6 cache append
        begin = self.filled[layer]
        end = begin + k.shape[2]
        if end > self.k.shape[3]:
            raise ValueError(f"the cache has room for {self.k.shape[3]} tokens, "
                             f"not {end}: make it with a larger max_len")
        self.filled[layer] = end
        self.k[layer, :, :, begin:end], self.v[layer, :, :, begin:end] = k, v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]
        # END EXERCISE 8.6

    @property
    def bytes(self) -> int:
        """Memory of the cache: 2 * L * B * K * max_len * D numbers (fewer with latent attention)."""
        return (self.k.numel() + self.v.numel()) * self.k.element_size()


@torch.no_grad()
def stream(model: Transformer, prompt: list[int], n_new: int, eos: int | None = None,
           temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0,
           generator: torch.Generator | None = None) -> Iterator[int]:
    """Yield up to `n_new` tokens one by one as they are made; `eos` ends the stream and is not yielded."""
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    cache = KVCache(model.config, 1, min(len(prompt) + n_new, model.config.max_len), device, dtype)
    logits = model(torch.tensor([prompt], device=device), cache)[:, -1]                      # prefill: (1, V)
    for position in range(len(prompt), len(prompt) + n_new):
        token = pick(logits, temperature, top_k, top_p, generator)
        if int(token) == eos:
            return
        yield int(token)
        if position + 1 < len(prompt) + n_new:
            logits = model(token[:, None], cache, position)[:, -1]                       # decode one token


@torch.no_grad()
def generate_cached(model: Transformer, ids: Tensor, n_new: int) -> Tensor:
    """Greedy, with a cache: ids (B, T) to (B, T + n_new), the same as generate(model, ids, n_new) gives."""
    # EXERCISE 8.7 cached generation
    T = ids.shape[1]
    cache = KVCache(model.config, ids.shape[0], T + n_new, ids.device, next(model.parameters()).dtype)
    logits = model(ids, cache)[:, -1]                                                        # prefill
    for position in range(T, T + n_new):
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
        if position + 1 < T + n_new:
            logits = model(ids[:, -1:], cache, position)[:, -1]                              # decode
    return ids
    # END EXERCISE 8.7
