"""Which parts of the transformer matter: each variant of chapter 2, on the same tokens, with three seeds.

One small model is the reference. Every other row changes one thing and keeps the tokens, their order, the
optimizer, and as nearly as it can the number of weights that a token uses. Seeds alone make some difference,
so each variant is compared with the reference seed by seed: the table gives the mean difference and its
range. In the manner of Narang et al. 2021, "Do transformer modifications transfer across implementations and
applications?".

    python 03_training/ablations.py            after `make 02`; 20 minutes of one core, kept cell by cell
"""
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import ablation_run
import adamw
import attention
import attention_sink
import feed_forward
import latent_attention
import linear
import mixture_of_experts
import model_config
import muon
import normalization
import parallel_block
import positions
import schedule
import sliding_window
import transformer
from ablation_run import LENGTH, Variant, run
from bpe import Tokenizer
from cells import Cells
from figures import GREY, new_axes, save
from transformer import Config

CODE = [ablation_run, transformer, model_config, attention, attention_sink, sliding_window, latent_attention,
        feed_forward, mixture_of_experts, parallel_block, normalization, positions, linear, muon, adamw,
        schedule]

DEEP = dict(n_layers=12, d_model=48, n_heads=3, n_kv_heads=3, d_ff=128)
VARIANTS = [
    Variant("", "reference", {}),
    Variant("positions", "learned", dict(positions="learned")),
    Variant("positions", "sinusoidal", dict(positions="sinusoidal")),
    Variant("positions", "ALiBi", dict(positions="alibi")),
    Variant("positions", "none", dict(positions="none")),
    Variant("norms", "LayerNorm", dict(norm="layer")),
    Variant("norms", "no q/k norm", dict(qk_norm=False)),
    Variant("norms", "post-norm", dict(placement="post")),
    Variant("norms", "parallel block", dict(placement="parallel")),
    Variant("feed-forward", "GELU", dict(activation="gelu", d_ff=264)),
    Variant("feed-forward", "ReLU", dict(activation="relu", d_ff=264)),
    Variant("feed-forward", "squared ReLU", dict(activation="relu2", d_ff=264)),
    Variant("feed-forward", "8 experts, no balance", dict(n_experts=8, expert_ff=88, balance="none")),
    Variant("feed-forward", "8 experts, balance loss", dict(n_experts=8, expert_ff=88, balance="loss")),
    Variant("feed-forward", "8 experts, balance bias", dict(n_experts=8, expert_ff=88, balance="bias")),
    Variant("heads", "1 head", dict(n_heads=1, n_kv_heads=1)),
    Variant("heads", "8 heads", dict(n_heads=8, n_kv_heads=8)),
    Variant("heads", "2 key/value heads", dict(n_kv_heads=2)),
    Variant("heads", "1 key/value head", dict(n_kv_heads=1)),
    Variant("attention", "window of 16", dict(attention="window", window=16)),
    Variant("attention", "window of 16 and full in turn", dict(attention="alternate", window=16)),
    Variant("attention", "latent (MLA)", dict(attention="latent", kv_latent=32, rope_width=8)),
    Variant("attention", "sinks", dict(sinks=True)),
    Variant("output", "untied", dict(tied=False)),
    Variant("output", "soft-cap 15", dict(softcap=15.0)),
    Variant("shape", "2 layers, width 88", dict(n_layers=2, d_model=88, d_ff=248)),
    Variant("shape", "8 layers, width 44", dict(n_layers=8, d_model=44, n_heads=2, n_kv_heads=2, d_ff=124)),
]
# Where the norms stand matters in deep models: twelve layers, and AdamW alone at twice its rate, because Muon
# and small rates forgive much.
VARIANTS += [Variant("12 layers, AdamW 0.008", f"{placement}-norm, {'' if warmup else 'no '}warm-up",
                     dict(DEEP, placement=placement), 2.0, warmup, "adamw")
             for placement in ("pre", "post") for warmup in (0.3, 0.0)]


@dataclass
class Settings(RunSettings):
    """How much to train."""
    seeds: int = setting(3, least=1)     # runs of each variant
    steps: int = setting(100, least=1)   # optimizer steps of 8 x 128 tokens
    d_model: int = 64                    # width of the reference
    only: str = ""                       # only variants whose group or name holds this


QUICK = dict(seeds=1, steps=5)


def config_for(variant: Variant, s: Settings, vocab_size: int) -> Config:
    """The variant's model: the reference has 4 layers and 4 heads."""
    reference = dict(vocab_size=vocab_size, d_model=s.d_model, d_ff=s.d_model * 11 // 4, max_len=LENGTH)
    return Config(**{**reference, **variant.model})


def all_cells(s: Settings) -> dict[str, list[dict]]:
    """The result of every variant and seed, {group and name: one a seed}, seed by seed."""
    text, cells = Path(s.out, "01_tokenizer"), Cells(Path(s.out, "study", "ablations"), CODE)
    data = content_hash(text / "train.bin", text / "valid.bin")
    vocab_size = Tokenizer.load(text / "tokenizer.json").vocab_size
    chosen = [v for v in VARIANTS if s.only in key_of(v) or v == VARIANTS[0]]
    results: dict[str, list[dict]] = {key_of(v): [] for v in chosen}
    for seed in range(s.seed, s.seed + s.seeds):
        for v in chosen:
            config = config_for(v, s, vocab_size)
            how = asdict(replace(v, model={}, group="", name=""))
            cell = {"config": asdict(config), "run": how, "steps": s.steps, "seed": seed, "text": data}
            results[key_of(v)].append(cells.get(cell, lambda: run(v, config, text, s.steps, seed)))
    return results


def key_of(v: Variant) -> str:
    """The name of a row."""
    return f"{v.group}: {v.name}"


def print_table(results: dict[str, list[dict]]) -> None:
    """Mean bits per byte, and the difference to the reference seed by seed: mean, least and largest."""
    reference = [r["bits"] for r in results[key_of(VARIANTS[0])]]
    print(f"\n{'':<56}  weights a token  bits/byte   difference: mean (least to largest)")
    for v in VARIANTS:
        rows = results.get(key_of(v))
        if not rows:
            continue
        bits = [r["bits"] for r in rows]
        line = f"{v.group:<24} {v.name:<32} {rows[0]['active']:>15,}"
        if None in bits:
            print(f"{line} {'':>10}   not a number in {bits.count(None)} of {len(bits)} runs")
            continue
        differences = [b - r for b, r in zip(bits, reference)]
        print(f"{line} {statistics.mean(bits):>10.3f}   {statistics.mean(differences):+.3f} "
              f"({min(differences):+.3f} to {max(differences):+.3f})")


def draw_load(results: dict[str, list[dict]], path: Path) -> None:
    """The load of the experts, largest first, with each way to balance them."""
    axes = new_axes("What balance does to the load of eight experts",
                    "expert of the first layer, most visited first", "share of visits (%)")
    drawn = [v for v in VARIANTS if "experts" in v.name and key_of(v) in results]
    for v, style in zip(drawn, ("k:", "k--", "k-")):
        load = torch.tensor([r["load"] for r in results[key_of(v)]]).mean(0)                # (E,), over seeds
        axes.plot(range(1, len(load) + 1), 100 * load, style, marker="o", label=v.name.split(", ")[1])
    axes.axhline(100 / 8, color=GREY, linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    save(axes, path)


def main() -> None:
    """Train what is not on disk yet, print the table, draw the load."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("ablations", s)
    results = all_cells(s)
    print_table(results)
    folder = Path(s.out, "study")
    if any("experts" in name for name in results):
        draw_load(results, folder / "expert_load")
    write_json(folder / "ablations.json", results)


if __name__ == "__main__":
    run_main(main)
