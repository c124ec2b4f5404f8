"""The three steps of InstructGPT, and what becomes of a learned reward that is trusted too far.

Raters compare answers, a reward model learns from them, and best-of-n, DPO and PPO improve on it, or on the
pairs. Only here the true reward is known as well: it is drawn against the distance from the SFT model (KL).
What the reward model says keeps rising; what is true need not (Gao, Schulman, Hilton 2022, figure 1).

    python 07_alignment/overoptimization.py    after `make 07`; some ten minutes (make study)
"""
import copy
import math
import random
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        parse_settings,
        run_main,
        seed_everything,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import dpo
import ppo
import preferences
import reward_model
import transformer
from adamw import AdamW
from bpe import Tokenizer
from cells import Cells
from chat_template import answer_ids, chat_prompt, pad_id
from checkpoint import load_model
from dpo import dpo_objective
from figures import GREY, new_axes, save
from ppo import PPO, Knobs
from preferences import Rater, agreement, rated_pairs
from results_table import mean_and_spread, print_table
from reward_model import (
    ScalarModel,
    accuracy,
    calibration_error,
    differences,
    reward_objective,
    score_texts,
    scores,
)
from rollout import answer_log_probs
from schedule import warmup
from skills import ANSWER_TOKENS, chat_answers
from tasks import load_tasks
from train import train
from transformer import Transformer
from verifier import preference

CODE = [transformer, dpo, ppo, preferences, reward_model, sys.modules[__name__]]
BEST_OF = (1, 2, 4, 8, 16, 32)


@dataclass
class Settings(RunSettings):
    """How much to rate and to train."""
    pairs: int = 600          # questions of which two answers are compared
    steps: int = 80           # of the reward model, 24 pairs each
    ppo_steps: int = 40       # batches of 32 answers
    dpo_steps: int = 40       # batches of 24 pairs
    every: int = 8            # measure the policy after so many steps
    questions: int = 120      # held-out questions to measure on
    seeds: int = 3            # whole repetitions


QUICK = dict(pairs=40, steps=4, ppo_steps=2, dpo_steps=2, every=2, questions=16, seeds=1)
KNOBS = {"PPO": Knobs(), "no KL price": Knobs(kl=0), "no clip": Knobs(clip=1e9),
         "one update a batch": Knobs(epochs=1),
         "GAE lambda 1": Knobs(lam=1.0), "GAE lambda 0": Knobs(lam=0.0), "no critic": Knobs(critic=False)}


class Experiment:
    """One seed: the SFT model, rated pairs and the reward model that learned from them."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, text = s, seed, Path(s.out, "01_tokenizer")
        seed_everything(seed)
        self.tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        self.sft = load_model(Path(s.out, "07_alignment", "sft.pt"), device)
        rng = random.Random(f"overoptimization {seed}")
        self.asked = rng.sample(tasks.train_questions, min(2 * s.pairs, len(tasks.train_questions)))
        self.held_out = rng.sample(tasks.held_out_questions, min(s.questions, len(tasks.held_out_questions)))
        self.truths = {q.text: q.answer for q in self.asked + self.held_out}
        half = len(self.asked) // 2
        self.pairs = rated_pairs(self.sft, self.tokenizer, self.asked[:half], Rater(), seed)
        self.test_pairs = rated_pairs(self.sft, self.tokenizer, self.asked[half:], Rater(), seed + 1)

    def reward_model(self, n: int) -> ScalarModel:
        """Trained on the first `n` pairs."""
        reward: Any = ScalarModel(self.sft)   # not a Transformer, and train asks no more of it
        train(reward, [AdamW(reward.parameters(), 5e-4)],
              reward_objective(reward, self.tokenizer, self.pairs[:n], 24, self.seed),
              self.s.steps, lambda i: min(warmup(i, 5), 2 * (1 - i / self.s.steps)), f"{n} pairs")
        return reward.eval()

    def judged(self) -> list[dict]:
        """How many pairs buy how much: accuracy and calibration on held-out pairs."""
        rows = []
        for n in sorted({max(1, len(self.pairs) // k) for k in (16, 4, 1)}):
            d = differences(self.reward_model(n), self.tokenizer, self.test_pairs)
            rows.append({"pairs": n, "accuracy": accuracy(d), "calibration": calibration_error(d)})
        return [*rows, {"raters": agreement(self.test_pairs, self.truths)}]

    @torch.no_grad()
    def measure(self, policy: Transformer, reward: ScalarModel) -> dict:
        """One answer to each held-out question: its true reward, what the model says of it, its KL to SFT."""
        generator = torch.Generator(next(policy.parameters()).device).manual_seed(self.seed)
        texts = [a for [a] in chat_answers(policy, self.tokenizer, [q.text for q in self.held_out],
                                           ANSWER_TOKENS, 1.0, 1, generator)]
        prompts = [chat_prompt(self.tokenizer, q.text) for q in self.held_out]
        answers = [answer_ids(self.tokenizer, t) for t in texts]
        pad = pad_id(self.tokenizer)
        p, ref = (answer_log_probs(m, prompts, answers, pad)[0].sum(1) for m in (policy, self.sft))
        return {"kl": max((p - ref).mean().item(), 0.0),
                "said": scores(reward, prompts, answers, pad).mean().item(),
                "true": sum(preference(t, q.answer) for t, q in zip(texts, self.held_out)) / len(texts)}

    @torch.no_grad()
    def best_of_n(self, reward: ScalarModel, best_of: tuple[int, ...] = BEST_OF) -> list[dict]:
        """The answer that the reward model likes best of n, for each n of `best_of` (ascending).

        Its KL is log n - (n - 1) / n (Stiennon et al. 2020).
        """
        generator = torch.Generator(next(self.sft.parameters()).device).manual_seed(self.seed)
        tried = chat_answers(self.sft, self.tokenizer, [q.text for q in self.held_out], ANSWER_TOKENS, 1.0,
                             best_of[-1], generator)
        said = torch.stack([score_texts(reward, self.tokenizer, [(q.text, a) for a in group])
                            for q, group in zip(self.held_out, tried)])            # (questions, n)
        true = torch.tensor([[float(preference(a, q.answer)) for a in group]
                             for q, group in zip(self.held_out, tried)])
        points = []
        for n in best_of:
            best = said[:, :n].argmax(1, keepdim=True)
            points.append({"n": n, "kl": math.log(n) - (n - 1) / n,
                           "said": said.gather(1, best).mean().item(),
                           "true": true.gather(1, best.cpu()).mean().item()})
        return points

    def by_dpo(self, reward: ScalarModel) -> list[dict]:
        """DPO straight on the pairs, without a reward model; measured along the way."""
        policy, points = copy.deepcopy(self.sft), [self.measure(self.sft, reward)]
        loss = dpo_objective(policy, self.tokenizer, self.pairs, 24, 0.1, 0.0, self.seed)
        optimizer = AdamW(policy.parameters(), 1.5e-4)
        for begin in range(0, self.s.dpo_steps, self.s.every):
            train(policy, [optimizer], lambda i, begin=begin: loss(begin + i), self.s.every, lambda i: 1.0,
                  f"dpo {begin}")
            points.append(self.measure(policy, reward))
        return points

    def by_ppo(self, reward: ScalarModel, knobs: Knobs, along: bool,
               policy: Transformer | None = None) -> list[dict]:
        """PPO on the reward model, of `policy` in place or of a copy of the SFT model.

        Measured along the way, or before and after only.
        """
        policy, points = policy or copy.deepcopy(self.sft), [self.measure(self.sft, reward)]
        pad = pad_id(self.tokenizer)

        def paid(prompts, answers):
            with torch.no_grad():
                return scores(reward, prompts, answers, pad)

        learner = PPO(policy, self.sft, self.tokenizer, paid, knobs, 2e-4, 5e-4)
        for step in range(self.s.ppo_steps):
            rng = random.Random(f"ppo {self.seed} {step}")
            learner.step([q.text for q in rng.sample(self.asked, min(32, len(self.asked)))],
                         self.seed * 1_000_003 + step)
            if (step + 1) % self.s.every == 0 and along or step + 1 == self.s.ppo_steps:
                points.append(self.measure(policy, reward))
        return points


def draw(path: Path, curves: dict[str, list[list[dict]]]) -> None:
    """True reward against the square root of KL, a line for each method and seed."""
    axes = new_axes("What a learned reward is worth", "distance from the SFT model: square root of KL (nats)",
                    "true reward of held-out answers (0 to 3)")
    for (name, seeds), style in zip(curves.items(),
                                    (("black", "-"), ("black", ":"), (GREY, "-"), (GREY, "--"))):
        for i, points in enumerate(seeds):
            axes.plot([p["kl"] ** 0.5 for p in points], [p["true"] for p in points], style[1], color=style[0],
                      linewidth=1.2, marker="o", markersize=2.5, label=None if i else name)
    axes.legend(frameon=False, fontsize=8)
    save(axes, path)


def main() -> None:
    """Rate, train reward models, improve by three methods, turn PPO's parts off; tables and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    device = announce("07 reward models", s)
    sft_file = Path(s.out, "07_alignment", "sft.pt")
    cells = Cells(Path(s.out, "study", "overoptimization"), CODE)
    common = asdict(replace(s, out="", seed=0, seeds=1, quick=False)) | {"model": content_hash(sft_file)}
    judged, curves, off = [], {"best of n": [], "DPO": [], "PPO": [], "PPO, no KL price": []}, {}
    for seed in range(s.seed, s.seed + s.seeds):
        made: list = []   # the experiment and its reward model, once they are needed

        def get(part: str, work, seed=seed, made=made):
            def make():
                if not made:
                    experiment = Experiment(s, seed, device)
                    made[:] = experiment, experiment.reward_model(len(experiment.pairs))
                return {"it": work(*made)}
            return cells.get(common | {"part": part, "seed": seed}, make)["it"]

        judged.append(get("reward models", lambda e, r: e.judged()))
        curves["best of n"].append(get("best of n", lambda e, r: e.best_of_n(r)))
        curves["DPO"].append(get("dpo", lambda e, r: e.by_dpo(r)))
        for name, knobs in KNOBS.items():
            along = name in ("PPO", "no KL price")
            points = get(name, lambda e, r, knobs=knobs, along=along: e.by_ppo(r, knobs, along))
            off.setdefault(name, []).append(points[-1])
            if along:
                curves["PPO" if name == "PPO" else "PPO, no KL price"].append(points)
    agreed = mean_and_spread([100 * j[-1]["raters"] for j in judged])
    print(f"  raters agree with the truth on {agreed}% of unequal pairs")
    print_table(["pairs", "accuracy %", "calibration error %"],
                [[rows[0]["pairs"],
                  *(mean_and_spread([100 * r[k] for r in rows]) for k in ("accuracy", "calibration"))]
                 for rows in zip(*(j[:-1] for j in judged))])
    ends = {"SFT": [c[0] for c in curves["DPO"]]}
    ends |= {f"best of {n}": [c[i] for c in curves["best of n"]] for i, n in enumerate(BEST_OF) if n > 1}
    ends |= {"DPO": [c[-1] for c in curves["DPO"]]} | off
    print_table(["held-out answers", "true reward", "reward model", "KL"], [
        [name, *(mean_and_spread([p[k] for p in points], 2) for k in ("true", "said", "kl"))]
        for name, points in ends.items()])
    draw(Path(s.out, "07_alignment", "overoptimization"), curves)
    write_json(Path(s.out, "07_alignment", "overoptimization.json"),
               {"seed": s.seed, "judged": judged, "curves": curves, "off": off})


if __name__ == "__main__":
    run_main(main)
