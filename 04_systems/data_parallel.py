"""Data parallelism: every rank holds the whole model, sees its own rows, and the gradients are averaged.

Three ways to average, naive first: a message for each parameter; a few large messages; and large messages
that leave while the backward pass is still computing the rest (Li et al. 2020, section 3.2).
The mean of the ranks' mean losses is the loss of the whole batch only if all count as many targets, so each
rank multiplies its own by `weight_of_mine`.

    python 04_systems/run.py --only strategies
"""
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from collectives import Team, all_reduce, tree_broadcast
from cross_entropy import IGNORE


def shard(x: Tensor, team: Team) -> Tensor:
    """This rank's rows of a batch (B, ...): B / p of them. Raises ValueError when B does not divide."""
    if len(x) % team.size:
        raise ValueError(f"a batch of {len(x)} rows cannot be shared evenly by {team.size} ranks: "
                         f"make it {max(len(x) // team.size, 1) * team.size}")
    return x.chunk(team.size)[team.rank]


def counted(targets: Tensor) -> int:
    """How many targets carry loss."""
    return int((targets != IGNORE).sum())


def weight_of_mine(targets: Tensor, team: Team) -> float:
    """What this rank multiplies its mean loss by, so that the average over ranks is the mean over all.

    p times its share of all counted targets: 1 if all ranks count as many, 0 for a rank that counts none.
    """
    mine = counted(targets)
    number = torch.tensor([float(mine)], dtype=torch.float64, device=targets.device)
    everyone = all_reduce(number, team).item()
    return team.size * mine / max(everyone, 1.0)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen: those that have something to average. The same on all ranks."""
    return [p for p in model.parameters() if p.requires_grad]


@torch.no_grad()
def share_parameters(model: nn.Module, team: Team) -> None:
    """Give every rank the weights of rank 0."""
    for p in model.parameters():
        p.copy_(tree_broadcast(p, 0, team))


def average_gradients_naive(model: nn.Module, team: Team) -> None:
    """One all-reduce a parameter: right, but many small messages."""
    for p in trainable(model):
        unpack(all_reduce(pack([p]), team), [p], team.size)


def fill_buckets(parameters: list[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Group parameters, in the order given, into lists of at least `bucket_bytes`, but for the last."""
    # EXERCISE 4.9 buckets of gradients
    buckets: list[list[nn.Parameter]] = [[]]
    for p in parameters:
        if sum(q.numel() * q.element_size() for q in buckets[-1]) >= bucket_bytes:
            buckets.append([])
        buckets[-1].append(p)
    return buckets if parameters else []
    # END EXERCISE 4.9


def pack(bucket: list[nn.Parameter]) -> Tensor:
    """The gradients of a bucket in one flat tensor, then a flag for each: 1 if this rank has it.

    Missing gradients count as zero. The flags travel with the rest: every rank learns whether anyone has it.
    """
    flags = torch.tensor([float(p.grad is not None) for p in bucket], dtype=bucket[0].dtype,
                         device=bucket[0].device)
    grads = [(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in bucket]
    return torch.cat((*grads, flags))


def unpack(flat: Tensor, bucket: list[nn.Parameter], n_ranks: int) -> None:
    """Put the averages of an all-reduced `pack` back; a parameter that no rank used keeps no gradient."""
    pieces = flat.split([*(p.numel() for p in bucket), len(bucket)])
    for p, piece, used in zip(bucket, pieces, pieces[-1].tolist()):
        p.grad = (piece / n_ranks).view_as(p).to(p.dtype) if used else None


def average_gradients_bucketed(model: nn.Module, team: Team, bucket_bytes: int = 1 << 20) -> None:
    """A few large messages instead of many small ones, after the backward pass."""
    for bucket in fill_buckets(trainable(model), bucket_bytes):
        unpack(all_reduce(pack(bucket), team), bucket, team.size)


class OverlappedGradients:
    """Averages gradients while they are being computed.

        overlap = OverlappedGradients(model, team)
        with overlap.no_sync():                  # accumulation: only the last backward pass communicates
            loss(first_half).backward()
        loss(second_half).backward()
        overlap.finish()                         # now every p.grad is the average

    Gradients arrive from the last layer to the first, so buckets are filled in that order. The ranks must
    start the same all-reduces in the same order, so a bucket waits for the ones before it, even when it is
    complete.
    """

    def __init__(self, model: nn.Module, team: Team, bucket_bytes: int = 1 << 20):
        self.team, self.syncing = team, True
        self.model = model
        self.buckets = fill_buckets(trainable(model)[::-1], bucket_bytes)   # a shared one is listed once
        self.bucket_of = {p: i for i, bucket in enumerate(self.buckets) for p in bucket}
        self._reset()
        for p in self.bucket_of:
            p.register_post_accumulate_grad_hook(self.ready)

    def _reset(self) -> None:
        self.missing = [len(bucket) for bucket in self.buckets]   # gradients that have not arrived yet
        self.sent: list[tuple[Tensor, Any]] = []               # (packed bucket, handle), in order

    def start(self) -> None:
        """Start the all-reduce of the next bucket; returns without waiting for it."""
        flat = pack(self.buckets[len(self.sent)])
        self.sent.append((flat, self.team.start_all_reduce(flat)))

    def ready(self, p: nn.Parameter) -> None:
        """Called by autograd when p.grad is complete: start every bucket whose turn has come."""
        # EXERCISE 4.3 overlapped gradients
        if not self.syncing:
            return
        self.missing[self.bucket_of[p]] -= 1
        while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] == 0:
            self.start()
        # END EXERCISE 4.3

    def finish(self) -> int:
        """Start what could not start (parameters without a gradient), wait, put the averages in place.

        Returns how many buckets were under way before this call, that is, during the backward pass. Raises
        ValueError if a gradient has been left out of its message.
        """
        if min(self.missing, default=0) < 0:
            raise ValueError("a gradient changed after its bucket had been sent: put all backward passes of "
                             "a step but the last into `with overlap.no_sync():`")
        if any(p.grad is not None and p not in self.bucket_of for p in self.model.parameters()):
            raise ValueError("a parameter was frozen when OverlappedGradients was made and has a gradient "
                             "now: make a new one after unfreezing")
        early = len(self.sent)
        while len(self.sent) < len(self.buckets):
            self.start()
        for bucket, (flat, handle) in zip(self.buckets, self.sent):
            handle.wait()
            unpack(flat, bucket, self.team.size)
        self._reset()
        return early

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside only add up gradients on this rank."""
        self.syncing = False
        try:
            yield
        finally:
            self.syncing = True
