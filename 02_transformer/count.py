"""Account for a model before it is built: parameters, arithmetic and bytes from its configuration.

Tests hold each formula equal to what is really built, counted and allocated.

    python 02_transformer/published_models.py      the same for models that everybody knows
"""
from model_config import Config


def count_parameters(config: Config) -> dict[str, int]:
    """Parameters by part, by formula: what a model will weigh before it is built.

    The parts are embedding (with the output layer and learned positions), attention, feed-forward and norms.
    """
    if is_variant(config):
        return count_variant(config)
    # EXERCISE 2.10 parameter count
    C, F, L = config.d_model, config.d_ff, config.n_layers
    D = C // config.n_heads
    norm = 2 * C if config.norm == "layer" else C
    tables = config.vocab_size * (1 if config.tied else 2)
    tables += config.max_len if config.positions == "learned" else 0
    return {
        "embedding": tables * C,
        "attention": L * (2 * C * C + 2 * C * config.n_kv_heads * D + (2 * D if config.qk_norm else 0)),
        "feed-forward": L * C * F * (3 if config.activation == "swiglu" else 2),
        "norms": norm * (2 * L + (config.placement == "pre")),
    }
    # END EXERCISE 2.10


def is_variant(config: Config) -> bool:
    """Is it more than the plain decoder that exercise 2.10 counts?"""
    return config.attention == "latent" or bool(config.n_experts) or config.bias or config.sinks \
        or config.placement == "parallel" or config.D * config.n_heads != config.d_model


def count_variant(config: Config) -> dict[str, int]:
    """The same parts for every option of Config."""
    C, L = config.d_model, config.n_layers
    norm = 2 * C if config.norm == "layer" else C
    tables = config.vocab_size * (1 if config.tied else 2)
    tables += config.max_len if config.positions == "learned" else 0
    sparse = sum(config.has_experts(layer) for layer in range(L))
    layer = latent_parameters(config) if config.attention == "latent" else attention_parameters(config)
    return {
        "embedding": tables * C,
        "attention": L * layer,
        "feed-forward": (L - sparse) * mlp_parameters(config, config.d_ff)
                        + sparse * expert_parameters(config, config.n_experts),
        "norms": norm * (L * (1 if config.placement == "parallel" else 2) + (config.placement != "post")),
    }


def attention_parameters(config: Config) -> int:
    """Of one layer: q, k, v, o, their biases, the norms of q and k, the sinks."""
    C, Q, KV = config.d_model, config.n_heads * config.D, config.n_kv_heads * config.D
    matrices = 2 * C * Q + 2 * C * KV + (Q + 2 * KV + C if config.bias else 0)
    return matrices + (2 * config.D if config.qk_norm else 0) + (config.n_heads if config.sinks else 0)


def latent_parameters(config: Config) -> int:
    """Of one layer of multi-head latent attention."""
    C, H, D, R, r = config.d_model, config.n_heads, config.D, config.kv_latent, config.rope_width
    queries = H * (D + r) * (config.q_latent or C) + config.q_latent * C
    norms = R + config.q_latent if config.qk_norm else 0
    return queries + C * (R + r) + R * H * 2 * D + H * D * C + norms


def mlp_parameters(config: Config, width: int) -> int:
    """Of one feed-forward layer or expert of this width."""
    n_in = 2 if config.activation == "swiglu" else 1
    return (n_in + 1) * config.d_model * width + (n_in * width + config.d_model if config.bias else 0)


def expert_parameters(config: Config, experts: int) -> int:
    """Of one mixture with this many routed experts: the router, them, the shared ones."""
    shared = mlp_parameters(config, config.n_shared * config.expert_width) if config.n_shared else 0
    return config.d_model * config.n_experts + experts * mlp_parameters(config, config.expert_width) + shared


def active_parameters(config: Config) -> int:
    """Parameters that the computation of one token touches: all but the experts that it does not visit."""
    idle = (config.n_experts - config.top_k) * mlp_parameters(config, config.expert_width)
    sparse = sum(config.has_experts(layer) for layer in range(config.n_layers))
    return sum(count_parameters(config).values()) - sparse * idle


def flops_per_token(config: Config, T: int) -> int:
    """Floating-point operations of one token's forward pass in a text of T tokens, mean over the text.

    Matrix products alone, two operations for each multiplication and addition. The table of scores is counted
    whole, as the plain code computes it; a kernel that skips what the mask hides does half of that part.
    """
    if is_variant(config):
        return variant_flops(config, T)
    # EXERCISE 2.22 floating-point operations
    C, F, L = config.d_model, config.d_ff, config.n_layers
    Q, KV = config.n_heads * config.D, config.n_kv_heads * config.D
    projections = 2 * (2 * C * Q + 2 * C * KV)
    scores_and_means = 2 * 2 * T * Q
    feed_forward = 2 * C * F * (3 if config.activation == "swiglu" else 2)
    return L * (projections + scores_and_means + feed_forward) + 2 * C * config.vocab_size
    # END EXERCISE 2.22


def variant_flops(config: Config, T: int) -> int:
    """The same for every option of Config."""
    C, H, D = config.d_model, config.n_heads, config.D
    n_in, swiglu = T + config.sinks, config.activation == "swiglu"
    if config.attention == "latent":
        R, r, A = config.kv_latent, config.rope_width, config.q_latent
        queries = 2 * (C * A + A * H * (D + r)) if A else 2 * C * H * (D + r)
        attention = queries + 2 * C * (R + r) + 2 * R * H * 2 * D + 2 * H * D * C + 2 * T * H * (2 * D + r)
    else:
        attention = 2 * (2 * C * H * D + 2 * C * config.n_kv_heads * D) + 2 * 2 * n_in * H * D
    one = 2 * C * (3 if swiglu else 2)                        # of a feed-forward layer, by its width
    sparse = sum(config.has_experts(layer) for layer in range(config.n_layers))
    mixture = 2 * C * config.n_experts + one * config.expert_width * (config.top_k + config.n_shared)
    feed_forward = (config.n_layers - sparse) * one * config.d_ff + sparse * mixture
    return config.n_layers * attention + feed_forward + 2 * C * config.vocab_size


def training_flops(config: Config, T: int) -> int:
    """Forward and backward pass of a token: a product has two gradients, each a product of the same size."""
    return 3 * flops_per_token(config, T)


def cache_bytes(config: Config, T: int, bytes_per_number: int = 2) -> int:
    """Keys and values of a text of T tokens; a window layer keeps what the next token will see of them."""
    heads, *widths = config.cache_shape
    windows = [config.window_of(layer) for layer in range(config.n_layers)]
    kept = [min(T, window - 1) if window else T for window in windows]
    return sum(kept) * heads * sum(widths) * bytes_per_number


def activation_numbers(config: Config, T: int) -> float:
    """Numbers that the plain code keeps for each token until the backward pass, in rows of T tokens.

    Without ids, the loss, tables that all layers share, and the E loads of a mixture, which are one for all.
    """
    C, L = config.d_model, config.n_layers
    norm = kept_by_norm(C)
    attention = kept_by_latent(config, T) if config.attention == "latent" else kept_by_attention(config, T)
    sparse = sum(config.has_experts(layer) for layer in range(L))
    feed_forward = (L - sparse) * kept_by_mlp(config, config.d_ff) + sparse * kept_by_experts(config)
    norms = norm * (1 if config.placement == "parallel" else 2)
    return L * (norms + attention) + feed_forward + (norm if config.placement != "post" else C)


def kept_by_norm(width: int) -> int:
    """What came in, one over its size, their product, and the output."""
    return 3 * width + 1


def kept_by_attention(config: Config, T: int) -> float:
    """Of one layer: q, k, v, the heads' output; the weights."""
    H, K = config.n_heads, config.n_kv_heads
    Q, KV = H * config.D, K * config.D
    kept = 4 * Q + H * T
    if config.qk_norm:
        kept += 2 * Q + 2 * KV + H + K
    if config.sinks:
        kept += H + 2 * Q / T                # one key more
    return kept


def kept_by_latent(config: Config, T: int) -> int:
    """Of one layer of multi-head latent attention: the latents, then what attention keeps of every head."""
    H, D, R, r, A = config.n_heads, config.D, config.kv_latent, config.rope_width, config.q_latent
    latents = R + r + A
    if config.qk_norm:
        latents = kept_by_norm(R) + r + (kept_by_norm(A) if A else 0)
    return latents + 2 * H * (D + r) + 2 * H * D + H * T


def kept_by_mlp(config: Config, width: int) -> int:
    """Inside a feed-forward layer or expert of this width."""
    return {"swiglu": 5, "gelu": 4, "gelu_tanh": 5, "relu": 2, "relu2": 3}[config.activation] * width


def kept_by_experts(config: Config) -> int:
    """Of one mixture: the router's tables; for each visit the token, its result, weight, product, inside."""
    E, k, F = config.n_experts, config.top_k, config.expert_width
    router = (E if config.balance == "bias" else 2 * E + 1) + k + 2     # scores; softmax keeps logits too
    visits = k * (3 * config.d_model + 1 + kept_by_mlp(config, F))
    return router + visits + kept_by_mlp(config, config.n_shared * F)
