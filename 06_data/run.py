"""Chapter 6: crawl a small web, turn it into a training mix, and measure whether each step was worth it.

    make 06        or  python 06_data/run.py --help
"""
import random
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, process_pool, read_json, run_main, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np

import deduplicate
import evaluate
import extract
import filters
import ladder
import language
import mix
import pictures
import planted
import quality
from benchmark_files import Choice
from bits_per_byte import bits_per_byte
from bpe import EOS, SPECIAL, Tokenizer, train
from curate import curate
from facts import find_facts, questions, statement
from token_file import pack, write_tokens

VOCABULARY = 1024                 # tokens of the ladder's tokenizer, learned from the curated text


@dataclass
class Settings(RunSettings):
    """What chapter 6 can be told."""
    pages: int = 2000             # stop the crawl after this many pages
    records: int = 100            # pages in a shard
    processes: int = 2            # worker processes
    only_curate: bool = False     # stop when the curated set is written
    steps: int = 240              # training steps of each rung of the ladder
    ladder_seeds: int = 2         # how often each rung is trained; the lesson's table is of 3
    proxies: int = 8              # small runs that search the mixture
    proxy_steps: int = 60         # steps of each


QUICK = dict(pages=260, records=40, steps=10, proxies=3, proxy_steps=4, ladder_seeds=1)


def score_extraction(seed: int) -> dict[str, list[float]]:
    """{method: [precision, recall]} of words, on the planted pages whose main text is known."""
    pages = [p for p in planted.build(seed) if p.gold and p.kind in ("article", "facts")]
    methods = {"all visible text": extract.all_text, "main text": extract.main_text}
    return {name: np.mean([extract.word_score(f(p.body.decode()), p.gold) for p in pages], axis=0).tolist()
            for name, f in methods.items()}


def rule_table(documents: list[dict], kinds: dict[str, str]) -> dict[str, dict[str, int]]:
    """How many documents each rule alone would remove: {rule: {"wanted": n, "unwanted": n}}."""
    bad = {"spam", "advertisement", "boilerplate", "broken", "code", "language"}
    table: dict[str, Counter] = defaultdict(Counter)
    for doc in documents:
        side = "unwanted" if kinds.get(doc["url"].split("/", 3)[-1]) in bad else "wanted"
        measured = filters.Document(doc["text"])
        table["(documents)"][side] += 1
        for rule in filters.ALL_RULES:
            table[f"{rule.source}: {rule.name}"][side] += rule.broken_by(measured) is not None
    return {name: {"wanted": c["wanted"], "unwanted": c["unwanted"]} for name, c in table.items()}


def edited_pairs(seed: int, n: int = 600) -> list[tuple[np.ndarray, np.ndarray]]:
    """Shingles of a text and of an edited copy, for edits from almost none to many."""
    rng = random.Random(seed)
    texts = planted.articles()
    pairs = []
    for i in range(n):
        page = texts[i % len(texts)]
        copy = planted.edited(page, rng.random() ** 2 * 0.2, rng)
        pairs.append((deduplicate.shingles(" ".join(page)), deduplicate.shingles(" ".join(copy))))
    return pairs


def measure_near(seed: int) -> dict:
    """Recall and false merges of MinHash on edited copies, and the share found by similarity."""
    pairs, (bands, rows) = edited_pairs(seed), deduplicate.choose_bands()
    sigs = deduplicate.signatures([x for pair in pairs for x in pair], *deduplicate.hash_functions())
    left, right = sigs[::2], sigs[1::2]
    true = np.array([deduplicate.jaccard(a, b) for a, b in pairs])
    cut = (slice(None), slice(0, bands * rows))
    same = (left[cut] == right[cut]).reshape(-1, bands, rows)
    found = same.all(2).any(1)
    merged = found & ((left == right).mean(1) >= deduplicate.THRESHOLD)
    bins = np.arange(0.05, 1.0, 0.1)
    near = {float(b): float(found[abs(true - b) <= .05].mean()) for b in bins
            if (abs(true - b) <= .05).sum() >= 10}
    return {"bands": bands, "rows": rows, "pairs": len(pairs), "by_similarity": near,
            "candidate_recall": float(found[true >= 0.8].mean()),
            "merge_recall": float(merged[true >= 0.8].mean()),
            "false_merges": float((merged & (true < 0.7)).sum() / max(merged.sum(), 1))}


def leak_effect(curated: list[str], items: list[Choice]) -> dict:
    """Accuracy of an n-gram model with and without the leaked questions in its training text."""
    clean = evaluate.multiple_choice(quality.NgramModel(curated), items)
    leaked = evaluate.multiple_choice(quality.NgramModel(curated + [i.text() for i in items] * 2), items)
    return {"clean": [clean.mean, clean.error], "leaked": [leaked.mean, leaked.error],
            "difference": [(d := evaluate.paired(leaked, clean)).mean, d.error]}


def mix_sources(folder: Path, documents: list[dict], tokenizer: Tokenizer, valid: list[str],
                s: Settings) -> tuple[dict, np.ndarray]:
    """Search the sources' weights with proxy runs, cap the epochs, write train.bin; (numbers, tokens)."""
    sources: dict[str, list[np.ndarray]] = defaultdict(list)
    for doc in documents:
        name = doc["domain"] if doc["domain"] in ("wiki", "topics", "modules") else "articles"
        sources[name] += ladder.encode_all(tokenizer, [doc["text"]])
    sizes = {name: float(sum(map(len, docs))) for name, docs in sorted(sources.items())}
    rng = random.Random(s.seed)
    known = [statement(fact, rng) for fact in find_facts(60, random.Random(s.seed))]
    tests = [(pack(tokenizer, t), sum(len(x.encode()) for x in t)) for t in (valid, known)]
    shape = ladder.Shape(d_model=64, n_layers=2, steps=s.proxy_steps, batch=8, length=64)

    def score(weights: dict[str, float]) -> float:
        tokens = mix.sample_documents(sources, weights, shape.steps * shape.batch * shape.length * 5 // 4,
                                      s.seed)
        model = ladder.train_on(tokens, tokenizer.vocab_size, shape, s.seed, "proxy")
        return float(np.mean([bits_per_byte(model, t, n, shape.length) for t, n in tests]))
    found, runs = mix.search_weights(list(sizes), score, s.proxies, s.seed)
    total = s.steps * 8 * 128 * 5 // 4
    weights = mix.cap_epochs(found, sizes, total, max(8.0, 1.5 * total / sum(sizes.values())))
    tokens = np.concatenate([[tokenizer.special[EOS]], mix.sample_documents(sources, weights, total, s.seed)])
    write_tokens(folder / "train.bin", tokens)
    return {"sizes": sizes, "searched": found, "weights": weights,
            "epochs": mix.epochs(weights, sizes, total),
            "by_size": mix.temperature_weights(sizes, 1), "temperature_2": mix.temperature_weights(sizes, 2),
            "proxies": runs}, tokens.astype(np.uint16)


def main() -> None:
    """Curate the crawl; then measure each tool, mix, climb the ladder, evaluate."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("06 data: curate" if s.only_curate else "06 data", s, cpu_only=True)
    begin, folder = time.perf_counter(), Path(s.out, "06_data")
    folder.mkdir(parents=True, exist_ok=True)
    made = curate(folder, s.seed, s.pages, s.records, s.processes)
    if s.only_curate:
        return write_json(folder / "curating.json", {"seed": s.seed, "seconds": time.perf_counter() - begin})

    extraction = score_extraction(s.seed)
    print("  extraction (precision, recall): "
          + ", ".join(f"{k} {p:.3f} {r:.3f}" for k, (p, r) in extraction.items()))
    languages, sentences = language.default_model(), language.load_sentences()
    accuracy, confusion = language.accuracy_by_length(languages, sentences["test"])
    print("  language: " + ", ".join(f"{n} characters {a:.0%}" for n, a in accuracy.items()))
    unknown = {side: language.unknown_by_length(languages, sentences[side]) for side in ("test", "other")}
    for side, said in (("test", "of the ten languages"), ("other", "of other languages")):
        print(f"  called unknown {said}: "
              + ", ".join(f"{n} characters {u:.0%}" for n, u in unknown[side].items()))
    print(f"  quality, area under the curve: classifier {made.judged['classifier_auc']:.3f}, "
          f"perplexity {made.judged['perplexity_auc']:.3f}")
    near = measure_near(s.seed)
    print(f"  near copies: {near['bands']} bands of {near['rows']}, recall {near['candidate_recall']:.3f} as "
          f"candidates, {near['merge_recall']:.3f} merged; false merges {near['false_merges']:.3%}")
    print(f"  held-out text: {made.in_crawl:.0%} of its paragraphs are in the crawl after all, "
          "and are not tested on")
    rules = rule_table(made.extracted, {p.path.lstrip("/"): p.kind for p in planted.build(s.seed)})
    leak = leak_effect([d["text"] for d in made.documents], made.items)
    print(f"  leaked questions: accuracy {leak['clean'][0]:.2f} without them in the training text, "
          f"{leak['leaked'][0]:.2f} with them")

    texts = {name: [d["text"] for d in ladder.stage_documents(folder / "stages", stage)]
             for name, stage in (("extracted", "extract"), ("filtered", "quality"),
                                 ("deduplicated", "private"))}
    tokenizer = Tokenizer(train(texts["deduplicated"], VOCABULARY - len(SPECIAL)))
    mixture, mixed = mix_sources(folder, made.documents, tokenizer, made.valid, s)
    print("  mixture: " + ", ".join(f"{n} {w:.0%} ({mixture['epochs'][n]:.1f} epochs)"
                                     for n, w in mixture["weights"].items()))
    rungs = {"raw": ladder.raw_documents(sorted((folder / "stages" / "warc").iterdir())), **texts,
             "mixed": mixed}
    asked = [q for fact in find_facts(60, random.Random(s.seed)) for q in questions(fact)]
    seeds = range(s.seed, s.seed + s.ladder_seeds)
    with process_pool(s.processes) as executor:
        climbed = ladder.climb(rungs, tokenizer, made.test, asked, ladder.Shape(steps=s.steps), seeds,
                               executor)
    for name, row in climbed.items():
        loss = row["bits_per_byte"]
        print(f"  {name:<13} {np.mean(loss):.3f} ± {np.std(loss):.3f} bits a byte, "
              f"recall {np.mean(row['recall']):.1%} ± {np.std(row['recall']):.1%}")
    pictures.draw_funnel(folder / "funnel.png", made.funnel["stages"])
    pictures.draw_s_curve(folder / "s_curve.png", near["bands"], near["rows"], near["by_similarity"])
    pictures.draw_ladder(folder / "ladder.png", climbed)
    earlier = read_json(folder / "curating.json")["seconds"] if (folder / "curating.json").exists() else 0.0
    write_json(folder / "metrics.json", {
        "seed": s.seed, "settings": asdict(s), "crawl": made.crawl, "extraction": extraction,
        "language": accuracy, "unknown": unknown,
        "confusion": {"names": languages.names, "counts": confusion.tolist()},
        "quality": made.judged, "near": near, "funnel": made.funnel, "rules": rules, "leak": leak,
        "mixture": mixture, "ladder": climbed, "held_out_in_crawl": made.in_crawl,
        "seconds": earlier + time.perf_counter() - begin})


if __name__ == "__main__":
    run_main(main)
