"""The switches of GRPO against their formulas, shared prompts against plain ones, verifiers that fail."""
import math
import random
import signal
import time

import pytest
import torch

from bpe import EOS, Tokenizer
from chat_template import answer_ids, chat_prompt
from cross_entropy import cross_entropy
from dpo import best_and_worst, dpo_loss
from grpo import (
    DR_GRPO,
    Batch,
    Variant,
    answer_weights,
    centred_rewards,
    clipped_policy_loss,
    clipped_share,
    fresh_sums,
    group_advantages,
    grpo_objective,
    rollout,
    task_objective,
)
from guarded_verifier import Guarded, time_limit
from rollout import answer_log_probs, sample
from sft import answer_loss
from shared_prompts import shared_answer_log_probs
from transformer import Config, Transformer

BYTES = Tokenizer([])
ASKED = [[1, 2, 3]] * 3 + [[9, 8]] * 3 + [[4, 5, 6]] * 3
ANSWERS = [[7], [8, 9, 10], [11, 12], [1, 2, 3, 4], [5], [6, 7], [1], [2, 2], [3, 3, 3, 3, 3]]
REWARDS = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 1, 1]]).double()


def tiny(seed=0):
    torch.manual_seed(seed)
    config = Config(vocab_size=260, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=16, max_len=24)
    model = Transformer(config).double()
    for p in model.parameters():
        p.data *= 3
    return model


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()))


# Switches.

@pytest.mark.parametrize("mean", ["tokens", "answers", "budget"])
@pytest.mark.parametrize("deviation", [True, False])
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_each_variant_is_its_double_sum(mean, deviation, kl):
    """Second update: the model has moved, ratios differ from 1, the reference is a third model."""
    old, new, reference = tiny(0), tiny(0), tiny(2)
    for p in new.parameters():
        p.data += 0.05 * torch.randn_like(p)
    batch = Batch(BYTES, ASKED, ANSWERS, REWARDS, Variant(deviation, mean, 7, kl, updates=2))
    batch.loss(old, reference)
    got, clipped = batch.loss(new, reference)
    count, want, bound = sum(map(len, ANSWERS)), 0.0, 0
    for n, (p, a) in enumerate(zip(ASKED, ANSWERS)):
        group = REWARDS[n // 3]
        advantage = group[n % 3] - group.mean()
        if deviation:
            advantage = advantage / (group.std() + 1e-4)
        logs = [m(torch.tensor([p + a]))[0].log_softmax(-1) for m in (new, old, reference)]
        weight = 1 / {"tokens": count, "answers": len(a) * len(ANSWERS), "budget": 7 * len(ANSWERS)}[mean]
        for t, token in enumerate(a):
            now, then, ref = (x[len(p) + t - 1, token] for x in logs)
            r = (now - then.detach()).exp()
            gain = torch.minimum(r * advantage, r.clamp(0.8, 1.2) * advantage)
            bound += bool(gain != r * advantage)
            want = want - weight * (gain - kl * ((ref.detach() - now).exp() - 1 - (ref.detach() - now)))
    torch.testing.assert_close(got, want)
    assert clipped == pytest.approx(bound / count) and 0 < bound < count
    for a, b in zip(gradients(got, new), gradients(want, new)):
        torch.testing.assert_close(a, b)


def test_dr_grpo_on_numbers_made_by_hand():
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    assert centred_rewards(rewards).tolist() == [[0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0]]
    assert not centred_rewards(torch.full((1, 7), 0.7)).any()
    lengths = torch.tensor([1.0, 2.0, 9.0])
    assert answer_weights(lengths, "tokens", 8).tolist() == [1, 1, 1]
    assert answer_weights(lengths, "answers", 8).tolist() == pytest.approx([4, 2, 4 / 9])
    assert answer_weights(lengths, "budget", 8).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("variant", [Variant(), DR_GRPO, Variant(mean="answers", updates=3)])
def test_equal_rewards_move_nothing_in_any_variant(variant):
    model = tiny()
    loss, clipped = Batch(BYTES, ASKED, ANSWERS, torch.ones(3, 3), variant).loss(model)
    assert loss == 0 and clipped == 0 and not any(g.any() for g in torch.autograd.grad(
        loss, list(model.parameters()), allow_unused=True, materialize_grads=True))


def test_the_first_update_is_the_policy_gradient_and_the_price_of_staying_is_nothing():
    model = tiny()
    variant = Variant(kl=0.5, updates=2)
    loss, clipped = Batch(BYTES, ASKED, ANSWERS, REWARDS, variant).loss(model, tiny())
    log_p, mask = answer_log_probs(model, ASKED, ANSWERS, 258)
    plain = -(group_advantages(REWARDS).flatten()[:, None] * log_p * mask).sum() / mask.sum()
    assert clipped == 0
    for a, b in zip(gradients(loss, model), gradients(plain, model)):
        torch.testing.assert_close(a, b)


def test_the_clip_binds_only_on_what_has_moved_where_it_was_pushed():
    ratio = torch.tensor([[1.3, 0.7, 1.1, 1.3]]).log()
    mask = torch.tensor([[1.0, 1, 1, 0]])
    old = torch.zeros(1, 4)
    assert clipped_share(ratio, old, torch.tensor([1.0]), mask, 0.2) == pytest.approx(1 / 3)
    assert clipped_share(ratio, old, torch.tensor([-1.0]), mask, 0.2) == pytest.approx(1 / 3)
    assert clipped_share(ratio, old, torch.tensor([0.0]), mask, 0.2) == 0
    assert clipped_share(ratio, old, torch.tensor([1.0]), 0 * mask, 0.2) == 0


def test_several_updates_use_one_batch_and_the_clip_stops_them():
    model = tiny()
    loss_of = grpo_objective(model, BYTES, set(), 4, 4, 0, Variant(updates=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grpo.rollout", lambda *a, **how: (ASKED, ANSWERS, REWARDS))
        optimizer, clipped = torch.optim.SGD(model.parameters(), 0.5), []
        for step in range(6):
            loss, numbers = loss_of(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clipped.append(numbers["clipped"])
    assert clipped[0] == clipped[3] == 0 and clipped[2] > 0


def test_each_step_asks_new_sums_with_new_chance_and_none_that_are_held_out(monkeypatch):
    asked = []

    def rollout(model, tokenizer, tasks, group, seed, **how):
        asked.append((tuple(tasks), seed))
        return ASKED, ANSWERS, REWARDS

    monkeypatch.setattr("grpo.rollout", rollout)
    first = fresh_sums(set(), 40)(random.Random("grpo 0 1"))
    for banned in (set(), set(first[::2])):
        loss_of = grpo_objective(tiny(), BYTES, banned, 40, 4, 0)
        for step in (0, 1, 2, 1):
            loss_of(step)
    assert asked[1][0] == tuple(first) and asked[1] == asked[3]     # a step that is done again is the same
    assert len({tasks for tasks, _ in asked[:3]}) == len({seed for _, seed in asked[:3]}) == 3
    assert len(asked[5][0]) == 40 and not banned & set(asked[5][0])


def test_the_price_is_for_leaving_the_model_as_it_was_at_the_start(monkeypatch):
    monkeypatch.setattr("grpo.rollout", lambda *a, **how: (ASKED, ANSWERS, torch.ones(3, 3)))
    model = tiny()
    loss_of = grpo_objective(model, BYTES, set(), 4, 4, 0, Variant(kl=1.0))
    assert loss_of(0)[0] == 0
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    assert loss_of(1)[0] > 1e-3


@pytest.mark.parametrize("wrong", [dict(mean="words"), dict(updates=0), dict(budget=0), dict(kl=-1),
                                   dict(kl=math.nan)])
def test_an_impossible_variant_is_one_sentence(wrong):
    with pytest.raises(ValueError, match="give tokens|or more"):
        Variant(**wrong)


# Shared prompts.

def test_shared_prompts_give_the_log_probabilities_and_gradients_of_repeated_ones():
    model = tiny()
    order = [4, 0, 8, 2, 1, 3, 7, 6, 5]   # groups need not stand together, nor prompts be of one length
    asked, answers = [ASKED[i] for i in order], [ANSWERS[i] for i in order]
    plain, mask = answer_log_probs(model, asked, answers, 0)
    shared, shared_mask = shared_answer_log_probs(model, asked, answers, 0)
    weights = torch.randn(9).double()
    assert shared_mask.sum(1).tolist() == mask.sum(1).tolist() == [len(a) for a in answers]
    for row, own, full, m in zip(shared, shared_mask, plain, mask):
        torch.testing.assert_close(row[own > 0], full[m > 0])
    assert not (shared * (1 - shared_mask)).any()
    for a, b in zip(gradients(shared.sum(1) @ weights, model), gradients(plain.sum(1) @ weights, model)):
        torch.testing.assert_close(a, b)


def test_shared_prompts_change_no_loss_and_answers_of_one_token_work():
    model = tiny()
    for answers in (ANSWERS, [a[:1] for a in ANSWERS]):
        losses = [Batch(BYTES, ASKED, answers, REWARDS, Variant(shared=s)).loss(model)[0]
                  for s in (False, True)]
        torch.testing.assert_close(*losses)
        for a, b in zip(*(gradients(x, model) for x in losses)):
            torch.testing.assert_close(a, b)


# What goes wrong.

def test_a_verifier_that_raises_or_hangs_is_worth_nothing_and_is_counted():
    def verify(answer, task):
        while answer == "hang":
            time.sleep(0.01)
        return 1 / int(answer)

    guarded = Guarded(verify, seconds=0.1)
    assert [guarded(a, None) for a in ("2", "hang", "0", "x", "4")] == [0.5, 0, 0, 0, 0.25]
    assert guarded.failures == {"TookTooLong": 1, "ZeroDivisionError": 1, "ValueError": 1}


def test_a_verifier_that_catches_every_exception_is_stopped_too():
    def verify(answer, task):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass

    assert Guarded(verify, seconds=0.05)("a", None) == 0


def test_a_timer_that_was_running_before_a_limit_runs_on_after_it():
    def missed(number, frame):
        raise AssertionError("the outer timer fired")

    before = signal.signal(signal.SIGALRM, missed)
    try:
        signal.setitimer(signal.ITIMER_REAL, 60)
        with time_limit(5):
            pass
        assert 0 < signal.setitimer(signal.ITIMER_REAL, 0)[0] <= 60
        assert signal.getsignal(signal.SIGALRM) is missed
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_objective_survives_answers_that_break_its_verifier_and_counts_them():
    model, judged = tiny(), []

    def verify(answer, task):
        judged.append(answer)
        return 1 / (len(judged) % 3)   # breaks on every third

    ask = dict(ask=lambda task: task + "?", n_new=15)
    loss, numbers = task_objective(model, BYTES, lambda rng: ["ab", "c"], 60, 0, verify=verify, **ask)(0)
    assert loss.isfinite() and numbers["failures"] == len(judged) // 3 > 0 and 0 < numbers["reward"] < 1
    assert "failures" not in task_objective(model, BYTES, lambda rng: ["ab"], 40, 0,
                                            verify=lambda answer, task: 1.0, **ask)(0)[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_verifier_that_gives_no_number_is_refused(bad):
    with pytest.raises(ValueError, match=f"gave {bad} for 'a'"):
        Guarded(lambda answer, task: bad)("a", None)


def test_a_verifier_that_fails_on_everything_is_what_is_wrong():
    guarded = Guarded(lambda answer, task: {}[answer], patience=3)
    assert [guarded("a", None), guarded("b", None)] == [0, 0]
    with pytest.raises(ValueError, match="3 answers in a row, the last time with KeyError: 'c'; mend it"):
        guarded("c", None)


def test_a_rollout_asks_and_verifies_as_it_is_told_and_an_answer_without_an_end_is_worth_nothing():
    model = tiny()
    said = []

    def verify(answer, task):
        said.append((answer, task))
        return 0.5

    asked, answers, rewards = rollout(model, BYTES, ["ab", "c"], 40, 0, lambda t: t + "?", verify, 3)
    eos, prompts = BYTES.special[EOS], [chat_prompt(BYTES, "ab?"), chat_prompt(BYTES, "c?")]
    assert asked == [prompts[0]] * 40 + [prompts[1]] * 40           # an answer beside its own question
    own = sample(model, prompts, 3, eos, 1.0, 40, torch.Generator().manual_seed(0))
    assert answers == own[0] + own[1]                               # drawn as the model itself would, at 1
    ended = torch.tensor([a[-1] == eos for a in answers]).view(2, 40)
    assert torch.equal(rewards, ended * 0.5) and 0 < ended.sum() < 80
    tasks = ["ab"] * 40 + ["c"] * 40
    assert said == [(BYTES.decode(a[:-1]), t) for a, t in zip(answers, tasks) if a[-1] == eos]


def test_prompts_longer_than_the_context_are_refused_with_the_reason():
    model = tiny()
    long = chat_prompt(BYTES, "x" * 30)
    with pytest.raises(ValueError, match="longer than max_len 24: shorten it"):
        sample(model, [long], 2, -1)
    with pytest.raises(ValueError, match="longer than max_len 24"):
        sample(model, [chat_prompt(BYTES, "x" * 18)], 20, -1)       # the prompt fits, the answer does not
    with pytest.raises(ValueError, match="longer than max_len 24"):
        answer_loss(model, BYTES, [("x" * 30, "a")])


def test_rows_without_a_token_to_learn_from_cost_nothing():
    log_p = torch.zeros(2, 3, requires_grad=True)
    loss = clipped_policy_loss(log_p, torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 3))
    assert loss == 0 and not torch.autograd.grad(loss, log_p)[0].any()
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 3), -100))
    assert loss == 0 and not torch.autograd.grad(loss, logits)[0].any()
    model = tiny()   # an empty answer is its <|eos|>, so no row of SFT is empty
    assert answer_ids(BYTES, "") == [BYTES.special[EOS]] and answer_loss(model, BYTES, [("a", "")]) > 0


def test_tied_preferences_make_no_pair_and_equal_answers_no_gradient():
    assert best_and_worst([" json.", " json."], "json") is None
    assert best_and_worst([" a.", " b."], "json") is None
    model = tiny()
    log_p, _ = answer_log_probs(model, [[1, 2]] * 2, [[3, 4]] * 2, 0)
    one, other = log_p.sum(1)
    loss = dpo_loss(one[None], other[None], one[None].detach(), other[None].detach(), 0.1)
    assert loss.item() == pytest.approx(math.log(2))
    assert all(g.abs().max() < 1e-12 for g in gradients(loss, model))
