"""Multi-head latent attention (MLA): keep one short vector a token instead of all its keys and values.

Adds to attention.py a detour: keys and values of all heads are projections of one latent vector c, so the
cache holds c (R numbers) and a small rotated key (r numbers) that all heads share, instead of 2 H D. RoPE
needs the part of its own, because a rotation between the two projections would keep them from being merged.
DeepSeek-AI 2024 (DeepSeek-V2, section 2.1); the names of the weights are those of its Hugging Face code.

    python 02_transformer/run.py --attention latent
"""
import torch
from torch import Tensor, nn

from attention import attend
from linear import Linear
from normalization import RMSNorm
from positions import apply_rope


class LatentAttention(nn.Module):
    """Causal self-attention of H heads whose keys and values come from one latent vector a token.

    `cache` is as for Attention; its k is the latent (B, 1, T, R), its v the rotated key (B, 1, T, r).
    """

    def __init__(self, config, layer: int):
        super().__init__()
        C, H, D = config.d_model, config.n_heads, config.D
        self.layer, self.heads, self.head_width = layer, H, D
        self.latent, self.rope_width = config.kv_latent, config.rope_width
        norm = RMSNorm if config.qk_norm else nn.Identity
        width = H * (D + self.rope_width)                       # a query: a part to match, a part to rotate
        if config.q_latent:
            self.q_a_proj, self.q_b_proj = Linear(C, config.q_latent), Linear(config.q_latent, width)
            self.q_a_layernorm = norm(config.q_latent, config.norm_eps)
        else:
            self.q_proj = Linear(C, width)
        self.kv_a_proj_with_mqa = Linear(C, self.latent + self.rope_width)
        self.kv_a_layernorm = norm(self.latent, config.norm_eps)
        self.kv_b_proj = Linear(self.latent, H * 2 * D)         # a head: D rows for its key, D for its value
        self.o_proj = Linear(H * D, C)
        self.attend = attend

    def queries(self, x: Tensor) -> Tensor:
        """x (B, T, C) to (B, T, H (D + r))."""
        if hasattr(self, "q_proj"):
            return self.q_proj(x)
        return self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache=None) -> Tensor:
        """x (B, T, C) to (B, T, C); cos and sin (T, r/2) belong to the positions of x."""
        B, T, _ = x.shape
        H, D, R, r = self.heads, self.head_width, self.latent, self.rope_width
        q = self.queries(x).view(B, T, H, D + r).transpose(1, 2)                        # (B, H, T, D + r)
        q, q_turned = q[..., :D], apply_rope(q[..., D:], cos, sin)
        c, k_turned = self.kv_a_proj_with_mqa(x)[:, None].split((R, r), -1)             # (B, 1, T, R and r)
        c, k_turned = self.kv_a_layernorm(c), apply_rope(k_turned, cos, sin)
        if cache is not None:
            c, k_turned = cache.append(self.layer, c, k_turned)                         # (B, 1, S, R and r)
        mix = self.mix if T > 1 else self.mix_absorbed   # for many queries building keys is cheaper
        out = mix(q, q_turned, c, k_turned)                                             # (B, H, T, D)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, H * D))

    def mix(self, q: Tensor, q_turned: Tensor, c: Tensor, k_turned: Tensor) -> Tensor:
        """Build every head's keys and values from the latents c (B, 1, S, R), then attend: (B, H, T, D)."""
        B, _, S, _ = c.shape
        H, D = self.heads, self.head_width
        k, v = self.kv_b_proj(c[:, 0]).view(B, S, H, 2 * D).transpose(1, 2).chunk(2, -1)   # (B, H, S, D) each
        k = torch.cat((k, k_turned.expand(-1, H, -1, -1)), -1)                          # (B, H, S, D + r)
        return self.attend(torch.cat((q, q_turned), -1), k, v, None)

    def mix_absorbed(self, q: Tensor, q_turned: Tensor, c: Tensor, k_turned: Tensor) -> Tensor:
        """The same without building keys or values: q (W c) = (q W) c, so all heads attend to the latents.

        To the cache this is multi-query attention: one key, c beside its rotated part, and one value, c
        itself.
        """
        H, D, R, r = self.heads, self.head_width, self.latent, self.rope_width
        # EXERCISE 2.18 absorbed latents
        W_k, W_v = self.kv_b_proj.weight.view(H, 2 * D, R).chunk(2, 1)                  # (H, D, R) each
        q = torch.cat((q @ W_k, q_turned), -1)                                          # (B, H, T, R + r)
        k = torch.cat((c, k_turned), -1).expand(-1, H, -1, -1)                          # (B, H, S, R + r)
        scale = ((R + r) / (D + r)) ** 0.5   # attend divides by sqrt(R + r), the width of a head is D + r
        return self.attend(q * scale, k, c.expand(-1, H, -1, -1), None) @ W_v.mT        # (B, H, T, D)
        # END EXERCISE 2.18
