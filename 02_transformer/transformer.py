"""The model of this repository: one configuration, one transformer, used by every chapter.

Adds to the components: the residual stream, the stack of blocks, the tied output layer. Names of weights
follow Hugging Face's Llama (with q_norm and k_norm as in Qwen3), so that weights move both ways without a
rename table.

    python 02_transformer/run.py           builds it and counts its parameters
"""
from typing import Any

import torch
from torch import Tensor, nn

from attention import Attention
from feed_forward import FeedForward
from latent_attention import LatentAttention
from linear import Embedding, Linear
from mixture_of_experts import MixtureOfExperts
from model_config import Config
from normalization import NORMS
from parallel_block import ParallelBlock
from positions import SinusoidalPositions, rope_tables
from rope_scaling import scaled_rope_tables
from softcap import SoftCap


def norm_of(config: Config) -> nn.Module:
    """The norm of the residual stream that the configuration chooses."""
    return NORMS[config.norm](config.d_model, config.norm_eps)


def attention_of(config: Config, layer: int) -> nn.Module:
    """The attention of one layer."""
    return LatentAttention(config, layer) if config.attention == "latent" else Attention(config, layer)


def feed_forward_of(config: Config, layer: int) -> nn.Module:
    """The feed-forward part of one layer."""
    return MixtureOfExperts(config) if config.has_experts(layer) else FeedForward(config)


def block_of(config: Config, layer: int) -> nn.Module:
    """One layer."""
    if config.placement == "parallel":
        return ParallelBlock(norm_of(config), attention_of(config, layer), feed_forward_of(config, layer))
    return Block(config, layer)


def position_table(config: Config) -> nn.Module | None:
    """The table, learned or fixed, that is added to the embedding, or None."""
    if config.positions == "learned":
        return Embedding(config.max_len, config.d_model)
    return SinusoidalPositions(config.max_len, config.d_model) if config.positions == "sinusoidal" else None


def angles_of(config: Config) -> tuple[Tensor, Tensor]:
    """cos and sin for every position, (max_len, D/2) each; empty without RoPE."""
    width = config.rope_width if config.attention == "latent" else config.D
    if config.positions != "rope":
        return torch.empty(0), torch.empty(0)
    return rope_tables(config.max_len, width, config.rope_base) if config.rope_scaling == "none" else \
        scaled_rope_tables(config, width)


class Block(nn.Module):
    """Attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.pre = config.placement == "pre"
        self.input_layernorm = norm_of(config)
        self.self_attn = attention_of(config, layer)
        self.post_attention_layernorm = norm_of(config)
        self.mlp = feed_forward_of(config, layer)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache=None) -> Tensor:
        """x (B, T, C) to (B, T, C)."""
        # EXERCISE 2.6 residual block
        if self.pre:
            x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
            return x + self.mlp(self.post_attention_layernorm(x))
        x = self.input_layernorm(x + self.self_attn(x, cos, sin, cache))
        return self.post_attention_layernorm(x + self.mlp(x))
        # END EXERCISE 2.6


class Decoder(nn.Module):
    """Token ids to the vectors from which the next token is read."""
    cos: Tensor   # (max_len, D/2)
    sin: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None   # of the residual stream; None: that of the weights
        self.embed_tokens: Any = Embedding(config.vocab_size, config.d_model)
        self.embed_positions: Any = position_table(config)
        self.layers: Any = nn.ModuleList(block_of(config, i) for i in range(config.n_layers))
        self.norm: nn.Module = nn.Identity() if config.placement == "post" else norm_of(config)
        cos, sin = angles_of(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor, cache=None, start: int = 0) -> Tensor:
        """ids (B, T) at positions start, start + 1, ... to (B, T, C)."""
        stop = start + ids.shape[1]
        if stop > self.config.max_len:
            raise ValueError(f"a sequence of {stop} tokens is longer than max_len {self.config.max_len}: "
                             "shorten it")
        x = self.embed_tokens(ids)                                             # (B, T, C)
        if self.embed_positions is not None:
            x = x + self.embed_positions.weight[start:stop]
        x = x.to(self.compute_dtype or x.dtype)
        cos, sin = self.cos[start:stop].to(x.dtype), self.sin[start:stop].to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, cache)
        return self.norm(x)


class Transformer(nn.Module):
    """A decoder-only language model: ids (B, T) to logits (B, T, V) of the next token."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = None if config.tied else Linear(config.d_model, config.vocab_size)
        self.softcap = SoftCap(config.softcap) if config.softcap else nn.Identity()
        for name, branch in self.model.named_modules():
            if name.endswith(("o_proj", "down_proj")):   # keep the sum of 2 n_layers branches as large as one
                branch.weight.data *= (2 * config.n_layers) ** -0.5

    def unembed(self, x: Tensor) -> Tensor:
        """(..., C) to logits (..., V)."""
        table = (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight     # (V, C)
        return self.softcap(x @ table.to(x.dtype).T)

    def forward(self, ids: Tensor, cache=None, start: int = 0) -> Tensor:
        """ids (B, T), with a cache the newest tokens after `start` earlier ones, to logits (B, T, V)."""
        return self.unembed(self.model(ids, cache, start))
