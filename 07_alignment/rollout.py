"""Sample many answers at once, and score them: what preference and reinforcement learning do all day.

The keys and values of earlier tokens are kept (by plain concatenation; chapter 8 does it without copying),
and a prompt that is sampled several times is read once.

    python 07_alignment/run.py             uses it for pairs, rollouts and every evaluation
"""
import torch
from torch import Tensor

from attention import softmax
from chat_template import answer_batch
from cross_entropy import IGNORE
from transformer import Transformer


class GrowingCache:
    """Keys and values of all tokens so far, a pair of (B, K, S, D) a layer, extended by concatenation."""

    def __init__(self):
        self.kv: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, K, T, D) keys and values of new tokens; returns those of the whole sequence."""
        if layer in self.kv:
            k, v = torch.cat((self.kv[layer][0], k), 2), torch.cat((self.kv[layer][1], v), 2)
        self.kv[layer] = k, v
        return k, v

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) the rows of the batch with these indices."""
        self.kv = {layer: (k[rows], v[rows]) for layer, (k, v) in self.kv.items()}


@torch.no_grad()
def sample(model: Transformer, prompts: list[list[int]], n_new: int, eos: int | tuple[int, ...],
           temperature: float = 0.0, n_samples: int = 1,
           generator: torch.Generator | None = None) -> list[list[list[int]]]:
    """`n_samples` answers to each prompt: ids up to and including `eos`, at most `n_new` of them.

    Greedy at temperature 0. Prompts of one length run as one batch, and rows that have finished leave it.
    Several ids may end a row.
    """
    answers: list[list[list[int]]] = [[[] for _ in range(n_samples)] for _ in prompts]
    device = next(model.parameters()).device
    ends = torch.tensor([eos] if isinstance(eos, int) else eos, device=device)              # (ids,)
    for length in sorted({len(p) for p in prompts}):
        same = [i for i, p in enumerate(prompts) if len(p) == length]
        cache = GrowingCache()
        logits = model(torch.tensor([prompts[i] for i in same], device=device), cache)[:, -1]   # (N, V)
        live = [answers[i][j] for i in same for j in range(n_samples)]      # the lists to extend, one a row
        rows = torch.arange(len(same), device=device).repeat_interleave(n_samples)
        for step in range(n_new):
            cache.select(rows)
            logits = logits[rows]
            if temperature == 0:
                tokens = logits.argmax(-1)
            else:
                tokens = torch.multinomial(softmax(logits / temperature), 1, generator=generator)[:, 0]
            for answer, token in zip(live, tokens.tolist()):
                answer.append(token)
            rows = (tokens[:, None] != ends).all(1).nonzero()[:, 0]
            if step == n_new - 1 or not len(rows):
                break
            live = [live[i] for i in rows.tolist()]
            cache.select(rows)
            logits = model(tokens[rows, None], cache, length + step)[:, -1]
            rows = torch.arange(len(rows), device=device)
    return answers


def answer_log_probs(model: Transformer, prompts: list[list[int]], answers: list[list[int]],
                     pad: int) -> tuple[Tensor, Tensor]:
    """log p of each answer token given all before it, and a mask that is 1 on answer tokens; (B, T) each."""
    device = next(model.parameters()).device
    x, y = (t.to(device) for t in answer_batch(prompts, answers, pad))
    # EXERCISE 7.7 how likely an answer is
    logits = model(x)                                                                        # (B, T, V)
    log_p = logits.gather(-1, y.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(-1)      # (B, T)
    mask = (y != IGNORE).to(log_p)
    return log_p.masked_fill(y == IGNORE, 0), mask
    # END EXERCISE 7.7
