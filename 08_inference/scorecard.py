"""What bits cost: every way of rounding beside the others, by size, loss, knowledge, wording and speed.

Adds to run.py the other widths and ways. One number does not tell: perplexity looks at all tokens, exact
match at what the model knows, the KL divergence at how far its predictions have moved, and the likeness of
answers (the cosine of their embeddings, which the unrounded model makes) at whether a changed answer is still
near.

    python 08_inference/scorecard.py --out out     the table, and out/08_inference/scorecard (a figure)
"""
import copy
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

import activation_aware
import gptq
import packed_model
import quantize
import scale_tuning
from activation_aware import quantize_aware
from batches import TextBatches
from bits_per_byte import bits_per_byte
from bpe import Tokenizer
from cells import Cells
from checkpoint import load_model
from figures import GREY, plt, save
from gptq import input_moments, quantize_compensated
from kv_cache import generate_cached
from mixed_bits import give_bits
from packed_model import PackedTransformer
from quantize import (
    GROUP,
    Scales,
    dequantize,
    grid_for,
    nearest,
    on_grid,
    quantize_matrix,
    quantize_model,
    stored_bytes,
)
from roofline import best_seconds
from skills import chat_answers, fact_skill, sum_skill
from tasks import load_tasks
from token_file import open_tokens
from transformer import Transformer

WAYS = ("absmax", "searched scale", "GPTQ", "activation-aware")
ROWS = [("float32", 32), ("absmax, one scale a row", 8)] + [(way, bits) for bits in (4, 3, 2) for way in WAYS]


@dataclass
class Settings(RunSettings):
    """How much to look at."""
    calibration: int = setting(20, least=1)     # batches of 16 x 128 tokens that show the layers' inputs
    questions: int = setting(240, least=2)      # held-out questions that are asked
    text: int = setting(40_000, least=300)      # held-out tokens for perplexity and KL


QUICK = dict(calibration=1, questions=10, text=1000)


def absmax(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Scales]:
    """The plainest rounding: the largest weight of each group of a row gets the largest integer."""
    top = 2 ** (bits - 1) - 1
    largest = weight.unflatten(1, (-1, group)).abs().amax(-1).clamp(min=1e-8)       # (rows, groups)
    stored = on_grid(largest / top, grid_for(torch.ones_like(weight), largest / top))
    return nearest(weight, stored.values(), bits), stored


def rounded(weight: Tensor, moment: Tensor, way: str, bits: int) -> tuple[Tensor, Scales, Tensor | None]:
    """One matrix by one of the ways: integers, scales, and what columns were multiplied by, if anything."""
    if way == "absmax, one scale a row":
        return *absmax(weight, bits, weight.shape[1]), None
    if way == "absmax":
        return *absmax(weight, bits, GROUP), None
    if way == "searched scale":
        return *quantize_matrix(weight, bits), None
    if way == "GPTQ":
        return *quantize_compensated(weight, moment, bits), None
    return quantize_aware(weight, moment, bits)


def packed_bytes(integers: Tensor, scales: Scales, columns: Tensor | None, bits: int) -> int:
    """Bytes with integers packed without gaps, a byte a scale, and four a column."""
    return -(-integers.numel() * bits // 8) + scales.codes.numel() + 4 * scales.grid.numel() + \
        (4 * columns.numel() if columns is not None else 0)


@torch.no_grad()
def round_model(model: Transformer, moments: dict[str, Tensor], way: str,
                bits: int) -> tuple[Transformer, int]:
    """A float32 copy with the weights that rounding leaves, and the bytes it would take.

    The embedding has 8 bits in groups, whatever the way.
    """
    small = copy.deepcopy(model).requires_grad_(False)
    if way == "float32":
        return small, stored_bytes(model)
    size = 0
    layer: Any
    for name, layer in small.named_modules():
        if name.endswith("_proj"):
            integers, scales, columns = rounded(layer.weight, moments[name], way, bits)
            size += packed_bytes(integers, scales, columns, bits)
            layer.weight.copy_(dequantize(integers, scales.values()) / (1 if columns is None else columns))
        elif name == "model.embed_tokens":
            integers, scales = quantize_matrix(layer.weight, 8)
            size += packed_bytes(integers, scales, None, 8)
            layer.weight.copy_(dequantize(integers, scales.values()))
    return small, size + sum(4 * p.numel() for p in small.parameters() if p.ndim == 1)


@torch.no_grad()
def divergence(model: Transformer, small: Transformer, ids: Tensor) -> float:
    """KL(model || small) in nats, the mean over all places of ids (B, T)."""
    return sum(scale_tuning.divergence(model(rows), small(rows)).item() * rows.numel()
               for rows in ids.split(8)) / ids.numel()


@torch.no_grad()
def embed(model: Transformer, tokenizer: Tokenizer, text: str) -> Tensor:
    """A text as one vector of length 1, (C,): the mean of the last layer's vectors."""
    ids = tokenizer.encode(text) or [0]
    return torch.nn.functional.normalize(model.model(torch.tensor([ids]))[0].mean(0), dim=0)


def likeness(model: Transformer, tokenizer: Tokenizer, answers: list[str], others: list[str]) -> float:
    """The mean cosine of the embeddings of answers to the same questions."""
    return sum((embed(model, tokenizer, a) @ embed(model, tokenizer, b)).item()
               for a, b in zip(answers, others)) / len(answers)


def tokens_per_second(model: Transformer, bits: int) -> dict[str, float]:
    """Greedy tokens of one text, weights of this width unpacked when they are read, or multiplied packed.

    The two are the same for float32.
    """
    small = quantize_model(model) if bits < 32 else copy.deepcopy(model).requires_grad_(False)
    for name, _ in list(small.named_modules()):
        if bits < 32 and name.endswith("_proj"):
            give_bits(small, model, name, bits)
    prompt = torch.zeros(1, 8, dtype=torch.long)
    return {name: 32 / best_seconds(lambda m=m: generate_cached(m, prompt, 32), 3)
            for name, m in (("unpacked", small), ("packed", PackedTransformer(small)))}


def draw(path: Path, rows: list[dict]) -> None:
    """Left: perplexity by size. Right: questions answered exactly."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
    whole = rows[0]
    for axes, key, title, scale in ((panels[0], "perplexity", "perplexity", 1),
                                    (panels[1], "facts", "facts, %", 100)):
        axes.axhline(whole[key] * scale, color=GREY, linewidth=1, linestyle=":")
        for way, marker, color in zip(WAYS, "osv^", (GREY, GREY, "black", "black")):
            mine = [r for r in rows if r["way"] == way]
            axes.plot([r["bits"] for r in mine], [r[key] * scale for r in mine], f"-{marker}", color=color,
                      mfc="none" if marker in "ov" else color, label=way)
        axes.set(title=f"{title} (dotted: float32)", xlabel="bits of a weight, without its share of a scale")
        axes.set_xticks([4, 3, 2])
        axes.invert_xaxis()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yscale("log")
    panels[0].legend(frameon=False, fontsize=8)
    save(panels[0], path)


def main() -> None:
    """The table and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("08 scorecard", s, cpu_only=True)
    out, file = Path(s.out), Path(s.out, "07_alignment", "grpo.pt")
    words, exam = out / "01_tokenizer" / "tokenizer.json", out / "01_tokenizer" / "tasks.json"
    tokenizer, tasks, model = Tokenizer.load(words), load_tasks(exam), load_model(file)
    questions = tasks.held_out_questions[:s.questions]
    valid = open_tokens(out / "01_tokenizer" / "valid.bin")[:s.text]
    batches = TextBatches(open_tokens(out / "01_tokenizer" / "train.bin"), batch=16, length=128, seed=s.seed)
    moments = input_moments(model, [batches(i)[0] for i in range(s.calibration)])
    ids = torch.tensor([int(i) for i in valid[:len(valid) // 128 * 128]]).view(-1, 128)
    asked = [q.text for q in questions]
    answers = [a[0] for a in chat_answers(model, tokenizer, asked, 16)]
    floor = likeness(model, tokenizer, answers, answers[1:] + answers[:1])
    code = [sys.modules[__name__], quantize, gptq, activation_aware, packed_model, scale_tuning]
    kept = Cells(out / "08_inference" / "cells", code)
    rows = []
    print(f"  {'':<25}{'bits':>5}{'bytes':>11}{'perplexity':>12}{'KL':>8}{'facts':>8}{'sums':>8}"
          f"{'likeness':>10}{'unpacked':>10}{'packed':>8}")
    for way, bits in ROWS:
        def make(way=way, bits=bits):
            small, size = round_model(model, moments, way, bits)
            loss = bits_per_byte(small, valid, 1) * math.log(2) / (len(valid) - 1)   # all bits, by token
            said = [a[0] for a in chat_answers(small, tokenizer, asked, 16)]
            return {"bytes": size, "perplexity": math.exp(loss), "kl": divergence(model, small, ids),
                    "facts": fact_skill(small, tokenizer, questions)["facts"],
                    "sums": sum_skill(small, tokenizer, tasks.test_sums[:s.questions])["addition"],
                    "likeness": likeness(model, tokenizer, answers, said),
                    **tokens_per_second(model, bits)}
        cell = {"way": way, "bits": bits, "seed": s.seed, "questions": s.questions, "text": s.text,
                "calibration": s.calibration, "model": content_hash(file, words, exam)}
        r = {"way": way, "bits": bits, **kept.get(cell, make)}
        rows.append(r)
        print(f"  {way:<25}{bits:>5}{r['bytes']:>11,}{r['perplexity']:>12.2f}{r['kl']:>8.4f}"
              f"{r['facts']:>8.1%}{r['sums']:>8.1%}{r['likeness']:>10.3f}"
              f"{r['unpacked']:>10.0f}{r['packed']:>8.0f}", flush=True)
    print(f"  likeness of answers to different questions: {floor:.3f}")
    draw(out / "08_inference" / "scorecard", rows)


if __name__ == "__main__":
    run_main(main)
