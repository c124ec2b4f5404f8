"""Every request's tokens are those of running it alone: random arrivals, settings, prefixes, pools and
cancellations.
"""
from dataclasses import replace

import pytest
import torch

from engine import Engine
from engine_cases import CONFIG, alone, families, lively_model, run_schedule
from sampling import Sampling
from scheduler import Request
from transformer import Transformer


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture(scope="module")
def known(model):
    return families(model, 30, seed=0)


@pytest.mark.parametrize("part", range(4))
def test_every_request_gets_the_tokens_that_it_gets_alone(model, known, part):
    engines = [run_schedule(model, known, 100 * part + i) for i in range(12)]
    assert sum(e.scheduler.preemptions for e in engines) > 5 and sum(e.counts.shared for e in engines) > 100


def request(n: int, n_new: int = 4, **more) -> Request:
    return Request([7 * i % 250 for i in range(n)] if "prompt" not in more else more.pop("prompt"), n_new,
                   **more)


def test_a_long_prompt_does_not_stop_the_others(model):
    engine = Engine(model, 30, max_running=4, max_step=8)
    first = request(3, 30)
    engine.submit(first)
    engine.step()
    engine.submit(request(70, 2))
    for step in range(9):
        engine.step()
        assert len(first.tokens) == step + 2, "the request that decodes gets a token in every step"


def test_who_decodes_goes_on_while_an_older_one_is_computed_again(model):
    engine = Engine(model, 30, max_running=4, max_step=8)
    old, young = request(70, 30), request(3, 30)
    for r in (old, young):
        engine.submit(r)
    while not young.tokens:
        engine.step()
    engine.scheduler.pool._names.clear()               # nothing to be found in the cache
    engine.scheduler.pool._name_of.clear()
    engine.scheduler.preempt(old)
    for _ in range(8):
        had = len(old.tokens), len(young.tokens)
        engine.step()
        assert (len(old.tokens), len(young.tokens)) == (had[0], had[1] + 1)


def test_a_prompt_that_is_read_takes_blocks_from_younger_ones_that_decode(model):
    engine = Engine(model, 6, max_running=4, max_step=22)
    first, old, young = request(10, 40, owner="a"), request(60, 2, owner="a"), request(10, 40, owner="b")
    for r in (first, old, young):
        engine.submit(r)
    # all run: the younger owner was let in before the older's second
    engine.step()
    assert engine.scheduler.running == [first, old, young]
    engine.scheduler.max_step = 5
    while engine.busy:
        engine.step()
    assert [r.tokens for r in (first, old, young)] == [alone(model, r) for r in (first, old, young)]
    assert engine.scheduler.preemptions


def test_a_prompt_that_was_read_before_is_not_read_again(model):
    engine, prompt = Engine(model, 30), list(range(50))
    engine.run([request(0, prompt=prompt)])
    before = engine.counts.computed
    late, = engine.run([request(0, prompt=prompt + [1, 2])])
    assert late.shared == 48 and engine.counts.computed - before == 4 + 3
    other, = engine.run([request(0, prompt=[9] + prompt[1:])])
    assert other.shared == 0, "the same tokens after another beginning are another prefix"


def test_siblings_read_their_prompt_once(model):
    engine = Engine(model, 30)
    family = [request(40, 5, sampling=Sampling(temperature=2.0), seed=i) for i in range(4)]
    family[0].siblings = family[1:]
    engine.submit(family[0])
    while engine.busy:
        engine.step()
    assert engine.counts.computed == 40 + 4 * 4 and len({tuple(r.tokens) for r in family}) == 4
    assert [r.shared for r in family] == [0, 40, 40, 40]


def test_one_owners_flood_does_not_hold_up_another(model):
    engine = Engine(model, 60, max_running=2)
    flood = [request(5, 10, owner="flood") for _ in range(20)]
    for r in flood:
        engine.submit(r)
    engine.step()
    late = request(5, 10, owner="late")
    engine.submit(late)
    while not late.finished:
        engine.step()
    assert sum(bool(r.finished) for r in flood) <= 3


def test_the_oldest_is_never_preempted_and_all_are_served(model):
    engine = Engine(model, 7, max_running=5)
    crowd = [request(40 + i, 40) for i in range(5)]
    for r in crowd:
        engine.submit(r)
    held = 0
    while engine.busy:
        engine.step()
        if not crowd[0].finished:
            assert crowd[0].computed >= held
            held = crowd[0].computed
    assert engine.scheduler.preemptions > 3 and all(len(r.tokens) == 40 for r in crowd)


def test_cancelling_frees_the_blocks_at_once_also_from_within_a_step(model):
    engine = Engine(model, 30)
    victims = [request(40, 50), request(20, 50)]
    killer = request(3, 50, watch=lambda r, token: [engine.cancel(v) for v in victims] == [])
    for r in (killer, *victims):
        engine.submit(r)
    engine.step()
    assert [v.finished for v in victims] == ["cancelled"] * 2 and engine.scheduler.running == [killer]
    engine.cancel(killer)
    assert engine.scheduler.pool.n_free == 30 and not engine.busy and engine.counts.finished["cancelled"] == 3


def test_a_cancelled_parent_leaves_its_siblings_alive(model):
    engine = Engine(model, 30)
    family = [request(40, 5, sampling=Sampling(temperature=1.0), seed=i) for i in range(3)]
    family[0].siblings = family[1:]
    engine.submit(family[0])
    engine.cancel(family[0])
    while engine.busy:
        engine.step()
    assert [r.tokens for r in family[1:]] == [alone(model, r) for r in family[1:]]


def test_log_probabilities_come_with_every_token(model):
    with_top, without = Engine(model).run([request(9, 6, n_top=3), request(9, 6)])
    ids = list(with_top.prompt)
    for token, (own, best) in zip(with_top.tokens, with_top.logprobs, strict=True):
        wanted = torch.log_softmax(model(torch.tensor([ids]))[0, -1], -1)
        torch.testing.assert_close(own, wanted[token].item())
        assert [i for i, _ in best] == wanted.topk(3).indices.tolist()
        ids.append(token)
    assert without.logprobs == [] and without.tokens == with_top.tokens


@pytest.mark.parametrize("bad, says", [
    (dict(n=0), "at least one token"), (dict(n=3, n_new=0), "at least one new token"),
    (dict(n=100, n_new=13), "112"),
    (dict(n=80, n_new=20), "cache of 5 blocks"), (dict(n=0, prompt=[999]), "vocabulary of 260")])
def test_what_could_never_be_served_is_refused_at_once(model, bad, says):
    engine = Engine(model, 5)
    with pytest.raises(ValueError, match=says):
        engine.submit(request(**bad))
    assert not engine.busy


def test_a_request_runs_once_and_siblings_agree(model):
    engine = Engine(model)
    done, = engine.run([request(3)])
    with pytest.raises(ValueError, match="submitted once"):
        engine.submit(done)
    with pytest.raises(ValueError, match="same prompt"):
        engine.submit(replace(request(3), siblings=[request(4)]))
    with pytest.raises(ValueError, match="allow fewer"):
        Engine(model, max_running=9, max_step=8)


def test_other_kinds_of_model_are_refused_by_name():
    with pytest.raises(ValueError, match="positions='alibi'"):
        Engine(Transformer(replace(CONFIG, positions="alibi")))


@pytest.mark.parametrize("changes", [{}, {"qk_norm": False}, {"tied": False}, {"n_kv_heads": 1},
                                     {"n_kv_heads": 4}, {"head_width": 6},
                                     {"rope_scaling": "yarn", "rope_factor": 2.0}], ids=str)
def test_folded_weights_give_the_same_logits(changes):
    torch.manual_seed(1)
    model = Transformer(replace(CONFIG, **changes)).double().requires_grad_(False)
    for p in model.parameters():
        p.add_(0.3 * torch.randn_like(p))
    r, = Engine(model, max_step=7, max_running=7).run([request(40, 20, n_top=1)])
    wanted = torch.log_softmax(model(torch.tensor([r.ids])), -1)[0, 39:-1]
    torch.testing.assert_close(torch.tensor([own for own, _ in r.logprobs], dtype=torch.float64),
                               wanted.gather(-1, torch.tensor(r.tokens)[:, None])[:, 0], atol=1e-9, rtol=0)
