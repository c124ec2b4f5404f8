"""Raters, reward models and PPO: against definitions, hand-worked numbers and torch in float64."""
import math
import random

import pytest
import torch

import ppo
from bpe import EOS, Tokenizer
from chat_template import chat_prompt
from dpo import PreferencePair
from grpo import kl_k3
from ppo import PPO, Knobs, clipped_value_loss, gae, token_rewards, whitened
from preferences import Rater, agreement, bradley_terry_loss
from results_table import mean_and_spread
from reward_model import ScalarModel, accuracy, calibration_error, reward_objective, score_texts, scores
from rollout import answer_log_probs
from transformer import Config, Transformer

BYTES = Tokenizer([])


def tiny(seed=0):
    torch.manual_seed(seed)
    config = Config(vocab_size=260, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16, max_len=64)
    return Transformer(config).double()


# Raters.

def test_a_rater_prefers_as_bradley_and_terry_say():
    assert Rater(1.0, 0.0).chance(2, 1) == pytest.approx(math.e / (1 + math.e))
    assert Rater(0.0, 0.0).chance(3, 0) == 0.5
    assert Rater(1e4, 0.1).chance(3, 0) == pytest.approx(0.9)
    assert Rater(1e4, 0.1).chance(0, 3) == pytest.approx(0.1)
    rng = random.Random(0)
    said = sum(Rater(1.0, 0.05).prefers_first(2, 1, rng) for _ in range(4000)) / 4000
    assert said == pytest.approx(Rater(1.0, 0.05).chance(2, 1), abs=0.03)


@pytest.mark.parametrize("skill, careless", [(-1, 0.1), (1, -0.1), (1, 0.6), (math.nan, 0.1), (1, math.nan)])
def test_an_impossible_rater_is_one_sentence(skill, careless):
    with pytest.raises(ValueError, match="give 0 or more"):
        Rater(skill, careless)


def test_bradley_terry_is_minus_log_sigmoid_with_its_slope_also_where_scores_are_equal():
    chosen = torch.tensor([2.0, -300.0, 0.0, 500.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([1.0, 300.0, 0.0, -500.0], dtype=torch.float64)
    loss = bradley_terry_loss(chosen, rejected)
    want = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
    torch.testing.assert_close(loss, want)
    slope = torch.autograd.grad(loss, chosen)[0]
    torch.testing.assert_close(slope, -torch.sigmoid(rejected - chosen).detach() / 4)


def test_agreement_leaves_ties_out():
    pairs = [PreferencePair("q", " json.", " pickle."), PreferencePair("q", " pickle.", " json."),
             PreferencePair("q", " a.", " b.")]
    assert agreement(pairs, {"q": "json"}) == 0.5
    assert math.isnan(agreement(pairs[2:], {"q": "json"}))


# The reward model.

def test_a_score_is_read_at_the_last_token_and_neighbours_do_not_change_it():
    reward = ScalarModel(tiny())
    torch.nn.init.normal_(reward.head.weight)
    prompts, answers = [[1, 2, 3], [4]], [[5], [6, 7, 8, 9]]
    together = scores(reward, prompts, answers, 0)
    for i in (0, 1):
        row = torch.tensor([prompts[i] + answers[i]])
        torch.testing.assert_close(together[i], reward(row)[0, -1])


def test_a_reward_model_learns_pairs_that_can_be_told_apart():
    reward = ScalarModel(tiny())
    pairs = [PreferencePair(f"{i}?", " yes.", " no.") for i in range(4)]
    loss = reward_objective(reward, BYTES, pairs, 8, 0)
    assert loss(0).item() == pytest.approx(math.log(2))   # a head of zeros prefers nothing
    optimizer = torch.optim.Adam(reward.parameters(), 1e-2)
    for step in range(20):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    good, bad = score_texts(reward, BYTES, [("9?", " yes."), ("9?", " no.")])
    assert good > bad
    with pytest.raises(ValueError, match="no pairs"):
        reward_objective(reward, BYTES, [], 8, 0)


def test_accuracy_and_calibration_by_hand():
    d = torch.tensor([1.0, -1.0, 0.0])
    assert accuracy(d) == 0.5
    sure = math.log(3)   # sigmoid = 3/4
    assert calibration_error(torch.tensor([sure, sure, sure, -sure])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(torch.tensor([sure, -sure])) == pytest.approx(0.25)


# PPO.

def test_gae_is_its_definition():
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 3, 6, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    gamma, lam = 0.9, 0.8
    want = torch.zeros_like(rewards)
    for n in range(3):
        places = mask[n].nonzero()[:, 0].tolist()
        for i, t in enumerate(places):
            for k, u in enumerate(places[i:]):
                after = values[n, u + 1] if u != places[-1] else 0.0
                want[n, t] += (gamma * lam) ** k * (rewards[n, u] + gamma * after - values[n, u])
    torch.testing.assert_close(gae(rewards * mask, values, mask, gamma, lam), want)


def test_lambda_1_is_what_was_paid_minus_the_value():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.4, 0.6]])
    torch.testing.assert_close(gae(rewards, values, torch.ones(1, 3), 1.0, 1.0), 1 - values)
    torch.testing.assert_close(gae(rewards, values, torch.ones(1, 3), 1.0, 0.0),
                               torch.tensor([[0.2, 0.2, 0.4]]))


def test_the_critic_pays_for_the_larger_of_two_errors():
    values = torch.tensor([[1.0, 0.1, 5.0]], requires_grad=True)
    loss = clipped_value_loss(values, torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]]),
                              torch.tensor([[1.0, 1.0, 0.0]]), 0.2)
    assert loss.item() == pytest.approx(0.5 * (0.8**2 + 0.9**2) / 2)
    # At 1.0 the prediction is right, but has moved by more than 0.2: the clipped error counts, and has no
    # slope.
    torch.testing.assert_close(torch.autograd.grad(loss, values)[0], torch.tensor([[0.0, -0.45, 0.0]]))


def test_k3_is_never_negative_and_its_mean_is_the_divergence():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    estimates = kl_k3(p.log(), q.log())
    assert (estimates >= 0).all() and kl_k3(p.log(), p.log()).abs().max() == 0
    torch.testing.assert_close((p * estimates).sum(), (p * (p / q).log()).sum())


def test_the_reward_is_paid_at_the_last_token_and_kl_at_each():
    mask = torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    log_ratio = torch.ones(3, 4)
    got = token_rewards(torch.tensor([5.0, 7.0, 9.0]), log_ratio, mask, 0.1)
    torch.testing.assert_close(got, torch.tensor([[0, -0.1, 4.9, 0], [-0.1, -0.1, -0.1, 6.9], [0, 0, 0, 0]]))


def test_whitened_advantages_have_mean_0_and_deviation_1_and_equal_ones_are_nothing():
    mask = torch.tensor([[1.0, 1, 1, 0]])
    got = whitened(torch.tensor([[1.0, 2.0, 3.0, 99.0]]), mask)
    torch.testing.assert_close(got, torch.tensor([[-1.5**0.5, 0, 1.5**0.5, 0]]), atol=1e-5, rtol=0)
    assert whitened(torch.full((1, 4), 0.7), mask).abs().max() == 0
    assert whitened(torch.zeros(1, 4), torch.zeros(1, 4)).abs().max() == 0


def policies():
    """A policy that is sure of little, and its frozen copy."""
    policy, reference = tiny(), tiny()
    return policy, reference.requires_grad_(False)


def test_the_first_step_is_the_policy_gradient():
    """Where nothing has moved the ratio is 1: the gradient is that of -mean of A log p."""
    policy, reference = policies()
    prompts, answers = [chat_prompt(BYTES, "a?")] * 2, [[65, 66, BYTES.special[EOS]], [70]]
    old, mask = (t.detach() for t in answer_log_probs(policy, prompts, answers, 0))
    advantages = gae(token_rewards(torch.tensor([1.0, -1.0]).double(), old - old, mask, 0.0),
                     torch.zeros_like(old), mask, 1.0, 1.0)
    log_p, _ = answer_log_probs(policy, prompts, answers, 0)
    want = torch.autograd.grad(-(advantages * log_p * mask).sum() / mask.sum(), list(policy.parameters()))
    seen = []
    learner = PPO(policy, reference, BYTES, lambda p, a: torch.tensor([1.0, -1.0]).double(),
                  Knobs(epochs=1, critic=False, kl=0.0), 1e-3, 1e-3)
    learner.update = lambda optimizer, loss: seen.append(torch.autograd.grad(loss, list(policy.parameters())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "sample", lambda *a: [[r] for r in answers])
        patch.setattr(ppo, "whitened", lambda advantages, mask: advantages)
        learner.step(["a?", "a?"], 0)
    for got, expected in zip(seen[0], want):
        torch.testing.assert_close(got, expected)


def test_what_is_paid_for_becomes_likelier_and_a_reward_that_is_no_number_is_refused():
    policy, reference = policies()

    def short(prompts, answers):
        return torch.tensor([float(a[0] % 2 == 0) for a in answers]).double()

    learner = PPO(policy, reference, BYTES, short, Knobs(kl=0.0), 1e-2, 1e-2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "ANSWER_TOKENS", 2)
        first = learner.step(["a?"] * 32, 0)["reward"]
        for seed in range(1, 12):
            last = learner.step(["a?"] * 32, seed)
    assert last["reward"] > first + 0.2 and last["kl"] > 0
    learner.knobs = Knobs(epochs=1)   # at the first update nothing has moved, later the clip can bind
    assert learner.step(["a?"] * 32, 12)["clipped"] == 0
    learner.knobs = Knobs(clip=0.0)
    assert 0 < learner.step(["a?"] * 32, 13)["clipped"] < 1
    learner.reward = lambda prompts, answers: torch.full((len(prompts),), math.nan).double()
    with pytest.raises(ValueError, match="finite"):
        learner.step(["a?"], 0)


def test_spread_over_seeds():
    assert mean_and_spread([1.0, 2.0, 3.0]) == "2.0 ± 1.0" and mean_and_spread([87.94]) == "87.9"
