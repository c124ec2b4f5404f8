"""Bytes to text: guess the encoding, mend it, parse the markup, keep the main text and drop menus and notices.

Comes after crawl.py and before every filter: whatever is lost or left in here, the model sees. Three steps, each
a function: `decode` (bytes to str), `blocks` (HTML to runs of text with their link density), `main_text` (which
runs are the page's own text, by Kohlschütter's two features: words a line and the share of them inside links).

Source: Kohlschütter, Fankhauser, Nejdl, "Boilerplate detection using shallow text features" (WSDM 2010), the
decision tree of their figure 2 with its published thresholds; mojibake repair after Speer's ftfy.
    python 06_data/extract.py page.html        prints the main text of a file
"""
import codecs
import re
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

MAX_BYTES = 1 << 20                    # the rest of a page is ignored: no text a reader wants is longer
LINE_WIDTH = 80                        # text density is words per line of this width
HIDDEN = {"script", "style", "noscript", "template", "svg", "head", "textarea", "select", "button", "iframe"}
OUTSIDE = {"nav", "footer", "aside", "header", "form", "menu"}        # parts that say they are not the text
VOID = {"br", "hr", "img", "input", "meta", "link", "col", "wbr", "area", "base", "source", "embed", "param"}
INLINE = {"a", "b", "i", "em", "strong", "span", "font", "tt", "code", "small", "sub", "sup", "u", "s", "big",
          "abbr", "cite", "q", "kbd", "var", "samp", "mark", "time", "label", "bdi", "wbr", "img"}
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Windows-1252 with its five holes filled as Latin-1 does: what browsers mean by either name.
SLOPPY = {bytes([b]).decode("cp1252", "ignore") or chr(b): b for b in range(256)} | {chr(b): b for b in range(128, 160)}
MOJIBAKE = re.compile("[" + "".join(re.escape(c) for c, b in SLOPPY.items() if b >= 0xC2 and b < 0xF5) + "]["
                      + "".join(re.escape(c) for c, b in SLOPPY.items() if 0x80 <= b < 0xC0) + "]{1,3}")


def beginning(body: bytes, limit: int) -> bytes:
    """The first `limit` bytes, back to the last blank or '>' if that cuts: half a character would spoil the decoding."""
    if len(body) <= limit:
        return body
    cut = body[:limit]
    return cut[:max(cut.rfind(b" "), cut.rfind(b">"), cut.rfind(b"\n")) + 1] or cut


def decode(body: bytes, content_type: str = "") -> tuple[str, str]:
    """(text, codec) of a page: byte order mark, then what header and page declare, then UTF-8, then a guess.

    A declaration is believed only if every byte agrees with it: many pages declare what they are not.
    """
    for mark, codec in BOMS:
        if body.startswith(mark):
            return body.decode(codec, "replace"), codec
    declared = re.findall(r"charset=[\"']?([\w.:-]+)", content_type, re.I)
    declared += [m.decode() for m in re.findall(rb"(?i)<meta[^>]{0,200}charset=[\"']?([\w.:-]+)", body[:4096])]
    for codec in [*declared, "utf-8"]:
        try:
            codec = "cp1252" if codec.lower() in ("iso-8859-1", "latin-1", "latin1", "ascii") else codec
            return body.decode(codec), codecs.lookup(codec).name
        except (LookupError, UnicodeError, ValueError):
            continue
    guesses = {codec: body[:20000].decode(codec, "replace") for codec in ("cp1252", "koi8-r", "cp1251", "iso-8859-2")}
    codec = max(guesses, key=lambda c: _plausible(guesses[c]))
    return body.decode(codec, "replace"), codec


def _plausible(text: str) -> float:
    """How much decoded text looks written by people: letters inside words agree in case and alphabet."""
    foreign = [c for c in re.findall(r"[^\W\d_a-zA-Z]", text) if c.islower()]    # a wrong codec often swaps case
    oddities = len(re.findall(
        r"[\ufffd\x80-\x9f]|[a-zа-яß-ÿ][A-ZА-ЯÀ-Þ]|[a-zA-Z][а-яА-Я]|[а-яА-Я][a-zA-Z]|[à-ÿ]{4}", text))
    symbols = len(re.findall(r"[¡-¿×÷─-▟°√≈≤≥]", text))
    return (len(foreign) - 3 * oddities - 2 * symbols) / (len(text) + 1)


def repair_mojibake(text: str) -> str:
    """UTF-8 that someone read as Windows-1252 and saved again: 'cafÃ©' back to 'café'. Other text is unchanged."""
    def mend(match: re.Match) -> str:
        raw = bytes(SLOPPY[c] for c in match.group())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return match.group()                             # 'Â«' beside 'É' and the like: it meant itself
    return MOJIBAKE.sub(mend, text)


def normalise(text: str) -> str:
    """One spelling of the same text: NFC, plain spaces and line ends, no control or zero-width characters."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u200b-\u200f\u2028-\u202e\ufffd\ud800-\udfff]", "", text)
    text = re.sub(r"[^\S\n]+", " ", text)                    # every kind of blank, no-break ones too
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


@dataclass
class Block:
    """A run of text between two block-level tags."""
    text: str
    words: int
    link_words: int
    outside: bool                      # inside nav, footer, aside, ...
    heading: bool

    @property
    def link_density(self) -> float:
        """Share of the words that are inside links."""
        return self.link_words / max(self.words, 1)

    @property
    def text_density(self) -> float:
        """Words per line of 80 characters; for less than a line, its words."""
        return self.words / max(len(self.text) / LINE_WIDTH, 1)


class _Blocks(HTMLParser):
    """Collects blocks. Keeps no tree, so nothing here can overflow however deep the tags are nested."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Block] = []
        self.parts: list[str] = []
        self.open: Counter = Counter()                       # how many of each tag are open
        self.link_words = 0
        self.breaks = 0

    def flush(self) -> None:
        text = "".join(self.parts).strip()
        if text:
            heading = any(self.open[f"h{i}"] for i in range(1, 7))
            outside = any(self.open[t] for t in OUTSIDE)
            self.found.append(Block(text, len(text.split()), self.link_words, outside, heading))
        self.parts, self.link_words = [], 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "br":
            self.breaks += 1
            self.parts.append("\n")
            if self.breaks == 2:
                self.flush()                                 # two line breaks are a paragraph
            return
        self.breaks = 0
        if tag not in INLINE:
            self.flush()
        if tag in ("p", "li", "td", "tr", "dd", "dt"):       # these end the one before, closed or not
            self.open[tag] = 0
        if tag not in VOID:
            self.open[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in INLINE:
            self.flush()
        self.open[tag] = max(0, self.open[tag] - 1)
        if tag == "td":
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if any(self.open[t] for t in HIDDEN):
            return
        if not data.isspace():
            self.breaks = 0
        self.parts.append(data if self.open["pre"] else re.sub(r"[ \t\r\n]+", " ", data))
        if self.open["a"]:
            self.link_words += len(data.split())


def blocks(html: str) -> list[Block]:
    """The text blocks of a page, in order. Never fails: markup that stops the parser is stripped by a pattern."""
    # The standard parser looks for the end of an unfinished tag or comment again and again: quadratic in them. So
    # comments go first, and a '<' that no '>' follows before the next '<' opens no tag: it becomes text.
    html = re.sub(r"(?s)<!--.*?(?:-->|\Z)", "", html[:MAX_BYTES])
    html = re.sub(r"<(?=[^<>]*(?:<|\Z))", "&lt;", html)
    parser = _Blocks()
    try:
        parser.feed(html)
        parser.close()
    except (AssertionError, ValueError, NotImplementedError):
        parser.handle_data(re.sub(r"<[^>]{0,1000}>?", " ", html[sum(len(b.text) for b in parser.found):]))
    parser.flush()
    return parser.found


def is_content(before: Block, block: Block, after: Block) -> bool:
    """Whether a block is main text, from its own and its neighbours' densities (Kohlschütter's tree)."""
    # EXERCISE 6.8 boilerplate
    if block.link_density > 1 / 3:
        return False
    if before.link_density > 5 / 9:                          # just behind a menu
        return block.text_density > 9 and after.text_density > 0 or after.text_density > 11
    if block.text_density > 9:
        return after.text_density > 0 or block.words >= 20   # the last block must be long to be more than a footer
    return after.text_density > 10 or before.text_density > 10 and before.words >= 20
    # END EXERCISE 6.8


def main_text(html: str) -> str:
    """The text a reader came for: kept blocks, one empty line between them."""
    found = [b for b in blocks(html) if not b.outside]
    edge = Block("", 0, 0, False, False)
    kept = [block.text for before, block, after in zip([edge, *found], found, [*found[1:], edge])
            if is_content(before, block, after) or block.heading and after.words >= 20]
    return normalise("\n\n".join(kept))


def all_text(html: str) -> str:
    """Every visible word: what `main_text` is compared with."""
    return normalise("\n\n".join(block.text for block in blocks(html)))


def extract(body: bytes, content_type: str = "") -> tuple[str, str]:
    """(text, problem) of one answer: its main text, or '' and the reason why there is none."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind and not kind.startswith("text/") and "html" not in kind and "xml" not in kind:
        return "", f"not text: {kind}"
    if not body.strip():
        return "", "empty"
    sample = body[:4096]
    marked = body.startswith(tuple(mark for mark, _ in BOMS))
    if not marked and sum(b < 9 or 13 < b < 32 for b in sample) > len(sample) / 20:
        return "", "binary"
    text = repair_mojibake(decode(beginning(body, MAX_BYTES), content_type)[0])
    plain = kind == "text/plain" or not re.search(r"<[a-zA-Z!/]", text[:20000])
    text = normalise(text) if plain else main_text(text)
    return (text, "") if text else ("", "no main text")


def word_score(found: str, gold: str) -> tuple[float, float]:
    """(precision, recall) of the words of `found` against `gold`, each word counted as often as it occurs."""
    a, b = Counter(found.split()), Counter(gold.split())
    common = sum((a & b).values())
    return common / max(sum(a.values()), 1), common / max(sum(b.values()), 1)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("extract.py: name one HTML file: python 06_data/extract.py page.html")
    print(extract(Path(sys.argv[1]).read_bytes(), "")[0])
