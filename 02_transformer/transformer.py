"""The model of this repository: one configuration, one transformer, used by every chapter.

Adds to the components: the residual stream, the stack of blocks, the tied output layer. Names of weights follow
Hugging Face's Llama (with q_norm and k_norm as in Qwen3), so that weights move both ways without a rename table.

    python 02_transformer/run.py           builds it and counts its parameters
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attention import Attention
from feed_forward import ACTIVATIONS, FeedForward
from linear import Embedding, Linear
from normalization import NORMS
from positions import rope_tables


@dataclass(frozen=True)
class Config:
    """The shape of a model. The defaults are a modern decoder, small enough to train on two CPU cores."""
    vocab_size: int = 1024       # V
    d_model: int = 128           # C, width of the residual stream
    n_layers: int = 4            # blocks
    n_heads: int = 4             # H, query heads
    n_kv_heads: int = 4          # K, key/value heads; fewer than n_heads is grouped-query attention
    d_ff: int = 352              # F, width inside the feed-forward layer
    max_len: int = 256           # longest sequence
    positions: str = "rope"      # rope, learned, alibi or none
    norm: str = "rms"            # rms or layer
    placement: str = "pre"       # pre: x + f(norm(x)); post: norm(x + f(x))
    activation: str = "swiglu"   # swiglu, gelu, relu or relu2
    qk_norm: bool = True         # normalise queries and keys before their product
    tied: bool = True            # the output layer is the embedding table
    rope_base: float = 10_000.0  # base of RoPE's angles; models for long texts take a larger one

    def __post_init__(self):
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "max_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.d_model % self.n_heads:
            below = self.d_model // self.n_heads * self.n_heads
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}: "
                             f"choose {f'{below} or ' if below else ''}{below + self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}: "
                             "each key/value head must serve the same number of query heads")
        for name, allowed in (("positions", ("rope", "learned", "alibi", "none")), ("norm", tuple(NORMS)),
                              ("placement", ("pre", "post")), ("activation", tuple(ACTIVATIONS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: choose one of {', '.join(allowed)}")
        if not 1 < self.rope_base < float("inf"):   # also NaN
            raise ValueError(f"rope_base is {self.rope_base}: give a number above 1, such as 10000 or 500000")
        if self.positions == "rope" and self.d_model // self.n_heads % 2:
            raise ValueError(f"rope needs an even head width, not {self.d_model // self.n_heads}: "
                             "change d_model or n_heads")


class Block(nn.Module):
    """Attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        norm = NORMS[config.norm]
        self.pre = config.placement == "pre"
        self.input_layernorm = norm(config.d_model)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = norm(config.d_model)
        self.mlp = FeedForward(config)

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

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.d_model)
        self.embed_positions = Embedding(config.max_len, config.d_model) if config.positions == "learned" else None
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.n_layers))
        self.norm = NORMS[config.norm](config.d_model) if config.placement == "pre" else nn.Identity()
        head_width = config.d_model // config.n_heads
        cos = sin = torch.empty(0)
        if config.positions == "rope":
            cos, sin = rope_tables(config.max_len, head_width, config.rope_base)   # (max_len, D/2) each
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor, cache=None, start: int = 0) -> Tensor:
        """ids (B, T) at positions start, start + 1, ... to (B, T, C)."""
        stop = start + ids.shape[1]
        if stop > self.config.max_len:
            raise ValueError(f"a sequence of {stop} tokens is longer than max_len {self.config.max_len}: shorten it")
        x = self.embed_tokens(ids)                                             # (B, T, C)
        if self.embed_positions is not None:
            x = x + self.embed_positions.weight[start:stop]
        for layer in self.layers:
            x = layer(x, self.cos[start:stop], self.sin[start:stop], cache)
        return self.norm(x)


class Transformer(nn.Module):
    """A decoder-only language model: ids (B, T) to logits (B, T, V) of the next token."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = None if config.tied else Linear(config.d_model, config.vocab_size)
        for layer in self.model.layers:   # keep the sum of 2 n_layers branches as large as one (Radford et al. 2019)
            for branch in (layer.self_attn.o_proj, layer.mlp.down_proj):
                branch.weight.data *= (2 * config.n_layers) ** -0.5

    def unembed(self, x: Tensor) -> Tensor:
        """(..., C) to logits (..., V)."""
        return x @ self.model.embed_tokens.weight.T if self.lm_head is None else self.lm_head(x)

    def forward(self, ids: Tensor, cache=None, start: int = 0) -> Tensor:
        """ids (B, T) to logits (B, T, V); with a cache, ids are the newest tokens and `start` is how many came before."""
        return self.unembed(self.model(ids, cache, start))


def count_parameters(config: Config) -> dict[str, int]:
    """Parameters by part, by formula: what a model will weigh before it is built.

    The parts are embedding (with the output layer and learned positions), attention, feed-forward and norms.
    """
    # EXERCISE 2.10 parameter count
    C, F, L = config.d_model, config.d_ff, config.n_layers
    D = C // config.n_heads
    norm = 2 * C if config.norm == "layer" else C
    tables = config.vocab_size * (1 if config.tied else 2) + (config.max_len if config.positions == "learned" else 0)
    return {
        "embedding": tables * C,
        "attention": L * (2 * C * C + 2 * C * config.n_kv_heads * D + (2 * D if config.qk_norm else 0)),
        "feed-forward": L * C * F * (3 if config.activation == "swiglu" else 2),
        "norms": norm * (2 * L + (config.placement == "pre")),
    }
    # END EXERCISE 2.10
