"""Distillation: a model a quarter the size learns what a finished model says, not what the data say.

Adds to sft.py three sources of lessons beside the data, all with the same sums, rows of text and steps:

- the teacher's *probabilities*: its whole distribution at every token (Hinton, Vinyals, Dean 2015);
- its *samples*: text and answers that it wrote, taken as data (Kim and Rush 2016, section 3.2);
- *on-policy*: the student answers, and at each token of its own answer it moves towards what the teacher
  would have said there, by the reverse divergence (Agarwal et al. 2023, "GKD"; Gu et al. 2023).

    python 07_alignment/distill.py         all of them, three seeds; after `make 07`, some minutes
"""
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

import muon
import rollout
import transformer
from arithmetic import Pair, problem
from batches import TextBatches, inputs_and_targets
from bits_per_byte import bits_per_byte
from bpe import EOS, Tokenizer
from cells import Cells
from chat_template import answer_batch, answer_ids, chat_prompt, pad_id
from checkpoint import load_model
from count import count_parameters
from cross_entropy import IGNORE, cross_entropy
from muon import muon_and_adamw
from normalization import at_least_float32
from results_table import mean_and_spread, print_table
from rollout import sample
from schedule import constant_then_decay
from skills import SUM_TOKENS, sum_skill
from tasks import load_tasks
from token_file import open_tokens
from train import train
from transformer import Config, Transformer

METHODS = ("data", "samples", "probabilities", "on-policy")
Rows = tuple[Tensor, Tensor]   # inputs and targets (B, T), IGNORE where no loss falls


def student_config(teacher: Config, share: float = 0.25) -> Config:
    """Half the width, and as many layers as fit into `share` of the teacher's parameters, at least one.

    As many heads as before, each half as wide.
    """
    most = share * sum(count_parameters(teacher).values())
    half = replace(teacher, d_model=teacher.d_model // 2, d_ff=max(teacher.d_ff // 2, 1),
                   head_width=teacher.head_width // 2)
    sizes = [sum(count_parameters(replace(half, n_layers=n)).values())
             for n in range(1, teacher.n_layers + 1)]
    return replace(half, n_layers=max(sum(size <= most for size in sizes), 1))


def forward_kl(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(teacher || student), both softened by T: the mean over tokens with mask 1.

    Logits are (B, T, V), mask (B, T). Hinton et al. 2015, section 2: a high T shows how the teacher ranks
    what is unlikely, and T² keeps the gradient's size. The student must cover all that the teacher may say.
    """
    # EXERCISE 7.18 distillation from probabilities
    log_p = (at_least_float32(teacher) / temperature).log_softmax(-1)              # (B, T, V)
    log_q = (at_least_float32(student) / temperature).log_softmax(-1)
    each = (log_p.exp() * (log_p - log_q)).sum(-1)                                 # (B, T)
    return temperature**2 * (each * mask).sum() / mask.sum().clamp(min=1)
    # END EXERCISE 7.18


def reverse_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(student || teacher), the mean over tokens with mask 1: dear where the teacher would not say it."""
    return forward_kl(teacher, student, mask)


@dataclass(frozen=True)
class Plan:
    """How long a student learns, and from how much a step."""
    steps: int = 340           # optimizer steps, the same for every method
    sum_steps: int = 300       # the first of them see sums alone, as in pretraining
    sums: int = 32             # sums a step
    text_rows: int = 8         # rows of 128 tokens of text a step, after those
    matrix_lr: float = 0.015   # learning rate of Muon
    other_lr: float = 4e-3     # learning rate of AdamW
    decay: float = 0.3         # share of the steps in which the rates decay
    temperature: float = 1.0   # of both distributions in "probabilities"


class Lessons:
    """What is asked at each step, the data's answers to it, and text; the same for every method."""

    def __init__(self, tokenizer: Tokenizer, demonstrations: list[tuple[Pair, str]], tokens, plan: Plan,
                 seed: int):
        self.tokenizer, self.demonstrations, self.plan, self.seed = tokenizer, demonstrations, plan, seed
        self.text = TextBatches(tokens, plan.text_rows, 128, seed)

    def chat_rows(self, step: int, writer: Transformer | None = None) -> Rows:
        """Sums with loss on the answers: those of the data, or what `writer` answers at temperature 1."""
        rng, t = random.Random(f"distill {self.seed} {step}"), self.tokenizer
        shown = rng.choices(self.demonstrations, k=self.plan.sums)
        prompts = [chat_prompt(t, problem(pair)) for pair, _ in shown]
        if writer is None:
            answers = [answer_ids(t, answer) for _, answer in shown]
        else:
            device = next(writer.parameters()).device
            generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + step)
            answers = [a for [a] in sample(writer, prompts, SUM_TOKENS, t.special[EOS], 1.0, 1, generator)]
        return answer_batch(prompts, answers, pad_id(t))


def written_text(teacher: Transformer, eos: int, rows: int, seed: int, length: int = 128) -> Tensor:
    """`rows` rows that the teacher writes at temperature 1 behind <|eos|>: (rows, length + 1)."""
    device, made = next(teacher.parameters()).device, []
    generator = torch.Generator(device).manual_seed(seed)
    for begin in range(0, rows, 128):   # the keys and values of all rows at once would fill the memory
        n = min(128, rows - begin)
        [texts] = sample(teacher, [[eos]], length, -1, 1.0, n, generator)   # no id is -1: none ends it
        made += [[eos, *text] for text in texts]
    return torch.tensor(made)


def distill_loss(student: Transformer, teacher: Transformer, lessons: Lessons,
                 method: str) -> Callable[[int], Tensor]:
    """The loss of a step. "on-policy" begins as "probabilities" and answers itself in the last third."""
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    plan, device = lessons.plan, next(student.parameters()).device
    teacher.eval().requires_grad_(False)
    texts = None
    if method == "samples" and plan.steps > plan.sum_steps:
        rows = (plan.steps - plan.sum_steps) * plan.text_rows
        texts = written_text(teacher, lessons.tokenizer.special[EOS], rows, lessons.seed)
        texts = texts.split(plan.text_rows)

    def loss_of(step: int) -> Tensor:
        own = method == "on-policy" and step >= plan.steps * 2 // 3
        rows = [lessons.chat_rows(step, student if own else teacher if method == "samples" else None)]
        if step >= plan.sum_steps:
            at = step - plan.sum_steps
            rows.append(lessons.text(at) if texts is None else inputs_and_targets(texts[at]))
        total = torch.zeros((), device=device)
        for i, (x, y) in enumerate((x.to(device), y.to(device)) for x, y in rows):
            said = student(x)                                                      # (B, T, V)
            if method in ("data", "samples"):
                total = total + cross_entropy(said, y)
                continue
            with torch.no_grad():
                wanted = teacher(x)
            mask = (y != IGNORE).to(said)
            if own and i == 0:
                total = total + reverse_kl(said, wanted, mask)
            else:
                total = total + forward_kl(said, wanted, mask, plan.temperature)
        return total
    return loss_of


def distill(student: Transformer, teacher: Transformer, lessons: Lessons, method: str,
            state: Path | None = None, key: str = "") -> list[dict]:
    """Train the student by one of METHODS; returns the log of its losses."""
    plan = lessons.plan
    return train(student, muon_and_adamw(student, plan.matrix_lr, plan.other_lr),
                 distill_loss(student, teacher, lessons, method), plan.steps,
                 lambda i: constant_then_decay(i, plan.steps, min(10, plan.steps), plan.decay), method,
                 state=state, key=key)


@dataclass
class Settings(RunSettings):
    """The comparison."""
    steps: int = 340                         # optimizer steps of each student
    sum_steps: int = setting(300, least=0)   # the first of them see sums alone
    seeds: int = 3                           # students of one teacher for each method


def row(s: Settings, plan: Plan, method: str, seed: int, device) -> dict:
    """One student: what it can do on held-out items."""
    text = Path(s.out, "01_tokenizer")
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
    model = teacher = load_model(Path(s.out, "07_alignment", "grpo.pt"), device)
    if method != "teacher":
        seed_everything(seed)
        model = Transformer(student_config(teacher.config)).to(device)
        lessons = Lessons(tokenizer, tasks.demonstrations, open_tokens(text / "train.bin"), plan, seed)
        distill(model, teacher, lessons, method)
    valid = open_tokens(text / "valid.bin")
    return {**sum_skill(model, tokenizer, tasks.test_sums),
            "bits": bits_per_byte(model, valid, tasks.held_out_bytes),
            "parameters": sum(p.numel() for p in model.parameters())}


def main() -> None:
    """Every method beside the data alone and the teacher."""
    s = parse_settings(Settings, __doc__, dict(steps=6, sum_steps=3, seeds=1))
    device, code = announce("07 distillation", s), [transformer, muon, rollout, sys.modules[__name__]]
    cells = Cells(Path(s.out, "study", "distill"), code)
    text, teacher = Path(s.out, "01_tokenizer"), Path(s.out, "07_alignment", "grpo.pt")
    data = content_hash(teacher, text / "tasks.json", text / "train.bin")
    plan = Plan(s.steps, s.sum_steps)
    tries = {"teacher": plan, "data": plan, "probabilities": plan,
             "probabilities, T = 2": replace(plan, temperature=2.0), "samples": plan, "on-policy": plan}
    table, results = [], {}
    for name, plan in tries.items():
        method, seeds = name.partition(",")[0], 1 if name == "teacher" else s.seeds
        got = results[name] = [
            cells.get(asdict(plan) | {"method": method, "seed": seed, "data": data},
                      lambda seed=seed, plan=plan, method=method: row(s, plan, method, seed, device))
            for seed in range(s.seed, s.seed + seeds)]
        table.append([name, f"{got[0]['parameters']:,}", *(mean_and_spread([100 * g[k] for g in got])
                      for k in ("addition", "careless")), mean_and_spread([g["bits"] for g in got], 2)])
    print_table(["learned from", "parameters", "sums %", "careless %", "bits a byte"], table)
    write_json(Path(s.out, "07_alignment", "distill.json"), {"seed": s.seed, "rows": results})


if __name__ == "__main__":
    run_main(main)
