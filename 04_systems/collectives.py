"""Collective operations from nothing but "send to that rank, receive from this one".

ring   every rank talks to its right neighbour only; each link carries the least possible number of bytes
tree   log2(p) rounds instead of p - 1: better for small messages, where latency counts and not bytes

Bytes that one rank sends, for n bytes and p ranks (Patarasuk and Yuan 2009; Thakur et al. 2005):
reduce-scatter and all-gather (p-1)/p n, all-reduce twice that, all-to-all (p-1)/p n; a broadcast
(p-1) n in all.

    python 04_systems/run.py --only collectives
"""
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Team:
    """Some ranks that work together: their process group, my number in it, how many bytes I have sent.

    `timeout` is how long a rank waits for a message; a part of the team does not take it over by itself.
    """

    def __init__(self, group: Any, timeout: timedelta):
        self.timeout = timeout
        self.group, self.sent = group, 0
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        # on GPUs take nccl's own collectives: same results, tuned
        self.native = dist.get_backend(group) == "nccl"

    def exchange(self, out: Tensor | None, to: int, into: Tensor | None, source: int) -> None:
        """Send `out` to rank `to` of this team and receive `into` from rank `source`, at the same time."""
        wait = []
        if out is not None:
            wait.append(dist.P2POp(dist.isend, out.contiguous(), dist.get_global_rank(self.group, to),
                                   self.group))
            self.sent += out.numel() * out.element_size()
        if into is not None:
            wait.append(dist.P2POp(dist.irecv, into, dist.get_global_rank(self.group, source), self.group))
        for work in dist.batch_isend_irecv(wait) if wait else ():
            work.wait()

    def start_send(self, out: Tensor, to: int):
        """Start to send; `out` may not change before the returned handle's wait() has returned."""
        self.sent += out.numel() * out.element_size()
        return dist.isend(out.contiguous(), dist.get_global_rank(self.group, to), self.group)

    def start_all_reduce(self, x: Tensor):
        """Start to sum x over the team in place, by torch's own all-reduce; returns a handle with wait()."""
        return dist.all_reduce(x, group=self.group, async_op=True)

    def split(self, parts: list[list[int]]) -> "Team":
        """The smaller team that I am in. All ranks call this together with the same partition of them."""
        for ranks in parts:
            # by all, members or not
            group = dist.new_group([dist.get_global_rank(self.group, r) for r in ranks], self.timeout)
            if self.rank in ranks:
                mine = Team(group, self.timeout)
        return mine


def ring_reduce_scatter(x: Tensor, team: Team) -> Tensor:
    """Sum x over all ranks; rank r returns the r-th of p equal (or nearly equal) parts of the sum, flat.

    Part i starts at rank i + 1 and travels right; everyone adds its own share; p - 1 steps later it is at
    rank i.
    """
    # EXERCISE 4.4 ring reduce-scatter
    p, r = team.size, team.rank
    parts = list(x.reshape(-1).tensor_split(p))                   # views of x: replaced below, never written
    for step in range(p - 1):
        out, into = (r - step - 1) % p, (r - step - 2) % p
        arrived = torch.empty_like(parts[into])
        team.exchange(parts[out], (r + 1) % p, arrived, (r - 1) % p)
        parts[into] = parts[into] + arrived
    return parts[r].clone() if p == 1 else parts[r]
    # END EXERCISE 4.4


def ring_all_gather(part: Tensor, n: int, team: Team) -> Tensor:
    """All n numbers, flat, on every rank, of which rank r holds part r (cut as ring_reduce_scatter cuts).

    Each part travels once around the ring.
    """
    # EXERCISE 4.11 ring all-gather
    p, r = team.size, team.rank
    x = torch.empty(n, dtype=part.dtype, device=part.device)
    parts = x.tensor_split(p)                                     # views: what arrives lands in x
    parts[r].copy_(part.reshape(-1))
    for step in range(p - 1):
        team.exchange(parts[(r - step) % p], (r + 1) % p, parts[(r - step - 1) % p], (r - 1) % p)
    return x
    # END EXERCISE 4.11


def ring_all_reduce(x: Tensor, team: Team) -> Tensor:
    """The sum of x over all ranks, on every rank: each rank sums one part, then everyone gathers the parts.

    All ranks get the same bits, because each part is summed once, in one order.
    """
    return ring_all_gather(ring_reduce_scatter(x, team), x.numel(), team).view(x.shape)


def tree_broadcast(x: Tensor, root: int, team: Team) -> Tensor:
    """The x of rank `root`, on every rank, in log2(p) rounds: whoever has it tells one more in each."""
    p = team.size
    place = (team.rank - root) % p                                # the root stands at place 0
    x = x.clone().contiguous()
    reach = 1
    while reach < p:                                              # places 0 .. reach-1 have it
        if place < reach and place + reach < p:
            team.exchange(x, (team.rank + reach) % p, None, 0)
        elif reach <= place < 2 * reach:
            team.exchange(None, 0, x, (team.rank - reach) % p)
        reach *= 2
    return x


def tree_all_reduce(x: Tensor, team: Team) -> Tensor:
    """The sum of x by pairs, pairs of pairs ... at rank 0, then a broadcast: 2 log2(p) rounds of n bytes."""
    p, r = team.size, team.rank
    x, reach = x.clone().contiguous(), 1
    while reach < p:
        if r % (2 * reach) == reach:
            team.exchange(x, r - reach, None, 0)
        elif r % (2 * reach) == 0 and r + reach < p:
            arrived = torch.empty_like(x)
            team.exchange(None, 0, arrived, r + reach)
            x += arrived
        reach *= 2
    return tree_broadcast(x, 0, team)


def all_to_all(blocks: list[Tensor], team: Team) -> list[Tensor]:
    """Rank r's block number s goes to rank s as its block number r: a transpose. All blocks have one shape.

    In step s everyone sends to the rank s to its right, so that no rank receives two messages at once.
    """
    p, r = team.size, team.rank
    if len(blocks) != p:
        raise ValueError(f"all_to_all needs one block for each of the {p} ranks, not {len(blocks)}")
    out = [torch.empty_like(blocks[0], memory_format=torch.contiguous_format) for _ in range(p)]
    out[r].copy_(blocks[r])
    for step in range(1, p):
        team.exchange(blocks[(r + step) % p], (r + step) % p, out[(r - step) % p], (r - step) % p)
    return out


def all_reduce(x: Tensor, team: Team) -> Tensor:
    """The sum of x over the team: our ring, or nccl's."""
    if not team.native:
        return ring_all_reduce(x, team)
    x = x.clone()
    dist.all_reduce(x, group=team.group)
    return x


def reduce_scatter(x: Tensor, team: Team) -> Tensor:
    """Rank r's part of the sum of x over the team, flat; the size of x must be a multiple of the team's."""
    if x.numel() % team.size:
        raise ValueError(f"{x.numel()} numbers cannot be cut into {team.size} equal parts: pad them")
    if not team.native:
        return ring_reduce_scatter(x, team)
    part = x.new_empty(x.numel() // team.size)
    dist.reduce_scatter_tensor(part, x.reshape(-1).contiguous(), group=team.group)
    return part


def all_gather(part: Tensor, team: Team) -> Tensor:
    """The parts of all ranks, all of one size, in order of rank, flat."""
    if not team.native:
        return ring_all_gather(part, part.numel() * team.size, team)
    x = part.new_empty(part.numel() * team.size)
    dist.all_gather_into_tensor(x, part.reshape(-1).contiguous(), group=team.group)
    return x
