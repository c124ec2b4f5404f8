"""A crawl cut into shards: files small enough to be done again, whatever happens to one of them.

Adds to warc.py the unit that pipeline.py works in. Cutting is repeated only when the crawl has changed.

Used by pipeline.py.
"""
import hashlib
import re
from collections import Counter
from pathlib import Path

import warc
from workbench import atomic, read_json, write_json


def shard(source: Path, folder: Path, records: int = 100) -> list[Path]:
    """Cut a WARC file into shards of `records` pages, unless that was done before."""
    done = folder / "shards.json"
    wanted = {"source": file_hash(source), "records": records}
    if done.exists() and (known := read_json(done))["of"] == wanted:
        return [folder / name for name in known["shards"]]
    for old in (folder / "warc").glob("*.warc.gz"):
        old.unlink()
    problems, paths = Counter(), []
    pages = warc.read_warc(source, problems)
    while True:
        group = [page for _, page in zip(range(records), pages)]
        if not group:
            break
        paths.append(folder / "warc" / f"{len(paths):05d}.warc.gz")
        with atomic(paths[-1]) as temporary, open(temporary, "wb") as file:
            for page in group:
                warc.write_record(file, page)
    if not paths:
        found = ", ".join(f"{n} {what}" for what, n in problems.items())
        found = found or "it has no record of type `response`"
        raise ValueError(f"{source} holds no page ({found}): name a WARC file, such as crawl.warc.gz")
    write_json(done, {"of": wanted, "shards": [str(p.relative_to(folder)) for p in paths],
                      "problems": problems})
    return paths


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        h = hashlib.sha256()
        while block := file.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def domain(url: str) -> str:
    """Which part of the web a page is from: the first folder of its path, or the kind of pydoc page."""
    path, _, query = url.partition("#")[0].partition("?")    # not urlsplit, which raises for some addresses
    folders = re.sub("^[a-z]+://[^/]*", "", path).strip("/").split("/")
    return folders[0] if len(folders) > 1 else "topics" if query else "modules"
