"""Parallel strategies in real gloo processes against one process: losses, gradients, weights, memory."""
import functools

import pytest
import torch

from memory_model import Placement, rank_memory, traffic
from parallel_3d import Layout
from parallel_cases import (
    SMALL,
    Forked,
    collectives_agree,
    equality,
    layouts,
    measured,
    overlap_cases,
    save_mesh,
    small_batches,
    small_model,
    zero_unused,
)
from ranks import run_ranks as start_ranks
from strategies import STRATEGIES, one_process, place_of
from transformer import Config

run_ranks = functools.partial(start_ranks, timeout=400.0)   # also on a machine that is busy with other things


@functools.lru_cache
def compared(n_ranks):
    """One launch for all strategies; the tests below read their own lines."""
    names = STRATEGIES if n_ranks % 4 == 0 else STRATEGIES[:-1]
    return run_ranks(equality, n_ranks, names, torch.float64)


def check(results, tolerance):
    """results: one dictionary a rank."""
    for i, wanted in enumerate(results[0]["wanted losses"]):
        mean = sum(r["losses"][i] for r in results) / len(results)
        assert abs(mean - wanted) <= tolerance, f"loss {i} is {mean}, one process has {wanted}"
    for what in ("gradients", "weights"):
        assert max(r[what] for r in results) <= tolerance, f"{what} differ by {max(r[what] for r in results)}"
    assert set().union(*(r["names"] for r in results)) == {n for n, _ in small_model().named_parameters()}


@pytest.mark.parametrize("name", STRATEGIES[:-1])
def test_two_ranks_train_like_one_process(name):
    check([r[name] for r in compared(2)], 1e-10)


@pytest.mark.parametrize("name", STRATEGIES)
def test_four_ranks_train_like_one_process(name):
    check([r[name] for r in compared(4)], 1e-10)


def test_float32_stays_within_rounding():
    results = run_ranks(equality, 4, STRATEGIES, torch.float32, 4, 1)
    for name in STRATEGIES:
        check([r[name] for r in results], 1e-5)


def test_three_ranks_hold_uneven_stages_and_uneven_parts():
    for result in zip(*run_ranks(layouts, 3, [Layout(pipeline=3, micro_batches=4),
                                              Layout(pipeline=3, micro_batches=2)])):
        check(list(result), 1e-10)
    expected = one_process(small_model(), small_batches(1))[1]
    with pytest.raises(ValueError, match="8 rows cannot be shared evenly by 3 ranks"):
        run_ranks(zero_unused, 3, 3)
    for stage in (1, 2, 3):   # accumulation, and flat vectors padded to a multiple of 2
        torch.testing.assert_close(run_ranks(zero_unused, 2, stage)[1], expected, rtol=0, atol=1e-10)


WEIGHED = ("data_bucketed", "zero1", "zero2", "zero3", "tensor", "tensor_sequence", "pipeline_gpipe",
           "pipeline_1f1b", "mesh")


@functools.lru_cache
def weighed():
    """On a shape where activations dominate: (config, results of rank 0 ... 3)."""
    config = Config(vocab_size=512, d_model=64, n_layers=4, n_heads=4, n_kv_heads=4, d_ff=176, max_len=64)
    return config, run_ranks(measured, 4, WEIGHED, config, 8, 64)


@pytest.mark.parametrize("name", WEIGHED)
def test_memory_and_bytes_are_those_of_the_formulas(name):
    config, results = weighed()
    place, n_micro = place_of(name, 4, 8)
    for rank, result in enumerate(results):
        result, stage = result[WEIGHED.index(name)], rank // place.tensor % place.pipeline
        memory = rank_memory(config, 64, place, n_micro, stage)
        assert result.state == pytest.approx(memory.state, rel=0.01)
        assert result.peak == pytest.approx(memory.peak, rel=0.10)
        if result.sent is not None:
            sent = sum(traffic(config, 64, place, n_micro, stage).values())
            # headers, and in tensor parallelism the q/k norms' few numbers, come on top
            assert sent <= result.sent <= 1.05 * sent + 20_000


def test_recomputation_is_weighed_too():
    config = Config()
    plain, block = (rank_memory(config, 128, Placement(recompute=x, micro_rows=8)).peak
                    for x in ("none", "block"))
    assert block < plain / 2


def test_collectives_in_processes_equal_torch():
    assert run_ranks(collectives_agree, 3) == [[], [], []]


def test_branches_that_only_some_ranks_use_are_averaged_and_accumulation_is_silent():
    results = run_ranks(overlap_cases, 2)
    total = {}
    for rank, side in enumerate(("left", "right")):
        model = Forked()
        x = torch.arange(8.0, dtype=torch.float64).view(2, 4) / 8 + rank
        (2 * model(x, side)).backward()
        for n, p in model.named_parameters():
            if p.grad is not None:
                total[n] = total.get(n, 0) + p.grad / 2
    for result in results:
        assert result["started in no_sync"] == 0
        assert result["grads"].pop("never") is None
        torch.testing.assert_close(result["grads"], total)


def test_a_checkpoint_of_one_mesh_continues_on_another(tmp_path):
    expected = one_process(small_model(), small_batches(4))[2]
    run_ranks(save_mesh, 4, Layout(data=1, pipeline=2, tensor=2, micro_batches=2), tmp_path, 2)
    last = run_ranks(save_mesh, 2, Layout(data=2), tmp_path, 4)
    for weights in last:
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout, ranks, message", [
    (Layout(tensor=3), 3, "n_heads 8 is not a multiple of 3 tensor-parallel ranks"),
    (Layout(data=2), 3, "needs 2 ranks, but 3 were started"),
    (Layout(data=3), 3, "8 rows cannot be shared evenly by 3 ranks"),
    (Layout(micro_batches=3), 1, "8 rows cannot be cut into 3 equal micro-batches"),
])
def test_sizes_that_do_not_divide_are_refused_with_a_sentence(layout, ranks, message):
    with pytest.raises(ValueError, match=message):
        run_ranks(layouts, ranks, [layout])
    assert SMALL["vocab_size"] == 53   # which no number of ranks divides: padded, in every test above
