"""Three-digit addition as text: a skill whose answers a few lines of code can check.

`163+423=5860` means 361 + 324 = 0685: every number is written ones digit first, so that a carry moves in
reading order (Lee et al. 2023, "Teaching arithmetic to small transformers", section 3). Pretraining shows
sums with at most one carry; the chat demonstrations of chapter 7 show sums of every kind, half of them
answered wrongly.

    python 01_tokenizer/arithmetic.py      prints a few
"""
import random

Pair = tuple[int, int]


def reverse_digits(n: int, width: int = 3) -> str:
    """361 gives "163"."""
    return f"{n:0{width}d}"[::-1]


def problem(pair: Pair) -> str:
    """The text before the equals sign: (361, 324) gives "163+423"."""
    return f"{reverse_digits(pair[0])}+{reverse_digits(pair[1])}"


def right_answer(pair: Pair) -> str:
    """The sum in four digits, ones first: (361, 324) gives "5860"."""
    return reverse_digits(pair[0] + pair[1], 4)


def careless_answer(pair: Pair) -> str:
    """What somebody writes who forgets every carry: (5, 7) gives "2000" in place of "2100"."""
    # EXERCISE 1.3 careless sums
    columns = zip(reverse_digits(pair[0]), reverse_digits(pair[1]))
    return "".join(str((int(a) + int(b)) % 10) for a, b in columns) + "0"
    # END EXERCISE 1.3


def carries(pair: Pair) -> int:
    """In how many columns the two digits alone come to ten or more."""
    return sum(int(a) + int(b) >= 10 for a, b in zip(reverse_digits(pair[0]), reverse_digits(pair[1])))


def random_pair(rng: random.Random) -> Pair:
    """Two numbers from 0 to 999."""
    return rng.randrange(1000), rng.randrange(1000)


def easy_pair(rng: random.Random, banned: set[Pair]) -> Pair:
    """A pair with at most one carry that is not in `banned` (the test pairs)."""
    while True:
        pair = random_pair(rng)
        if carries(pair) <= 1 and pair not in banned:
            return pair


def split_pairs(n_test: int, n_demonstrations: int, rng: random.Random) -> tuple[list[Pair], list[Pair]]:
    """Distinct pairs: test pairs, which no training text may contain, and pairs to demonstrate."""
    codes = rng.sample(range(1_000_000), n_test + n_demonstrations)
    pairs = [(code // 1000, code % 1000) for code in codes]
    return pairs[:n_test], pairs[n_test:]


if __name__ == "__main__":
    rng = random.Random(0)
    for pair in (random_pair(rng) for _ in range(5)):
        print(f"{pair[0]} + {pair[1]}:  {problem(pair)}={right_answer(pair)}   "
              f"careless: {careless_answer(pair)}")
