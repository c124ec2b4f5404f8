"""Sliding-window attention: a layer sees only the last few tokens, so its cost and its cache stop growing.

Adds to attention.py a second reason to hide a key. Stacked, windows reach further: through L layers news
travels L (window - 1) tokens. Beltagy et al. 2020 (Longformer); Jiang et al. 2023 (Mistral 7B, section 2);
window and full layers in turn: Gemma Team 2024 (Gemma 2, section 2).

    python 02_transformer/run.py --attention alternate --window 64
"""
import torch
from torch import Tensor


def window_mask(n_queries: int, n_keys: int, window: int, device: torch.device | None = None) -> Tensor:
    """True where a query may not look because the key is `window` or more tokens back, (n_queries, n_keys).

    The last query stands at the last key; a window of 1 leaves a token only itself. causal_mask hides the
    future.
    """
    # EXERCISE 2.14 sliding window
    query = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]   # where each query stands
    key = torch.arange(n_keys, device=device)
    return query - key >= window                                               # (queries, keys)
    # END EXERCISE 2.14


class WindowCache:
    """Keys and values that are still in sight: of window - 1 tokens in a window layer, of all in a full one.

    What attention needs to know is where tokens stand to each other, and the newest key is always the last
    one, so forgetting the oldest changes nothing else.
    """

    def __init__(self, config):
        self.config = config
        self.kv: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, K, T, D) keys and values of new tokens; returns those that at least one of them can see."""
        if layer in self.kv:
            k, v = (torch.cat((old, new), 2) for old, new in zip(self.kv[layer], (k, v)))
        keep = self.config.window_of(layer) - 1   # what the next token sees besides itself
        self.kv[layer] = (k, v) if keep < 0 else (k[:, :, max(k.shape[2] - keep, 0):].clone(),
                                                  v[:, :, max(v.shape[2] - keep, 0):].clone())
        return k, v

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        return sum(t.numel() * t.element_size() for pair in self.kv.values() for t in pair)
