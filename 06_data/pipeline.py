"""The whole of data preparation as a stream of documents through named stages, over shards, on any executor.

Adds to the single steps what makes them a system: a corpus is a folder of shards; a stage reads one shard
document by document and writes one file; a manifest beside it holds the hash of what went in, of what came
out, and why documents were dropped. A rerun skips every file whose manifest still matches, so an interrupted
run continues and a changed setting redoes exactly what depends on it. Stages that compare documents across
shards write small keys per shard, decide once, and apply the decision per shard again.

Source: MapReduce (Dean and Ghemawat 2004); the order of stages as in FineWeb (Penedo et al. 2024).

    python 06_data/pipeline.py crawl.warc.gz folder        any WARC file, Common Crawl's too
"""
import gzip
import hashlib
import inspect
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

try:
    from workbench import atomic, parse_settings, process_pool, read_json, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import across_shards
import charset
import decontaminate
import deduplicate
import extract
import filters
import html_tokens
import http_message
import language
import page_blocks
import planted
import quality
import shards
import warc
import warc_stream
from across_shards import ACROSS, PARTS, decide, read_documents, shard_keys
from settings import check_ranges
from shards import domain, file_hash, shard

STAGES = ("extract", "language", "rules", "quality", "exact", "near", "paragraphs", "lines", "decontaminate",
          "private")
SAMPLES = 2                                                # removed documents shown for each reason and shard


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the pipeline keeps. A change redoes the stages that read it."""
    language: str = "en"
    judge: str = ""     # JSON {"good": [...], "bad": [...], "calibrate": [...]}: what quality is learned from
    # share of good examples that each judge of quality must keep
    keep_good: float = setting(0.99, above=0, most=1)
    items: str = ""                    # JSON list of evaluation texts that training must not contain
    threshold: float = setting(deduplicate.THRESHOLD, above=0, most=1)     # similarity of near copies
    minimum: int = setting(120, least=0)                  # characters left, below which a document is dropped


@lru_cache(maxsize=2)
def judges_of(path: str, keep: float) -> quality.Judges:
    """The judges of quality that a recipe names by its file of examples, trained once in each process."""
    examples = read_json(path)
    lacking = [name for name in ("good", "bad", "calibrate") if not examples.get(name)]
    if lacking:
        raise ValueError(f"{path} has no `{lacking[0]}`: wanted lists of `good`, `bad` and `calibrate` texts")
    return quality.Judges.train(examples["good"], examples["bad"], examples["calibrate"], keep)


@lru_cache(maxsize=2)
def _detector(path: str) -> decontaminate.Detector:
    return decontaminate.Detector(read_json(path))


def apply_stage(stage: str, doc: dict, recipe: Recipe) -> str:
    """One document through one stage: '' if it stays (its text may be changed), else why it goes."""
    text = doc["text"]
    if stage == "language":
        found, _ = language.default_model().identify(text)
        return "" if found == recipe.language else f"language: {found}"
    if stage == "rules" and doc["url"].endswith((".py", ".js")):
        doc["text"], reason = filters.clean_code(text)
        return f"code: {reason}" if reason else ""
    if stage == "rules":
        doc["text"] = filters.c4_lines(text, prose_only=False)
        return filters.first_broken(doc["text"])
    if stage == "quality" and recipe.judge:
        objection = judges_of(recipe.judge, recipe.keep_good).objection(text)
        return f"quality: {objection}" if objection else ""
    if stage == "decontaminate" and recipe.items:
        return "contains evaluation items" if _detector(recipe.items).leaks(text) else ""
    if stage == "private":
        doc["text"], masked = filters.mask_private(text)
        doc["masked"] = dict(masked)
    return ""


def _stream(stage: str, source: Path, recipe: Recipe, decision: Path | None) -> Iterator[tuple[dict, str]]:
    """(document, reason to drop it or '') for every document of a shard."""
    if stage == "extract":
        problems: Counter = Counter()
        for page in warc.read_warc(source, problems):
            text, reason = extract.extract(page.body, page.headers.get("content-type", ""))
            yield {"url": page.url, "domain": domain(page.url), "text": text, "raw": len(page.body)}, reason
        for reason, count in problems.items():
            yield from [({"url": "", "domain": "", "text": "", "raw": 0}, reason)] * count
        return
    drops = read_json(decision) if decision else {}
    for number, doc in enumerate(read_documents(source)):
        if stage in ACROSS:
            gone = drops.get(str(number), [])
            if stage not in PARTS:
                yield doc, f"{stage} duplicate of {gone}" if gone else ""
                continue
            kept = [p for i, p in enumerate(doc["text"].split(PARTS[stage])) if i not in set(gone)]
            doc["text"] = PARTS[stage].join(kept)
            yield doc, "" if len(doc["text"]) >= recipe.minimum else "nothing left that is new"
        else:
            yield doc, apply_stage(stage, doc, recipe)


def run_shard(stage: str, source: str, target: str, recipe: Recipe, decision: str = "") -> dict:
    """One stage over one shard, in any process. Gives the manifest, and CPU seconds unless it was skipped."""
    src, out = Path(source), Path(target)
    note = out.with_name(out.name + ".json")
    reads = {name: file_hash(Path(name)) for name in (source, decision, *_reads(stage, recipe)) if name}
    key = hashlib.sha256(json.dumps([stage, asdict(recipe), _code(),
                                     list(reads.values())]).encode()).hexdigest()
    if out.exists() and note.exists():
        known = read_json(note)
        if known["key"] == key and known["sha256"] == file_hash(out):
            return known
    begin, reasons, samples = time.process_time(), Counter(), {}
    n_in = n_out = bytes_in = bytes_out = 0
    with atomic(out) as temporary, open(temporary, "wb") as raw:
        with gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=3) as file:
            for doc, reason in _stream(stage, src, recipe, Path(decision) if decision else None):
                n_in, bytes_in = n_in + 1, bytes_in + (doc["raw"] if stage == "extract" else 0)
                if reason:
                    reasons[reason.partition(" of ")[0]] += 1
                    shown = samples.setdefault(reason.partition(" of ")[0], [])
                    if len(shown) < SAMPLES:
                        shown.append({"url": doc["url"], "why": reason, "text": doc["text"][:160]})
                    continue
                line = json.dumps(doc, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
                n_out, bytes_out = n_out + 1, bytes_out + len(doc["text"].encode("utf-8", "replace"))
                file.write(line)
    manifest = {"key": key, "sha256": file_hash(out), "documents_in": n_in, "documents_out": n_out,
                "bytes_in": bytes_in, "bytes_out": bytes_out, "reasons": dict(sorted(reasons.items())),
                "samples": samples}
    write_json(note, manifest)
    return {**manifest, "cpu": time.process_time() - begin}


def _reads(stage: str, recipe: Recipe) -> list[str]:
    """What a stage reads besides its shard."""
    return {"language": [str(planted.LANGUAGES)], "quality": [recipe.judge],
            "decontaminate": [recipe.items]}.get(stage, [])


@lru_cache(maxsize=1)
def _code() -> str:
    """Hash of the code that decides: changed code is a changed result."""
    modules = (across_shards, charset, decontaminate, deduplicate, extract, filters, html_tokens,
               http_message, language, page_blocks, quality, shards, warc, warc_stream,
               sys.modules[__name__])
    return hashlib.sha256("".join(inspect.getsource(m) for m in modules).encode()).hexdigest()


def run_pipeline(source: Path | str, folder: Path | str, recipe: Recipe = Recipe(),
                 executor: Executor | None = None, records: int = 100,
                 stages: tuple[str, ...] = STAGES) -> dict:
    """All stages over a WARC file; gives the funnel. `executor`: any with `submit`, or two processes."""
    folder = Path(folder)
    check_ranges(recipe)
    if records < 1:
        raise ValueError(f"records {records}: give 1 or more pages a shard")
    if executor is None:
        with process_pool(2) as executor:
            return run_pipeline(source, folder, recipe, executor, records, stages)
    current = shard(Path(source), folder, records)
    names, funnel = [p.name.split(".")[0] for p in current], []
    for number, stage in enumerate(stages):
        home = folder / f"{number + 1}-{stage}"
        for old in home.glob("[0-9]*"):                      # shards of an earlier, longer crawl
            if old.name.split(".")[0] not in names:
                old.unlink()
        targets, decisions, cpu = [home / f"{name}.jsonl.gz" for name in names], [""] * len(names), 0.0
        if stage in ACROSS:
            keys = [home / f"{name}.keys.npy" for name in names]
            waiting = [executor.submit(shard_keys, stage, str(p), str(k)) for p, k in zip(current, keys)]
            cpu += sum(future.result() for future in waiting)
            begin = time.process_time()
            decisions = [str(home / f"{name}.drop.json") for name in names]
            for path, drops in zip(decisions, decide(stage, keys, recipe.threshold)):
                write_json(path, drops)
            cpu += time.process_time() - begin
        futures = [executor.submit(run_shard, stage, str(p), str(t), recipe, d)
                   for p, t, d in zip(current, targets, decisions)]
        notes = [future.result() for future in futures]
        before = funnel[-1]["bytes_out"] if funnel else sum(n["bytes_in"] for n in notes)
        funnel.append({"stage": stage, "documents_in": sum(n["documents_in"] for n in notes),
                       "bytes_in": before,
                       "documents_out": sum(n["documents_out"] for n in notes),
                       "bytes_out": sum(n["bytes_out"] for n in notes),
                       "reasons": dict(sum((Counter(n["reasons"]) for n in notes), Counter()).most_common()),
                       "samples": {k: v for n in reversed(notes) for k, v in n["samples"].items()},
                       "skipped": sum("cpu" not in n for n in notes),
                       "cpu": cpu + sum(n.get("cpu", 0) for n in notes)})
        current = targets
    return {"shards": len(names), "stages": funnel, "problems": read_json(folder / "shards.json")["problems"],
            "output": [str(p) for p in current]}


def verify(folder: Path | str) -> list[str]:
    """Files of a pipeline folder that are not what their manifest says; empty means that all are."""
    bad = []
    for note in sorted(Path(folder).glob("*/*.jsonl.gz.json")):
        out = note.with_name(note.name.removesuffix(".json"))
        if not out.exists() or file_hash(out) != read_json(note)["sha256"]:
            bad.append(str(out))
    return bad


def funnel_table(result: dict) -> str:
    """The funnel as text: documents and bytes before and after each stage, and the most common reasons."""
    rows = ["stage           documents        megabytes    most common reasons"]
    for s in result["stages"]:
        why = ", ".join(f"{k} {v}" for k, v in list(s["reasons"].items())[:3])
        rows.append(f"{s['stage']:<14}{s['documents_in']:5d} > {s['documents_out']:5d}  "
                    f"{s['bytes_in'] / 1e6:6.2f} > {s['bytes_out'] / 1e6:6.2f}    {why}")
    return "\n".join(rows)


@dataclass
class Settings:
    """What the command line says."""
    source: str           # a WARC file
    folder: str           # where shards and stages go
    records: int = 1000   # pages in a shard
    processes: int = 2    # worker processes


def main() -> None:
    """The command line."""
    s = parse_settings(Settings, __doc__)
    with process_pool(s.processes) as executor:
        result = run_pipeline(s.source, s.folder, Recipe(), executor, s.records)
    print(funnel_table(result))


if __name__ == "__main__":
    run_main(main)
