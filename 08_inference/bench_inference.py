"""How fast: against transformers' generate on the same weights, many at once, four bits against float32.

Every ratio is of two ways timed in turn, so that a busy machine disturbs both alike: the median of the
rounds, and in the first two tables the least and the largest. The tokens must be equal.

    python 08_inference/bench_inference.py      part of make bench (transformers is in the peers extra)
"""
import math
import random
import statistics
import time
from typing import Any

try:
    from workbench import run_main, seed_everything
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

from engine import Engine
from generate import generate
from kv_cache import generate_cached
from packed_model import PackedTransformer
from quantize import QuantizedWeight, Scales, quantize_model
from scheduler import Request
from transformer import Config, Transformer


def in_transformers(model: Transformer):
    """The same weights in transformers' Qwen3 (norms on queries and keys)."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    c = model.config
    shape: dict[str, Any] = dict(
        vocab_size=c.vocab_size, hidden_size=c.d_model, intermediate_size=c.d_ff,
        num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads, num_key_value_heads=c.n_kv_heads,
        head_dim=c.D, rms_norm_eps=c.norm_eps, max_position_embeddings=c.max_len, rope_theta=c.rope_base,
        tie_word_embeddings=True, attention_bias=False, hidden_act="silu")
    peer: Any = Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    weights = model.state_dict()
    peer.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    return peer


def in_turn(ways: dict, rounds: int = 5) -> dict[Any, list[float]]:
    """Seconds of each way in each round after one to warm up; ValueError if their results differ."""
    seconds: dict[Any, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        results = {}
        for name, run in ways.items():
            begin = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - begin)
        first = next(iter(results))
        for name, result in results.items():
            if result != results[first]:
                raise ValueError(f"{name} and {first} write different tokens: they cannot be compared")
    return {name: s[1:] for name, s in seconds.items()}


def compared(tokens: int, seconds: list[float], base: list[float]) -> str:
    """Tokens a second, how many times as fast as `base`, and in parentheses the extremes of that."""
    ratios = sorted(b / s for b, s in zip(base, seconds))
    return (f"{tokens / statistics.median(seconds):>8.0f}{statistics.median(ratios):>8.2f}"
            f"  ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def engine_tokens(model: Transformer, requests: list[tuple[list[int], int]], at_once: int,
                  compiled: bool | None) -> list[list[int]]:
    """New tokens of each (prompt, count) by the engine; its memory is as large as so many need."""
    engine = Engine(model, 16 * at_once, at_once, compiled=compiled)
    return [r.tokens for r in engine.run([Request(p, n) for p, n in requests])]


def random_rounding(name: str, weight: Tensor) -> tuple[Tensor, Scales]:
    """Four random bits for each weight (rows, n), and scales that give it about its own size."""
    rows, n = weight.shape
    grid = torch.tensor([-3.3 - 0.5 * math.log2(n), 1 / 255, 256, 0])
    return (torch.randint(-8, 8, weight.shape, dtype=torch.int8),
            Scales(torch.randint(256, (rows, n // 16), dtype=torch.uint8), grid))


def packed_and_whole(config: Config) -> tuple[Transformer, Transformer]:
    """A model of four random bits a weight, multiplied packed, and the same weights in float32."""
    whole = Transformer(config).requires_grad_(False)
    small = quantize_model(whole, rounding=random_rounding)
    for name, layer in small.named_modules():
        if isinstance(layer, QuantizedWeight):
            whole.get_parameter(f"{name}.weight").copy_(layer.weight)
    return PackedTransformer(small), whole


def compare_packed() -> None:
    """The third table."""
    print("four bits a weight, multiplied packed, against the same in float32; tokens a second, and ratio")
    for config in (Config(), Config(vocab_size=8192, d_model=768, n_layers=8, n_heads=12, d_ff=2048)):
        packed, whole = packed_and_whole(config)
        size = sum(p.numel() for p in whole.parameters())
        for batch, n_new in ((1, 32), (4, 16)):
            ids = torch.randint(config.vocab_size, (batch, 8))
            seconds = in_turn({"float32": lambda: generate_cached(whole, ids, n_new).tolist(),
                               "packed": lambda: generate_cached(packed, ids, n_new).tolist()}, rounds=3)
            speed = {name: batch * n_new / statistics.median(t) for name, t in seconds.items()}
            print(f"  {size / 1e6:>5.1f}M parameters  batch {batch}  float32{speed['float32']:>8.1f}"
                  f"  packed{speed['packed']:>8.1f}{speed['packed'] / speed['float32']:>8.2f}")


@torch.no_grad()
def main() -> None:
    """Three tables; the first needs transformers."""
    seed_everything(0)
    # the size of this course's model; the speed is that of any weights
    model = Transformer(Config())
    for p in model.parameters():
        p.requires_grad_(False).mul_(3) if p.ndim == 2 else p.requires_grad_(False)
    peer = in_transformers(model)
    n_new = 100
    print(f"{n_new} new tokens behind 32, {torch.get_num_threads()} threads; tokens a second, and against "
          "transformers' generate")
    for batch in (1, 4):
        prompts = torch.randint(model.config.vocab_size, (batch, 32))
        seconds = in_turn({
            "transformers": lambda: peer.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=n_new, min_new_tokens=n_new,
                do_sample=False, pad_token_id=0)[:, 32:].tolist(),
            "no cache": lambda: generate(model, prompts, n_new)[:, 32:].tolist(),
            "cache": lambda: generate_cached(model, prompts, n_new)[:, 32:].tolist(),
            "engine, torch alone": lambda: engine_tokens(model, [(p, n_new) for p in prompts.tolist()], batch,
                                                         compiled=False),
            "engine": lambda: engine_tokens(model, [(p, n_new) for p in prompts.tolist()], batch, None)})
        for name, t in seconds.items():
            print(f"  batch {batch}  {name:<20}" + compared(batch * n_new, t, seconds["transformers"]))
    dice, V = random.Random(0), model.config.vocab_size
    mixed = [([dice.randrange(V) for _ in range(dice.randrange(8, 97))], dice.randrange(16, 121))
             for _ in range(16)]
    seconds = in_turn({(name, n): lambda n=n, c=compiled: engine_tokens(model, mixed, n, c)
                       for name, compiled in (("torch alone", False), ("engine", None)) for n in (1, 4, 16)},
                      rounds=5)
    total = sum(n for _, n in mixed)
    print("16 mixed requests through the engine; tokens a second, and against one after another the same way")
    for (name, n), t in seconds.items():
        print(f"  {name:<14}{n:>3} at once      " + compared(total, t, seconds[name, 1]))
    compare_packed()


if __name__ == "__main__":
    run_main(main)
