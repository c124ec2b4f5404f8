"""Imitation or reward: SFT, rejection sampling and GRPO on one task at equal compute and equal information.

The position paper "Post-training is (massive) supervised learning" (arXiv 2606.07527) argues that today's
post-training works "primarily as a distribution-fitting mechanism": models that it starts from random weights
do well on what their data are like. Here the task is sums, taught by a careless teacher, and
three claims can be looked at separately: is a reward more than supervision on what was sampled; does what
was learned reach sums of a kind that was never shown (a carry in every column); what does it take without
pretraining.

Compute: a pass of one token forwards is 1, forwards and backwards 3; sampling counts. Information: a verdict
on a sample that is right with probability p tells at most H(p) bits, a right sum given by a teacher
the entropy of a sum, 10.7 bits. A fresh right demonstration in every row is much more; that row says what
imitation does when teachers cost nothing.

    python 07_alignment/imitation_or_reward.py     after `make 07`; minutes (make study)
"""
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        parse_settings,
        run_main,
        seed_everything,
        setting,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import grpo
import rollout
import transformer
from adamw import AdamW
from arithmetic import Pair, carries, problem, random_pair, right_answer
from bpe import Tokenizer
from cells import Cells
from chat_template import pad_id
from checkpoint import load_model
from grpo import Batch, Variant
from results_table import mean_and_spread, print_table
from rollout import answer_log_probs
from schedule import warmup
from sft import answer_loss
from skills import fact_skill, sum_skill
from tasks import load_tasks
from train import train
from transformer import Transformer

PROMPT, ANSWER = 10, 5   # tokens of a sum: <|eos|>, <|user|>, seven, <|bot|>; four digits, <|eos|>


@dataclass
class Settings(RunSettings):
    """How much to spend on each row."""
    batches: int = 12                      # of rollouts
    prompts: int = setting(16, least=1)    # sums a batch
    group: int = setting(8, least=2)       # answers to each
    lr: float = 5e-4                       # of AdamW, in all rows
    scratch: int = 4                       # times the compute, for the rows without pretraining
    sums: int = 150                        # held-out sums of each kind
    questions: int = 60                    # held-out questions about facts: what is forgotten
    seeds: int = 3                         # whole repetitions


QUICK = dict(batches=2, prompts=4, scratch=1, sums=10, questions=4, seeds=1)


def entropy(shares: list[float]) -> float:
    """Of a distribution, in bits; 0 for an empty one."""
    return sum(p * math.log2(1 / p) for p in shares if p > 0)


def bits_of_a_sum() -> float:
    """What somebody learns who is told the sum of two unknown numbers from 0 to 999."""
    counts = Counter(a + b for a in range(1000) for b in range(1000))
    return entropy([n / 1e6 for n in counts.values()])


def units(rows: int, sampled: int = 0, prompts: int = 0) -> int:
    """Token passes of an update on `rows` sums, and of sampling so many answers to so many prompts."""
    return 3 * rows * (PROMPT + ANSWER - 1) + prompts * PROMPT + sampled * ANSWER


def kind_of(pair: Pair) -> str:
    """"shown": up to two columns with a carry of their own; "new": all three."""
    return "new" if carries(pair) == 3 else "shown"


class Experiment:
    """One seed: sums of both kinds, held out, and the ways to learn."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, self.device, self.verdict_bits = s, seed, device, 0.0
        text = Path(s.out, "01_tokenizer")
        self.tokenizer, self.tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        rng = random.Random(f"imitation or reward {seed}")
        self.test = {kind: self.draw(s.sums, rng, kind) for kind in ("shown", "new")}
        self.banned = {p for pairs in self.test.values() for p in pairs}
        self.n = s.prompts * s.group
        self.budget = s.batches * units(self.n, self.n, s.prompts)

    def draw(self, n: int, rng: random.Random, kind: str = "shown", banned: set | None = None) -> list[Pair]:
        """`n` sums of a kind that are not banned."""
        pairs = []
        while len(pairs) < n:
            pair = random_pair(rng)
            if kind_of(pair) == kind and pair not in (banned or ()):
                pairs.append(pair)
        return pairs

    def sampled(self, model: Transformer, step: int) -> tuple[list, list, torch.Tensor]:
        """A batch of rollouts, (K, G) rewards; the verdicts are counted as information."""
        rng = random.Random(f"imitation or reward {self.seed} {step}")
        pairs = self.draw(self.s.prompts, rng, banned=self.banned)
        asked, answers, rewards = grpo.rollout(model, self.tokenizer, pairs, self.s.group,
                                               self.seed * 1_000_003 + step)
        p = rewards.mean().item()
        self.verdict_bits += self.n * entropy([p, 1 - p])
        return asked, answers, rewards

    def learn(self, model: Transformer, loss_of: Callable, steps: int, name: str) -> Transformer:
        """The same optimizer for all."""
        train(model, [AdamW(model.parameters(), self.s.lr, betas=(0.9, 0.98))], loss_of, steps,
              lambda i: warmup(i, 5), name)
        return model

    def imitate(self, model: Transformer, known: list[Pair] | None, times: int = 1) -> Transformer:
        """SFT on right answers: of `known` sums again and again, or of fresh ones."""
        def loss_of(step: int):
            rng = random.Random(f"imitate {self.seed} {step}")
            pairs = rng.choices(known, k=self.n) if known else self.draw(self.n, rng, banned=self.banned)
            return answer_loss(model, self.tokenizer, [(problem(p), right_answer(p)) for p in pairs])
        return self.learn(model, loss_of, times * self.budget // units(self.n), "sft")

    def likelihood(self, model: Transformer, kept: list[tuple]) -> torch.Tensor:
        """Mean loss a token of (prompt, answer) ids; nothing to learn from is a loss of 0."""
        if not kept:
            return 0 * next(model.parameters()).sum()
        prompts, answers = map(list, zip(*kept))
        log_p, mask = answer_log_probs(model, prompts, answers, pad_id(self.tokenizer))
        return -log_p.sum() / mask.sum()

    def reject_once(self, model: Transformer) -> Transformer:
        """Sample everything from the model as it is, keep what is right, imitate that."""
        kept = [pair for step in range(self.s.batches) for pair in right_ones(*self.sampled(model, step))]

        def loss_of(step: int):
            rng = random.Random(f"reject {self.seed} {step}")
            return self.likelihood(model, rng.choices(kept, k=self.n) if kept else [])
        return self.learn(model, loss_of, self.s.batches, "reject")

    def reject_always(self, model: Transformer) -> Transformer:
        """Sample, keep what is right, imitate it, sample again (expert iteration, Anthony et al. 2017)."""
        return self.learn(model, lambda step: self.likelihood(model, right_ones(*self.sampled(model, step))),
                          self.s.batches, "iterate")

    def reinforce(self, model: Transformer) -> Transformer:
        """GRPO."""
        def loss_of(step: int):
            return Batch(self.tokenizer, *self.sampled(model, step), Variant()).loss(model)[0]
        return self.learn(model, loss_of, self.s.batches, "grpo")

    def measure(self, model: Transformer, bits: float) -> dict:
        """Greedy sums of both kinds, facts, and what was told."""
        skill = {kind: sum_skill(model, self.tokenizer, pairs)["addition"]
                 for kind, pairs in self.test.items()}
        facts = fact_skill(model, self.tokenizer, self.tasks.held_out_questions[:self.s.questions])["facts"]
        return skill | {"facts": facts, "bits": bits}

    def load(self, name: str) -> Transformer:
        """A model of `make 07`."""
        seed_everything(self.seed)
        return load_model(Path(self.s.out, "07_alignment", f"{name}.pt"), self.device)

    def rewarded(self, way: str, start: str) -> dict:
        """A row of one of the ways that ask the verifier."""
        self.verdict_bits = 0.0
        learn = {"GRPO": self.reinforce, "again": self.reject_always, "once": self.reject_once}[way]
        model = learn(self.load(start))
        return self.measure(model, self.verdict_bits)

    def taught(self, start: str, bits: float | None, times: int = 1) -> dict:
        """A row of imitation: of as many right sums as make so many bits, or of fresh ones all the time."""
        known = self.draw(max(1, round(bits / bits_of_a_sum())), random.Random(f"known {self.seed}"),
                          banned=self.banned) if bits is not None else None
        model = self.imitate(self.load(start), known, times)
        seen = len(known) if known else times * self.budget // units(self.n) * self.n
        return self.measure(model, seen * bits_of_a_sum())

    def rows(self, get: Callable[[str, Callable], dict]) -> dict:
        """All rows; `get(name, make)` computes one, or knows it already."""
        rows = {"start": get("start", lambda: self.measure(self.load("sft"), 0.0))}
        for name, way in (("GRPO", "GRPO"), ("rejection, again and again", "again"),
                          ("rejection, once", "once")):
            rows[name] = get(name, lambda way=way: self.rewarded(way, "sft"))
        bits, n = rows["GRPO"]["bits"], self.s.scratch
        rows["SFT, as many bits"] = get("few", lambda: self.taught("sft", bits))
        rows["SFT, fresh right sums"] = get("fresh", lambda: self.taught("sft", None))
        rows["not pretrained: GRPO"] = get("grpo", lambda: self.rewarded("GRPO", "control_random"))
        rows[f"not pretrained: SFT, fresh, {n} times"] = get(
            "scratch", lambda: self.taught("control_random", None, n))
        return rows


def right_ones(asked: list, answers: list, rewards: torch.Tensor) -> list[tuple]:
    """(prompt, answer) of the samples that were rewarded."""
    return [(p, a) for p, a, r in zip(asked, answers, rewards.flatten().tolist()) if r == 1]


def main() -> None:
    """All rows for each seed; the table."""
    s = parse_settings(Settings, __doc__, QUICK)
    device = announce("07 imitation or reward", s)
    data = content_hash(*(Path(s.out, "07_alignment", f"{n}.pt") for n in ("sft", "control_random")))
    cells = Cells(Path(s.out, "study", "imitation_or_reward"),
                  [transformer, grpo, rollout, sys.modules[__name__]])
    common = asdict(replace(s, out="", seed=0, seeds=1, quick=False)) | {"data": data}
    results = [Experiment(s, seed, device).rows(lambda name, make, seed=seed: cells.get(
        common | {"row": name, "seed": seed}, make)) for seed in range(s.seed, s.seed + s.seeds)]
    print(f"  a right sum tells {bits_of_a_sum():.2f} bits")
    print_table(["", "bits told", "shown kind %", "new kind %", "facts %"], [
        [name, mean_and_spread([r[name]["bits"] for r in results], 0),
         *(mean_and_spread([100 * r[name][k] for r in results]) for k in ("shown", "new", "facts"))]
        for name in results[0]])
    write_json(Path(s.out, "07_alignment", "imitation_or_reward.json"), {"seed": s.seed, "results": results})


if __name__ == "__main__":
    run_main(main)
