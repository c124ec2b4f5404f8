"""The fast path, one switch: the same numbers by fused operations, where the plain files show how.

Nothing here is needed to understand or to train. Each line marked "fast path" replaces a plain function of
the course by one of torch's, and a test holds the two equal:
- attention: one kernel that never writes the T x T table (chapter 4 and csrc build one);
- RMSNorm and the activations: one pass over memory in place of several;
- the loss: chunked_loss.py, so that the logits of a large vocabulary never exist at once;
- AdamW: one launch for all weights in place of one for each; Muon in bf16 where that is faster, as its
  authors run it;
- on a GPU, torch.compile: element-wise work between matrix products becomes one kernel, and Python is out of
  the way.

    It is on by itself on CUDA; `make FAST=1`, or  python 03_training/run.py --fast on, puts it on elsewhere
"""
import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adamw import AdamW
from attention import Attention, causal_mask
from chunked_loss import chunked_cross_entropy
from cross_entropy import cross_entropy
from feed_forward import FeedForward, gelu, gelu_tanh, silu
from latent_attention import LatentAttention
from muon import Muon
from normalization import RMSNorm
from parameter_groups import group_parameters
from precision import choose_precision, use_precision
from transformer import Transformer


def fused_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """attention.attend in one fused kernel.

    q (B, H, T, D), k and v (B, H, S, D), bias (.., T, S); returns (B, H, T, D).
    """
    T, S = q.shape[-2], k.shape[-2]
    if bias is None and T == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)   # fast path
    if T > 1:
        hidden = causal_mask(T, S, q.device)                                       # (T, S)
        bias = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias
        bias = bias.masked_fill(hidden, float("-inf"))                             # (.., T, S)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)   # fast path


class FusedRMSNorm(RMSNorm):
    """normalization.RMSNorm in one operation."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)   # fast path


class BatchedAdamW(AdamW):
    """adamw.AdamW for all weights at once: a launch for each of hundreds of tensors would take longer."""

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """One update with learning rate lr * scale; parameters without a gradient stay as they are."""
        self.steps += 1
        lr, (b1, b2) = self.lr * scale, self.betas
        rows = [(p, p.grad, m, v) for p, m, v in zip(self.parameters, self.m, self.v) if p.grad is not None]
        if not rows:
            return
        p, grad, m, v = map(list, zip(*rows))
        torch._foreach_lerp_(m, grad, 1 - b1)                      # fast path: b1 m + (1 - b1) g
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, grad, grad, 1 - b2)
        size = torch._foreach_sqrt(v)
        torch._foreach_div_(size, (1 - b2**self.steps) ** 0.5)
        torch._foreach_add_(size, self.eps)
        torch._foreach_mul_(p, 1 - lr * self.weight_decay)
        torch._foreach_addcdiv_(p, m, size, -lr / (1 - b1**self.steps))


def orthogonalize_fused(G: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """muon.orthogonalize with products and sums in one call, in `dtype` if given. G (n, rows, columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = G.shape[-2] > G.shape[-1]
    X = G.mT if tall else G
    X = (X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype or G.dtype)
    for _ in range(steps):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)   # fast path
    return (X.mT if tall else X).to(G.dtype)


class FusedMuon(Muon):
    """muon.Muon with orthogonalize_fused."""
    dtype: torch.dtype | None = None

    def orthogonalize(self, G: Tensor) -> Tensor:
        """(n, rows, columns), singular values moved to about 1."""
        return orthogonalize_fused(G, dtype=self.dtype)


def is_fast(said: str, device: torch.device) -> bool:
    """What --fast means: auto is on on CUDA, where the GPU waits for Python. ValueError for another word."""
    if said not in ("auto", "on", "off"):
        raise ValueError(f"--fast {said} is unknown: choose one of auto, on, off")
    return device.type == "cuda" if said == "auto" else said == "on"


def fuse_attention(model: Transformer) -> None:
    """Attention in one kernel from here on, in place, plain or over latents."""
    for module in model.modules():
        if type(module) is Attention or type(module) is LatentAttention:
            module.attend = fused_attend


def fuse_norms(model: Transformer) -> None:
    """Every RMSNorm in one operation from here on, in place: the same weights under the same names."""
    for module in model.modules():
        if type(module) is RMSNorm:
            module.__class__ = FusedRMSNorm


FUSED = {silu: F.silu, gelu: F.gelu, gelu_tanh: functools.partial(F.gelu, approximate="tanh")}   # fast path


def fuse_activations(model: Transformer) -> None:
    """SiLU and GELU in one operation from here on, in place; ReLU is one already."""
    for module in model.modules():
        if type(module) is FeedForward:
            module.act = FUSED.get(module.act, module.act)


def use_fast_path(model: Transformer, precision: str = "auto", compiled: bool | None = None) -> str:
    """Put the model on the fast path, in place; returns the format it computes in.

    Names of weights stay. `compiled` None compiles on CUDA alone: on a CPU it takes minutes to start and
    gives little.
    """
    device = next(model.parameters()).device
    precision = choose_precision(precision, device)
    use_precision(model, precision)
    fuse_attention(model)
    fuse_norms(model)
    fuse_activations(model)
    if compiled if compiled is not None else device.type == "cuda":
        torch._dynamo.config.suppress_errors = True   # what cannot be compiled runs as it is
        model.model.compile(dynamic=False)            # fast path
    return precision


def fast_optimizers(model: Transformer, matrix_lr: float, other_lr: float, precision: str = "fp32") -> list:
    """muon.muon_and_adamw on the fast path; Muon's products in bf16 if the model computes in 16 bits."""
    groups = group_parameters(model)
    muon = FusedMuon(groups["matrix"].values(), matrix_lr)
    muon.dtype = None if precision == "fp32" else torch.bfloat16
    return [muon, BatchedAdamW([*groups["table"].values(), *groups["vector"].values()], other_lr)]


def loss_on(model: Transformer, x: Tensor, y: Tensor, fast: bool = False) -> Tensor:
    """Mean loss of ids x (B, T) with targets y (B, T). Fast: without ever holding all logits."""
    if not fast or not isinstance(model.softcap, nn.Identity):
        return cross_entropy(model(x), y)
    table = model.model.embed_tokens if model.lm_head is None else model.lm_head
    return chunked_cross_entropy(model.model(x), table.weight, y)
