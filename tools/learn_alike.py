"""`python learn.py alike FOLDER`: which hand-ins of one exercise are suspiciously alike, names aside.

Adds to learn_handin.py: chapter 6's near-duplicate search on code. A body becomes its tokens, names that it
chose itself numbered in the order in which they appear and comments gone; runs of five tokens are hashed,
and pairs are compared by MinHash (06_data/deduplicate.py). What everybody writes alike says nothing, so runs
that also occur in the reference are left out, and what is left must be a few dozen tokens. Likeness is a
reason to ask, never a verdict.
"""

import builtins
import hashlib
import io
import keyword
import re
import sys
import tokenize
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import learn_handin
from learn_bodies import course, is_stub

RUN, LEAST, FUNCTIONS = 5, 12, 256   # tokens of a shingle; shingles that a body must have; hash functions
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT}
KNOWN = set(keyword.kwlist) | set(dir(builtins))


def tokens(body: str, comment: str = "#") -> list[str]:
    """The tokens of a body without comments and layout; its own names are v0, v1, ... as they appear."""
    if comment == "//":
        code = re.sub(r"//[^\n]*|/\*.*?\*/", "", body, flags=re.S)
        words = re.findall(r"[A-Za-z_]\w*|\d[\w.]*|[^\w\s]", code)
    else:
        try:
            read = tokenize.generate_tokens(io.StringIO("if True:\n" + body).readline)
            words = [t.string.strip() or "\n" for t in read if t.type not in SKIPPED]
        except (tokenize.TokenError, IndentationError, SyntaxError):
            words = re.findall(r"\w+|[^\w\s]", body)
    ends = ("=", ",", "in", ":", ")")
    assigned = {a for a, b in zip(words, words[1:]) if a.isidentifier() and b in ends} - KNOWN
    numbers, out = {}, []
    for before, word in zip(["", *words], words):
        own = word in assigned and before != "."
        out.append(f"v{numbers.setdefault(word, len(numbers))}" if own else word)
    return out


def shingles(words: list[str]) -> set[int]:
    """The hashes of all runs of RUN tokens, 64 bits each."""
    runs = (" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1))
    return {int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "little") for run in runs}


@dataclass(frozen=True)
class Likeness:
    """Two hand-ins that share more of one exercise than two people usually would."""

    exercise: str
    first: str
    second: str
    share: float


def alike(bodies: dict[str, str], reference: str, comment: str, least: float) -> list[tuple[str, str, float]]:
    """Pairs (name, name, estimated Jaccard similarity of their own runs of tokens), the most alike first."""
    import numpy as np

    from deduplicate import hash_functions, signatures

    usual = shingles(tokens(reference, comment))
    own = {name: shingles(tokens(body, comment)) - usual for name, body in bodies.items()}
    names = [name for name, runs in own.items() if len(runs) >= LEAST]
    table = signatures([np.array(sorted(own[n]), dtype=np.uint64) for n in names], *hash_functions(FUNCTIONS))
    pairs = [(names[i], names[j], float((table[i] == table[j]).mean()))
             for i, j in combinations(range(len(names)), 2)]
    return sorted((p for p in pairs if p[2] >= least), key=lambda p: -p[2])


def report(root: Path, folder: Path, least: float = 0.6) -> list[Likeness]:
    """All pairs of hand-ins in a folder that are alike in some exercise. ValueError: fewer than two."""
    exercises, found = course(root), []
    several = learn_handin.hand_ins(folder)
    if len(several) < 2:
        raise ValueError(f"{folder} has {len(several)} hand-ins (folders or zips): there is "
                         "nothing to compare")
    for sentence in learn_handin.second_tries(several):
        print(f" {sentence}")
    paths, handed = {e.path for e in exercises.values()}, {}
    for name, submission in several.items():
        try:
            handed[name] = learn_handin.read(submission, paths)
        except learn_handin.UNREADABLE as problem:
            print(f" {name} is not compared: {problem}")
    for e in exercises.values():
        bodies = {}
        for name, texts in handed.items():
            try:
                bodies[name] = learn_handin.body_of(texts[e.path], e)
            except (KeyError, ValueError):
                continue
        bodies = {name: body for name, body in bodies.items() if not is_stub(body)}
        found += [Likeness(e.id, *pair) for pair in alike(bodies, e.body, e.comment, least)]
    return found


def main(root: str, folder: str, least: str) -> None:
    """Print the report (in the interpreter that has numpy)."""
    sys.path.insert(0, str(Path(root) / "06_data"))
    found = report(Path(root), Path(folder), float(least))
    for one in found:
        print(f" {one.exercise:<5} {one.share:4.0%}  {one.first}  {one.second}")
    several = {pair for one in found if (pair := (one.first, one.second))}
    counted = {pair: sum((o.first, o.second) == pair for o in found) for pair in several}
    for (a, b), n in sorted(counted.items(), key=lambda item: -item[1]):
        print(f" {a} and {b}: alike in {n} exercise{'s' * (n > 1)}")
    print(f" {len(found)} pairs of answers share {float(least):.0%} or more of what is not in the reference")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"learn.py: {problem}")
