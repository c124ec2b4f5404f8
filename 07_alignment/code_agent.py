"""Post-training for coding in miniature: imitate repairs, then repair by trial, and feed back what broke.

Bugs are split at random into four quarters. A model is *shown* repairs of the first: read, run the tests,
edit, run them again. The second and third have tests and nobody's repair: the model may try them, a quarter a
round, and is paid if the hidden tests pass (GRPO). What broke when the quarter was measured, before it was
tried, decides what is tried more, and repairs that worked are imitated afterwards. The last quarter only
measures, and the control imitates for as many steps without having tried.

    python 07_alignment/code_agent.py      three seeds (make study)
"""
import copy
import random
import statistics
import sys
from collections import Counter
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

import agent_loop
import agent_model
import bpe
import bug_templates
import repair_tasks
import transformer
from adamw import AdamW
from agent_loop import Agent, do_nothing, play, turns_of
from agent_model import act_all, imitation_loss, model_agent, trial_loss
from bpe import Tokenizer
from bug_templates import styled
from cells import Cells
from code_tasks import grade
from evaluate import Score, paired
from figures import GREY, new_axes, save
from muon import muon_and_adamw
from repair_tasks import Bug, Task, all_bugs, make_task
from results_table import mean_and_spread, print_table
from schedule import constant_then_decay
from train import train
from transformer import Config, Transformer
from unified_diff import make_patch

LONGER = "imitation for longer"
CODE = [transformer, bug_templates, repair_tasks, agent_loop, agent_model]


@dataclass
class Settings(RunSettings):
    """How much to imitate and to try."""
    shown_steps: int = 150     # imitation: optimizer steps
    shown_batch: int = setting(16, least=2)     # episodes a step
    rounds: int = setting(1, least=1, most=2)   # of trial, and imitation of what worked
    tried_steps: int = setting(16, least=1)     # trial: optimizer steps a round
    tried_tasks: int = setting(6, least=1)      # tasks a step
    group: int = setting(8, least=2)            # episodes to each
    worked_steps: int = 50     # imitation of what worked: optimizer steps a round
    tests: int = setting(100, least=1)          # tasks to measure on
    seeds: int = 3             # whole repetitions


QUICK = dict(shown_steps=4, shown_batch=4, tried_steps=2, tried_tasks=2, group=2, worked_steps=2, tests=4,
             seeds=1)


def reference(task: Task, slip: str = "") -> Agent:
    """A script that knows the repair: list, read, test, edit, test, submit; with `slip` as its first edit."""
    number = task.bug.line + 1
    line = task.right.split("\n")[task.bug.line]
    edits = [f"replace {task.file} {number} {text}" for text in ([slip] if slip else []) + [line]]
    plan = [f"show {task.file}", "test", *[a for edit in edits for a in (edit, "test")], "submit"]

    def agent(transcript: str) -> str:
        return plan[min(len(turns_of(transcript)), len(plan)) - 1]
    return agent


def demonstrate(bugs: list[Bug], rng: random.Random) -> tuple[str, frozenset[str]]:
    """One repair as a transcript; every fourth has a wrong edit first, which is shown and not imitated."""
    task = draw(bugs, rng)
    others = [b.text for b in all_bugs() if (b.function, b.line) == (task.bug.function, task.bug.line)
              and b != task.bug]
    slip = styled(rng.choice(others), task.style) if others and rng.random() < 0.25 else ""
    wrong = frozenset({f"replace {task.file} {task.bug.line + 1} {slip}"} if slip else ())
    return play(reference(task, slip), task.place()).transcript, wrong


def draw(bugs: list[Bug], rng: random.Random, weights: dict[str, float] | None = None) -> Task:
    """A task with one of these bugs. A kind comes as often as the root of its number, times its weight."""
    counts = Counter(bug.kind for bug in bugs)
    kinds = sorted(counts)
    kind = rng.choices(kinds, [counts[k] ** 0.5 * (weights or {}).get(k, 1.0) for k in kinds])[0]
    return make_task(rng.choice([bug for bug in bugs if bug.kind == kind]), rng)


def quarters(seed: int) -> list[list[Bug]]:
    """All bugs at random in four parts, each kind in equal shares."""
    bugs = random.Random(f"bugs {seed}").sample(all_bugs(), len(all_bugs()))
    bugs.sort(key=lambda bug: bug.kind)
    return [bugs[i::4] for i in range(4)]


class Course:
    """One seed: the split, the tokenizer and the fresh model."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, self.device = s, seed, device
        self.shown, self.second, self.third, self.last = quarters(seed)
        rng = random.Random(f"tokenizer {seed}")
        self.tokenizer = Tokenizer(bpe.train([demonstrate(self.shown, rng)[0] for _ in range(200)], 432))
        self.own: list[str] = []      # the model's own repairs that worked

    def fresh(self) -> Transformer:
        """Not the model of earlier chapters, whose context is too short: one that knows nothing else."""
        seed_everything(self.seed)
        return Transformer(Config(vocab_size=self.tokenizer.vocab_size, d_model=96, n_layers=3, n_heads=4,
                                  n_kv_heads=4, d_ff=256, max_len=256)).to(self.device)

    def imitate(self, model: Transformer, steps: int, lr: float, label: str) -> None:
        """SFT on demonstrations, and on what worked where there is any."""
        def loss_of(step):
            rng = random.Random(f"{label} {self.seed} {step}")
            rows = [demonstrate(self.shown, rng) for _ in range(self.s.shown_batch)]
            half = self.s.shown_batch // 2
            if self.own:
                rows = rows[half:] + [(t, frozenset()) for t in rng.choices(self.own, k=half)]
            return imitation_loss(model, self.tokenizer, rows)
        train(model, muon_and_adamw(model, lr, lr / 2), loss_of, steps,
              lambda i: constant_then_decay(i, steps, n_warmup=5, decay=0.6), label)

    def try_out(self, model: Transformer, bugs: list[Bug], weights: dict[str, float],
                label: str) -> list[dict]:
        """GRPO, paid for what the hidden tests say, with a few demonstrations so as not to forget.

        What worked is kept in `own`.
        """
        s = self.s

        def loss_of(step):
            rng = random.Random(f"{label} {self.seed} {step}")
            tasks = [draw(bugs, rng, weights) for _ in range(s.tried_tasks)]
            places = [task.place() for task in tasks for _ in range(s.group)]
            act_all(model, self.tokenizer, places, 1.0, self.seed * 1_000_003 + step)
            paid = [float(tasks[i // s.group].solved(place)) for i, place in enumerate(places)]
            self.own += [p.transcript for p, reward in zip(places, paid, strict=True)
                         if reward and not p.malformed]
            rewards = torch.tensor(paid).view(s.tried_tasks, s.group)
            held = imitation_loss(model, self.tokenizer, [demonstrate(self.shown, rng) for _ in range(4)])
            loss = trial_loss(model, self.tokenizer, [p.transcript for p in places], rewards)
            return loss + 0.3 * held, {"reward": rewards.mean().item()}
        return train(model, [AdamW(model.parameters(), 5e-4, betas=(0.9, 0.98))], loss_of, s.tried_steps,
                     lambda i: constant_then_decay(i, s.tried_steps, n_warmup=3, decay=0.6), label)

    def measure(self, model: Transformer, bugs: list[Bug], salt: str) -> dict:
        """Greedy episodes on these bugs: which were solved, steps, malformed actions, and what broke."""
        rng = random.Random(f"measure {salt} {self.seed}")
        tasks = [draw(bugs, rng) for _ in range(self.s.tests)]
        places = [task.place() for task in tasks]
        act_all(model, self.tokenizer, places)
        solved = [task.solved(place) for task, place in zip(tasks, places, strict=True)]
        broke = Counter(task.bug.kind for task, done in zip(tasks, solved, strict=True) if not done)
        n = len(tasks)
        return {"solved": sum(solved) / n, "each": solved, "steps": sum(p.steps for p in places) / n,
                "malformed": sum(p.malformed for p in places) / n, "broke": broke,
                "asked": Counter(task.bug.kind for task in tasks),
                "ways": Counter(map(how_it_ended, tasks, places))}


def how_it_ended(task: Task, place: agent_loop.Repository) -> str:
    """In a word: repaired, or what broke."""
    if task.solved(place):
        return "repaired"
    if not place.submitted:
        return "never submitted"
    if place.files == task.files:
        return "nothing changed"
    found, was = (text.split("\n") for text in (place.files[task.file], task.wrong))
    return "wrong text" if found[task.bug.line] != was[task.bug.line] else "wrong place"


def one_seed(s: Settings, seed: int, device) -> dict:
    """Imitation; rounds of trial and of imitating what worked; imitation alone for as long: rows by stage."""
    course, rows, rewards = Course(s, seed, device), {}, []
    model = course.fresh()

    def note(name: str, agent: Transformer) -> None:
        rows[name] = course.measure(agent, course.last, "last")
    course.imitate(model, s.shown_steps, 1e-2, "imitate")
    note("imitation", model)
    longer = copy.deepcopy(model)
    course.imitate(longer, s.worked_steps * s.rounds, 3e-3, "imitate on")
    note(LONGER, longer)
    for i, unmet in enumerate((course.second, course.third)[:s.rounds], 1):
        rows[f"before round {i}"] = met = course.measure(model, unmet, f"before round {i}")
        weights = {kind: 0.25 + met["broke"][kind] / n for kind, n in met["asked"].items()}
        tried = course.second if i == 1 else course.second + course.third
        rewards += course.try_out(model, tried, weights, f"try {i}")
        note(f"trial {i}", model)
        course.imitate(model, s.worked_steps, 3e-3, f"imitate {i}")
        note(f"what worked {i}", model)
    tasks = [draw(course.last, random.Random(f"grade {seed} {i}")) for i in range(min(8, s.tests))]
    grades = {name: sum(graded(task, make(task)) for task in tasks) / len(tasks) for name, make in (
        ("script", reference), ("does nothing", lambda task: do_nothing),
        ("model", lambda task: model_agent(model, course.tokenizer)))}
    grades["model, quick verdict"] = sum(
        task.solved(play(model_agent(model, course.tokenizer), task.place())) for task in tasks) / len(tasks)
    return {"rows": rows, "grades": grades, "rewards": [r["reward"] for r in rewards], "own": len(course.own)}


def first_and_last_rewards(found: list[dict]) -> tuple[list[float], list[float]]:
    """By seed the mean reward, in percent, over the first and over the last quarter of its steps of trial."""
    rewards = [r["rewards"] for r in found]
    n = max(1, len(rewards[0]) // 4)
    return [100 * statistics.fmean(r[:n]) for r in rewards], [100 * statistics.fmean(r[-n:]) for r in rewards]


def graded(task: Task, agent: Agent) -> bool:
    """Let an agent work, and grade the difference it submits as SWE-bench does."""
    place = play(agent, task.place())
    return place.submitted and grade(task.instance(), make_patch(task.files, place.files)).resolved


def gain(found: list[dict], one: str, other: str) -> str:
    """By how many points `one` repairs more than `other` of the same tasks: over all tasks, and by seed."""
    gains = [paired(*(Score.of(r["rows"][name]["each"]) for name in (one, other))) for r in found]
    tasks, seeds = Score.of([x for g in gains for x in g.items]), Score.of([g.mean for g in gains])
    each = ", ".join(f"{100 * g.mean:+.0f}" for g in gains)
    return f"{100 * tasks.mean:+.1f} ± {100 * tasks.error:.1f} points on {len(tasks.items)} tasks" + (
        f"; by seed {each}, ± {100 * seeds.error:.1f}" if len(gains) > 1 else "")


def draw_stages(path: Path, found: list[dict]) -> None:
    """Share of the last quarter that is repaired after each stage, a line for each seed."""
    axes = new_axes("Repairing bugs that nobody showed and that were never tried", "",
                    "share of the last quarter repaired")
    stages = ["imitation", *(name for name in found[0]["rows"] if name.startswith(("trial", "what worked")))]
    for i, (result, marker) in enumerate(zip(found, "os^vD*" * len(found), strict=False)):
        solved = {name: row["solved"] for name, row in result["rows"].items()}
        axes.plot(range(len(stages)), [solved[name] for name in stages], f"{marker}-", color="black",
                  linewidth=1, markersize=5, label=None if i else "trial, then what worked")
        axes.plot([0, len(stages) - 1], [solved["imitation"], solved[LONGER]], f"{marker}:", color=GREY,
                  mfc="white", markersize=5, label=None if i else f"{LONGER} (a marker for each seed)")
    axes.set_xticks(range(len(stages)), [name.replace("what ", "what\n") for name in stages])
    axes.set_xlim(-0.15, len(stages) - 0.85)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8)
    save(axes, path)


def main() -> None:
    """The whole loop for each seed, the table and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    device = announce("07 code agent", s)
    cells = Cells(Path(s.out, "study", "code_agent"), [*CODE, sys.modules[__name__]])
    seeds = range(s.seed, s.seed + s.seeds)
    common = asdict(replace(s, out="", seed=0, seeds=1, quick=False))
    found = [cells.get(common | {"seed": seed}, lambda seed=seed: one_seed(s, seed, device))
             for seed in seeds]

    def over(name: str, what: str, digits: int = 1, times: float = 100) -> str:
        return mean_and_spread([times * r["rows"][name][what] for r in found], digits)
    names = [name for name in found[0]["rows"] if not name.startswith("before")]
    print_table(("the last quarter", "repaired, %", "steps", "malformed"),
                [(name, over(name, "solved"), over(name, "steps", 1, 1), over(name, "malformed", 2, 1))
                 for name in names])
    for name in names[2:]:
        print(f"  {name} against {LONGER}: {gain(found, name, LONGER)}")
    for name in ("imitation", names[-1]):
        ways = sum((Counter(r["rows"][name]["ways"]) for r in found), Counter())
        print(f"  {name}: " + ", ".join(f"{way} {n}" for way, n in ways.most_common()))
    print("  paid for, first and last quarter of the trial, %: "
          + ", ".join(map(mean_and_spread, first_and_last_rewards(found))))
    verdicts = [r["grades"] for r in found]
    print("  SWE-bench's grade on instances of the last quarter, %:\n    " + ", ".join(
        f"{who} {mean_and_spread([100 * v[who] for v in verdicts])}" for who in verdicts[0]))
    draw_stages(Path(s.out, "07_alignment", "code_agent"), found)
    write_json(Path(s.out, "07_alignment", "code_agent.json"),
               {"seed": s.seed, "found": found, "settings": asdict(s)})


if __name__ == "__main__":
    run_main(main)
