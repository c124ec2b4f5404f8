"""A polite crawler: one host, robots.txt obeyed, a pause between requests, a few retries, every limit finite.

Starts from one address, follows links breadth first, and stores each answer as a WARC record. An address is
normalised before it is compared, so that one page reached by five spellings is fetched once. What was not
fetched is counted with its reason. An interrupted crawl keeps what it has: the next one reads those pages
from the unfinished file instead of the network.

Source: RFC 9309 (robots.txt), RFC 3986 section 6 (normalisation); frontier as in Heydon and Najork, Mercator
(1999).
    python 06_data/crawl.py http://127.0.0.1:8000/ crawl.warc.gz
"""
import http.client
import re
import time
import urllib.robotparser
from collections import Counter, deque
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit, urlunsplit

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, and before that, once, `make setup`") from None
from warc import Page, read_warc, write_record

AGENT = "five-pillars-crawler"


@dataclass
class Limits:
    """How much a crawl may take, from the host and from this machine."""
    pages: int = 2000                  # stop after this many stored pages
    depth: int = 6                     # links from the start: what ends an endless calendar
    page_bytes: int = 2 << 20          # the rest of a longer page is not read
    url_length: int = 300
    tries: int = 3                     # for a page that answers 5xx, 429 or not at all
    delay: float = 0.0                 # seconds between requests, at least what robots.txt asks
    longest_delay: float = 60.0        # a host that asks for longer pauses is not crawled
    timeout: float = 30.0


def normalise(url: str, base: str = "") -> str | None:
    """One spelling per address, or None for what a crawler can't fetch (mailto:, javascript:, no host).

    >>> normalise("../b/./c.html#top", "HTTP://Example.org:80/a/x")
    'http://example.org/b/c.html'
    """
    try:
        parts = urlsplit(urljoin(base, url.strip()))
        port = f":{parts.port}" if parts.port not in (None, {"http": 80, "https": 443}.get(parts.scheme)) else ""
    except ValueError:                                       # 'http://[', a port that is no number
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    path: list[str] = []
    for piece in parts.path.split("/")[1:]:
        if piece == "..":
            path = path[:-1]
        elif piece != ".":
            path.append(quote(piece, safe="%:@!$&'()*+,;=~-._"))
    query = urlencode(parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit((parts.scheme, parts.hostname + port, "/" + "/".join(path), query, ""))


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def links(page: Page) -> list[str]:
    """The addresses a page links to, in order, normalised, without repetition."""
    parser = _Links()
    try:
        parser.feed(page.body[:2 << 20].decode("utf-8", "replace"))
    except (AssertionError, ValueError):                     # the parser gave up on broken markup
        pass
    return [u for u in dict.fromkeys(normalise(link, page.url) for link in parser.found) if u]


class Crawler:
    """Fetches pages of one host. `counts` says what happened to every address that was seen."""

    def __init__(self, start: str, limits: Limits | None = None):
        self.start, self.limits, self.counts = normalise(start), limits or Limits(), Counter()
        if not self.start:
            raise ValueError(f"{start!r} is not an http address: give one such as http://127.0.0.1:8000/")
        self.host = urlsplit(self.start).netloc
        self.robots = urllib.robotparser.RobotFileParser()
        self.delay = self.limits.delay
        answer = self.fetch(urljoin(self.start, "/robots.txt"))
        if answer and answer.status < 400:
            rules = answer.body.decode("utf-8", "replace")
            self.robots.parse(rules.splitlines())
            # The standard parser reads whole seconds only, so the longest delay asked of anyone is read here.
            asked = re.findall(r"(?im)^crawl-delay:\s*(\d+\.?\d*)", rules)
            self.delay = max([self.delay, *map(float, asked)])
            self.robots.disallow_all = self.delay > self.limits.longest_delay        # as good as "keep out"
        elif answer and answer.status < 500:
            self.robots.allow_all = True                     # there is none
        else:
            self.robots.disallow_all = True                  # RFC 9309: unreachable means keep out

    def fetch(self, url: str) -> Page | None:
        """One page, after a few tries; None when the host never answered."""
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        page = None
        for attempt in range(self.limits.tries):
            wait = 0.05 * 2 ** attempt
            connection = kind(parts.netloc, timeout=self.limits.timeout)
            try:
                connection.request("GET", urlunsplit(("", "", parts.path, parts.query, "")), headers={
                    "User-Agent": AGENT, "Accept-Encoding": "identity", "Connection": "close"})
                answer = connection.getresponse()
                body = answer.read(self.limits.page_bytes)
                self.counts["page cut at the size limit"] += bool(answer.read(1))
                page = Page(url, answer.status, {k.lower(): v for k, v in answer.getheaders()}, body)
                if page.status < 500 and page.status != 429:
                    return page
                asked = page.headers.get("retry-after", "")
                wait = min(float(asked), 30.0) if asked.isdigit() else wait
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            self.counts["tried again"] += attempt + 1 < self.limits.tries
            time.sleep(wait)
        return page

    def crawl(self, out: str | Path) -> Counter:
        """Crawl into the WARC file `out`; an unfinished `out`.part of an earlier run is used first."""
        out = Path(out)
        part, old = out.with_name(out.name + ".part"), out.with_name(out.name + ".old")
        if part.exists():
            part.replace(old)
        saved = {page.url: page for page in read_warc(old)} if old.exists() else {}
        seen: set[str] = set()
        frontier = deque([(self.start, 0)] if self.wanted(self.start, 0, seen) else [])
        seen.add(self.start)
        with open(part, "wb") as file:
            while frontier and self.counts["stored"] < self.limits.pages:
                url, depth = frontier.popleft()
                page = saved.get(url)
                if page is None:
                    page = self.fetch(url)
                    time.sleep(self.delay)
                else:
                    self.counts["from the unfinished crawl"] += 1
                if page is None or page.status >= 400:
                    self.counts[f"failed: {page.status if page else 'no answer'}"] += 1
                    continue
                if page.status >= 300:
                    self.counts["redirect"] += 1
                    found = [normalise(page.headers.get("location", ""), url)]
                else:
                    write_record(file, page, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
                    file.flush()
                    self.counts["stored"] += 1
                    found = links(page) if "html" in page.headers.get("content-type", "html") else []
                for link in filter(None, found):
                    if self.wanted(link, depth + 1, seen):
                        seen.add(link)
                        frontier.append((link, depth + 1))
        part.replace(out)
        old.unlink(missing_ok=True)
        self.counts["left in the frontier"] = len(frontier)
        return self.counts

    def wanted(self, url: str, depth: int, seen: set[str]) -> bool:
        """Whether to fetch this address; if not, the reason is counted."""
        reason = ("seen before" if url in seen else
                  "another host" if urlsplit(url).netloc != self.host else
                  "too deep" if depth > self.limits.depth else
                  "address too long" if len(url) > self.limits.url_length else
                  "forbidden by robots.txt" if not self.robots.can_fetch(AGENT, url) else "")
        if reason:
            self.counts[reason] += 1
        return not reason


@dataclass
class Settings:
    """What the command line says."""
    start: str                              # the address to start from
    out: str                                # the WARC file to write
    pages: int = 2000                       # stop after this many pages
    delay: float = setting(0.5, least=0)    # seconds between requests


def main() -> None:
    """The command line."""
    s = parse_settings(Settings, __doc__)
    try:
        counts = Crawler(s.start, Limits(pages=s.pages, delay=s.delay)).crawl(s.out)
    except OSError as error:
        raise ValueError(f"{error}") from None
    for reason, count in counts.most_common():
        print(f"{count:6d}  {reason}")


if __name__ == "__main__":
    run_main(main)
