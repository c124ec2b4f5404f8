"""The exercises of chapter 3 about the loss: cross-entropy and its gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from cross_entropy import IGNORE, cross_entropy_naive, grad_of_logits
from ex_compare import call, same

# 3.5 cross-entropy; 3.9 its gradient


def predictions(n=6, vocab=5):
    """Random logits (n, vocab) in float64 and targets (n,)."""
    return 3 * torch.randn(n, vocab, dtype=torch.float64), torch.randint(vocab, (n,))


@pytest.mark.ex("3.5")
def test_a_uniform_model_pays_log_v():
    """a model that knows nothing pays log V a token"""
    for vocab in (2, 10):
        got = call("equal logits", cross_entropy_naive, torch.zeros(3, vocab), torch.tensor([0, 1, 1]))
        same(got, torch.tensor(math.log(vocab)), f"3 rows of {vocab} equal logits",
             "the mean of -log(1 / V) is log V",
             {"the sign: a loss is positive": torch.tensor(-math.log(vocab)),
              "the sum, not the mean": torch.tensor(3 * math.log(vocab)),
              "the softmax runs over the rows, not over the vocabulary": torch.tensor(math.log(3))})


@pytest.mark.ex("3.5")
def test_the_loss_is_that_of_torch():
    """random logits give torch's value, and gradients flow"""
    logits, targets = predictions()
    logits.requires_grad_()
    want = F.cross_entropy(logits, targets)
    got = call("random logits (6, 5)", cross_entropy_naive, logits, targets)
    same(got, want, "random logits (6, 5)", "the mean over rows of logsumexp(logits) - logits[target]",
         {"the logits are not normalized: subtract their logsumexp": -logits[range(6), targets].mean(),
          "the softmax runs over the rows": -logits.log_softmax(0)[range(6), targets].mean(),
          "the sign": -want,
          "the sum, not the mean": want * 6})
    same(call("the same", torch.autograd.grad, got, logits), torch.autograd.grad(want, logits),
         "random logits (6, 5); the gradient", "use tensor operations all the way, no .item() or .detach()")


@pytest.mark.ex("3.5")
def test_ignored_targets_do_not_count():
    """targets marked IGNORE count neither in the sum nor in the number"""
    logits, targets = predictions()
    targets[[1, 2, 4]] = IGNORE
    want, nll = F.cross_entropy(logits, targets), F.cross_entropy(logits, targets, reduction="none")
    all_rows = -logits.log_softmax(-1)[range(6), targets.clamp(min=0)]
    same(call("3 of 6 targets ignored", cross_entropy_naive, logits, targets), want,
         "6 rows, 3 of them ignored", "divide by the number of targets that are not IGNORE",
         {"ignored rows count in the number: divide by kept.sum()": nll.sum() / 6,
          "ignored rows count as if their target were 0": all_rows.sum() / 3,
          "nothing is ignored": all_rows.mean(),
          "the sum, not the mean": nll.sum()})


@pytest.mark.ex("3.5")
def test_one_target_is_its_own_mean():
    """a single target that counts is its own mean"""
    logits, _ = predictions()
    targets = torch.tensor([IGNORE, IGNORE, 3, IGNORE, IGNORE, IGNORE])
    want = F.cross_entropy(logits[2:3], targets[2:3])
    got = call("one target of 6 counts", cross_entropy_naive, logits, targets)
    same(got, want, "one target of 6 counts", "divide by 1 here",
         {"divided by 2": want / 2, "by 6": want / 6})


@pytest.mark.ex("3.5")
def test_nothing_to_predict_costs_nothing():
    """a batch without any target costs 0, not NaN"""
    logits, _ = predictions()
    same(call("all targets ignored", cross_entropy_naive, logits, torch.full((6,), IGNORE)),
         torch.tensor(0.0, dtype=torch.float64), "all targets ignored", "0 / 0 is NaN: divide by at least 1")


@pytest.mark.ex("3.5")
def test_the_loss_is_stable():
    """logits of a thousand neither overflow nor underflow"""
    logits, targets = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]]), torch.tensor([1, 0])
    same(call("logits of 1000", cross_entropy_naive, logits, targets), torch.tensor(1000.0),
         f"logits {logits.tolist()}",
         "exp(1000) is infinite and log(exp(-1000)) is -inf: use logits.logsumexp, which subtracts the "
         "maximum first")


def gradient_case(n=6, ignored=()):
    """Logits, what grad_of_logits is given, and the gradient by torch's autograd."""
    logits, targets = predictions(n)
    targets[list(ignored)] = IGNORE
    leaf = logits.clone().requires_grad_()
    F.cross_entropy(leaf, targets).backward()
    return (logits, logits.logsumexp(-1), targets.clamp(min=0), targets != IGNORE), leaf.grad


@pytest.mark.ex("3.9")
def test_the_gradient_is_softmax_minus_one_hot():
    """the gradient is softmax minus one at the target, over the number of rows"""
    (logits, log_z, safe, kept), want = gradient_case()
    got = call("random logits (6, 5)", grad_of_logits, logits, log_z, safe, kept, torch.tensor(1.0).double())
    p = logits.softmax(-1)
    one = F.one_hot(safe, 5)
    same(got, want, "random logits (6, 5), upstream gradient 1",
         "(softmax - one at the target) / number of kept targets",
         {"the mean was forgotten: divide by the number of kept targets": p - one,
          "the sign": -want,
          "plus one at the target, not minus": (p + one) / 6,
          "the target has lost its probability: p - 1, not -1": torch.where(one.bool(), -1.0, p) / 6,
          "nothing is subtracted at the target": p / 6})


@pytest.mark.ex("3.9")
def test_one_kept_row_is_its_own_mean():
    """a single row that is kept is its own mean"""
    (logits, log_z, safe, kept), want = gradient_case(ignored=(0, 1, 2, 3, 5))
    up = torch.tensor(1.0).double()
    got = call("one row of 6 kept", grad_of_logits, logits, log_z, safe, kept, up)
    same(got, want, "one row of 6 kept", "divide by 1 here", {"divided by 2": want / 2, "by 6": want / 6})


@pytest.mark.ex("3.9")
def test_ignored_rows_get_no_gradient():
    """ignored rows get no gradient and do not count in the mean"""
    (logits, log_z, safe, kept), want = gradient_case(ignored=(0, 3))
    got = call("2 of 6 targets ignored", grad_of_logits, logits, log_z, safe, kept,
               torch.tensor(1.0).double())
    same(got, want, "6 rows, 0 and 3 ignored", "multiply each row by kept and divide by kept.sum()",
         {"the mean is over all 6 rows, it should be over the 4 kept": want * 4 / 6,
          "ignored rows are not masked": (logits.softmax(-1) - F.one_hot(safe, 5)) / 4})


@pytest.mark.ex("3.9")
def test_the_upstream_gradient_is_passed_on():
    """the upstream gradient is passed on"""
    (logits, log_z, safe, kept), want = gradient_case()
    for up in (0.25, -3.0):
        got = call(f"upstream gradient {up}", grad_of_logits, logits, log_z, safe, kept,
                   torch.tensor(up).double())
        same(got, up * want, f"upstream gradient {up}", "the chain rule: multiply by grad",
             {"grad is not used": want})


@pytest.mark.ex("3.9")
def test_what_was_saved_is_not_written_to():
    """the saved logits stay as they were"""
    (logits, log_z, safe, kept), _ = gradient_case()
    before = logits.clone(), log_z.clone()
    call("random logits", grad_of_logits, logits, log_z, safe, kept, torch.tensor(1.0).double())
    same((logits, log_z), before, "random logits; the logits and log_z afterwards",
         "an operation with a trailing underscore wrote into a saved tensor")


@pytest.mark.ex("3.9")
def test_extreme_logits_and_no_targets_give_finite_gradients():
    """huge logits and a batch without targets give finite gradients"""
    logits, targets = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([1, 1])
    args = logits, logits.logsumexp(-1), targets
    got = call("logits of 1000", grad_of_logits, *args, targets >= 0, torch.tensor(1.0))
    same(got, torch.tensor([[0.5, -0.5], [0.0, 0.0]]), f"logits {logits.tolist()}, targets [1, 1]",
         "exp(1000) is infinite: exp(logits - log_z) never overflows")
    got = call("no target kept", grad_of_logits, *args, targets < 0, torch.tensor(1.0))
    same(got, torch.zeros(2, 2), "two rows, none kept", "0 * (1 / 0) is NaN: divide by at least 1")
