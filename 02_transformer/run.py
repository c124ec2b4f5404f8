"""Chapter 2: build the transformer, count it, and check what must hold before any training.

    make 02        or  python 02_transformer/run.py --help
"""
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        announce,
        parse_settings,
        run_main,
        seed_everything,
        setting,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from attention import softmax
from bpe import Tokenizer
from count import count_parameters
from figures import new_axes, save
from positions import apply_rope, rope_tables
from token_file import open_tokens
from transformer import Config, Transformer


@dataclass
class Settings(RunSettings):
    """The shape of the model."""
    d_model: int = 128           # width of the residual stream
    n_layers: int = 4            # blocks
    n_heads: int = 4             # query heads
    n_kv_heads: int = 4          # key/value heads
    d_ff: int = 352              # width inside the feed-forward layer
    positions: str = "rope"      # rope, learned, sinusoidal, alibi or none
    rope_base: float = 10_000.0  # base of RoPE's angles
    norm: str = "rms"            # rms or layer
    placement: str = "pre"       # pre, post or parallel
    activation: str = "swiglu"   # swiglu, gelu, gelu_tanh, relu or relu2
    qk_norm: bool = True         # normalise queries and keys
    softcap: float = setting(0.0, least=0)      # keep logits inside -softcap ... softcap (0: do not)
    attention: str = "full"      # full, window, alternate (window, full, ...) or latent
    window: int = 64             # tokens that a window layer sees
    sinks: bool = False          # let each head attend to nothing
    n_experts: int = setting(0, least=0)        # experts instead of one feed-forward layer (0: none)
    top_k: int = 2               # experts that a token visits
    balance: str = "loss"        # loss, bias or none: what keeps the experts' load even


QUICK = dict(d_model=64, n_layers=2, d_ff=192)
FULL = dict(d_model=512, n_layers=8, n_heads=8, n_kv_heads=8, d_ff=1408)   # 28 M parameters


def count_table(model: Transformer) -> int:
    """Print the parameters by part, by formula and as built; returns the total."""
    counts = count_parameters(model.config)
    total = sum(p.numel() for p in model.parameters())
    for part, n in counts.items():
        print(f"  {part:<13} {n:>9,}  {n / total:>4.0%}")
    print(f"  {'total':<13} {total:>9,}  by formula {sum(counts.values()):,}")
    return total


def future_leak(model: Transformer, ids: torch.Tensor) -> float:
    """Largest change of an earlier logit when the last token of ids (1, T) changes: must be 0."""
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % model.config.vocab_size
    return (model(ids) - model(changed))[0, :-1].abs().max().item()


def first_loss(model: Transformer, ids: torch.Tensor) -> float:
    """Mean loss in nats of the untrained model on ids (1, T)."""
    probability = softmax(model(ids))[0, :-1].gather(-1, ids[0, 1:, None])
    return -probability.log().mean().item()


def draw_rope(path: Path, head_width: int, base: float) -> None:
    """The score of one query with one key, for every pair of positions the same distance apart."""
    cos, sin = rope_tables(200, head_width, base)
    vector = torch.ones(1, 1, 200, head_width) * head_width**-0.5
    turned = apply_rope(vector, cos, sin)[0, 0]                      # (T, D)
    axes = new_axes("With RoPE the score depends on the distance alone", "distance (tokens)", "score")
    for start, style in ((0, "k-"), (60, "k:")):
        axes.plot(range(100), (turned[start] @ turned[start:start + 100].T), style, linewidth=1 + start / 30,
                  label=f"query at position {start}")
    axes.legend(frameon=False)
    save(axes, path)


def main() -> None:
    """Build, count, check, write the configuration that chapter 3 trains."""
    settings = parse_settings(Settings, __doc__, QUICK, full=FULL)
    device = announce("02 transformer", settings)
    begin = time.perf_counter()
    folder = Path(settings.out, "02_transformer")
    tokenizer = Tokenizer.load(Path(settings.out, "01_tokenizer", "tokenizer.json"))
    valid = open_tokens(Path(settings.out, "01_tokenizer", "valid.bin"))

    shape = {f.name: getattr(settings, f.name) for f in fields(Config) if hasattr(settings, f.name)}
    config = Config(vocab_size=tokenizer.vocab_size, **shape)
    seed_everything(settings.seed)
    model = Transformer(config).to(device)
    ids = torch.tensor(valid[:config.max_len].astype("int64"), device=device)[None]
    total = count_table(model)
    with torch.no_grad():
        leak, loss = future_leak(model, ids), first_loss(model, ids)
    print(f"  changing the last token moves earlier logits by {leak:g}")
    print(f"  loss before training {loss:.2f} nats, of a uniform guess ln({config.vocab_size}) = "
          f"{math.log(config.vocab_size):.2f}")
    draw_rope(folder / "rope", config.d_model // config.n_heads, config.rope_base)
    write_json(folder / "config.json", asdict(config))
    write_json(folder / "metrics.json", {"seed": settings.seed, "parameters": total, "future_leak": leak,
                                         "first_loss": loss, "seconds": time.perf_counter() - begin})


if __name__ == "__main__":
    run_main(main)
