"""The rules that large corpora are filtered by, each with its name, source and published threshold.

Comes after language.py. A rule measures one number and keeps a document while the number is inside its
limits; `explain` says which rules a document breaks and by how much, so that every removal can be read and
doubted. Private data is masked rather than removed. Program text has rules of its own.

Sources: Gopher: Rae et al. 2021, table A1 and section A.1.1. C4: Raffel et al. 2020, section 2.2. FineWeb:
Penedo et al. 2024, section 3.6. Code: Chen et al. 2021 (Codex), 3.1; Kocetkov et al. 2022 (The Stack).

    python 06_data/filters.py file.txt         which rules would remove this text, and why
"""
import ipaddress
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
INF = float("inf")


class Document:
    """A text with the things that many rules count, each computed once."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """Split at white space."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Stripped, without empty ones."""
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Stripped, without empty ones."""
        return [p.strip() for p in self.text.split("\n\n") if p.strip()]

    @cached_property
    def sentences(self) -> int:
        """How many sentence ends there are."""
        return len(re.findall(r"\w[.!?][\"')\]]*(?=\s|$)", self.text))


def share(items: list, test: Callable) -> float:
    """Fraction of the items for which the test holds; 0 of nothing."""
    return sum(map(bool, map(test, items))) / max(len(items), 1)


def duplicate_share(items: list[str], by_characters: bool) -> float:
    """Share of items (or of their characters) that repeat an earlier item."""
    seen: set[str] = set()
    repeated = total = 0
    for item in items:
        weight = len(item) if by_characters else 1
        repeated, total = repeated + (weight if item in seen else 0), total + weight
        seen.add(item)
    return repeated / max(total, 1)


def top_ngram_share(words: list[str], n: int) -> float:
    """Share of the characters that belong to the most frequent n-gram, 0 if none occurs twice."""
    counts = Counter(zip(*(words[i:] for i in range(n))))
    if not counts:
        return 0.0
    ngram, times = max(counts.items(), key=lambda item: (item[1], sum(map(len, item[0]))))
    return times * sum(map(len, ngram)) / max(sum(map(len, words)), 1) if times > 1 else 0.0


def repeated_ngram_share(words: list[str], n: int) -> float:
    """Share of the characters that lie in some n-gram which occurred before; no character counts twice."""
    # EXERCISE 6.7 repeated n-grams
    seen, covered = set(), set()
    for i in range(len(words) - n + 1):
        ngram = tuple(words[i:i + n])
        if ngram in seen:
            covered.update(range(i, i + n))                  # positions, so that overlaps count once
        seen.add(ngram)
    return sum(len(words[i]) for i in covered) / max(sum(map(len, words)), 1)
    # END EXERCISE 6.7


@dataclass(frozen=True)
class Rule:
    """Keep a document while low <= measure(document) <= high."""
    name: str
    source: str
    measure: Callable[[Document], float]
    low: float = -INF
    high: float = INF

    def broken_by(self, doc: Document) -> float | None:
        """The measured value if it is outside the limits, else None."""
        value = self.measure(doc)
        return None if self.low <= value <= self.high else value


GOPHER = (
    Rule("words", "Gopher", lambda d: len(d.words), 50, 100_000),
    Rule("mean word length", "Gopher", lambda d: sum(map(len, d.words)) / max(len(d.words), 1), 3, 10),
    Rule("symbols per word", "Gopher",
         lambda d: len(re.findall(r"#|\.\.\.|…", d.text)) / max(len(d.words), 1), high=.1),
    Rule("bullet lines", "Gopher", lambda d: share(d.lines, lambda s: s[0] in "-*•‣·"), high=.9),
    Rule("lines ending in an ellipsis", "Gopher",
         lambda d: share(d.lines, lambda s: s.endswith(("...", "…"))), high=.3),
    Rule("words with a letter", "Gopher", lambda d: share(d.words, lambda w: any(map(str.isalpha, w))), .8),
    Rule("stop words", "Gopher", lambda d: len(STOP_WORDS & {w.lower() for w in d.words}), 2),
)
REPETITION = (
    Rule("duplicate lines", "Gopher", lambda d: duplicate_share(d.lines, False), high=.3),
    Rule("duplicate paragraphs", "Gopher", lambda d: duplicate_share(d.paragraphs, False), high=.3),
    Rule("characters in duplicate lines", "Gopher", lambda d: duplicate_share(d.lines, True), high=.2),
    Rule("characters in duplicate paragraphs", "Gopher",
         lambda d: duplicate_share(d.paragraphs, True), high=.2),
    *(Rule(f"top {n}-gram", "Gopher", lambda d, n=n: top_ngram_share(d.words, n), high=h)
      for n, h in ((2, .20), (3, .18), (4, .16))),
    *(Rule(f"repeated {n}-grams", "Gopher", lambda d, n=n: repeated_ngram_share(d.words, n), high=h)
      for n, h in ((5, .15), (6, .14), (7, .13), (8, .12), (9, .11), (10, .10))),
)
C4 = (
    Rule("sentences", "C4", lambda d: d.sentences, 3),
    Rule("lorem ipsum", "C4", lambda d: d.text.lower().count("lorem ipsum"), high=0),
    Rule("curly brackets", "C4", lambda d: d.text.count("{"), high=0),
)
FINEWEB = (
    Rule("lines ending in punctuation", "FineWeb",
         lambda d: share(d.lines, lambda s: s[-1] in ".!?\"'"), .12),
    Rule("characters in repeated lines", "FineWeb", lambda d: duplicate_share(d.lines, True), high=.1),
    Rule("lines under 30 characters", "FineWeb", lambda d: share(d.lines, lambda s: len(s) < 30), high=.67),
)
ALL_RULES = GOPHER + REPETITION + C4 + FINEWEB
# Reference manuals quote code and repeat signatures. These rules, written for prose, would remove most of
# one: run.py measures each rule on its own, and the lesson shows the table.
MISFIRES = {"curly brackets", "duplicate paragraphs", "duplicate lines", "characters in duplicate paragraphs",
            "characters in duplicate lines", "characters in repeated lines", "words with a letter",
            *(f"repeated {n}-grams" for n in range(5, 11))}
MANUAL_RULES = tuple(rule for rule in ALL_RULES if rule.name not in MISFIRES)


def explain(text: str, rules: tuple[Rule, ...] = ALL_RULES) -> list[str]:
    """Why a document would be removed, one sentence a rule; an empty list means that it is kept."""
    doc, reasons = Document(text), []
    for rule in rules:
        value = rule.broken_by(doc)
        if value is not None:
            wanted = f"at least {rule.low:g}" if value < rule.low else f"at most {rule.high:g}"
            reasons.append(f"{rule.source}: {rule.name} is {value:.3g}, wanted {wanted}")
    return reasons


def first_broken(text: str, rules: tuple[Rule, ...] = MANUAL_RULES) -> str:
    """The name of the first rule a document breaks, or '' if it is kept: what a pipeline counts."""
    doc = Document(text)
    return next((f"{r.source}: {r.name}" for r in rules if r.broken_by(doc) is not None), "")


NOTICES = re.compile(r"(?i)terms of use|privacy policy|cookie policy|us(?:e|es|ing) (?:of )?cookies"
                     "|javascript")


def c4_lines(text: str, prose_only: bool = True) -> str:
    """C4's line rules: drop policy notices and, if `prose_only`, all but sentences of five words or more."""
    def good(line: str) -> bool:
        sentence = len(line.split()) >= 5 and line[-1] in ".!?\"'" and not line.endswith("...")
        return not line or (sentence or not prose_only) and not NOTICES.search(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(filter(good, text.split("\n")))).strip()


EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
PHONE = re.compile(r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)|\d{3})[ .-]\d{3,4}[ .-]\d{3,4}(?![\w-])")
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}:[0-9A-Fa-f:]{1,39}(?![\w:])")


def mask_private(text: str) -> tuple[str, Counter]:
    """Replace e-mail addresses, phone numbers and public IP addresses; gives the text and what was replaced.

    Addresses that name nobody (127.0.0.1, 192.168.0.1, ::1) stay: they are part of how networks are
    explained.
    """
    counts: Counter = Counter()

    def replace(kind: str, test: Callable[[str], bool] = lambda s: True) -> Callable[[re.Match], str]:
        def one(match: re.Match) -> str:
            if not test(match.group()):
                return match.group()
            counts[kind] += 1
            return f"<{kind}>"
        return one
    text = EMAIL.sub(replace("email"), text)
    text = IPV4.sub(replace("ip", _is_public), text)
    text = IPV6.sub(replace("ip", _is_public), text)
    return PHONE.sub(replace("phone"), text), counts


def _is_public(text: str) -> bool:
    try:
        # a::b is how some languages write a.b
        return ipaddress.ip_address(text).is_global and len(text) > 6
    except ValueError:
        return False


def clean_code(source: str) -> tuple[str, str]:
    """(program without its licence header, '') or ('', why it is not worth learning from)."""
    lines = source.splitlines() or [""]
    if re.search(r"(?i)\b(do not edit|auto-?generated|generated by|@generated)\b", "\n".join(lines[:10])):
        return "", "generated"
    if max(map(len, lines)) > 1000 or len(source) / len(lines) > 100:
        return "", "minified"
    if sum(map(str.isalnum, source)) / max(len(source), 1) < 0.25:
        return "", "few letters"
    header = re.match(r"\s*(?:(?:#|//)[^\n]*\n)+|\s*/\*.*?\*/\s*", source, re.S)
    if header and re.search(r"(?i)copyright|licen[cs]e", header.group()):
        source = source[header.end():]
    return source.strip() + "\n", ""


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).exists() or Path(sys.argv[1]).is_dir():
        sys.exit("filters.py: name one text file: python 06_data/filters.py file.txt")
    print("\n".join(explain(Path(sys.argv[1]).read_text("utf-8", "replace"))) or "kept: no rule is broken")
