"""The pure parts of the training benchmark and of the picture of Muon: shapes, order, shares, memory."""
import itertools
import types

import pytest
import torch

import bench_train
from bench_train import MAKE, Shape, contestants, peak_bytes, peak_of, race, shares
from count import count_parameters
from singular_values import share_of_length, spectrum

TINY = Shape("tiny", 16, 2, 1, 512, 32, 64)   # 2,048 rows of logits: two chunks
CPU = torch.device("cpu")


def batch_of(shape):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocabulary, (shape.batch, shape.T + 1), generator=g)
    return ids[:, :-1], ids[:, 1:]


@pytest.fixture(scope="module")
def those():
    return {one.name: one for one in contestants(TINY, CPU)}


def test_all_contestants_have_about_as_many_weights_as_their_configuration_says(those):
    for one in those.values():
        shifts = (2 * TINY.L + 1) * TINY.C if one.name == "nanoGPT" else 0   # its norms have none, ours do
        assert sum(p.numel()
                   for p in one.model.parameters()) == sum(count_parameters(one.config).values()) - shifts
    for shape in (MAKE, *bench_train.SHAPES["cuda"]):
        ours, theirs = (sum(count_parameters(c).values()) for c in (shape.ours(), shape.nanogpt()))
        assert abs(theirs / ours - 1) < 0.05
    gpt2 = bench_train.SHAPES["cuda"][1].nanogpt()
    assert round(sum(count_parameters(gpt2).values()) / 1e6, 1) == 124.4, "GPT-2 small's 124 million"


def test_every_piece_of_the_fast_path_starts_from_the_same_loss_and_moves_every_weight(those):
    x, y = batch_of(TINY)
    losses = {name: one.loss_of(x, y).item() for name, one in those.items()}
    for name in ("+ fused attention", "+ fused norms", "+ chunked loss", "+ batched optimizers"):
        assert losses[name] == pytest.approx(losses["plain"], rel=1e-5)
    assert all(abs(loss - 6.24) < 0.3 for loss in losses.values()), "ln 512, as nothing is learned yet"
    for one in those.values():
        before = [p.detach().clone() for p in one.model.parameters()]
        one.step(x, y)
        assert not any(torch.equal(a, b) for a, b in zip(before, one.model.parameters())), one.name


def test_contestants_are_timed_in_turn_after_one_step_each_to_warm_up(monkeypatch):
    order, clock = [], itertools.count()
    monkeypatch.setattr(bench_train.time, "perf_counter", lambda: float(next(clock)))
    fakes = [types.SimpleNamespace(step=lambda x, y, name=name: order.append(name)) for name in "abc"]
    times = race(fakes, batch_of(TINY), 2, least=0.5)
    assert "".join(order) == "abc" * 3
    assert times == [[2.0, 2.0]] * 3, "the clock is looked at three times a round, one second apart"


def test_shares_are_the_time_between_marks(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bench_train.time, "perf_counter", lambda: clock[0])

    def spend(seconds):
        clock[0] += seconds

    def step(x, y, mark):
        for part, seconds in (("forward", 2.0), ("backward", 4.0), ("clipping", 1.0), ("optimizer", 2.0)):
            spend(seconds)
            mark(part)

    fake = types.SimpleNamespace(step=step, model=torch.nn.Linear(1, 1))
    found = shares(fake, lambda step: (spend(1.0), None), 3)
    want = {"data": 0.1, "forward": 0.2, "backward": 0.4, "clipping": 0.1, "optimizer": 0.2}
    assert found == pytest.approx(want)


def test_the_chunked_loss_needs_less_memory_and_the_count_is_the_same_every_time(those):
    batch = batch_of(TINY)
    plain, chunked = (peak_bytes(those[name], batch) for name in ("+ fused norms", "+ chunked loss"))
    logits = TINY.batch * TINY.T * TINY.vocabulary * 4
    assert plain > chunked + logits / 2 and plain == peak_bytes(those["+ fused norms"], batch)


def test_the_peak_is_published_where_it_is_known_and_else_measured(monkeypatch):
    peak, origin = peak_of(CPU, "fp32")
    assert peak > 1e8 and origin == "measured, fp32"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert peak_of(torch.device("cuda"), "bf16") == (989e12, "published, bf16")


def test_a_spectrum_is_that_of_the_svd_and_after_it_the_polynomial():
    U, V = (torch.linalg.qr(torch.randn(n, 5, dtype=torch.float64))[0] for n in (7, 9))
    s = torch.tensor([4.0, 2.0, 1.0, 0.1, 0.01], dtype=torch.float64)
    before, after = spectrum(U @ torch.diag(s) @ V.T)
    torch.testing.assert_close(before[:5], s / 4, rtol=1e-9, atol=1e-12)
    want = s / (s.norm() + 1e-7)
    for _ in range(5):
        want = 3.4445 * want - 4.7750 * want**3 + 2.0315 * want**5
    torch.testing.assert_close(after[:5], want.sort(descending=True).values, rtol=1e-9, atol=1e-9)
    assert share_of_length(torch.tensor([2.0, 1.0, 1.0]), 1) == pytest.approx(4 / 6)
