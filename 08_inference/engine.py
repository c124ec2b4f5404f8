"""Many requests through one model at once: each gets the tokens that it would get alone.

Adds to the scheduler the step itself: one call of the model for all pieces, one choice of tokens for all that
are due, each by its own settings, seed and pattern. Arrival order, neighbours, shared prefixes, preemption
and cancellation of others may change *when* a token is computed and never *which*; the tests try hundreds of
random schedules.

Fast path: where there is a C++ compiler, a small model's steps are one call each (csrc/decode_step.cpp).

    python 08_inference/workload.py        sixteen requests at once, and one after another
"""
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decode_step import DecodeStep, library
from fused_model import FusedModel
from paged_attention import PagedAttention, PagedMemory, Piece
from paged_cache import BLOCK, BlockPool
from sampling import pick_rows, top_log_probabilities
from scheduler import Request, Scheduler
from transformer import Transformer

SMALL = 4_000_000   # weights; what does not fit into the processor's cache waits for memory either way
MOST_ROWS = 32      # tokens of a step; of more, torch's larger products are as fast


def starts_cost(model: Transformer, head: Tensor) -> bool:
    """Does a token wait for the start of its operations, rather than for weights or a GPU?"""
    small = sum(p.numel() for p in model.parameters()) <= SMALL
    return small and head.device.type == "cpu" and head.dtype == torch.float32


@dataclass
class Counts:
    """What an engine has done so far."""
    steps: int = 0
    computed: int = 0      # tokens that went through the model
    generated: int = 0
    shared: int = 0        # prompt tokens that were found in the cache
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "cancelled": 0,
                                                              "error": 0})


class Engine:
    """`submit` requests, `step` until none is left. One thread calls it; server.py puts a queue before it.

    compiled: take C++ for steps of few tokens. None: if the model is small, in float32 on the CPU, and there
    is a compiler.
    """

    def __init__(self, model: Transformer, n_blocks: int = 512, max_running: int = 32, max_step: int = 256,
                 compiled: bool | None = None):
        self.model = FusedModel(model)
        self.max_len = model.config.max_len
        self.memory = PagedMemory(model.config, n_blocks, self.model.head)
        self.scheduler = Scheduler(BlockPool(n_blocks), max_running, max_step)
        self.counts = Counts()
        if compiled is None:
            compiled = starts_cost(model, self.model.head) and library() is not None
        m, memory = self.model, self.memory
        self.compiled = DecodeStep(m.embedding, m.layers, m.rotation, m.eps, m.config.qk_norm, memory.k,
                                   memory.v) if compiled else None

    def submit(self, request: Request) -> None:
        """Queue a request, and its siblings behind it. ValueError for one that could never be served."""
        pool = self.scheduler.pool
        for r in (request, *request.siblings):
            if r.finished or r.tokens:
                raise ValueError("a request is submitted once: make a new one to run it again")
            if not r.prompt or r.n_new < 1:
                raise ValueError("a request needs a prompt of at least one token and room for at least one "
                                 "new token")
            if any(not 0 <= i < self.model.config.vocab_size for i in r.prompt):
                raise ValueError("a token of the prompt is outside the vocabulary of "
                                 f"{self.model.config.vocab_size}")
            if len(r.prompt) + r.n_new > self.max_len:
                raise ValueError(f"a prompt of {len(r.prompt)} tokens and {r.n_new} new ones are more than "
                                 f"the {self.max_len} that the model can read: shorten one of them")
            if len(r.prompt) + r.n_new > len(pool.refs) * BLOCK:
                raise ValueError(f"{len(r.prompt) + r.n_new} tokens do not fit into a cache of "
                                 f"{len(pool.refs)} blocks of {BLOCK}: make it larger")
            if r is not request and r.prompt != request.prompt:
                raise ValueError("siblings have the same prompt")
        self.scheduler.add(request)
        for sibling in request.siblings:       # they arrive now, but wait for what they share
            self.scheduler.add(sibling)
            self.scheduler.waiting.remove(sibling)

    def cancel(self, request: Request) -> None:
        """End a request now, wherever it is; what it held is free at once."""
        if request.finished:
            return
        if request.table is not None:
            self.scheduler.release(request)
        elif request in self.scheduler.waiting:
            self.scheduler.waiting.remove(request)
        self._finish(request, "cancelled")

    @property
    def busy(self) -> bool:
        """Is anything left to do?"""
        return bool(self.scheduler.waiting or self.scheduler.running)

    def run(self, requests: list[Request]) -> list[Request]:
        """Submit all, step until all are finished."""
        for request in requests:
            self.submit(request)
        while self.busy:
            self.step()
        return requests

    def step(self) -> None:
        """Compute one step's pieces, then choose a token for each request with none left to compute."""
        planned, copies = self.scheduler.plan()
        if not planned:
            return
        self.memory.copy(copies)
        x = self._hidden([piece for _, piece in planned])
        due, rows, last = [], [], -1
        for request, piece in planned:
            last += len(piece.ids)
            request.computed = piece.end
            request.table.publish(request.ids, request.computed)
            if request.left == 0:
                due.append(request)
                rows.append(last)
        self.counts.steps += 1
        self.counts.computed += len(x)
        if due:
            self._choose(due, self.model.logits(x[torch.tensor(rows)]))

    def _hidden(self, pieces: list[Piece]) -> Tensor:
        """The last layer's vectors (N, C) of the tokens of all pieces, one after another."""
        ids = [i for p in pieces for i in p.ids]
        if self.compiled is None or len(ids) > MOST_ROWS:
            attention = PagedAttention(self.memory, pieces)
            return self.model.hidden(attention.ids, attention.positions, attention.attend)
        return self.compiled.hidden(ids, [i for p in pieces for i in range(p.begin, p.end)],      # fast path
                                    [p.table.blocks for p in pieces for _ in p.ids])

    def _choose(self, due: list[Request], logits: Tensor) -> None:
        """Give each request its next token, from its row of logits (len(due), V)."""
        siblings = [(i, s) for i, r in enumerate(due) for s in r.siblings if not s.finished]
        # the prompt is computed: siblings go on from copies of its table
        for i, sibling in siblings:
            if not self.scheduler.fork(due[i], sibling):
                self.scheduler.waiting.append(sibling)
        for request in due:
            request.siblings = []
        forked = [(i, s) for i, s in siblings if s.table is not None]
        if forked:
            logits = logits[[*range(len(due)), *(i for i, _ in forked)]]
            due = due + [s for _, s in forked]
        allowed, failed = logits, set()
        for i, r in enumerate(due):
            if r.automaton is not None:
                try:
                    forbidden = ~r.automaton.allowed(r.state).to(logits.device)
                except ValueError:             # the pattern leads to too many states
                    failed.add(r)
                    continue
                allowed = allowed.clone() if allowed is logits else allowed
                allowed[i].masked_fill_(forbidden, float("-inf"))
        chosen = pick_rows(allowed, [r.sampling for r in due], [r.dice for r in due], [r.seen for r in due])
        tops = max((r.n_top for r in due if r.n_top is not None), default=None)
        thought = top_log_probabilities(logits, chosen, tops) if tops is not None else None
        for i, (request, token) in enumerate(zip(due, chosen.tolist())):
            if request.finished:               # cancelled by another's watch
                continue
            if request in failed:
                self._end(request, "error")
            elif token == request.eos:
                self._end(request, "stop")
            else:
                if request.n_top is not None and thought is not None:
                    own, best = thought[i]
                    request.logprobs.append((own, best[:request.n_top]))
                self._append(request, token)

    def _append(self, request: Request, token: int) -> None:
        request.tokens.append(token)
        request.ids.append(token)
        request.seen.add(token)
        self.counts.generated += 1
        if request.automaton is not None:
            request.state = request.automaton.next(request.state, token)
        stopped = request.watch(request, token) if request.watch else False
        if stopped or len(request.tokens) == request.n_new:
            self._end(request, "stop" if stopped else "length")

    def _end(self, request: Request, reason: str) -> None:
        """A running request is done."""
        self.scheduler.release(request)
        self._finish(request, reason)

    def _finish(self, request: Request, reason: str) -> None:
        request.finished = reason
        self.counts.finished[reason] += 1
        self.counts.shared += request.shared
        for sibling in request.siblings:       # those who still wait for this one's prompt wait for their own
            if not sibling.finished:
                self.scheduler.waiting.append(sibling)
        request.siblings = []
