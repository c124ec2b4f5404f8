"""What the ranks of run.py do: functions of a team that return plain numbers.

    python 04_systems/run.py               calls them through ranks.run_ranks
"""
import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from collectives import (
    Team,
    all_to_all,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
    tree_all_reduce,
    tree_broadcast,
)
from pipeline_parallel import Pipeline, bubble
from strategies import Result, measured_run, random_batches, settled_bytes
from transformer import Config, Transformer


def collective_bytes(team: Team, n: int) -> dict[str, tuple]:
    """Each collective on n numbers of float32, as rank 0 sees it.

    {name: (bytes to send by the formula, by our count, by the kernel's count, is the result torch's?)}.
    """
    p = team.size
    x = torch.arange(n, dtype=torch.float32) % 1000 + team.rank               # sums are exact in float32
    zero = torch.arange(n, dtype=torch.float32) % 1000
    total = p * zero + p * (p - 1) / 2
    share, rounds = (p - 1) / p * 4 * n, (p - 1).bit_length()
    part = total.tensor_split(p)[team.rank]

    def reference(function, like: Tensor) -> Tensor:
        like = like.clone()
        function(like, group=team.group)
        return like

    jobs = {
        "ring reduce-scatter": (share, lambda: ring_reduce_scatter(x, team), part),
        "ring all-gather": (share, lambda: ring_all_gather(part, n, team), reference(dist.all_reduce, x)),
        "ring all-reduce": (2 * share, lambda: ring_all_reduce(x, team), reference(dist.all_reduce, x)),
        "tree all-reduce": (rounds * 4 * n, lambda: tree_all_reduce(x, team),      # of rank 0
                            reference(dist.all_reduce, x)),
        "tree broadcast": (rounds * 4 * n, lambda: tree_broadcast(x, 0, team),
                           reference(lambda y, group: dist.broadcast(y, 0, group=group), x)),
        "all-to-all": (share, lambda: torch.cat(all_to_all(list(x.chunk(p)), team)),
                       torch.cat([(zero + r).chunk(p)[team.rank] for r in range(p)])),
    }
    table = {}
    for name, (formula, job, expected) in jobs.items():
        team.sent, before = 0, settled_bytes()
        out = job()
        after = settled_bytes()
        table[name] = (formula, team.sent, None if before is None or after is None else after - before,
                       torch.equal(out, expected))
    return table


def run_strategies(team: Team, names: tuple[str, ...], model: Transformer, batches: list,
                   expected: dict) -> list[Result]:
    """Every named strategy, one after another, in the same processes."""
    return [measured_run(team, name, copy.deepcopy(model), batches, expected) for name in names]


def pipeline_timeline(team: Team, config: Config, schedule: str, n_micro: int,
                      slot: float) -> tuple[list, int, float]:
    """This stage's timeline of a padded training step, micro-batches held at most, the bubble of all stages.

    Of two steps the one with the smaller bubble: what else runs on the machine only adds idle time. A first
    step within two points of the formula is not repeated.
    """
    everyone = [list(range(team.size))]
    pipe = Pipeline(Transformer(config), team, team.split(everyone), n_micro, schedule)
    (ids, targets), = random_batches(config, 1, n_micro, 16, 0)
    pipe.step(ids, targets)                                                   # warms up, not padded
    pipe.slot = slot
    best: Any = None
    for _ in range(2):
        dist.barrier()
        pipe.step(ids, targets)
        lines: list = [None] * team.size
        dist.all_gather_object(lines, pipe.timeline)
        if best is None or bubble(lines) < best[2]:
            best = (pipe.timeline, pipe.most_held, bubble(lines))
        if best[2] < (team.size - 1) / (n_micro + team.size - 1) + 0.02:      # all ranks know the same lines
            break
    return best
