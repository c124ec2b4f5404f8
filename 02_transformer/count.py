"""Account for a model before it is built: parameters by part, by formula.

    python 02_transformer/run.py           compares the formula with what is built
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
