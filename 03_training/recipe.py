"""The recipe against the textbook: nanoGPT's architecture, optimizer and schedule against ours.

Same text in the same order, same tokens a step, about the same number of parameters. Every schedule is run
to its end, so each point of the figure is a run of its own. Three questions: how few steps does our recipe
need for the loss that the textbook reaches, what is that in time, and which of the changes gave it?

    python 03_training/recipe.py       after `make 02`; 15 minutes of a core, kept cell by cell (make study)
"""
import statistics
import time
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
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None

import adamw
import attention
import feed_forward
import muon
import normalization
import positions
import schedule
import transformer
from adamw import AdamW
from batches import TextBatches
from bits_per_byte import bits_per_byte
from bpe import Tokenizer
from cells import Cells
from clipping import clip_gradients
from cross_entropy import cross_entropy
from figures import GREY, new_axes, save
from muon import muon_and_adamw
from parameter_groups import adamw_only, group_parameters
from schedule import constant_then_decay, cosine
from sgd import SGD
from tasks import load_tasks
from token_file import open_tokens
from train import train
from transformer import Config, Transformer

CODE = [adamw, attention, feed_forward, muon, normalization, positions, schedule, transformer]
BATCH, LENGTH = 8, 128
TEXTBOOK = dict(positions="learned", norm="layer", activation="gelu", d_ff=512, qk_norm=False)   # 4 C


@dataclass(frozen=True)
class Recipe:
    """A way to train: what the model is, and what moves it."""
    name: str
    model: dict                     # changes to the default configuration
    optimizer: str = "muon"         # muon (AdamW for what is no matrix inside a block), adamw, sgd, or
                                    # decay_all: AdamW that pulls tables towards 0 as well as matrices
    lr: float = 0.02                # of the matrices; with Muon the rest gets a fifth
    schedule: str = "constant"      # constant (then decay) or cosine


OURS = Recipe("ours", {})
NANOGPT = Recipe("nanoGPT's", TEXTBOOK, "decay_all", 4e-3, "cosine")
RATES = (1e-3, 2e-3, 4e-3, 8e-3)    # the textbook gets the best: a baseline that is not tuned proves nothing


def ladder(textbook: Recipe) -> list[Recipe]:
    """From the textbook to ours, one change after the other."""
    steps = [("+ RoPE", dict(positions="rope")), ("+ RMSNorm", dict(norm="rms")),
             ("+ SwiGLU", dict(activation="swiglu", d_ff=352)), ("+ q/k norm", dict(qk_norm=True))]
    rows, model = [replace(textbook, name="nanoGPT's")], dict(textbook.model)
    for name, change in steps:
        model = {**model, **change}
        rows.append(replace(textbook, name=name, model=model))
    rows.append(replace(textbook, name="+ tables do not decay", model=model, optimizer="adamw"))
    rows.append(replace(OURS, name="+ Muon", schedule="cosine"))
    rows.append(replace(OURS, name="+ constant, then decay (ours)"))
    return [*rows, Recipe("ours with SGD and momentum", {}, "sgd", 0.3)]


@dataclass
class Settings(RunSettings):
    """How much to train."""
    seeds: int = 3      # runs of each recipe
    steps: int = 160    # optimizer steps of the textbook, 8 x 128 tokens each


def optimizers_of(recipe: Recipe, model: Transformer) -> list:
    """What moves the model. nanoGPT's AdamW: betas (0.9, 0.95), weight decay 0.1."""
    if recipe.optimizer == "muon":
        return muon_and_adamw(model, recipe.lr, recipe.lr / 5)
    if recipe.optimizer == "sgd":
        return [SGD(model.parameters(), recipe.lr, 0.9)]
    matrices, rest = adamw_only(model, recipe.lr, 0.1)
    if recipe.optimizer == "adamw":
        return [matrices, rest]
    groups = group_parameters(model)
    wide = [*groups["matrix"].values(), *groups["table"].values()]
    return [AdamW(wide, recipe.lr, weight_decay=0.1), AdamW(groups["vector"].values(), recipe.lr)]


def run(recipe: Recipe, text: Path, steps: int, seed: int) -> dict:
    """Train to the end of the schedule; held-out bits a byte."""
    seed_everything(seed)
    vocabulary, tasks = Tokenizer.load(text / "tokenizer.json").vocab_size, load_tasks(text / "tasks.json")
    model = Transformer(Config(**{"vocab_size": vocabulary, "max_len": LENGTH, **recipe.model}))
    batches = TextBatches(open_tokens(text / "train.bin"), BATCH, LENGTH, seed)
    valid = open_tokens(text / "valid.bin")

    def loss_of(step):
        x, y = batches(step)
        return cross_entropy(model(x), y)

    def scale_of(step):
        return cosine(step, steps, steps // 30, floor=0.1) if recipe.schedule == "cosine" else \
            constant_then_decay(step, steps, steps // 30)

    train(model, optimizers_of(recipe, model), loss_of, steps, scale_of, f"{recipe.name} {steps} {seed}")
    return {"bits": bits_per_byte(model, valid, tasks.held_out_bytes, LENGTH)}


def step_seconds(recipes: list[Recipe], text: Path, rounds: int = 12) -> list[float]:
    """CPU seconds of one step of each recipe, all interleaved in this process: the median of `rounds`."""
    batches = TextBatches(open_tokens(text / "train.bin"), BATCH, LENGTH, 0)
    vocabulary = Tokenizer.load(text / "tokenizer.json").vocab_size
    shape = {"vocab_size": vocabulary, "max_len": LENGTH}
    models = [Transformer(Config(**shape, **r.model)) for r in recipes]
    optimizers = [optimizers_of(r, m) for r, m in zip(recipes, models)]
    times = [[] for _ in recipes]
    for step in range(rounds + 2):   # the first two warm up
        x, y = batches(step)
        for model, movers, seconds in zip(models, optimizers, times):
            begin = time.process_time()   # whoever else is on the machine
            model.zero_grad(set_to_none=True)
            cross_entropy(model(x), y).backward()
            clip_gradients(model.parameters(), 1.0)
            for mover in movers:
                mover.step()
            seconds.append(time.process_time() - begin)
    return [statistics.median(seconds[2:]) for seconds in times]


def steps_to_reach(bits: float, curve: dict[int, float]) -> float:
    """Steps at which a falling curve {steps: bits} crosses `bits`, on straight lines between its points.

    Infinite if the last point is above; the first number of steps if the first point is below already.
    """
    points = sorted(curve.items())
    if points[0][1] <= bits:
        return points[0][0]
    for (a, high), (b, low) in zip(points, points[1:]):
        if low <= bits:
            return a + (b - a) * (high - bits) / (high - low)
    return float("inf")


def draw(path: Path, curves: dict[str, dict[int, list[float]]]) -> None:
    """Held-out loss against steps, one line a recipe, with the range over seeds."""
    axes = new_axes("Every point is a run whose schedule ends there", "optimizer steps of 1,024 tokens",
                    "held-out text, bits a byte")
    for (name, curve), style, colour in zip(curves.items(), ("o-", "s--"), ("black", GREY)):
        steps, values = list(curve), list(curve.values())
        axes.plot(steps, [statistics.mean(v) for v in values], style, color=colour, label=name)
        axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2)
    axes.legend(frameon=False)
    save(axes, path)


def main() -> None:
    """Tune the textbook, run both at several lengths, then every rung of the ladder."""
    s = parse_settings(Settings, __doc__, dict(seeds=1, steps=8))
    announce("the recipe against the textbook", s, cpu_only=True)
    text, folder = Path(s.out, "01_tokenizer"), Path(s.out, "study", "recipe")
    cells = Cells(folder / "cells", CODE)
    data = content_hash(*(text / name for name in ("train.bin", "valid.bin", "tokenizer.json")))

    def bits(recipe: Recipe, steps: int, seed: int) -> float:
        cell = {**vars(recipe), "steps": steps, "seed": seed, "data": data}
        cell.pop("name")
        return cells.get(cell, lambda: run(recipe, text, steps, seed))["bits"]

    seeds = range(s.seed, s.seed + s.seeds)
    tuned = {lr: bits(replace(NANOGPT, lr=lr), s.steps, s.seed) for lr in RATES}
    print("nanoGPT's recipe by learning rate: " + ", ".join(f"{lr:g} {b:.3f}" for lr, b in tuned.items()))
    textbook = replace(NANOGPT, lr=min(tuned, key=tuned.__getitem__))
    lengths = [s.steps // 4, s.steps // 2, s.steps]
    curves = {r.name: {n: [bits(r, n, seed) for seed in seeds] for n in lengths} for r in (OURS, textbook)}
    targets = curves[textbook.name][s.steps]
    needed = [steps_to_reach(target, {n: v[i] for n, v in curves[OURS.name].items()})
              for i, target in enumerate(targets)]
    ours, theirs = step_seconds([OURS, textbook], text)
    print(f"the loss of nanoGPT's {s.steps} steps ({statistics.mean(targets):.3f}) takes ours "
          + ", ".join(f"{n:.0f}" for n in needed) + f" steps (a step is {BATCH * LENGTH:,} tokens); "
          f"one step takes {ours / theirs:.2f} times as long, so the same loss takes "
          f"{statistics.mean(needed) / s.steps * ours / theirs:.2f} times the time")
    rows = [(r.name, [bits(r, lengths[1], seed) for seed in seeds]) for r in ladder(textbook)]
    print(f"\nafter {lengths[1]} steps                bits a byte   range over seeds   change")
    for i, (name, values) in enumerate(rows):
        change = ""   # the last row is no rung of the ladder
        if 0 < i < len(rows) - 1:
            change = f"{statistics.mean(values) - statistics.mean(rows[i - 1][1]):+.3f}"
        low, high = min(values), max(values)
        print(f"{name:<32} {statistics.mean(values):>8.3f}   {low:.3f} to {high:.3f}   {change}")
    draw(folder / "recipe", curves)
    write_json(folder / "results.json", {
        "tuned": {str(k): v for k, v in tuned.items()}, "curves": curves, "ladder": rows, "needed": needed,
        "step_time_ratio": ours / theirs})


if __name__ == "__main__":
    run_main(main)
