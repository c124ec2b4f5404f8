"""Exercises of chapter 4. The ranks are threads with queues between them (thread_team.py), no processes."""
import pytest
import torch
import torch.nn.functional as F

import data_parallel
import flash_attention as flash
import pipeline_parallel
import tensor_parallel
from collectives import ring_reduce_scatter
from ex_compare import differs, same, show, where
from recompute import recompute
from thread_team import ThreadTeam, run_threads
from zero import state_bytes


def attempt(function, *args, hint=""):
    """Call; an error inside becomes a sentence for the learner."""
    try:
        return function(*args)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"raised {type(error).__name__}: {error}. {hint}") from error


def close(got, want, message):
    """Equal up to rounding and of the same type, NaN never."""
    tolerance = dict(rtol=1e-7, atol=1e-7) if want.dtype == torch.float64 else dict(rtol=1.3e-6, atol=1e-5)
    if differs(got, want, **tolerance) or got.dtype != want.dtype:
        raise AssertionError(f"{message}\n got  {show(got)}\n wanted {show(want)}{where(got, want)}")


@pytest.mark.ex("4.1")
def test_each_zero_stage_shares_one_thing_more():
    """each ZeRO stage shares one thing more"""
    for stage, want in enumerate((1600.0, 1000.0, 700.0, 400.0)):
        got = attempt(state_bytes, 100, 4, stage)
        assert got == pytest.approx(want), (
            f"100 parameters on 4 ranks, stage {stage}: got {got}, want {want}. "
            "Stage 1 shares the moments, 2 the gradients too, 3 the weights too")


@pytest.mark.ex("4.1")
def test_the_numbers_of_the_zero_paper():
    """7.5 billion parameters on 64 ranks in mixed precision: 120, 31.4, 16.6, 1.9 GB"""
    for stage, want in enumerate((120.0, 31.4, 16.6, 1.9)):
        got = attempt(state_bytes, 7.5e9, 64, stage, 2, 2, 12) / 1e9
        same(got, want, f"stage {stage}, in GB", "use the bytes that are given", atol=0.06)


@pytest.mark.ex("4.1")
def test_a_stage_that_does_not_exist_is_refused():
    """a stage that does not exist is refused"""
    for stage in (-1, 4):
        try:
            got = state_bytes(100, 4, stage)
        except ValueError:
            continue
        raise AssertionError(f"stage {stage} gave {got}; want a ValueError")


@pytest.mark.ex("4.2")
def test_the_schedule_of_the_worked_example():
    """two stages, three micro-batches: as in the worked example"""
    for stage, want in ((0, "F0 F1 B0 F2 B1 B2"), (1, "F0 B0 F1 B1 F2 B2")):
        got = " ".join(f"{k}{i}" for k, i in attempt(pipeline_parallel.one_f_one_b, stage, 2, 3))
        assert got == want, f"stage {stage} of 2, 3 micro-batches: got {got}, want {want}"


@pytest.mark.ex("4.2")
def test_every_micro_batch_passes_once_each_way():
    """every micro-batch passes once forward, then once backward, oldest first"""
    for p, m in ((4, 8), (4, 2), (1, 3), (3, 3), (5, 1)):
        for stage in range(p):
            actions = attempt(pipeline_parallel.one_f_one_b, stage, p, m)
            for kind in "FB":
                got = [i for k, i in actions if k == kind]
                same(got, list(range(m)), f"stage {stage} of {p}, {m} micro-batches: {kind} runs")
            early = [i for i in range(m) if actions.index(("B", i)) < actions.index(("F", i))]
            assert not early, (
                f"stage {stage} of {p}, {m} micro-batches: {early} go backward before forward, want none")


@pytest.mark.ex("4.2")
def test_a_stage_holds_no_more_than_the_stages_behind_it_need():
    """stage s of p holds at most p - s micro-batches"""
    for p, m in ((4, 8), (2, 5), (6, 7)):
        for stage in range(p):
            held = most = 0
            for kind, _ in attempt(pipeline_parallel.one_f_one_b, stage, p, m):
                held += 1 if kind == "F" else -1
                most = max(most, held)
            assert most <= p - stage, f"stage {stage} of {p}: holds {most}, want at most {p - stage}"


@pytest.mark.ex("4.2")
def test_the_pipeline_flows_with_the_smallest_bubble():
    """no stage waits for ever, and the bubble is (p-1)/(m+p-1)"""
    for p, m in ((4, 8), (3, 2), (2, 6)):
        hint = "Each stage's order must fit its neighbours' orders"
        lines = attempt(pipeline_parallel.simulate, "1f1b", p, m, hint=hint)
        got, want = pipeline_parallel.bubble(lines), (p - 1) / (m + p - 1)
        same(got, want, f"{p} stages, {m} micro-batches: the share of the time that is idle")


class Recorder:
    """A team of one that writes down the size of each message."""
    size = 1

    def __init__(self):
        self.sizes = []

    def start_all_reduce(self, flat):
        self.sizes.append(flat.numel())
        return self

    def wait(self):
        pass


def overlapped():
    """Six parameters of one number each, two a bucket, in the order in which buckets are filled."""
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(1)) for _ in range(6)])
    overlap = data_parallel.OverlappedGradients(model, Recorder(), bucket_bytes=8)
    return overlap, [p for bucket in overlap.buckets for p in bucket]


def sent_after(order, syncing=True):
    """How many buckets were started after each gradient of `order` arrived."""
    overlap, parameters = overlapped()
    overlap.syncing = syncing
    counts = []
    for i in order:
        attempt(overlap.ready, parameters[i], hint="Is there another bucket left to start?")
        counts.append(len(overlap.sent))
    return counts


@pytest.mark.ex("4.3")
def test_a_bucket_starts_with_its_last_gradient():
    """a bucket starts when its last gradient is there, not before"""
    got = sent_after([0, 1, 2, 3, 4, 5])
    same(got, [0, 1, 1, 2, 2, 3], "buckets of two gradients, arriving in order: buckets started")


@pytest.mark.ex("4.3")
def test_buckets_start_in_order():
    """a bucket that is complete early waits for the ones before it, then all go"""
    for order, want in (([2, 3, 0, 1, 4, 5], [0, 0, 0, 2, 2, 3]), ([4, 5, 2, 3, 0, 1], [0, 0, 0, 0, 0, 3])):
        got = sent_after(order)
        assert got == want, (f"gradients arrive in order {order}, two a bucket: started {got}, want {want}. "
                             "All ranks must start the same buckets in the same order")


@pytest.mark.ex("4.3")
def test_accumulation_sends_nothing():
    """inside no_sync nothing is sent, and nothing is counted"""
    got = sent_after([0, 1, 2, 3, 4, 5], syncing=False)
    assert got == [0] * 6, f"inside no_sync, six gradients, two a bucket: started {got}, want {[0] * 6}"
    overlap, parameters = overlapped()
    overlap.syncing = False
    attempt(overlap.ready, parameters[0])
    same(overlap.missing, [2, 2, 2], "one gradient in no_sync: missing")


def scattered(inputs):
    """What each rank of a ring returns for its tensor of `inputs`."""
    return attempt(lambda: run_threads(lambda team: ring_reduce_scatter(inputs[team.rank].clone(), team),
                                       len(inputs), ring=True))


def check_parts(inputs):
    """Each rank holds its part of the sum; what it holds instead is named."""
    p, shown = len(inputs), [x.tolist() for x in inputs]
    parts = sum(inputs).tensor_split(p)
    for r, got in enumerate(scattered(inputs)):
        mistakes = {f"rank {r} ends with part {i} of the sum": parts[i] for i in range(p) if i != r}
        alone = "that is rank {}'s own part, nothing is added to it: has the sum grown in another part?"
        mistakes |= {alone.format(s): inputs[s].tensor_split(p)[r] for s in range(p)}
        same(got, parts[r], f"{p} ranks with {shown}: rank {r} must return part {r}", mistakes=mistakes,
             hint="which part does a rank pass on in each step, and is what arrives added to its own share?")


@pytest.mark.ex("4.4")
@pytest.mark.parametrize("p", [2, 3, 4])
def test_rank_r_gets_part_r_of_the_sum(p):
    """rank r gets part r of the sum, from its left neighbour"""
    check_parts([torch.arange(2.0 * p) * 10**r for r in range(p)])


@pytest.mark.ex("4.4")
def test_uneven_parts_are_cut_as_tensor_split_cuts():
    """7 numbers on 3 ranks: parts of 3, 2 and 2"""
    check_parts([torch.arange(7.0) * 10**r for r in range(3)])


@pytest.mark.ex("4.4")
def test_the_input_is_left_alone():
    """the caller's tensor is neither changed nor handed back"""
    for p in (1, 3):
        inputs = [torch.ones(6) for _ in range(p)]

        def work(team):
            part = ring_reduce_scatter(inputs[team.rank], team)
            part.zero_()
            return inputs[team.rank]
        for x in attempt(lambda: run_threads(work, p, ring=True)):
            close(x, torch.ones(6),
                  f"{p} rank{'s' * (p > 1)}: the input has changed (directly, or through the result)")


@pytest.mark.ex("4.4")
def test_no_more_bytes_than_necessary():
    """each rank sends (p-1)/p of the tensor"""
    for p in (2, 4):
        def work(team):
            ring_reduce_scatter(torch.ones(8), team)
            return team.sent
        want = 4 * 8 * (p - 1) // p
        got = attempt(lambda: run_threads(work, p, ring=True))
        same(got, [want] * p, f"{p} ranks, 32 bytes: bytes that the ranks sent", "p - 1 parts each")


@pytest.mark.ex("4.5")
def test_gradients_of_inputs_and_weights_are_the_same():
    """gradients of inputs and weights are those without recomputation"""
    torch.manual_seed(0)
    x, scale, W = torch.randn(3, 4), torch.randn(3, 1), torch.nn.Parameter(torch.randn(4, 4))
    above, grads = torch.randn(3, 4), []

    def layer(x, scale):
        return (x @ W).tanh() * scale
    for call in (lambda f, *a: f(*a), recompute):
        a, b = x.clone().requires_grad_(), scale.clone().requires_grad_()
        W.grad = None
        attempt(lambda: (call(layer, a, b) * above).sum().backward())
        grads.append((a.grad, b.grad, W.grad))
    for name, want, got in zip(("first input", "second input", "weight"), *grads):
        close(got, want, f"gradient of the {name}")


@pytest.mark.ex("4.5")
def test_gradients_arrive_once():
    """a leaf gets its gradient once"""
    x = torch.ones(3, requires_grad=True)
    attempt(lambda: recompute(lambda y: y * 2, x).sum().backward())
    close(x.grad, torch.full((3,), 2.0), "gradient of 2 x")


@pytest.mark.ex("4.5")
def test_dropout_drops_the_same_again():
    """the second run draws the same random numbers"""
    torch.manual_seed(0)
    x, drawn = torch.ones(100, requires_grad=True), []

    def dropout(y):
        drawn.append(torch.rand(100) > 0.5)
        return y * drawn[-1]
    out = recompute(dropout, x)
    torch.rand(5)
    attempt(lambda: out.sum().backward())
    assert len(drawn) == 2, f"a forward and a backward pass ran the function {len(drawn)} times, want 2"
    differ = int((drawn[0] != drawn[1]).sum())
    assert differ == 0, f"given dropout of 100 numbers: {differ} are drawn otherwise the second time, want 0"


@pytest.mark.ex("4.5")
def test_the_rest_of_the_program_notices_nothing():
    """random numbers drawn after the backward pass are those drawn without it"""
    x = torch.ones(3, requires_grad=True)
    torch.manual_seed(0)
    out = recompute(lambda y: y * torch.rand(3), x)
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    attempt(lambda: out.sum().backward())
    close(torch.rand(3), want, "the random state was not put back after the second run")


@pytest.mark.ex("4.5")
def test_arguments_without_gradient_pass_through():
    """token ids, plain numbers and frozen tensors get no gradient"""
    x, ids, frozen = torch.ones(3, requires_grad=True), torch.tensor([2, 0, 1]), torch.ones(3)
    seen = []

    def pick(y, ids, times, frozen):
        seen.append(frozen.requires_grad)
        return y[ids] * times * frozen

    attempt(lambda: recompute(pick, x, ids, 5, frozen).sum().backward(),
            hint="Only some arguments require a gradient")
    close(x.grad, torch.full((3,), 5.0), "gradient of 5 x[ids]")
    assert not seen[-1], "given a frozen tensor, the second run saw one that requires a gradient, want frozen"


def attention_reference(q, k, v, causal):
    """softmax(q k^T / sqrt(D)) v and the log-sum-exp, by torch."""
    S = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if causal:
        S = S.masked_fill(~torch.ones(S.shape[-2:], dtype=torch.bool).tril(S.shape[-1] - S.shape[-2]),
                          float("-inf"))
    return S.softmax(-1) @ v, S.logsumexp(-1)


def check_flash(T, S, causal, size, scale=1.0, shift=0.0):
    """Compare both outputs of flash_forward."""
    torch.manual_seed(T + S)
    q, k, v = (torch.randn(1, 2, n, 4, dtype=torch.float64) * scale for n in (T, S, S))
    q, k = q - shift, k + shift
    want = attention_reference(q, k, v, causal)
    got = attempt(flash.flash_forward, q, k, v, causal, size)
    for name, a, b in zip(("O", "L"), got, want):
        close(a, b, f"{name} for T={T}, S={S}, causal={causal}, tiles of {size}")


@pytest.mark.ex("4.6")
def test_one_tile_is_plain_attention():
    """one tile: plain softmax attention"""
    check_flash(5, 5, False, 8)


@pytest.mark.ex("4.6")
def test_many_tiles_are_one_softmax():
    """many tiles: still one softmax a row"""
    check_flash(10, 23, False, 4)


@pytest.mark.ex("4.6")
def test_causal_tiles_do_not_look_ahead():
    """causal: tiles of the future are skipped, tiles on the diagonal masked"""
    check_flash(17, 17, True, 4)


@pytest.mark.ex("4.6")
def test_newest_queries_see_the_whole_past():
    """with more keys than queries, the queries are the last tokens"""
    check_flash(3, 19, True, 4)


@pytest.mark.ex("4.6")
def test_large_scores_do_not_overflow():
    """scores of plus and minus thousands give no NaN"""
    check_flash(9, 9, True, 4, scale=60.0)
    check_flash(6, 6, False, 4, shift=60.0)   # every score is far below zero


def split_loss_and_gradient(logits, targets, widths):
    """Loss on every rank, and the gradient put together; also the bytes that rank 0 sent."""
    firsts = [sum(widths[:r]) for r in range(len(widths))]

    def work(team: ThreadTeam):
        mine = logits[:, firsts[team.rank]:firsts[team.rank] + widths[team.rank]].clone().requires_grad_()
        loss = tensor_parallel.vocab_parallel_cross_entropy(mine, targets, firsts[team.rank], team)
        loss.backward()
        return loss.detach(), mine.grad, team.sent
    results = attempt(run_threads, work, len(widths))
    return [r[0] for r in results], torch.cat([r[1] for r in results], 1), results[0][2]


def known_losses(logits, targets, widths):
    """The loss that a known mistake gives, by the sentence that names it."""
    parts, kept = logits.split(list(widths), 1), targets != -100
    m = torch.stack([part.amax(1) for part in parts])                              # (p, N)
    l = torch.stack([(part - part.amax(1, keepdim=True)).exp().sum(1) for part in parts])
    log_z, mine = logits.logsumexp(1), logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    firsts = [sum(widths[:r]) for r in range(len(widths))]
    clamped = sum(part.gather(1, (targets - first).clamp(0, part.shape[1] - 1)[:, None])[:, 0]
                  for part, first in zip(parts, firsts))

    def mean(x):
        return x[kept].sum() / kept.sum().clamp(min=1)
    return {
        "the ranks' sums are added as they are, but each is measured from its own rank's maximum":
        mean(m.amax(0) + l.sum(0).log() - mine),
        "rank 0's maximum is taken for all":
        mean(m[0] + l.sum(0).log() - mine),
        "log_z of this rank's columns alone":
        mean(parts[0].logsumexp(1) - mine),
        "the target's logit is missing":
        mean(log_z),
        "a target that another rank holds is picked here too, at the edge of this rank's columns":
        mean(log_z - clamped),
        "the ignored targets are divided by too": (log_z - mine)[kept].sum() / len(targets),
        "the ignored targets carry a loss": (log_z - mine * kept).sum() / kept.sum().clamp(min=1),
        "this is the sum over the targets, not their mean": (log_z - mine)[kept].sum(),
    }


def check_split(n, widths, targets=None, scale=1.0, offset=0.0, shift=0.0, logits=None, rtol=1e-7):
    """Compare loss and gradient with torch's, of whole rows; `offset` is for ranks after the first."""
    V = sum(widths)
    if logits is None:
        torch.manual_seed(0)
        logits = torch.randn(n, V, dtype=torch.float64) * scale + shift
        logits[:, widths[0]:] += offset
    targets = torch.arange(n) % V if targets is None else targets
    whole = logits.clone().requires_grad_()
    want = F.cross_entropy(whole, targets)
    want.backward()
    losses, grad, sent = split_loss_and_gradient(logits, targets, widths)
    mistakes = known_losses(logits, targets, widths)
    given = f"{n} tokens, the ranks hold {widths} of {V} columns"
    for r, loss in enumerate(losses):
        same(loss, want.detach(), f"{given}: the loss on rank {r}",
             "the same on all ranks: log_z - the target's logit", mistakes, rtol=rtol, atol=rtol)
    same(grad, whole.grad, f"{given}: the gradient",
         "the loss is right, so look at what is saved for the backward pass: log_z of the whole row, the "
         "clamped column, whether it is mine, whether it is kept", rtol=rtol, atol=rtol)
    return sent


@pytest.mark.ex("4.7")
@pytest.mark.parametrize("widths", [(4, 4), (3, 3, 3), (5, 5, 2)])
def test_the_loss_is_that_of_whole_rows(widths):
    """loss and gradient are those of whole rows of logits"""
    check_split(12, widths)


@pytest.mark.ex("4.7")
def test_ignored_targets_count_for_nothing():
    """targets of -100 carry no loss and do not count"""
    check_split(6, (4, 4), torch.tensor([1, -100, 5, -100, 7, 0]))
    check_split(3, (4, 4), torch.tensor([-100, 6, -100]))
    losses, grad, _ = split_loss_and_gradient(torch.randn(2, 8), torch.tensor([-100, -100]), (4, 4))
    for r, loss in enumerate(losses):
        close(loss, torch.tensor(0.0), f"loss on rank {r} when all targets are ignored")
    close(grad, torch.zeros(2, 8), "gradient when all targets are ignored")


@pytest.mark.ex("4.7")
def test_large_logits_do_not_overflow():
    """logits of thousands give no NaN, whichever rank has them"""
    check_split(8, (4, 4), scale=2000.0)
    check_split(8, (4, 4), offset=3000.0)


@pytest.mark.ex("4.7")
def test_three_numbers_a_token_are_exchanged():
    """three numbers a token are exchanged, not V, and the result is right"""
    sent = check_split(10, (50, 50))
    assert sent <= 3 * 10 * 8, f"rank 0 sent {sent} bytes for 10 tokens of float64; want at most {3 * 10 * 8}"
