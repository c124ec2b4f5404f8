"""One run of the ablations: train one variant of the model of chapter 2 on chapter 1's stream and measure it.

    python 03_training/ablations.py            all of them
"""
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from adamw import AdamW
from batches import TextBatches
from bits_per_byte import bits_per_byte
from count import active_parameters
from cross_entropy import cross_entropy
from mixture_of_experts import balance_loss, mixtures
from muon import muon_and_adamw
from schedule import constant_then_decay
from tasks import load_tasks
from token_file import open_tokens
from train import train
from transformer import Config, Transformer
from workbench import seed_everything

BATCH, LENGTH = 8, 128   # rows a step, tokens a row


@dataclass(frozen=True)
class Variant:
    """One row of the table: what changes in the model, and what in the run."""
    group: str
    name: str
    model: dict
    lr: float = 1.0         # times the learning rates of the reference
    warmup: float = 0.1     # share of the steps
    optimizer: str = "muon"  # muon (AdamW for the rest) or adamw alone


def run(variant: Variant, config: Config, text: Path, steps: int, seed: int) -> dict:
    """Train one model and measure it; the loss of a run that left the numbers is None."""
    seed_everything(seed)
    model, batches = Transformer(config), TextBatches(open_tokens(text / "train.bin"), BATCH, LENGTH, seed)
    tasks, valid = load_tasks(text / "tasks.json"), open_tokens(text / "valid.bin")

    def loss_of(step: int) -> torch.Tensor:
        x, y = batches(step)
        loss = cross_entropy(model(x), y)
        return loss + 0.01 * balance_loss(model) if config.balance == "loss" else loss

    def scale_of(step: int) -> float:
        return variant.lr * constant_then_decay(step, steps, n_warmup=int(variant.warmup * steps))

    alone = [AdamW(model.parameters(), 4e-3)]
    optimizers = muon_and_adamw(model, 0.02, 4e-3) if variant.optimizer == "muon" else alone
    try:
        log = train(model, optimizers, loss_of, steps, scale_of, f"{variant.name} {seed}")
    except ValueError as error:   # the loss was not a number any more
        return {"bits": None, "why": str(error), "active": active_parameters(config)}
    bits = bits_per_byte(model, valid, tasks.held_out_bytes, LENGTH)
    last = statistics.mean(r["loss"] for r in log[-20:])
    return {"bits": bits, "last": last, "load": mean_load(model, valid),
            "active": active_parameters(config), "parameters": sum(p.numel() for p in model.parameters())}


@torch.no_grad()
def mean_load(model: Transformer, tokens) -> list[float]:
    """The share of visits that each expert of the first mixture gets on held-out text, largest first."""
    ids = torch.from_numpy(tokens[:16 * LENGTH].astype("int64")).view(16, LENGTH)
    model(ids)
    return sorted(mixtures(model)[0].load.tolist(), reverse=True) if mixtures(model) else []
