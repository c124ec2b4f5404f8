"""How the next token is picked: greedy, temperature, top-k, top-p.

Adds to generate.choose the two filters that cut off the tail of unlikely tokens, whose small probabilities add up to
many blunders. Top-k: Fan et al. 2018; top-p, also called nucleus sampling: Holtzman et al. 2020 (section 3.1).

    make chat                              samples with these
"""
import torch
from torch import Tensor

from attention import softmax


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest of each row of logits (B, V) to -inf; k = 0 keeps all."""
    # EXERCISE 8.1 top-k
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    threshold = logits.topk(k, dim=-1).values[..., -1:]                   # (B, 1)
    return logits.masked_fill(logits < threshold, float("-inf"))
    # END EXERCISE 8.1


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep, in each row of (B, V), the fewest most likely tokens that together reach probability p; -inf for the rest.

    The token that crosses p is kept, so at least one always is.
    """
    # EXERCISE 8.5 top-p
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)                 # (B, V)
    probability = softmax(ordered)
    before = probability.cumsum(-1) - probability                         # the mass of all likelier tokens
    dropped = before >= p
    dropped = torch.zeros_like(dropped).scatter(-1, order, dropped)       # back to the order of the vocabulary
    return logits.masked_fill(dropped, float("-inf"))
    # END EXERCISE 8.5


def pick(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
         generator: torch.Generator | None = None) -> Tensor:
    """One token a row of logits (B, V): (B,). Temperature 0 is greedy; then top-k, then top-p, then a draw."""
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature}, top_k {top_k}, top_p {top_p}: "
                         "wanted temperature >= 0, top_k >= 0 and 0 < top_p <= 1")
    if temperature == 0:
        return logits.argmax(-1)
    kept = keep_top_p(keep_top_k(logits / temperature, top_k), top_p)
    return torch.multinomial(softmax(kept), 1, generator=generator)[:, 0]
