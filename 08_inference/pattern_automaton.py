"""Regular expressions as automata over bytes, from scratch: does a match begin so, and what may come next?

Thompson 1968: each operator of a pattern becomes a small piece of a graph of states (an NFA); reading a byte
moves a *set* of states at once. Each set is given a number when it is first reached (a lazy DFA), so that
constrained.py can keep what it finds out about it. Characters outside ASCII are sequences of bytes (UTF-8),
because a token may end in the middle of one.

    make serve                             the field "response_format" of a request
"""
from pattern_parser import Parser

DEAD = -1
MAX_STATES = 20_000      # of the graph, so that a{9}{9}{9}... is refused
MAX_SETS = 100_000       # that may be met while walking


def utf8_sequences(low: int, high: int) -> list[list[tuple[int, int]]]:
    """Characters low to high as sequences of byte ranges: a to z is [[(97, 122)]].

    A range is cut where the number of bytes changes, around the surrogates, and where its last bytes do not
    run from 80 to BF, until in each part every byte ranges freely.
    """
    for border in (0x80, 0x800, 0xD800, 0xE000, 0x10000):
        if low < border <= high:
            return utf8_sequences(low, border - 1) + utf8_sequences(border, high)
    if 0xD800 <= low <= 0xDFFF:       # surrogates are no characters
        return []
    for shift in (6, 12, 18) if high >= 0x80 else ():        # each byte after the first holds six bits
        below = (1 << shift) - 1
        if low | below < high and low & below:
            return utf8_sequences(low, low | below) + utf8_sequences((low | below) + 1, high)
        if low | below < high and high & below != below:
            return utf8_sequences(low, (high & ~below) - 1) + utf8_sequences(high & ~below, high)
    return [list(zip(chr(low).encode(), chr(high).encode()))]


class Pattern:
    """A regular expression as an automaton: `step` reads a byte, DEAD means that no match begins so.

    Every state but DEAD can still be completed to a whole match. Raises ValueError for what is not a pattern
    here.
    """

    def __init__(self, pattern: str):
        self.pattern = pattern
        # of each state: (lowest byte, highest byte, next state)
        self._edges: list[list[tuple[int, int, int]]] = []
        self._free: list[list[int]] = []                     # next states that cost no byte
        begin, self._end = self._state(), self._state()
        self._build(Parser(pattern).parse(), begin, self._end)
        self._numbers: dict[frozenset[int], int] = {}
        self._sets: list[frozenset[int]] = []
        self._steps: list[dict[int, int]] = []
        self._numbered([begin])

    def step(self, state: int, byte: int) -> int:
        """The state after one more byte, DEAD if no match begins like this."""
        if byte not in self._steps[state]:
            targets = [t for s in self._sets[state] for low, high, t in self._edges[s] if low <= byte <= high]
            self._steps[state][byte] = self._numbered(targets) if targets else DEAD
        return self._steps[state][byte]

    def accepts(self, state: int) -> bool:
        """Is what was read a whole match?"""
        return state != DEAD and self._end in self._sets[state]

    def matches(self, data: bytes) -> bool:
        """Does the pattern describe exactly these bytes?"""
        state = 0
        for byte in data:
            if state != DEAD:
                state = self.step(state, byte)
        return self.accepts(state)

    def _state(self) -> int:
        if len(self._edges) >= MAX_STATES:
            raise ValueError(f"the pattern {self.pattern[:60]!r} needs over {MAX_STATES} states: repeat less")
        self._edges.append([])
        self._free.append([])
        return len(self._edges) - 1

    def _build(self, node: tuple, begin: int, end: int) -> None:
        """Add the piece of one node between two states; nothing leaves `end`, nothing returns to `begin`."""
        kind, *parts = node
        if kind == "characters":
            for low, high in parts[0]:
                for sequence in utf8_sequences(low, high):
                    here = begin
                    for first, last in sequence[:-1]:
                        there = self._state()
                        self._edges[here].append((first, last, there))
                        here = there
                    self._edges[here].append((*sequence[-1], end))
        elif kind == "either":
            for part in parts[0]:
                self._build(part, begin, end)
        elif kind == "sequence":
            self._chain(parts[0], begin, end)
        else:
            part, least, most = parts
            here = self._chain([part] * least, begin)
            # any number more: a loop through a state of its own
            if most is None:
                loop, back = self._state(), self._state()
                self._build(part, loop, back)
                self._free[here].append(loop)
                self._free[back].append(loop)
                here = loop
            else:
                for _ in range(most - least):                 # after each of these the repetition may end
                    self._free[here].append(end)
                    here = self._chain([part], here)
            self._free[here].append(end)

    def _chain(self, parts: list[tuple], begin: int, end: int | None = None) -> int:
        """The pieces one after the other, each with an end of its own; the last, which is joined to `end`."""
        here = begin
        for part in parts:
            there = self._state()
            self._build(part, here, there)
            here = there
        if end is not None:
            self._free[here].append(end)
        return here

    def _numbered(self, states: list[int]) -> int:
        """The number of a set: these states and all that can be reached from them without a byte."""
        found, left = set(states), list(states)
        while left:
            for t in self._free[left.pop()]:
                if t not in found:
                    found.add(t)
                    left.append(t)
        key = frozenset(s for s in found if self._edges[s] or s == self._end)
        if key not in self._numbers:
            if len(self._sets) >= MAX_SETS:
                raise ValueError(f"the pattern {self.pattern[:60]!r} leads to over {MAX_SETS} states: "
                                 "simplify it")
            self._numbers[key] = len(self._sets)
            self._sets.append(key)
            self._steps.append({})
        return self._numbers[key]
