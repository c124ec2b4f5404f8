"""Think before you answer: learned from demonstrations, then by reward alone, and what the tokens buy.

Adds to scratchpad.py, which writes carries out before a sum, the models. They imitate right demonstrations in
four forms of as many tokens, or a careless teacher who forgets all carries in half of his thoughts. From him
GRPO goes on, with a reward that looks at what stands behind the colon and at nothing else (DeepSeek-AI 2025,
R1); whether the totals are right is measured, never rewarded.

Tokens cost. The second table and the figure ask how much is right for how many of them: one sample, the
answer that most of n samples give, the best of n for somebody who can verify. The model is a small specialist
of this one task, a byte a token and without pretraining: the course's model has learned sums with their ones
first, where a carry is known when it is needed.

    python 07_alignment/think.py           some ten minutes (make study)
"""
import copy
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        announce,
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
import scratchpad
import transformer
from adamw import AdamW
from bpe import EOS, Tokenizer
from cells import Cells
from chat_template import answer_ids, chat_prompt
from figures import GREY, new_axes, save
from grpo import Variant, task_objective
from muon import muon_and_adamw
from recall import share
from results_table import mean_and_spread, print_table
from rollout import sample
from schedule import constant_then_decay, warmup
from scratchpad import (
    COUNT,
    DIGITS,
    Numbers,
    demonstration,
    one_wrong,
    question,
    says,
    split,
    thought,
    truth,
    vote,
)
from sft import answer_loss
from train import train
from transformer import Config, Transformer

BYTES = Tokenizer([])          # every byte is a token
LONGEST = 3 * DIGITS + 5       # tokens that an answer may have: two more than with a thought


@dataclass
class Settings(RunSettings):
    """How much to show, to reinforce and to sample."""
    steps: int = 250                      # of imitation with thoughts; without them as many tokens
    careless: float = setting(0.5, least=0, most=1)   # share of a careless teacher's thoughts without carries
    rows: int = setting(64, least=1)      # demonstrations a step
    batches: int = 120                    # of GRPO
    prompts: int = setting(16, least=1)   # sums a batch
    group: int = setting(8, least=2)      # answers to each
    lr: float = 5e-4                      # of AdamW in GRPO
    sums: int = setting(100, least=1)     # held out
    samples: int = setting(16, least=2)   # thoughts on each, for votes; a power of two
    seeds: int = 3                        # whole repetitions


QUICK = dict(steps=6, batches=2, prompts=4, sums=10, samples=4, seeds=1)


@dataclass(frozen=True)
class Row:
    """One model: what it is shown, and what it is paid for after that."""
    form: str                      # of demonstrations, see scratchpad.FORMS
    careless: bool = False         # a teacher who forgets all carries in some of his thoughts
    times: float = 1               # as many steps
    positions: str = "learned"
    reward: str = ""               # "right", or "random" as the control


CARELESS = Row("first", careless=True)
ROWS = {
    "answers at once": Row("at once"),
    "dots, then answers": Row("dots"),
    "answers, then explains": Row("after"),
    "thinks first": Row("first"),
    "thinks first, with RoPE": Row("first", positions="rope"),
    "careless teacher": CARELESS,
    "careless, shown twice as much": replace(CARELESS, times=2),
    "careless, then GRPO": replace(CARELESS, reward="right"),
    "careless, then paid at random": replace(CARELESS, reward="random"),
    "thinks first, half learned": Row("first", times=0.44),
    "half learned, then GRPO": Row("first", times=0.44, reward="right"),
    "answers at once, then GRPO": Row("at once", reward="right")}
CURVES = {"answers at once": ("black", "s"), "thinks first": (GREY, "^"), "careless teacher": (GREY, "o"),
          "careless, then GRPO": ("black", "o")}
HOW = {"majority": "vote", "best": "best"}


def cost_of(form: str) -> int:
    """Tokens of an answer in this form, with the one that ends it."""
    return len(answer_ids(BYTES, demonstration((0,) * COUNT, form)))


def percent(hits: list[bool]) -> float:
    """The share of True, 0 to 100."""
    return 100 * share(hits)


class Experiment:
    """One seed: held-out sums, and what is done to a model."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, self.device = s, seed, device
        self.banned: set[Numbers] = set()
        self.test = self.draw(s.sums, random.Random(f"think {seed} held out"))
        self.banned = set(self.test)
        self.imitators: dict[Row, Transformer] = {}

    def draw(self, n: int, rng: random.Random) -> list[Numbers]:
        """`n` sums, none of them held out."""
        sums = []
        while len(sums) < n:
            numbers = tuple(rng.randrange(10**DIGITS) for _ in range(COUNT))
            if numbers not in self.banned:
                sums.append(numbers)
        return sums

    def imitate(self, row: Row) -> Transformer:
        """SFT from random weights; forms of fewer tokens get more steps, so that the tokens are as many."""
        s = self.s
        seed_everything(self.seed)
        model = Transformer(Config(
            vocab_size=BYTES.vocab_size, d_model=64, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=192,
            max_len=64, qk_norm=True, positions=row.positions)).to(self.device)
        asked = len(chat_prompt(BYTES, question((0,) * COUNT)))
        steps = int(row.times * s.steps) * (asked + cost_of("first") - 1) // (asked + cost_of(row.form) - 1)

        def loss_of(step: int):
            rng = random.Random(f"think {self.seed} {step}")
            return answer_loss(model, BYTES, [
                (question(n), demonstration(n, row.form, row.careless and rng.random() < s.careless))
                for n in self.draw(s.rows, rng)])

        train(model, muon_and_adamw(model, 0.02, 4e-3), loss_of, steps,
              lambda i: constant_then_decay(i, steps, n_warmup=10), row.form)
        return model

    def reinforce(self, model: Transformer, reward: str) -> Transformer:
        """GRPO on the final answer; or, for "random", on a coin."""
        s, coin = self.s, random.Random(f"coin {self.seed}")

        def verify(text: str, numbers: Numbers) -> bool:
            return coin.random() < 0.5 if reward == "random" else split(text)[1] == truth(numbers)

        loss = task_objective(model, BYTES, lambda rng: self.draw(s.prompts, rng), s.group, self.seed,
                              Variant(shared=True), ask=question, verify=verify, n_new=LONGEST)
        train(model, [AdamW(model.parameters(), s.lr, betas=(0.9, 0.98))], loss, s.batches,
              lambda i: warmup(i, 5), "grpo")
        return model

    def model_of(self, row: Row) -> Transformer:
        """The model of a row; imitators that several rows start from are trained once."""
        shown = replace(row, reward="")
        if shown not in self.imitators:
            self.imitators[shown] = self.imitate(shown)
        model = copy.deepcopy(self.imitators[shown])
        return self.reinforce(model, row.reward) if row.reward else model

    def texts(self, model: Transformer, n: int, begun: list[str] | None = None) -> tuple[list, float]:
        """`n` answers to each held-out sum, and the mean tokens of one; greedy if n is 1.

        They go on from what is `begun` for them, if anything is.
        """
        eos, generator = BYTES.special[EOS], torch.Generator(self.device).manual_seed(self.seed)
        prompts = [chat_prompt(BYTES, question(numbers)) + BYTES.encode(start)
                   for numbers, start in zip(self.test, begun or [""] * len(self.test))]
        ids = sample(model, prompts, LONGEST, eos, 0.0 if n == 1 else 1.0, n, generator)
        return ([[BYTES.decode(a[:-1] if a[-1] == eos else a) for a in group] for group in ids],
                sum(len(a) for group in ids for a in group) / sum(map(len, ids)))

    def measure(self, model: Transformer, form: str) -> dict:
        """Greedy answers and thoughts that are right; a vote and the best of as many samples as tokens allow.

        "follows" is how often the model believes a thought that was written for it, with one wrong total.
        """
        truths = [truth(numbers) for numbers in self.test]
        greedy, spent = self.texts(model, 1)
        parts = [split(text) for [text] in greedy]
        result = {"right": percent([a == t for (_, a), t in zip(parts, truths)]),
                  "thought": percent([th == thought(n) for (th, _), n in zip(parts, self.test)]),
                  "tokens": spent, "curve": []}
        if form == "first":
            rng = random.Random(f"wrong {self.seed}")
            wrong = [one_wrong(thought(numbers), rng) for numbers in self.test]
            told, _ = self.texts(model, 1, [w + ":" for w in wrong])
            result["follows"] = percent([text == says(w) for [text], w in zip(told, wrong)])
        cost, longest = cost_of(form), cost_of("first")
        budgets = [longest * 2**i for i in range(self.s.samples.bit_length())]
        tried, spent = self.texts(model, budgets[-1] // cost)
        answers = [[split(text)[1] for text in group] for group in tried]
        for n in (budget // cost for budget in budgets):
            parts = [(group[i:i + n], t) for group, t in zip(answers, truths)
                     for i in range(0, len(group) - n + 1, n)]
            result["curve"].append({"n": n, "tokens": n * spent,
                                    "vote": percent([vote(part) == t for part, t in parts]),
                                    "best": percent([t in part for part, t in parts])})
        return result


def draw_figure(path: Path, results: list[dict]) -> None:
    """Accuracy against tokens; the mean over seeds."""
    axes = new_axes("What tokens buy: sums of four numbers, held out", "tokens spent on a question",
                    "right (%)", width=7.5)
    for name, (color, marker) in CURVES.items():
        for (how, key), line in zip(HOW.items(), ("-", ":")):
            points = list(zip(*(r[name]["curve"] for r in results)))
            axes.plot([sum(p["tokens"] for p in at) / len(at) for at in points],
                      [sum(p[key] for p in at) / len(at) for at in points], line, color=color,
                      marker=marker, markersize=3.5, linewidth=1.2, label=name if how == "majority" else None)
    axes.set_xscale("log", base=2)
    axes.set_xticks([2**i for i in range(3, 9)], [str(2**i) for i in range(3, 9)])
    axes.set_ylim(0, 102)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5),
                title="solid: majority\ndotted: best, verified", title_fontsize=8)
    save(axes, path)


def main() -> None:
    """A row for each model, then accuracy against tokens; tables and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    if s.samples & (s.samples - 1):
        raise ValueError(f"--samples {s.samples} is no power of two, but votes are of 1, 2, 4 and so on: "
                         f"choose {1 << s.samples.bit_length()}")
    device = announce("07 thinking", s)
    cells = Cells(Path(s.out, "study", "think"),
                  [transformer, rollout, grpo, scratchpad, sys.modules[__name__]])
    common = asdict(replace(s, out="", seed=0, seeds=1, quick=False))
    results = []
    for seed in range(s.seed, s.seed + s.seeds):
        experiment = Experiment(s, seed, device)

        def make(row: Row, experiment=experiment) -> Callable[[], dict]:
            return lambda: experiment.measure(experiment.model_of(row), row.form)
        results.append({name: cells.get(common | asdict(row) | {"seed": seed}, make(row))
                        for name, row in ROWS.items()})
    print_table(["model", "right %", "thought right %", "follows a wrong thought %", "tokens"], [
        [name, *(mean_and_spread([r[name][k] for r in results]) if k in results[0][name] else ""
                 for k in ("right", "thought", "follows", "tokens"))] for name in ROWS])
    spent = [cost_of("first") * 2**i for i in range(s.samples.bit_length())]
    print_table(["right % within so many tokens", *map(str, spent)], [
        [f"{name}: {how}", *(mean_and_spread([p[key] for p in at]) for at in zip(*(
            r[name]["curve"] for r in results)))]
        for name in (*CURVES, "thinks first, half learned") for how, key in HOW.items()])
    draw_figure(Path(s.out, "07_alignment", "think"), results)
    write_json(Path(s.out, "07_alignment", "think.json"), {"seed": s.seed, "results": results})


if __name__ == "__main__":
    run_main(main)
