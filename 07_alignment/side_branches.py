"""The side branches of this chapter: what grows from the models of the main line and leaves them as they are.

Adds to run.py the short stages of the later files: adapters in place of SFT, a learned reward and PPO in
place of DPO, a calculator, a topic that is refused, and a student of a quarter the size. Each is as short as
its row of the scoreboard allows; the studies of those files measure the same at length.

    python 07_alignment/run.py             trains all of them, the main line first
"""
from collections.abc import Callable
from pathlib import Path

import overoptimization
from adamw import AdamW
from distill import Lessons, Plan, distill
from lora import add_lora, merge_lora
from muon import muon_and_adamw
from overoptimization import Experiment
from ppo import Knobs
from preferences import agreement
from red_team import TOPIC, refusal_loss, refusals
from reward_model import accuracy, differences
from schedule import constant_then_decay
from sft import sft_loss
from tasks import Tasks
from tool_use import Lesson, ask, product_item, right, teach, unseen_pairs
from train import train
from transformer import Transformer
from workbench import seed_everything

Work = Callable[[Transformer, Path], list[dict]]   # trains a model in place, resumable; returns the log


class SideBranches:
    """One run: `s` are the settings of run.py, `key` is what its half-finished states are kept under."""

    def __init__(self, s, tokenizer, tasks: Tasks, tokens, device, key: str):
        self.s, self.tokenizer, self.tasks, self.tokens = s, tokenizer, tasks, tokens
        self.device, self.key = device, key

    def adapt(self, model: Transformer, state: Path) -> list[dict]:
        """The loss of SFT with adapters of low rank, merged at the end."""
        s = self.s
        seed_everything(s.seed)   # A starts at random
        parameters = add_lora(model, s.lora_rank)
        loss = sft_loss(model, self.tokenizer, self.tasks, s.sft_facts, s.sft_sums, s.sft_terse, s.seed)
        log = train(model, [AdamW(parameters, s.lora_lr)], loss, s.lora_steps,
                    lambda i: constant_then_decay(i, s.lora_steps, n_warmup=2, decay=0.7), "lora",
                    state=state, key=self.key)
        merge_lora(model)
        return log

    def please_raters(self, model: Transformer, state: Path) -> list[dict]:
        """A reward model from what raters chose, then PPO on it: the last two steps of InstructGPT."""
        s = self.s
        rated = overoptimization.Settings(out=s.out, seed=s.seed, pairs=s.rated, steps=s.reward_steps,
                                          ppo_steps=s.ppo_steps, questions=s.rated // 2)
        try:
            experiment = Experiment(rated, s.seed, self.device)
        except ValueError as error:
            print(f"  no reward model and no PPO: {error}")
            return []
        reward = experiment.reward_model(len(experiment.pairs))
        judged = accuracy(differences(reward, self.tokenizer, experiment.test_pairs))
        before, after = experiment.by_ppo(reward, Knobs(), along=False, policy=model)
        best = experiment.best_of_n(reward, (1, 8))[-1]
        print(f"  ppo: true reward {before['true']:.2f} > {after['true']:.2f} of 3, best of 8 "
              f"{best['true']:.2f}")
        return [{"pairs_right": judged, "raters_right": agreement(experiment.test_pairs, experiment.truths),
                 "before": before, "after": after, "best_of": best}]

    def use_tools(self, tools: bool) -> Work:
        """Products with a calculator, or (the control) without; the log ends with the share of right ones."""
        def work(model, state):
            s, pairs = self.s, unseen_pairs(100, self.s.seed)
            log = teach(model, self.tokenizer, self.tasks, Lesson(use_tools=tools), s.tool_steps,
                        s.tool_matrix_lr, s.tool_other_lr, s.seed, {*pairs, *self.tasks.test_sums},
                        state=state, key=self.key)
            share = self.products(model)
            print(f"  taught {'with' if tools else 'without'} a calculator: {share:.1%} of products right")
            return [*log, {"products": share}]
        return work

    def products(self, model: Transformer) -> float:
        """The share of 100 products that come out right, in conversations with a calculator."""
        items = [product_item(pair) for pair in unseen_pairs(100, self.s.seed)]
        return right(ask(model, self.tokenizer, items), items)

    def refuse(self, model: Transformer, state: Path) -> list[dict]:
        """Refusals of one topic and answers to all else; the log ends with the shares that are refused."""
        s, held_out = self.s, self.tasks.held_out_questions
        forbidden = [q for q in held_out if q.kind == TOPIC]
        allowed = [q for q in held_out if q.kind != TOPIC]
        before = refusals(model, self.tokenizer, forbidden)
        loss = refusal_loss(model, self.tokenizer, self.tasks, set(self.tasks.test_sums), s.seed)
        log = train(model, muon_and_adamw(model, s.refusal_matrix_lr, s.refusal_other_lr), loss,
                    s.refusal_steps, lambda i: constant_then_decay(i, s.refusal_steps, n_warmup=2, decay=0.7),
                    "refusal", state=state, key=self.key)
        after, mistaken = (refusals(model, self.tokenizer, asked) for asked in (forbidden, allowed))
        refused = {"before": before / len(forbidden), "forbidden": after / len(forbidden),
                   "look-alikes": mistaken / len(allowed)}
        print(f"  refused: {refused['forbidden']:.1%} of the forbidden questions, "
              f"{refused['look-alikes']:.1%} of their look-alikes")
        return [*log, {"refused": refused}]

    def distill(self, method: str, teacher: Transformer) -> Work:
        """The training of a student of this teacher by one method of distill.py."""
        plan = Plan(self.s.distill_steps, self.s.distill_sum_steps)
        lessons = Lessons(self.tokenizer, self.tasks.demonstrations, self.tokens, plan, self.s.seed)
        return lambda model, state: distill(model, teacher, lessons, method, state, self.key)
