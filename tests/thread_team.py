"""A team of threads with the methods of collectives.Team: the same code in one process, in milliseconds.

Tests that need real processes use ranks.run_ranks; this is for the many small ones and for the exercises.
"""
import queue
import threading

import torch


class _Done:
    def __init__(self, run=lambda: None):
        self.wait = run


class ThreadTeam:
    """One rank of a team whose messages are queues; a message that never comes is an error, not an endless wait."""
    native = False

    def __init__(self, rank: int, size: int, boxes: dict, patience: float):
        self.rank, self.size, self.sent = rank, size, 0
        self.boxes, self.patience, self.log = boxes, patience, []

    def _post(self, out, to):
        assert to != self.rank and 0 <= to < self.size, f"rank {self.rank} of {self.size} sends to rank {to}"
        self.sent += out.numel() * out.element_size()
        self.boxes[self.rank, to].put(out.detach().clone())

    def exchange(self, out, to, into, source):
        if out is not None:
            self._post(out, to)
        if into is not None:
            try:
                arrived = self.boxes[source, self.rank].get(timeout=self.patience)
            except queue.Empty:
                raise AssertionError(f"rank {self.rank} waits for a message from rank {source} that nobody sends") from None
            assert arrived.shape == into.shape, f"rank {self.rank} expects {tuple(into.shape)}, gets {tuple(arrived.shape)}"
            into.copy_(arrived)

    def start_send(self, out, to):
        self._post(out, to)
        return _Done()

    def start_all_reduce(self, x):
        """Everyone sends to everyone now; wait() adds up. Buckets of one rank therefore pair up in order of start."""
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


def run_threads(function, size: int, *args, patience: float = 5.0) -> list:
    """function(team, *args) on `size` threads; returns what each returned. The first error of any rank is raised."""
    boxes = {(a, b): queue.Queue() for a in range(size) for b in range(size)}
    results, errors = [None] * size, []

    def one(rank):
        try:
            results[rank] = function(ThreadTeam(rank, size, boxes, patience), *args)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * patience)
        assert not thread.is_alive(), "a rank never ends: an endless loop, or it waits for something that nobody sends"
    if errors:
        raise errors[0]
    return results
