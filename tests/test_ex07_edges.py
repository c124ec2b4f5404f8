"""Exercises of chapter 7 at their edges: another vocabulary, one row, many answers, improbable ones."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bpe import BOT, USER
from chat_template import answer_batch, initialize_chat_tokens
from cross_entropy import IGNORE
from dpo import dpo_loss
from ex_compare import call, same
from grpo import clipped_policy_loss, group_advantages
from rollout import answer_log_probs
from transformer import Config, Transformer


class Other:
    """A tokenizer whose ids are not the bytes."""

    def __init__(self):
        self.special = {USER: 3, BOT: 9}

    def encode(self, text: str) -> list[int]:
        """One id a character."""
        return [{"\n": 30, ":": 5, "=": 11}[c] for c in text]


@pytest.mark.ex("7.2")
def test_another_vocabulary_has_other_rows():
    """the ids are the tokenizer's: in another vocabulary the line break is not 10"""
    model = Transformer(Config(vocab_size=70, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8,
                               max_len=8)).double()
    before = model.model.embed_tokens.weight.detach().clone()
    call("a vocabulary of 70", initialize_chat_tokens, model, Other())
    want = before.clone()
    want[3], want[9] = before[30], (before[5] + before[11]) / 2
    same(model.model.embed_tokens.weight.detach(), want, "a tokenizer with other ids; the table",
         "ask tokenizer.encode for the ids of the three characters")


@pytest.mark.ex("7.3")
def test_one_right_answer_in_thirty_and_a_group_beside_it():
    """one right in thirty is worth 5.3, and a group that agrees gets zeros beside one that does not"""
    rewards = torch.zeros(2, 30)
    rewards[0, 4], rewards[1] = 1.0, 0.7
    want = torch.stack([(rewards[0] - rewards[0].mean()) / (rewards[0].std() + 1e-4), torch.zeros(30)])
    same(call("two groups of 30", group_advantages, rewards), want, "one right in 30; 30 rewards of 0.7",
         "nothing is cut off, and each group is asked by itself whether it agrees", rtol=1e-5, atol=0)


@pytest.mark.ex("7.4")
@pytest.mark.parametrize("pair", [([4], [9]), ([1, 2, 3], [7, 8, 9])])
def test_one_pair_is_a_batch_of_one(pair):
    """one prompt and one answer are a batch of one row, in int64"""
    prompt, answer = pair
    row = torch.tensor([prompt + answer])
    want = row[:, :-1], torch.tensor([[IGNORE] * (len(prompt) - 1) + answer])
    got = call(f"one pair {pair}", answer_batch, [prompt], [answer], 0)
    same(got, want, f"one pair {pair}", "(B, L - 1) with B = 1, no wider than the longest row")


@pytest.mark.ex("7.6")
def test_the_loss_keeps_the_precision_of_float64():
    """log-probabilities of thousands that differ by a millionth: the loss has all the digits of float64"""
    c, r, rc, rr = (1e-6 * torch.randn(3).double() - 3000 for _ in range(4))
    same(call("log-probabilities of -3000", dpo_loss, c, r, rc, rr, 50.0),
         -F.logsigmoid(50 * (c - rc - r + rr)).mean(), "log-probabilities of about -3000, beta 50",
         "do not go through float32", rtol=1e-9)


@pytest.mark.ex("7.8")
def test_the_policy_loss_keeps_the_precision_of_float64():
    """a ratio of 1.0000001 in float64 is not 1"""
    old, a = torch.full((2, 3), -2.0).double(), torch.tensor([1.0, 2.0]).double()
    got = call("log-probabilities 1e-7 apart", clipped_policy_loss, old + 1.2e-7, old, a,
               torch.ones(2, 3).double())
    want = -1.5 * torch.tensor(1.2e-7).double().exp()
    same(got, want, "log-probabilities 1e-7 apart, advantages 1 and 2", "do not go through float32",
         rtol=1e-12)


class Fixed(nn.Module):
    """Logits that depend on the place alone."""

    def __init__(self, logits):
        super().__init__()
        self.table = nn.Parameter(logits)

    def forward(self, ids):
        return self.table[: ids.shape[1]].expand(len(ids), -1, -1)


@pytest.mark.ex("7.7")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_improbable_answers_have_finite_log_probabilities(dtype):
    """an answer at logit 0 beside 200 has the log-probability -200, and the mask the type of the logits"""
    logits = torch.tensor([[0.0, 200.0, -50.0], [200.0, 0.0, 900.0], [0.0, 0.0, 0.0]]).to(dtype)
    log_p, mask = call("logits of 200", answer_log_probs, Fixed(logits), [[1]], [[0, 1, 2]], 0)
    want = F.log_softmax(logits, -1).gather(-1, torch.tensor([[0], [1], [2]]))[:, 0][None]
    same(log_p, want, f"logits {logits.tolist()} in {dtype}, answer [0, 1, 2]",
         "the logarithm of a softmax that is 0 is -inf: logits[y] - logsumexp(logits), and nothing cut off")
    same(mask, torch.ones(1, 3, dtype=dtype), "the same; the mask", "the mask has the dtype of the logits")


@pytest.mark.ex("7.7")
def test_a_prompt_may_exclude_tokens():
    """logits of minus infinity in the rows of a prompt, at id 0 too, add nothing to the answer"""
    logits = torch.randn(4, 4)
    logits[0, [0, 2]] = -float("inf")
    log_p, mask = call("-inf at id 0 behind the prompt's first token", answer_log_probs, Fixed(logits),
                       [[0, 1]], [[2, 3]], 0)
    want = torch.cat([torch.zeros(1), logits.log_softmax(-1)[[1, 2], [2, 3]]])[None]
    same(log_p, want, "prompt [0, 1], answer [2, 3], -inf at id 0 in row 0",
         "-inf * 0 is NaN: put 0 in its place")


@pytest.mark.ex("7.3")
def test_equal_rewards_are_zeros_without_eps_too():
    """eps 0 and a group that agrees: 0, not 0 / 0"""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    want = torch.stack([(rewards[0] - 0.5) / rewards[0].std(), torch.zeros(4)])
    same(call("eps 0", group_advantages, rewards, 0.0), want, "rewards 1 0 0 1 and four of 0.5, eps 0",
         "0 / 0 is not a number, and times 0 it stays none", rtol=1e-5, atol=0)


@pytest.mark.ex("7.3")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alike_ends_at_eight_roundings(dtype):
    """rewards that are 8 times eps apart, beside a largest of 1, are alike; 9 times eps apart they are not"""
    tiny = torch.finfo(dtype).eps
    rewards = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]], dtype=dtype)
    rewards[:, 1] -= tiny * torch.tensor([8.0, 9.0, -9.0], dtype=dtype)
    half = math.sqrt(0.5)
    want = torch.tensor([[0.0, 0.0], [half, -half], [-half, half]], dtype=dtype)
    same(call("rewards at the limit", group_advantages, rewards, 0.0), want,
         f"pairs of rewards that are 8, 9 and 9 times eps apart, the largest 1 or -1, in {dtype}, eps 0",
         "alike are rewards that differ by 8 times eps of their type times the largest, or by less",
         rtol=1e-2)
