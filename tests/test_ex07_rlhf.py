"""The exercises of chapter 7 about adapters, reward models and PPO."""

import pytest
import torch

from ex_compare import call, same
from grpo import kl_k3
from linear import Linear
from lora import LoRALinear
from ppo import clipped_value_loss, gae
from preferences import bradley_terry_loss

# 7.9 a low-rank correction, 7.10 merge


def adapter(n_in, n_out, rank, alpha, dtype=torch.float64):
    """An adapter whose matrices are all random."""
    made = LoRALinear(Linear(n_in, n_out), n_in, n_out, rank, alpha).to(dtype)
    torch.nn.init.normal_(made.B)
    return made


def product(made):
    """(alpha / r) B A, element by element."""
    n_out, rank = made.B.shape
    total = torch.zeros(n_out, made.A.shape[1], dtype=made.A.dtype)
    for i in range(rank):
        total += made.scale * made.B[:, i, None] * made.A[i]
    return total.detach()


@pytest.mark.ex("7.9")
@pytest.mark.parametrize("n_in, n_out, rank, alpha", [(3, 2, 1, 1.0), (4, 6, 2, 8.0), (5, 5, 5, 2.0)])
def test_the_adapter_adds_its_product_to_the_matrix(n_in, n_out, rank, alpha):
    """the output is that of the matrix W + (alpha / r) B A, for inputs of any shape"""
    made = adapter(n_in, n_out, rank, alpha)
    whole = made.base.weight.detach() + product(made)
    for shape in ((n_in,), (2, n_in), (2, 3, n_in)):
        x = torch.randn(shape, dtype=torch.float64)
        base, low = x @ made.base.weight.detach().T, x @ product(made).T
        given = f"x {tuple(shape)}, rank {rank}, alpha {alpha}"
        got = call(given, made.forward, x)
        same(got, x @ whole.T, given, "base(x) + scale * (x A^T) B^T", {
            "the scale alpha / r is missing": base + low / made.scale, "the base is missing": low,
            "the correction is missing": base})


@pytest.mark.ex("7.9")
def test_the_adapter_keeps_the_format_of_its_input():
    """an input in 16 bits gives an output in 16 bits, as Linear does"""
    made = adapter(4, 4, 2, 2.0, torch.float32)
    x = torch.randn(2, 4).bfloat16()
    got = call("x in bfloat16", made.forward, x)
    same(str(got.dtype), "torch.bfloat16", "x in bfloat16, weights in float32; the dtype",
         "A and B are cast to x.dtype where they are used")


@pytest.mark.ex("7.10")
@pytest.mark.parametrize("n_in, n_out, rank, alpha", [(3, 2, 1, 1.0), (4, 6, 2, 8.0), (6, 3, 3, 1.5)])
def test_merging_adds_this_matrix(n_in, n_out, rank, alpha):
    """product() is (alpha / r) B A with the shape of W, and base and adapter stay as they are"""
    made = adapter(n_in, n_out, rank, alpha)
    given = f"A ({rank}, {n_in}), B ({n_out}, {rank}), alpha {alpha}"
    before = [p.detach().clone() for p in (made.A, made.B)]
    want = product(made)
    same(call(given, made.product), want, given, "scale * B A, (out, in)",
         {"the scale alpha / r is missing": want / made.scale})
    same([made.A.detach(), made.B.detach()], before, given + "; A and B afterwards",
         "make a new matrix, change none")


# 7.11 the loss of a reward model


def log_sigmoid_mean(chosen, rejected):
    """The definition, by torch."""
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


@pytest.mark.ex("7.11")
@pytest.mark.parametrize("n", [1, 5])
def test_the_loss_is_minus_log_sigmoid_of_the_difference(n):
    """the mean of -log sigmoid(chosen - rejected), a number with a gradient"""
    chosen, rejected = 3 * torch.randn(2, n, dtype=torch.float64)
    given = f"{n} pairs"
    want = log_sigmoid_mean(chosen, rejected)
    same(call(given, bradley_terry_loss, chosen, rejected), want, given, "", {
        "chosen and rejected are swapped": log_sigmoid_mean(rejected, chosen),
        "the sum, not the mean": want * n})


@pytest.mark.ex("7.11")
def test_scores_far_apart_do_not_overflow():
    """a difference of -800 costs 800, in single precision too, and one of 800 nothing"""
    for dtype in (torch.float64, torch.float32):
        chosen, rejected = torch.tensor([-400.0, 400.0]).to(dtype), torch.tensor([400.0, -400.0]).to(dtype)
        given = f"chosen [-400, 400], rejected [400, -400], {dtype}"
        same(call(given, bradley_terry_loss, chosen, rejected), torch.tensor(400.0, dtype=dtype), given,
             "log(1 + e^-x) overflows: use logaddexp")


@pytest.mark.ex("7.11")
def test_the_slope_at_equal_scores_is_a_half():
    """where both scores are equal the slope of one pair is -1/2"""
    chosen = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    loss = call("equal scores", bradley_terry_loss, chosen, torch.tensor([0.7], dtype=torch.float64))
    [slope] = call("equal scores", torch.autograd.grad, loss, [chosen])
    same(slope, torch.tensor([-0.5], dtype=torch.float64), "chosen = rejected = 0.7; the slope",
         "relu and abs have a kink at 0")


# 7.12 generalized advantage estimation


def gae_by_definition(rewards, values, mask, gamma, lam):
    """The double sum."""
    want = torch.zeros_like(rewards)
    for n in range(len(rewards)):
        places = mask[n].nonzero()[:, 0].tolist()
        for i, t in enumerate(places):
            for k, u in enumerate(places[i:]):
                after = values[n, u + 1] if u != places[-1] else 0.0
                want[n, t] += (gamma * lam) ** k * (rewards[n, u] + gamma * after - values[n, u])
    return want


@pytest.mark.ex("7.12")
def test_gae_on_the_worked_example():
    """rewards 0, 0, 1 and values 0.2, 0.4, 0.6"""
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.4, 0.6]])
    for lam, want in ((1.0, [[0.8, 0.6, 0.4]]), (0.0, [[0.2, 0.2, 0.4]]), (0.5, [[0.4, 0.4, 0.4]])):
        given = f"rewards [0, 0, 1], values [0.2, 0.4, 0.6], gamma 1, lambda {lam}"
        same(call(given, gae, rewards, values, torch.ones(1, 3), 1.0, lam), torch.tensor(want), given,
             "go through the tokens from the last", rtol=1e-5)


@pytest.mark.ex("7.12")
@pytest.mark.parametrize("gamma, lam", [(0.9, 0.8), (1.0, 0.95), (0.5, 1.0)])
def test_gae_is_its_double_sum(gamma, lam):
    """the definition, for answers of several lengths with prompt before and padding after"""
    rewards, values = torch.randn(2, 3, 6, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0]], dtype=torch.float64)
    given = f"three answers of 3, 6 and 1 tokens, gamma {gamma}, lambda {lam}"
    same(call(given, gae, rewards * mask, values, mask, gamma, lam),
         gae_by_definition(rewards, values, mask, gamma, lam), given,
         "values outside the answer are not part of it: V is 0 after its last token", {
             "gamma is missing in the sum of the deltas":
             gae_by_definition(rewards, values, mask, gamma, lam / gamma)})


@pytest.mark.ex("7.12")
def test_gae_leaves_its_inputs_alone():
    """rewards, values and mask are the caller's, and prompt and padding have advantage 0"""
    rewards, values = torch.randn(2, 1, 4, dtype=torch.float64)
    mask = torch.tensor([[0.0, 1, 1, 0]], dtype=torch.float64)
    rewards = rewards * mask
    kept = [t.clone() for t in (rewards, values, mask)]
    got = call("one answer in the middle", gae, rewards, values, mask)
    same((abs(got[0, 0].item()), abs(got[0, 3].item())), (0.0, 0.0),
         "mask [0, 1, 1, 0]; the first and last advantage", "multiply by the mask")
    same([rewards, values, mask], kept, "the inputs afterwards", "make new tensors")


# 7.13 the clipped loss of the critic


@pytest.mark.ex("7.13")
def test_the_critic_by_hand():
    """three tokens, of which two count: one inside the clip, one outside"""
    values, old = torch.tensor([[1.0, 0.1, 5.0]]).double(), torch.zeros(1, 3).double()
    returns, mask = torch.tensor([[1.0, 1.0, 0.0]]).double(), torch.tensor([[1.0, 1.0, 0.0]]).double()
    given = "V [1, 0.1, 5], V_old 0, R [1, 1, 0], mask [1, 1, 0], clip 0.2"
    same(call(given, clipped_value_loss, values, old, returns, mask), torch.tensor(0.3625).double(), given,
         "the larger of the two squares, each token, half their mean over the answer", {
             "the smaller of the two squares": 0.5 * (0 + 0.81) / 2, "the half is missing": 0.725,
             "the mean is over padding too": 0.5 * (0.64 + 0.81) / 3})
    given = "V [1, 0.1, 5], V_old 0, R [1, 1, 0], mask [1, 0, 0], clip 0.2"
    first = torch.tensor([[1.0, 0.0, 0.0]]).double()
    same(call(given, clipped_value_loss, values, old, returns, first), torch.tensor(0.32).double(), given,
         "one token counts: the mean is its own error")


@pytest.mark.ex("7.13")
@pytest.mark.parametrize("clip", [0.1, 0.5])
def test_the_critic_against_its_formula(clip):
    """many tokens, and the gradient"""
    old, returns = torch.randn(2, 4, 5, dtype=torch.float64)
    values = (old + 0.6 * torch.randn(4, 5, dtype=torch.float64)).requires_grad_()
    mask = (torch.rand(4, 5) < 0.7).double()
    mask[0, 0] = 1.0
    near = torch.minimum(torch.maximum(values, old - clip), old + clip)
    want = 0.5 * (torch.maximum((values - returns) ** 2, (near - returns) ** 2) * mask).sum() / mask.sum()
    given = f"20 tokens, clip {clip}"
    got = call(given, clipped_value_loss, values, old, returns, mask, clip)
    same(got, want, given, "clip V - V_old to -c .. c")
    [slope] = call(given, torch.autograd.grad, got, [values])
    same(slope, torch.autograd.grad(want, values)[0], given + "; its gradient")


@pytest.mark.ex("7.13")
def test_the_critic_of_no_answer_costs_nothing():
    """an empty mask gives 0, not NaN"""
    some = torch.ones(2, 2)
    same(call("an empty mask", clipped_value_loss, some, some, some + 1, 0 * some), torch.tensor(0.0),
         "an empty mask", "divide by at least 1")


# 7.14 an estimate of KL that is never negative


@pytest.mark.ex("7.14")
def test_k3_by_hand():
    """q/p of 1/2, 1 and 2"""
    log_p, ref = torch.zeros(3, dtype=torch.float64), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).log()
    want = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) - 1 - ref
    given = "log p 0, ref/p of 1/2, 1 and 2"
    same(call(given, kl_k3, log_p, ref), want, given, "", {
        "p and ref are swapped": (-ref).exp() - 1 + ref, "that is k1, -log(ref / p)": -ref,
        "that is k2, half of (log ratio)^2": ref**2 / 2})


@pytest.mark.ex("7.14")
def test_k3_is_the_divergence_on_average_and_never_negative():
    """its mean under p is KL(p || ref), each estimate is at least 0 and there is one a token"""
    p, q = torch.rand(2, 50, dtype=torch.float64).softmax(1)
    got = call("50 outcomes", kl_k3, p.log(), q.log())
    same((p * got).sum(), (p * (p / q).log()).sum(), "the mean of k3 under p",
         "q - 1 - log q with q = ref / p")
    same(bool((got >= 0).all()), True, "all estimates at least 0", "")


@pytest.mark.ex("7.14")
def test_the_gradient_of_k3_goes_through_p():
    """d k3 / d log p = 1 - ref/p"""
    log_p = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-1.5, -0.5], dtype=torch.float64)
    got = call("two tokens", kl_k3, log_p, ref)
    [slope] = call("two tokens", torch.autograd.grad, got.sum(), [log_p])
    same(slope, 1 - (ref - log_p.detach()).exp(), "log p [-1, -2], log ref [-1.5, -0.5]; the gradient",
         "do not detach")


@pytest.mark.ex("7.14")
def test_a_token_that_the_reference_rules_out_has_a_finite_price():
    """log p 0 and log ref -800: 799, although exp(-800) is 0"""
    log_p, ref = torch.zeros(1, dtype=torch.float64), torch.full((1,), -800.0, dtype=torch.float64)
    same(call("log p 0, log ref -800", kl_k3, log_p, ref), torch.full((1,), 799.0, dtype=torch.float64),
         "log p 0, log ref -800", "exp(-800) is 0: do not take its logarithm again")
