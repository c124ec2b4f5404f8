"""Chapter 3: pretrain chapter 2's model on chapter 1's text, and measure what it knows before and after.

    make 03        or  python 03_training/run.py --help
"""
import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        fingerprint,
        parse_settings,
        read_json,
        run_main,
        seed_everything,
        setting,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from batches import TextBatches, sum_rows
from bits_per_byte import bits_per_byte
from bpe import EOS, Tokenizer
from checkpoint import keep_best, save_model
from fast_path import fast_optimizers, is_fast, loss_on, use_fast_path
from figures import GREY, new_axes, save
from mixture_of_experts import balance_loss
from muon import muon_and_adamw
from packing import documents_apart
from precision import LossScaler
from prefetch import Prefetch
from recall import complete, fact_recall, plain_addition, plain_answers
from row_stream import RowStream
from schedule import SCHEDULES, warmup
from tasks import Tasks, load_tasks
from token_file import open_tokens
from train import train
from transformer import Config, Transformer


@dataclass
class Settings(RunSettings):
    """How to pretrain."""
    steps: int = 640              # optimizer steps on text
    batch: int = 8                # rows of text a step
    length: int = 128             # tokens a row
    sum_steps: int = setting(150, least=0)            # steps on sums alone, before the text
    sum_batch: int = 32           # rows of sums in each of those
    sum_rows: int = 12            # rows of sums beside the text
    sum_weight: float = setting(0.25, least=0)        # weight of their loss
    matrix_lr: float = 0.02       # learning rate of Muon (matrices)
    other_lr: float = 4e-3        # learning rate of AdamW (embeddings, norms)
    rows: str = "stream"          # where rows of text begin: anywhere in the stream, or at documents
    apart: bool = False           # documents that share a row do not see each other
    epochs: float = setting(0.0, least=0)             # passes over the text in place of --steps (0: --steps)
    schedule: str = "constant"    # constant (then a straight decay), cosine or linear
    decay: float = setting(0.5, above=0, most=1)      # share of the steps in which "constant" decays
    clip: float = 1.0             # longest gradient
    precision: str = "auto"       # of the fast path: auto (bf16 where it is faster), fp32, bf16 or fp16
    on_bad: str = "stop"          # after a loss that is no number, or a spike: stop, or rollback
    spike: float = 1e9            # a loss so many times the usual one is a spike
    watch: int = setting(0, least=0)           # a sample and the held-out loss every so many steps (0: never)


QUICK = dict(steps=60, sum_steps=20, sum_batch=16)
FULL = dict(epochs=4.0, batch=16, length=256, other_lr=2e-3, watch=200, on_bad="rollback", spike=3.0)


def measure(model: Transformer, tokenizer: Tokenizer, valid, tasks: Tasks) -> dict:
    """Everything this chapter reports about a model."""
    return {"bits_per_byte": bits_per_byte(model, valid, tasks.held_out_bytes),
            "recall": fact_recall(model, tokenizer, tasks.held_out_questions),
            "plain_answers": plain_answers(model, tokenizer, tasks.held_out_questions),
            "plain_addition": plain_addition(model, tokenizer, tasks.test_sums)}


def text_batches(tokens, s: Settings, eos: int) -> Callable[[int], tuple]:
    """Inputs and targets (batch, length) of each step on text."""
    if s.rows == "stream":
        return TextBatches(tokens, s.batch, s.length, s.seed)
    if s.rows != "documents":
        raise ValueError(f"--rows {s.rows} is unknown: choose stream or documents")
    rows = RowStream(tokens, s.length, s.seed, eos)
    return lambda step: rows.take(step * s.batch, s.batch)


def check_ids(path: Path, tokens, vocabulary: int) -> None:
    """ValueError if a token stream holds an id that the model has no row for: a GPU would not say so."""
    if tokens.max() >= vocabulary:
        raise ValueError(f"{path} holds token {tokens.max()}, but the model has a vocabulary of "
                         f"{vocabulary}: run `make 01` and `make 02` again")


def pretrain(model: Transformer, tokenizer: Tokenizer, tokens, tasks: Tasks, s: Settings, state: Path,
             key: str, watch=None) -> list[dict]:
    """Sums alone until the model has the idea, then text with a few sums in every step; returns the log.

    Sums are learned only while they are a large share of the gradient, hence the first phase (measured:
    without it the model stays at chance).
    """
    device = next(model.parameters()).device
    if s.schedule not in SCHEDULES:
        raise ValueError(f"--schedule {s.schedule} is unknown: choose one of {', '.join(SCHEDULES)}")
    eos = tokenizer.special[EOS]
    text, banned = text_batches(tokens, s, eos), set(tasks.test_sums)
    fast = is_fast(s.fast, device)
    precision = use_fast_path(model, s.precision) if fast else "fp32"
    optimizers = fast_optimizers(model, s.matrix_lr, s.other_lr, precision) if fast else \
        muon_and_adamw(model, s.matrix_lr, s.other_lr)
    if fast:
        print(f"  fast path, computing in {precision}")

    def batches_of(step):
        if step < s.sum_steps:
            return (sum_rows(tokenizer, s.sum_batch, banned, s.seed, step),)
        return text(step - s.sum_steps), sum_rows(tokenizer, s.sum_rows, banned, s.seed, step)

    ahead = Prefetch(batches_of, device)

    def loss_of(step):
        (ids, targets), *sums = ahead(step)
        with documents_apart(model, ids, eos) if s.apart else contextlib.nullcontext():
            loss = loss_on(model, ids, targets, fast)
        for x, y in sums:
            loss = loss + s.sum_weight * loss_on(model, x, y, fast)
        return loss + 0.01 * balance_loss(model) if model.config.balance == "loss" else loss

    def scale_of(step):
        if step < s.sum_steps:
            return warmup(step, 10)
        shape = {"decay": s.decay} if s.schedule == "constant" else {}
        return SCHEDULES[s.schedule](step - s.sum_steps, s.steps, n_warmup=max(s.steps // 33, 1), **shape)

    return train(model, optimizers, loss_of, s.sum_steps + s.steps, scale_of, "pretrain", s.clip, state, key,
                 scaler=LossScaler() if precision == "fp16" else None, on_bad=s.on_bad, spike=s.spike,
                 watch=watch)


def estimate(model: Transformer, s: Settings, device: torch.device) -> None:
    """Say before a long run how long it will take, from two steps of a copy of the model."""
    fast, trial = is_fast(s.fast, device), copy.deepcopy(model)
    if fast:
        use_fast_path(trial, s.precision, compiled=False)
    ids = torch.zeros(s.batch, s.length, dtype=torch.int64, device=device)
    for _ in range(2):   # the first one warms up
        begin = time.perf_counter()
        loss_on(trial, ids, ids, fast).backward()
        first = next(trial.parameters()).grad
        assert first is not None
        float(first.sum())   # waits for the device
        seconds = time.perf_counter() - begin
    hours = 1.3 * seconds * (s.sum_steps + s.steps) / 3600   # the optimizer and the sums are the rest, about
    print(f"  {s.steps:,} steps of {s.batch} x {s.length} tokens, about {hours * 60:.0f} minutes here",
          flush=True)


def watcher(model: Transformer, tokenizer: Tokenizer, valid, tasks: Tasks, s: Settings, best: Path):
    """What a saved step calls: every `watch` steps, show held-out loss and a sample, and keep the best."""
    def watch(step):
        if s.watch and step % s.watch < 50:
            held_out = bits_per_byte(model, valid, tasks.held_out_bytes)
            model.train()
            kept = keep_best(best, model, held_out)
            text = complete(model, tokenizer, ["The "], n_new=30)[0].replace("\n", " ")
            print(f"\n  step {step}: {held_out:.3f} bits a byte{', the best so far' if kept else ''}   "
                  f"The {text}", flush=True)
    return watch


def draw_loss(path: Path, log: list[dict], sum_steps: int) -> None:
    """Training loss against steps, raw and as a running mean of 20 steps."""
    steps, losses = [r["step"] for r in log], torch.tensor([r["loss"] for r in log])
    axes = new_axes("Pretraining: sums first, then text with sums", "step", "training loss (nats a token)",
                    width=7)
    axes.plot(steps, losses, color=GREY, linewidth=0.6, alpha=0.7, label="each step")
    for begin, end in ((0, sum_steps), (sum_steps, len(log))):
        if end - begin > 20:
            axes.plot(steps[begin + 19:end], losses[begin:end].unfold(0, 20, 1).mean(1), color="black",
                      label="mean of 20 steps" if begin else None)
    axes.axvline(sum_steps, color="black", linestyle=":", linewidth=1)
    axes.text(sum_steps, losses.max().item(), " text begins", va="top")
    axes.legend(loc="upper right", frameon=False)
    save(axes, path)


def main() -> None:
    """Load chapters 1 and 2, measure, pretrain, measure again, save."""
    s = parse_settings(Settings, __doc__, QUICK, full=FULL)
    device = announce("03 training", s)
    begin = time.perf_counter()
    folder, text_folder = Path(s.out, "03_training"), Path(s.out, "01_tokenizer")
    tokenizer, tasks = Tokenizer.load(text_folder / "tokenizer.json"), load_tasks(text_folder / "tasks.json")
    tokens, valid = open_tokens(text_folder / "train.bin"), open_tokens(text_folder / "valid.bin")
    seed_everything(s.seed)
    model = Transformer(Config(**read_json(Path(s.out, "02_transformer", "config.json")))).to(device)

    for name, stream in (("train.bin", tokens), ("valid.bin", valid)):
        check_ids(text_folder / name, stream, model.config.vocab_size)
    if s.epochs:
        s.steps = max(int(s.epochs * len(tokens) / (s.batch * s.length)), 1)
    if s.full:
        estimate(model, s, device)
    before = measure(model, tokenizer, valid, tasks)
    made_from = content_hash(*(text_folder / name for name in ("train.bin", "tokenizer.json", "tasks.json")))
    key = fingerprint((s, model.config, made_from), "01_tokenizer", "02_transformer", "03_training")
    log = pretrain(model, tokenizer, tokens, tasks, s, folder / "state.pt", key,
                   watcher(model, tokenizer, valid, tasks, s, folder / "best.pt"))
    after = measure(model, tokenizer, valid, tasks)
    for name in before:
        print(f"  {name.replace('_', ' '):<16} {before[name]:.3f} -> {after[name]:.3f}")
    save_model(folder / "model.pt", model)
    draw_loss(folder / "loss", log, s.sum_steps)
    write_json(folder / "metrics.json", {
        "seed": s.seed, "before": before, "after": after, "train_seconds": sum(r["seconds"] for r in log),
        "seconds": time.perf_counter() - begin, "settings": asdict(s), "log": log})


if __name__ == "__main__":
    run_main(main)
