"""From the small web to the curated set that the main model trains on: crawl, judge, pipeline, files.

Adds to pipeline.py what it needs before it can start: the crawl itself, examples of good and bad text for the
judge, and the held-out text and questions that must not stay in. Chapter 1 reads the result
(out/06_data/curated).

    python 06_data/run.py --only-curate
"""
import hashlib
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import corpus
import decontaminate
import extract
import ladder
import pipeline
import planted
import quality
from benchmark_files import Choice, load_mmlu
from crawl import Crawler, Limits
from facts import find_facts, statement
from smallweb import serve
from workbench import process_pool, read_json, write_json

SETS = Path(__file__).parent / "sets"


def crawl_web(folder: Path, seed: int, pages: int, leak: str) -> dict:
    """Crawl the small web into crawl.warc.gz, unless the same crawl is there already."""
    modules = ("planted", "smallweb", "addresses", "charset", "crawl", "fetch", "html_tokens", "http_message",
               "robots", "warc", "warc_stream")
    code = "".join(Path(__file__).with_name(f"{m}.py").read_text("utf-8") for m in modules)
    wanted = {"seed": seed, "pages": pages, "leak": leak, "code": hashlib.sha256(code.encode()).hexdigest()}
    note = folder / "crawl.json"
    if note.exists() and (known := read_json(note))["of"] == wanted and (folder / "crawl.warc.gz").exists():
        return known["counts"]
    (folder / "leak.txt").write_text(leak, encoding="utf-8")
    with serve(seed, folder / "leak.txt") as address:
        counts = dict(Crawler(address, Limits(pages=pages)).crawl(folder / "crawl.warc.gz"))
    write_json(note, {"of": wanted, "counts": counts})
    return counts


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
    examples = {"good": reference[:half] + docs[:400] + known[:20],
                "calibrate": reference[half:] + docs[400:700] + known[20:], "bad": [t for t in bad if t]}
    write_json(path, examples)
    judges = quality.Judges.train(examples["good"], examples["bad"], examples["calibrate"])
    ngrams, classifier = judges.ngrams, judges.classifier
    fresh = [" ".join(page) for page in planted.offers(60, random.Random(seed + 2000))]
    good = examples["calibrate"]
    return {"classifier_auc": quality.auc([classifier.score(t) for t in good],
                                          [classifier.score(t) for t in fresh]),
            "perplexity_auc": quality.auc([-ngrams.perplexity(t[:4000]) for t in good],
                                          [-ngrams.perplexity(t) for t in fresh])}


def unseen_paragraphs(documents: list[dict]) -> tuple[list[str], list[str], float]:
    """Paragraphs never served that no document contains: (to search with, to test on, share dropped).

    Topics quote each other and the library quotes them, so keeping a page off the web does not keep its text
    off.
    """
    topics = [extract.normalise(text) for text in planted.held_out_topics().values()]
    paragraphs = [p for text in topics for p in text.split("\n\n") if len(p) > 200]
    found = {leak.item for leak in decontaminate.report(paragraphs, [d["text"] for d in documents])["leaks"]}
    unseen = [p for i, p in enumerate(paragraphs) if i not in found]
    if len(unseen) < 6:
        raise ValueError("nearly all held-out text is in the crawl: keep more topics off the small web")
    return unseen[::3], [p for i, p in enumerate(unseen) if i % 3], len(found) / len(paragraphs)


def write_curated(folder: Path, documents: list[dict]) -> None:
    """The curated documents, a file each, for chapter 1, and curated.json; the same set is left alone."""
    texts = [doc["text"] for doc in documents]
    summary = {"documents": len(texts), "bytes": sum(len(t.encode()) for t in texts),
               "sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest()}
    note = folder / "curated.json"
    if note.exists() and read_json(note) == summary:
        return
    note.unlink(missing_ok=True)
    shutil.rmtree(folder / "curated", ignore_errors=True)
    (folder / "curated").mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / "curated" / f"{number:06d}.txt").write_text(text, encoding="utf-8")
    write_json(note, summary)
    print(f"  curated: {summary['documents']} documents, {summary['bytes'] / 1e6:.2f} MB")


@dataclass
class Curated:
    """What the pipeline made of the crawl, and how."""
    crawl: dict               # why pages were or were not fetched
    judged: dict              # how well quality is told apart
    funnel: dict
    extracted: list[dict]     # documents after the first stage
    documents: list[dict]     # and after the last
    items: list[Choice]
    valid: list[str]          # held-out paragraphs to search mixtures with
    test: list[str]           # and to measure with
    in_crawl: float           # share of held-out paragraphs that the crawl contains after all


def curate(folder: Path, seed: int, pages: int, records: int, processes: int) -> Curated:
    """Crawl, train the judge, run the pipeline, write the curated set. What is there is not done again."""
    items = load_mmlu(SETS / "mmlu_python.csv")
    counts = crawl_web(folder, seed, pages, "\n".join(" ".join(i.text().split()) + "." for i in items))
    print("  crawl: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items(), key=lambda c: -c[1])
                                  if n))
    judged = write_judge(folder / "judge.json", seed)
    with process_pool(processes) as executor:
        pipeline.run_pipeline(folder / "crawl.warc.gz", folder / "stages", pipeline.Recipe(), executor,
                              records, ("extract",))
        extracted = ladder.stage_documents(folder / "stages", "extract")
        valid, test, known = unseen_paragraphs(extracted)
        write_json(folder / "items.json", [i.text() for i in items] + valid + test)
        recipe = pipeline.Recipe(judge=str(folder / "judge.json"), items=str(folder / "items.json"))
        funnel = pipeline.run_pipeline(folder / "crawl.warc.gz", folder / "stages", recipe, executor, records)
    print(pipeline.funnel_table(funnel))
    documents = ladder.stage_documents(folder / "stages", "private")
    write_curated(folder, documents)
    return Curated(counts, judged, funnel, extracted, documents, items, valid, test, known)
