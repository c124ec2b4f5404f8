"""Chapter 6: crawl a small web, turn it into a training mix, and measure whether each step was worth it.

    make 06        or  python 06_data/run.py --help
"""
import hashlib
import random
import shutil
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import corpus
import decontaminate
import deduplicate
import evaluate
import extract
import filters
import ladder
import language
import mix
import pictures
import pipeline
import planted
import quality
from bits_per_byte import bits_per_byte
from bpe import EOS, Tokenizer
from crawl import Crawler, Limits
from facts import find_facts, questions, statement
from smallweb import serve
from token_file import pack, write_tokens
from workbench import RunSettings, announce, parse_settings, read_json, run_main, write_json

SETS = Path(__file__).parent / "sets"


@dataclass
class Settings(RunSettings):
    pages: int = 2000             # stop the crawl after this many pages
    records: int = 100            # pages in a shard
    processes: int = 2            # worker processes of the pipeline
    steps: int = 240              # training steps of each rung of the ladder
    ladder_seeds: int = 1         # how often each rung is trained (the lesson shows 3)
    proxies: int = 8              # small runs that search the mixture
    proxy_steps: int = 60         # steps of each


QUICK = dict(pages=260, records=40, steps=10, proxies=3, proxy_steps=4)


def crawl_web(folder: Path, s: Settings, leak: str) -> dict:
    """Crawl the small web into crawl.warc.gz, unless the same crawl is there already."""
    modules = ("planted", "smallweb", "crawl", "warc")
    code = "".join(Path(__file__).with_name(f"{m}.py").read_text("utf-8") for m in modules)
    wanted = {"seed": s.seed, "pages": s.pages, "leak": leak, "code": hashlib.sha256(code.encode()).hexdigest()}
    note = folder / "crawl.json"
    if note.exists() and (known := read_json(note))["of"] == wanted and (folder / "crawl.warc.gz").exists():
        return known["counts"]
    (folder / "leak.txt").write_text(leak, encoding="utf-8")
    with serve(s.seed, folder / "leak.txt") as address:
        counts = dict(Crawler(address, Limits(pages=s.pages)).crawl(folder / "crawl.warc.gz"))
    write_json(note, {"of": wanted, "counts": counts})
    return counts


def score_extraction(seed: int) -> dict[str, list[float]]:
    """{method: [precision, recall]} of words, on the planted pages whose main text is known."""
    pages = [p for p in planted.build(seed) if p.gold and p.kind in ("article", "facts")]
    methods = {"all visible text": extract.all_text, "main text": extract.main_text}
    return {name: np.mean([extract.word_score(f(p.body.decode()), p.gold) for p in pages], axis=0).tolist()
            for name, f in methods.items()}


def rule_table(documents: list[dict], kinds: dict[str, str]) -> dict[str, dict[str, int]]:
    """How many wanted and unwanted documents each rule alone would remove: {rule: {"wanted": n, "unwanted": n}}."""
    bad = {"spam", "advertisement", "boilerplate", "broken", "code", "language"}
    table: dict[str, Counter] = defaultdict(Counter)
    for doc in documents:
        side = "unwanted" if kinds.get(doc["url"].split("/", 3)[-1]) in bad else "wanted"
        measured = filters.Document(doc["text"])
        table["(documents)"][side] += 1
        for rule in filters.ALL_RULES:
            table[f"{rule.source}: {rule.name}"][side] += rule.broken_by(measured) is not None
    return {name: {"wanted": c["wanted"], "unwanted": c["unwanted"]} for name, c in table.items()}


def write_judge(path: Path, seed: int) -> dict:
    """Examples that quality is learned from: the reference and docstrings against spam of *another* seed."""
    rng = random.Random(seed + 1000)
    reference = [" ".join(page) for page in planted.articles()]
    docs = corpus.docstrings()
    rng.shuffle(reference)
    rng.shuffle(docs)
    known = [" ".join(statement(f, rng) for f in find_facts(8, rng)) for _ in range(40)]
    bad = [" ".join(page) for page in planted.offers(120, rng)] + [
        extract.extract(p.body, p.content_type)[0] for p in planted.build(seed + 1000) if p.kind == "spam"]
    half = len(reference) // 2
    examples = {"good": reference[:half] + docs[:400] + known[:20], "also_good": [],
                "calibrate": reference[half:] + docs[400:700] + known[20:], "bad": [t for t in bad if t]}
    write_json(path, examples)
    ngrams, classifier = quality.NgramModel(examples["good"]), quality.QualityClassifier()
    classifier.fit(examples["good"], examples["bad"])
    fresh = [" ".join(page) for page in planted.offers(60, random.Random(seed + 2000))]
    good = examples["calibrate"]
    return {"classifier_auc": quality.auc([classifier.score(t) for t in good], [classifier.score(t) for t in fresh]),
            "perplexity_auc": quality.auc([-ngrams.perplexity(t[:4000]) for t in good],
                                          [-ngrams.perplexity(t) for t in fresh])}


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
    """Recall and false merges of MinHash on edited copies, and the share found by similarity (for the figure)."""
    pairs, (bands, rows) = edited_pairs(seed), deduplicate.choose_bands()
    sigs = deduplicate.signatures([x for pair in pairs for x in pair], *deduplicate.hash_functions())
    left, right = sigs[::2], sigs[1::2]
    true = np.array([deduplicate.jaccard(a, b) for a, b in pairs])
    cut = (slice(None), slice(0, bands * rows))
    same = (left[cut] == right[cut]).reshape(-1, bands, rows)
    found = same.all(2).any(1)
    merged = found & ((left == right).mean(1) >= deduplicate.THRESHOLD)
    bins = np.arange(0.05, 1.0, 0.1)
    near = {float(b): float(found[abs(true - b) <= .05].mean()) for b in bins if (abs(true - b) <= .05).sum() >= 10}
    return {"bands": bands, "rows": rows, "pairs": len(pairs), "by_similarity": near,
            "candidate_recall": float(found[true >= 0.8].mean()), "merge_recall": float(merged[true >= 0.8].mean()),
            "false_merges": float((merged & (true < 0.7)).sum() / max(merged.sum(), 1))}


def unseen_paragraphs(documents: list[dict]) -> tuple[list[str], list[str], float]:
    """Paragraphs of the topics never served that no document contains: (to search with, to test on, share dropped).

    Topics quote each other and the library quotes them, so keeping a page off the web does not keep its text off.
    """
    topics = [extract.normalise(text) for text in planted.held_out_topics().values()]
    paragraphs = [p for text in topics for p in text.split("\n\n") if len(p) > 200]
    found = {leak.item for leak in decontaminate.report(paragraphs, [d["text"] for d in documents])["leaks"]}
    unseen = [p for i, p in enumerate(paragraphs) if i not in found]
    if len(unseen) < 6:
        raise ValueError("nearly all held-out text is in the crawl: keep more topics off the small web")
    return unseen[::3], [p for i, p in enumerate(unseen) if i % 3], len(found) / len(paragraphs)


def leak_effect(curated: list[str], items: list[evaluate.Choice]) -> dict:
    """Accuracy of an n-gram model with and without the leaked questions in its training text."""
    clean = evaluate.multiple_choice(quality.NgramModel(curated), items)
    leaked = evaluate.multiple_choice(quality.NgramModel(curated + [i.text() for i in items] * 2), items)
    return {"clean": [clean.mean, clean.error], "leaked": [leaked.mean, leaked.error],
            "difference": [(d := evaluate.paired(leaked, clean)).mean, d.error]}


def mix_sources(folder: Path, documents: list[dict], tokenizer: Tokenizer, valid: list[str],
                s: Settings) -> tuple[dict, np.ndarray]:
    """Search the weights of the sources with proxy runs, cap the epochs, write train.bin; (numbers, tokens)."""
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
        tokens = mix.sample_documents(sources, weights, shape.steps * shape.batch * shape.length * 5 // 4, s.seed)
        model = ladder.train_on(tokens, tokenizer.vocab_size, shape, s.seed, "proxy")
        return float(np.mean([bits_per_byte(model, t, n, shape.length) for t, n in tests]))
    found, runs = mix.search_weights(list(sizes), score, s.proxies, s.seed)
    total = s.steps * 8 * 128 * 5 // 4
    weights = mix.cap_epochs(found, sizes, total, max(8.0, 1.5 * total / sum(sizes.values())))
    tokens = np.concatenate([[tokenizer.special[EOS]], mix.sample_documents(sources, weights, total, s.seed)])
    write_tokens(folder / "train.bin", tokens)
    return {"sizes": sizes, "searched": found, "weights": weights, "epochs": mix.epochs(weights, sizes, total),
            "by_size": mix.temperature_weights(sizes, 1), "temperature_2": mix.temperature_weights(sizes, 2),
            "proxies": runs}, tokens.astype(np.uint16)


def write_curated(folder: Path, documents: list[dict]) -> None:
    """The curated documents as one file each, which `--corpus` of chapter 1 reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, doc in enumerate(documents):
        (folder / f"{number:06d}.txt").write_text(doc["text"], encoding="utf-8")


def main() -> None:
    """Crawl, measure each tool, run the pipeline, mix, climb the ladder, evaluate."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("06 data", s)
    begin, folder = time.perf_counter(), Path(s.out, "06_data")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.load(Path(s.out, "01_tokenizer", "tokenizer.json"))
    items = evaluate.load_mmlu(SETS / "mmlu_python.csv")

    counts = crawl_web(folder, s, "\n".join(" ".join(i.text().split()) + "." for i in items))
    print("  crawl: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items(), key=lambda c: -c[1]) if n))
    extraction = score_extraction(s.seed)
    print("  extraction (precision, recall): " + ", ".join(f"{k} {p:.3f} {r:.3f}" for k, (p, r) in extraction.items()))
    accuracy, confusion = language.accuracy_by_length(language.default_model(), language.load_sentences()["test"])
    print("  language: " + ", ".join(f"{n} characters {a:.0%}" for n, a in accuracy.items()))
    judged = write_judge(folder / "judge.json", s.seed)
    print(f"  quality, area under the curve: classifier {judged['classifier_auc']:.3f}, "
          f"perplexity {judged['perplexity_auc']:.3f}")
    near = measure_near(s.seed)
    print(f"  near copies: {near['bands']} bands of {near['rows']}, recall {near['candidate_recall']:.3f} as "
          f"candidates, {near['merge_recall']:.3f} merged; false merges {near['false_merges']:.3%}")

    with ProcessPoolExecutor(s.processes) as executor:
        pipeline.run_pipeline(folder / "crawl.warc.gz", folder / "stages", pipeline.Recipe(), executor, s.records,
                              ("extract",))
        extracted = ladder.stage_documents(folder / "stages", "extract")
        valid, test, known = unseen_paragraphs(extracted)
        print(f"  held-out text: {known:.0%} of its paragraphs are in the crawl after all, and are not tested on")
        write_json(folder / "items.json", [i.text() for i in items] + valid + test)
        recipe = pipeline.Recipe(judge=str(folder / "judge.json"), items=str(folder / "items.json"))
        funnel = pipeline.run_pipeline(folder / "crawl.warc.gz", folder / "stages", recipe, executor, s.records)
    print(pipeline.funnel_table(funnel))
    kinds = {p.path.lstrip("/"): p.kind for p in planted.build(s.seed)}
    rules = rule_table(extracted, kinds)
    curated = ladder.stage_documents(folder / "stages", "private")
    write_curated(folder / "curated", curated)
    leak = leak_effect([d["text"] for d in curated], items)
    print(f"  leaked questions: accuracy {leak['clean'][0]:.2f} without, {leak['leaked'][0]:.2f} with them in the "
          "training text")

    mixture, mixed = mix_sources(folder, curated, tokenizer, valid, s)
    print("  mixture: " + ", ".join(f"{n} {w:.0%} ({mixture['epochs'][n]:.1f} epochs)"
                                     for n, w in mixture["weights"].items()))
    texts = {name: [d["text"] for d in ladder.stage_documents(folder / "stages", stage)]
             for name, stage in (("extracted", "extract"), ("filtered", "quality"), ("deduplicated", "private"))}
    rungs = {"raw": ladder.raw_documents(sorted((folder / "stages" / "warc").iterdir())), **texts, "mixed": mixed}
    asked = [q for fact in find_facts(60, random.Random(s.seed)) for q in questions(fact)]
    seeds = range(s.seed, s.seed + s.ladder_seeds)
    with ProcessPoolExecutor(s.processes) as executor:
        climbed = ladder.climb(rungs, tokenizer, test, asked, ladder.Shape(steps=s.steps), seeds, executor)
    for name, row in climbed.items():
        print(f"  {name:<13} {np.mean(row['bits_per_byte']):.3f} ± {np.std(row['bits_per_byte']):.3f} bits a byte, "
              f"recall {np.mean(row['recall']):.1%} ± {np.std(row['recall']):.1%}")
    pictures.draw_funnel(folder / "funnel.png", funnel["stages"])
    pictures.draw_s_curve(folder / "s_curve.png", near["bands"], near["rows"], near["by_similarity"])
    pictures.draw_ladder(folder / "ladder.png", climbed)
    write_json(folder / "metrics.json", {
        "seed": s.seed, "settings": asdict(s), "crawl": counts, "extraction": extraction, "language": accuracy,
        "confusion": {"names": language.default_model().names, "counts": confusion.tolist()}, "quality": judged,
        "near": near, "funnel": funnel, "rules": rules, "leak": leak, "mixture": mixture, "ladder": climbed,
        "held_out_in_crawl": known, "seconds": time.perf_counter() - begin})


if __name__ == "__main__":
    run_main(main)
