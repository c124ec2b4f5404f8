"""Beyond the length of training: what each kind of position makes of a text four times as long.

Small models are trained on rows of 64 tokens, text and pass keys (pass_keys.py). Then they read rows of 256,
first as they are, then after a few steps on long rows. RoPE is tried plain and stretched in three ways
(rope_scaling.py), beside ALiBi, no positions, and windows, which never see more than they were trained on.

    python 03_training/long_context.py           after `make 02`; minutes, kept cell by cell
"""
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        parse_settings,
        run_main,
        seed_everything,
        setting,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import attention
import model_config
import muon
import pass_keys
import positions
import rope_scaling
import sliding_window
import transformer
from bpe import Tokenizer
from cells import Cells
from cross_entropy import cross_entropy
from figures import GREY, save
from muon import muon_and_adamw
from pass_keys import DIGITS, Rows
from schedule import constant_then_decay
from token_file import open_tokens
from train import train
from transformer import Config, Transformer

CODE = [transformer, model_config, attention, pass_keys, positions, rope_scaling, sliding_window, muon]
SHORT, FACTOR, ROWS = 64, 4, 8        # tokens of a row of training, times which a long row has, rows a step
LONG = SHORT * FACTOR
STRETCHED = dict(rope_factor=float(FACTOR), trained_len=SHORT)
KINDS = {   # name: (what is trained, what the long rows are read with)
    "RoPE": ({}, {}),
    "RoPE, interpolated": ({}, dict(rope_scaling="linear", **STRETCHED)),
    "RoPE, NTK": ({}, dict(rope_scaling="ntk", **STRETCHED)),
    "RoPE, YaRN": ({}, dict(rope_scaling="yarn", **STRETCHED)),
    "ALiBi": (dict(positions="alibi"), {}),
    "no positions": (dict(positions="none"), {}),
    "RoPE, windows of 32": (dict(attention="window", window=32), {}),
}
BASES = [first for first, then in KINDS.values() if not then]


@dataclass
class Settings(RunSettings):
    """How much to train."""
    seeds: int = setting(2, least=1)     # models of each kind
    steps: int = setting(400, least=1)   # steps on rows of 64
    tune: int = setting(30, least=1)     # steps on rows of 256


QUICK = dict(seeds=1, steps=3, tune=2)


def fit(model: Transformer, rows: Rows, steps: int, length: int, lr: float, label: str) -> None:
    """Train on as many rows of text as of keys, the same number of tokens a step at any length."""
    n = ROWS * SHORT // length

    def loss_of(step: int) -> Tensor:
        (x, y), (x_key, y_key) = rows.text(step, n, length), rows.keys(step, n, length)
        logits = model(torch.cat((x, x_key)))                                            # (2 n, length, V)
        return cross_entropy(logits[:n], y) + cross_entropy(logits[n:], y_key)

    train(model, muon_and_adamw(model, 0.02 * lr, 4e-3 * lr), loss_of, steps,
          lambda step: constant_then_decay(step, steps, n_warmup=max(steps // 20, 1)), label)


@torch.no_grad()
def measure(model: Transformer, held_out: Rows, rows: int = 48, width: int = 16, long: int = LONG) -> dict:
    """Nats a token along rows of `long` tokens, and the share of pass keys that are found whole.

    Losses are means of `width` places, long / width numbers; shares are by the length of the text.
    """
    x, y = held_out.text(0, rows, long)
    logits = torch.cat([model(x[i:i + 8]) for i in range(0, rows, 8)])                     # (rows, long, V)
    losses = logits.logsumexp(-1) - logits.gather(-1, y[..., None])[..., 0]                # (rows, long)
    found = {}
    for length in (long // 4, long // 2, long):
        x, y = held_out.keys(1, rows, length)
        right = torch.cat([model(x[i:i + 8]).argmax(-1) for i in range(0, rows, 8)]) == y
        found[str(length)] = right[:, -DIGITS:].all(1).double().mean().item()
    return {"loss": losses.mean(0).view(-1, width).mean(1).tolist(), "keys": found}


def one_base(base: dict, s: Settings, text: Path, seed: int) -> dict[str, dict]:
    """Train one model on short rows; measure every kind made of it on long rows, before and after tuning."""
    tokenizer = Tokenizer.load(text / "tokenizer.json")
    rows = Rows(open_tokens(text / "train.bin"), tokenizer, seed)
    held_out = Rows(open_tokens(text / "valid.bin"), tokenizer, 0)
    config = Config(vocab_size=tokenizer.vocab_size, d_model=64, d_ff=176, max_len=LONG, **base)
    seed_everything(seed)
    trained, results = Transformer(config), {}
    name = next(kind for kind, made in KINDS.items() if made == (base, {}))
    fit(trained, rows, s.steps, SHORT, 1.0, f"{name} {seed}")
    for kind, then in [(kind, then) for kind, (first, then) in KINDS.items() if first == base]:
        model = Transformer(replace(config, **then))
        model.load_state_dict(trained.state_dict())
        before = measure(model, held_out)
        fit(model, rows, s.tune, LONG, 0.25, f"{kind} {seed}, long")
        results[kind] = {"before": before, "after": measure(model, held_out)}
    return results


def draw(results: dict[str, list[dict]], path: Path) -> None:
    """Loss by position, before and after tuning, mean of the seeds.

    Some places of the text are harder for everybody, so each loss is drawn above that of the windows at the
    same place, seed by seed: they see no further in a long row than in a short one.
    """
    figure, panels = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
    n = len(next(iter(results.values()))[0]["before"]["loss"])
    places, windows = [LONG / n * (i + 0.5) for i in range(n)], list(results)[-1]
    styles = [("-", "black"), ("--", "black"), ("-.", "black"), (":", "black"), ("-", GREY), ("--", GREY),
              ("-.", GREY)]
    for axes, when in zip(panels, ("before", "after")):
        axes.set(title=f"{when} a few steps on rows of {LONG}", xlabel="position (tokens)")
        axes.axvline(SHORT, color=GREY, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        for (kind, runs), (line, color) in zip(results.items(), styles):
            above = [np.subtract(r[when]["loss"], w[when]["loss"]) for r, w in zip(runs, results[windows])]
            axes.plot(places, np.mean(above, axis=0), line, color=color, label=kind)
    panels[0].set_ylabel("loss above that of windows (nats)")
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save(panels[0], path)


def print_table(results: dict[str, list[dict]]) -> None:
    """Loss inside and beyond the length of training, and keys found, mean of the seeds."""
    def loss(runs: list[dict], when: str, places: slice) -> float:
        return statistics.mean(np.mean(r[when]["loss"][places]) for r in runs)

    def keys(runs: list[dict], when: str) -> str:
        shares = [statistics.mean(r[when]["keys"][n] for r in runs) for n in runs[0][when]["keys"]]
        return " ".join(f"{share:>4.0%}" for share in shares)

    inside = slice(0, len(next(iter(results.values()))[0]["before"]["loss"]) // FACTOR)
    beyond = slice(inside.stop, None)
    print(f"\n{'':<22} loss up to {SHORT}, beyond   tuned: up to {SHORT}, beyond"
          f"   keys found at {SHORT}, {2 * SHORT}, {LONG}   tuned")
    for kind, runs in results.items():
        print(f"{kind:<22} {loss(runs, 'before', inside):>10.2f} {loss(runs, 'before', beyond):>8.2f} "
              f"{loss(runs, 'after', inside):>15.2f} {loss(runs, 'after', beyond):>8.2f} "
              f"{keys(runs, 'before'):>24}   {keys(runs, 'after')}")


def main() -> None:
    """Train what is not on disk yet, print the table, draw the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("long context", s, cpu_only=True)
    text, folder = Path(s.out, "01_tokenizer"), Path(s.out, "study")
    cells, data = Cells(folder / "long_context", CODE), content_hash(text / "train.bin", text / "valid.bin")
    results: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for seed in range(s.seed, s.seed + s.seeds):
        for base in BASES:
            kinds = {kind: then for kind, (first, then) in KINDS.items() if first == base}
            cell = {"base": base, "kinds": kinds, "seed": seed, "text": data, "steps": s.steps,
                    "tune": s.tune, "rows": [SHORT, FACTOR, ROWS]}
            for kind, result in cells.get(cell, lambda: one_base(base, s, text, seed)).items():
                results[kind].append(result)
    print_table(results)
    draw(results, folder / "long_context")
    write_json(folder / "long_context.json", results)


if __name__ == "__main__":
    run_main(main)
