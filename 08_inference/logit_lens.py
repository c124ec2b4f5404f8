"""What a model thinks on the way: the guess of every layer, and where each head looks.

The logit lens (nostalgebraist 2020): the residual stream after any layer is a vector of the same kind as the
last, so the output layer can read it too. What it reads there is what the model would say if it ended there.
Attention is recorded at the place where chapter 4 puts its own (`Attention.attend`); the weights times the
values are the output, and a test says so.

    make serve                             the page at / draws both, for the model that was just trained
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from attention import attend, future_bias, softmax
from transformer import Transformer


@dataclass
class Inside:
    """One text through one model."""
    stream: list[Tensor]       # (T, C) before the first layer and after each: n_layers + 1 of them
    weights: list[Tensor]      # (H, T, T) of each layer; row t holds what token t looks at, and sums to 1
    logits: Tensor             # (T, V)


@torch.no_grad()
def look_inside(model: Transformer, ids: list[int]) -> Inside:
    """Run ids (T,) and keep what the layers say. The model is as before afterwards."""
    stream, weights = [], []

    def attend_and_keep(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        table = future_bias(q.shape[2], k.shape[2], q.dtype, q.device)
        scores = q @ k.mT * q.shape[-1]**-0.5 + table + (0 if bias is None else bias)          # (1, H, T, T)
        weights.append(softmax(scores)[0])
        return attend(q, k, v, bias)

    layers = model.model.layers
    before = [layer.self_attn.attend for layer in layers]
    hooks = [layer.register_forward_hook(lambda _, inputs, out: stream.append(out[0])) for layer in layers]
    hooks.append(layers[0].register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0][0])))
    try:
        for layer in layers:
            layer.self_attn.attend = attend_and_keep
        logits = model(torch.tensor([ids], device=next(model.parameters()).device))[0]         # (T, V)
    finally:
        for layer, attention in zip(layers, before):
            layer.self_attn.attend = attention
        for hook in hooks:
            hook.remove()
    return Inside(stream, weights, logits)


@torch.no_grad()
def lens(model: Transformer, inside: Inside, n: int) -> tuple[Tensor, Tensor]:
    """The n likeliest next tokens after each layer and token: probabilities and ids, (n_layers + 1, T, n)."""
    x = torch.stack(inside.stream)                                                             # (L + 1, T, C)
    return softmax(model.unembed(model.model.norm(x))).topk(n, dim=-1)


def surprise(logits: Tensor, ids: list[int]) -> list[float | None]:
    """-log2 p of each token given those before it, from logits (T, V); None for the first."""
    log_p = logits[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:], device=logits.device)[:, None])[:, 0]
    return [None, *(-log_p / torch.log(torch.tensor(2.0))).tolist()]


@torch.no_grad()
def alternatives(model: Transformer, ids: list[int], width: int, depth: int) -> list[dict]:
    """The tree of the `width` likeliest tokens, `depth` deep: nodes {id, p, path, next}.

    p is the token's own probability, path that of all tokens from the root to it. One call of the model a
    level.
    """
    root: dict = {"path": 1.0, "next": []}
    level = [(root, ids)]
    for _ in range(depth):
        rows = torch.tensor([row for _, row in level], device=next(model.parameters()).device)
        p, best = softmax(model(rows)[:, -1]).topk(width, dim=-1)                              # (N, width)
        deeper = []
        for (node, row), ps, tokens in zip(level, p.tolist(), best.tolist()):
            node["next"] = [{"id": i, "p": q, "path": node["path"] * q, "next": []}
                            for q, i in zip(ps, tokens)]
            deeper += [(child, [*row, child["id"]]) for child in node["next"]]
        level = deeper
    return root["next"]
