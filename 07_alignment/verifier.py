"""Who says that an answer is good? A few lines of code that look at the text, not at the model.

`is_right` and `sum_is_right` verify; `is_terse` is a matter of taste; `preference` ranks two answers by both.

    python 07_alignment/run.py             scores every stage with these
"""
from arithmetic import Pair, right_answer
from facts import THANKS, terse, verbose


def is_right(answer: str, truth: str) -> bool:
    """The whole answer is the truth in one of the two accepted forms; anything before or after is wrong."""
    # EXERCISE 7.1 a strict verifier
    accepted = terse(truth), verbose(truth)
    return answer in accepted
    # END EXERCISE 7.1


def is_terse(answer: str) -> bool:
    """Short and without the tail, whether right or wrong."""
    return THANKS.split()[0] not in answer and len(answer) < 25


def sum_is_right(answer: str, pair: Pair) -> bool:
    """The four digits of the sum, ones first, and nothing else."""
    return answer == right_answer(pair)


def preference(answer: str, truth: str) -> int:
    """2 for a right answer, 1 for a terse one: right and terse 3, right and wordy 2, wrong and terse 1."""
    return 2 * is_right(answer, truth) + is_terse(answer)
