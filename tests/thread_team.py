"""A team of threads with the methods of collectives.Team: the same code in one process, in milliseconds.

Tests that need real processes use ranks.run_ranks; this is for the many small ones and for the exercises.
"""
import queue
import threading
import time

import torch


class _Done:
    def __init__(self, run=lambda: None):
        self.wait = run


class Abandoned(Exception):
    """Another rank has failed: no use in waiting for it."""


class ThreadTeam:
    """One rank of a team whose messages are queues; a message that never comes is an error, not an endless
    wait.

    In a `ring` each rank may send to its right neighbour only, and receive from its left one.
    """
    native = False

    def __init__(self, rank: int, size: int, boxes: dict, patience: float, broken: threading.Event,
                 ring: bool):
        self.rank, self.size, self.sent = rank, size, 0
        self.boxes, self.patience, self.broken, self.ring, self.log = boxes, patience, broken, ring, []

    def _check(self, does: str, other: int, step: int):
        """`other` must be a rank of this team, in a ring the one `step` away."""
        me = f"rank {self.rank} of {self.size} {does}"
        assert 0 <= other < self.size, f"{me} rank {other}: the ranks are 0 to {self.size - 1}"
        assert other != self.rank, f"{me} itself: is that one step too many?"
        right = (self.rank + step) % self.size
        assert not self.ring or other == right, f"{me} rank {other}, in a ring only rank {right}"

    def _post(self, out, to):
        self._check("sends to", to, 1)
        self.sent += out.numel() * out.element_size()
        self.boxes[self.rank, to].put(out.detach().clone())

    def exchange(self, out, to, into, source):
        if out is not None:
            self._post(out, to)
        if into is not None:
            self._check("receives from", source, -1)
            arrived = self._wait(source)
            assert arrived.shape == into.shape, \
                f"rank {self.rank} expects {tuple(into.shape)}, gets {tuple(arrived.shape)}"
            into.copy_(arrived)

    def _wait(self, source):
        end = time.monotonic() + self.patience
        while time.monotonic() < end:
            try:
                return self.boxes[source, self.rank].get(timeout=0.02)
            except queue.Empty:
                if self.broken.is_set():
                    raise Abandoned from None
        raise AssertionError(f"rank {self.rank} waits for a message from rank {source} that nobody sends")

    def start_send(self, out, to):
        self._post(out, to)
        return _Done()

    def start_all_reduce(self, x):
        """Everyone sends to everyone now; wait() adds up. So buckets of a rank pair up in order of start."""
        self.log.append(x.numel())
        for other in range(self.size):
            if other != self.rank:
                self._post(x, other)

        def finish():
            total, mine = torch.zeros_like(x), x.clone()
            for other in range(self.size):
                arrived = mine
                if other != self.rank:
                    arrived = torch.empty_like(x)
                    self.exchange(None, 0, arrived, other)
                total += arrived
            x.copy_(total)
        return _Done(finish)


class Alone:
    """A team of one."""
    rank, size, native = 0, 1, False

    def split(self, parts):
        return self


def run_threads(function, size: int, *args, patience: float = 5.0, ring: bool = False) -> list:
    """function(team, *args) on `size` threads; gives what each returned. The first error is raised."""
    boxes = {(a, b): queue.Queue() for a in range(size) for b in range(size)}
    results, errors, broken = [None] * size, [], threading.Event()

    def one(rank):
        try:
            results[rank] = function(ThreadTeam(rank, size, boxes, patience, broken, ring), *args)
        except Abandoned:
            pass
        except BaseException as error:
            errors.append(error)
            broken.set()

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * patience)
        assert not thread.is_alive(), \
            "a rank never ends: an endless loop, or it waits for something that nobody sends"
    if errors:
        raise errors[0]
    return results
