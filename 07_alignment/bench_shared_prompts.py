"""One GRPO update with each prompt read once for its group, beside one that repeats it: time and tokens.

    python 07_alignment/bench_shared_prompts.py    some seconds (make bench)
"""
import random
import time
from statistics import median

try:
    from workbench import RunSettings, announce, parse_settings, run_main, seed_everything
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from bpe import Tokenizer
from grpo import Batch, Variant
from results_table import print_table
from transformer import Config, Transformer


def update_seconds(model: Transformer, batch: Batch) -> float:
    """Forward and backward of one loss."""
    begin = time.perf_counter()
    batch.loss(model)[0].backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    """Prompts and answers of several lengths, 16 groups of 8."""
    s = parse_settings(RunSettings, __doc__, {})
    device = announce("07 shared prompts", s)
    seed_everything(s.seed)
    model = Transformer(Config(vocab_size=1024, qk_norm=True)).to(device)
    rng, rows, K, G = random.Random(s.seed), [], 16, 8
    for prompt, answer in ((10, 5), (40, 5), (40, 40), (10, 40)):
        asked = [[rng.randrange(1024) for _ in range(prompt)] for _ in range(K)]
        asked = [p for p in asked for _ in range(G)]
        answers = [[rng.randrange(1024) for _ in range(answer)] for _ in range(K * G)]
        rewards = torch.tensor([[float(i % 2) for i in range(G)]] * K)
        both = [Batch(Tokenizer([]), asked, answers, rewards, Variant(shared=shared))
                for shared in (False, True)]
        times = [[update_seconds(model, b) for b in both] for _ in range(2 if s.quick else 7)][1:]
        plain, shared = (median(column) for column in zip(*times))
        repeated, once = K * G * (prompt + answer - 1), K * (prompt + G * (answer - 1))
        rows.append([f"{prompt} + {answer}", f"{repeated:,}", f"{once:,}", f"{repeated / once:.2f}",
                     f"{1000 * plain:.0f}", f"{1000 * shared:.0f}", f"{plain / shared:.2f}"])
    print_table(["prompt + answer", "tokens", "shared", "ratio", "ms", "shared", "times as fast"], rows)


if __name__ == "__main__":
    run_main(main)
