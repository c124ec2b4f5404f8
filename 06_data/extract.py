"""Bytes to text: parse the markup, keep the main text and drop menus and notices.

Comes after crawl.py and before every filter: whatever is lost or left in here, the model sees. Three steps,
each a function: `decode` (bytes to str, in charset.py), `blocks` (HTML to runs of text with their link
density, in page_blocks.py), `main_text` (which runs are the page's own text, by Kohlschütter's two features:
words a line and the share of them inside links).

Source: Kohlschütter, Fankhauser, Nejdl, "Boilerplate detection using shallow text features" (WSDM 2010), the
decision tree of their figure 2 with its published thresholds.

    python 06_data/extract.py page.html        prints the main text of a file
"""
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import regex

from charset import BOMS, beginning, declared, decode, repair_mojibake
from page_blocks import MAX_BYTES, Block, blocks


def normalise(text: str) -> str:
    """One spelling of the same text: NFC, plain spaces and line ends, no control or zero-width characters."""
    # NFC sorts the marks on a letter by insertion: a page of nothing but accents would take it hours.
    text = regex.sub(r"(\p{M}{30})\p{M}+", r"\1", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\u200b-\u200f\u2028-\u202e\ufffd\ud800-\udfff]",
                  "", text)
    text = re.sub(r"[^\S\n]+", " ", text)                    # every kind of blank, no-break ones too
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


def is_content(before: Block, block: Block, after: Block) -> bool:
    """Whether a block is main text, from its own and its neighbours' densities (Kohlschütter's tree)."""
    # EXERCISE 6.8 boilerplate
    if block.link_density > 1 / 3:
        return False
    if before.link_density > 5 / 9:                          # just behind a menu
        return block.text_density > 9 and after.text_density > 0 or after.text_density > 11
    if block.text_density > 9:
        # the last block must be long to be more than a footer
        return after.text_density > 0 or block.words >= 20
    return after.text_density > 10 or before.text_density > 10 and before.words >= 20
    # END EXERCISE 6.8


def main_text(html: str, xml: bool = False) -> str:
    """The text a reader came for: kept blocks, one empty line between them."""
    found = [b for b in blocks(html, xml) if not b.outside]
    edge = Block("", 0, 0, False, False)
    around = list(zip([edge, *found], found, [*found[1:], edge]))
    chosen = [is_content(*three) or three[1].heading and three[2].words >= 20 for three in around]
    last = max((i for i, good in enumerate(chosen) if good), default=0)
    kept: list[Block] = []
    for i, (before, block, _) in enumerate(around):
        # A list goes on behind its text, and a page may end in any short lines that belong to its text.
        belongs = (block.item or block.ending and i > last) and block.link_density <= 1 / 3
        if chosen[i] or belongs and kept[-1:] == [before]:
            kept.append(block)
    # The tree drops a paragraph between a menu and the end. When it finds nothing else, that was the text.
    kept = kept or [b for b in found if b.link_density <= 1 / 3 and b.text_density > 9 and b.words >= 30]
    return normalise("\n\n".join(block.text for block in kept))


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
    wide = "utf-16" in "".join(declared(body, content_type)[:1])
    marked = wide or body.startswith(tuple(mark for mark, _ in BOMS))
    # The escape, 27, is how Japanese e-mail and its pages change their alphabet.
    if not marked and sum(b < 9 or 13 < b < 32 and b != 27 for b in sample) > len(sample) / 20:
        return "", "binary"
    text = repair_mojibake(decode(beginning(body, MAX_BYTES), content_type)[0])
    looked_at = text if "html" in kind else text[:20000]     # text that nobody calls HTML may speak of tags
    plain = kind == "text/plain" or not re.search(r"<[a-zA-Z!/]", looked_at)
    text = normalise(text) if plain else main_text(text, xml="xml" in kind)
    return (text, "") if text else ("", "no main text")


def word_score(found: str, gold: str) -> tuple[float, float]:
    """(precision, recall) of the words of `found` against `gold`, each word counted as often as it occurs."""
    a, b = Counter(found.split()), Counter(gold.split())
    common = sum((a & b).values())
    return common / max(sum(a.values()), 1), common / max(sum(b.values()), 1)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).exists() or Path(sys.argv[1]).is_dir():
        sys.exit("extract.py: name one HTML file: python 06_data/extract.py page.html")
    print(extract(Path(sys.argv[1]).read_bytes(), "")[0])
