"""Was it worth it? The same small model with the same number of steps on the data of each stage.

Only the data differs: same tokenizer, same seeds, same tokens read. What is measured is what no stage has
seen: the surprise at clean text that the small web never served, and the facts that the model can complete
afterwards.

Source: ablations by early-training models as in FineWeb (Penedo et al. 2024), section 3.1.

    python 06_data/run.py --ladder-seeds 3       all rungs with three seeds
"""
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from across_shards import read_documents
from batches import TextBatches
from bits_per_byte import bits_per_byte
from bpe import EOS, Tokenizer
from cross_entropy import cross_entropy
from extract import beginning, decode
from facts import Question
from muon import muon_and_adamw
from recall import fact_recall
from schedule import SCHEDULES
from token_file import pack
from train import train
from transformer import Config, Transformer
from warc import read_warc


@dataclass(frozen=True)
class Shape:
    """The model and the run that every rung gets."""
    d_model: int = 96
    n_layers: int = 2
    steps: int = 240
    batch: int = 8
    length: int = 128


def raw_documents(shards: list[Path], limit: int = 20_000) -> list[str]:
    """What a model would read if nobody extracted anything: the decoded start of a page, markup and all."""
    return [decode(beginning(page.body, limit), page.headers.get("content-type", ""))[0] for path in shards
            for page in read_warc(path) if page.body]


def stage_documents(folder: Path, stage: str) -> list[dict]:
    """All documents that left a stage of the pipeline, in shard order. ValueError where it has not run."""
    homes = [p for p in sorted(folder.glob("*-*")) if p.name.partition("-")[2] == stage]
    if not homes:
        raise ValueError(f"{folder} has no stage {stage!r}: run `make 06` first")
    return [doc for path in sorted(homes[0].glob("*.jsonl.gz")) for doc in read_documents(path)]


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Each text as tokens with the end-of-text token behind it, [(n,) uint16]."""
    return [pack(tokenizer, [text])[1:] for text in texts]


def stream(documents: list[np.ndarray], total: int, eos: int, seed: int) -> np.ndarray:
    """At least `total` tokens of whole documents in random order, repeated if they are few; (N,) uint16."""
    rng, out, size = np.random.default_rng(seed), [np.array([eos], dtype=np.uint16)], 0
    while size < total:
        for i in rng.permutation(len(documents)):
            out.append(documents[i])
            size += len(documents[i])
            if size >= total:
                break
    return np.concatenate(out)


def train_on(tokens: np.ndarray, vocab_size: int, shape: Shape, seed: int, label: str) -> Transformer:
    """A fresh model trained for `shape.steps` on a token stream."""
    torch.manual_seed(seed)
    config = Config(vocab_size=vocab_size, d_model=shape.d_model, n_layers=shape.n_layers, n_heads=4,
                    n_kv_heads=4, d_ff=shape.d_model * 11 // 4, max_len=shape.length)
    model = Transformer(config)
    batches = TextBatches(tokens, shape.batch, shape.length, seed)

    def loss_of(step: int) -> torch.Tensor:
        x, y = batches(step)
        return cross_entropy(model(x), y)
    train(model, muon_and_adamw(model, 0.02, 4e-3), loss_of, shape.steps,
          lambda step: SCHEDULES["constant"](step, shape.steps, n_warmup=max(shape.steps // 33, 1),
                                             decay=0.5), label)
    return model


def one_rung(tokens: np.ndarray, test: np.ndarray, n_bytes: int, tokenizer: Tokenizer,
             questions: list[Question], shape: Shape, seed: int, label: str) -> tuple[float, float]:
    """Train one model and measure it: (bits per byte of the test text, share of the facts completed)."""
    torch.set_num_threads(1)                                 # rungs run side by side
    model = train_on(tokens, tokenizer.vocab_size, shape, seed, label)
    return bits_per_byte(model, test, n_bytes, shape.length), fact_recall(model, tokenizer, questions)


def climb(rungs: dict[str, list[str] | np.ndarray], tokenizer: Tokenizer, test_texts: list[str],
          questions: list[Question], shape: Shape, seeds: range,
          executor: Executor) -> dict[str, dict[str, list[float]]]:
    """Train on each rung with each seed: {rung: {"bits_per_byte": [...], "recall": [...]}}, one entry a seed.

    A rung is a list of texts, read in random order, or an array of tokens that are already mixed.
    """
    eos, total = tokenizer.special[EOS], shape.steps * shape.batch * shape.length * 5 // 4
    test, n_bytes = pack(tokenizer, test_texts), sum(len(t.encode()) for t in test_texts)
    encoded = {n: data if isinstance(data, np.ndarray) else encode_all(tokenizer, data)
               for n, data in rungs.items()}
    waiting = []
    for seed in seeds:
        for name, data in encoded.items():
            tokens = data if isinstance(data, np.ndarray) else stream(data, total, eos, seed)
            future = executor.submit(one_rung, tokens, test, n_bytes, tokenizer, questions, shape, seed,
                                     f"{name} {seed}")
            waiting.append((seed, name, future))
    results: dict[str, dict[str, list[float]]] = {n: {"bits_per_byte": [], "recall": []} for n in rungs}
    for seed, name, future in waiting:
        loss, recall = future.result()
        print(f"  seed {seed}  {name:<13} {loss:.3f} bits a byte, recall {recall:.1%}", flush=True)
        results[name]["bits_per_byte"].append(loss)
        results[name]["recall"].append(recall)
    return results
