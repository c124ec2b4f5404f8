"""The exercises of chapter 3: batches, schedules, clipping, the loss and its gradient."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ex_compare import call, same
from torch import nn

from batches import TextBatches, inputs_and_targets
from bits_per_byte import bits_per_byte
from clipping import clip_gradients
from cross_entropy import IGNORE, cross_entropy_naive, grad_of_logits
from schedule import constant_then_decay, cosine

# 3.1 shifted batches


@pytest.mark.ex("3.1")
@pytest.mark.parametrize("shape", [(2, 4), (3, 7), (5, 2)])
def test_the_target_is_the_token_after(shape):
    """the target of each token is the token after it"""
    rows = torch.randint(1000, shape)
    x = torch.tensor([row[:-1] for row in rows.tolist()])
    y = torch.tensor([row[1:] for row in rows.tolist()])
    got = call(f"rows {rows.tolist()}", inputs_and_targets, rows)
    same(got, (x, y), f"rows {rows.tolist()}", "each row of T + 1 tokens gives T inputs and T targets",
         {"inputs and targets are swapped": (y, x), "the targets are not shifted": (x, x),
          "the rows were shifted, not the tokens: the time is the second axis": (rows[:-1], rows[1:]),
          "the last target wraps around to the first token": (rows, rows.roll(-1, 1)),
          "the targets are two tokens ahead": (rows[:, :-2], rows[:, 2:])})


@pytest.mark.ex("3.1")
@pytest.mark.parametrize("n", [1, 3])
def test_masking_targets_leaves_inputs_alone(n):
    """writing a mask into the targets leaves inputs and rows alone"""
    rows = torch.arange(4 * n).view(n, 4)
    before = rows.clone()
    x, y = call(f"{n} rows", inputs_and_targets, rows)
    want = x.clone()
    y[:] = IGNORE
    same(x, want, f"{n} rows, the targets set to {IGNORE}; the inputs",
         "a slice shares its memory: inputs and targets overlap in it, so copy them (.clone())")
    same(rows, before, f"{n} rows, the targets set to {IGNORE}; the rows", "a slice shares its memory: copy it (.clone())")


# 3.2 constant, then decay; 3.3 cosine

def line(step, n_steps, n_warmup, decay, floor):
    """The factor of constant_then_decay in one place, straight from its description."""
    factor = min(1.0, (step + 1) / max(n_warmup, 1))
    n_decay = max(int(n_steps * decay), 1)
    if step > n_steps - n_decay:
        factor = min(factor, (n_steps - step) / n_decay)
    return max(factor, floor)


def factors(schedule, n_steps, **settings):
    """The factor of every step of a run."""
    given = f"n_steps {n_steps}, " + ", ".join(f"{k} {v}" for k, v in settings.items())
    return given, [call(f"step {i}, {given}", schedule, i, n_steps, **settings) for i in range(n_steps)]


@pytest.mark.ex("3.2")
def test_the_rate_rises_then_stays():
    """the rate rises during warm-up and then stays at 1"""
    given, got = factors(constant_then_decay, 40, n_warmup=4, decay=0.25, floor=0.0)
    same(got[:30], [0.25, 0.5, 0.75] + [1.0] * 27, given + "; steps 0 to 29",
         "is the warm-up there, and does the decay begin only in the last quarter?")


@pytest.mark.ex("3.2")
@pytest.mark.parametrize("n_steps, decay", [(40, 0.25), (20, 0.5), (30, 0.8)])
def test_the_end_is_a_straight_line(n_steps, decay):
    """the last steps are a straight line"""
    given, got = factors(constant_then_decay, n_steps, n_warmup=2, decay=decay, floor=0.0)
    want = [line(i, n_steps, 2, decay, 0.0) for i in range(n_steps)]
    n = int(n_steps * decay)
    same(got, want, given, f"at step s of the last n_decay = {n} the factor is (n_steps - s) / n_decay",
         {"one step too early: the last factor is 1 / n_decay, not 0": [max(min(w, (n_steps - 1 - i) / n), 0)
                                                                        for i, w in enumerate(want)],
          "the decay takes 1 - decay of the steps, not decay": [line(i, n_steps, 2, 1 - decay, 0.0)
                                                                for i in range(n_steps)],
          "the decay takes all the steps": [line(i, n_steps, 2, 1.0, 0.0) for i in range(n_steps)]})


@pytest.mark.ex("3.2")
def test_the_rate_never_falls_below_the_floor():
    """the rate never falls below the floor"""
    for floor in (0.02, 0.3):
        given, got = factors(constant_then_decay, 100, n_warmup=1, decay=0.5, floor=floor)
        same(min(got), max(floor, 0.02), given + "; the smallest factor", "the floor is an argument",
             {"the floor is written in, not taken from the argument": 0.02, "there is no floor": 0.02 * 0.5})
    given, got = factors(constant_then_decay, 200, n_warmup=1, decay=0.5, floor=0.02)
    same(got[-1], 0.02, given + "; the last factor", "max(floor, ...) around everything")


@pytest.mark.ex("3.2")
def test_no_decay_is_allowed():
    """a run without decay stays at 1"""
    given, got = factors(constant_then_decay, 5, n_warmup=0, decay=0.0, floor=0.02)
    same(got, [1.0] * 5, given, "int(n_steps * decay) is 0 here: divide by at least 1")


@pytest.mark.ex("3.3")
def test_cosine_begins_with_the_warmup():
    """the first steps are the warm-up"""
    given, got = factors(cosine, 30, n_warmup=5, floor=0.1)
    same(got[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], given + "; steps 0 to 5",
         "before n_warmup return warmup(step, n_warmup); the wave begins at step n_warmup with 1")


@pytest.mark.ex("3.3")
@pytest.mark.parametrize("floor", [0.0, 0.02, 0.4])
def test_cosine_ends_at_the_floor(floor):
    """the wave begins at 1, passes the middle and ends at the floor in the last step"""
    given, got = factors(cosine, 25, n_warmup=4, floor=floor)
    same([got[4], got[14], got[24]], [1.0, (1 + floor) / 2, floor], given + "; steps 4, 14 and 24",
         "progress runs from 0 at step n_warmup to exactly 1 at step n_steps - 1",
         {"the wave goes up: 1 + cos, not 1 - cos": [floor, (1 + floor) / 2, 1.0]})


@pytest.mark.ex("3.3")
def test_cosine_follows_the_formula():
    """every step follows the formula"""
    n, w, floor = 50 + int(torch.randint(50, ())), int(torch.randint(1, 10, ())), 0.05
    given, got = factors(cosine, n, n_warmup=w, floor=floor)
    want = [(i + 1) / w if i < w else floor + (1 - floor) * math.cos(math.pi / 2 * (i - w) / (n - 1 - w)) ** 2
            for i in range(n)]
    same(got, want, given, "floor + (1 - floor) * (1 + cos(pi * progress)) / 2", atol=1e-7)


@pytest.mark.ex("3.3")
@pytest.mark.parametrize("n_steps, n_warmup", [(1, 0), (5, 4)])
def test_cosine_of_one_step_divides_by_no_zero(n_steps, n_warmup):
    """a wave of a single step is 1"""
    given = f"n_steps {n_steps}, n_warmup {n_warmup}, floor 0.1; the last factor"
    same(call(given, cosine, n_steps - 1, n_steps, n_warmup, 0.1), 1.0, given, "divide by at least 1")


# 3.4 gradient clipping

def with_gradients(*sizes):
    """Parameters with random gradients of these numbers of elements; the second one has none."""
    parameters = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in sizes]
    for i, p in enumerate(parameters):
        p.grad = None if i == 1 else torch.randn(p.shape, dtype=torch.float64)
    grads = [p.grad for p in parameters if p.grad is not None]
    return parameters, [g.clone() for g in grads], math.sqrt(sum(g.square().sum().item() for g in grads))


def gradients(parameters):
    """All gradients there are."""
    return [p.grad for p in parameters if p.grad is not None]


@pytest.mark.ex("3.4")
def test_long_gradients_are_scaled_together():
    """a gradient that is too long is scaled by one factor for all parameters"""
    parameters, before, norm = with_gradients(4, 3, 2)
    limit, given = norm / 3, f"gradients of joint length {norm:.4f}, max_norm {norm / 3:.4f}"
    call(given, clip_gradients, iter(parameters), limit)
    same(gradients(parameters), [g / 3 for g in before], given, "multiply every gradient in place by max_norm / norm",
         {"nothing has changed: scale the gradients in place": before,
          "each gradient has its own factor: the length is that of all of them together":
              [g * limit / g.norm() for g in before],
          "lengths were added: the joint length is the root of the sum of squares":
              [g * limit / sum(b.norm() for b in before) for g in before],
          "elements were cut off, which changes the direction": [g.clamp(-limit, limit) for g in before]}, rtol=1e-5)


@pytest.mark.ex("3.4")
def test_short_gradients_stay():
    """a gradient that is short enough stays as it is"""
    parameters, before, norm = with_gradients(4, 3, 2)
    given = f"gradients of joint length {norm:.4f}, max_norm {1.1 * norm:.4f}"
    call(given, clip_gradients, iter(parameters), 1.1 * norm)
    same(gradients(parameters), before, given, "clipping only shortens: scale only if norm > max_norm")


@pytest.mark.ex("3.4")
def test_the_length_before_is_returned():
    """the length before clipping is returned, as a number"""
    parameters, before, norm = with_gradients(4, 3, 2)
    got = call("two gradients", clip_gradients, iter(parameters), norm / 2)
    if not isinstance(got, float):
        pytest.fail(f"got a {type(got).__name__}, wanted a float: return norm.item()", pytrace=False)
    same(got, norm, "gradients of lengths " + show_lengths(before), "the root of the sum of the squared lengths",
         {"the length after clipping was returned": norm / 2, "lengths were added": sum(g.norm().item() for g in before),
          "only the longest counts": max(g.norm().item() for g in before)}, rtol=1e-6)


def show_lengths(grads):
    """Lengths of some gradients as text."""
    return ", ".join(f"{g.norm().item():.4f}" for g in grads)


@pytest.mark.ex("3.4")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_gradient_is_refused(bad):
    """a gradient that is not finite is a ValueError"""
    parameters, _, _ = with_gradients(4, 3, 2)
    parameters[2].grad[1] = bad
    try:
        clip_gradients(iter(parameters), 1.0)
    except ValueError:
        return
    pytest.fail(f"given a gradient with {bad}, wanted a ValueError: check torch.isfinite(norm), for nan and for inf",
                pytrace=False)


# 3.5 cross-entropy; 3.9 its gradient

def predictions(n=6, vocab=5):
    """Random logits (n, vocab) in float64 and targets (n,)."""
    return 3 * torch.randn(n, vocab, dtype=torch.float64), torch.randint(vocab, (n,))


@pytest.mark.ex("3.5")
def test_a_uniform_model_pays_log_v():
    """a model that knows nothing pays log V a token"""
    for vocab in (2, 10):
        got = call("equal logits", cross_entropy_naive, torch.zeros(3, vocab), torch.tensor([0, 1, 1]))
        same(got, torch.tensor(math.log(vocab)), f"3 rows of {vocab} equal logits", "the mean of -log(1 / V) is log V",
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
          "the softmax runs over the rows": -logits.log_softmax(0)[range(6), targets].mean(), "the sign": -want,
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
    same(call("3 of 6 targets ignored", cross_entropy_naive, logits, targets), want, "6 rows, 3 of them ignored",
         "divide by the number of targets that are not IGNORE",
         {"ignored rows count in the number: divide by kept.sum()": nll.sum() / 6,
          "ignored rows count as if their target were 0": all_rows.sum() / 3,
          "nothing is ignored": all_rows.mean(), "the sum, not the mean": nll.sum()})


@pytest.mark.ex("3.5")
def test_nothing_to_predict_costs_nothing():
    """a batch without any target costs 0, not NaN"""
    logits, _ = predictions()
    same(call("all targets ignored", cross_entropy_naive, logits, torch.full((6,), IGNORE)), torch.tensor(0.0),
         "all targets ignored", "0 / 0 is NaN: divide by at least 1")


@pytest.mark.ex("3.5")
def test_the_loss_is_stable():
    """logits of a thousand neither overflow nor underflow"""
    logits, targets = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]]), torch.tensor([1, 0])
    same(call("logits of 1000", cross_entropy_naive, logits, targets), torch.tensor(1000.0), f"logits {logits.tolist()}",
         "exp(1000) is infinite and log(exp(-1000)) is -inf: use logits.logsumexp, which subtracts the maximum first")


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
    same(got, want, "random logits (6, 5), upstream gradient 1", "(softmax - one at the target) / number of kept targets",
         {"the mean was forgotten: divide by the number of kept targets": p - one, "the sign": -want,
          "plus one at the target, not minus": (p + one) / 6, "the target has lost its probability: p - 1, not -1":
              torch.where(one.bool(), -1.0, p) / 6, "nothing is subtracted at the target": p / 6})


@pytest.mark.ex("3.9")
def test_ignored_rows_get_no_gradient():
    """ignored rows get no gradient and do not count in the mean"""
    (logits, log_z, safe, kept), want = gradient_case(ignored=(0, 3))
    got = call("2 of 6 targets ignored", grad_of_logits, logits, log_z, safe, kept, torch.tensor(1.0).double())
    same(got, want, "6 rows, 0 and 3 ignored", "multiply each row by kept and divide by kept.sum()",
         {"the mean is over all 6 rows, it should be over the 4 kept": want * 4 / 6,
          "ignored rows are not masked": (logits.softmax(-1) - F.one_hot(safe, 5)) / 4})


@pytest.mark.ex("3.9")
def test_the_upstream_gradient_is_passed_on():
    """the upstream gradient is passed on"""
    (logits, log_z, safe, kept), want = gradient_case()
    for up in (0.25, -3.0):
        got = call(f"upstream gradient {up}", grad_of_logits, logits, log_z, safe, kept, torch.tensor(up).double())
        same(got, up * want, f"upstream gradient {up}", "the chain rule: multiply by grad", {"grad is not used": want})


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


# 3.6 the rows of an epoch

def starts_of(n_tokens=200, batch=4, length=10, seed=0):
    """starts(epoch) of batches on a stream of n_tokens."""
    batches = TextBatches(np.arange(n_tokens), batch, length, seed)
    given = f"{n_tokens} tokens, length {length}, n_rows {batches.n_rows}, seed {seed}"
    return batches.n_rows, lambda epoch: np.asarray(call(f"{given}, epoch {epoch}", batches.starts, epoch)).tolist(), given


@pytest.mark.ex("3.6")
def test_rows_of_an_epoch_do_not_overlap():
    """the rows of an epoch follow one another without gap or overlap"""
    n_rows, starts, given = starts_of()
    for epoch in range(4):
        got = sorted(starts(epoch))
        if len(got) != n_rows or any(b - a != 10 for a, b in zip(got, got[1:])):
            pytest.fail(f"given {given}, epoch {epoch}\n got sorted starts {got}\n wanted {n_rows} of them, 10 apart: one "
                        "offset for the whole epoch plus length times a permutation (not draws with replacement)",
                        pytrace=False)


@pytest.mark.ex("3.6")
def test_rows_come_in_random_order():
    """the rows come in random order"""
    n_rows, starts, given = starts_of(400)
    got = starts(1)
    if got == sorted(got) or got == sorted(got, reverse=True):
        pytest.fail(f"given {given}\n got {got}\n wanted a random order: neighbours in a file are alike, so a batch of "
                    "them sees little", pytrace=False)


@pytest.mark.ex("3.6")
def test_each_epoch_is_cut_elsewhere_and_inside():
    """each epoch is cut at another offset below the row length, and every row fits into the stream"""
    n_rows, starts, given = starts_of(24, 2, 4)
    first = [min(starts(epoch)) for epoch in range(120)]
    last = [max(starts(epoch)) for epoch in range(120)]
    same(sorted(set(first)), [0, 1, 2, 3], f"{given}; the smallest starts of 120 epochs",
         "the offset is drawn anew for each epoch: rng.integers(length), from 0 to length - 1")
    if max(last) + 4 > 23:
        pytest.fail(f"given {given}\n got a row that starts at {max(last)} and ends beyond the last token", pytrace=False)


@pytest.mark.ex("3.6")
def test_order_depends_on_seed_and_epoch_alone():
    """the order depends on the seed and the epoch, and on nothing else"""
    _, starts, given = starts_of(400)
    want = [starts(epoch) for epoch in range(4)]
    np.random.rand()
    again = starts_of(400)[1]
    same([again(2), again(0), again(3)], [want[2], want[0], want[3]], given + "; epochs 2, 0 and 3 asked again",
         "a killed run must continue with the same data: seed a new generator with [seed, epoch] in each call")
    if len({tuple(w) for w in want}) < 4:
        pytest.fail(f"given {given}\n got the same order in two epochs: put the epoch into the seed", pytrace=False)
    _, other, given = starts_of(400, seed=1)
    if any(other(a) == want[b] for a in range(3) for b in range(4)):
        pytest.fail(f"given {given}\n got an order that seed 0 has, too: seed the generator with the list [seed, epoch], "
                    "not with one of them or with their sum", pytrace=False)


# 3.7 bits per byte

class Bigram(nn.Module):
    """Logits that depend on the newest token alone, so that no window can change the answer. Notes what it was given."""

    def __init__(self, vocab=5):
        super().__init__()
        self.table, self.shapes = nn.Parameter(2 * torch.randn(vocab, vocab)), []

    def forward(self, ids):
        self.shapes.append(tuple(ids.shape))
        return self.table[ids]


def bits(model, tokens):
    """The bits of all predictions, one by one."""
    log_p = model.table.detach().double().log_softmax(-1)
    return [-log_p[a, b].item() / math.log(2) for a, b in zip(tokens[:-1].tolist(), tokens[1:].tolist())]


@pytest.mark.ex("3.7")
@pytest.mark.parametrize("n", [41, 43, 90, 7])
def test_bits_add_up_over_the_stream(n):
    """the bits of all predictions are added and divided by the bytes"""
    model, tokens = Bigram(), np.random.randint(0, 5, n)
    each, n_bytes = bits(model, tokens), 3 * n
    given = f"{n} tokens that encode {n_bytes} bytes, length 10, batch 2"
    got = call(given, bits_per_byte, model, tokens, n_bytes, length=10, batch=2)
    full = (n - 1) // 10 * 10
    same(got, sum(each) / n_bytes, given, "sum of all losses in nats / log 2 / n_bytes",
         {"nats, not bits: divide by log 2": sum(each) * math.log(2) / n_bytes,
          "multiplied by log 2: divide by it": sum(each) * math.log(2)**2 / n_bytes,
          "bits a token, not a byte": sum(each) / n, "bits a prediction, not a byte": sum(each) / (n - 1),
          "the last, shorter window is missing": sum(each[:full]) / n_bytes}, rtol=1e-4)


@pytest.mark.ex("3.7")
@pytest.mark.parametrize("n", [41, 45, 62, 9])
def test_each_token_is_predicted_once(n):
    """every token but the first is predicted once, in windows of `length`, `batch` at a time"""
    model = Bigram()
    call(f"{n} tokens", bits_per_byte, model, np.random.randint(0, 5, n), n, length=10, batch=3)
    given = f"{n} tokens, length 10, batch 3; the model was given ids of shapes {model.shapes}"
    same(sum(b * t for b, t in model.shapes), n - 1, given + "; predictions made", "n tokens make n - 1 predictions",
         {"the last, shorter window is missing": (n - 1) // 10 * 10,
          "the last, smaller batch is missing": (n - 1) // 30 * 30 + (n - 1) % 10})
    if any(b > 3 or t > 10 for b, t in model.shapes):
        pytest.fail(f"given {given}\n wanted at most 3 rows of at most 10 tokens", pytrace=False)
