"""Induction heads: a head that looks from a token to what followed its earlier copy, and so copies text.

Adds to attention_probe.py a score and a proof. On a piece of text that stands twice in a row, the score of a
head is its mean weight from a token's second copy to the token after its first. A score is a correlation; the
proof is to silence the head and see the second copy become dear. Olsson et al. 2022, "In-context learning and
induction heads" (section "Key concepts").

    python 03_training/look_inside.py            runs it
"""
import torch
from torch import Tensor

from attention_probe import attending, patterns, without
from cross_entropy import cross_entropy
from muon import muon_and_adamw
from schedule import constant_then_decay
from train import train
from transformer import Transformer


def twice(pieces: Tensor, first: int) -> Tensor:
    """Each piece (n, length) two times in a row behind the token `first`: (n, 1 + 2 length)."""
    return torch.cat((torch.full((len(pieces), 1), first), pieces, pieces), 1)


def pieces_of(tokens, n: int, length: int) -> Tensor:
    """n pieces of a stream (N,), evenly spread: (n, length)."""
    starts = torch.linspace(0, len(tokens) - length - 1, n).long().tolist()
    return torch.stack([torch.from_numpy(tokens[s:s + length].astype("int64")) for s in starts])


def random_pieces(vocab_size: int, n: int, length: int, seed: int) -> Tensor:
    """n pieces of random tokens, (n, length): nothing but copying can predict them."""
    return torch.randint(vocab_size, (n, length), generator=torch.Generator().manual_seed(seed))


def induction_scores(weights: Tensor, length: int) -> Tensor:
    """Mean weight from a token's second copy to what followed its first: (L, B, H, T, T) to (L, H)."""
    query = torch.arange(1 + length, 2 * length)          # second copies, but for the last
    return weights[..., query, query - length + 1].mean((1, 3))


@torch.no_grad()
def copying_loss(model: Transformer, ids: Tensor) -> tuple[float, float]:
    """Nats a token on the first and on the second copy of ids (n, 1 + 2 length).

    The first token of either is left out: what comes at a seam cannot be copied.
    """
    logits, length = model(ids), ids.shape[1] // 2
    seen_from = (1, length), (length + 1, 2 * length)     # where the first and the second copy are predicted
    first, second = (cross_entropy(logits[:, a:b], ids[:, a + 1:b + 1]).item() for a, b in seen_from)
    return first, second


def knock_out(model: Transformer, ids: Tensor) -> Tensor:
    """By how many nats the second copy becomes dearer when one head is silent, (L, H)."""
    normal = copying_loss(model, ids)[1]
    rise = torch.zeros(model.config.n_layers, model.config.n_heads)
    for layer in range(len(rise)):
        for head in range(rise.shape[1]):
            with attending(model, without(layer, [head])):
                rise[layer, head] = copying_loss(model, ids)[1] - normal
    return rise


def examine(model: Transformer, ids: Tensor) -> dict:
    """Scores and rises of all heads, (L, H) lists, and the two losses, on ids (n, 1 + 2 length)."""
    first, second = copying_loss(model, ids)
    scores, rise = induction_scores(patterns(model, ids), ids.shape[1] // 2), knock_out(model, ids)
    return {"scores": scores.tolist(), "rise": rise.tolist(), "first": first, "second": second}


def teach_copying(model: Transformer, first: int, steps: int, length: int, seed: int,
                  rows: int = 16) -> None:
    """Train on random tokens that come twice; only the second copy carries loss."""
    def loss_of(step: int) -> Tensor:
        ids = twice(random_pieces(model.config.vocab_size, rows, length, seed * 1_000_000 + step), first)
        return cross_entropy(model(ids[:, :-1])[:, length + 1:], ids[:, length + 2:])

    train(model, muon_and_adamw(model, 0.01, 2e-3), loss_of, steps,
          lambda step: constant_then_decay(step, steps, n_warmup=min(10, steps)), "copying")
