"""Exercises 2.8, 2.9 and 2.11: the tables of RoPE, the bias of ALiBi, the rotation."""

import math

import pytest
import torch

from agreement import agree, same_gradients, unchanged
from positions import alibi_bias, apply_rope, rope_tables

f64 = torch.float64


# 2.8 RoPE tables


@pytest.mark.ex("2.8")
def test_the_rope_tables_of_the_worked_example():
    """head width 4: position t turns the first pair by t and the second by t / 100 radians"""
    cos, sin = rope_tables(3, 4)
    angle = torch.tensor([[0, 0], [1, 0.01], [2, 0.02]], dtype=f64)
    given = "3 positions, head width 4, base 10,000"
    for got, f, name, other in ((cos, torch.cos, "cos", torch.sin), (sin, torch.sin, "sin", torch.cos)):
        agree(got, f(angle).float(), f"{given}: {name}",
              {"cos comes first, then sin": other(angle).float(),
               "the exponent is minus 2i/D: later pairs turn more slowly":
                   f(angle * torch.tensor([1, 1e4])).float(),
               "the first position is 0, not 1": f(angle + angle[1]).float(),
               "a table has D/2 columns, one a pair": f(angle.repeat(1, 2)).float(),
               "the exponent is 2i/D with i counting pairs": f(angle * torch.tensor([1, 10])).float()})


@pytest.mark.ex("2.8")
def test_the_rope_tables_follow_width_and_base():
    """any even head width and any base: the angle is position * base^(-2i/D)"""
    for T, D, base in ((5, 2, 10_000.0), (7, 6, 10_000.0), (6, 8, 500_000.0)):
        angle = torch.tensor([[t / base ** (2 * i / D) for i in range(D // 2)] for t in range(T)], dtype=f64)
        fixed = torch.tensor([[t / 1e4 ** (2 * i / D) for i in range(D // 2)] for t in range(T)], dtype=f64)
        for got, f, name in zip(rope_tables(T, D, base), (torch.cos, torch.sin), ("cos", "sin")):
            agree(got, f(angle).float(), f"{T} positions, head width {D}, base {base:g}: {name}",
                  {"the base that is given is not used": f(fixed).float()},
                  "the angle of pair i is position * base^(-2i/D)")


@pytest.mark.ex("2.8")
def test_the_rope_tables_are_exact_far_out():
    """at position 99,991 the tables are still right to five digits"""
    cos, _ = rope_tables(99_992, 6)
    wanted = torch.tensor([math.cos(99_991 * 10_000 ** (-i / 3)) for i in range(3)])
    agree(cos[-1], wanted, "position 99,991",
          ask="compute the angles in float64 and round the result: a float32 angle "
          "of 100,000 radians is off by up to 0.004", atol=1e-5)


# 2.9 ALiBi bias


def penalty(H: int, T: int, S: int) -> torch.Tensor:
    """The bias, number by number."""
    return torch.tensor([[[-(2 ** (-8 * (h + 1) / H)) * max(S - T + i - j, 0) for j in range(S)]
                          for i in range(T)] for h in range(H)])


@pytest.mark.ex("2.9")
def test_alibi_of_the_worked_example():
    """two heads, three tokens: slopes 1/16 and 1/256 times the distance, below zero"""
    wanted = penalty(2, 3, 3)
    away = torch.tensor([[0.0, -1, -2], [1, 0, -1], [2, 1, 0]])
    slopes = torch.tensor([1 / 16, 1 / 256])[:, None, None]
    agree(alibi_bias(2, 3, 3), wanted, "2 heads, 3 queries, 3 keys",
          {"a far key gets less: the bias is below zero": -wanted,
           "the first slope is 2^(-8/H), not 1": wanted * 16,
           "the slopes fall from head to head": wanted.flip(0),
           "a query's own key has distance 0": -slopes * (away.tril() + 1).tril(),
           "the slopes depend on the number of heads, 2^(-8h/H)":
               wanted * torch.tensor([8.0, 64])[:, None, None],
           "keys after the query get 0; attention masks them anyway": -slopes * away.abs()})


@pytest.mark.ex("2.9")
def test_alibi_slopes_follow_the_number_of_heads():
    """the slopes run from 2^(-8/H) down to 1/256 for any number of heads"""
    for H in (1, 3, 4, 8, 16):
        wanted = penalty(H, 4, 4)
        eight = -(0.5 ** torch.arange(1.0, H + 1))[:, None, None] * (wanted / wanted[:, 1:2, :1])
        agree(alibi_bias(H, 4, 4), wanted, f"{H} heads, 4 tokens",
              {"1/2, 1/4, 1/8 ... are the slopes of 8 heads; for H heads they are 2^(-8h/H)": eight,
               "every head needs a slope of its own": wanted.mean(0, keepdim=True).expand(H, 4, 4)})


@pytest.mark.ex("2.9")
def test_alibi_places_the_newest_queries_last():
    """with fewer queries than keys (a cache) the last query stands at the last key"""
    for T, S in ((1, 4), (2, 5)):
        first = penalty(2, S, S)[:, :T]
        agree(alibi_bias(2, T, S), penalty(2, T, S), f"2 heads, {T} queries, {S} keys",
              {"the queries are placed at the first keys; they are the newest tokens": first})


# 2.11 RoPE rotation


def turned(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """The same rotation by complex multiplication."""
    half = x.shape[-1] // 2
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag), -1)


@pytest.mark.ex("2.11")
def test_the_rotation_of_the_worked_example():
    """(1, 2, 3, 4), first pair (1, 3) by 90 degrees, second (2, 4) by none: (-3, 2, 1, 4)"""
    x = torch.tensor([1.0, 2, 3, 4]).view(1, 1, 1, 4)
    wrong = {
        "the pairs are the halves, (1, 3) and (2, 4), not neighbours": [-2.0, 1, 3, 4],
        "this turns the other way: a * cos - b * sin, then a * sin + b * cos": [3.0, 2, -1, 4],
        "a minus sign is missing": [3.0, 2, 1, 4],
        "a sign too many in the second half": [-3.0, 2, -1, 4],
        "the result's first half holds the first numbers of the pairs": [-3.0, 1, 2, 4],
        "its halves are swapped": [1.0, 4, -3, 2],
        "neighbours are taken as pairs and not put back in their places": [-2.0, 3, 1, 4],
    }
    got = apply_rope(x, torch.tensor([[0.0, 1]]), torch.tensor([[1.0, 0]]))
    agree(got, torch.tensor([-3.0, 2, 1, 4]).view(1, 1, 1, 4), "(1, 2, 3, 4), cos (0, 1), sin (1, 0)",
          {sentence: torch.tensor(v).view(1, 1, 1, 4) for sentence, v in wrong.items()})


@pytest.mark.ex("2.11")
def test_each_position_is_turned_by_its_own_angle():
    """every position turns by its own angle, in every head and row of the batch"""
    x, angle = torch.randn(2, 3, 5, 8, dtype=f64), torch.randn(5, 4, dtype=f64)
    agree(apply_rope(x, angle.cos(), angle.sin()), turned(x, angle), "random numbers (2, 3, 5, 8)",
          {"this turns the other way": turned(x, -angle),
           "all positions are turned by the last one's angle": turned(x, angle[-1:].expand(5, 4))})
    same_gradients(lambda x: apply_rope(x, angle.cos(), angle.sin()), lambda x: turned(x, angle), x)
    unchanged(apply_rope, x, angle.cos(), angle.sin())


@pytest.mark.ex("2.11")
def test_the_score_depends_on_the_distance_only():
    """lengths stay, and the score of two turned vectors depends on their distance only"""
    angle = torch.arange(12, dtype=f64)[:, None] * torch.tensor([1.0, 0.1, 0.01], dtype=f64)
    q, k = (torch.randn(1, 1, 1, 6, dtype=f64).expand(1, 1, 12, 6) for _ in range(2))
    q, k = (apply_rope(x, angle.cos(), angle.sin())[0, 0] for x in (q, k))
    agree(q.norm(dim=-1), q[0].norm().expand(12), "one vector at 12 positions: its length",
          ask="a rotation keeps lengths: is a sine or a cosine missing, or in the wrong place?")
    scores = q @ k.T
    for distance in (0, 1, 5):
        along = scores.diagonal(-distance)
        agree(along, along[:1].expand_as(along),
              f"query and key {distance} apart at all positions: their score",
              ask="both numbers of a pair must turn by the same angle, in the same direction")
