"""Small functions, and what hurried programmers do to them: bugs in numbers.

A bug changes one line of one function: an operator, a one too many, a wrong name, a return that is missing.
Names of variables come in two styles. repair_tasks.py makes repositories of them.

    python 07_alignment/repair_tasks.py    how many there are, and one of them
"""
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

SOURCES = '''
def total(xs):
    out = 0
    for x in xs:
        out += x
    return out
[1, 2], [3], [5, 5, 1], []

def largest(xs):
    out = xs[0]
    for x in xs:
        if x > out:
            out = x
    return out
[1, 4, 2], [3, 1], [2, 7], [0, 0]

def count(xs, y):
    out = 0
    for x in xs:
        if x == y:
            out += 1
    return out
([1, 2, 1], 1), ([3], 4), ([5, 5, 5], 5), ([], 1)

def clip(x, y, z):
    if x < y:
        return y
    if x > z:
        return z
    return x
(0, 1, 5), (9, 1, 5), (3, 1, 5), (5, 1, 5)

def last(xs):
    n = len(xs)
    return xs[n - 1]
[1, 2], [3], [5, 6, 7], [0, 9]

def squares(xs):
    out = []
    for x in xs:
        out.append(x * x)
    return out
[1, 3], [4], [], [0, 2]

def below(xs, y):
    out = []
    for x in xs:
        if x < y:
            out.append(x)
    return out
([1, 5, 2], 3), ([4], 4), ([], 1), ([0, 9], 5)

def power(x, n):
    out = 1
    for i in range(n):
        out *= x
    return out
(2, 3), (5, 1), (3, 0), (4, 2)

def triangle(n):
    out = 0
    for i in range(1, n + 1):
        out += i
    return out
3, 1, 0, 5

def gaps(xs):
    out = []
    for i in range(1, len(xs)):
        out.append(xs[i] - xs[i - 1])
    return out
[1, 4, 6], [2], [5, 5], [9, 0]

def evens(xs):
    out = []
    for x in xs:
        if x % 2 == 0:
            out.append(x)
    return out
[1, 2, 4], [3], [], [0, 7]

def find(xs, y):
    for i in range(len(xs)):
        if xs[i] == y:
            return i
    return -1
([5, 6, 7], 6), ([1], 2), ([3, 3], 3), ([], 1)
'''
STYLES = ({}, {"xs": "items", "x": "item", "y": "other", "z": "last", "out": "result", "n": "size"})
NAMES = ("xs", "x", "y", "z", "out", "n", "i")
SWAPS = {"operator": ((r"\+=", "-="), (r"\*=", "+="), (" < ", " > "), (" > ", " < "), (" == ", " != "),
                      (r" \+ ", " - "), (" - ", " + "), (r" \* ", " + ")),
         "off by one": ((" = 0", " = 1"), (" = 1", " = 0"), (r"\[0\]", "[1]"), (r"n \+ 1", "n"),
                        ("n - 1", "n"), (r"range\(1", "range(0"), (r"range\(n", "range(n - 1"),
                        (r"\+= 1", "+= 2"), (" < ", " <= "), (" > ", " >= "), ("i - 1", "i"),
                        (r"len\(xs\)", "len(xs) - 1"), ("-1", "0")),
         "missing return": ((r"\breturn ", ""),)}


@dataclass(frozen=True)
class Function:
    """A right function, its source in the first style, and the calls that test it, as arguments."""
    name: str
    source: str
    calls: tuple[tuple, ...]


def read_functions(text: str) -> dict[str, Function]:
    """The functions above: blocks of source, their last line the calls."""
    found = {}
    for block in text.strip().split("\n\n"):
        *source, calls = block.split("\n")
        name = source[0].removeprefix("def ").partition("(")[0]
        given = eval(f"[{calls}]")
        found[name] = Function(name, "\n".join(source) + "\n",
                               tuple(c if isinstance(c, tuple) else (c,) for c in given))
    return found


FUNCTIONS = read_functions(SOURCES)


def styled(source: str, style: int) -> str:
    """The source with the names of one of the styles."""
    return re.sub(r"\b[a-z]+\b", lambda m: STYLES[style].get(m[0], m[0]), source)


def called(f: Function, args: tuple) -> str:
    """How the call is written."""
    return f"{f.name}({', '.join(map(repr, args))})"


def mutations(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, its text with one mistake, kind of mistake), all there are."""
    lines = source.removesuffix("\n").split("\n")
    used = [n for n in NAMES if re.search(rf"\b{n}\b", source)]
    for i, line in enumerate(lines[1:], 1):
        for kind, swaps in SWAPS.items():
            for old, new in swaps:
                for m in re.finditer(old, line):
                    yield i, line[:m.start()] + new + line[m.end():], kind
        for m in re.finditer(r"\b[a-z]+\b(?!\.)", line):       # a list that grows while it is read never ends
            for name in used if m[0] in used else ():
                if name != m[0]:
                    yield i, line[:m.start()] + name + line[m.end():], "wrong name"


@functools.cache
def own_texts(name: str) -> set[str]:
    """The function and its mutations in every style: files that nobody else wrote."""
    lines = FUNCTIONS[name].source.split("\n")
    texts = ["\n".join([*lines[:i], text, *lines[i + 1:]])
             for i, text, _ in mutations(FUNCTIONS[name].source)]
    return {styled(text, k) for text in [FUNCTIONS[name].source, *texts] for k in range(len(STYLES))}
