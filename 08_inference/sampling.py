"""How the next token is picked: greedy, temperature, top-k, top-p, min-p, a penalty, a seed for each request.

Adds to generate.choose the filters that cut off the tail of unlikely tokens, whose small probabilities add up
to many blunders. Top-k: Fan et al. 2018; top-p, also called nucleus sampling: Holtzman et al. 2020 (section
3.1); min-p: Nguyen et al. 2024 (section 3); repetition penalty: Keskar et al. 2019 (section 4.1).

    make chat                              samples with these
"""
import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from attention import softmax
from workbench import wide


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest of each row of logits (B, V) to -inf, k of equals too; 0 keeps all."""
    # EXERCISE 8.1 top-k
    if k <= 0:
        return logits
    order = logits.sort(dim=-1, descending=True, stable=True).indices     # (B, V); equal ones stay in order
    dropped = torch.ones_like(logits, dtype=torch.bool).scatter(-1, order[..., :k], False)
    return logits.masked_fill(dropped, float("-inf"))
    # END EXERCISE 8.1


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep, in each row of (B, V), the fewest likeliest tokens that together reach probability p; -inf else.

    The token that crosses p is kept, so at least one always is, for p = 0 too. Which of equals stay is open.
    """
    # EXERCISE 8.5 top-p
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)    # (B, V)
    probability = softmax(ordered)
    before = probability.cumsum(-1) - probability                         # the mass of all likelier tokens
    dropped = before >= p
    dropped[..., 0] = False
    # back to the order of the vocabulary
    dropped = torch.zeros_like(dropped).scatter(-1, order, dropped)
    return logits.masked_fill(dropped, float("-inf"))
    # END EXERCISE 8.5


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep, in each row of (B, V), the tokens at least p times as likely as the likeliest; -inf for the rest.

    A sure model keeps few tokens and an unsure one many, without a sort: a ratio of probabilities is a
    difference of logits. p = 0 keeps all.
    """
    # EXERCISE 8.9 min-p
    if p <= 0:
        return logits
    threshold = logits.amax(-1, keepdim=True) + math.log(p)               # (B, 1)
    return logits.masked_fill(logits < threshold, float("-inf"))
    # END EXERCISE 8.9


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens that `seen` (B, V) marks less likely: divide logits (B, V) above 0, multiply others.

    1 changes nothing; 1.2 is the paper's choice. It does not care how often or how long ago a token was seen.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def pick(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
         generator: torch.Generator | None = None) -> Tensor:
    """One token a row of logits (B, V): (B,). At temperature 0 the likeliest; else top-k, top-p, a draw."""
    how = Sampling(temperature, top_k, top_p)
    if temperature == 0:
        return logits.argmax(-1)
    if logits.isnan().any():
        raise ValueError("a logit is not a number: the model has diverged, take an earlier one")
    return torch.multinomial(filtered(logits, how), 1, generator=generator)[:, 0]


@dataclass(frozen=True)
class Sampling:
    """How one request wants its tokens picked. Raises ValueError for what cannot be."""
    temperature: float = 0.0          # 0 always takes the likeliest token
    top_k: int = 0                    # 0 keeps all
    top_p: float = 1.0                # 1 keeps all
    min_p: float = 0.0                # 0 keeps all
    repetition_penalty: float = 1.0   # 1 is none

    def __post_init__(self):
        for name, holds, wanted in (("temperature", 0 <= self.temperature <= 100, "0 to 100"),
                                    ("top_k", self.top_k >= 0, "0 or more"),
                                    ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
                                    ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
                                    ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100,
                                     "0.01 to 100")):
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}: choose {wanted}")


def filtered(logits: Tensor, how: Sampling) -> Tensor:
    """The probabilities (B, V) that `how` draws from: temperature, top-k, top-p and min-p, in this order."""
    away = wide(logits) - logits.amax(-1, keepdim=True)   # at most 0: no temperature makes it overflow
    kept = keep_top_p(keep_top_k(away / how.temperature, how.top_k), how.top_p)
    return softmax(keep_min_p(kept, how.min_p))


def draw(probability: Tensor, u: Tensor) -> Tensor:
    """The token at which the running sum of a row of probability (B, V) reaches u (B,), 0 < u <= 1: (B,).

    One uniform number a token, so that a request's draws depend on nothing but its own seed. In float64
    (where there is one), because the rounding of a running sum over a large vocabulary would otherwise give
    unlikely tokens a wrong share.
    """
    running = wide(probability).cumsum(-1)                                # (B, V)
    return torch.searchsorted(running, (u.to(running) * running[:, -1])[:, None])[:, 0]


def pick_rows(logits: Tensor, how: list[Sampling], dice: list[random.Random],
              seen: list[set[int]] | None = None) -> Tensor:
    """One token a row of logits (B, V), each row by its own settings and its own random numbers: (B,).

    `seen[i]` holds the ids that row i's repetition penalty falls on. A greedy row leaves its dice alone.
    """
    punished = [i for i, h in enumerate(how) if seen and h.repetition_penalty != 1 and seen[i]]
    if punished:
        logits = logits.clone()
        for i in punished:
            mark = torch.zeros_like(logits[i:i + 1], dtype=torch.bool)
            mark[0, list(seen[i] if seen else ())] = True
            logits[i:i + 1] = penalize_repetition(logits[i:i + 1], mark, how[i].repetition_penalty)
    tokens = logits.argmax(-1)
    groups: dict[Sampling, list[int]] = {}   # rows with the same settings are cut together
    for i, h in enumerate(how):
        if h.temperature > 0:
            groups.setdefault(h, []).append(i)
    for h, rows in groups.items():
        # (0, 1]
        u = torch.tensor([1 - dice[i].random() for i in rows], dtype=torch.float64)
        tokens[rows] = draw(filtered(logits[rows], h), u)
    return tokens


def top_log_probabilities(logits: Tensor, tokens: Tensor,
                          n: int) -> list[tuple[float, list[tuple[int, float]]]]:
    """For each row of logits (B, V): log p of its token in tokens (B,), and the n likeliest ids with theirs.

    These are the model's own, at temperature 1 and before any filter: what it thought, not how it was
    sampled.
    """
    log_p = wide(logits) - wide(logits).logsumexp(-1, keepdim=True)                            # (B, V)
    own = log_p.gather(-1, tokens[:, None])[:, 0].tolist()
    values, ids = log_p.topk(min(n, log_p.shape[-1]), dim=-1)
    return [(p, list(zip(i, v))) for p, i, v in zip(own, ids.tolist(), values.tolist())]
