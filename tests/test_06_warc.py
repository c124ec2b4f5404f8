"""Chapter 6: WARC files and HTTP messages as they are found, not as they are specified."""
import gzip
import random
import zlib
from collections import Counter

import pytest

from http_message import decoded, unchunk
from warc import Page, read_warc, write_record

TEXT = b"<p>The text of a page, long enough to be compressed. " * 9


def record(i, body=TEXT, headers="", end=b"\r\n", kind="response", length=None):
    """One record as bytes, with any line ends and any stated length."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + headers.encode() + b"\r\n" + body
    block = block.replace(b"\r\n", end) if end != b"\r\n" else block
    head = (f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.example/{i}\r\n"
            f"Content-Length: {len(block) if length is None else length}\r\n\r\n").encode()
    return head.replace(b"\r\n", end) + block + end * 2


def read(tmp_path, data, limit=8 << 20):
    (tmp_path / "a.warc").write_bytes(data)
    problems = Counter()
    pages = list(read_warc(tmp_path / "a.warc", problems, limit))
    return [int(page.url.rsplit("/", 1)[1]) for page in pages], pages, problems


def chunks(body, size=37, ext=b"", end=b"\r\n"):
    parts = [b"%X" % len(body[i:i + size]) + ext + end + body[i:i + size] + end
             for i in range(0, len(body), size)]
    return b"".join(parts) + b"0" + end + end


@pytest.mark.parametrize("body", [
    chunks(TEXT), chunks(TEXT, ext=b" ; name=value"), chunks(TEXT, end=b"\n"), chunks(TEXT, 10**6),
    chunks(TEXT).lower(),
    chunks(TEXT)[:-2] + b"Trailer: x\r\n\r\n", chunks(TEXT)[:-5], chunks(TEXT)[:-5] + b"not a size",
    b"\r\n" + chunks(TEXT), TEXT])
def test_chunks_are_taken_off(body, tmp_path):
    assert unchunk(body).lower() == TEXT.lower()
    ids, pages, _ = read(tmp_path, record(1, body, "Transfer-Encoding: chunked\r\n"))
    assert ids == [1] and pages[0].body.lower() == TEXT.lower()
    assert "transfer-encoding" not in pages[0].headers


def test_a_chunk_that_breaks_off_keeps_what_came():
    cut = unchunk(chunks(TEXT)[:200])
    assert len(cut) > 150 and TEXT.startswith(cut)
    assert unchunk(b"dead end, no chunk") == b"dead end, no chunk"
    assert unchunk(b"") == unchunk(b"0\r\n\r\n") == b""


def raw_deflate(body):
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(body) + squeeze.flush()


@pytest.mark.parametrize("coding, body", [
    ("gzip", gzip.compress(TEXT)), ("x-gzip", gzip.compress(TEXT)),
    ("GZIP", gzip.compress(TEXT[:99]) + gzip.compress(TEXT[99:])),
    ("gzip", b"".join(gzip.compress(TEXT[i:i + 1]) for i in range(len(TEXT)))),
    ("gzip", gzip.compress(TEXT) + b"garbage"),
    ("deflate", zlib.compress(TEXT)), ("deflate", raw_deflate(TEXT)), ("gzip", zlib.compress(TEXT)),
    ("gzip", TEXT), ("deflate", TEXT),
    ("identity", TEXT), ("gzip, gzip", gzip.compress(gzip.compress(TEXT))),
    ("deflate, gzip", gzip.compress(zlib.compress(TEXT)))])
def test_compression_nobody_asked_for_is_undone(coding, body, tmp_path):
    headers, found, problem = decoded({"content-encoding": coding}, body, 1 << 20)
    assert (found, problem) == (TEXT, "") and headers == {"x-crawl-content-encoding": coding}
    for wrapped, extra in ((body, ""), (chunks(body), "Transfer-Encoding: chunked\r\n")):
        _, pages, _ = read(tmp_path, record(1, wrapped, f"Content-Encoding: {coding}\r\n{extra}"))
        assert pages[0].body == TEXT


def test_of_a_damaged_or_endless_body_the_beginning_is_kept():
    big = bytes(random.Random(0).choices(b"abcdefgh ", k=200_000))
    packed = gzip.compress(big)
    _, cut, _ = decoded({"content-encoding": "gzip"}, packed[:len(packed) // 2], 1 << 20)
    assert len(cut) > 80_000 and big.startswith(cut)
    _, bomb, _ = decoded({"content-encoding": "gzip"}, gzip.compress(bytes(50_000_000)), 1000)
    assert bomb == bytes(1000)
    assert decoded({"content-encoding": "gzip"}, gzip.compress(b""), 1000)[1] == b""


def test_a_compression_that_cannot_be_undone_is_named(tmp_path):
    ids, _, problems = read(tmp_path, record(1, b"\x8b\x05", "Content-Encoding: br\r\n") + record(2))
    assert ids == [2] and problems == {"content encoding br": 1}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_heads_may_end_in_bare_line_feeds(tmp_path, end):
    data = b"".join(record(i, headers="X-Folded: one\r\n two\r\n", end=end) for i in range(3))
    ids, pages, problems = read(tmp_path, data)
    assert ids == [0, 1, 2] and pages[0].body == TEXT and not problems
    assert pages[0].headers == {"content-type": "text/html", "x-folded": "one two"}


ALL = [record(i, TEXT + bytes(range(256)) * i) for i in range(9)]
SHAPES = {
    "a member a record": b"".join(map(gzip.compress, ALL)),
    "one member around all": gzip.compress(b"".join(ALL)),
    "three members around three each": b"".join(gzip.compress(b"".join(ALL[i:i + 3])) for i in (0, 3, 6)),
    "members cut anywhere": b"".join(gzip.compress(b"".join(ALL)[i:i + 700])
                                     for i in range(0, len(b"".join(ALL)), 700)),
    "head and body in members of their own": b"".join(gzip.compress(r[:120]) + gzip.compress(r[120:])
                                                      for r in ALL),
    "empty members between": b"".join(gzip.compress(r) + gzip.compress(b"") for r in ALL),
    "not compressed": b"".join(ALL), "more empty lines between": b"\r\n\r\n\r\n".join(ALL),
    "none between": b"".join(r[:-4] for r in ALL)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limit", [8 << 20, 3000])
def test_records_are_found_however_they_are_wrapped(tmp_path, shape, limit):
    ids, pages, problems = read(tmp_path, SHAPES[shape], limit)
    assert ids == list(range(9)) and pages[8].body == TEXT + bytes(range(256)) * 8 and not problems


@pytest.mark.parametrize("bad", [
    record(3, length="many"), record(3, length=""), record(3, length=-5), record(3, length=10**6),
    record(3, length=10**15),
    record(3, length=2000), record(3)[5:], record(3)[:200], b"WARC/1.0\r\nno head at all\r\n\r\n",
    b"garbage\r\n" * 50, b"WARC/1.0\r\n" * 50])
@pytest.mark.parametrize("last", [False, True])
def test_one_bad_record_costs_one_record(tmp_path, bad, last):
    data = b"".join(ALL[:3]) + bad + (b"" if last else b"\r\n\r\n" + b"".join(ALL[4:]))
    for wrapped in (data, gzip.compress(data)):
        ids, _, problems = read(tmp_path, wrapped)
        assert ids == [0, 1, 2] + ([] if last else [4, 5, 6, 7, 8]) and sum(problems.values()) >= 1


def test_a_length_that_is_too_short_costs_the_rest_of_its_record(tmp_path):
    ids, pages, problems = read(tmp_path, ALL[0] + record(1, length=100) + ALL[2])
    assert ids == [0, 1, 2] and TEXT.startswith(pages[1].body) and problems == {"malformed record": 1}


def test_a_record_that_holds_a_warc_file_is_one_record(tmp_path):
    ids, pages, problems = read(tmp_path, ALL[0] + record(1, b"".join(ALL)) + ALL[2])
    assert ids == [0, 1, 2] and pages[1].body == b"".join(ALL) and not problems


def test_a_large_record_among_small_ones_is_skipped_in_every_wrapping(tmp_path):
    records = [*ALL[:3], record(3, bytes(3_000_000)), *ALL[4:]]
    for data in (b"".join(records), gzip.compress(b"".join(records)), b"".join(map(gzip.compress, records))):
        ids, _, problems = read(tmp_path, data, 100_000)
        assert ids == [0, 1, 2, 4, 5, 6, 7, 8] and problems == {"oversized record": 1}


def test_other_records_are_no_pages_and_no_problem(tmp_path):
    data = record(0, kind="warcinfo") + record(1, kind="request") + ALL[2] + record(3, kind="metadata")
    assert read(tmp_path, data)[0] == [2] and not read(tmp_path, data)[2]
    assert read(tmp_path, b"")[0] == [] and read(tmp_path, gzip.compress(b""))[0] == []


def test_random_damage_never_raises_and_costs_few_records(tmp_path):
    rng = random.Random(0)
    for name in ("a member a record", "not compressed", "one member around all"):
        kept = []
        for _ in range(60):
            data = bytearray(SHAPES[name])
            at, n = rng.randrange(len(data)), rng.randrange(1, 40)
            data[at:at + rng.choice([0, n])] = rng.randbytes(rng.choice([0, n]))
            kept.append(len(read(tmp_path, bytes(data))[0]))
        assert name == "one member around all" or sum(kept) > 60 * 7.9, name


def test_what_is_written_is_read_whatever_its_headers_said(tmp_path):
    page = Page("http://a.example/1", 200, {"content-type": "text/html", "x-crawl-content-encoding": "gzip"},
                TEXT)
    with open(tmp_path / "a", "wb") as file:
        write_record(file, page)
    assert list(read_warc(tmp_path / "a")) == [page]
