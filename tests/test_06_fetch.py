"""Chapter 6: hosts that answer late, wrapped, elsewhere or not at all."""
import gzip
import http.server
import os
import socket
import sys
import tempfile
import threading
import time
import zlib

import pytest

import crawl
from crawl import Crawler, Limits
from warc import read_warc
from workbench import run_main

QUICK = Limits(tries=1, timeout=5)


def start(family, address, site):
    """A server at a free port; `site(path)` gives (status, headers, body or pieces of it)."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.log.append(self.path)
            status, headers, body = site(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in [body] if isinstance(body, bytes) else body:
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = family
        daemon_threads = True

        def handle_error(self, *_):
            pass                                             # a crawler that hangs up is no news
    server = Server((address, 0), Handler)
    server.log = []
    host = f"[{address}]" if ":" in address else address
    server.url = f"http://{host}:{server.server_port}/"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def serve():
    running = []

    def one(site, family=socket.AF_INET, address="127.0.0.1"):
        running.append(start(family, address, site))
        return running[-1]
    yield one
    for server in running:
        server.shutdown()
        server.server_close()


def pages_at(server, limits=QUICK, out=None):
    with tempfile.TemporaryDirectory() as folder:
        return Crawler(server.url, limits).crawl(out or f"{folder}/crawl.warc.gz")


RULES = b"User-agent: *\nDisallow: /private"
HOME = b'<a href="/private">1</a><a href="/open">2</a>'


def redirecting(hops, target):
    """A site whose robots.txt is `hops` redirects away, the last one to `target`."""
    def site(path):
        if path == "/robots.txt":
            return 301, {"Location": "/r/1"}, b""
        if path.startswith("/r/"):
            n = int(path[3:])
            return 302, {"Location": target if n == hops else f"/r/{n + 1}"}, b""
        return 200, {"Content-Type": "text/html"}, RULES if path == "/rules" else HOME
    return site


@pytest.mark.parametrize("hops, obeyed", [(1, True), (4, True), (9, False)])
def test_a_robots_file_behind_five_redirects_is_obeyed(serve, hops, obeyed):
    server = serve(redirecting(hops, "/rules"))
    counts = pages_at(server)
    assert ("/private" not in server.log) == obeyed and "/open" in server.log
    assert bool(counts["forbidden by robots.txt"]) == obeyed


def test_a_robots_file_on_another_host_holds_for_the_first(serve):
    other = serve(lambda path: (200, {}, RULES))
    server = serve(redirecting(1, other.url + "anything"))
    assert pages_at(server)["forbidden by robots.txt"] and "/private" not in server.log


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418])
def test_a_host_without_a_robots_file_may_be_crawled(serve, status):
    server = serve(lambda path: (status, {}, RULES) if path == "/robots.txt"
                   else (200, {"Content-Type": "text/html"}, HOME))
    assert pages_at(server)["stored"] == 3


@pytest.mark.parametrize("target", ["", "mailto:x@y.example"])
def test_a_robots_file_that_leads_nowhere_is_none(serve, target):
    server = serve(lambda path: (301, {"Location": target}, b"") if path == "/robots.txt" else (200, {}, b""))
    assert pages_at(server)["stored"] == 1


@pytest.mark.parametrize("status", [500, 503])
def test_a_host_that_cannot_say_its_rules_is_unreachable_and_not_forbidden(serve, tmp_path, status):
    server = serve(lambda path: (status, {}, b"") if path == "/robots.txt" else (200, {}, b""))
    (tmp_path / "a").write_bytes(b"an earlier crawl")
    counts = pages_at(server, out=tmp_path / "a")
    assert server.log == ["/robots.txt"] and not counts["forbidden by robots.txt"]
    assert [c for c in counts if c.startswith("unreachable: ") and c.endswith(f"robots.txt answers {status}")]
    assert (tmp_path / "a").read_bytes() == b"an earlier crawl" and len(list(tmp_path.iterdir())) == 1


def test_a_host_that_is_not_there_is_said_in_one_sentence(tmp_path, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(sys, "argv", ["crawl.py", url, str(tmp_path / "a")])
    with pytest.raises(SystemExit,
                       match="^error: 127.0.0.1:[0-9]+ cannot be reached .Connection refused.; nothing"):
        run_main(crawl.main)
    assert "forbidden" not in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["robots.txt", "head", "body"])
def test_a_server_that_drips_is_left_in_time(serve, where):
    def drip():
        while True:
            yield b"x"
            time.sleep(0.02)

    def site(path):
        if path == "/robots.txt":
            return (200, {}, drip()) if where == "robots.txt" else (404, {}, b"")
        if path == "/slow":
            if where == "head":
                return 200, {}, b""
            return 200, {"Content-Type": "text/html"}, drip()
        return 200, {"Content-Type": "text/html"}, b'<a href="/slow"><a href="/fast">'
    server = serve(site)
    if where == "head":                                      # the status line itself, byte by byte
        class Slow(server.RequestHandlerClass):
            def do_GET(self):
                if self.path != "/slow":
                    return super().do_GET()
                for piece in drip():
                    self.wfile.write(piece)
        server.RequestHandlerClass = Slow
    counts = pages_at(server, Limits(timeout=0.4))
    if where == "robots.txt":
        assert [c for c in counts if c.startswith("unreachable: ") and "slower than 0.4 s" in c]
    else:
        assert counts["failed: slower than 0.4 s"] == 1 and counts["stored"] == 2, "and the crawl goes on"


@pytest.mark.parametrize("coding, squeeze", [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_compressed_without_being_asked_is_read(serve, tmp_path, coding, squeeze):
    page = b'<p>The text.</p><a href="/next">next</a>'
    server = serve(lambda path: (404, {}, b"") if path == "/robots.txt" else
                   (200, {"Content-Type": "text/html", "Content-Encoding": coding}, squeeze(page)))
    assert pages_at(server, out=tmp_path / "a")["stored"] == 2
    assert [p.body for p in read_warc(tmp_path / "a")] == [page, page]


def test_chunks_are_not_taken_off_twice(serve, tmp_path):
    body = b"5\r\nhello"
    server = serve(lambda path: (404, {}, b"") if path == "/robots.txt"
                   else (200, {"Transfer-Encoding": "chunked"}, [
        b"%x\r\n" % len(body), body, b"\r\n0\r\n\r\n"]))
    server.RequestHandlerClass.protocol_version = "HTTP/1.1"
    pages_at(server, out=tmp_path / "a")
    assert [p.body for p in read_warc(tmp_path / "a")] == [body]


def test_links_keep_their_bytes_on_the_way_to_the_server(serve):
    page = '<base href="/docs/"><a href="?list"></a><a href="%E9"></a><a href="é?é"></a><a href="/moved"></a>'

    def site(path):
        if path == "/moved":
            return 302, {"Location": "/né".encode().decode("latin-1")}, b""
        return (404, {}, b"") if path == "/robots.txt" else (200,
                                                             {"Content-Type": "text/html; charset=latin-1"},
                                                             page.encode("latin-1"))
    server = serve(site)
    pages_at(server)
    assert server.log == ["/robots.txt", "/", "/docs/?list", "/docs/%E9", "/docs/%C3%A9?%E9", "/moved",
                          "/n%C3%A9"]


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
def test_a_host_with_an_ipv6_address_is_crawled(serve):
    server = serve(lambda path: (200, {"Content-Type": "text/html"},
                                 b'<a href="/x">x</a><a href="//[0:0:0::1]:1/">y</a>'
                                 if path != "/robots.txt" else b""), socket.AF_INET6, "::1")
    counts = pages_at(server)
    assert counts["stored"] == 2 and counts["another host"] == 1 + 1


def test_a_crawl_into_a_pipe_leaves_it_a_pipe(serve, tmp_path):
    server = serve(lambda path: (404, {}, b"") if path == "/robots.txt" else (200, {}, b"x" * 100))
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    pages_at(server, out=tmp_path / "pipe")
    reader.join()
    (tmp_path / "copy").write_bytes(got[0])
    assert [p.body for p in read_warc(tmp_path / "copy")] == [b"x" * 100]
    assert (tmp_path / "pipe").is_fifo() and sorted(p.name for p in tmp_path.iterdir()) == ["copy", "pipe"]


def test_two_interruptions_lose_no_page(serve, tmp_path):
    pages = {"/": b"".join(b'<a href="/%d">x</a>' % i for i in range(6)),
             **{f"/{i}": b"%d" % i for i in range(6)}}
    server = serve(lambda path: (200, {"Content-Type": "text/html"}, pages[path]) if path in pages
                   else (404, {}, b""))

    def stopped(last):
        crawler = Crawler(server.url, QUICK)
        fetch = crawler.fetch

        def once(url):
            if url.endswith(f"/{last}"):
                raise KeyboardInterrupt
            return fetch(url)
        crawler.fetch = once
        with pytest.raises(KeyboardInterrupt):
            crawler.crawl(tmp_path / "a")
    stopped(4)
    for saved in (tmp_path / "a.part",):          # a second run that ends before it has read all of the first
        whole = saved.read_bytes()
        saved.rename(tmp_path / "a.old")
        saved.write_bytes(whole[:len(whole) // 3])
    server.log.clear()
    counts = pages_at(server, out=tmp_path / "a")
    assert counts["from the unfinished crawl"] == 5 and server.log == ["/robots.txt", "/4", "/5"]
    assert [p.body for p in read_warc(tmp_path / "a")] == list(pages.values())


@pytest.mark.parametrize("name, value", [("pages", 0), ("tries", 0), ("delay", float("nan")), ("timeout", -1),
                                         ("page_bytes", 0)])
def test_limits_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name.replace('_', '-')} "):
        Crawler("http://127.0.0.1:1/", Limits(**{name: value}))
