"""Random schedules for the engine, and what each request must get: shared by the quick and the slow tests."""
import random
from dataclasses import replace

import torch

from bpe import Tokenizer
from constrained import Constrainer
from engine import Engine
from sampling import Sampling, pick_rows
from scheduler import Request
from transformer import Config, Transformer

TOKENIZER = Tokenizer([])
CONFIG = Config(vocab_size=TOKENIZER.vocab_size, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24,
                max_len=112)
SETTINGS = [Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.7, top_k=20, top_p=0.9),
            Sampling(temperature=1.5, min_p=0.05), Sampling(temperature=0.9, repetition_penalty=1.3)]
PATTERNS = [None, None, None, r"(ab|cd)*e", r"[0-9]{3,9}(\.[0-9]+)?"]


def lively_model() -> Transformer:
    """Float64, so that rounding, which depends on who is in the batch, decides nothing; large weights, so
    that it varies.
    """
    torch.manual_seed(0)
    model = Transformer(CONFIG).double().requires_grad_(False)
    for name, p in model.named_parameters():
        p.normal_() if "embed" in name else p.mul_(3.0) if p.ndim == 2 else p.add_(0.3 * torch.randn_like(p))
    return model


def make_requests(n: int, dice: random.Random) -> list[Request]:
    """Requests with beginnings in common, every kind of setting, and a pattern here and there."""
    automata = {p: p and Constrainer(TOKENIZER).automaton(p) for p in PATTERNS}
    roots = [[dice.randrange(256) for _ in range(60)] for _ in range(3)]
    eos = TOKENIZER.special["<|eos|>"]
    return [Request(dice.choice(roots)[:dice.randrange(60)] + [dice.randrange(256)
                                                               for _ in range(dice.randrange(1, 20))],
                    n_new=dice.randrange(1, 33), sampling=dice.choice(SETTINGS), seed=dice.randrange(9),
                    eos=eos,
                    automaton=automata[dice.choice(PATTERNS)], owner=dice.choice("xyz")) for _ in range(n)]


def alone(model: Transformer, r: Request) -> list[int]:
    """The tokens of a request by the plain model, which reads everything again for every token."""
    ids, state, dice = list(r.prompt), 0, random.Random(r.seed)
    for _ in range(r.n_new):
        logits = model(torch.tensor([ids]))[:, -1]
        if r.automaton is not None:
            logits = logits.masked_fill(~r.automaton.allowed(state), float("-inf"))
        token = pick_rows(logits, [r.sampling], [dice], [set(ids)]).item()
        if token == r.eos:
            break
        state = r.automaton.next(state, token) if r.automaton is not None else 0
        ids.append(token)
    return ids[len(r.prompt):]


def families(model: Transformer, n: int, seed: int) -> list[list[tuple[Request, list[int]]]]:
    """Requests, one prompt and several seeds a family, with the tokens that each gets alone."""
    members = [[r, *(again(r, seed=r.seed + i) for i in range(1, i % 3 + 1))]
               for i, r in enumerate(make_requests(n, random.Random(seed)))]
    return [[(r, alone(model, r)) for r in family] for family in members]


def again(r: Request, **changes) -> Request:
    """The same request, fresh."""
    return replace(r, **{"siblings": [], **changes})


def run_schedule(model, known, seed: int, compiled: bool = False) -> Engine:
    """One random schedule; fails unless every request gets its tokens and every block comes back."""
    dice = random.Random(seed)
    max_running = dice.randrange(2, 9)
    engine = Engine(model, dice.randrange(7, 20), max_running, max_running + dice.randrange(0, 60),
                    compiled)
    coming, leaving, wanted = {}, {}, {}
    for _ in range(dice.randrange(2, 12)):
        family = {again(r): tokens for r, tokens in dice.choice(known)}
        first, *others = family
        first.siblings = others
        when = dice.randrange(0, 25)
        coming[first] = when
        wanted |= family
        leaving |= {r: when + dice.randrange(0, 30) for r in family if dice.random() < 0.2}
    now, preempt = 0, engine.scheduler.preempt

    def checked(request):
        assert request is max(engine.scheduler.running, key=lambda r: r.arrival), "the youngest goes first"
        preempt(request)

    engine.scheduler.preempt = checked
    while not all(r.finished for r in wanted):
        for request in [r for r in coming if coming[r] == now]:
            engine.submit(request)
        for request in [r for r in leaving if leaving[r] == now]:
            engine.cancel(request)
        before = engine.counts.computed
        engine.step()
        engine.scheduler.pool.check([r.table for r in engine.scheduler.running])
        assert len(engine.scheduler.running) <= max_running
        assert engine.counts.computed - before <= engine.scheduler.max_step
        now += 1
        assert now < 3000, f"seed {seed}: no end"
    for request, tokens in wanted.items():
        if request.finished == "cancelled":
            assert request in leaving and request.tokens == tokens[:len(request.tokens)], f"seed {seed}"
        else:
            assert request.tokens == tokens, f"seed {seed}: {request}"
            assert request.finished == ("length" if len(tokens) == request.n_new else "stop")
    assert engine.scheduler.pool.n_free == len(engine.scheduler.pool.refs) and not engine.busy
    return engine
