"""A polite crawler: one host, robots.txt obeyed, a pause between requests, a few retries, every limit finite.

Starts from one address, follows links breadth first, and stores each answer as a WARC record. An address is
normalised before it is compared, so that one page reached by five spellings is fetched once. What was not
fetched is counted with its reason. An interrupted crawl keeps what it has: the next one reads those pages
from the unfinished file instead of the network.

Source: RFC 9309 (robots.txt), RFC 3986 section 6 (normalisation); frontier as in Heydon and Najork, Mercator
(1999).

    python 06_data/crawl.py http://127.0.0.1:8000/ crawl.warc.gz
"""
import shutil
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

try:
    from workbench import is_special, parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from addresses import links, normalise
from fetch import AGENT, Limits, fetch
from robots import MOST_BYTES, MOST_REDIRECTS, Robots, parse
from settings import check_ranges
from warc import Page, read_warc, write_record


class Crawler:
    """Fetches pages of one host. `counts` says what happened to every address that was seen."""

    def __init__(self, start: str, limits: Limits | None = None):
        self.start, self.limits, self.counts = normalise(start) or "", limits or Limits(), Counter()
        check_ranges(self.limits)
        if not self.start:
            raise ValueError(f"{start!r} is not an http address: give one such as http://127.0.0.1:8000/")
        self.host = urlsplit(self.start).netloc
        self.why = ""                                        # why the last page could not be fetched
        self.unreachable = ""                                # why the host can't be crawled at all
        self.robots = self.read_robots()
        self.delay = max(self.limits.delay, self.robots.delay)

    def read_robots(self) -> Robots:
        """The host's rules. None there (4xx) means that all is allowed, no answer or 5xx that nothing is."""
        url = urljoin(self.start, "/robots.txt")
        for _ in range(MOST_REDIRECTS + 1):
            page = self.fetch(url, MOST_BYTES + 1)
            if page is None:
                self.unreachable = f"{urlsplit(url).netloc} cannot be reached ({self.why})"
                return Robots()
            if page.status >= 500:                           # RFC 9309, 2.3.1.4: then keep out
                self.unreachable = f"{url} answers {page.status}"
                return Robots()
            if page.status < 300:
                return parse(page.body, AGENT)
            target = normalise(location(page), url) if page.status < 400 else None
            if not target:
                break
            url = target                                     # also to another host (2.3.1.2)
        return Robots()

    def fetch(self, url: str, most: int = 0) -> Page | None:
        """At most `most` bytes of a page, after a few tries; None when there is none: `why` says why."""
        limits = replace(self.limits, page_bytes=most or self.limits.page_bytes)
        page, self.why = fetch(url, limits, self.counts)
        return page

    def crawl(self, out: str | Path) -> Counter:
        """Crawl into the WARC file `out`; an unfinished `out`.part of an earlier run is used first.

        A host that can't be reached changes no file.
        """
        if self.unreachable:
            self.counts[f"unreachable: {self.unreachable}"] += 1
            return self.counts
        out = Path(out)
        if is_special(out):                              # /dev/stdout: nothing to continue from or to replace
            with open(out, "wb") as file:
                self.follow(file, {})
            return self.counts
        out = out.resolve()
        part, old = out.with_name(out.name + ".part"), out.with_name(out.name + ".old")
        if part.exists():
            with open(old, "ab") as file, open(part, "rb") as more:
                shutil.copyfileobj(more, file)               # WARC files can be laid end to end
            part.unlink()
        saved = {page.url: page for page in read_warc(old)} if old.exists() else {}
        with open(part, "wb") as file:
            self.follow(file, saved)
        part.replace(out)
        old.unlink(missing_ok=True)
        return self.counts

    def follow(self, file: BinaryIO, saved: dict[str, Page]) -> None:
        """Fetch what is wanted, breadth first, and write what comes."""
        seen: set[str] = set()
        frontier = deque([(self.start, 0)] if self.wanted(self.start, 0, seen) else [])
        seen.add(self.start)
        while frontier and self.counts["stored"] < self.limits.pages:
            url, depth = frontier.popleft()
            page = saved.get(url)
            if page is None:
                page = self.fetch(url)
                time.sleep(self.delay)
            else:
                self.counts["from the unfinished crawl"] += 1
            if page is None or page.status >= 400:
                self.counts[f"failed: {page.status if page else self.why or 'no answer'}"] += 1
                continue
            if page.status >= 300:
                self.counts["redirect"] += 1
                found = [normalise(location(page), url)]
            else:
                write_record(file, page, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
                file.flush()
                self.counts["stored"] += 1
                found = links(page) if "html" in page.headers.get("content-type", "html") else []
            for link in filter(None, found):
                if self.wanted(link, depth + 1, seen):
                    seen.add(link)
                    frontier.append((link, depth + 1))
        self.counts["left in the frontier"] = len(frontier)

    def wanted(self, url: str, depth: int, seen: set[str]) -> bool:
        """Whether to fetch this address; if not, the reason is counted."""
        reason = ("seen before" if url in seen else
                  "another host" if urlsplit(url).netloc != self.host else
                  "too deep" if depth > self.limits.depth else
                  "address too long" if len(url) > self.limits.url_length else
                  "forbidden by robots.txt" if self.delay > self.limits.longest_delay  # as good as "keep out"
                  or not self.robots.allows(url) else "")
        if reason:
            self.counts[reason] += 1
        return not reason


def location(page: Page) -> str:
    """Where a redirect leads. Headers are bytes, read as Latin-1; those that are no ASCII mean UTF-8."""
    text = page.headers.get("location", "")
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


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
        crawler = Crawler(s.start, Limits(pages=s.pages, delay=s.delay))
        counts = crawler.crawl(s.out)
    except OSError as error:
        raise ValueError(f"{error}") from None
    if crawler.unreachable:
        raise ValueError(f"{crawler.unreachable}; nothing was crawled")
    for reason, count in counts.most_common():
        print(f"{count:6d}  {reason}", file=sys.stderr if is_special(s.out) else sys.stdout)
    if not counts["stored"]:
        raise ValueError("nothing was stored, for the reasons above")


if __name__ == "__main__":
    run_main(main)
