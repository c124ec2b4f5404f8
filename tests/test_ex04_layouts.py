"""Exercises 4.8 to 4.12: bubbles, buckets, held micro-batches, an all-gather, the spans of a shard.

Adds to test_ex04.py. The first line of each docstring is what a learner sees.
"""
import random
from types import SimpleNamespace

import pytest
import torch

from collectives import ring_all_gather
from data_parallel import fill_buckets
from ex_compare import call, same
from memory_model import Placement, held_micro_batches
from pipeline_parallel import bubble, gpipe, one_f_one_b, simulate
from test_ex04 import attempt
from thread_team import ThreadTeam, run_threads
from zero import spans


@pytest.mark.ex("4.8")
def test_the_idle_share_of_the_worked_example():
    """two stages from second 5 to 11, busy 4 and 3 of 6 seconds: 5/12 is idle"""
    lines = [[("F", 0, 5.0, 6.0), ("F", 1, 6.0, 7.0), ("B", 0, 9.0, 11.0)],
             [("F", 0, 6.5, 7.5), ("B", 0, 8.0, 10.0)]]
    same(call("the worked example", bubble, lines), 5 / 12, "the worked example", mistakes={
        "the clock starts with the first action, not at 0": 1 - 7 / 22,
        "this is the share in which they work": 7 / 12,
        "this is in seconds": 5.0,
        "each stage has its own clock: take the first start and the last end of all":
            1 - (4 / 6 + 3 / 3.5) / 2})


@pytest.mark.ex("4.8")
def test_the_bubble_of_both_schedules():
    """GPipe and 1F1B lose (p-1)/(m+p-1) of the time, for few and for very many micro-batches"""
    for p, m in ((1, 3), (2, 3), (4, 8), (8, 1), (3, 200)):
        for name in ("gpipe", "1f1b"):
            same(call(f"{name}, p {p}, m {m}", bubble, simulate(name, p, m)), (p - 1) / (m + p - 1),
                 f"{name}: {p} stages, {m} micro-batches", rtol=1e-9, atol=1e-12)


@pytest.mark.ex("4.8")
def test_actions_of_any_length_at_any_time():
    """stages that begin and end when they like: any of them may be the first and any the last"""
    for _ in range(20):
        lines, offset = [], random.choice([0.0, 1e3])
        for _ in range(random.randint(1, 5)):
            t, line = offset + random.uniform(0, 9), []
            for i in range(random.randint(1, 6)):
                start = t + random.uniform(0, 2)
                t = start + random.uniform(0.1, 3)
                line.append((random.choice("FB"), i, start, t))
            lines.append(line)
        starts, ends = [a[2] for line in lines for a in line], [a[3] for line in lines for a in line]
        want = 1 - (sum(ends) - sum(starts)) / (max(ends) - min(starts)) / len(lines)
        same(call(f"{lines}", bubble, lines), want, f"{lines}",
             "idle time of all stages / (stages * time of all)", rtol=1e-8, atol=1e-9)


def numbers(buckets) -> list[list[int]]:
    """The buckets by the places of their parameters in `given`, which each carries as its first number."""
    return [[int(p.flatten()[0]) for p in bucket] for bucket in buckets]


def filled_by(sizes: list[int], bucket_bytes: int, dtype=torch.float32) -> list[list[int]]:
    """fill_buckets of parameters of these sizes."""
    parameters = [torch.nn.Parameter(torch.full((n,), float(i), dtype=dtype)) for i, n in enumerate(sizes)]
    got = call(f"sizes {sizes}, {bucket_bytes} bytes", fill_buckets, parameters, bucket_bytes)
    assert type(got) is list and all(type(b) is list for b in got), (
        f"sizes {sizes}: got {got!r}, wanted a list of lists")
    assert all(any(p is q for q in parameters) for b in got for p in b), (
        f"sizes {sizes}: got copies of the parameters, wanted the parameters themselves")
    return numbers(got)


@pytest.mark.ex("4.9")
def test_a_bucket_is_closed_when_it_is_full():
    """sizes of 8, 4, 12, 4, 20 and 4 bytes, 12 a bucket: 2, 1, 2 and 1 parameters"""
    same(filled_by([2, 1, 3, 1, 5, 1], 12), [[0, 1], [2], [3, 4], [5]],
         "floats of sizes 2, 1, 3, 1, 5, 1, 12 bytes",
         mistakes={
             "a bucket that has just reached the size is full": [[0, 1, 2], [3, 4], [5]],
             "at least so many bytes, not at most": [[0, 1], [2], [3], [4], [5]],
             "the last bucket may be smaller": [[0, 1], [2], [3, 4]],
             "count bytes, not numbers": [[0, 1, 2, 3, 4], [5]]})


@pytest.mark.ex("4.9")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_buckets_of_any_sizes_and_types(dtype):
    """forty parameters, in their order, of 2, 4 or 8 bytes a number, in small and in large buckets"""
    sizes = [random.choice([1, 2, 3, 17, 100]) for _ in range(40)]
    width = torch.empty((), dtype=dtype).element_size()
    for bucket_bytes in (1, 8, 64, 400, 10**9):
        want, left = [], 0
        for i, n in enumerate(sizes):
            if left <= 0:
                want.append([])
                left = bucket_bytes
            want[-1].append(i)
            left -= n * width
        same(filled_by(sizes, bucket_bytes, dtype), want,
             f"sizes {sizes} in {dtype}, {bucket_bytes} bytes a bucket")


@pytest.mark.ex("4.9")
def test_no_parameters_need_no_bucket():
    """without parameters there is no bucket, with one there is one"""
    same(filled_by([], 8), [], "no parameters", "an empty list, not a list with an empty bucket")
    same(filled_by([3], 8), [[0]], "one parameter")


def held(place: Placement, n_micro: int, stage: int, want: float, hint: str = "", **mistakes) -> None:
    """Compare held_micro_batches with a number, whole or not."""
    got = call(f"{place}", held_micro_batches, place, n_micro, stage)
    said = {key.replace("_", " "): float(value) for key, value in mistakes.items()}
    given = (f"{place.schedule}, {place.pipeline} stages, interleave {place.interleave}, "
             f"{n_micro} micro-batches, stage {stage}")
    assert type(got) in (int, float), f"given {given}: got {got!r}, wanted a number"
    same(float(got), float(want), given, hint, said, rtol=1e-12)


@pytest.mark.ex("4.10")
def test_what_the_schedules_hold():
    """GPipe and 1F1B hold what their own lists of actions say, stage by stage"""
    for name, schedule in (("gpipe", gpipe), ("1f1b", one_f_one_b)):
        for p, m in ((1, 1), (4, 8), (4, 3), (6, 6), (2, 100)):
            for stage in range(p):
                now = most = 0
                for kind, _ in schedule(stage, p, m):
                    now += 1 if kind == "F" else -1
                    most = max(most, now)
                held(Placement(pipeline=p, schedule=name), m, stage, most,
                     "count the actions of the schedule", as_if_it_were_GPipe=m,
                     as_if_it_were_the_first_stage=min(p, m))


@pytest.mark.ex("4.10")
def test_interleaved_stages_hold_more():
    """4 stages of 2 pieces, 16 micro-batches: stage 0 holds 5.5, stage 3 2.5, never more than there are"""
    for p, v, m, stage, want in ((4, 2, 16, 0, 5.5), (4, 2, 16, 3, 2.5), (4, 2, 4, 0, 4),
                                 (8, 4, 100, 2, 7.75), (3, 3, 30, 1, 2 + 2 / 3), (1, 2, 5, 0, 1),
                                 (5, 2, 3, 4, 3), (4, 2, 5, 0, 5)):
        held(Placement(pipeline=p, interleave=v), m, stage, want,
             "p - stage + (p - 1) / v, and at most n_micro", the_pieces_are_forgotten=min(p - stage, m),
             a_whole_number_of_them=min(p - stage + (p - 1) // v, m))


@pytest.mark.ex("4.10")
def test_gpipe_does_not_care():
    """GPipe holds all micro-batches in every stage, whatever the pieces"""
    for stage in (0, 2, 3):
        held(Placement(pipeline=4, schedule="gpipe", interleave=1), 9, stage, 9)
    held(Placement(pipeline=4, schedule="gpipe", interleave=2), 8, 1, 8)


def check_gather(x: torch.Tensor, p: int, shape=None) -> None:
    """Cut x into p parts, gather them again on every rank; the parts stay as they are."""
    parts = [part.clone() for part in x.tensor_split(p)]
    parts = [part.view(shape) if shape else part for part in parts]
    before = [part.clone() for part in parts]

    def work(team: ThreadTeam):
        got = ring_all_gather(parts[team.rank], x.numel(), team)
        whole = got.clone()
        got.zero_()                                            # must not reach the part of the caller
        return whole, team.sent

    results = attempt(lambda: run_threads(work, p, ring=True))
    given = f"{p} ranks, {x.numel()} numbers of {x.dtype}"
    for r, (got, sent) in enumerate(results):
        own = torch.cat([q if i == r else torch.zeros_like(q) for i, q in enumerate(x.tensor_split(p))])
        same(got, x, f"{given}, rank {r}",
             "which part is passed on in each step, and where does the one that arrives go?",
             {"only this rank's own part is there": own}, rtol=0.0, atol=0.0)
        sizes = [part.numel() * x.element_size() for part in before]
        want = sum(sizes) - sizes[(r + 1) % p]
        same(sent, want, f"{given}: bytes that rank {r} sent",
             "each part once, all but that of the right neighbour")
    assert all(map(torch.equal, before, parts)), f"given {given}: the caller's part has changed, wanted not"


@pytest.mark.ex("4.11")
@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_every_rank_gets_all_parts(p):
    """every rank has all parts in order, from its left neighbour alone"""
    check_gather(torch.arange(2.0 * p) + 1, p)


@pytest.mark.ex("4.11")
def test_uneven_and_empty_parts_are_gathered():
    """7 numbers on 3 ranks: parts of 3, 2 and 2; and 2 numbers on 4 ranks"""
    check_gather(torch.arange(7.0), 3)
    check_gather(torch.arange(2.0) + 5, 4)


@pytest.mark.ex("4.11")
def test_parts_of_any_type_and_shape():
    """float64, whole numbers beyond 2^53, tables as parts, very many numbers"""
    check_gather(torch.randn(9, dtype=torch.float64), 3)
    check_gather(torch.tensor([2**60 + 1, -3, 7, 2**61]), 2)
    check_gather(torch.arange(12.0), 2, (2, 3))
    check_gather(torch.arange(70001.0), 2)


def places(owner: list) -> dict[int, tuple[int, int]]:
    """Where each number stands in a list in which equal ones stand together: (first, last + 1)."""
    return {i: (owner.index(i), owner.index(i) + owner.count(i))
            for i in dict.fromkeys(owner) if i is not None}


def check_spans(sizes: list[int], rank: int, size: int, dtype=torch.float32, multiple: int = 0) -> None:
    """spans against a list that says for each number of the flat vector whose it is."""
    n = -(-sum(sizes) // (multiple or size)) * (multiple or size)
    full, at = torch.empty(n, dtype=dtype), rank * n // size
    owner = [i for i, m in enumerate(sizes) for _ in range(m)] + [None] * (n - sum(sizes))
    want = places(owner[at:at + n // size])
    unit = SimpleNamespace(full=full, sizes=sizes, bytes=n * full.element_size())
    given = f"parameters of {sizes} numbers in {dtype}, {n} with padding, rank {rank} of {size}"
    got = call(given, spans, unit, rank, size)
    assert type(got) is dict and all(type(s) is slice and s.step in (None, 1) for s in got.values()), (
        f"given {given}: got {got!r}, wanted a dictionary of slices")
    whole = {i: (a + at, b + at) for i, (a, b) in want.items()}
    same({i: (s.start, s.stop) for i, s in got.items()}, want, given, mistakes={
        "places in the whole vector, not in the part": whole,
        "that is rank 0's part": places(owner[:n // size])})


@pytest.mark.ex("4.12")
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_part_cuts_parameters(rank):
    """5, 2 and 4 numbers on 3 ranks, 12 with padding: a parameter may lie on two ranks"""
    check_spans([5, 2, 4], rank, 3)


@pytest.mark.ex("4.12")
def test_one_large_parameter_and_many_small_ones():
    """a parameter that fills several parts, parts of padding alone, parameters without numbers, 1 rank"""
    for sizes, size in (([100], 8), ([1, 1, 1], 8), ([3, 0, 2, 0, 40, 1], 4), ([2] * 50, 7), ([6, 6], 2),
                        ([9, 4, 1], 1)):
        for rank in range(size):
            check_spans(sizes, rank, size)


@pytest.mark.ex("4.12")
def test_spans_of_other_types_and_of_more_padding():
    """float64 and bfloat16, and a vector that is padded to a larger multiple than the ranks"""
    sizes = [random.randint(1, 9) for _ in range(10)]
    for dtype in (torch.float64, torch.bfloat16):
        for rank in range(4):
            check_spans(sizes, rank, 4, dtype)
    for rank in range(2):
        check_spans([70_000, 3], rank, 2, multiple=16)
