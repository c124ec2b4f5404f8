"""HTML into tags and text, cut as a browser cuts it: what is a comment, a script, an attribute.

The standard library's parser changed from version to version in exactly these questions, is quadratic in
unfinished tags, and reads on past `--!>`. Browsers agree on one state machine, which never fails and looks at
each character a few times at most. This is that machine with its states folded into regular expressions. It
builds no tree.

Two places are kinder than the standard: a quote that nobody closes ends at the next '>' instead of swallowing
the page, and in XHTML a tag that closes itself is closed.

Source: the HTML standard, https://html.spec.whatwg.org/multipage/parsing.html#tokenization
Used by extract.py (the text of a page), crawl.py (its links) and charset.py (its meta tags).
"""
import html
import re
from collections import Counter
from collections.abc import Iterator
from html.entities import html5
from typing import NamedTuple

WS = r"[\t\n\f\r ]"
MARKUP = re.compile(r"<(?:(/?)([a-zA-Z][^\t\n\f\r />]*)(>?)|!--|[!?]|/(?!\Z))")
ATTRIBUTE = re.compile(rf"""(?:{WS}|/)*(?:>|([^\t\n\f\r />][^\t\n\f\r />=]*)"""
                       rf"""(?:{WS}*={WS}*("[^"]*"|'[^']*'|[^\t\n\f\r >"'][^\t\n\f\r >]*|))?)""")
COMMENT_END = re.compile("--!?>")
# What stands between these tags is text without tags in it; in the last two, character references still
# count.
RAW = ("script", "style", "xmp", "iframe", "noembed", "noframes", "noscript", "plaintext", "textarea",
       "title")
RAW_END = {name: re.compile(rf"(?i)</{name}(?=[\t\n\f\r />])") for name in RAW}
SCRIPT = re.compile(r"(?i)(<!--)|(-->)|(<script[\t\n\f\r />])|(</script[\t\n\f\r />])")
# Inside a drawing or a formula a tag can close itself; these HTML tags end it, closed or not, and so does the
# end of an element that holds it.
FOREIGN = {"svg", "math"}
BREAKOUT = set("b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img "
               "li listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul "
               "var".split())
REFERENCE = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[a-zA-Z][a-zA-Z0-9]*;?)")


class Token(NamedTuple):
    """A run of text, or the start or the end of an element."""
    kind: str                          # "text", "start" or "end"
    value: str                         # the text; the name of the element in lower case
    attributes: dict[str, str] = {}    # of a start; of several with one name the first counts


def unescape(text: str) -> str:
    """Character references replaced. A number of more digits than any character has is no character."""
    if "&" not in text:
        return text
    return html.unescape(re.sub(r"&#0*[1-9][0-9]{7,};?", "\ufffd", text))


def unescape_value(text: str) -> str:
    """The same inside an attribute: a name needs its semicolon there, so "?a=1&copy=2" means what it says."""
    def one(match: re.Match) -> str:
        name = match[0]
        after = text[match.end():match.end() + 1]
        if name.startswith("&#") or name.endswith(";") and name[1:] in html5:
            return unescape(name)
        return unescape(name) if after != "=" and name[1:] in html5 else name
    return REFERENCE.sub(one, text)


def tokens(text: str, xml: bool = False) -> Iterator[Token]:
    """The tokens of a page; never raises, linear in the text. `xml`: XHTML, where any tag closes itself."""
    at = 0
    foreign: list[str] = []                                  # the drawings and formulas that we are inside of
    holders: Counter = Counter()                             # what was opened before them and may end them
    while found := MARKUP.search(text, at):
        if found.start() > at:
            yield Token("text", unescape(text[at:found.start()]))
        at = found.end()
        if found[2] is None:                          # a comment, a declaration, or '</' before anything else
            cdata = (xml or foreign) and text.startswith("<![CDATA[", found.start())
            end, after = _end_of_comment(text, found, bool(cdata))
            if cdata:
                yield Token("text", text[found.start() + 9:end])
            at = after
            continue
        name, attributes, closes_itself = found[2].lower(), {}, False
        if not found[3]:
            at, attributes, closes_itself = _attributes(text, at)
            if at < 0:
                return                                     # the page ends inside a tag: browsers drop the tag
        while foreign and (holders[name] if found[1] else name in BREAKOUT):
            yield Token("end", foreign.pop())
        if found[1]:
            if foreign[-1:] == [name]:
                foreign.pop()
            holders[name] -= holders[name] > 0
            yield Token("end", name)
            continue
        holders[name] += not foreign
        yield Token("start", name, attributes)
        if closes_itself and (xml or foreign or name in FOREIGN):
            yield Token("end", name)
        elif name in FOREIGN:
            foreign.append(name)
        elif name in RAW_END and not foreign:             # a drawing's <title> and <style> hold ordinary text
            end, after = _end_of_raw(text, at, name)
            raw = text[at:end]
            yield Token("text", unescape(raw) if name in ("textarea", "title") else raw)
            yield Token("end", name)
            at = after
    if at < len(text):
        yield Token("text", unescape(text[at:]))


def _end_of_comment(text: str, opened: re.Match, cdata: bool) -> tuple[int, int]:
    """(where the content ends, where the page goes on) of what begins with '<!', '<?' or '</'."""
    if cdata:
        end = text.find("]]>", opened.end())
        return (end, end + 3) if end >= 0 else (len(text), len(text))
    if opened[0] != "<!--":
        end = text.find(">", opened.end())
        return (end, end + 1) if end >= 0 else (len(text), len(text))
    short = next((mark for mark in (">", "->") if text.startswith(mark, opened.end())), "")
    if short:                                                # <!--> and <!---> are whole comments
        return opened.end(), opened.end() + len(short)
    end = COMMENT_END.search(text, opened.end())
    return (end.start(), end.end()) if end else (len(text), len(text))


def _attributes(text: str, at: int) -> tuple[int, dict[str, str], bool]:
    """(place behind the tag or -1 when the page ends in it, its attributes, whether it closes itself)."""
    found: dict[str, str] = {}
    while part := ATTRIBUTE.match(text, at):
        at = part.end()
        if part[1] is None:
            return at, found, part[0].endswith("/>")
        value = part[2] or ""
        value = value[1:-1] if value[:1] in ("'", '"') else value
        found.setdefault(part[1].lower(), unescape_value(value) if "&" in value else value)
    return -1, found, False


def _end_of_raw(text: str, at: int, name: str) -> tuple[int, int]:
    """(where raw text ends, where the page goes on). Without an end tag it takes the rest of the page."""
    if name == "plaintext":
        return len(text), len(text)
    close = RAW_END[name].search(text, at) if name != "script" else _end_of_script(text, at)
    if not close:
        return len(text), len(text)
    after, _, _ = _attributes(text, close.start() + 2 + len(name))
    return close.start(), after if after >= 0 else len(text)


def _end_of_script(text: str, at: int) -> re.Match | None:
    """The match of </script> that ends a script. Behind `<!--` a <script> inside needs one of its own.

    Old pages hid their scripts from older browsers in a comment, so a browser counts: this is its "script
    data double escaped state". `-->` ends the hiding.
    """
    hidden = nested = False
    while found := SCRIPT.search(text, at):
        at = found.end()
        if found[1]:
            hidden, at = True, at - 2                        # `<!-->` hides nothing: its dashes also end it
        elif found[2]:
            hidden = nested = False
        elif found[3]:
            nested = hidden
        elif not nested:
            return found
        else:
            nested = False
    return None
