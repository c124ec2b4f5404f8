"""How fast: MinHash against datasketch's vectorised update, and each stage's megabytes a second and core.

Every ratio is of CPU seconds measured in the same run, a few rounds interleaved.

    python 06_data/bench_data.py               part of make bench (datasketch is in the peers extra)
"""
import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

try:
    from workbench import process_pool, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import deduplicate
import pipeline
import planted
from warc import Page, write_record


def bench_minhash(rounds: int = 5) -> dict[str, float]:
    """Ratio of datasketch's time to ours for the same documents and number of functions, medians over rounds.

    "signatures": both from ready shingles. "from text": ours includes cutting and hashing the shingles,
    theirs not.
    """
    from datasketch import MinHash
    texts = [" ".join(page) for page in planted.articles()] * 4
    words = [t.lower().split() for t in texts]
    ready = [[" ".join(w[i:i + 5]).encode() for i in range(max(1, len(w) - 4))] for w in words]
    hashed, functions = [deduplicate.shingles(t) for t in texts], deduplicate.hash_functions(128)
    ratios: dict[str, list[float]] = {"signatures": [], "from text": []}
    for _ in range(rounds):
        begin = time.process_time()
        for document in ready:
            MinHash(num_perm=128).update_batch(document)
        theirs = time.process_time() - begin
        begin = time.process_time()
        deduplicate.signatures(hashed, *functions)
        ratios["signatures"].append(theirs / (time.process_time() - begin))
        begin = time.process_time()
        deduplicate.signatures([deduplicate.shingles(t) for t in texts], *functions)
        ratios["from text"].append(theirs / (time.process_time() - begin))
    return {name: statistics.median(r) for name, r in ratios.items()}


def bench_pipeline(copies: int = 3) -> dict:
    """Megabytes a CPU second of every stage, and what two processes save over one (wall time, same run)."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "crawl.warc.gz")
        pages = [p for seed in range(copies) for p in planted.build(seed)]
        random.Random(0).shuffle(pages)
        with open(source, "wb") as file:
            for i, page in enumerate(pages):
                address, headers = f"http://web.example/{i}{page.path}", {"content-type": page.content_type}
                write_record(file, Page(address, 200, headers, page.body))
        good, bad = ([" ".join(page) for page in group]
                     for group in (planted.articles(), planted.offers(90, random.Random(1))))
        examples = {"good": good[::2], "calibrate": good[1::2], "bad": bad}
        write_json(Path(folder, "judge.json"), examples)
        write_json(Path(folder, "items.json"), list(planted.held_out_topics().values()))
        recipe = pipeline.Recipe(judge=str(Path(folder, "judge.json")), items=str(Path(folder, "items.json")))
        wall = {}
        for processes in (1, 2):
            with process_pool(processes) as executor:
                list(executor.map(int, range(processes)))    # start the workers before the clock
                begin = time.perf_counter()
                result = pipeline.run_pipeline(source, Path(folder, str(processes)), recipe,
                                               executor, records=60)
                wall[processes] = time.perf_counter() - begin
        speed = {s["stage"]: s["bytes_in"] / 1e6 / max(s["cpu"], 1e-9) for s in result["stages"]}
        cpu, raw = sum(s["cpu"] for s in result["stages"]), result["stages"][0]["bytes_in"]
        return {"MB/s a core": speed, "whole": raw / 1e6 / cpu,
                "speed-up of two processes": wall[1] / wall[2]}


def main() -> None:
    """The command line."""
    argparse.ArgumentParser(description=str(__doc__).split("\n")[0]).parse_args()
    try:
        minhash = bench_minhash()
        print(f"MinHash, 128 functions: {minhash['signatures']:.1f} times datasketch's update_batch; from "
              f"text, cutting included: {minhash['from text']:.1f} times")
    except ImportError:
        print("MinHash: datasketch is not installed (pip install datasketch), so there is nothing to "
              "compare with")
    result = bench_pipeline()
    print("pipeline, MB of input a CPU second: "
          + ", ".join(f"{n} {v:.1f}" for n, v in result["MB/s a core"].items()))
    hours = 1e6 / result["whole"] / 3600
    print(f"all stages: {result['whole']:.2f} MB of raw pages a CPU second; 1 TB takes {hours:.0f} core "
          f"hours, that is {hours / 100:.1f} hours on 100 cores if all scale as well as the second one did "
          f"here: two processes were {result['speed-up of two processes']:.2f} times as fast as one")


if __name__ == "__main__":
    main()
