"""Score many answers to one prompt, and read the prompt once.

Adds to rollout.py's `answer_log_probs`, which stays as the plain version: a group of G answers repeats its
prompt G times there. Here the keys and values of each distinct prompt are made once and given to all answers
of its group; gradients flow back through them. The numbers are the same. A prompt of P tokens and G answers
of A tokens cost P + G A tokens in place of G (P + A).

    python 07_alignment/bench_shared_prompts.py    both ways side by side
"""
import torch
from torch import Tensor

from rollout import GrowingCache
from transformer import Transformer


def shared_answer_log_probs(model: Transformer, prompts: list[list[int]], answers: list[list[int]],
                            pad: int) -> tuple[Tensor, Tensor]:
    """log p of each answer token given all before it, (N, A), and a mask that is 1 on answer tokens, (N, A).

    A is the length of the longest answer. The columns are those of the answers alone; `answer_log_probs` has
    columns for the prompts too.
    """
    device = next(model.parameters()).device
    width = max(map(len, answers))
    tokens = torch.tensor([a + [pad] * (width - len(a)) for a in answers], device=device)             # (N, A)
    mask = torch.tensor([[1.0] * len(a) + [0.0] * (width - len(a)) for a in answers], device=device)  # (N, A)
    order, parts = [], []
    for length in sorted({len(p) for p in prompts}):
        rows = [i for i, p in enumerate(prompts) if len(p) == length]
        place = {p: n for n, p in enumerate(dict.fromkeys(tuple(prompts[i]) for i in rows))}
        which = torch.tensor([place[tuple(prompts[i])] for i in rows], device=device)     # (n,)
        cache = GrowingCache()
        before = model.model(torch.tensor(list(place), device=device), cache)[:, -1:]       # (distinct, 1, C)
        before = before[which]                                                              # (n, 1, C)
        cache.select(which)
        if width > 1:
            after = model.model(tokens[rows, :-1], cache, length)                           # (n, A - 1, C)
            before = torch.cat((before, after), 1)
        logits = model.unembed(before)                                                      # (n, A, V)
        parts.append(logits.gather(-1, tokens[rows][..., None])[..., 0] - logits.logsumexp(-1))
        order += rows
    log_p = torch.cat(parts)[torch.tensor(order, device=device).argsort()]                  # (N, A)
    mask = mask.to(log_p)
    return log_p * mask, mask
