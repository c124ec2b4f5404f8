"""Models that everybody knows, as configurations: do our formulas give the sizes that were published?

Shapes: Radford et al. 2019; Dubey et al. 2024, table 3; Jiang et al. 2024, table 1; Qwen Team 2025, tables 1
and 2; DeepSeek-AI 2024 (DeepSeek-V3), section 4.2; what a paper leaves open is from its config.json.

    python 02_transformer/published_models.py
"""
from dataclasses import replace
from typing import Any

from count import active_parameters, cache_bytes, count_parameters, flops_per_token
from model_config import Config

LLAMA: dict[str, Any] = dict(rope_base=500_000.0, max_len=8192, qk_norm=False, tied=False)
QWEN: dict[str, Any] = dict(vocab_size=151_936, rope_base=1e6, norm_eps=1e-6, max_len=40_960,
                            head_width=128, tied=False)
MODELS = {
    "GPT-2 small": Config(50_257, 768, 12, 12, 12, 3072, 1024, "learned", "layer", activation="gelu_tanh",
                          qk_norm=False, bias=True),
    "Llama 3 8B": Config(128_256, 4096, 32, 32, 8, 14_336, **LLAMA),
    "Llama 3 70B": Config(128_256, 8192, 80, 64, 8, 28_672, **LLAMA),
    "Mixtral 8x7B": Config(32_000, 4096, 32, 32, 8, 14_336, 32_768, qk_norm=False, tied=False,
                           rope_base=1e6, n_experts=8, top_k=2),
    "Qwen3 8B": Config(d_model=4096, n_layers=36, n_heads=32, n_kv_heads=8, d_ff=12_288, **QWEN),
    "Qwen3 30B-A3B": Config(d_model=2048, n_layers=48, n_heads=32, n_kv_heads=4, d_ff=6144, **QWEN,
                            n_experts=128, top_k=8, expert_ff=768),
    "DeepSeek-V3": Config(129_280, 7168, 61, 128, 128, 18_432, 4096, tied=False, norm_eps=1e-6,
                          head_width=128, attention="latent", kv_latent=512, q_latent=1536, rope_width=64,
                          n_experts=256, top_k=8, n_shared=1, expert_ff=2048, dense_layers=3, balance="bias"),
}
# Billions of parameters, in all and for one token, as their makers give them.
PUBLISHED = {"GPT-2 small": (0.124, 0.124), "Llama 3 8B": (8.03, 8.03), "Llama 3 70B": (70.6, 70.6),
             "Mixtral 8x7B": (46.7, 12.9), "Qwen3 8B": (8.2, 8.2), "Qwen3 30B-A3B": (30.5, 3.3),
             "DeepSeek-V3": (671, 37)}
CONTEXT = 131_072


def attention_kinds() -> dict[str, Config]:
    """Llama 3 8B with each kind of attention."""
    llama = MODELS["Llama 3 8B"]
    return {
        "all 32 heads of their own": replace(llama, n_kv_heads=32),
        "8 key/value heads (as published)": llama,
        "1 key/value head (multi-query)": replace(llama, n_kv_heads=1),
        "8 heads, a window of 4,096": replace(llama, attention="window", window=4096),
        "8 heads, window and full in turn": replace(llama, attention="alternate", window=4096),
        "latent, 512 + 64 numbers": replace(llama, attention="latent", n_kv_heads=32, kv_latent=512,
                                            rope_width=64),
    }


def main() -> None:
    """Print both tables."""
    print(f"{'':<15} {'parameters':>17} {'published':>10} {'for one token':>15} {'published':>10} "
          f"{'GFLOP a token':>14} {'cache, 128k':>12}")
    for name, config in MODELS.items():
        total, active = sum(count_parameters(config).values()), active_parameters(config)
        published = PUBLISHED[name]
        print(f"{name:<15} {total:>17,} {published[0]:>9}B {active:>15,} {published[1]:>9}B "
              f"{flops_per_token(config, 4096) / 1e9:>14.1f} {cache_bytes(config, CONTEXT) / 1e9:>9.1f} GB")
    print(f"\nCache of one text of {CONTEXT:,} tokens in bf16, Llama 3 8B with other attention:")
    for name, config in attention_kinds().items():
        print(f"  {name:<34} {cache_bytes(config, CONTEXT) / 1e9:>6.2f} GB  "
              f"{cache_bytes(config, CONTEXT) / CONTEXT / 1024:>6.1f} KiB a token")


if __name__ == "__main__":
    main()
