"""WARC files: how a crawl is stored, one gzip member per record. The crawler writes them and the pipeline
reads them, ours or Common Crawl's.

A record is a few header lines, a blank line, and exactly Content-Length bytes: for a page, the HTTP response
as it came over the wire. Every record is compressed on its own, so that a reader can start at any record,
and one broken member costs one record and not the file.

Source: ISO 28500, https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
Used by crawl.py and pipeline.py; `python 06_data/run.py` writes and reads a real one.
"""
import base64
import gzip
import hashlib
import uuid
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Iterator

GZIP_MAGIC = b"\x1f\x8b\x08"
CHUNK = 1 << 16


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
    head = f"HTTP/1.1 {page.status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in page.headers.items())
    block = head.encode("utf-8", "replace") + b"\r\n" + page.body
    name = uuid.uuid5(uuid.NAMESPACE_URL, page.url)          # same page, same record id
    digest = base64.b32encode(hashlib.sha1(page.body).digest()).decode()
    fields = {"WARC-Type": "response", "WARC-Record-ID": f"<urn:uuid:{name}>", "WARC-Date": date,
              "WARC-Target-URI": page.url, "WARC-Payload-Digest": f"sha1:{digest}",
              "Content-Type": "application/http; msgtype=response", "Content-Length": str(len(block))}
    record = "WARC/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
    out.write(gzip.compress(record.encode() + block + b"\r\n\r\n", mtime=0))


def read_warc(path: str | Path, problems: Counter | None = None, max_record: int = 8 << 20) -> Iterator[Page]:
    """Every readable `response` record of a .warc or .warc.gz file, in order, in memory bounded by one record.

    Broken members, cut-off files and records over `max_record` bytes are skipped and counted in `problems`.
    """
    problems = Counter() if problems is None else problems
    for member in _members(Path(path), problems, max_record):
        for headers, block in _records(member, problems):
            if headers.get("warc-type") == "response" and headers.get("warc-target-uri"):
                page = _parse_http(headers["warc-target-uri"].strip("<>"), block, max_record)
                if page:
                    yield page
                else:
                    problems["not an HTTP response"] += 1


def _members(path: Path, problems: Counter, limit: int) -> Iterator[bytes]:
    """The decompressed content of each gzip member. After a broken one, go on at the next gzip signature."""
    with open(path, "rb") as file:
        data = file.read(CHUNK)
        if data and not data.startswith(GZIP_MAGIC):
            yield from _plain_records(file, data, problems, limit)
            return
        while data:
            unzip, parts, size, used = zlib.decompressobj(31), [], 0, b""
            try:
                while not unzip.eof:
                    if not data:
                        raise zlib.error("the file ends inside a member")
                    used = data
                    part = unzip.decompress(data, max(1, limit + CHUNK - size))
                    size += len(part)
                    if size >= limit + CHUNK:                # a bomb: a few bytes that unpack without end
                        raise OverflowError
                    parts.append(part)
                    data = unzip.unused_data if unzip.eof else file.read(CHUNK)
                data = data or file.read(CHUNK)
                yield b"".join(parts)
            except (zlib.error, OverflowError) as error:
                problems["oversized record" if isinstance(error, OverflowError) else "broken gzip member"] += 1
                data = _next_member(file, used[1:])


def _next_member(file: BinaryIO, data: bytes) -> bytes:
    """Bytes from the next gzip signature on, or b'' at the end of the file."""
    while (at := data.find(GZIP_MAGIC)) < 0:
        more = file.read(CHUNK)
        if not more:
            return b""
        data = data[-2:] + more                              # a signature may straddle two reads
    return data[at:]


def _plain_records(file: BinaryIO, data: bytes, problems: Counter, limit: int) -> Iterator[bytes]:
    """An uncompressed WARC file, one record at a time."""
    while data.strip(b"\r\n"):
        while b"\r\n\r\n" not in data and len(data) < CHUNK * 2 and (more := file.read(CHUNK)):
            data += more
        length = _length(data)
        if not 0 <= length <= limit + CHUNK:
            problems["malformed record"] += 1
            return
        while len(data) < length and (more := file.read(CHUNK)):
            data += more
        yield data[:length]
        data = data[length:].lstrip(b"\r\n") or file.read(CHUNK).lstrip(b"\r\n")


def _length(data: bytes) -> int:
    """Length of the record at the start of `data`, header included, or -1 when it is not a record."""
    end = data.find(b"\r\n\r\n")
    size = _fields(data[:end]).get("content-length", "")
    return end + 4 + int(size) if end >= 0 and size.isdigit() and data.startswith(b"WARC/") else -1


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("utf-8", "replace").split("\r\n")[1:]
    return {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


def _records(member: bytes, problems: Counter) -> Iterator[tuple[dict[str, str], bytes]]:
    """(headers, block) of every record in one member (by the standard, one)."""
    while member.strip(b"\r\n"):
        length, start = _length(member), member.find(b"\r\n\r\n") + 4
        if not 0 <= length <= len(member):
            problems["malformed record"] += 1
            return
        yield _fields(member[:start - 4]), member[start:length]
        member = member[length:].lstrip(b"\r\n")


def _parse_http(url: str, block: bytes, limit: int) -> Page | None:
    head, _, body = block.partition(b"\r\n\r\n")
    first = head.split(b"\r\n", 1)[0].split()
    if len(first) < 2 or not first[0].startswith(b"HTTP/") or not first[1].isdigit():
        return None
    headers = _fields(head)
    if headers.get("content-encoding", "").lower() in ("gzip", "x-gzip") and body.startswith(GZIP_MAGIC):
        try:
            body = zlib.decompressobj(31).decompress(body, limit)
        except zlib.error:
            body = b""                                       # an empty page is dropped, and counted, later
    return Page(url, int(first[1]), headers, body)
