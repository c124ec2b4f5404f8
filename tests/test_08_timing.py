"""Arrivals and the two phases: what is counted, not how fast this machine is."""
import pytest
import torch

import arrivals
from arrivals import WAYS, percentile, poisson_times, serve
from prefill_decode import Settings, measure, work
from roofline import Machine
from sampling import Sampling
from scheduler import Request
from transformer import Config, Transformer

CONFIG = Config(vocab_size=64, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24, max_len=128)


@pytest.fixture
def clock(monkeypatch):
    """Each step of the engine takes one second of this clock."""
    ticks = iter(range(100_000))
    monkeypatch.setattr(arrivals.time, "process_time", lambda: float(next(ticks)))


def requests(*lengths: int) -> list[Request]:
    return [Request([1, 2, 3 + i], n, Sampling(), seed=i) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("way, first, last", [
    ("one after another", [1, 4.5, 7.5], [4, 6.5, 7.5]),
    ("static batches", [1, 4.5, 4.5], [4, 6.5, 4.5]),        # the two that came at 0.5 wait for the first
    ("engine", [1, 1.5, 1.5], [4, 3.5, 1.5])])
def test_each_way_lets_requests_in_when_it_says(way, first, last, clock):
    """The first comes at 0, the others at 0.5; every step is a second, whoever is in it."""
    torch.manual_seed(0)
    r = serve(Transformer(CONFIG), requests(4, 3, 1), [0.0, 0.5, 0.5], way)
    assert (r["first"], r["last"]) == (first, last)


def test_time_in_which_nobody_waits_is_skipped_and_no_token_changes(clock):
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    runs = [serve(model, requests(3, 2), [5.0, 100.0], way) for way in WAYS]
    assert [r["end"] for r in runs] == [102.0] * 3 and all(r["last"] == [3.0, 2.0] for r in runs)
    assert runs[0]["tokens"] == runs[1]["tokens"] == runs[2]["tokens"]


def test_gaps_between_arrivals_are_exponential():
    times = poisson_times(4.0, 20_000, seed=1)
    gaps = torch.tensor(times).diff()
    assert abs(gaps.mean().item() - 0.25) < 0.01 and abs(gaps.std().item() - 0.25) < 0.01
    assert abs((gaps > 0.5).double().mean().item() - 0.1353) < 0.01        # e to the -2


def test_percentiles_by_hand():
    values = [float(i) for i in range(1, 21)]
    assert [percentile(values, p) for p in (0.5, 0.95, 1.0, 0.01)] == [10.0, 19.0, 20.0, 1.0]


def test_work_by_hand():
    """Every multiplication of a matrix and of attention, counted one by one."""
    c = Config(vocab_size=8, d_model=4, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=6)
    weights = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 6 + 8 * 4      # q, k, v, o, three of the mlp, output
    seen = sum(sum(1 for key in range(5) if key <= query) for query in (3, 4))        # 2 new tokens behind 3
    flops, moved = work(c, 3, 2, 3)
    assert flops == 3 * (2 * weights * 2 + 4 * 4 * seen)
    assert moved == 4 * (weights + 3 * 2 * 2 * 5)


def test_prefill_is_limited_by_arithmetic_and_decoding_by_memory(monkeypatch):
    monkeypatch.setattr("prefill_decode.MODELS", {"tiny": CONFIG})
    rows = measure(Machine(1e9, 1e9), Settings(repeats=1, longest=64, batch=2))
    assert {(r["phase"], r["batch"], r["length"]) for r in rows} == {
        (p, b, n) for p in ("prefill", "decode") for b, n in ((1, 16), (1, 32), (1, 64), (2, 64))}
    assert {r["limit"] for r in rows if r["phase"] == "prefill"} == {"arithmetic"}
    assert {r["limit"] for r in rows if r["phase"] == "decode" and r["batch"] == 1} == {"memory"}
    assert all(r["seconds"] > 0 for r in rows)
