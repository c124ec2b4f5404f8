"""The configuration of a model: one frozen dataclass that every chapter shares, and the rules it obeys.

Adds to the components the choice between them: each field below picks a small class in a file of this folder.

    python 02_transformer/run.py --help        the fields, with these comments
"""
from dataclasses import dataclass

CHOICES = {   # what a field may say; the names stand where they are implemented
    "positions": ("rope", "learned", "sinusoidal", "alibi", "none"),
    "rope_scaling": ("none", "linear", "ntk", "yarn", "llama3"),
    "attention": ("full", "window", "alternate", "latent"),
    "norm": ("rms", "layer"),
    "placement": ("pre", "post", "parallel"),
    "activation": ("swiglu", "gelu", "gelu_tanh", "relu", "relu2"),
    "balance": ("loss", "bias", "none"),
}
AT_LEAST_ONE = ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "max_len", "window",
                "kv_latent", "rope_width", "top_k")
NOT_NEGATIVE = ("head_width", "q_latent", "softcap", "n_experts", "n_shared", "expert_ff", "dense_layers")


@dataclass(frozen=True)
class Config:
    """The shape of a model. The defaults are a modern decoder, small enough to train on two CPU cores."""
    vocab_size: int = 1024       # V
    d_model: int = 128           # C, width of the residual stream
    n_layers: int = 4            # blocks
    n_heads: int = 4             # H, query heads
    n_kv_heads: int = 4          # K, key/value heads; fewer than n_heads: grouped-query; 1: multi-query
    d_ff: int = 352              # F, width inside the feed-forward layer
    max_len: int = 256           # longest sequence
    positions: str = "rope"      # rope, learned, sinusoidal, alibi or none
    norm: str = "rms"            # rms or layer
    placement: str = "pre"       # pre: x + f(norm(x)); post: norm(x + f(x)); parallel: one norm for both
    activation: str = "swiglu"   # swiglu, gelu, gelu_tanh, relu or relu2
    qk_norm: bool = True         # normalise queries and keys (latent attention: the latents)
    tied: bool = True            # the output layer is the embedding table
    rope_base: float = 10_000.0  # base of RoPE's angles; models for long texts take a larger one
    rope_scaling: str = "none"   # none, linear, ntk, yarn or llama3: stretch RoPE for longer texts
    rope_factor: float = 1.0     # by how much
    trained_len: int = 0         # the length of training; 0 is max_len / rope_factor
    head_width: int = 0          # D; 0 is d_model / n_heads
    norm_eps: float = 1e-5       # added to the mean square inside each norm's root
    bias: bool = False           # every matrix of a block adds a bias, as in GPT-2
    softcap: float = 0.0         # logits are kept inside -softcap ... softcap; 0 leaves them alone
    attention: str = "full"      # full, window, alternate (window, full, window, ...) or latent (MLA)
    window: int = 64             # tokens that a window layer sees, the newest included
    kv_latent: int = 64          # latent attention: width of the vector that stands for all keys and values
    q_latent: int = 0            # latent attention: the same for queries; 0 projects them directly
    rope_width: int = 16         # latent attention: width of the rotated part of a key
    sinks: bool = False          # each head can attend to nothing, by a learned score
    n_experts: int = 0           # E; 0 is one dense feed-forward layer
    top_k: int = 2               # experts that a token visits
    n_shared: int = 0            # experts that every token visits besides
    expert_ff: int = 0           # F of one expert; 0 is d_ff
    dense_layers: int = 0        # first layers that keep the dense feed-forward
    balance: str = "loss"        # loss (softmax router), bias (sigmoid router, DeepSeek-V3) or none

    @property
    def D(self) -> int:
        """Width of a head."""
        return self.head_width or self.d_model // self.n_heads

    @property
    def expert_width(self) -> int:
        """F of one expert."""
        return self.expert_ff or self.d_ff

    @property
    def length_of_training(self) -> float:
        """The length that RoPE scaling stretches by rope_factor."""
        return self.trained_len or self.max_len / self.rope_factor

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """What a cache stores for each layer and token: heads, and the widths of what it calls k and v."""
        if self.attention == "latent":
            return 1, self.kv_latent, self.rope_width
        return self.n_kv_heads, self.D, self.D

    def window_of(self, layer: int) -> int:
        """How many tokens the layer sees; 0 is all."""
        return {"window": self.window, "alternate": self.window * (layer % 2 == 0)}.get(self.attention, 0)

    def has_experts(self, layer: int) -> bool:
        """Does this layer route its tokens to experts?"""
        return self.n_experts > 0 and layer >= self.dense_layers

    def __post_init__(self):
        for name in AT_LEAST_ONE + NOT_NEGATIVE:
            if getattr(self, name) < (least := int(name in AT_LEAST_ONE)):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        for name, allowed in CHOICES.items():
            if (said := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} {said!r} is unknown: choose one of {', '.join(allowed)}")
        for must_hold, otherwise in self._rules():
            if not must_hold:
                raise ValueError(otherwise)

    def _rules(self) -> list[tuple[bool, str]]:
        """What must hold, and what to say if it does not."""
        c, latent, scaled = self, self.attention == "latent", self.rope_scaling != "none"
        below = c.d_model // c.n_heads * c.n_heads
        near = f"{below} or {below + c.n_heads}" if below else f"{c.n_heads}"
        return [
            (c.head_width > 0 or c.d_model % c.n_heads == 0,
             f"d_model {c.d_model} is not a multiple of n_heads {c.n_heads}: choose {near}, or head_width"),
            (c.n_heads % c.n_kv_heads == 0,
             f"n_heads {c.n_heads} is not a multiple of n_kv_heads {c.n_kv_heads}: "
             "each key/value head must serve the same number of query heads"),
            (1 < c.rope_base < float("inf"),
             f"rope_base is {c.rope_base}: give a number above 1, such as 10000 or 500000"),
            (c.positions != "rope" or latent or c.D % 2 == 0,
             f"rope needs an even head width, not {c.D}: change d_model or n_heads"),
            (c.positions != "sinusoidal" or c.d_model % 2 == 0,
             f"sinusoidal positions come in pairs, but d_model is {c.d_model}: choose {c.d_model + 1}"),
            (not scaled or c.positions == "rope",
             f"rope_scaling stretches rope, but positions are {c.positions}: set positions='rope'"),
            (1 <= c.rope_factor < float("inf"),
             f"rope_factor is {c.rope_factor}: give 1 or more, the new length over the old one"),
            (scaled or c.rope_factor == 1,
             f"rope_factor {c.rope_factor} needs a rope_scaling: choose linear, ntk, yarn or llama3"),
            (0 <= c.trained_len <= c.max_len,
             f"trained_len {c.trained_len} is not in 0 ... max_len: RoPE is stretched, not shrunk"),
            (0 < c.norm_eps < 1, f"norm_eps is {c.norm_eps}: give a small positive number such as 1e-5"),
            (not latent or c.positions == "rope",
             f"latent attention rotates a part of its own, not {c.positions}: set positions='rope'"),
            (not latent or c.n_kv_heads == c.n_heads,
             f"latent attention has no key/value heads to share: set n_kv_heads to n_heads, {c.n_heads}"),
            (not latent or not (c.bias or c.sinks),
             "latent attention has neither biases nor sinks here: leave bias and sinks at False"),
            (not latent or c.rope_width % 2 == 0,
             f"rope_width {c.rope_width} is odd, and rope rotates pairs: choose {c.rope_width + 1}"),
            (not c.n_experts or c.top_k <= c.n_experts,
             f"top_k {c.top_k} of {c.n_experts} experts cannot be chosen: lower top_k or add experts"),
            (c.n_experts > 0 or not (c.n_shared or c.expert_ff or c.dense_layers),
             "n_shared, expert_ff and dense_layers are for mixtures of experts: set n_experts too"),
            (not c.n_experts or c.dense_layers < c.n_layers,
             f"dense_layers {c.dense_layers} leaves no layer for experts: lower it or drop n_experts"),
        ]
