"""Speed and memory of our tokenizer beside tokenizers, tiktoken and minbpe's algorithm, in one run.

10 MB of the standard library's source, vocabulary 8,192. Every row is the best of --rounds processes of its
own, rows take turns, so that a busy moment hits all alike. The packages run on one thread; ours on one
process, training also on two. Times are seconds on the clock, imports and reading the text left out; memory
is by how much the peak of the process grew meanwhile (of the first process alone where there are two).

    make bench     or  python 01_tokenizer/bench_tokenizers.py
"""
import json
import os
import resource
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import parse_settings, run_main, setting  # checks: first

# isort: split

from bpe import Tokenizer, train
from bpe_naive import train_naive
from pretokenize import PATTERN, splitter

NAIVE_BYTES, NAIVE_MERGES = 300_000, 3   # what minbpe's algorithm does before it is extrapolated


@dataclass
class Settings:
    """What the benchmark can be told."""
    size: int = 10_000_000              # bytes of source
    vocab: int = setting(8192, least=300)   # tokens
    rounds: int = 3                     # times each row is measured; the best counts
    job: str = ""                       # for the benchmark itself: the one row to measure
    file: str = ""                      # for the benchmark itself: the tokenizer of the encoding rows


def source_texts(size: int) -> list[str]:
    """Files of the standard library, in a fixed order, until they have `size` bytes."""
    texts, total = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if not {"site-packages", "dist-packages"} & set(path.parts) and total < size:
            try:
                texts.append(path.read_text(encoding="utf-8"))
                total += len(texts[-1].encode())
            except (OSError, UnicodeDecodeError):
                continue
    return texts


def tokenizers_trainer(vocab: int):
    """The same task for the tokenizers package: its BPE with our pattern over bytes."""
    from tokenizers import Regex, Tokenizer as Theirs, models, pre_tokenizers, trainers
    theirs = Theirs(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return theirs, trainer


def measure(s: Settings) -> dict:
    """Run one row in this process: {"seconds": ..., "check": what rows of a kind must agree in}."""
    texts = source_texts(s.size)
    kind, who = s.job.split()
    if s.job == "train minbpe":
        texts = ["".join(texts)[:NAIVE_BYTES]]
    ours: Any = Tokenizer.load(s.file) if kind == "encode" else None
    theirs: Any = None
    trainer = None
    if who == "tokenizers":
        theirs, trainer = tokenizers_trainer(s.vocab)
        if ours:
            from formats import to_hf
            to_hf(ours, s.file + ".hf")
            theirs = theirs.from_file(s.file + ".hf")
    if who == "tiktoken":
        import tiktoken
        ranks = {data: i for i, data in enumerate(ours.bytes_of)}
        theirs = tiktoken.Encoding("ours", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    if who == "warm":
        for text in texts:
            ours.encode(text)

    before, begin = peak_megabytes(), time.perf_counter()
    if kind == "train":
        result: Any = (train(texts, s.vocab, processes=int(who)) if who.isdigit() else
                       train_naive(texts[0], NAIVE_MERGES, splitter(PATTERN)) if who == "minbpe" else
                       theirs.train_from_iterator(texts, trainer))
        seconds, check = time.perf_counter() - begin, 0
        if who == "1":
            Tokenizer(result).save(s.file)
    else:
        encode = (ours.encode if who in ("cold", "warm") else theirs.encode_ordinary if who == "tiktoken" else
                  lambda text: theirs.encode(text).ids)
        ids = [encode(text) for text in texts]
        seconds, check = time.perf_counter() - begin, hash(tuple(map(tuple, ids)))
    return {"seconds": seconds, "check": check, "megabytes": peak_megabytes() - before}


def peak_megabytes() -> float:
    """The largest resident size of this process so far (macOS counts it in bytes, Linux in kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def best_of(jobs: list[str], s: Settings, file: Path) -> dict[str, dict]:
    """Each job in processes of its own, taking turns: the fastest of each."""
    one_thread = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    best: dict[str, dict] = {}
    for _ in range(s.rounds):
        for job in jobs:
            command = [sys.executable, __file__, "--size", str(s.size), "--vocab", str(s.vocab), "--job", job,
                       "--file", str(file)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread)
            if done.returncode:
                raise ValueError(f"the row {job!r} failed, see above")
            row = json.loads(done.stdout.splitlines()[-1])
            if job not in best or row["seconds"] < best[job]["seconds"]:
                best[job] = row
    return best


def main() -> None:
    """Two tables."""
    s = parse_settings(Settings, __doc__)
    if s.job:
        print(json.dumps(measure(s)))
        return
    size = sum(len(text.encode()) for text in source_texts(s.size))
    file = Path("out/bench/tokenizer.json")
    rows = best_of(["train 1", "train 2", "train tokenizers", "train minbpe"], s, file)
    rows |= best_of(["encode cold", "encode warm", "encode tiktoken", "encode tokenizers"], s, file)
    if len({row["check"] for job, row in rows.items() if job.startswith("encode")}) > 1:
        raise ValueError("the encoders gave different ids")
    naive = rows["train minbpe"]["seconds"] / NAIVE_MERGES / NAIVE_BYTES * (s.vocab - 256) * size

    print(f"\n{size / 1e6:.1f} MB of source, vocabulary {s.vocab}, best of {s.rounds}\n")
    print(f"{'training':<34}{'seconds':>9}{'tokenizers = 1':>16}{'more MB':>9}")
    one = rows["train tokenizers"]["seconds"]
    for job, name in (("train 1", "ours, one process"), ("train 2", "ours, two processes"),
                      ("train tokenizers", "tokenizers, one thread")):
        row = rows[job]
        print(f"{name:<34}{row['seconds']:>9.2f}{row['seconds'] / one:>16.2f}{row['megabytes']:>9.0f}")
    print(f"{'minbpe (extrapolated, see below)':<34}{naive:>9.0f}{naive / one:>16.0f}")
    print(f"\n{'encoding':<34}{'MB a second':>12}{'tiktoken = 1':>14}{'tokenizers = 1':>16}{'more MB':>9}")
    for job, name in (("encode cold", "ours, nothing seen before"),
                      ("encode warm", "ours, all pieces seen before"),
                      ("encode tiktoken", "tiktoken"), ("encode tokenizers", "tokenizers")):
        row = rows[job]
        ratios = [rows[f"encode {other}"]["seconds"] / row["seconds"] for other in ("tiktoken", "tokenizers")]
        print(f"{name:<34}{size / 1e6 / row['seconds']:>12.1f}{ratios[0]:>14.2f}{ratios[1]:>16.2f}"
              f"{row['megabytes']:>9.0f}")
    print(f"""
All encoders gave the same ids. minbpe's algorithm (bpe_naive.train_naive, which counts the whole text again
for every merge as minbpe does) ran {NAIVE_MERGES} merges on {NAIVE_BYTES / 1e6:.1f} MB; its time is scaled up
to all merges and all bytes, which is too high by the share that the text shrinks while it is merged.""")


if __name__ == "__main__":
    run_main(main)
