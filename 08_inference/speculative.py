"""Guess several tokens cheaply, check all in one call of the model, keep exactly what it would have said.

A call for five tokens costs little more than a call for one, because the weights are read once. So a *draft*
proposes k tokens; the model gives its distribution p behind each of them; token x, proposed with probability
q(x), is accepted with probability min(1, p(x) / q(x)), and at the first refusal a token is drawn from max(p -
q, 0), scaled to 1. What comes out is distributed exactly as p, whatever the draft is (Leviathan, Kalman and
Matias 2023, appendix A.1).

Two drafts: a smaller model (half the layers, or the student that chapter 7 distilled from this very model),
and *prompt look-up*, which costs nothing: if the last tokens occurred before, propose what followed them then
(Saxena 2023).

    python 08_inference/speculative.py     after make 08: where it wins and where it loses
"""
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

try:
    from workbench import parse_settings, run_main, setting, wide
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

from arithmetic import problem
from bpe import EOS, Tokenizer
from chat_template import chat_prompt
from checkpoint import load_model
from fused_model import FusedModel
from paged_attention import PagedAttention, PagedMemory, Piece
from paged_cache import BLOCK, BlockPool, BlockTable
from sampling import Sampling, draw, filtered
from tasks import load_tasks
from token_file import open_tokens
from transformer import Transformer

Proposal = tuple[list[int], Tensor]                    # k tokens, and what each was drawn from (k, V)
Draft = Callable[[list[int], int], Proposal]           # (all ids so far, k) -> at most k proposed tokens


class Reader:
    """One sequence before a model: `read` gives logits behind new tokens, `ids` can be cut back freely."""

    def __init__(self, model: Transformer | FusedModel):
        self.model = model if isinstance(model, FusedModel) else FusedModel(model)
        blocks = -(-self.model.config.max_len // BLOCK)
        self.memory = PagedMemory(self.model.config, blocks, self.model.head)
        self.table = BlockTable(BlockPool(blocks))
        self.ids: list[int] = []

    def read(self, ids: list[int]) -> Tensor:
        """Logits (N, V) behind each of the new tokens of `ids`: what has been read before is skipped."""
        same = next((i for i, (a, b) in enumerate(zip(self.ids, ids)) if a != b),
                    min(len(self.ids), len(ids)))
        same = min(same, len(ids) - 1)                 # the last one is always read: its logits are wanted
        self.table.reserve(same, len(ids))
        step = PagedAttention(self.memory, [Piece(self.table, ids[same:], same)])
        # keys behind a cut are overwritten before anybody looks at them
        self.ids = list(ids)
        return self.model.logits(self.model.hidden(step.ids, step.positions, step.attend))


def certain(tokens: list[int], vocab_size: int) -> Tensor:
    """Distributions (N, V) with all the weight on one token each."""
    q = wide(torch.zeros(len(tokens), vocab_size))
    for i, token in enumerate(tokens):
        q[i, token] = 1
    return q


def distribution(logits: Tensor, how: Sampling) -> Tensor:
    """What `how` draws from, (N, V) in float64; at temperature 0 all on the likeliest token."""
    if how.temperature > 0:
        return wide(filtered(logits, how))
    return certain(logits.argmax(-1).tolist(), logits.shape[-1])


def accept(p: Tensor, q: Tensor, proposed: list[int], dice: random.Random) -> list[int]:
    """How many of the k proposed tokens stand, and the one that follows them: 1 to k + 1 tokens.

    p (k + 1, V): the model's distribution at each proposed token and behind the last; q (k, V): the draft's.
    """
    # EXERCISE 8.14 speculative acceptance
    for i, x in enumerate(proposed):
        if dice.random() * q[i, x] >= p[i, x]:         # refused with probability 1 - p / q
            left = (p[i] - q[i]).clamp(min=0)
            return proposed[:i] + draw(left[None], torch.tensor([1 - dice.random()])).tolist()
    return proposed + draw(p[-1:], torch.tensor([1 - dice.random()])).tolist()
    # END EXERCISE 8.14


def look_up(ids: list[int], k: int, vocab_size: int, longest: int = 3) -> Proposal:
    """What followed the last time that the last few tokens occurred, at most k tokens, or nothing."""
    for n in range(min(longest, len(ids) - 1), 0, -1):
        for begin in range(len(ids) - n - 1, -1, -1):
            if ids[begin:begin + n] == ids[-n:]:
                tokens = ids[begin + n:begin + n + k]
                return tokens, certain(tokens, vocab_size)
    return [], certain([], vocab_size)


class ModelDraft:
    """A smaller model with the same vocabulary proposes, sampling as the large one does."""

    def __init__(self, model: Transformer | FusedModel, how: Sampling, seed: int = 0):
        self.reader, self.how, self.dice = Reader(model), how, random.Random(seed)

    def __call__(self, ids: list[int], k: int) -> Proposal:
        """k tokens, one call of the small model each."""
        ids, q = list(ids), [certain([], self.reader.model.config.vocab_size)]
        for _ in range(k):
            q.append(distribution(self.reader.read(ids)[-1:], self.how))
            ids.append(int(draw(q[-1], torch.tensor([1 - self.dice.random()]))))
        return ids[len(ids) - k:], torch.cat(q)


@dataclass
class Tally:
    """What speculation did."""
    calls: int = 0        # of the large model
    proposed: int = 0
    accepted: int = 0
    tokens: list[int] = field(default_factory=list)


def speculate(model: Transformer | FusedModel, draft: Draft, prompt: list[int], n_new: int, k: int = 4,
              how: Sampling = Sampling(), seed: int = 0, eos: int | None = None) -> Tally:
    """Up to `n_new` tokens behind the prompt. With k = 0 it is ordinary decoding, one call a token."""
    reader, ids, tally, dice = Reader(model), list(prompt), Tally(), random.Random(seed)
    while len(tally.tokens) < n_new:
        proposed, q = draft(ids, min(k, n_new - len(tally.tokens) - 1))
        p = distribution(reader.read(ids + proposed)[-len(proposed) - 1:], how)          # (k + 1, V)
        new = accept(p, q, proposed, dice)
        tally.calls, tally.proposed = tally.calls + 1, tally.proposed + len(proposed)
        tally.accepted += len(new) - 1
        if eos in new:
            tally.tokens += new[:new.index(eos)]
            break
        tally.tokens += new
        ids += new
    return tally


@dataclass
class Settings:
    """What can be set on the command line."""
    out: str = "out"                                    # folder that make wrote
    seed: int = setting(0, least=0, most=2**32 - 1)     # seed of the choice of texts and of the sampling
    new_tokens: int = 100                               # tokens to write behind each text
    draft: str = ""     # a smaller model's file; none: half of the layers, and chapter 7's student if there


def first_half(model: Transformer) -> Transformer:
    """The model without the second half of its layers: a poor draft that needs no training."""
    half = Transformer(replace(model.config, n_layers=max(1, model.config.n_layers // 2)))
    half.load_state_dict({k: v for k, v in model.state_dict().items() if k in half.state_dict()})
    return half


def texts(tokenizer: Tokenizer, held_out, dice: random.Random, n: int = 6) -> dict[str, list[list[int]]]:
    """Prompts that repeat nothing, and prompts in which a passage begins a second time."""
    begins = [dice.randrange(len(held_out) - 64) for _ in range(n)]
    passages = [[int(i) for i in held_out[b:b + 48]] for b in begins]
    eos = tokenizer.special[EOS]
    return {"new text": [[eos, *p] for p in passages],
            "text that repeats": [[eos, *p, *p[:24]] for p in passages]}


def drafts(s: Settings, model: Transformer) -> dict[str, FusedModel]:
    """The models that may propose, by the name of their rows."""
    if s.draft:
        return {"model": FusedModel(load_model(s.draft))}
    student = Path(s.out, "07_alignment", "student.pt")
    found = {"half": first_half(model)} | ({"student": load_model(student)} if student.exists() else {})
    return {name: FusedModel(small) for name, small in found.items()}


def main() -> None:
    """Greedy and sampled, with each draft and several k: acceptance, tokens a call, speed against k = 0."""
    s = parse_settings(Settings, __doc__)
    out = Path(s.out)
    tokenizer = Tokenizer.load(out / "01_tokenizer" / "tokenizer.json")
    model = load_model(out / "07_alignment" / "grpo.pt")
    small, large, V = drafts(s, model), FusedModel(model), model.config.vocab_size
    eos = tokenizer.special[EOS]
    prompts = texts(tokenizer, open_tokens(out / "01_tokenizer" / "valid.bin"), random.Random(s.seed))
    asked = load_tasks(out / "01_tokenizer" / "tasks.json").test_sums[:24]
    prompts["sums"] = [chat_prompt(tokenizer, problem(pair)) for pair in asked]
    print(f"seed {s.seed}")
    print(f"{'':<20}{'':<14}{'draft':<12}{'k':>3}{'accepted':>10}{'tokens/call':>13}{'speed':>7}  same")
    for kind, rows in prompts.items():
        for how in (Sampling(), Sampling(temperature=1.0)):
            plain = None
            for name, k in (("none", 0), ("look-up", 2), ("look-up", 4), ("look-up", 8),
                            *((name, k) for name in small for k in (2, 4))):
                def draft(prompt):
                    if name in small:
                        return ModelDraft(small[name], how, s.seed)
                    return lambda ids, k: look_up(ids, k, V)
                begin = time.process_time()
                tallies = [speculate(large, draft(p), p, s.new_tokens, k, how, s.seed,
                                     eos if kind == "sums" else None) for p in rows]
                seconds = time.process_time() - begin
                calls, proposed, accepted = (sum(getattr(t, f) for t in tallies)
                                             for f in ("calls", "proposed", "accepted"))
                tokens = [t.tokens for t in tallies]
                plain = plain or (seconds, tokens)
                same = str(tokens == plain[1]) if how.temperature == 0 else "in law"
                print(f"{kind:<20}{'greedy' if how.temperature == 0 else 'sampled':<14}{name:<12}{k:>3}"
                      f"{accepted / max(proposed, 1):>10.0%}{sum(map(len, tokens)) / calls:>13.2f}"
                      f"{plain[0] / seconds:>7.2f}  {same}")


if __name__ == "__main__":
    run_main(main)
