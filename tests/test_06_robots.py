"""Chapter 6: robots.txt as RFC 9309 has it, and addresses as browsers spell them."""
import pytest

import robots
from addresses import links, normalise
from fetch import AGENT
from warc import Page

HOST = "http://web.example"


def allows(rules, path):
    return robots.parse(rules if isinstance(rules, bytes) else rules.encode(), AGENT).allows(HOST + path)


@pytest.mark.parametrize("name, rules, forbidden, allowed", [
    ("a byte order mark", b"\xef\xbb\xbfUser-agent: *\nDisallow: /x", ["/x"], ["/"]),
    ("a star", "User-agent: *\nDisallow: /*.gif\nDisallow: /a/*/b", ["/p.gif", "/p.gif?q", "/a/c/d/b/e"],
     ["/gif", "/a/b"]),
    ("a dollar", "User-agent: *\nDisallow: /*.gif$\nDisallow: /only$", ["/p.gif", "/.gif.gif", "/only"],
     ["/p.gif?q", "/p.gifs", "/only/x"]),
    ("a dollar that is none", "User-agent: *\nDisallow: /a$b", ["/a$b", "/a%24bc"], ["/ab", "/a"]),
    ("the longest match", "User-agent: *\nAllow: /\nDisallow: /x/private", ["/x/private/1"], ["/", "/x/"]),
    ("the longest match, other order", "User-agent: *\nDisallow: /x\nAllow: /x/open\n", ["/x/1"],
     ["/x/open/1"]),
    ("the longest match has a star", "User-agent: *\nAllow: /page\nDisallow: /*.htm", ["/page.htm"],
     ["/page"]),
    ("a tie", "User-agent: *\nDisallow: /page\nAllow: /page", [], ["/page"]),
    ("an empty line after the agent", "User-agent: *\n\n\nDisallow: /x\n", ["/x"], ["/"]),
    ("two groups for one agent", f"User-agent: {AGENT}\nDisallow: /x\nUser-agent: b\nDisallow: /z\n"
     f"User-agent: {AGENT}\nDisallow: /y", ["/x", "/y"], ["/z"]),
    ("two groups for all", "User-agent: *\nDisallow: /x\n\nUser-agent: *\nDisallow: /y", ["/x", "/y"], ["/"]),
    ("a group for several", f"User-agent: other\nUser-agent: {AGENT.upper()}/2.1 (test)\nDisallow: /x",
     ["/x"], ["/"]),
    ("our own group before that of all", f"User-agent: *\nDisallow: /\nUser-agent: {AGENT}\nDisallow: /x",
     ["/x"], ["/"]),
    ("an empty group of our own", f"User-agent: *\nDisallow: /\nUser-agent: {AGENT}\nDisallow:", [],
     ["/", "/x"]),
    ("a longer name is another", f"User-agent: {AGENT}-images\nDisallow: /", [], ["/"]),
    ("no group for us", "User-agent: other\nDisallow: /", [], ["/"]),
    ("other lines end no group",
     f"User-agent: {AGENT}\nSitemap: /s\nCrawl-delay: 3\nUser-agent: b\nDisallow: /x", ["/x"], []),
    ("rules before any agent", "Disallow: /\nUser-agent: other\nDisallow: /", [], ["/"]),
    ("blanks and comments", " user-agent\t: * # all\r\n  DISALLOW : /x # this\r\nDisallow: /y#z",
     ["/x", "/y"], ["/"]),
    ("old line ends", "User-agent: *\rDisallow: /x\rAllow: /x/y", ["/x"], ["/x/y"]),
    ("percent signs",
     "User-agent: *\nDisallow: /%7Ejoe\nDisallow: /caf\u00e9\nDisallow: /a%3cd\nDisallow: /s%2Ft",
     ["/~joe", "/%7ejoe", "/caf%C3%A9", "/caf%c3%a9", "/a%3Cd", "/s%2ft"], ["/s/t", "/cafe"]),
    ("a star that is none", "User-agent: *\nDisallow: /a%2Ab", ["/a*b", "/a%2ab"], ["/axb"]),
    ("Latin-1", "User-agent: *\nDisallow: /caf\u00e9".encode("latin-1"), ["/caf%E9", "/caf%e9"],
     ["/caf%C3%A9"]),
    ("questions", "User-agent: *\nDisallow: /*?\nAllow: /s?q=1$", ["/x?y", "/s?q=12"], ["/x", "/s?q=1"]),
    ("itself", "User-agent: *\nDisallow: /", ["/", "/robots.txt/x"], ["/robots.txt"]),
    ("case matters in paths", "User-agent: *\nDisallow: /X", ["/X"], ["/x"]),
    ("nothing", "", [], ["/"]), ("a page", "<html><body>Not found: sorry</body></html>", [], ["/"]),
    ("a value in the middle", "User-agent: *\nDisallow: x", [], ["/x"])])
def test_rules_mean_what_the_rfc_says(name, rules, forbidden, allowed):
    assert not [path for path in forbidden if allows(rules, path)]
    assert not [path for path in allowed if not allows(rules, path)]


@pytest.mark.parametrize("rules, delay", [
    (" Crawl-delay : .3", 0.3), ("User-agent: *\n Crawl-delay : .3\nDisallow: /x", 0.3),
    ("User-agent: *\nCrawl-delay:2.50 # s", 2.5),
    ("User-agent: other\nCrawl-delay: 9\n\nUser-agent: *\nCrawl-delay: 1", 1),
    ("User-agent: *\nCrawl-delay: soon", 0),
    (f"User-agent: *\nCrawl-delay: 9\nUser-agent: {AGENT}\nCrawl-delay: 1\nCrawl-delay: 2.", 2),
    ("User-agent: *\nCrawl-delay: -5", 0)])
def test_the_pause_is_that_of_our_group(rules, delay):
    assert robots.parse(rules.encode(), AGENT).delay == delay


def test_500_kibibytes_are_read_and_no_half_line():
    filler = b"# " + b"x" * 97 + b"\n"
    rules = b"User-agent: *\n" + filler * (510_000 // 100) + b"Disallow: /x\n"
    assert len(rules) < robots.MOST_BYTES and not allows(rules, "/x")
    cut = rules.ljust(robots.MOST_BYTES - 12, b"\n") + b"\nDisallow: /private\n"
    assert allows(cut, "/private") and allows(cut, "/"), "'Disallow: /' is what the limit would leave of it"


def test_no_pattern_is_slow():
    assert not robots.fits("/" + "a*" * 2000 + "b", "/" + "a" * 5000)
    assert robots.fits("/" + "*a" * 2000 + "$", "/" + "a" * 5000)


@pytest.mark.parametrize("url, base, wanted", [
    ("?list", "http://a.example/x/y", "http://a.example/x/y?list"),
    ("?a=b&c&d=", "http://a.example/", "http://a.example/?a=b&c&d="),
    ("?q=%E9&r=%c3%a9+x;y", "http://a.example/", "http://a.example/?q=%E9&r=%C3%A9+x;y"),
    ("%E9", "http://a.example/", "http://a.example/%E9"),
    ("/%7euser/%2e%2e/b/%2F", "http://a.example/", "http://a.example/b/%2F"),
    ("/a/b/..", "http://a.example/", "http://a.example/a/"),
    ("/a/./", "http://a.example/", "http://a.example/a/"),
    ("../../x", "http://a.example/a/b", "http://a.example/x"),
    ("http://[::1]:8000/x", "", "http://[::1]:8000/x"), ("http://[0:0::0:1]/", "", "http://[::1]/"),
    ("/y", "http://[2001:db8::1]:80/", "http://[2001:db8::1]/y"),
    ("http://[::1", "", None), ("http://a.example:99999/", "", None),
    ("http://user:pw@a.example/", "", "http://a.example/"),
    ("http://M\u00fcller.example/\u00e9?\u00e9", "", "http://xn--mller-kva.example/%C3%A9?%C3%A9"),
    (" \n/a\tb\n", "http://a.example/", "http://a.example/ab"),
    ("\\a\\b?c\\d", "http://a.example/", "http://a.example/a/b?c\\d"),
    ("/a|b[c]'d^", "http://a.example/", "http://a.example/a|b[c]'d%5E"),
    ("data:text/html,x", "http://a.example/", None), ("http://a b/", "", None), ("http:///", "", None),
    ("#top", "http://a.example/x?y", "http://a.example/x?y"),
    ("", "http://a.example/x?y", "http://a.example/x?y")])
def test_addresses_are_spelt_as_browsers_ask_for_them(url, base, wanted):
    assert normalise(url, base) == wanted
    assert wanted is None or normalise(wanted) == wanted, "once is enough"


LATIN = '<a href="/é?é=ü">1</a><a href="/%E9?%E9">2</a><a href="?€&amp;日&amp;x">3</a>'


@pytest.mark.parametrize("codec, label, first, third", [
    ("latin-1", "iso-8859-1", "?%E9=%FC", "?%80&%26%2326085%3B&x"),
    ("utf-8", "utf-8", "?%C3%A9=%C3%BC", "?%E2%82%AC&%E6%97%A5&x"),
    ("utf-16", "utf-16", "?%C3%A9=%C3%BC", "?%E2%82%AC&%E6%97%A5&x"),
    ("cp1252", "windows-1252", "?%E9=%FC", "?%80&%26%2326085%3B&x")])
def test_links_of_a_page_are_in_its_encoding(codec, label, first, third):
    body = LATIN.encode(codec, "xmlcharrefreplace")
    found = links(Page("http://a.example/p", 200, {"content-type": f"text/html; charset={label}"}, body))
    assert found == ["http://a.example/%C3%A9" + first, "http://a.example/%E9?%E9",
                     "http://a.example/p" + third]


@pytest.mark.parametrize("base, wanted", [
    ("/docs/", "http://a.example/docs/x"), ("http://b.example", "http://b.example/x"),
    ("", "http://a.example/a/x"),
    ("javascript:x", "http://a.example/a/x"), ("http://[", "http://a.example/a/x"),
    ("?q", "http://a.example/a/x")])
def test_a_base_moves_all_links(base, wanted):
    body = f'<a href=x>1</a><base target=_blank><base href="{base}"><base href="/second/">'.encode()
    if not base:
        body = b"<a href=x>1</a><base target=_blank>"
    assert links(Page("http://a.example/a/b", 200, {}, body)) == [wanted]


def test_what_looks_like_a_link_is_none():
    body = (b"<!-- <a href=/1> --><script>'<a href=/2>'</script><a name=x><a title='<a href=/3>'><a href>"
            b"<a href='/4?a=1&copy=2'><area href=/5><AREA HREF=/4?a=1&amp;copy=2>")
    assert links(Page("http://a.example/p", 200, {}, body)) == [
        "http://a.example/p", "http://a.example/4?a=1&copy=2", "http://a.example/5"]
