"""WARC files: how a crawl is stored, one gzip member per record.

The crawler writes them and the pipeline reads them, ours or Common Crawl's. A record is a few header lines, a
blank line, and exactly Content-Length bytes: for a page, the HTTP response as it came over the wire. Every
record is compressed on its own, so that a reader can start at any record, and one broken member costs one
record and not the file.

Source: ISO 28500, https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
Used by crawl.py and pipeline.py; `python 06_data/run.py` writes and reads a real one.
"""
import base64
import gzip
import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from http_message import decoded, fields, split_head
from warc_stream import records, runs


@dataclass
class Page:
    """One fetched page: what the network gave, before anything is understood."""
    url: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)   # names in lower case
    body: bytes = b""


def write_record(out: BinaryIO, page: Page, date: str = "2000-01-01T00:00:00Z") -> None:
    """Append `page` as one gzip member holding one WARC `response` record."""
    if "\n" in page.url or "\r" in page.url:
        raise ValueError(f"the URL {page.url!r} contains a line break: percent-encode it first")
    # EXERCISE 6.15 write a WARC record
    head = f"HTTP/1.1 {page.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in page.headers.items())
    block = head.encode("utf-8", "replace") + b"\r\n" + page.body
    name = uuid.uuid5(uuid.NAMESPACE_URL, page.url)          # same page, same record id
    digest = base64.b32encode(hashlib.sha1(page.body).digest()).decode()
    fields = {"WARC-Type": "response", "WARC-Record-ID": f"<urn:uuid:{name}>", "WARC-Date": date,
              "WARC-Target-URI": page.url, "WARC-Payload-Digest": f"sha1:{digest}",
              "Content-Type": "application/http; msgtype=response", "Content-Length": str(len(block))}
    record = "WARC/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
    out.write(gzip.compress(record.encode() + block + b"\r\n\r\n", mtime=0))
    # END EXERCISE 6.15


def read_warc(path: str | Path, problems: Counter | None = None, max_record: int = 8 << 20) -> Iterator[Page]:
    """Every readable `response` record of a .warc or .warc.gz file, in memory bounded by one record.

    Broken members, cut-off files and records over `max_record` bytes are skipped and counted in `problems`.
    Bodies are given as a browser would see them, without chunks and compression.
    """
    problems = Counter() if problems is None else problems
    for headers, block in records(runs(Path(path), problems, max_record), problems, max_record):
        if headers.get("warc-type") == "response" and headers.get("warc-target-uri"):
            page, problem = _parse_http(headers["warc-target-uri"].strip("<>"), block, max_record)
            if page:
                yield page
            else:
                problems[problem] += 1


def _parse_http(url: str, block: bytes, limit: int) -> tuple[Page | None, str]:
    """(page, '') of an HTTP response, or (None, why it is none that can be read)."""
    head, body = split_head(block)
    first = head.split(b"\n", 1)[0].split()
    if len(first) < 2 or not first[0].startswith(b"HTTP/") or not first[1].isdigit():
        return None, "not an HTTP response"
    headers, body, problem = decoded(fields(head), body, limit)
    return None if problem else Page(url, int(first[1]), headers, body), problem
