"""A small but real web on this machine: the pages that Python's own pydoc serves, and planted trouble.

The server runs in a process of its own with an empty environment (pydoc prints what it finds in `os.environ`)
and fixed string hashing, it sees no installed package, and it names no folder of yours: the same interpreter
serves the same bytes wherever the repository lies. It also behaves as servers do: some pages are forbidden by
robots.txt, some fail at the first try, some redirect in circles, one calendar never ends.

Source: the standard library's pydoc, https://docs.python.org/3/library/pydoc.html

    python 06_data/smallweb.py --seed 0        prints the address it serves, until it is stopped
"""
import argparse
import contextlib
import io
import pydoc
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

try:
    from planted import Planted, build, held_out_topics, topic_of
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None

SKIP = {"antigravity", "this", "idlelib", "turtle", "turtledemo", "lib2to3", "test", "tkinter"}
HOME = str(Path(__file__).resolve().parents[1])
ROBOTS = "User-agent: *\nDisallow: /private/\nCrawl-delay: 0.002\n"


@contextlib.contextmanager
def serve(seed: int = 0, leak: Path | None = None) -> Iterator[str]:
    """Run the small web in another process; gives its address, http://127.0.0.1:PORT/, and stops it."""
    command = [sys.executable, str(Path(__file__).resolve()), "--seed", str(seed)]
    command += ["--leak", str(Path(leak).resolve())] if leak else []
    server = subprocess.Popen(command, env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
                              stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
    assert server.stdout
    try:
        address = server.stdout.readline().strip()
        if not address:
            raise ValueError("the small web did not start: run python 06_data/smallweb.py to see why")
        yield address
    finally:
        server.kill()
        server.communicate()


class Site:
    """What is at each address."""

    def __init__(self, planted: list[Planted]):
        self.pages = {page.path: page for page in planted}
        self.tries: dict[str, int] = {}
        self.modules = {name for name in sys.stdlib_module_names if not name.startswith("_")} - SKIP

    def home(self) -> str:
        """The front page: links to everything, some twice in different spellings, some leading away."""
        links = ["/index.html", "/topics.html", "/private/diary.html", "/flaky/1", "/flaky/2", "/loop/a",
                 "/moved", "/calendar/1", "/missing.html", "http://elsewhere.invalid/",
                 "mailto:someone@example.org", "//127.0.0.2/", "/./article/../index.html#top",
                 "javascript:void(0)", *self.pages]
        return "<html><body>" + "".join(f'<a href="{link}">{link}</a>\n' for link in links) + "</body></html>"

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for one path."""
        page = {"Content-Type": "text/html; charset=utf-8"}
        self.tries[path] = self.tries.get(path, 0) + 1
        if path in self.pages:
            return 200, {"Content-Type": self.pages[path].content_type}, self.pages[path].body
        if path == "/":
            return 200, page, self.home().encode()
        if path == "/robots.txt":
            return 200, {"Content-Type": "text/plain"}, ROBOTS.encode()
        if path.startswith("/flaky/") and self.tries[path] < 2:
            return 503, {**page, "Retry-After": "0"}, b"busy"
        if path.startswith("/flaky/"):
            said = b"<p>This page answers at the second try, which is why a crawler tries again.</p>"
            return 200, page, said
        if path.startswith("/loop/"):
            return 302, {**page, "Location": "/loop/" + ("b" if path.endswith("a") else "a")}, b""
        if path == "/moved":
            return 301, {**page, "Location": "/index.html"}, b""
        if path.startswith("/calendar/") and path[10:].isdigit():
            day = int(path[10:]) + 1
            return 200, page, f'<p>Nothing on day {day}.</p><a href="/calendar/{day}">next day</a>'.encode()
        if path.startswith("/private/"):
            return 200, page, b"<p>robots.txt asked you not to read this.</p>"
        return self.pydoc_page(path)

    def pydoc_page(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """A page of the pydoc server, except that some topics are kept back as test text."""
        name, html = path[1:].removesuffix(".html"), {"Content-Type": "text/html; charset=utf-8"}
        known = name in self.modules | {"index", "topics"}
        topic = name.removeprefix("topic?key=") if name.startswith("topic?key=") else ""
        if not known and (not topic or topic_of(topic) in held_out_topics()):
            return 404, html, b"<p>Not found.</p>"
        with contextlib.redirect_stdout(io.StringIO()):       # some modules print when imported
            # what pydoc.browse() serves; it has no public name
            body = vars(pydoc)["_url_handler"](path, "text/html")
        # places in memory
        body = re.sub(r"(\s|&nbsp;)(at(\s|&nbsp;)0x[0-9a-f]+|handle(\s|&nbsp;)[0-9a-f]{6,})", "", body)
        for folder in (sys.prefix, HOME, sys.base_prefix):
            body = body.replace(folder, "/usr") if len(folder) > 1 else body
        return (404 if "<title>Pydoc: Error" in body else 200), html, body.encode("utf-8", "replace")


def main() -> None:
    """Serve on a free port of the loopback interface until stopped."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="what the planted pages are made from")
    parser.add_argument("--leak", type=Path, help="a text file to plant on a page, as leaked test questions")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    # pydoc prints these on the page of sys, and lists sys.path
    sys.argv[:] = sys.orig_argv[:] = ["smallweb.py"]
    sys.path[:] = [p for p in sys.path if p.startswith(sys.base_prefix) and str(Path(p).parent) != HOME
                   and "-packages" not in p]
    site = Site(build(args.seed, args.leak.read_text("utf-8") if args.leak else ""))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = site.get(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    vars(server)["handle_error"] = lambda *_: None                # a client that went away is no news
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
