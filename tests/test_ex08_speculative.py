"""Exercise of chapter 8: speculative acceptance. A learner sees the docstrings."""
import random

import pytest
import torch

from ex_compare import show
from speculative import accept, certain


class Dice:
    """Gives the numbers of a list, one after the other."""

    def __init__(self, *numbers: float):
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0) if self.numbers else 0.5


def rows(*lists: list[float]) -> torch.Tensor:
    return torch.tensor(lists, dtype=torch.float64)


def called(p, q, proposed, dice) -> list[int]:
    try:
        got = accept(p, q, proposed, dice)
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        pytest.fail(f"proposed {proposed}: raised '{error}'")
    kinds = type(got), {type(i) for i in got}
    assert kinds == (list, {int}), f"proposed {proposed}: got {got}, wanted a list of whole numbers (int)"
    return got


class Chance:
    """Uniform numbers from a seed."""

    def __init__(self, seed: int):
        self._source = random.Random(seed)

    def random(self) -> float:
        """From 0 to 1."""
        return self._source.random()


@pytest.mark.ex("8.14")
def test_a_token_stands_with_probability_p_over_q():
    """a proposed token stands with probability min(1, p / q); after a refusal nothing later counts"""
    p, q = rows([0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [1.0, 0.0, 0.0]), rows([0.2, 0.8, 0.0], [0.5, 0.5, 0.0])
    for proposed, dice, wanted in (([0, 1], (0.99, 0.49, 0.3), 3), ([1, 1], (0.62, 0.49, 0.3), 3),
                                   ([1, 1], (0.63, 0.3), 1), ([0, 0], (0.99, 0.51, 0.3), 2)):
        got = called(p, q, proposed, Dice(*dice))
        assert len(got) == wanted and got[:wanted - 1] == proposed[:wanted - 1], (
            f"p {show(p)}, q {show(q)}, proposed {proposed}, uniform numbers {dice}: got {got}, wanted "
            f"{wanted - 1} of the proposed tokens and one more")


@pytest.mark.ex("8.14")
def test_the_place_of_a_refused_token_goes_to_what_the_draft_neglected():
    """after a refusal the token comes from max(p - q, 0), scaled to 1; after none from the last row of p"""
    p, q = rows([0.1, 0.5, 0.4, 0.0], [0.0, 0.0, 0.3, 0.7]), rows([0.6, 0.2, 0.2, 0.0])
    counts, behind = torch.zeros(4), set()
    dice = Chance(int(torch.randint(1 << 30, ())))
    for _ in range(400):
        got = called(p, q, [0], dice)
        if len(got) == 1:
            counts[got[0]] += 1
        else:
            behind.add(got[1])
    assert behind == {2, 3}, (f"behind all proposed tokens came {behind}, wanted 2 three times in ten and "
                              "else 3: a draw from the last row of p")
    share = counts / counts.sum()
    assert abs(share[1] - 0.6) < 0.15 and counts[0] == 0 and counts[3] == 0, (
        f"after a refusal tokens came with shares {show(share)}, wanted [0, 0.6, 0.4, 0]: p - q is [-0.5, "
        "0.3, 0.2, 0]")


@pytest.mark.ex("8.14")
def test_each_of_four_tokens_has_its_own_row():
    """token number i is compared with row i of p and q, four of them and more"""
    share = [0.9, 0.8, 0.7, 0.6]
    p, q = rows(*([s, 1 - s] for s in share), [1.0, 0.0]), rows(*[[1.0, 0.0]] * 4)
    for n, last in enumerate(share):
        dice = [0.05] * n + [round(last + 0.01, 2)]
        got = called(p, q, [0] * 4, Dice(*dice, 0.5))
        assert got == [0] * n + [1], (f"p {show(p)}, q {show(q)}, four times token 0, uniform numbers "
                                      f"{dice}: got {got}, wanted {[0] * n + [1]}")


@pytest.mark.ex("8.14")
def test_what_comes_out_is_distributed_as_p():
    """whatever the draft proposes, the first token is distributed as p"""
    p, q = rows([0.55, 0.3, 0.15], [1.0, 0.0, 0.0]), rows([0.1, 0.2, 0.7])
    dice, n, counts = Chance(int(torch.randint(1 << 30, ()))), 900, torch.zeros(3)
    for x in torch.multinomial(q[0], n, replacement=True).tolist():
        counts[called(p, q, [x], dice)[0]] += 1
    away = (counts / n - p[0]).abs().max().item()
    assert away < 0.08, f"of {n} first tokens the shares were {show(counts / n)}, wanted {show(p[0])}"


@pytest.mark.ex("8.14")
def test_greedy_and_empty_proposals():
    """a token that p excludes never stands, a sure one always does, no proposal gives one token"""
    p = certain([2, 1, 0], 3)
    for proposed, wanted in (([2, 1], [2, 1, 0]), ([2, 0], [2, 1]), ([1, 1], [2]), ([], [2])):
        for u in (0.0, 0.5, 0.999999):
            got = called(p if proposed else p[:1], certain(proposed, 3), proposed, Dice(u, u, u))
            assert got == wanted, f"p is sure of [2, 1, 0]; proposed {proposed}, u {u}: {got}, not {wanted}"
