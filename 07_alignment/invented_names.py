"""The name that a question asks about, and names that nobody has.

A model that is to copy a name must not be able to remember it: so the lessons of constitution.py, tool_use.py
and chapter 8 ask about names made of the halves of two real ones.

    python 07_alignment/tool_study.py      asks about such names
"""
import random

from facts import Question


def name_in(q: Question) -> str:
    """The name that a question asks about: "Which module has loads?" gives "loads"."""
    return q.text.split()[-1].rstrip("?")


def invented_word(words: list[str], rng: random.Random) -> str:
    """The first half of one word and the second of another: "loads" and "Popen" give "loapen"."""
    first, second = rng.choice(words), rng.choice(words)
    return first[:(len(first) + 1) // 2] + second[len(second) // 2:]
