"""A regular expression's text to a tree, and sets of characters as ranges; pattern_automaton.py walks it.

Known: literals, . [a-z] [^a-z] \\d \\w \\s (ASCII) \\D \\W \\S \\n \\t \\xHH \\uHHHH, groups ( ) and (?: ), |
* + ? {m,n}. Not known: look-around, back-references, \\b, lazy quantifiers. A pattern always describes the
whole text, so that a ^ at its beginning and a $ at its end say nothing new.

    make serve                             the field "response_format" of a request
"""
import string

LAST = 0x10FFFF                       # the last character of Unicode
SURROGATES = (0xD800, 0xDFFF)         # numbers that are no characters
Ranges = list[tuple[int, int]]        # characters as inclusive ranges of code points

NAMED = {"d": [(48, 57)], "w": [(48, 57), (65, 90), (95, 95), (97, 122)], "s": [(9, 13), (32, 32)]}
CONTROL = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "0": 0}
QUANTIFIERS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def merged(ranges: Ranges) -> Ranges:
    """Sorted, with those that touch joined: [(5, 9), (1, 4)] is [(1, 9)]."""
    out: Ranges = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return out


def complement(ranges: Ranges) -> Ranges:
    """All other characters, surrogates left out."""
    out, begin = [], 0
    for low, high in merged([*ranges, SURROGATES]):
        if begin < low:
            out.append((begin, low - 1))
        begin = high + 1
    return out + [(begin, LAST)] if begin <= LAST else out


class Parser:
    """A recursive descent over the text; `parse` gives a tree of four kinds of node.

    ("characters", ranges), ("sequence", nodes), ("either", nodes), ("repeat", node, least, most or None).
    """

    def __init__(self, pattern: str):
        self.text, self.at = pattern, 0

    def parse(self) -> tuple:
        """The tree of the whole pattern. Raises ValueError, one sentence, for what is not a pattern here."""
        try:
            tree = self._either()
        except RecursionError:
            raise self._error("is nested too deeply") from None
        if self.at < len(self.text):
            raise self._error("has a ) without a (")
        return tree

    def _error(self, what: str) -> ValueError:
        return ValueError(f"the pattern {self.text[:60]!r} {what} at character {self.at}")

    def _peek(self) -> str:
        return self.text[self.at:self.at + 1]

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise self._error("ends too early")
        self.at += 1
        return self.text[self.at - 1]

    def _either(self) -> tuple:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._next()
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else ("either", branches)

    def _sequence(self) -> tuple:
        parts = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())
        return parts[0] if len(parts) == 1 else ("sequence", parts)

    def _repeated(self) -> tuple:
        node, c = self._atom(), self._peek()
        if c and c in "*+?{":
            self._next()
            node = ("repeat", node, *(QUANTIFIERS[c] if c != "{" else self._counts()))
            if self._peek() and self._peek() in "*+?{":
                raise self._error("repeats a repetition (or is lazy, which means nothing here)")
        return node

    def _counts(self) -> tuple[int, int | None]:
        body = ""
        while (c := self._next()) != "}":
            body += c
        least, comma, most = body.partition(",")
        if not (least.isdecimal() and (not most or most.isdecimal())) or len(body) > 13:
            raise self._error("wants {m}, {m,} or {m,n}")
        first, last = int(least), int(most) if most else None if comma else int(least)
        if last is not None and last < first:
            raise self._error("repeats at most fewer times than at least")
        return first, last

    def _atom(self) -> tuple:
        c = self._next()
        if c == "(":
            if self._peek() == "?" and self._next() + self._next() != "?:":
                raise self._error("has a group that is not known here")
            node = self._either()
            if self._peek() != ")":
                raise self._error("has a ( without a )")
            self._next()
            return node
        if (c == "^" and self.at == 1) or (c == "$" and self.at == len(self.text)):
            return ("sequence", [])
        if c in "*+?{}^$":
            raise self._error(f"has a {c} that stands for nothing (write \\{c} for the character)")
        if c == "[":
            return self._characters(self._class())
        return self._characters(complement([(10, 10)]) if c == "." else self._one(c))

    def _characters(self, ranges: Ranges) -> tuple:
        if not any(low < SURROGATES[0] or high > SURROGATES[1] for low, high in ranges):
            raise self._error("allows no character")
        return "characters", merged(ranges)

    def _one(self, c: str) -> Ranges:
        """What a character, or a backslash and what follows it, stands for."""
        if c != "\\":
            return [(ord(c), ord(c))]
        c = self._next()
        if c in NAMED:
            return NAMED[c]
        if c.lower() in NAMED:
            return complement(NAMED[c.lower()])
        if c in "xu":
            digits = "".join(self._next() for _ in range(2 if c == "x" else 4))
            if not set(digits) <= set(string.hexdigits):
                raise self._error(f"has a \\{c} without its hexadecimal digits")
            return [(int(digits, 16), int(digits, 16))]
        if c in CONTROL:
            return [(CONTROL[c], CONTROL[c])]
        if c.isalnum():
            raise self._error(f"has a \\{c}, which is not known here")
        return [(ord(c), ord(c))]

    def _class(self) -> Ranges:
        """What stands between [ and ]; a ] that comes first is a character."""
        negated = self._peek() == "^"
        if negated:
            self._next()
        found: Ranges = []
        while (c := self._next()) != "]" or not found:
            found += self._one(c)
            if self._peek() == "-" and self.text[self.at + 1:self.at + 2] not in ("", "]"):
                self._next()
                (low, single), high = found.pop(), self._one(self._next())
                if low != single or len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low:
                    raise self._error("has a range that does not run from a character to a later one")
                found.append((low, high[0][0]))
        return complement(found) if negated else found
