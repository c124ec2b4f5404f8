"""The switches of GRPO off and on, and whether it finds answers that the model could not give before.

Every row of the first table starts from the SFT model and sees the same number of answers to sums. The second
table and the figure are pass@k for k = 1 to 64, by the unbiased estimate of Chen et al. 2021 (section 2.1),
of the base model, the SFT model, GRPO on fresh sums, and GRPO on eight sums again and again. Yue et al. 2025,
"Does reinforcement learning really incentivize reasoning capacity", found that the curves of base and
reinforced models cross: more is right at the first try, less within many.

    python 07_alignment/grpo_study.py      after `make 07`; some ten minutes (make study)
"""
import sys
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
import shared_prompts
import transformer
from adamw import AdamW
from arithmetic import problem, right_answer
from bpe import EOS, Tokenizer
from cells import Cells
from chat_template import chat_prompt, initialize_chat_tokens, pad_id
from checkpoint import load_model
from evaluate import pass_at_k
from figures import GREY, new_axes, save
from grpo import DR_GRPO, Variant, fresh_sums, kl_k3, task_objective
from results_table import mean_and_spread, print_table
from rollout import answer_log_probs, sample
from schedule import warmup
from skills import SUM_TOKENS, fact_skill, sum_skill
from tasks import load_tasks
from train import train
from transformer import Transformer
from verifier import sum_is_right

PLAIN = Variant(shared=True)
VARIANTS = {
    "as in make": PLAIN, "no deviation": replace(PLAIN, deviation=False),
    "Dr. GRPO": replace(DR_GRPO, shared=True), "KL at 0.1": replace(PLAIN, kl=0.1),
    "4 updates a batch": replace(PLAIN, updates=4),
    "4, without the clip": replace(PLAIN, updates=4, clip=1e9)}
MODELS = ("base, plain form", "base, chat form", "SFT", "GRPO", "GRPO on few sums")
KS = (1, 2, 4, 8, 16, 32, 64)


@dataclass
class Settings(RunSettings):
    """How much to reinforce and to sample."""
    batches: int = 20                        # of answers, in every row
    prompts: int = 16                        # sums a batch
    group: int = setting(8, least=2)         # answers to each
    lr: float = 5e-4                         # of AdamW
    few: int = setting(8, least=1)           # sums of the run that sees no others
    sums: int = 100                          # held-out sums for pass@k and KL
    samples: int = setting(64, least=64)     # answers to each
    questions: int = 120                     # held-out questions about facts
    seeds: int = 3                           # of reinforcement and sampling, from one SFT model


QUICK = dict(batches=2, prompts=4, sums=4, samples=64, questions=8, seeds=1)


class Experiment:
    """The models of `make 07`, and what can be done with them under one seed."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, self.device = s, seed, device
        seed_everything(seed)
        text = Path(s.out, "01_tokenizer")
        self.tokenizer, self.tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        self.pairs = self.tasks.test_sums[:s.sums]

    def load(self, *path: str) -> Transformer:
        """A model of an earlier stage."""
        return load_model(Path(self.s.out, *path), self.device)

    def reinforce(self, variant: Variant, few: bool = False) -> tuple[Transformer, list[dict]]:
        """GRPO from the SFT model, on fresh sums or on a few; the log has a row an update."""
        s, model = self.s, self.load("07_alignment", "sft.pt")
        known = [pair for pair, _ in self.tasks.demonstrations[:s.few]]
        draw = ((lambda rng: rng.choices(known, k=s.prompts)) if few else
                fresh_sums(set(self.tasks.test_sums), s.prompts))
        loss = task_objective(model, self.tokenizer, draw, s.group, self.seed, variant)
        log = train(model, [AdamW(model.parameters(), s.lr, betas=(0.9, 0.98))], loss,
                    s.batches * variant.updates, lambda i: warmup(i, 5), "grpo")
        return model, log

    def row(self, variant: Variant) -> dict:
        """What one variant ends with."""
        model, log = self.reinforce(variant)
        facts = fact_skill(model, self.tokenizer, self.tasks.held_out_questions[:self.s.questions])
        clipped = [r.get("clipped", 0.0) for r in log]
        return {"addition": sum_skill(model, self.tokenizer, self.tasks.test_sums)["addition"],
                "facts": facts["facts"], "kl": self.kl(model), "rewards": [r["reward"] for r in log],
                "clipped": [sum(clipped[i::variant.updates]) / self.s.batches
                            for i in range(variant.updates)]}

    @torch.no_grad()
    def kl(self, model: Transformer) -> float:
        """KL to the SFT model in nats an answer, from one answer to each held-out sum."""
        prompts = [chat_prompt(self.tokenizer, problem(p)) for p in self.pairs]
        generator = torch.Generator(next(model.parameters()).device).manual_seed(self.seed)
        eos = self.tokenizer.special[EOS]
        answers = [a for [a] in sample(model, prompts, SUM_TOKENS, eos, 1.0, 1, generator)]
        scored = (answer_log_probs(m, prompts, answers, pad_id(self.tokenizer))
                  for m in (model, self.load("07_alignment", "sft.pt")))
        (log_p, mask), (ref, _) = scored
        return (kl_k3(log_p, ref) * mask).sum(1).mean().item()

    def counts(self, model: Transformer, plain: bool = False) -> list[int]:
        """How many of the samples are right, for each held-out sum; asked in plain form or in chat."""
        eos = self.tokenizer.special[EOS]
        prompts = [[eos, *self.tokenizer.encode(problem(p) + "=")] if plain else
                   chat_prompt(self.tokenizer, problem(p)) for p in self.pairs]
        generator = torch.Generator(next(model.parameters()).device).manual_seed(self.seed)
        n_new = len(right_answer((0, 0))) if plain else SUM_TOKENS
        tried, end = [], -1 if plain else eos
        for i in range(0, len(prompts), 20):   # a part at a time, for the memory
            tried += sample(model, prompts[i:i + 20], n_new, end, 1.0, self.s.samples, generator)
        return [sum(sum_is_right(self.tokenizer.decode([t for t in a if t != eos]), p) for a in group)
                for group, p in zip(tried, self.pairs)]

    def curve(self, name: str) -> list[int]:
        """Counts for one of MODELS."""
        if name.startswith("GRPO"):
            return self.counts(self.reinforce(PLAIN, few="few" in name)[0])
        if name == "SFT":
            return self.counts(self.load("07_alignment", "sft.pt"))
        base = self.load("03_training", "model.pt")
        initialize_chat_tokens(base, self.tokenizer)
        return self.counts(base, plain="plain" in name)


def pass_curve(counts: list[int], n: int) -> list[float]:
    """pass@k in % for each k of KS, the mean over sums."""
    return [100 * sum(pass_at_k(n, c, k) for c in counts) / len(counts) for k in KS]


def draw(path: Path, curves: dict[str, list[list[float]]]) -> None:
    """A line for each model and seed."""
    axes = new_axes("Right once in k samples: held-out sums", "k (samples to each sum)", "pass@k (%)")
    styles = (("black", ":"), (GREY, ":"), (GREY, "-"), ("black", "-"), ("black", "--"))
    for (name, seeds), (color, line) in zip(curves.items(), styles):
        for i, curve in enumerate(seeds):
            axes.plot(KS, curve, line, color=color, linewidth=1.3, label=None if i else name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(KS, [str(k) for k in KS])
    axes.set_ylim(0, 102)
    axes.legend(frameon=False, fontsize=8)
    save(axes, path)


def main() -> None:
    """A row for each variant, then pass@k; tables and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    device = announce("07 GRPO's switches", s)
    files = [Path(s.out, "07_alignment", "sft.pt"), Path(s.out, "03_training", "model.pt"),
             Path(s.out, "01_tokenizer", "tasks.json")]
    cells = Cells(Path(s.out, "study", "grpo_study"),
                  [transformer, grpo, shared_prompts, sys.modules[__name__]])
    common = asdict(replace(s, out="", seed=0, seeds=1, quick=False)) | {"data": content_hash(*files)}
    seeds, rows = range(s.seed, s.seed + s.seeds), {}
    for name, variant in VARIANTS.items():
        rows[name] = [cells.get(common | {"variant": asdict(variant), "seed": seed},
                                lambda seed=seed, v=variant: Experiment(s, seed, device).row(v))
                      for seed in seeds]
    print_table(["variant", "sums %", "facts %", "KL (nats)", "clipped tokens %, update by update"], [
        [name, *(mean_and_spread([100 * r[k] for r in got]) for k in ("addition", "facts")),
         mean_and_spread([r["kl"] for r in got], 2),
         " ".join(f"{100 * sum(c) / len(c):.1f}" for c in zip(*(r["clipped"] for r in got)))]
        for name, got in rows.items()])
    counts = {name: [cells.get(common | {"curve": name, "seed": seed},
                               lambda seed=seed, name=name: {
                                   "it": Experiment(s, seed, device).curve(name)})["it"]
                     for seed in seeds] for name in MODELS}
    curves = {name: [pass_curve(c, s.samples) for c in got] for name, got in counts.items()}
    print_table(["pass@k %", *map(str, KS)], [[name, *(mean_and_spread(at_k) for at_k in zip(*got))]
                                              for name, got in curves.items()])
    draw(Path(s.out, "07_alignment", "pass_at_k"), curves)
    write_json(Path(s.out, "07_alignment", "grpo_study.json"),
               {"seed": s.seed, "rows": rows, "curves": curves})


if __name__ == "__main__":
    run_main(main)
