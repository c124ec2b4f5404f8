"""Exercises 2.7 and 2.10: choosing a token, counting parameters."""

import math

import pytest
import torch
import torch.nn.functional as F

from agreement import agree
from count import count_parameters
from generate import choose
from transformer import Config, Transformer

# 2.7 choosing a token


@pytest.mark.ex("2.7")
def test_temperature_zero_takes_the_largest():
    """at temperature 0 each row gives its most likely token, as a column"""
    agree(choose(torch.tensor([[0.0, 2, 1], [5, 1, 4]])), torch.tensor([[1], [0]]),
          "the rows [0, 2, 1] and [5, 1, 4]",
          {"keep the dimension: one column, (B, 1)": torch.tensor([1, 0]),
           "the largest logit, not the smallest": torch.tensor([[0], [1]])})


@pytest.mark.ex("2.7")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_temperature(temperature):
    """10,000 draws from the logits 0 and 1 follow softmax(logits / temperature)"""
    logits = torch.tensor([0.0, 1.0])
    share = choose(logits.expand(10_000, 2), temperature).float().mean()
    mistakes = {
        "temperature divides the logits, it does not multiply them": F.softmax(logits * temperature, -1)[1],
        "the temperature has no effect: divide the logits by it first": F.softmax(logits, -1)[1],
        "only temperature 0 is greedy": torch.tensor(1.0),
    }
    agree(share, F.softmax(logits / temperature, -1)[1],
          f"logits (0, 1) and temperature {temperature}, the share of token 1", mistakes, atol=0.025)


@pytest.mark.ex("2.7")
def test_the_generator_decides():
    """two generators with one seed draw the same tokens, and torch's own generator is not used"""
    logits, before = torch.zeros(1, 1000).expand(20, 1000), torch.get_rng_state()
    first, second = (choose(logits, 1.0, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second), (
        f"given 20 rows and generators of one seed, got {first.flatten()[:4].tolist()} ... and "
        f"{second.flatten()[:4].tolist()} ..., wanted the same twice")
    assert torch.equal(before, torch.get_rng_state()), (
        "given a generator, the state of torch's global one has changed, wanted it unchanged")


@pytest.mark.ex("2.7")
def test_each_row_draws_from_its_own_logits():
    """each row draws from its own logits, and a token of logit minus infinity is never drawn"""
    wanted = torch.randint(7, (50, 1))
    logits = torch.full((50, 7), -math.inf).scatter(1, wanted, 0.0)
    agree(choose(logits, 1.0), wanted, "50 rows that allow one token each",
          ask="each row has its own distribution")


# 2.10 parameter count


@pytest.mark.ex("2.10")
def test_the_worked_example_has_176_parameters():
    """V 10, C 4, 1 layer, 2 heads, 1 key head, F 6: embedding 40, attention 52, feed-forward 72, norms 12"""
    got = count_parameters(Config(vocab_size=10, d_model=4, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=6))
    why = {
        "embedding": "V * C",
        "attention": "q and o are C x C; k and v are C x K*D; two q/k gains of D each",
        "feed-forward": "three matrices C x F",
        "norms": "two a layer and one at the end, C each",
    }
    assert set(got) == set(why), f"the parts are {list(got)}, wanted {list(why)}"
    for part, wanted in (("embedding", 40), ("attention", 52), ("feed-forward", 72), ("norms", 12)):
        assert got[part] == wanted, f"{part}: got {got[part]}, wanted {wanted}: {why[part]}"


@pytest.mark.ex("2.10")
@pytest.mark.parametrize("options", [{}, dict(tied=False), dict(positions="learned"), dict(norm="layer"),
                                     dict(placement="post"), dict(activation="gelu"), dict(qk_norm=False),
                                     dict(positions="alibi"), dict(n_kv_heads=1), dict(n_layers=1),
                                     dict(positions="learned", tied=False, norm="layer", placement="post")])
def test_each_part_is_as_large_as_the_one_that_is_built(options):
    """the count of each part equals the parameters of the model that is built, option by option"""
    config = Config(**{**dict(vocab_size=13, d_model=20, n_layers=3, n_heads=2, n_kv_heads=2, d_ff=5,
                              max_len=7), **options})
    names = {"self_attn": "attention", "mlp": "feed-forward", "norm": "norms", "": "embedding"}
    wanted = dict.fromkeys(names.values(), 0)
    for name, p in Transformer(config).named_parameters():
        wanted[next(part for word, part in names.items() if word in name)] += p.numel()
    got = count_parameters(config)
    for part in wanted:
        assert got[part] == wanted[part], (f"given {options or 'the defaults'}, part {part}: got "
                                           f"{got[part]}, the built model has {wanted[part]}")
        assert isinstance(got[part], int), (
            f"part {part}: got {got[part]!r}, wanted a whole number: divide by //")


@pytest.mark.ex("2.10")
def test_a_published_model_is_counted():
    """Llama 3.1 8B has 8,030,261,248 parameters"""
    got = sum(count_parameters(Config(vocab_size=128_256, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8,
                                      d_ff=14_336, qk_norm=False, tied=False)).values())
    assert got == 8_030_261_248, (
        f"got {got:,}, wanted 8,030,261,248: it is untied, has 8 key heads and no q/k norm")
