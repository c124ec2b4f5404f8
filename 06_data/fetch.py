"""One page over HTTP within finite limits: tries, bytes, and seconds from the first to the last.

A timeout on a socket counts from one byte to the next, so a server that sends a byte a second holds a crawler
for ever. Here a clock beside the request hangs up when the time for the whole page is over.

Source: RFC 9110 (HTTP); Retry-After: section 10.2.3
Used by crawl.py.
"""
import contextlib
import http.client
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from http_message import decoded
from settings import setting
from warc import Page

AGENT = "five-pillars-crawler"


@dataclass
class Limits:
    """How much a crawl may take, from the host and from this machine."""
    pages: int = 2000                         # stop after this many stored pages
    depth: int = setting(6, least=0)          # links from the start: what ends an endless calendar
    page_bytes: int = 2 << 20                 # the rest of a longer page is not read
    url_length: int = 300
    tries: int = 3                            # for a page that answers 5xx, 429 or not at all
    delay: float = setting(0.0, least=0)      # seconds between requests, at least what robots.txt asks
    longest_delay: float = setting(60.0, least=0)   # a host that asks for longer pauses is not crawled
    timeout: float = 30.0                     # seconds for a page, from the connection to its last byte


class TooSlow(Exception):
    """The page was still coming when its time was over."""


def fetch(url: str, limits: Limits, counts: Counter) -> tuple[Page | None, str]:
    """(page, '') after a few tries, or (None, why there is none). What happened on the way is counted."""
    page, why = None, ""
    for attempt in range(limits.tries):
        wait = 0.05 * 2 ** attempt
        try:
            page, cut = get(url, limits)
            counts["page cut at the size limit"] += cut
            if page.status < 500 and page.status != 429:
                return page, ""
            asked = page.headers.get("retry-after", "")
            wait = min(float(asked), 30.0) if re.fullmatch("[0-9]{1,9}", asked) else wait
        except TooSlow:                                      # asking again would take as long again
            return None, f"slower than {limits.timeout:g} s"
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if attempt + 1 < limits.tries:
            counts["tried again"] += 1
            time.sleep(wait)
    return page, why


def get(url: str, limits: Limits) -> tuple[Page, bool]:
    """(one answer, whether it was cut at the size limit). Raises OSError, HTTPException or TooSlow."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=limits.timeout)
    over = threading.Event()
    try:
        begin = time.monotonic()
        connection.connect()
        line = connection.sock

        def hang_up() -> None:
            over.set()
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)              # a read that waits comes back at once
        clock = threading.Timer(max(0.0, limits.timeout - (time.monotonic() - begin)), hang_up)
        clock.daemon = True
        clock.start()
        try:
            connection.request("GET", urlunsplit(("", "", parts.path, parts.query, "")), headers={
                "User-Agent": AGENT, "Accept-Encoding": "identity", "Connection": "close"})
            answer = connection.getresponse()
            body = answer.read(limits.page_bytes)
            cut = bool(answer.read(1))
        finally:
            clock.cancel()
            if over.is_set():
                raise TooSlow
        headers = {k.lower(): v for k, v in answer.getheaders() if k.lower() != "transfer-encoding"}
        headers, body, _ = decoded(headers, body, limits.page_bytes)
        return Page(url, answer.status, headers, body), cut
    finally:
        connection.close()
