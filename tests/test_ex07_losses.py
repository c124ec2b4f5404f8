"""The exercises of chapter 7 about likelihoods: the loss of DPO, log-probabilities of answers."""

import math

import pytest
import torch
import torch.nn.functional as F

from dpo import dpo_loss
from ex_compare import call, same
from rollout import answer_log_probs
from transformer import Config, Transformer

PROMPTS, ANSWERS = [[1, 2, 3], [4], [5, 6]], [[7, 9], [8, 6, 5, 9], [9]]

# 7.6 the loss of DPO


def log_probs(n=4, scale=2.0):
    """chosen, rejected, ref_chosen, ref_rejected: summed log-probabilities (n,) in float64."""
    return [scale * torch.randn(n).double() - 8 for _ in range(4)]


@pytest.mark.ex("7.6")
def test_dpo_loss_follows_the_formula():
    """the loss is the mean of -log sigmoid(beta * margin)"""
    c, r, rc, rr = log_probs()
    for beta in (0.1, 0.7):

        def mean(margin, beta=beta):
            return -F.logsigmoid(beta * margin).mean()

        want, margin = mean(c - rc - r + rr), c - rc - r + rr
        same(call(f"beta {beta}", dpo_loss, c, r, rc, rr, beta), want,
             f"random log-probabilities of 4 pairs, beta {beta}", "margin: beta times "
             "(what chosen gained over ref_chosen - what rejected gained over ref_rejected); then the mean "
             "of log(1 + exp(-margin))",
             {"the sign of the margin": mean(-margin),
              "the reference is not used": mean(c - r),
              "the reference is added, not subtracted": mean(c + rc - r - rr),
              "beta is not used": mean(margin / beta),
              "beta is written in": mean(0.1 / beta * margin),
              "the sum, not the mean": 4 * want,
              "the mean was taken before the logarithm": -F.logsigmoid(beta * margin.mean()),
              "the probability, not its -log": (beta * margin).sigmoid().mean(),
              "the sign of the loss": -want})


@pytest.mark.ex("7.6")
def test_at_the_reference_the_loss_is_log_two():
    """a model equal to its reference pays log 2"""
    c, r, _, _ = log_probs()
    same(call("the reference itself", dpo_loss, c, r, c, r, 0.3),
         torch.tensor(math.log(2), dtype=torch.float64), "chosen = ref_chosen, rejected = ref_rejected",
         "the margin is 0 and -log sigmoid(0) = log 2")


@pytest.mark.ex("7.6")
def test_dpo_gradient_at_the_reference():
    """a model equal to its reference is pushed with half of beta"""
    c, r, _, _ = log_probs(2)
    chosen, rejected = c.clone().requires_grad_(), r.clone().requires_grad_()
    loss = call("the reference itself", dpo_loss, chosen, rejected, c, r, 0.4)
    half = torch.tensor([0.1, 0.1]).double()
    same(call("its gradient", torch.autograd.grad, loss, (chosen, rejected)), (-half, half),
         "2 pairs, chosen = ref_chosen, rejected = ref_rejected, beta 0.4; the gradients of chosen and "
         "rejected", "by hand: -beta * sigmoid(0) / B = -0.1 for the chosen, 0.1 for the rejected",
         {"two kinks meet at margin 0 (a clamp and an abs): autograd takes one side of each":
              (-2 * half, 2 * half),
          "two kinks meet at margin 0 (a relu or max, and an abs), and autograd finds no slope":
              (0 * half, 0 * half)})


@pytest.mark.ex("7.6")
def test_dpo_gradient():
    """the loss pushes the chosen up and the rejected down, most where the pair is wrong"""
    c, r, rc, rr = log_probs()
    c.requires_grad_(), r.requires_grad_()
    loss = call("random log-probabilities", dpo_loss, c, r, rc, rr, 0.5)
    wrong = (-0.5 * (c - rc - r + rr)).sigmoid().detach() * 0.5 / 4
    same(call("its gradient", torch.autograd.grad, loss, (c, r)), (-wrong, wrong),
         "4 pairs, beta 0.5; the gradients of chosen and rejected",
         "by hand: -beta * sigmoid(-margin) / B for the chosen, the same with plus for the rejected")


@pytest.mark.ex("7.6")
def test_dpo_loss_is_stable():
    """margins of a thousand neither overflow nor lose their gradient"""
    chosen, zero = torch.tensor([1000.0, -1000.0], requires_grad=True), torch.zeros(2)
    loss = call("margins of 1000", dpo_loss, chosen, zero, zero, zero, 1.0)
    same(loss, torch.tensor(500.0), "margins 1000 and -1000, beta 1",
         "exp(1000) is infinite: log(1 + e^x) is the log-sum-exp of 0 and x")
    same(call("its gradient", torch.autograd.grad, loss, chosen)[0], torch.tensor([0.0, -0.5]),
         "margins 1000 and -1000, beta 1; the gradient", "inf / inf in the backward pass gives NaN")


def tiny():
    """A tiny model of 12 tokens whose outputs are far from uniform, in float64."""
    config = Config(vocab_size=12, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8, max_len=32)
    model = Transformer(config)
    for p in model.parameters():
        p.data *= 4
    return model.double()


# 7.7 how likely an answer is


@pytest.mark.ex("7.7")
def test_each_answer_token_has_its_log_probability():
    """every answer token has the log-probability that the model gives it"""
    model = tiny()
    log_p, mask = call("three answers", answer_log_probs, model, PROMPTS, ANSWERS, 0)
    want, targets, unmasked = (torch.zeros(3, 4).double(), torch.zeros(3, 4).double(),
                               torch.zeros(3, 4).double())
    for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS)):
        every = model(torch.tensor([p + a]))[0].detach()
        for j, token in enumerate(a, len(p) - 1):
            want[i, j] = every[j].log_softmax(-1)[token]
            targets[i, j] = every[j].log_softmax(-1)[(p + a)[j]]
            unmasked[i, j] = every[j][token]
    given = f"prompts {PROMPTS}, answers {ANSWERS}; log_p"
    same(log_p, want, given, "log_p[i, t] = log softmax(logits[i, t])[y[i, t]], 0 where y is IGNORE",
         {"logits, not log-probabilities: subtract logsumexp": unmasked,
          "probabilities, not their logarithms": want.exp() * (want != 0),
          "the input tokens were scored, not the targets": targets,
          "the sign": -want})
    same(mask, (want != 0).double(), given + "; the mask", "1 where the target is not IGNORE")


@pytest.mark.ex("7.7")
def test_padding_and_prompts_add_nothing():
    """prompt and padding add nothing to the sum of an answer"""
    model = tiny()
    log_p, mask = call("three answers", answer_log_probs, model, PROMPTS, ANSWERS, 0)
    given = f"prompts {PROMPTS}, answers {ANSWERS}"
    same(mask.sum(1), torch.tensor([2.0, 4.0, 1.0], dtype=torch.float64), given + "; sums of the mask",
         "one for each answer token")
    for i in range(3):
        alone = call("one answer", answer_log_probs, model, PROMPTS[i : i + 1], ANSWERS[i : i + 1], 0)[
            0
        ].sum()
        same(log_p[i].sum(), alone.detach(), given + f"; the sum of row {i} in the batch and alone",
             "multiply by the mask: a target that is IGNORE has no log-probability")


@pytest.mark.ex("7.7")
def test_token_zero_counts():
    """an answer may contain token 0"""
    model = tiny()
    log_p, mask = call("an answer with token 0", answer_log_probs, model, [[1, 2]], [[0, 3]], 0)
    given = "prompt [1, 2], answer [0, 3]"
    want = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)
    same(mask, want, given + "; the mask", "compare with IGNORE, not with 0")
    every = model(torch.tensor([[1, 2, 0, 3]]))[0].detach().log_softmax(-1)
    want = torch.stack((torch.zeros(()).double(), every[1, 0], every[2, 3]))[None]
    same(log_p, want, given + "; log_p", "token 0 is a token: clamp ignored targets to 0, and no others")


@pytest.mark.ex("7.7")
def test_log_probabilities_have_a_gradient():
    """the log-probabilities have a gradient"""
    model = tiny()
    log_p, _ = call("three answers", answer_log_probs, model, PROMPTS, ANSWERS, 0)
    if not log_p.requires_grad:
        pytest.fail("given three answers, got log-probabilities without a gradient, wanted them to have one",
                    pytrace=False)
