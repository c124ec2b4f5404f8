"""Mixture of experts: many feed-forward layers, of which each token visits a few.

Adds to feed_forward.py parameters without work: with E experts and k visits a token costs k feed-forward
layers and the model remembers E of them. A router, one small matrix, chooses. Left alone it sends everything
to a few favourites (they learn fastest, so they are chosen more), hence a balance:
    loss   an extra loss that is least when the load is even (Fedus et al. 2021, section 2.2; Mixtral's form)
    bias   no loss: each expert has a number that is added to its score *for the choice only* and moved
           against its load after each step (Wang et al. 2024; DeepSeek-V3, section 2.1.2)
No token is dropped: an expert takes as many as come.

    python 02_transformer/run.py --n-experts 8
"""
from typing import Any

import torch
from torch import Tensor, nn

from feed_forward import FeedForward
from linear import Linear


def route(logits: Tensor, bias: Tensor, top_k: int, sigmoid: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the experts of each token: (weights (N, top_k), experts (N, top_k), scores (N, E)).

    Scores are the softmax of the router's logits (N, E), or their sigmoid. The `top_k` largest of scores +
    bias (E,) are chosen; the weights are their scores, without the bias, divided by their sum.
    """
    # EXERCISE 2.15 router
    scores = logits.sigmoid() if sigmoid else (logits - logits.logsumexp(-1, keepdim=True)).exp()
    chosen = (scores.detach() + bias).topk(top_k, dim=-1).indices                        # (N, top_k)
    weights = scores.gather(-1, chosen)
    return weights / weights.sum(-1, keepdim=True), chosen, scores
    # END EXERCISE 2.15


def load_of(chosen: Tensor, n_experts: int) -> Tensor:
    """The share of all visits that each expert gets, (E,): it sums to one. `chosen` is (N, top_k)."""
    return chosen.flatten().bincount(minlength=n_experts) / chosen.numel()


def balance_of(scores: Tensor, chosen: Tensor) -> Tensor:
    """E * sum over experts of (share of visits) * (mean share of scores): 1 when both are even, E at worst.

    The visits have no gradient, so the loss lowers the scores of experts in proportion to their load.
    """
    # EXERCISE 2.16 load balance
    E = scores.shape[-1]
    share = (scores / scores.sum(-1, keepdim=True)).mean(0)                              # (E,)
    return E * (load_of(chosen, E) * share).sum()
    # END EXERCISE 2.16


class MixtureOfExperts(nn.Module):
    """The weighted sum of the `top_k` experts that the router chooses for a token, and of the shared ones."""
    e_score_correction_bias: Tensor   # (E,)

    def __init__(self, config):
        super().__init__()
        self.top_k, self.sigmoid = config.top_k, config.balance == "bias"
        self.gate = Linear(config.d_model, config.n_experts)
        F, shared = config.expert_width, config.n_shared * config.expert_width
        self.experts = nn.ModuleList(FeedForward(config, F) for _ in range(config.n_experts))
        self.shared_experts = FeedForward(config, shared) if shared else None
        bias = torch.zeros(config.n_experts)   # named as in DeepSeek-V3; saved only where it is used
        self.register_buffer("e_score_correction_bias", bias, persistent=self.sigmoid)
        self.balance: Any = None   # of the last forward pass: a number
        self.load: Any = None      # of the last forward pass: (E,)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        tokens = x.flatten(0, -2)                                                # (N, C), N = B T
        bias = self.e_score_correction_bias
        weights, chosen, scores = route(self.gate(tokens), bias, self.top_k, self.sigmoid)
        balance = balance_of(scores, chosen)
        self.balance = balance if self.training else balance.detach()   # a model at rest holds no graph
        self.load = load_of(chosen, len(bias))
        out = self.visit(tokens, weights, chosen).view_as(x)
        return out if self.shared_experts is None else out + self.shared_experts(x)

    def visit_naive(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The definition: every expert reads every token x (N, C), and most results get the weight zero."""
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            out = out + expert(x) * (weights * (chosen == e)).sum(-1, keepdim=True)   # (N, C)
        return out

    def visit(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The same with each expert reading only the tokens that chose it: visits are sorted by expert."""
        expert_of = chosen.flatten()                                             # (N top_k,)
        order = expert_of.argsort(stable=True)                                   # visits, sorted by expert
        token = order // self.top_k                                              # whose visit each one is
        sizes = expert_of.bincount(minlength=len(self.experts)).tolist()
        groups = x.index_select(0, token).split(sizes)                           # (visits, C) for each expert
        done = torch.cat([expert(group) for expert, group in zip(self.experts, groups)])   # (N top_k, C)
        return torch.zeros_like(x).index_add(0, token, done * weights.flatten()[order][:, None])


def mixtures(model: nn.Module) -> list[MixtureOfExperts]:
    """The layers of a model that have experts."""
    return [m for m in model.modules() if isinstance(m, MixtureOfExperts)]


def balance_loss(model: nn.Module) -> Tensor | float:
    """The last forward pass's balance, mean over layers, at least 1: add about 0.01 of it to the loss."""
    layers = mixtures(model)
    return sum(m.balance for m in layers) / len(layers) if layers else 0.0


@torch.no_grad()
def move_biases(model: nn.Module, rate: float = 1e-3) -> None:
    """After a step: raise the bias of experts whose load was below the mean, lower it where it was above."""
    # EXERCISE 2.17 balance without a loss
    for m in [m for m in mixtures(model) if m.sigmoid]:
        m.e_score_correction_bias += rate * (1 / len(m.load) - m.load).sign()
    # END EXERCISE 2.17
