"""A page as runs of text between the tags that begin a line, each with what the tags say about it.

No tree is built, because pages do not keep to one. An element that changes how text counts is believed only
if somebody closes it: a <nav> left open is not the whole page, an <a> left open ends with its line, and what
holds most of the words (one link or header around everything) is not beside the text. Everything is a few
passes over one list.

Source: the text blocks of Kohlschütter et al. 2010 (see extract.py); which elements begin a line and which
may not nest: the HTML standard, https://html.spec.whatwg.org/multipage/rendering.html
Used by extract.py.
"""
import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from html_tokens import Token, tokens

MAX_BYTES = 1 << 20                    # the rest of a page is ignored: no text a reader wants is longer
LINE_WIDTH = 80                        # text density is words per line of this width
HIDDEN = {"script", "style", "noscript", "noembed", "noframes", "iframe", "title", "textarea",
          "template", "svg", "select", "button"}
OUTSIDE = {"nav", "footer", "aside", "header", "menu"}       # parts that say they are not the text
PRE = {"pre", "listing", "xmp", "plaintext"}
LISTS = {"ul", "ol", "menu", "dir"}
DEFINED = {"dt", "dd"}
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
ALONE = {"a", "button", "select"}                          # cannot hold another of its kind: that one ends it
# Elements that begin a new line. Every other one is inside a line, also one that nobody has heard of.
LINES = OUTSIDE | PRE | HEADINGS | set(
    "address article blockquote body caption center col colgroup dd details dialog dir div dl dt fieldset "
    "figcaption figure form frameset head hgroup hr html legend li main ol optgroup option p search section "
    "summary table tbody td tfoot th thead tr ul".split())
# Chinese and Japanese, and Thai with its neighbours, put no blanks between words.
SOLID = re.compile("[\u2e80-\ua4cf\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]")
SOUTHEAST = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")


def count_words(text: str) -> int:
    """Runs between blanks; without blanks, two Chinese or Japanese characters or four Thai ones count."""
    words = len(text.split())
    if text.isascii():
        return words
    return words + len(SOLID.findall(text)) // 2 + len(SOUTHEAST.findall(text)) // 4


@dataclass
class Block:
    """A run of text between two block-level tags."""
    text: str
    words: int
    link_words: int
    outside: bool                      # inside nav, footer, aside, ...
    heading: bool
    item: bool = False                 # of a list
    ending: bool = False               # a definition or code: what a text may end in, however short

    @property
    def link_density(self) -> float:
        """Share of the words that are inside links."""
        return self.link_words / max(self.words, 1)

    @property
    def text_density(self) -> float:
        """Words per line of 80 characters; for less than a line, its words."""
        wide = 0 if self.text.isascii() else len(SOLID.findall(self.text))     # these take two places each
        return self.words / max((len(self.text) + wide) / LINE_WIDTH, 1)


def closed(page: list[Token]) -> dict[int, int]:
    """{place of the start: place of the end} of the elements that matter and have an end tag of their own."""
    waiting: dict[str, list[int]] = defaultdict(list)
    pairs = {}
    for i, token in enumerate(page):
        name = token.value
        if token.kind == "start" and (name in HIDDEN | OUTSIDE | HEADINGS | LISTS or name == "a"):
            if name in ALONE:
                waiting[name].clear()
            waiting[name].append(i)
        elif token.kind == "end" and waiting.get(name):
            pairs[waiting[name].pop()] = i
    return pairs


def hides(token: Token) -> bool:
    """Whether nothing inside this element is shown."""
    return token.value in HIDDEN and "shadowrootmode" not in token.attributes     # such a template is shown


def words_before(page: list[Token], skipped: set[int], pairs: dict[int, int]) -> list[int]:
    """Words before each token and at the end, without those in the elements that start at `skipped`."""
    ends, inside, counts = {pairs[i] for i in skipped}, 0, [0]
    for i, token in enumerate(page):
        inside += (i in skipped) - (i in ends)
        counts.append(counts[-1] + (count_words(token.value) if token.kind == "text" and not inside else 0))
    return counts


def around(page: list[Token], pairs: dict[int, int]) -> set[int]:
    """Where a link or an outside part starts that is none, because it is around the text of the page.

    That is what holds more than half of the words. An <a> without an address only names a place, as short
    headings and signatures do: it is no link when it holds a sentence.
    """
    hidden = {i for i in pairs if hides(page[i])}
    links = {i for i in pairs if page[i].value == "a"}
    visible = words_before(page, hidden, pairs)

    def words(i: int, before: list[int]) -> int:
        return before[pairs[i]] - before[i]
    found = {i for i in links if words(i, visible) > visible[-1] / 2
             and any(t.kind == "start" and t.value in LINES for t in page[i:pairs[i]])}
    found |= {i for i in links if "href" not in page[i].attributes and words(i, visible) >= 20}
    plain = words_before(page, hidden | links - found, pairs)
    return found | {i for i in pairs if page[i].value in OUTSIDE and words(i, plain) > plain[-1] / 2}


def blocks(html: str, xml: bool = False) -> list[Block]:
    """The text blocks of a page, in order. Never fails; nothing overflows however deep tags are nested."""
    page = list(tokens(html[:MAX_BYTES], xml))
    pairs = closed(page)
    ignored = around(page, pairs)
    ends = {end: page[start] for start, end in pairs.items() if start not in ignored}
    inside: Counter = Counter()                              # how many links, headings, ... are open
    found: list[Block] = []
    parts: list[str] = []
    link_words, breaks, item, defined = 0, 0, False, False
    until_line: set[str] = set()                             # links and headings that nobody closes

    def kind_of(token: Token) -> str:
        return ("hidden" if hides(token) else "outside" if token.value in OUTSIDE else
                "link" if token.value == "a" else "heading" if token.value in HEADINGS else
                "list" if token.value in LISTS else "")

    def flush() -> None:
        nonlocal link_words
        text = "".join(parts).strip()
        if text:
            heading = inside["heading"] > 0 or "heading" in until_line
            found.append(Block(text, count_words(text), link_words, inside["outside"] > 0, heading,
                               item or inside["list"] > 0, defined or inside["pre"] > 0))
        parts.clear()
        link_words = 0

    for i, token in enumerate(page):
        name = token.value
        if token.kind == "text":
            if inside["hidden"]:
                continue
            breaks = breaks if name.isspace() else 0
            parts.append(name if inside["pre"] else re.sub(r"[ \t\r\n]+", " ", name))
            if inside["link"] or "link" in until_line:
                link_words += count_words(name)
        elif name == "br":
            breaks += 1
            parts.append("\n")
            if breaks == 2:
                flush()                                      # two line breaks are a paragraph
                until_line.clear()
        else:
            breaks = 0 if token.kind == "start" else breaks
            if name in LINES:
                flush()
                until_line.clear()
            if token.kind == "start":
                inside[kind_of(token)] += i in pairs and i not in ignored
                if i not in pairs and (name in HEADINGS or "href" in token.attributes):
                    until_line |= {kind_of(token)} & {"link", "heading"}
                inside["pre"] += name in PRE
                item, defined = item or name == "li", defined or name in DEFINED
            else:
                if i in ends:
                    inside[kind_of(ends[i])] -= 1
                inside["pre"] = max(0, inside["pre"] - (name in PRE))
                item = item and name != "li" and name not in LISTS
                defined = defined and name not in DEFINED and name != "dl"
    flush()
    return found
