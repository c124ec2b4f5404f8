"""Addresses: one spelling for each, and the links of a page, resolved as a browser resolves them.

A crawler compares addresses to know what it has seen, and asks a server for exactly the bytes that the page's
author meant. So only what makes no difference is changed (case of the host, a default port, `..`, `%7E` for
`~`), and what a browser changes before it asks: other characters than ASCII are percent-encoded, as UTF-8 in
a path but in *the page's encoding* in a query.

Sources: RFC 3986 section 6.2; the WHATWG URL standard, https://url.spec.whatwg.org/#url-parsing
Used by crawl.py and robots.py.
"""
import ipaddress
import re
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from charset import beginning, decode
from html_tokens import tokens
from warc import Page

PORTS = {"http": 80, "https": 443}
IN_PATH = "%:@!$&'()*+,;=/|[]\\~"      # what a browser sends as it is; the rest is percent-encoded
IN_QUERY = "%:@!$&()*+,;=/|[]\\~?`{}^"
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
BLANKS = "".join(map(chr, range(33)))


def unreserved(text: str) -> str:
    """Percent signs in one spelling (RFC 3986, 6.2.2): "%7e" and "%7E" are "~", "%c3" is "%C3".

    >>> unreserved("/%7euser/%c3%a9/%2f")
    '/~user/%C3%A9/%2F'
    """
    def one(match: re.Match) -> str:
        byte = int(match[1], 16)
        return chr(byte) if byte in UNRESERVED else match[0].upper()
    return re.sub("%([0-9a-fA-F]{2})", one, text)


def normalise(url: str, base: str = "", encoding: str = "utf-8") -> str | None:
    """One spelling per address, or None for what a crawler can't fetch (mailto:, javascript:, no host).

    `encoding` is that of the page the link stands on.

    >>> normalise("../b/./c.html#top", "HTTP://Example.org:80/a/x")
    'http://example.org/b/c.html'
    """
    url = re.sub(r"[\t\n\r]", "", url.strip(BLANKS))
    (path, mark, rest), = re.findall(r"(?s)\A([^?#]*)([?#]?)(.*)", url)
    try:
        parts = urlsplit(urljoin(base, path.replace("\\", "/") + mark + rest))
        if parts.scheme not in PORTS or not parts.hostname:
            return None
        host = _host(parts.hostname)
        port = "" if parts.port in (None, PORTS[parts.scheme]) else f":{parts.port}"
    except ValueError:                                       # 'http://[', a port that is no number
        return None
    path = _without_dots(unreserved(quote(parts.path, safe=IN_PATH, errors="replace")))
    query = unreserved(quote(_in_encoding(parts.query, encoding), safe=IN_QUERY))
    return urlunsplit((parts.scheme, host + port, path, query, ""))


def _host(name: str) -> str:
    """A host's one spelling: IPv6 short and in brackets, other names as they are looked up."""
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name).compressed}]"
    if re.search(r"[\s<>\"%\\^`{|}]", name):
        raise ValueError(f"{name!r} cannot be the name of a host")
    return name if name.isascii() else name.encode("idna").decode()


def _without_dots(path: str) -> str:
    """A path without '.' and '..' (RFC 3986, 5.2.4): "/a/b/.." is "/a/"."""
    kept: list[str] = []
    pieces = path.split("/")[1:] or [""]
    for piece in pieces:
        if piece == "..":
            kept = kept[:-1]
        elif piece != ".":
            kept.append(piece)
    return "/" + "/".join(kept + [""] * (pieces[-1] in (".", "..")))


def _in_encoding(query: str, encoding: str) -> bytes:
    """The bytes of a query in the page's encoding; a character it lacks becomes its number."""
    if query.isascii() or encoding.startswith("utf"):        # pages in UTF-16 ask in UTF-8
        return query.encode("utf-8", "replace")
    out = []
    for character in query:
        try:
            out.append(character.encode(encoding))
        except UnicodeEncodeError:
            out.append(b"%%26%%23%d%%3B" % ord(character))
    return b"".join(out)


def links(page: Page, limit: int = 2 << 20) -> list[str]:
    """The addresses a page links to, in order, normalised, without repetition. <base> moves them."""
    text, codec = decode(beginning(page.body, limit), page.headers.get("content-type", ""))
    base, found = "", []
    for token in tokens(text, xml="xhtml" in page.headers.get("content-type", "")):
        if token.kind == "start" and "href" in token.attributes:
            if token.value == "base":
                base = base or token.attributes["href"].strip(BLANKS)
            elif token.value in ("a", "area"):
                found.append(token.attributes["href"])
    start = normalise(base, page.url) or page.url
    return [u for u in dict.fromkeys(normalise(link, start, codec) for link in found) if u]
