"""Min-p, the repetition penalty, draws with a seed of their own, log-probabilities, and stop strings across
tokens.
"""
import itertools
import math
import random

import pytest
import torch
from torch.testing import assert_close

from sampling import (
    Sampling,
    draw,
    filtered,
    keep_min_p,
    penalize_repetition,
    pick,
    pick_rows,
    top_log_probabilities,
)
from stop_strings import StopStrings


def logits(rows: int = 4, V: int = 30) -> torch.Tensor:
    return torch.randn(rows, V) * 3


def test_min_p_by_hand():
    row = torch.tensor([[0.5, 0.26, 0.2, 0.04]]).log()
    for p, kept in ((0.0, 4), (0.05, 4), (0.1, 3), (0.5, 2), (0.53, 1), (1.0, 1)):
        assert torch.isfinite(keep_min_p(row, p)).sum() == kept, p


def test_a_penalty_lowers_what_was_seen_whatever_its_sign():
    row, seen = torch.tensor([[2.0, -1.0, 3.0]]), torch.tensor([[True, True, False]])
    assert penalize_repetition(row, seen, 2.0).tolist() == [[1.0, -2.0, 3.0]]
    assert torch.equal(penalize_repetition(row, seen, 1.0), row)


@pytest.mark.parametrize("how", [Sampling(temperature=0.7), Sampling(temperature=1.5, top_k=3),
                                 Sampling(temperature=1.0, top_p=0.8),
                                 Sampling(temperature=2.0, min_p=0.2)], ids=repr)
def test_draws_follow_the_filtered_distribution(how):
    row, n = logits(1, 6), 20_000
    wanted = filtered(row, how)[0]
    drawn = pick_rows(row.expand(n, -1), [how] * n, [random.Random(0)] * n)
    count = torch.bincount(drawn, minlength=6)
    assert (count[wanted == 0] == 0).all()
    kept = wanted > 0
    chi = ((count - n * wanted).square() / (n * wanted))[kept].sum().item()
    # p = 1e-4, 5 degrees
    assert chi < 25.7, f"chi-squared {chi:.1f}: counts {count.tolist()}, wanted {(n * wanted).tolist()}"


def test_the_ends_of_the_unit_interval_never_draw_a_forbidden_token():
    p = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).repeat(3, 1)
    assert draw(p, torch.tensor([2.0**-53, 0.5, 1.0])).tolist() == [1, 3, 3]
    assert draw(p * 0.999, torch.tensor([2.0**-53, 0.3, 1.0])).tolist() == [1, 1, 3]


def test_the_same_seed_draws_the_same_tokens_in_any_company():
    how, all_logits = Sampling(temperature=1.0, top_p=0.9), [logits(1) for _ in range(20)]
    alone = [pick_rows(x, [how], [dice]).item() for dice in [random.Random(5)] for x in all_logits]
    dice, others = random.Random(5), random.Random(1)
    for x, wanted in zip(all_logits, alone):
        company = random.Random(wanted).sample([Sampling(), how, Sampling(temperature=2.0, top_k=2)], 3)
        rows = torch.cat((logits(3), x))
        assert pick_rows(rows, [*company, how], [others] * 3 + [dice])[3] == wanted


def test_rows_keep_their_own_settings():
    x = logits(3)
    how = [Sampling(), Sampling(temperature=1.0, top_k=1), Sampling(repetition_penalty=100.0)]
    first = x.argmax(-1)
    got = pick_rows(x.abs(), how, [random.Random(0)] * 3, [set(), set(), {x.abs()[2].argmax().item()}])
    second = x.abs()[2].topk(2).indices[1]
    assert got.tolist() == [x.abs()[0].argmax(), x.abs()[1].argmax(), second] and len(first) == 3


def test_a_logit_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="a logit is not a number"):
        pick(torch.tensor([[1.0, float("nan"), 3.0]]))


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-3])
def test_hardly_any_temperature_is_greedy_and_not_a_division_by_zero(temperature):
    x = logits()
    assert torch.equal(pick_rows(x, [Sampling(temperature=temperature)] * 4, [random.Random(0)] * 4),
                       x.argmax(-1))


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": -1},
                                 {"top_p": 0.0}, {"top_p": 1.5},
                                 {"min_p": 1.1}, {"min_p": math.nan}, {"repetition_penalty": 0.0}])
def test_impossible_settings_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


def test_log_probabilities_are_those_of_torch():
    x, tokens = logits(), torch.tensor([3, 0, 29, 7])
    wanted = torch.log_softmax(x.double(), -1)
    for row, token, reference, (own, best) in zip(x, tokens, wanted, top_log_probabilities(x, tokens, 5)):
        assert_close(own, reference[token].item())
        assert [i for i, _ in best] == row.argsort(descending=True)[:5].tolist()
        assert_close([p for _, p in best], reference.sort(descending=True).values[:5].tolist())
    assert top_log_probabilities(x, tokens, 0)[0][1] == []


def cut(text: str, stops: list[str], at: tuple[int, ...]) -> tuple[str, str | None, list[str]]:
    """What comes out when the text arrives in pieces that end at these places."""
    watch, shown = StopStrings(stops), []
    for begin, end in itertools.pairwise((0, *at, len(text))):
        shown.append(watch.feed(text[begin:end]))
    return "".join(shown) + watch.finish(), watch.hit, shown


@pytest.mark.parametrize("stops", [["ab"], ["ab", "xab"], ["aab", "b"], ["aaa"], ["abab", "ba"],
                                   ["x", "abcab"]])
def test_where_a_text_stops_does_not_depend_on_how_it_is_cut(stops):
    for _ in range(60):
        text = "".join(random.choices("abcx", k=8))
        ends = {text.index(s) + len(s) for s in stops if s in text}
        first = min(ends, default=None)
        hit = max((s for s in stops if first and text[:first].endswith(s)), key=len, default=None)
        wanted = text[:first - len(hit)] if hit else text
        for n in range(3):
            for at in itertools.combinations(range(1, 8), n):
                shown, said, _ = cut(text, stops, at)
                assert (shown, said) == (wanted, hit), (text, stops, at)


def test_nothing_certain_is_held_back():
    assert cut("ab\nQ: no", ["\nQ:"], (2, 3, 4))[2] == ["ab", "", "", ""]
    assert cut("ab\nQ- no", ["\nQ:"], (2, 3, 4))[2] == ["ab", "", "", "\nQ- no"]
    with pytest.raises(ValueError, match="empty stop string"):
        StopStrings(["a", ""])
