"""Chapter 7: from text model to assistant, by SFT, DPO and GRPO, each stage beside its control.

And side branches: LoRA in place of SFT, a learned reward and PPO in place of DPO, a calculator, a topic that
is refused, a small student.

    make 07        or  python 07_alignment/run.py --help
"""
import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        fingerprint,
        parse_settings,
        read_json,
        run_main,
        seed_everything,
        setting,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from adamw import AdamW
from arithmetic import carries, problem, right_answer
from batches import TextBatches
from bpe import Tokenizer
from chat_template import initialize_chat_tokens
from checkpoint import load_model, save_model
from distill import student_config
from dpo import dpo_objective, make_pairs
from figures import new_axes, save
from grpo import grpo_objective
from muon import muon_and_adamw
from replay import own_answers, replay_loss
from schedule import constant_then_decay, warmup
from sft import sft_loss
from side_branches import SideBranches
from skills import chat_answers, fact_skill, sampled_sum_skill, sum_skill
from tasks import load_tasks
from token_file import open_tokens
from train import train
from transformer import Transformer


@dataclass
class Settings(RunSettings):
    """How to run the three stages and their side branches."""
    sft_steps: int = 80            # SFT: optimizer steps
    sft_facts: int = 32            # SFT: questions a step
    sft_sums: int = 64             # SFT: demonstrated sums a step
    sft_terse: float = setting(0.35, least=0, most=1)   # SFT: share of terse answers
    sft_matrix_lr: float = 2e-3    # SFT: learning rate of Muon
    sft_other_lr: float = 1.5e-3   # SFT: learning rate of AdamW
    dpo_steps: int = 6             # DPO: optimizer steps; more of them cost right answers
    dpo_questions: int = 240       # DPO: training questions to make pairs from
    dpo_samples: int = setting(6, least=2)              # DPO: answers sampled to each
    dpo_batch: int = 24            # DPO: pairs a step
    dpo_beta: float = 0.1          # DPO: how far from the reference (smaller is further)
    dpo_anchor: float = setting(0.1, least=0)           # DPO: weight of the likelihood of the chosen answer
    dpo_lr: float = 1.5e-4         # DPO: learning rate of AdamW
    grpo_steps: int = 60           # GRPO: optimizer steps
    grpo_prompts: int = 32         # GRPO: sums a step
    grpo_group: int = setting(8, least=2)               # GRPO: answers to each
    grpo_lr: float = 7e-4          # GRPO: learning rate of AdamW
    replay_answers: int = 24       # GRPO: own earlier answers replayed a step
    replay_weight: float = setting(0.5, least=0)        # GRPO: their weight
    replay_rows: int = 4           # GRPO: rows of pretraining text replayed a step
    samples: int = 16              # k of pass@k and of the majority vote
    lora_rank: int = 4             # LoRA: rank of the adapters
    lora_steps: int = 30           # LoRA: optimizer steps
    lora_lr: float = 6e-3          # LoRA: learning rate of AdamW
    rated: int = 300               # reward model: questions of which two answers are compared
    reward_steps: int = 40         # reward model: optimizer steps
    ppo_steps: int = 7             # PPO: batches of 32 answers
    tool_steps: int = 100          # tool use: optimizer steps of 16 products
    tool_matrix_lr: float = 3e-2   # tool use: learning rate of Muon
    tool_other_lr: float = 1.5e-3  # tool use: learning rate of AdamW
    refusal_steps: int = 30        # refusal: optimizer steps of 40 questions and sums
    refusal_matrix_lr: float = 3e-3   # refusal: learning rate of Muon
    refusal_other_lr: float = 1.5e-3  # refusal: learning rate of AdamW
    distill_steps: int = 340       # distillation: optimizer steps of the student
    distill_sum_steps: int = setting(300, least=0)      # distillation: the first of them see sums alone


QUICK = dict(sft_steps=20, dpo_questions=30, dpo_steps=2, grpo_steps=4, grpo_prompts=8, samples=4,
             lora_steps=4, rated=30, reward_steps=2, ppo_steps=1, distill_steps=4, distill_sum_steps=2,
             tool_steps=3, refusal_steps=3)


class Course:
    """One run of the chapter: the settings and data that every stage needs, and what has been measured."""

    def __init__(self, s: Settings, device):
        self.s, self.device = s, device
        text = Path(s.out, "01_tokenizer")
        self.records: dict[str, dict] = {}   # by stage
        self.folder, self.base_file = Path(s.out, "07_alignment"), Path(s.out, "03_training", "model.pt")
        self.tokenizer, self.tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        self.tokens = open_tokens(text / "train.bin")
        made_from = content_hash(self.base_file,
                                 *(text / n for n in ("train.bin", "tokenizer.json", "tasks.json")))
        self.key = fingerprint((s, made_from), "01_tokenizer", "02_transformer", "03_training",
                               "07_alignment")

    def base(self) -> Transformer:
        """The pretrained model."""
        return load_model(self.base_file, self.device)

    def measure(self, model: Transformer, sampled: bool = False) -> dict[str, float]:
        """Skills on held-out questions and sums."""
        skills = fact_skill(model, self.tokenizer, self.tasks.held_out_questions)
        skills |= sum_skill(model, self.tokenizer, self.tasks.test_sums)
        if sampled:
            skills |= sampled_sum_skill(model, self.tokenizer, self.tasks.test_sums, self.s.samples,
                                        self.s.seed)
        return skills

    def stage(self, name: str, start: Callable[[], Transformer],
              work: Callable[[Transformer, Path], list[dict]], sampled: bool = False) -> Transformer:
        """Train a model, measure it and keep both; a stage that is finished is loaded, not repeated."""
        model_file, record_file = self.folder / f"{name}.pt", self.folder / f"{name}.json"
        record = read_json(record_file) if record_file.exists() and model_file.exists() else None
        if isinstance(record, dict) and record.get("key") == self.key:
            print(f"  {name}: finished before")
        else:
            model, begin = start(), time.perf_counter()
            log = work(model, self.folder / f"{name}.state.pt")
            seconds = time.perf_counter() - begin
            save_model(model_file, model)
            record = {"key": self.key, "skills": self.measure(model, sampled), "log": log, "seconds": seconds,
                      "evaluation_seconds": time.perf_counter() - begin - seconds}
            write_json(record_file, record)
            for kept in (f"{name}.state.pt", f"{name}.state.before.pt"):
                (self.folder / kept).unlink(missing_ok=True)
        print("  " + f"{name:<15}" + "  ".join(f"{k} {v:.1%}" for k, v in record["skills"].items() if k in
              ("facts", "terse", "addition") or "@" in k), flush=True)
        self.records[name] = record
        return load_model(model_file, self.device)

    def fine_tune(self, model: Transformer, state: Path, steps: int, seed: int) -> list[dict]:
        """Supervised fine-tuning."""
        s = self.s
        loss = sft_loss(model, self.tokenizer, self.tasks, s.sft_facts, s.sft_sums, s.sft_terse, seed)
        return train(model, muon_and_adamw(model, s.sft_matrix_lr, s.sft_other_lr), loss, steps,
                     lambda i: constant_then_decay(i, steps, n_warmup=2, decay=0.7), "sft", state=state,
                     key=self.key)

    def prefer(self, model: Transformer, state: Path) -> list[dict]:
        """Direct preference optimization on the model's own answers."""
        s = self.s
        pairs = make_pairs(model, self.tokenizer, self.tasks, s.dpo_questions, s.dpo_samples, s.seed)
        if not pairs:
            print("  no preference pairs: the model never answered one question both well and badly, so DPO "
                  "has nothing to learn")
            return []
        print(f"  {len(pairs)} preference pairs, e.g. {pairs[0].chosen!r} over {pairs[0].rejected!r}")
        loss = dpo_objective(model, self.tokenizer, pairs, s.dpo_batch, s.dpo_beta, s.dpo_anchor, s.seed)
        return train(model, [AdamW(model.parameters(), s.dpo_lr)], loss, s.dpo_steps, lambda i: warmup(i, 5),
                     "dpo", state=state, key=self.key)

    def reinforce(self, model: Transformer, state: Path) -> list[dict]:
        """Group relative policy optimization on sums, with replay."""
        s, banned = self.s, set(self.tasks.test_sums)
        policy = grpo_objective(model, self.tokenizer, banned, s.grpo_prompts, s.grpo_group, s.seed)
        remembered = own_answers(model, self.tokenizer, self.tasks, 240, s.seed)
        text = TextBatches(self.tokens, s.replay_rows, 128, s.seed)
        replay = replay_loss(model, self.tokenizer, remembered, s.replay_answers, s.replay_weight, text,
                             s.seed)

        def loss_of(step):
            loss, numbers = policy(step)
            return loss + replay(step), numbers

        def scale_of(step):
            return min(warmup(step, 10), 0.1 + 2 * (1 - step / s.grpo_steps))

        return train(model, [AdamW(model.parameters(), s.grpo_lr, betas=(0.9, 0.98))], loss_of, s.grpo_steps,
                     scale_of, "grpo", state=state, key=self.key, save_every=10)


def draw_reward(path: Path, log: list[dict]) -> None:
    """Mean reward of the rollouts during GRPO."""
    axes = new_axes("GRPO: the reward is a verifier, not a teacher", "step", "share of right samples")
    axes.plot([r["step"] for r in log], [r["reward"] for r in log], "o-", color="black", markersize=3)
    axes.set_ylim(0, 1)
    save(axes, path)


def main() -> None:
    """Token initialization, SFT, DPO, GRPO; then the controls and the side branches."""
    s = parse_settings(Settings, __doc__, QUICK)
    course = Course(s, announce("07 alignment", s))
    begin = time.perf_counter()
    base = course.stage("chat_raw", course.base, lambda model, state: [])
    course.stage("token_init", course.base, lambda m, _: initialize_chat_tokens(m, course.tokenizer) or [])

    def with_tokens():
        model = course.base()
        initialize_chat_tokens(model, course.tokenizer)
        return model

    def untrained():
        seed_everything(s.seed)
        return Transformer(base.config).to(course.device)

    def small():
        seed_everything(s.seed)
        return Transformer(student_config(base.config)).to(course.device)

    def fine_tuned(steps: int, seed: int):
        return lambda model, state: course.fine_tune(model, state, steps, seed)

    sft = course.stage("sft", with_tokens, fine_tuned(s.sft_steps, s.seed), sampled=True)
    dpo = course.stage("dpo", lambda: copy.deepcopy(sft), course.prefer)
    grpo = course.stage("grpo", lambda: copy.deepcopy(dpo), course.reinforce, sampled=True)
    course.stage("control_random", untrained, fine_tuned(s.sft_steps, s.seed))
    course.stage("control_more", lambda: copy.deepcopy(sft), fine_tuned(s.grpo_steps, s.seed + 50))
    side = SideBranches(s, course.tokenizer, course.tasks, course.tokens, course.device, course.key)
    course.stage("lora", with_tokens, side.adapt)
    course.stage("ppo", lambda: copy.deepcopy(sft), side.please_raters)
    course.stage("tools", lambda: copy.deepcopy(grpo), side.use_tools(True))
    course.stage("control_tools", lambda: copy.deepcopy(grpo), side.use_tools(False))
    course.stage("refusal", lambda: copy.deepcopy(grpo), side.refuse)
    course.stage("student", small, side.distill("probabilities", grpo))
    course.stage("student_data", small, side.distill("data", grpo))

    hard = next((p for p in course.tasks.test_sums if carries(p) >= 2), course.tasks.test_sums[0])
    asked = [q.text for q in course.tasks.held_out_questions[:3]] + [problem(hard)]
    shown = asked[:-1] + [f"{asked[-1]} (right: {right_answer(hard)})"]
    samples = {name: chat_answers(model, course.tokenizer, asked, 34) for name, model in
               (("pretrained", base), ("sft", sft), ("dpo", dpo), ("grpo", grpo))}
    draw_reward(course.folder / "reward", course.records["grpo"]["log"])
    write_json(course.folder / "metrics.json", {
        "seed": s.seed, "skills": {k: r["skills"] for k, r in course.records.items()},
        "stage_seconds": {k: r["seconds"] for k, r in course.records.items()},
        "logs": {k: r["log"] for k, r in course.records.items() if r["log"]},
        "products": {"grpo": side.products(grpo), **{name: course.records[name]["log"][-1]["products"]
                                                     for name in ("tools", "control_tools")}},
        "refused": course.records["refusal"]["log"][-1]["refused"],
        "samples": [{"question": q, **{k: v[i][0] for k, v in samples.items()}} for i, q in enumerate(shown)],
        "seconds": time.perf_counter() - begin, "settings": asdict(s)})


if __name__ == "__main__":
    run_main(main)
