"""Chapter 6: WARC files, the small web, and a crawler that behaves."""
import gzip
import http.server
import pydoc
import sys
import threading
from collections import Counter

import pytest

import planted
import smallweb
from crawl import Crawler, Limits, links, normalise
from warc import Page, read_warc, write_record


def write(path, pages):
    with open(path, "wb") as file:
        for page in pages:
            write_record(file, page)


PAGES = [Page(f"http://a.example/{i}", 200, {"content-type": "text/html; charset=utf-8"},
              bytes([i]) * (i * 7000)) for i in range(9)]


def test_a_warc_file_gives_back_the_pages_that_were_written(tmp_path):
    write(tmp_path / "a.warc.gz", PAGES)
    assert list(read_warc(tmp_path / "a.warc.gz")) == PAGES
    (tmp_path / "a.warc").write_bytes(gzip.open(tmp_path / "a.warc.gz").read())
    assert list(read_warc(tmp_path / "a.warc")) == PAGES, "an uncompressed file holds the same records"


def test_the_same_page_is_the_same_bytes(tmp_path):
    write(tmp_path / "a", PAGES)
    write(tmp_path / "b", PAGES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "garbage between"])
def test_a_broken_member_costs_one_record_and_is_counted(tmp_path, damage):
    sizes = []
    for page in PAGES:
        write(tmp_path / "one", [page])
        sizes.append((tmp_path / "one").stat().st_size)
    write(tmp_path / "a", PAGES)
    data, start = bytearray((tmp_path / "a").read_bytes()), sum(sizes[:3])
    if damage == "flip":
        data[start + sizes[3] // 2] ^= 0xFF
    elif damage == "cut":
        del data[start + sizes[3] // 2:start + sizes[3]]
    else:
        data[start:start] = b"not a gzip member at all"
    (tmp_path / "a").write_bytes(data)
    problems = Counter()
    found = [page.url for page in read_warc(tmp_path / "a", problems)]
    wanted = [p.url for p in PAGES if damage == "garbage between" or p is not PAGES[3]]
    assert found == wanted and problems["broken gzip member"] == 1


def test_a_file_that_ends_inside_a_record_gives_all_records_before(tmp_path):
    write(tmp_path / "a", PAGES)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-20])
    problems = Counter()
    assert len(list(read_warc(tmp_path / "a", problems))) == 8 and problems["broken gzip member"] == 1


def test_a_gzip_bomb_is_refused_and_the_next_record_is_read(tmp_path):
    write(tmp_path / "a", [Page("http://a.example/bomb", 200, {}, b"\0" * 5_000_000), PAGES[1]])
    problems = Counter()
    assert [p.url for p in read_warc(tmp_path / "a", problems, max_record=100_000)] == [PAGES[1].url]
    assert problems["oversized record"] == 1


@pytest.mark.parametrize("url, base, wanted", [
    ("../b/./c.html#top", "HTTP://Example.org:80/a/x", "http://example.org/b/c.html"),
    ("?q=1", "http://a.example/x/y", "http://a.example/x/y?q=1"),
    ("//b.example:8080", "https://a.example/", "https://b.example:8080/"),
    ("a b.html", "http://a.example/", "http://a.example/a%20b.html"),
    ("a%20b.html", "http://a.example/", "http://a.example/a%20b.html"),
    ("mailto:x@y.example", "http://a.example/", None), ("javascript:void(0)", "http://a.example/", None),
    ("http://[broken", "http://a.example/", None), ("http://a.example:port/", "http://a.example/", None)])
def test_one_address_has_one_spelling(url, base, wanted):
    assert normalise(url, base) == wanted


def test_links_are_found_in_broken_markup_and_only_once():
    body = b'<a href="/x"><a href=/x><p><a HREF=\'/y#1\'><![foo<a href="/z">'
    assert links(Page("http://a.example/", 200, {}, body))[:2] == ["http://a.example/x", "http://a.example/y"]


@pytest.fixture
def host():
    """A server on this machine with the given pages; requests are logged in `host.log`."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.log.append(self.path)
            status, headers, body = self.server.site(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.log, server.url = [], f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_crawler_obeys_robots_stays_on_its_host_and_ends(host, tmp_path):
    site = smallweb.Site([planted.Planted("/p", b"<a href=/p>again</a>", "article")])
    site.modules = {"bisect"}
    site.home = lambda: ('<a href="/p"><a href="/private/x"><a href="http://127.0.0.2:1/"><a href="/gone">'
                         '<a href="/calendar/1"><a href="/flaky/1"><a href="/loop/a"><a href="./p#f">'
                         '<a href="/bisect.html">')
    host.site = site.get
    crawler = Crawler(host.url, Limits(depth=4))
    counts = crawler.crawl(tmp_path / "a.warc.gz")
    urls = [page.url.removeprefix(host.url) for page in read_warc(tmp_path / "a.warc.gz")]
    planted_urls = sorted(url for url in urls if not url.startswith(("topic", "index.html")))
    assert planted_urls == ["", "bisect.html", "calendar/1", "calendar/2", "calendar/3", "calendar/4",
                            "flaky/1", "p"]
    assert not any(path.startswith("/private") for path in host.log), "robots.txt forbids it"
    assert counts["forbidden by robots.txt"] == 1 and counts["another host"] >= 1 and counts["too deep"] >= 1
    assert counts["tried again"] == 1 and counts["failed: 404"] >= 1
    assert crawler.delay == 0.002, "the pause that robots.txt asks for"
    assert host.log.count("/p") == 1, "an address in two spellings is fetched once"


def test_an_unreachable_robots_file_means_keep_out(host, tmp_path):
    host.site = lambda path: (503, {}, b"")
    counts = Crawler(host.url, Limits(tries=1)).crawl(tmp_path / "a.warc.gz")
    assert host.log == ["/robots.txt", "/"] and counts["stored"] == 0 or "/x" not in host.log


def test_an_interrupted_crawl_continues_without_fetching_again(host, tmp_path):
    pages = {"/": b'<a href="/1"><a href="/2"><a href="/3">', "/1": b"one", "/2": b"two", "/3": b"three"}
    stop_at = ["/2"]

    def site(path):
        if path in stop_at:
            raise KeyboardInterrupt
        return (200, {"Content-Type": "text/html"}, pages[path]) if path in pages else (404, {}, b"")
    host.site = site
    host.handle_error = lambda *_: None
    crawler = Crawler(host.url, Limits(tries=1))
    crawler.fetch, fetch = (lambda url: (_ for _ in ()).throw(KeyboardInterrupt) if url.endswith("/2")
                            else fetch(url)), crawler.fetch
    with pytest.raises(KeyboardInterrupt):
        crawler.crawl(tmp_path / "a.warc.gz")
    assert not (tmp_path / "a.warc.gz").exists()
    stop_at.clear()
    host.log.clear()
    counts = Crawler(host.url).crawl(tmp_path / "a.warc.gz")
    assert counts["from the unfinished crawl"] == 2 and "/1" not in host.log and "/2" in host.log
    assert [p.body for p in read_warc(tmp_path / "a.warc.gz")] == list(pages.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.warc.gz"]


def test_a_page_without_end_is_cut(host, tmp_path):
    host.site = lambda path: (404, {}, b"") if "robots" in path else (200, {}, b"x" * 100_000)
    counts = Crawler(host.url, Limits(page_bytes=1000)).crawl(tmp_path / "a")
    assert [len(p.body)
            for p in read_warc(tmp_path / "a")] == [1000] and counts["page cut at the size limit"] == 1


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not an http address"):
        Crawler("file:///etc/passwd")


def test_the_small_web_serves_pydoc_and_keeps_the_test_topics_back(monkeypatch):
    monkeypatch.setenv("SECRET_OF_THIS_MACHINE", "hunter2")
    names = [n for n in [*pydoc.Helper.topics, *pydoc.Helper.keywords]
             if planted.topic_of(n) in planted.held_out_topics()]
    assert len(names) > 3
    with smallweb.serve(0) as address:
        crawler = Crawler(address)
        module, environment = crawler.fetch(address + "textwrap.html"), crawler.fetch(address + "os.html")
        topic = crawler.fetch(address + "topic?key=ASSIGNMENT")
        kept_back = [crawler.fetch(address + f"topic?key={n}") for n in names]
        again = crawler.fetch(address + "textwrap.html")
        tells_where = b"".join(crawler.fetch(address + f"{name}.html").body
                               for name in ("index", "sys", "platform", "site", "ctypes"))
        shows_addresses = crawler.fetch(address + "ftplib.html").body
    assert b"timeout=" in shows_addresses and b"0x7f" not in shows_addresses, "runs must read the same text"
    for place in ({smallweb.HOME, sys.prefix, sys.base_prefix} - {"/usr"}) | {"torch.html", "smallweb.html"}:
        assert place.encode() not in tells_where, f"two folders must read the same text: {place}"
    assert b"dedent" in module.body and module.body == again.body
    assert b"hunter2" not in environment.body and environment.status == 200
    assert {page.status for page in kept_back} == {404}, "whatever name leads to them"
    assert topic.status == 200 or planted.topic_of("ASSIGNMENT") in planted.held_out_topics()


def test_planted_pages_depend_on_the_seed_alone():
    assert planted.build(3) == planted.build(3)
    assert [p.body for p in planted.build(3)] != [p.body for p in planted.build(4)]


@pytest.mark.parametrize("rules", ["User-agent: *\nDisallow: /\n", "User-agent: *\nCrawl-delay: 86400\n"])
def test_a_host_that_says_keep_out_is_asked_for_robots_txt_only(host, tmp_path, rules):
    host.site = lambda path: (200, {}, rules.encode() if path == "/robots.txt" else b"<p>private</p>")
    counts = Crawler(host.url).crawl(tmp_path / "a.warc.gz")
    assert host.log == ["/robots.txt"] and counts["forbidden by robots.txt"] == 1 and not counts["stored"]
