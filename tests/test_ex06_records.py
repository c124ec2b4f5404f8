"""Exercises 6.11 to 6.15: a robots rule, a cap on epochs, a paired difference, a cut page, a WARC record.

Adds to test_ex06.py. The first line of each docstring is what a learner sees.
"""
import base64
import hashlib
import math
import random
import re
import uuid
import zlib

import pytest

from charset import beginning
from evaluate import Score, paired
from ex_compare import call, same
from mix import cap_epochs
from robots import fits
from warc import Page, write_record


def check_fits(pattern: str, path: str, want: bool, hint: str = "") -> None:
    """One pattern and one path; the answer is True or False and nothing else."""
    same(call(f"{pattern!r}, {path!r}", fits, pattern, path), want, f"pattern {pattern!r}, path {path!r}",
         hint)


@pytest.mark.ex("6.11")
def test_the_rules_of_the_rfc():
    """a pattern covers the beginning of a path, `*` is anything, a last `$` the path's end"""
    for pattern, path, want in (("/fish", "/fish.html", True), ("/fish", "/Fish", False),
                                ("/fish", "/cat/fish", False), ("/fish/", "/fish", False),
                                ("/*.php", "/folder/any.php?x", True), ("/*.php", "/php", False),
                                ("/*.php$", "/a.php", True),
                                ("/*.php$", "/a.php?x", False), ("/a$", "/a", True), ("/a$", "/ab", False),
                                ("/f*o", "/fo", True), ("*b", "/a/b/c", True), ("", "/x", True),
                                ("/a*b*c$", "/abcbc", True), ("/a*b$", "/ab/b/a", False), ("$", "/x", False)):
        check_fits(pattern, path, want, "is the beginning covered, piece by piece?")


@pytest.mark.ex("6.11")
def test_only_stars_and_a_last_dollar_are_special():
    """a dot, a question mark, brackets and a dollar in the middle stand for themselves"""
    for pattern, path, want in (("/a.b", "/axb", False), ("/a?b", "/a?bc", True), ("/a?b", "/axb", False),
                                ("/[ab]", "/a", False), ("/a$b", "/a$bc", True), ("/a$b", "/a", False),
                                ("/a$$", "/a$", True), ("/a$$", "/a$b", False), ("/a+", "/aa", False),
                                ("/(x)*", "/(x)", True), ("/a|b", "/a", False), ("/\\d", "/1", False)):
        check_fits(pattern, path, want, "a path's own characters mean nothing else")


@pytest.mark.ex("6.11")
def test_pieces_do_not_overlap():
    """what stands before the end may not be used twice: /ab*ba$ needs four characters after the slash"""
    for pattern, path, want in (("/ab*ba$", "/aba", False), ("/ab*ba$", "/abba", True),
                                ("/a*a$", "/a", False), ("/a*a*a$", "/aa", False), ("/a*a*a$", "/axaa", True),
                                ("/*aa*aa", "/aaa", False), ("/x**y$", "/xy", True),
                                ("/ab*b*c", "/abc", False), ("/a*$", "/a/b", True)):
        check_fits(pattern, path, want, "each piece begins where the one before it ended, or later")


@pytest.mark.ex("6.11")
def test_patterns_of_all_kinds_as_a_regular_expression_says():
    """random patterns and paths of a few characters, against Python's regular expressions"""
    for _ in range(300):
        pattern = "".join(random.choices("ab/*$", [4, 3, 2, 3, 1], k=random.randint(0, 7)))
        path = "/" + "".join(random.choices("ab/$", [4, 3, 2, 1], k=random.randint(0, 8)))
        end = pattern.endswith("$")
        by_hand = ".*".join(map(re.escape, pattern[:len(pattern) - end].split("*"))) + (r"\Z" if end else "")
        check_fits(pattern, path, bool(re.match(by_hand, path)))


@pytest.mark.ex("6.11")
def test_no_pattern_is_slow():
    """thirty stars and a path of two thousand characters are decided at once"""
    check_fits("/" + "*a" * 30 + "*b$", "/" + "a" * 2000, False,
               "take each piece where it first occurs: no way back")
    check_fits("/" + "*a" * 30 + "$", "/" + "a" * 2000, True)


def shares(weights: dict, sizes: dict, total: float, most: float) -> dict:
    """The capped weights by bisection: min(scale * weight, cap), with the scale at which they add up to 1."""
    caps = {n: most * sizes[n] / total for n in weights}
    low, high = 0.0, 1e9
    for _ in range(200):
        scale = (low + high) / 2
        enough = sum(min(scale * w, caps[n]) for n, w in weights.items()) >= 1
        low, high = (low, scale) if enough else (scale, high)
    return {n: min(high * w, caps[n]) for n, w in weights.items()}


def check_cap(weights: dict, sizes: dict, total: float, most: float, hint: str = "", **more) -> None:
    """cap_epochs against `shares`; the weights that came in stay as they were."""
    before, given = dict(weights), f"weights {weights}, sizes {sizes}, {total} tokens, at most {most} epochs"
    got = call(given, cap_epochs, weights, sizes, total, most)
    assert weights == before, f"given {given}: the caller's weights are now {weights}, wanted {before}"
    same(got, shares(weights, sizes, total, most), given, hint, rtol=1e-8, atol=1e-10, **more)


@pytest.mark.ex("6.12")
def test_what_a_small_source_cannot_give_goes_to_the_others():
    """the worked example: 0.5, 0.3, 0.2 of 100 tokens, the first source has 10: 0.2, 0.48, 0.32"""
    check_cap({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 10, "b": 100, "c": 100}, 100, 2, mistakes={
        "the rest is shared equally, not in proportion": {"a": 0.2, "b": 0.45, "c": 0.35},
        "the rest is lost: the shares add up to 0.7": {"a": 0.2, "b": 0.3, "c": 0.2},
        "all are made larger again, the capped one too": {"a": 2 / 7, "b": 3 / 7, "c": 2 / 7}})


@pytest.mark.ex("6.12")
def test_a_cap_may_make_another_one_necessary():
    """sources that are within their cap only until they get what others could not give"""
    check_cap({"a": 0.6, "b": 0.3, "c": 0.1}, {"a": 10, "b": 35, "c": 1000}, 100, 1,
              "repeat until none is over")
    check_cap({"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}, {"a": 2, "b": 33, "c": 30, "d": 99}, 100, 1)
    for _ in range(30):
        names = "abcdefgh"[:random.randint(2, 8)]
        raw = {n: random.uniform(0.01, 1) for n in names}
        sizes = {n: 10 ** random.uniform(0, 4) for n in names}
        weights = {n: w / sum(raw.values()) for n, w in raw.items()}
        total = sum(sizes.values()) * random.uniform(0.1, 3.9)
        check_cap(weights, sizes, total, 4, "no source more than 4 times, all shares together 1")


@pytest.mark.ex("6.12")
def test_weights_within_their_caps_stay():
    """nothing over: the weights come back; all exactly at their caps: the shares by size"""
    check_cap({"a": 0.5, "b": 0.5}, {"a": 100, "b": 100}, 100, 4)
    check_cap({"a": 1.0}, {"a": 50}, 100, 2)
    check_cap({"a": 0.9, "b": 0.1}, {"a": 30, "b": 70}, 400, 4)
    check_cap({"a": 0.7, "b": 0.3}, {"a": 10, "b": 200}, 100, 1.5, "a fraction of an epoch counts")
    check_cap({"a": 0.9, "b": 0.1}, {"a": 100, "b": 300}, 100, 0.5, "half an epoch is a cap too")


def score(items: list[float]) -> Score:
    """A score of these items, with numbers of its own that a paired difference has no use for."""
    return Score(sum(items) / len(items), 0.123, tuple(items))


def check_paired(a: list[float], b: list[float]) -> None:
    """paired against the definition; mean, error and items."""
    d = [x - y for x, y in zip(a, b)]
    mean = math.fsum(d) / len(d)
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in d) / (len(d) - 1) / len(d)) if len(d) > 1 else 0.0
    given = f"items {a[:6]} and {b[:6]}"
    got = call(given, paired, score(a), score(b))
    same((got.mean, got.error), (mean, error), given + ": mean and error",
         "the items' own differences, one by one", {
             "that is b - a": (-mean, error),
             "as if the items were not the same": (mean, 0.123 * math.sqrt(2)),
             "the error of a": (mean, 0.123)}, rtol=1e-9, atol=1e-12)
    same(got.items, tuple(d), given + ": the items", "the differences, in order, as a tuple", rtol=1e-12)


@pytest.mark.ex("6.13")
def test_the_worked_example_of_four_questions():
    """1 1 0 1 against 0 1 0 1: differences 1 0 0 0, mean 0.25, error 0.25"""
    check_paired([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0])


@pytest.mark.ex("6.13")
def test_differences_of_any_size_and_sign():
    """differences below zero, all alike, of one item, of two thousand"""
    check_paired([0.0, 0.5, -2.0], [1.0, 3.0, -7.5])
    check_paired([3.0, 4.0, 9.0], [1.0, 2.0, 7.0])
    check_paired([2.5], [4.0])
    a = [random.gauss(0, 1) for _ in range(2000)]
    check_paired(a, [x + random.gauss(0.1, 0.01) for x in a])


def check_beginning(body: bytes, limit: int, want: bytes, hint: str = "", **mistakes) -> None:
    """beginning of one body, bytes in and bytes out."""
    said = {name.replace("_", " "): value for name, value in mistakes.items()}
    same(call(f"{body[:40]!r}, {limit}", beginning, body, limit), want,
         f"{body[:40]!r} ({len(body)} bytes), limit {limit}", hint, said)


@pytest.mark.ex("6.14")
def test_a_long_page_ends_at_a_break():
    """cut after the last blank, line break or '>' of the first bytes, which is kept"""
    check_beginning(b"<p>one two three", 9, b"<p>one ", that_cuts_a_word=b"<p>one tw",
                    the_blank_is_kept_too=b"<p>one")
    check_beginning(b"one\ntwo>three four", 12, b"one\ntwo>", whichever_comes_last=b"one\n")
    check_beginning(b"one>two\nthree", 10, b"one>two\n")
    check_beginning(b"a b>c\nd e", 8, b"a b>c\nd ")
    check_beginning("größe größe größe".encode(), 11, "größe ".encode(), "half a character is lost otherwise")


@pytest.mark.ex("6.14")
def test_a_page_that_fits_stays_whole():
    """a page that is not longer than the limit is not touched, exactly as long too"""
    for limit in (7, 8, 1000):
        check_beginning(b"one two", limit, b"one two", the_limit_itself_is_enough=b"one ")
    check_beginning(b"", 0, b"")
    check_beginning("é é".encode(), 5, "é é".encode(), "the limit counts bytes")
    check_beginning("é é é é".encode(), 4, "é ".encode(), "the limit counts bytes")


@pytest.mark.ex("6.14")
def test_without_a_break_the_page_is_cut_where_the_limit_is():
    """no blank, line break or '>' among the first bytes: exactly so many bytes; a tab is no break"""
    check_beginning(b"x" * 70_000 + b" y", 66_000, b"x" * 66_000)
    check_beginning(b"one\ttwo two", 6, b"one\ttw")
    check_beginning("ééé".encode(), 3, "é".encode() + b"\xc3")
    check_beginning(b" ab", 2, b" ", "a break at the very beginning is one too")
    check_beginning(b"ab cd", 3, b"ab ", "a break as the last of the bytes")


class Out:
    """A file open for writing, from the beginning."""

    def __init__(self):
        self.data = b""

    def write(self, data: bytes) -> int:
        """Append bytes."""
        assert type(data) is bytes, f"out.write was given a {type(data).__name__}, wanted bytes"
        self.data += data
        return len(data)


def written(*pages: Page, **date) -> list[tuple[str, dict, bytes, bytes]]:
    """(first line, fields, block, what follows) of the records of pages written one after another."""
    out = Out()
    for page in pages:
        call(f"{page.url}", write_record, out, page, **date)
    found, left = [], out.data
    while left:
        one = zlib.decompressobj(wbits=31)
        try:
            data, left = one.decompress(left), one.unused_data
        except zlib.error as error:
            raise AssertionError(f"{page.url}: got no gzip member: {error}, wanted one") from None
        assert one.eof, f"{page.url}: got a gzip member without its end, wanted a whole one"
        head, blank, rest = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert blank and "\n" not in "".join(lines), (
            f"{page.url}: got the head {head}, wanted \\r\\n behind each line and two behind the last")
        strange = [line for line in lines[1:] if ": " not in line]
        assert not strange, f"{page.url}: got the line {strange[0]!r} among the fields, wanted 'name: value'"
        fields = dict(line.split(": ", 1) for line in lines[1:])
        size = int(fields.get("Content-Length", 0))
        found.append((lines[0], fields, rest[:size], rest[size:]))
    return found


PAGE = Page("https://a.org/x?y=1", 404, {"content-type": "text/html", "x-note": "a: b"},
            b"<p>\r\n\r\n\x00\xff</p>")


@pytest.mark.ex("6.15")
def test_a_record_is_head_block_and_two_line_ends():
    """one gzip member: WARC/1.0, fields, a blank line, exactly Content-Length bytes, two line ends"""
    [(first, fields, block, rest)] = written(PAGE)
    same(first, "WARC/1.0", "the first line")
    want = b"HTTP/1.1 404 X\r\ncontent-type: text/html\r\nx-note: a: b\r\n\r\n" + PAGE.body
    same(block, want, "the block: status line, headers, blank line, body",
         "Content-Length counts the bytes of the block", {
             "Content-Length is that of the body alone": want[:len(PAGE.body)],
             "the status is the page's": want.replace(b"404", b"200"),
             "a blank line stands between headers and body": want.replace(b"b\r\n\r\n", b"b\r\n")})
    same(rest, b"\r\n\r\n", "what follows the block")


@pytest.mark.ex("6.15")
def test_the_fields_of_a_record():
    """type, id, date, address, digest, content type and length, as the task says"""
    [(_, fields, block, _)] = written(PAGE, date="2024-05-06T07:08:09Z")
    digest = base64.b32encode(hashlib.sha1(PAGE.body).digest()).decode()
    want = {"WARC-Type": "response",
            "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, PAGE.url)}>",
            "WARC-Date": "2024-05-06T07:08:09Z", "WARC-Target-URI": PAGE.url,
            "WARC-Payload-Digest": f"sha1:{digest}", "Content-Type": "application/http; msgtype=response",
            "Content-Length": str(len(block))}
    for name, value in want.items():
        same(fields.get(name), value, f"the field {name}", "the digest is of the body, in base 32")
    same(sorted(fields), sorted(want), "the names of all fields")
    same(written(PAGE)[0][1]["WARC-Date"], "2000-01-01T00:00:00Z", "no date given: WARC-Date")


@pytest.mark.ex("6.15")
def test_records_follow_each_other_and_repeat_exactly():
    """two pages are two gzip members, an empty and a long body too, and the same page gives the same bytes"""
    pages = [PAGE, Page("http://b.org/", 200, {}, b""),
             Page("http://c.org/", 200, {"x": "größe €"}, bytes(range(256)) * 300)]
    found = written(*pages)
    same(len(found), 3, "three pages: gzip members", "compress each record on its own")
    for page, (_, fields, block, rest) in zip(pages, found):
        lines = [f"HTTP/1.1 {page.status} X", *(f"{k}: {v}" for k, v in page.headers.items()), "", ""]
        head = "\r\n".join(lines)
        same((fields["WARC-Target-URI"], block, rest), (page.url, head.encode() + page.body, b"\r\n\r\n"),
             f"the record of {page.url}", "lengths are in bytes: é takes two")
    one, two = Out(), Out()
    for out in (one, two):
        call("the same page twice", write_record, out, PAGE)
    assert one.data == two.data and one.data[4:8] == bytes(4), (
        f"given the same page twice: got {one.data[4:8]} and {two.data[4:8]} as bytes 4 to 7, where gzip has "
        f"the time, wanted {bytes(4)} and the same records")
