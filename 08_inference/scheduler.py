"""Who computes what in the next step: admission, chunked prefill beside decode, preemption, fair turns.

Continuous batching (Yu et al. 2022, Orca): a request joins when there is room and leaves when it is done,
between any two steps. Long prompts are read in chunks beside the others' decoding, so that nobody waits for a
stranger's prompt (Agrawal et al. 2023, Sarathi). When blocks run out, the youngest request gives back all of
its own and is computed again later, its tokens so far included (Kwon et al. 2023, section 4.5).

Why nobody starves: blocks go to the oldest first, which may take them from all others and is finished in the
end; and the next to be admitted is never passed over for a smaller one.

    python 08_inference/workload.py        runs requests through it
"""
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from constrained import TokenAutomaton
from paged_attention import Piece
from paged_cache import BLOCK, BlockPool, BlockTable, OutOfBlocks
from sampling import Sampling


@dataclass(eq=False)
class Request:
    """A prompt and what is wanted; the engine fills in the lower half."""
    prompt: list[int]
    n_new: int                                     # at most so many new tokens
    sampling: Sampling = Sampling()
    seed: int = 0                                  # of this request's draws, whoever else is served
    eos: int | None = None                         # ends the text and is not part of it
    automaton: TokenAutomaton | None = None        # tokens must match its pattern
    n_top: int | None = None                       # log-probabilities are wanted, with so many alternatives
    owner: str = ""                                # requests of one owner share what is fair among owners
    watch: Callable[["Request", int], bool] | None = None    # called with each token; True ends the text
    siblings: list["Request"] = field(default_factory=list)  # same prompt: they share what this one computed

    tokens: list[int] = field(default_factory=list, init=False)       # new ones
    logprobs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list, init=False)
    finished: str = field(default="", init=False)  # stop, length, cancelled or error, once it is
    shared: int = field(default=0, init=False)     # tokens of the prompt that were found in the cache
    arrival: int = field(default=0, init=False)
    computed: int = field(default=0, init=False)   # tokens whose keys and values are in the cache
    state: int = field(default=0, init=False)      # of the automaton
    table: Any = field(default=None, init=False)   # a BlockTable while it runs

    def __post_init__(self):
        self.dice = random.Random(self.seed)
        self.ids = list(self.prompt)               # prompt and new tokens
        self.seen = set(self.prompt)

    @property
    def left(self) -> int:
        """Tokens that must go through the model before the next one can be chosen."""
        return len(self.ids) - self.computed


def whose_turn(waiting: list[tuple[str, int, int]], running: list[str], n_free: int) -> int | None:
    """The place in `waiting` of the request to let in next; None if there is none or it must wait on.

    waiting: (owner, arrival, new blocks that it needs), in any order; running: the owner of each running
    request. Next is, of the owners with the fewest running requests, the one whose request arrived first. If
    it needs more than the `n_free` blocks it waits, and nobody overtakes it: else a large one waits forever.
    """
    # EXERCISE 8.17 admission
    if not waiting:
        return None
    places = Counter(running)
    first = min(range(len(waiting)), key=lambda i: (places[waiting[i][0]], waiting[i][1]))
    return first if waiting[first][2] <= n_free else None
    # END EXERCISE 8.17


class Scheduler:
    """Queues of requests over one pool of blocks; `plan` says what the next step computes."""

    def __init__(self, pool: BlockPool, max_running: int, max_step: int):
        if not 1 <= max_running <= max_step:
            raise ValueError(f"{max_running} requests at once, each with a token a step, do not fit into "
                             f"steps of {max_step} tokens: allow fewer, or larger steps")
        self.pool, self.max_running, self.max_step = pool, max_running, max_step
        self.waiting: list[Request] = []
        self.running: list[Request] = []           # oldest first
        self.preemptions = self.arrivals = 0

    def add(self, request: Request) -> None:
        """Queue a request that has just come."""
        request.arrival = self.arrivals
        self.arrivals += 1
        self.waiting.append(request)

    def plan(self) -> tuple[list[tuple[Request, Piece]], list[tuple[int, int]]]:
        """The pieces of the next step, at most `max_step` tokens, and the blocks to copy before it."""
        planned: dict[Request, int] = {}           # how many tokens each computes
        copies: list[tuple[int, int]] = []
        budget = self.max_step
        decoding = [r for r in self.running if r.left == 1]
        for request in decoding + [r for r in self.running if r.left > 1]:
            if request.table is None or budget == 0:   # preempted in this loop, or its turn comes next time
                continue
            n = min(request.left, budget)
            pairs = self._room(request, n, planned)
            if pairs is not None:
                planned[request] = n
                copies += pairs
            budget = self.max_step - sum(planned.values())
        while budget and self.waiting and len(self.running) < self.max_running:
            request = self._admit()
            if request is None:
                break
            planned[request] = n = min(request.left, budget)
            copies += request.table.reserve(request.computed, request.computed + n)
            budget -= n
        pieces = [(r, Piece(r.table, r.ids[r.computed:r.computed + n], r.computed))
                  for r, n in planned.items()]
        return pieces, copies

    def _room(self, request: Request, n: int, planned: dict[Request, int]) -> list[tuple[int, int]] | None:
        """Blocks for the next n tokens, if need be from younger requests; None if it was the youngest."""
        while True:
            try:
                return request.table.reserve(request.computed, request.computed + n)
            except OutOfBlocks:
                youngest = self.running[-1]
                planned.pop(youngest, None)
                self.preempt(youngest)
                if youngest is request:
                    return None

    def preempt(self, request: Request) -> None:
        """Take all blocks of a running request; it waits to be computed again, its tokens so far included."""
        self.release(request)
        self.waiting.append(request)
        self.preemptions += 1

    def release(self, request: Request) -> None:
        """Give back what a running request holds."""
        self.running.remove(request)
        request.table.free()
        request.table, request.computed = None, 0

    def _admit(self) -> Request | None:
        """Let the next request run if its tokens so far, and one more, find room without taking from others.

        Blocks that nobody holds but that have a known content count as free until they are held.
        """
        owners = [r.owner for r in self.running]
        queue = [(r.owner, r.arrival, 0) for r in self.waiting]   # what it needs is known when it shares
        turn = whose_turn(queue, owners, 0)
        if turn is None:
            return None
        request = self.waiting[turn]
        table = BlockTable(self.pool)
        computed = table.share_prefix(request.ids)
        blocks = -(-(len(request.ids) + 1) // BLOCK) - len(table.blocks)
        if whose_turn([(request.owner, request.arrival, blocks)], owners, self.pool.n_free) is None:
            table.free()
            return None
        request.table, request.computed = table, computed
        if not request.tokens:
            request.shared = computed
        self.waiting.remove(request)
        self._join(request)
        return request

    def fork(self, request: Request, sibling: Request) -> bool:
        """Let a sibling run on a copy of a running request's table, if there is room."""
        if len(self.running) >= self.max_running:
            return False
        sibling.table = request.table.fork()
        sibling.computed = sibling.shared = request.computed
        self._join(sibling)
        return True

    def _join(self, request: Request) -> None:
        self.running.append(request)
        self.running.sort(key=lambda r: r.arrival)
