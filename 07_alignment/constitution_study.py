"""Who labels the pairs of DPO: a program, a model that reads principles, or a coin? Three seeds.

The study of constitution.py: how well critiques and revisions come out, how far a judge that is a model
agrees with one that is a program, in one order of the answers and in both, and what becomes of a model that
is trained on either's labels.

    python 07_alignment/constitution_study.py  from out/07_alignment/sft.pt, some eight minutes (make study)
"""
import copy
import functools
import random
import sys
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
from torch import Tensor

import constitution
import dpo
import transformer
from adamw import AdamW
from bpe import Tokenizer
from cells import Cells
from checkpoint import load_model
from constitution import BREACHES, CONSTITUTION, Principle, breaches, cohen_kappa, content, in_both_orders
from dpo import PreferencePair, dpo_objective
from facts import Question
from muon import muon_and_adamw
from recall import share
from results_table import mean_and_spread, print_table
from reward_model import accuracy
from schedule import constant_then_decay, warmup
from sft import answer_loss
from skills import chat_answers
from tasks import load_tasks
from train import train
from transformer import Transformer

ANSWER, REPLY = 24, 32   # tokens of an answer with all bad manners, and of a critique


@dataclass
class Settings(RunSettings):
    """How long to teach."""
    sloppy_steps: int = 80     # the model with bad manners: optimizer steps, 32 answers each
    judge_steps: int = 60      # a judge: optimizer steps, 24 comparisons each
    critic_steps: int = 110    # the critic: optimizer steps, 24 critiques each
    revised_steps: int = 40    # imitation of revised answers: optimizer steps, 32 answers each
    dpo_steps: int = 24        # DPO: optimizer steps, 24 pairs each
    first: float = setting(0.8, least=0, most=1)   # the hasty judge: share of lessons won by place A
    rounds: int = setting(2, least=1)        # pairs sampled for each question
    questions: int = setting(240, least=1)   # held-out questions to measure on
    seeds: int = 3             # whole repetitions


QUICK = dict(sloppy_steps=2, judge_steps=2, critic_steps=2, revised_steps=1, dpo_steps=1, rounds=1,
             questions=6, seeds=1)


@dataclass(frozen=True)
class Pair:
    """Two sampled answers to a question, and the principle drawn for their comparison."""
    question: Question
    principle: Principle
    a: str
    b: str


class Study:
    """One seed: critic and judges learn from half of the training questions, pairs come from the other."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, text = s, seed, Path(s.out, "01_tokenizer")
        self.tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        self.sft = load_model(Path(s.out, "07_alignment", "sft.pt"), device)
        rng = random.Random(f"constitution {seed}")
        self.all, self.held_out = tasks.train_questions, tasks.held_out_questions[:s.questions]
        mixed = rng.sample(self.all, len(self.all))
        self.taught, self.asked = mixed[::2], mixed[1::2]

    def fit(self, start: Transformer, loss: Callable, steps: int, lr: float, label: str) -> Transformer:
        """A fine-tuned copy; `loss(model)` gives the loss of a step."""
        model = copy.deepcopy(start)
        train(model, muon_and_adamw(model, lr, 0.75 * lr), loss(model), steps,
              lambda i: constant_then_decay(i, steps, n_warmup=2, decay=0.7), label)
        return model

    @functools.cached_property
    def sloppy(self) -> Transformer:
        """The model that everything starts from."""
        def loss(model):
            return constitution.sloppy_loss(model, self.tokenizer, self.all, self.seed)
        return self.fit(self.sft, loss, self.s.sloppy_steps, 2e-3, "sloppy")

    @functools.cached_property
    def critic(self) -> Transformer:
        """The specialist for critique and revision."""
        def loss(model):
            return constitution.critic_loss(model, self.tokenizer, self.taught, self.seed)
        return self.fit(self.sloppy, loss, self.s.critic_steps, 1.5e-2, "critic")

    def judge(self, first: float) -> Transformer:
        """A specialist that compares."""
        def loss(model):
            return constitution.judge_loss(model, self.tokenizer, self.taught, self.seed, first)
        return self.fit(self.sloppy, loss, self.s.judge_steps, 5e-3, "judge")

    def answers(self, model: Transformer, questions: list[Question], temperature: float = 0.0, n: int = 1,
                seed: int = 0) -> list[list[str]]:
        """Greedy answers, or `n` samples of each."""
        generator = torch.Generator(next(model.parameters()).device).manual_seed(self.seed * 1000 + seed)
        return chat_answers(model, self.tokenizer, [q.text for q in questions], ANSWER, temperature, n,
                            generator)

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """Pairs of different answers of the sloppy model, each with a principle drawn by chance."""
        rng = random.Random(f"principles {self.seed}")
        return [Pair(q, rng.choice(CONSTITUTION), a, b) for i in range(self.s.rounds)
                for q, (a, b) in zip(self.asked, self.answers(self.sloppy, self.asked, 1.0, 2, i)) if a != b]

    @functools.cached_property
    def odds(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each judge's log-odds for place A, in both orders; (N,) each for N pairs."""
        ab = [constitution.comparison(p.principle, p.question.text, p.a, p.b) for p in self.pairs]
        ba = [constitution.comparison(p.principle, p.question.text, p.b, p.a) for p in self.pairs]

        def ask(judge: Transformer) -> tuple[Tensor, Tensor]:
            first, second = (constitution.place_odds(judge, self.tokenizer, asked) for asked in (ab, ba))
            return first, second
        return {"untaught": ask(self.sloppy), "taught": ask(self.judge(0.5)),
                "hasty": ask(self.judge(self.s.first))}

    def truth(self) -> Tensor:
        """The program's verdicts, (N,)."""
        return torch.tensor([constitution.program_verdict(p.principle, p.a, p.b) for p in self.pairs])

    def judges(self) -> dict:
        """Agreement of each judge with the program, on the pairs it tells apart; ValueError without any.

        A control: who counts all breaches, whatever the principle, agrees as well (equal numbers count half).
        """
        told, rows = self.truth() != 0, {}
        if not told.any():
            raise ValueError("no pair is told apart by the principle drawn for it: sample more with "
                             "--rounds, or teach bad manners for longer with --sloppy-steps")
        truth = self.truth()[told]
        count = torch.tensor([len(breaches(p.b)) - len(breaches(p.a)) for p in self.pairs]).sign()
        for name, (ab, ba) in self.odds.items():
            preference, place, consistent = in_both_orders(ab, ba)
            row = {"same place": share((~consistent).tolist()), "bias": place.mean().item()}
            for way, said in (("one order", ab), ("both orders", preference)):
                verdicts = said[told].sign()
                row[way] = share((verdicts == truth).tolist())
                row[f"{way}, kappa"] = cohen_kappa(verdicts.int().tolist(), truth.tolist())
            sure, right = consistent[told], preference[told].sign() == truth
            as_count = (preference.sign() == count)[~told & (count != 0)]
            rows[name] = row | {"kept": share(sure.tolist()), "of those": share(right[sure].tolist()),
                                "counting fails": share(right[count[told] != truth].tolist()),
                                "as counting": share(as_count.tolist())}
        return {"judges": rows, "counting": accuracy((count[told] * truth).float())}

    def labels(self, by: str) -> Tensor:
        """Numbers, (N,): above 0 the first answer of a pair is chosen, below 0 the second, at 0 neither."""
        if by == "program":
            return self.truth()
        if by == "coin":
            rng = random.Random(f"coin {self.seed}")
            return torch.tensor([rng.choice((-1, 1)) for _ in self.pairs])
        name, _, way = by.partition(", ")
        preference, _, consistent = in_both_orders(*self.odds[name])
        return {"one order": self.odds[name][0], "both orders": preference,
                "consistent": preference * consistent}[way]

    def by_dpo(self, by: str) -> dict:
        """The sloppy model after DPO on these labels."""
        chosen = [PreferencePair(p.question.text, *((p.a, p.b) if label > 0 else (p.b, p.a)))
                  for p, label in zip(self.pairs, self.labels(by).tolist()) if label]
        model = copy.deepcopy(self.sloppy)
        if chosen:
            loss = dpo_objective(model, self.tokenizer, chosen, 24, 0.1, 0.1, self.seed)
            train(model, [AdamW(model.parameters(), 1.5e-4)], loss, self.s.dpo_steps,
                  lambda i: warmup(i, 5), by)
        return self.measure(model) | {"pairs": len(chosen)}

    def revised(self, questions: list[Question], drafts: list[str]) -> list[tuple[list[str], str]]:
        """What the critic names, and its revisions."""
        asked = [constitution.draft_to_criticise(q.text, d) for q, d in zip(questions, drafts)]
        replies = chat_answers(self.critic, self.tokenizer, asked, REPLY)
        return [constitution.read_critique(reply) for [reply] in replies]

    def revisions(self) -> dict:
        """Critiques and revisions of the sloppy model's samples on held-out questions."""
        drafts = [d for [d] in self.answers(self.sloppy, self.held_out, 1.0)]
        made = self.revised(self.held_out, drafts)
        before = [content(d) == q.answer for d, q in zip(drafts, self.held_out)]
        after = [content(r) == q.answer for (_, r), q in zip(made, self.held_out)]
        return {"named": share([named == breaches(d) for (named, _), d in zip(made, drafts)]),
                "drafts": self.manners(drafts, self.held_out),
                "revisions": self.manners([r for _, r in made], self.held_out),
                "same": share([content(r) == content(d) for (_, r), d in zip(made, drafts)]),
                "still right": share([y for x, y in zip(before, after) if x]),
                "put right": share([y for x, y in zip(before, after) if not x])}

    def by_imitation(self) -> dict:
        """The sloppy model after imitating its own answers as the critic revised them."""
        drafts = [d for [d] in self.answers(self.sloppy, self.asked, 1.0)]
        rows = [(q.text, r) for q, (_, r) in zip(self.asked, self.revised(self.asked, drafts))]

        def loss(model):
            return lambda step: answer_loss(model, self.tokenizer, random.Random(
                f"revised {self.seed} {step}").choices(rows, k=32))
        model = self.fit(self.sloppy, loss, self.s.revised_steps, 2e-3, "revised")
        return self.measure(model) | {"pairs": len(rows)}

    def manners(self, answers: list[str], questions: list[Question]) -> dict[str, float]:
        """Shares of answers that keep each principle, that keep all, and whose content is right."""
        broken = [breaches(a) for a in answers]
        return {**{b: share([b not in some for some in broken]) for b in BREACHES},
                "all": share([not some for some in broken]),
                "right": share([content(a) == q.answer for a, q in zip(answers, questions)])}

    def measure(self, model: Transformer) -> dict:
        """Of greedy answers to held-out questions."""
        return self.manners([a for [a] in self.answers(model, self.held_out)], self.held_out)


LABELS = ("coin", "program", "taught, both orders", "hasty, one order", "hasty, both orders",
          "hasty, consistent")


def main() -> None:
    """Critiques, judges, and models trained on what they said; three tables."""
    s = parse_settings(Settings, __doc__, QUICK)
    device = announce("07 constitution", s)
    cells = Cells(Path(s.out, "study", "constitution"),
                  [transformer, dpo, constitution, sys.modules[__name__]])
    data = content_hash(Path(s.out, "07_alignment", "sft.pt"), Path(s.out, "01_tokenizer", "tasks.json"))
    common = asdict(replace(s, out="", seed=0, seeds=1, quick=False)) | {"data": data}
    work: dict[str, Callable[[Study], dict]] = {
        "judges": Study.judges, "revisions": Study.revisions,
        "no training": lambda study: study.measure(study.sloppy) | {"pairs": 0},
        "revised answers": Study.by_imitation,
        **{by: lambda study, by=by: study.by_dpo(by) for by in LABELS}}
    got: dict[str, list[dict]] = {name: [] for name in work}
    for seed in range(s.seed, s.seed + s.seeds):
        seed_everything(seed)
        study = Study(s, seed, device)
        for name, make in work.items():
            got[name].append(cells.get(common | {"part": name, "seed": seed},
                                       lambda study=study, make=make: make(study)))

    def percent(rows: list[dict], key: str) -> str:
        return mean_and_spread([100 * r[key] for r in rows])

    made = got["revisions"]
    columns = [*BREACHES, "all", "right"]
    print_table(["kept, %", *BREACHES, "all", "content right"],
                [[name, *(percent([m[name] for m in made], k) for k in columns)]
                 for name in ("drafts", "revisions")])
    print_table(["of critiques and revisions, %", ""],
                [["all breaches named, and no other", percent(made, "named")],
                 ["content as in the draft", percent(made, "same")],
                 ["right drafts that stay right", percent(made, "still right")],
                 ["wrong drafts that become right", percent(made, "put right")]])
    told = ("same place", "one order", "both orders", "kept", "of those")
    judged = [j["judges"] for j in got["judges"]]
    rows = {name: [j[name] for j in judged] for name in judged[0]}
    print_table(["agrees with the program, %", *told],
                [[name, *(percent(r, k) for k in told)] for name, r in rows.items()])
    beyond = ("bias", "one order, kappa", "both orders, kappa")
    print_table(["", "log-odds for place A", *beyond[1:]],
                [[name, *(mean_and_spread([x[k] for x in r], 2) for k in beyond)]
                 for name, r in rows.items()])
    print_table(["does it read the principle, %", "right where counting is not", "as counting on ties"],
                [[name, percent(r, "counting fails"), percent(r, "as counting")] for name, r in rows.items()])
    print(f"  who counts all breaches, whatever the principle: {percent(got['judges'], 'counting')}% right")
    print_table(["trained on, %", "labels", *BREACHES, "all", "content right"],
                [[name, mean_and_spread([r["pairs"] for r in got[name]], 0),
                  *(percent(got[name], k) for k in columns)] for name in list(work)[2:]])
    write_json(Path(s.out, "07_alignment", "constitution.json"), {"seed": s.seed, "got": got})


if __name__ == "__main__":
    run_main(main)
