"""Chapter 1: collect the text, learn a tokenizer from it, write the token streams and the test questions.

    make 01        or  python 01_tokenizer/run.py --help
"""
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench import RunSettings, announce, parse_settings, run_main, setting, write_json  # checks: first

# isort: split

from bpe import SPECIAL, Tokenizer, train
from corpus import Corpus, build_corpus
from tasks import save_tasks
from token_file import pack, shuffled, write_tokens
from tokenizer_costs import (
    KINDS,
    LANGUAGES,
    by_size,
    draw_languages,
    draw_share,
    draw_sizes,
    print_costs,
    tokens_of,
)


@dataclass
class Settings(RunSettings):
    """What chapter 1 can be told."""
    corpus: str = ""             # your own text: a UTF-8 file or a folder (default: what Python carries)
    vocab_size: int = setting(1024, least=260, most=65_536)     # tokens: 256 bytes, merges, 4 special ones
    names: int = 240             # names of the standard library to learn facts about
    held_out: int = 80           # of these, names that no training question asks about
    real_chars: int = setting(450_000, least=20_000)            # characters of real text
    exposures: int = 55          # how often the facts of a name are stated
    question_exposures: int = 8  # how often a training question is asked
    test_sums: int = setting(300, least=1, most=100_000)        # additions to test on
    demonstrations: int = setting(6000, least=1, most=500_000)  # additions that chapter 7's teacher shows
    careless_share: float = setting(0.65, least=0, most=1)      # how often that teacher forgets all carries


QUICK = dict(vocab_size=512, names=60, held_out=20, real_chars=120_000, exposures=10, question_exposures=4,
             test_sums=60, demonstrations=600)
FULL = dict(vocab_size=4096, real_chars=1_000_000_000)   # all the text there is


def compression(tokenizer: Tokenizer, texts: list[str]) -> dict[int, float]:
    """Bytes a token on `texts` for growing prefixes of the merges: {vocabulary size: bytes a token}."""
    sample = "\n".join(texts)[:100_000]
    sizes = [256 + len(tokenizer.merges) * i // 8 for i in range(9)]
    return {n: len(sample.encode()) / len(Tokenizer(tokenizer.merges[:n - 256]).encode(sample))
            for n in sizes}


def write_streams(folder: Path, tokenizer: Tokenizer, corpus: Corpus, rng: random.Random) -> dict[str, int]:
    """Write train.bin and valid.bin; returns how many tokens each source has."""
    sources = {"real": corpus.real, "facts": corpus.statements, "questions": corpus.question_documents}
    write_tokens(folder / "train.bin", pack(tokenizer, shuffled(*sources.values(), rng=rng)))
    write_tokens(folder / "valid.bin", pack(tokenizer, corpus.held_out_text))
    return {name: sum(len(tokenizer.encode(text)) + 1 for text in texts) for name, texts in sources.items()}


def measure_costs(folder: Path, tokenizer: Tokenizer, texts: list[str], held_out: list[str]) -> dict:
    """What a tokenizer costs: tables, printed and returned, and figures."""
    sizes = [tokenizer.vocab_size * 2**i for i in range(3)]
    rows = by_size(texts, "\n".join(held_out)[:100_000], sizes)
    kinds, languages = tokens_of(tokenizer, KINDS), tokens_of(tokenizer, LANGUAGES)
    print_costs(rows, kinds, languages)
    draw_sizes(folder / "compression", rows)
    draw_share(folder / "embedding_share", rows)
    draw_languages(folder / "languages", languages)
    return {"sizes": rows, "kinds": kinds, "languages": languages}


def main() -> None:
    """Corpus, tokenizer, token streams, tasks, metrics."""
    settings = parse_settings(Settings, __doc__, QUICK, full=FULL)
    announce("01 tokenizer", settings, cpu_only=True)
    begin = time.perf_counter()
    folder = Path(settings.out, "01_tokenizer")
    rng = random.Random(settings.seed)

    s = settings
    corpus = build_corpus(rng, s.corpus or None, s.names, s.held_out, s.real_chars, s.exposures,
                          s.question_exposures, s.test_sums, s.demonstrations, s.careless_share)
    texts = corpus.real + corpus.statements[:10 * settings.names] + corpus.question_documents[:600]
    tokenizer = Tokenizer(train(texts, settings.vocab_size - len(SPECIAL)))
    tokenizer.save(folder / "tokenizer.json")
    tokens = write_streams(folder, tokenizer, corpus, rng)
    save_tasks(folder / "tasks.json", corpus)

    curve = compression(tokenizer, corpus.held_out_text)
    total = sum(tokens.values())
    for name, n in tokens.items():
        print(f"  {name:<10} {n:>8,} tokens  {n / total:>4.0%}")
    sample = f"The module of {corpus.facts[0].name} is {corpus.facts[0].module}."
    print("  " + " | ".join(tokenizer.decode([i]) for i in tokenizer.encode(sample)))
    print(f"  {curve[len(tokenizer.bytes_of)]:.2f} bytes a token on held-out text, "
          f"vocabulary {tokenizer.vocab_size}")
    costs = measure_costs(folder, tokenizer, texts, corpus.held_out_text)
    write_json(folder / "metrics.json", {
        "seed": settings.seed, "tokens": tokens, "bytes_per_token": curve, "costs": costs,
        "seconds": time.perf_counter() - begin, "settings": asdict(settings)})


if __name__ == "__main__":
    run_main(main)
