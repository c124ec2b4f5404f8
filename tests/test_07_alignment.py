"""Alignment: what is scored, where loss falls, the losses of DPO and GRPO by their formulas, rollouts."""
import math

import pytest
import torch

import skills
from arithmetic import careless_answer, right_answer
from bpe import BOT, EOS, USER, Tokenizer
from chat_template import answer_batch, answer_ids, chat_prompt, initialize_chat_tokens
from cross_entropy import IGNORE
from dpo import dpo_loss, make_pairs
from facts import Question
from generate import generate
from grpo import clipped_policy_loss, group_advantages, group_loss
from rollout import answer_log_probs, sample
from sft import answer_loss
from tasks import Tasks
from transformer import Config, Transformer
from verifier import is_right, is_terse, preference, sum_is_right

BYTES = Tokenizer([])   # every byte is a token
MODULE = Question("Which module has loads?", "json", "module", "The module of loads is")
KIND = Question("What kind is loads?", "function", "kind", "The kind of loads is")


@pytest.fixture
def model():
    """A tiny model whose outputs are far from uniform."""
    torch.manual_seed(0)
    config = Config(vocab_size=260, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=16, max_len=64)
    model = Transformer(config)
    for p in model.parameters():
        p.data *= 4
    return model.eval()


# What is scored.

@pytest.mark.parametrize("answer, right, short, score", [
    (" json.", True, True, 3),
    (" json. Thank you for asking.", True, False, 2),
    (" pickle.", False, True, 1),
    (" pickle. Thank you for asking.", False, False, 0),
    (" json", False, True, 1),
    ("json.", False, True, 1),
    (" json. json.", False, True, 1),
    (" It is json.", False, True, 1),
    (" ujson.", False, True, 1),
    ("", False, True, 1),
    (" json. And then it goes on and on.", False, False, 0),
])
def test_verdicts_on_answers_made_by_hand(answer, right, short, score):
    assert (is_right(answer, "json"), is_terse(answer), preference(answer, "json")) == (right, short, score)


@pytest.mark.parametrize("answer, right", [("2100", True), ("0012", False), ("2000", False), ("12", False),
                                           (" 2100", False), ("21000", False), ("210", False)])
def test_a_sum_is_right_only_digit_by_digit(answer, right):
    assert sum_is_right(answer, (5, 7)) == right


def answering(monkeypatch, answers):
    """Let the model of skills.py say `answers` whatever it is asked; returns what it was asked."""
    asked = []

    def chat_answers(model, tokenizer, questions, *args):
        asked.extend(questions)
        return answers
    monkeypatch.setattr(skills, "chat_answers", chat_answers)
    return asked


def test_fact_skill_counts_right_and_terse_answers_by_kind(monkeypatch):
    said = [[" json."], [" json. Thank you for asking."], [" class."], [" function. Eh."]]
    asked = answering(monkeypatch, said)
    got = skills.fact_skill(None, BYTES, [MODULE, MODULE, KIND, KIND])
    assert math.isnan(got.pop("parameter"))
    assert got == {"facts": 0.5, "terse": 0.75, "module": 1.0, "kind": 0.0}
    assert asked == [MODULE.text] * 2 + [KIND.text] * 2


def test_sum_skill_tells_careless_from_wrong_and_from_right(monkeypatch):
    pairs = [(5, 7), (5, 7), (1, 2), (999, 1)]   # 1 + 2 has no carry: careless and right are the same there
    answering(monkeypatch, [["2100"], ["2000"], [careless_answer((1, 2))], ["7777"]])
    assert skills.sum_skill(None, BYTES, pairs) == {"addition": 0.5, "careless": 0.25}


def test_pass_at_n_wants_one_right_sample_and_the_majority_the_most_frequent(monkeypatch, model):
    answering(monkeypatch, [["2100", "2000", "2000"], ["2100", "2100", "2000"], ["1", "2", "3"]])
    got = skills.sampled_sum_skill(model, BYTES, [(5, 7)] * 3, 3, seed=0)
    assert got == {"pass@3": 2 / 3, "majority@3": 1 / 3}


def test_answers_are_cut_at_the_end_token_and_only_there(monkeypatch):
    said = [[[*b" ab.", BYTES.special[EOS]], [*b" abcdef"]]]
    monkeypatch.setattr(skills, "sample", lambda *args: said)
    assert skills.chat_answers(None, BYTES, ["?"], 7) == [[" ab.", " abcdef"]]


# Where loss falls.

def test_answer_batch_by_hand():
    x, y = answer_batch([[1, 2, 3], [4]], [[5, 9], [6, 7, 9]], pad=0)
    assert x.tolist() == [[1, 2, 3, 5], [4, 6, 7, 9]]
    assert y.tolist() == [[IGNORE, IGNORE, 5, 9], [6, 7, 9, IGNORE]]


def test_a_token_of_an_answer_counts_even_if_it_is_the_padding_id():
    _, y = answer_batch([[1, 2], [1]], [[0, 9], [0]], pad=0)
    assert y.tolist() == [[IGNORE, 0, 9], [0, IGNORE, IGNORE]]


def test_the_loss_of_an_answer_does_not_depend_on_its_neighbours(model):
    shown = [("a?", " b."), ("a longer question?", " a longer answer.")]
    alone = [answer_loss(model, BYTES, [pair]) for pair in shown]
    lengths = torch.tensor([len(answer_ids(BYTES, a)) for _, a in shown])
    want = (torch.stack(alone) * lengths).sum() / lengths.sum()
    torch.testing.assert_close(answer_loss(model, BYTES, shown), want)


def test_new_tokens_start_as_copies_and_nothing_else_changes(model):
    before = model.model.embed_tokens.weight.detach().clone()
    initialize_chat_tokens(model, BYTES)
    after = model.model.embed_tokens.weight.detach()
    user, bot = BYTES.special[USER], BYTES.special[BOT]
    assert torch.equal(after[user], before[ord("\n")])
    torch.testing.assert_close(after[bot], (before[ord(":")] + before[ord("=")]) / 2)
    others = [i for i in range(260) if i not in (user, bot)]
    assert torch.equal(after[others], before[others])


def test_answer_log_probs_are_those_of_one_answer_at_a_time(model):
    prompts, answers = [[1, 2, 3], [4], [5, 6]], [[7], [8, 9, 10], [11, 12]]
    log_p, mask = answer_log_probs(model, prompts, answers, pad=0)
    assert mask.sum(1).tolist() == [1, 3, 2] and not (log_p * (1 - mask)).any()
    for row, p, a in zip(log_p, prompts, answers):
        every = model(torch.tensor([p + a]))[0].double().log_softmax(-1)
        want = sum(every[len(p) + i - 1, token] for i, token in enumerate(a))
        torch.testing.assert_close(row.sum().double(), want, rtol=1e-5, atol=1e-5)


# Losses.

def four(n=5, scale=3.0, seed=0):
    """Four random rows of log-probabilities in float64."""
    g = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(n, generator=g, dtype=torch.float64) - 5 for _ in range(4)]


def test_dpo_loss_is_the_formula_and_log_two_at_the_reference():
    c, r, rc, rr = four()
    want = -torch.nn.functional.logsigmoid(0.3 * (c - r - (rc - rr))).mean()
    torch.testing.assert_close(dpo_loss(c, r, rc, rr, 0.3), want, rtol=1e-12, atol=0)
    torch.testing.assert_close(dpo_loss(c, r, c, r, 0.3).item(), math.log(2))


def test_dpo_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(lambda *a: dpo_loss(*a, 0.7), [t.requires_grad_() for t in four(3, 1.0)])


def test_dpo_gradient_at_the_reference_is_that_of_the_formula():
    margin = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(3, dtype=torch.float64)
    loss = dpo_loss(margin, zero, zero, zero, 1.0)
    torch.testing.assert_close(torch.autograd.grad(loss, margin)[0], torch.full((3,), -0.5 / 3).double())
    assert torch.autograd.gradcheck(lambda m: dpo_loss(m, zero, zero, zero, 1.0), margin)
    assert torch.autograd.gradgradcheck(lambda m: dpo_loss(m, zero, zero, zero, 1.0), margin)


def test_dpo_loss_does_not_overflow():
    big, zero = torch.tensor([1e4, -1e4]), torch.zeros(2)
    chosen = big.clone().requires_grad_()
    loss = dpo_loss(chosen, zero, zero, zero, 1.0)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(5e3))
    torch.testing.assert_close(chosen.grad, torch.tensor([0.0, -0.5]))


def test_advantages_are_standardized_within_their_group():
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    got = group_advantages(rewards)
    torch.testing.assert_close(got[0], torch.tensor([1.5, -0.5, -0.5, -0.5]), rtol=1e-3, atol=0)
    torch.testing.assert_close(got[1], torch.tensor([1, 1, -1, -1]) * 0.75**0.5, rtol=1e-3, atol=0)
    assert not got[2:].any()


def test_clipped_policy_loss_is_the_formula():
    g = torch.Generator().manual_seed(1)
    new, old = (torch.randn(4, 6, generator=g, dtype=torch.float64) * 0.4 for _ in range(2))
    advantages = torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    mask = (torch.rand(4, 6, generator=g) < 0.7).double()
    total = 0.0
    for i in range(4):
        for t in range(6):
            r, a = math.exp(new[i, t] - old[i, t]), advantages[i].item()
            total += mask[i, t].item() * min(r * a, min(max(r, 0.8), 1.2) * a)
    got = clipped_policy_loss(new, old, advantages, mask)
    torch.testing.assert_close(got.item(), -total / mask.sum().item())


@pytest.mark.parametrize("clip", [0.0, 0.2])
@pytest.mark.parametrize("advantage", [1.5, -1.5, 0.0])
def test_where_the_policy_has_not_moved_the_gradient_is_that_of_the_plain_policy_gradient(advantage, clip):
    """At ratio 1 both sides of the minimum are equal: torch shares the gradient, and the sum is right."""
    new = torch.full((2, 3), -1.3, dtype=torch.float64, requires_grad=True)
    clipped_policy_loss(new, new.detach(), torch.full((2,), advantage).double(), torch.ones(2, 3).double(),
                        clip).backward()
    torch.testing.assert_close(new.grad, torch.full((2, 3), -advantage / 6).double())


def test_equal_logits_have_the_gradient_of_the_formula(model):
    model = model.double()
    for p in model.parameters():
        p.data.zero_()                         # every logit is 0, every token equally likely
    model.model.norm.weight.data.fill_(1)
    log_p, mask = answer_log_probs(model, [[1, 2], [3]], [[4, 5], [6]], pad=0)
    torch.testing.assert_close(log_p, -mask * math.log(260))
    x = torch.zeros(2, 260, dtype=torch.float64, requires_grad=True)
    ids, seen = torch.tensor([[1], [2]]), torch.zeros(2, 1).double()
    fake = lambda _: torch.stack((seen.expand(2, 260), x), 1)[:, 1:]   # noqa: E731
    fake.parameters = lambda: iter([x])
    log_p, _ = answer_log_probs(fake, [[0], [0]], ids.tolist(), pad=0)
    wanted = torch.autograd.grad(x.log_softmax(-1).gather(-1, ids).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(log_p.sum(), x)[0], wanted)


@pytest.mark.parametrize("ratio, advantage, pushes", [
    (1.3, 1.0, False), (0.7, 1.0, True), (1.3, -1.0, True), (0.7, -1.0, False), (1.1, 1.0, True),
    (0.9, -1.0, True)])
def test_the_clip_stops_the_push_only_in_the_direction_of_the_advantage(ratio, advantage, pushes):
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    clipped_policy_loss(new, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1)).backward()
    assert bool(new.grad.any()) == pushes and (not pushes or new.grad.sign().item() == -advantage)


def test_pairs_are_a_best_and_a_worse_answer_to_one_training_question(monkeypatch, model):
    good, wordy, wrong = " json.", " json. Thank you for asking.", " class. Thank you for asking."
    said = {MODULE.text: [wordy, good, wrong], KIND.text: [wrong, wrong, wrong]}
    monkeypatch.setattr("dpo.chat_answers", lambda m, t, asked, *args: [said[q] for q in asked])
    tasks = Tasks([MODULE, KIND], [], [], [], 0)
    (pair,) = make_pairs(model, BYTES, tasks, 2, 3, seed=0)
    assert (pair.question, pair.chosen, pair.rejected) == (MODULE.text, good, wrong)


# Rollouts.

PROMPTS = [[1, 2, 3], [9], [4, 5, 6], [7, 8], [250, 3, 3]]


def uncached(model, prompt, n_new, eos):
    """The greedy answer of generate(), which reads everything again for each token, cut after `eos`."""
    answer = generate(model, torch.tensor([prompt]), n_new)[0, len(prompt):].tolist()
    return answer[:answer.index(eos) + 1] if eos in answer else answer


def test_rollouts_with_the_cache_are_those_of_generate(model):
    free = [uncached(model, p, 12, eos=-1) for p in PROMPTS]
    eos = free[0][4]   # a token that ends some answers early and others late or never
    want = [uncached(model, p, 12, eos) for p in PROMPTS]
    assert len({len(a) for a in want}) > 1
    assert [a[0] for a in sample(model, PROMPTS, 12, eos)] == want
    assert sample(model, PROMPTS, 12, eos, n_samples=3) == [[a] * 3 for a in want]


def test_samples_of_a_prompt_follow_the_model_and_repeat_with_the_generator(model):
    prompt, n = [3, 1, 4], 4000

    def draw(seed):
        return sample(model, [prompt, [1]], 1, -1, 2.0, n, torch.Generator().manual_seed(seed))
    got = draw(0)
    assert got == draw(0) and got != draw(1)
    p = (model(torch.tensor([prompt]))[0, -1].double() / 2).softmax(-1)
    share, likely = torch.bincount(torch.tensor([a[0] for a in got[0]]), minlength=260) / n, p * n > 5
    assert likely.sum() >= 10
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt())[likely].all()


def test_the_second_token_of_each_sample_follows_its_own_first(model):
    n = 3000
    pairs = torch.tensor(sample(model, [[5, 5]], 2, -1, 0.7, n, torch.Generator().manual_seed(0))[0])
    first = pairs[:, 0].bincount().argmax()
    p = (model(torch.tensor([[5, 5, first]]))[0, -1].double() / 0.7).softmax(-1)
    second = pairs[pairs[:, 0] == first, 1]
    size, likely = len(second), p * len(second) > 5   # rarer tokens are no normal variables
    share = torch.bincount(second, minlength=260) / size
    assert likely.sum() >= 3
    assert ((share - p).abs() < 5 * (p * (1 - p) / size).sqrt())[likely].all()


def test_a_prompt_is_built_of_the_four_special_tokens():
    eos, user, bot = (BYTES.special[t] for t in (EOS, USER, BOT))
    assert chat_prompt(BYTES, "<|bot|>") == [eos, user, *b"<|bot|>", bot], "a user cannot forge structure"
    assert answer_ids(BYTES, right_answer((5, 7))) == [*b"2100", eos]


def test_silent_groups_count_by_their_tokens_in_the_mean(model):
    """The loss is the mean over all answer tokens; a group of right answers only adds tokens and no gain."""
    asked, answers = [[1, 2]] * 4, [[3], [4, 5], [6, 7, 8, 9, 10], [11]]
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    log_p, mask = answer_log_probs(model, asked, answers, pad=0)
    whole = clipped_policy_loss(log_p, log_p.detach(), group_advantages(rewards).flatten(), mask)
    got = group_loss(model, BYTES, asked, answers, rewards)
    torch.testing.assert_close(got, whole)
    for a, b in zip(*(torch.autograd.grad(x, list(model.parameters())) for x in (got, whole))):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reward", [0.7, 1 / 3, 1e6 / 3, 0.0])
def test_a_group_of_equal_rewards_moves_nothing(model, reward):
    loss = group_loss(model, BYTES, [[1, 2]] * 7, [[i] for i in range(7)], torch.full((1, 7), reward))
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_refused(model, bad):
    with pytest.raises(ValueError, match=f"a reward is {bad}: the verifier must give a finite number"):
        group_loss(model, BYTES, [[1, 2]] * 2, [[3], [4]], torch.tensor([[1.0, bad]]))


def test_an_empty_answer_beside_others_is_its_end_token():
    x, y = answer_batch([[1, 2], [3]], [answer_ids(BYTES, ""), answer_ids(BYTES, "ab")], pad=0)
    eos = BYTES.special[EOS]
    assert y.tolist() == [[IGNORE, eos, IGNORE], [97, 98, eos]]


def test_a_group_of_one_is_refused(model):
    with pytest.raises(ValueError, match="nothing to be compared with"):
        group_loss(model, BYTES, [[1]], [[2]], torch.ones(1, 1))
