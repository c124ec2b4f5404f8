"""From the bytes of a WARC file to its records, whatever has happened to the file.

By the standard every record is a gzip member. Files in the wild are also one member around everything,
records cut over several members, or not compressed at all; and some bytes are wrong. So the file is read as
*runs* of bytes between places where a record is known to begin (a member that starts with "WARC/"), records
are cut from a run by their length, and after a bad one reading goes on at the next head. Memory is bounded by
the largest record.

Source: ISO 28500, https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/ (annex D:
gzip)
Used by warc.py.
"""
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from http_message import HEAD_END, fields

GZIP_MAGIC = b"\x1f\x8b\x08"
CHUNK = 1 << 16
LONGEST_HEAD = 1 << 17
NEXT_HEAD = re.compile(rb"(?<=\n)WARC/\d\.\d\r?\n")
HEAD_OR_RECORD = re.compile(HEAD_END.pattern + b"|" + NEXT_HEAD.pattern)
Run = tuple[bool, bytes]               # (whether a record begins here for sure, the bytes)


def runs(path: Path, problems: Counter, limit: int) -> Iterator[Run]:
    """The content of a file. A member that is damaged, or that the file ends in, is counted and left out."""
    with open(path, "rb") as file:
        data = file.read(CHUNK)
        if not data.startswith(GZIP_MAGIC):
            yield True, data
            while data := file.read(CHUNK):
                yield False, data
            return
        while data:
            member = _Member(file, data)
            try:
                yield from member.runs(limit)
                data = member.rest or file.read(CHUNK)
            except zlib.error:
                problems["broken gzip member"] += 1
                yield True, b""                              # what was begun cannot be finished
                data = _next_member(file, member.used[1:])


class _Member:
    """One gzip member. Up to `limit` bytes are given only when it is intact, more of them as they come."""

    def __init__(self, file: BinaryIO, data: bytes):
        self.file, self.used, self.rest = file, data, b""

    def runs(self, limit: int) -> Iterator[Run]:
        unzip, held, first, data = zlib.decompressobj(31), bytearray(), True, self.used
        while not unzip.eof:
            if not data:
                self.used = data = self.file.read(CHUNK)
            if not data:
                raise zlib.error("the file ends inside a member")
            held += unzip.decompress(data, 16 * CHUNK)       # a bomb unpacks to a thousand times its size
            data = unzip.unconsumed_tail
            if len(held) > limit + CHUNK:
                yield first and held.startswith(b"WARC/"), bytes(held)
                first = False
                held.clear()
        self.rest = unzip.unused_data
        yield first and held.startswith(b"WARC/"), bytes(held)


def _next_member(file: BinaryIO, data: bytes) -> bytes:
    """Bytes from the next gzip signature on, or b'' at the end of the file."""
    while (at := data.find(GZIP_MAGIC)) < 0:
        more = file.read(CHUNK)
        if not more:
            return b""
        data = data[-2:] + more                              # a signature may straddle two reads
    return data[at:]


def records(source: Iterator[Run], problems: Counter, limit: int) -> Iterator[tuple[dict[str, str], bytes]]:
    """(headers, block) of every record. Bad ones and those over `limit` bytes are counted and skipped."""
    data, lost = bytearray(), False                          # lost: a head is being looked for

    def cut(last: bool) -> Iterator[tuple[dict[str, str], bytes]]:
        """The records that `data` holds whole; `last`: nothing will be added to it."""
        nonlocal lost
        while True:
            if lost:
                found = NEXT_HEAD.search(data)
                del data[:found.start() if found else max(0, len(data) - 16)]
                lost = not found
                if lost:
                    return
            del data[:len(data) - len(data.lstrip(b"\r\n"))]
            head, end, problem = _measure(data, limit)
            to_come = problem == "unfinished" or not problem and len(data) < end + 16
            if not data or to_come and not last:
                return
            if not problem:
                behind = bytes(data[end:end + 64]).lstrip(b"\r\n")[:5]
                if len(data) >= end and b"WARC/".startswith(behind):
                    yield fields(bytes(data[:head])), bytes(data[head:end])
                    del data[:end]
                    continue
                # The length is wrong. Too short: it is used. Too long: the record that begins inside is
                # saved.
                if len(data) >= end and not NEXT_HEAD.search(data, head, end):
                    yield fields(bytes(data[:head])), bytes(data[head:end])
                    del data[:end]
            problems["oversized record" if problem == "oversized" else "malformed record"] += 1
            del data[:1]
            lost = True

    for begins, run in source:
        if begins:
            yield from cut(True)
            data.clear()
            lost = False
        data += run
        yield from cut(False)
    yield from cut(True)


def _measure(data: bytearray, limit: int) -> tuple[int, int, str]:
    """(end of the head, end of the record, what is wrong with it) of the record at the start of `data`."""
    if not data.startswith(b"WARC/"):
        return 0, 0, "unfinished" if b"WARC/".startswith(data) else "malformed"
    head = HEAD_OR_RECORD.search(data, 5, LONGEST_HEAD)
    if not head:
        return 0, 0, "unfinished" if len(data) < LONGEST_HEAD else "malformed"
    size = fields(bytes(data[:head.end()])).get("content-length", "")
    if head[0].startswith(b"WARC/") or not re.fullmatch("[0-9]{1,18}", size):
        return 0, 0, "malformed"
    return head.end(), head.end() + int(size), "oversized" if int(size) > limit else ""
