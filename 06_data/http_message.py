"""The two wrappings that HTTP puts around a page, taken off: chunks, and compression nobody asked for.

A crawl stores what came over the wire, so whoever reads it meets both. Archives also rewrite pages and leave
the old header standing, so a header is a hint: a body that is not what its header says is left as it is, and
of one that breaks off or is damaged the part before that is kept.

Sources: RFC 9112 section 7.1 (chunks); RFC 9110 section 8.4.1 (gzip, deflate)
Used by warc.py and fetch.py.
"""
import re
import zlib

HEAD_END = re.compile(rb"\r?\n\r?\n")
CHUNK_HEAD = re.compile(rb"(?:\r?\n)?[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
PIECE = 1 << 12
KNOWN = ("", "identity", "gzip", "x-gzip", "deflate")


def split_head(message: bytes) -> tuple[bytes, bytes]:
    """(first line and headers, body). The lines may end in a bare line feed."""
    end = HEAD_END.search(message)
    return (message[:end.start()], message[end.end():]) if end else (message, b"")


def fields(head: bytes) -> dict[str, str]:
    """The headers below the first line, names in lower case. A line that begins with a blank goes on."""
    lines = re.sub(r"\r?\n[ \t]+", " ", head.decode("utf-8", "replace")).split("\n")[1:]
    return {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


def unchunk(body: bytes) -> bytes:
    """The content of a body sent in chunks, each behind its size in hexadecimal."""
    parts, at = [], 0
    while head := CHUNK_HEAD.match(body, at):
        size = int(head[1], 16)
        parts.append(body[head.end():head.end() + size])
        at = head.end() + size
        if size == 0 or at >= len(body):
            return b"".join(parts)
    framed = len(parts) > 1 or parts and body[at:at + 2].lstrip(b"\r")[:1] == b"\n"
    return b"".join(parts) if framed else body               # a size that no chunk stands behind was none


def unzip(body: bytes, coding: str, limit: int) -> bytes:
    """At most `limit` bytes of a compressed body, of all members; what is damaged ends it."""
    for window in (47, -15) if coding == "deflate" else (47,):  # deflate comes with a zlib header and without
        out, at, stream = bytearray(), 0, zlib.decompressobj(window)
        try:
            while at < len(body) and len(out) < limit:     # in pieces, so that those before a damage are kept
                piece = body[at:at + PIECE]
                out += stream.decompress(piece, limit - len(out))
                at += len(piece)
                if stream.eof:                               # the next member begins in what is left over
                    at -= len(stream.unused_data)
                    stream = zlib.decompressobj(window)
        except zlib.error:
            pass
        if out or at:
            return bytes(out)
    return body


def decoded(headers: dict[str, str], body: bytes, limit: int) -> tuple[dict[str, str], bytes, str]:
    """(headers, content, problem): what a browser would see, at most `limit` bytes of it.

    The headers that no longer hold get a name of their own, as in Common Crawl's files. The problem is "", or
    names a compression that cannot be undone here.
    """
    renamed = {name: f"x-crawl-{name}" for name in ("transfer-encoding", "content-encoding")
               if headers.get(name)}
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = unchunk(body)
    for coding in reversed(headers.get("content-encoding", "").lower().replace(" ", "").split(",")):
        if coding not in KNOWN:
            return headers, body, f"content encoding {coding}"
        if coding not in ("", "identity"):
            body = unzip(body, coding, limit)
    return {renamed.get(k, k): v for k, v in headers.items()}, body[:limit], ""
