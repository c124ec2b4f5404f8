"""Write text with a model, the plain way: run the whole sequence again for every new token.

Chapter 8 keeps the keys and values of earlier tokens instead (same output, measured there) and adds top-k and
top-p.

    python 03_training/run.py              uses it to ask the model for facts
"""
import torch
from torch import Tensor

from attention import softmax
from transformer import Transformer


@torch.no_grad()
def generate(model: Transformer, ids: Tensor, n_new: int, temperature: float = 0.0,
             generator: torch.Generator | None = None) -> Tensor:
    """ids (B, T) and `n_new` tokens, the likeliest at temperature 0, else sampled: (B, T + n_new)."""
    for _ in range(n_new):
        ids = torch.cat((ids, choose(model(ids)[:, -1], temperature, generator)), dim=1)
    return ids


def choose(logits: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """Pick one token a row of logits (B, V): (B, 1).

    The likeliest one at temperature 0, else a draw from softmax(logits / temperature) with the given
    generator.
    """
    # EXERCISE 2.7 choosing a token
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial(softmax(logits / temperature), 1, generator=generator)
    # END EXERCISE 2.7


def generate_many(model: Transformer, prompts: list[list[int]], n_new: int) -> list[list[int]]:
    """Greedy continuations of prompts of any length, `n_new` tokens each.

    Prompts of one length run together: no padding, hence no padding mask.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    for length in sorted({len(p) for p in prompts}):
        rows = [i for i, p in enumerate(prompts) if len(p) == length]
        ids = torch.tensor([prompts[i] for i in rows], device=device)          # (B, T)
        for i, row in zip(rows, generate(model, ids, n_new)[:, length:].tolist()):
            answers[i] = row
    return answers
