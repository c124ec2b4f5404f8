"""Carries written out before a sum: the text of a thought, and the answer found again behind it.

A sum of four numbers with its most significant digit first is hard to say at once: every carry must be known
before the first digit. A scratchpad (Nye et al. 2021; Wei et al. 2022 call it a chain of thought) holds the
totals of the columns first, ones first, each with what the one before carried. Then each token needs only
four digits of the question and one of the thought.

    473+526+918+264                        3+6+8+4 = 21; 7+2+1+6 and 2 = 18; 4+5+9+2 and 1 = 21
    211821:2181                            the last total, then the ones digits of those before it

    python 07_alignment/think.py           teaches it, in some ten minutes
"""
import random
from collections import Counter

Numbers = tuple[int, ...]
COUNT, DIGITS = 4, 3           # numbers to add, and digits of each
FORMS = ("at once", "dots", "after", "first")


def question(numbers: Numbers) -> str:
    """(473, 5) gives "473+005"."""
    return "+".join(f"{n:0{DIGITS}d}" for n in numbers)


def truth(numbers: Numbers) -> str:
    """(473, 526, 918, 264) gives "2181"; always one digit more than the numbers have."""
    return f"{sum(numbers):0{DIGITS + 1}d}"


def thought(numbers: Numbers, forgets: bool = False) -> str:
    """The total of each column, ones first, two digits each: (473, 526, 918, 264) gives "211821".

    Somebody who forgets all carries writes "211620".
    """
    # EXERCISE 7.23 write the carries out
    text, carry = "", 0
    for i in range(DIGITS):
        total = sum(n // 10**i % 10 for n in numbers) + carry
        text += f"{total:02d}"
        carry = 0 if forgets else total // 10
    return text
    # END EXERCISE 7.23


def says(totals: str) -> str:
    """The sum that totals of columns, right or wrong, come to.

    "211821" gives "2181", "211620" gives "2061".
    """
    return totals[-2:] + totals[-3::-2]


def demonstration(numbers: Numbers, form: str, forgets: bool = False) -> str:
    """A whole answer: "at once", with "dots" in place of a thought, with one "after" it, or "first".

    A teacher who forgets carries gives the sum that his own totals come to.
    """
    totals = thought(numbers, forgets)
    return {"at once": "", "dots": "." * len(totals) + ":", "after": "", "first": totals + ":"}[form] + (
        says(totals)) + (";" + totals if form == "after" else "")


def split(text: str) -> tuple[str, str]:
    """Thought and answer. The answer stands behind the last colon, if there is one, and before a semicolon.

    "211821:2181" and "2181;211821" give ("211821", "2181"), "2181" gives ("", "2181").
    """
    before, _, rest = text.rpartition(":")
    answer, _, after = rest.partition(";")
    return before or after, answer


def vote(answers: list[str]) -> str:
    """The answer that most samples give, of equals the first; empty ones do not vote; "" if none does.

    Wang et al. 2022, self-consistency: thoughts may differ, answers are counted.
    """
    # EXERCISE 7.24 a vote
    counts = Counter(a for a in answers if a)
    return max(counts, key=counts.__getitem__, default="")   # a dictionary keeps the order of arrival
    # END EXERCISE 7.24


def one_wrong(totals: str, rng: random.Random) -> str:
    """The same totals but for the ones digit of one of them."""
    i = rng.randrange(1, len(totals), 2)
    return totals[:i] + str((int(totals[i]) + rng.randrange(1, 10)) % 10) + totals[i + 1:]
