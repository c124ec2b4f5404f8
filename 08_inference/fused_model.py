"""The same model with its weights arranged for decoding: fewer, larger products, any mix of tokens in a call.

At this size a new token costs its two dozen operations a layer, not its arithmetic. So what can be computed
once is: queries, keys and values come from one product, gate and up from another; the gain of a norm is
folded into the matrix behind it; and RoPE, with the pairs of numbers it rotates laid side by side, is one
product of complex numbers.

Rows are tokens of any sequence at any position, (N, C): what they look back to is the cache's business
(`attend`).

    python 08_inference/bench_inference.py     measures it beside the plain model and beside transformers
"""
from collections.abc import Callable

import torch
from torch import Tensor

from feed_forward import silu
from transformer import Config, Transformer

# fields of the configuration that change the arithmetic
MUST_BE = dict(positions="rope", norm="rms", placement="pre", activation="swiglu", attention="full",
               bias=False, sinks=False, softcap=0.0, n_experts=0)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def check_servable(config: Config) -> None:
    """ValueError unless the model is of the default kind, of any size."""
    other = [f"{name}={getattr(config, name)!r}" for name, value in MUST_BE.items()
             if getattr(config, name) != value]
    if other:
        raise ValueError(f"the engine serves models of the default kind, not {', '.join(other)}: "
                         "use kv_cache.stream for this one")


class FusedModel:
    """Weights of a Transformer, folded. `eps`, sizes, dtype and device are those of the model."""

    @torch.no_grad()
    def __init__(self, model: Transformer):
        c = self.config = model.config
        check_servable(c)
        H, K, C, D = c.n_heads, c.n_kv_heads, c.d_model, c.D
        # 0, D/2, 1, D/2 + 1, ...: pairs side by side
        beside = torch.arange(D).view(2, D // 2).T.flatten()
        self.embedding = model.model.embed_tokens.weight                 # (V, C)
        self.eps = c.norm_eps
        self.layers = []
        for block in model.model.layers:
            a, mlp = block.self_attn, block.mlp
            q, k = (p.weight.view(-1, D, C)[:, beside].reshape(-1, C) for p in (a.q_proj, a.k_proj))
            q_gain, k_gain = ((n.weight[beside] for n in (a.q_norm, a.k_norm)) if c.qk_norm
                              else (torch.ones(D).to(q), torch.ones(D).to(q)))
            gain = torch.cat((q_gain.expand(H, D) * D**-0.5, k_gain.expand(K, D)))         # (H + K, D)
            self.layers.append((
                torch.cat((q, k, a.v_proj.weight)) * block.input_layernorm.weight,         # ((H + 2K) D, C)
                gain, a.o_proj.weight,
                torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)) * block.post_attention_layernorm.weight,
                mlp.down_proj.weight))
        head = self.embedding if model.lm_head is None else model.lm_head.weight           # (V, C)
        self.head = head * model.model.norm.get_parameter("weight")
        self.rotation = torch.complex(model.model.cos, model.model.sin).to(                # (max_len, D/2)
            torch.complex128 if self.head.dtype == torch.float64 else torch.complex64)

    def normed(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps) over the last dimension; the gain is in the matrix that comes next."""
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    @torch.inference_mode()
    def hidden(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Tokens ids (N,) at positions (N,) to the vectors (N, C) from which `logits` reads.

        attend(layer, q (N, H, D), k (N, K, D), v (N, K, D)) keeps the new keys and values and returns (N, H,
        D); q comes scaled by 1 / sqrt(D).
        """
        c = self.config
        N, H, K, D = len(ids), c.n_heads, c.n_kv_heads, c.D
        x = self.embedding[ids]                                                            # (N, C)
        turn = self.rotation[positions][:, None]                                           # (N, 1, D/2)
        for layer, (qkv, gain, o, gate_up, down) in enumerate(self.layers):
            y = self.normed(x) @ qkv.T                                                     # (N, (H + 2K) D)
            qk = y[:, :(H + K) * D].view(N, H + K, D)
            qk = (self.normed(qk) if c.qk_norm else qk) * gain
            # a rotation by its angle
            pairs = torch.view_as_complex(qk.view(N, H + K, D // 2, 2)) * turn
            qk = torch.view_as_real(pairs).view(N, H + K, D)
            v = y[:, (H + K) * D:].view(N, K, D)
            x = torch.addmm(x, attend(layer, qk[:, :H], qk[:, H:], v).reshape(N, H * D), o.T)
            gate, up = (self.normed(x) @ gate_up.T).chunk(2, -1)                           # (N, F) each
            x = torch.addmm(x, silu(gate) * up, down.T)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """(N, C) to (N, V)."""
        return self.normed(x) @ self.head.T
