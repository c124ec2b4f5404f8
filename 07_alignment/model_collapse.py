"""What becomes of a model that is trained on what it wrote itself, five times over.

Adds to synthetic.py the case without a filter. Each generation is the same pretrained model, fine-tuned on
questions and answers that the one before wrote (Shumailov et al. 2024: rare things are lost first); or on
those of *all* before it, people's included (Gerstgrasser et al. 2024: then the damage stays bounded); or on
those that the documents confirm.

    python 07_alignment/model_collapse.py      three seeds; after `make 03`, some minutes (make study)
"""
import random
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import rollout
import sft
import transformer
from bpe import BOT, EOS, USER, Tokenizer
from cells import Cells
from chat_template import answer_batch, load_chat_base, pad_id
from cross_entropy import cross_entropy
from facts import terse, verbose
from figures import GREY, new_axes, save
from imitation_or_reward import entropy
from muon import muon_and_adamw
from results_table import mean_and_spread, print_table
from rollout import sample
from schedule import constant_then_decay
from synthetic import documents_of, facts_in, subject
from tasks import Tasks, load_tasks
from token_file import open_tokens
from train import train
from transformer import Transformer
from verifier import is_right

WAYS = ("replaced", "accumulated", "verified")


def bits_of(things: list) -> float:
    """Bits of the distribution of what is in a list: 0 if all are equal, log2 of their number if none are."""
    return entropy([count / len(things) for count in Counter(things).values()])


def diversity(dialogues: list[tuple[str, str]], truths: dict[tuple[str, str], str]) -> dict[str, float]:
    """How varied and how right: of all questions the share about something that is known; of these the rest.

    "questions" and "answers" count distinct ones, "bits" are those of the names, "right" is a share.
    """
    asked = [(about, a) for q, a in dialogues if (about := subject(q)) and about in truths]
    right = [is_right(a, truths[about]) for about, a in asked]
    return {"well formed": len(asked) / max(len(dialogues), 1),
            "questions": len({about for about, _ in asked}),
            "bits": bits_of([about[0] for about, _ in asked]), "answers": len({a for _, a in asked}),
            "right": sum(right) / max(len(right), 1)}


@dataclass
class Settings(RunSettings):
    """How much each generation writes and learns."""
    generations: int = setting(5, least=1)   # models that learn from the one before
    dialogues: int = setting(320, least=1)   # questions with answers that each one writes
    steps: int = 24                          # optimizer steps of each, 32 dialogues a step
    seeds: int = 3                           # whole repetitions


class Lineage:
    """One seed: where every generation starts, what people wrote, and what is true."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, self.device, text = s, seed, device, Path(s.out, "01_tokenizer")
        self.tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        self.truths = {}
        for document in documents_of(open_tokens(text / "train.bin"), self.tokenizer).values():
            self.truths |= facts_in(document)
        self.people = by_people(tasks, s.dialogues, seed)

    def learn(self, dialogues: list[tuple[str, str]], generation: int) -> Transformer:
        """The pretrained model after some steps on these, questions included: it is to ask and to answer."""
        t, pad = self.tokenizer, pad_id(self.tokenizer)
        model = load_chat_base(self.s.out, t, self.device)
        begin = [t.special[EOS], t.special[USER]]
        rows = [[*t.encode(q), t.special[BOT], *t.encode(a), t.special[EOS]] for q, a in dialogues]

        def loss_of(step):
            some = random.Random(f"collapse {self.seed} {generation} {step}").choices(rows, k=32)
            x, y = answer_batch([begin] * len(some), some, pad)
            return cross_entropy(model(x.to(self.device)), y.to(self.device))

        train(model, muon_and_adamw(model, 2e-3, 1.5e-3), loss_of, self.s.steps,
              lambda i: constant_then_decay(i, self.s.steps, n_warmup=2, decay=0.7),
              f"generation {generation}")
        return model

    def write(self, model: Transformer, generation: int) -> list[tuple[str, str]]:
        """What the model asks and answers at temperature 1, as text; without <|bot|> there is no answer."""
        t = self.tokenizer
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + generation)
        [written] = sample(model, [[t.special[EOS], t.special[USER]]], 40, t.special[EOS], 1.0,
                           self.s.dialogues, generator)
        dialogues = []
        for ids in written:
            at = ids.index(t.special[BOT]) if t.special[BOT] in ids else len(ids)
            answer = ids[at + 1:-1] if ids[-1] == t.special[EOS] else ids[at + 1:]
            dialogues.append((t.decode(ids[:at]), t.decode(answer)))
        return dialogues

    def confirmed(self, dialogues: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those whose answer is right, by the documents."""
        return [(q, a) for q, a in dialogues if is_right(a, self.truths.get(subject(q), "?"))]

    def descend(self, way: str) -> list[dict]:
        """The diversity of what people wrote, and of what each generation wrote.

        A generation of which nothing is confirmed leaves the data as they are.
        """
        data, points = list(self.people), [diversity(self.people, self.truths)]
        for generation in range(1, self.s.generations + 1):
            written = self.write(self.learn(data, generation), generation)
            points.append(diversity(written, self.truths))
            chosen = self.confirmed(written) if way == "verified" else written
            data = data + chosen if way == "accumulated" else chosen or data
        return points


def by_people(tasks: Tasks, n: int, seed: int) -> list[tuple[str, str]]:
    """`n` of the training questions with right answers, half of them wordy."""
    rng = random.Random(f"collapse {seed}")
    return [(q.text, rng.choice([terse, verbose])(q.answer)) for q in rng.choices(tasks.train_questions, k=n)]


def draw(path: Path, curves: dict[str, list[list[dict]]]) -> None:
    """Distinct questions by generation, a line for each way and seed."""
    axes = new_axes("Trained on its own output", "generation (0: people)", "different questions it asks")
    styles = (("black", "-"), ("black", ":"), (GREY, "--"))
    for (way, seeds), (color, style) in zip(curves.items(), styles):
        for i, points in enumerate(seeds):
            axes.plot([p["questions"] for p in points], style, color=color, linewidth=1.2, marker="o",
                      markersize=2.5, label=None if i else way)
    axes.set_ylim(0)
    axes.legend(frameon=False, fontsize=8)
    save(axes, path)


def main() -> None:
    """Every generation of every way: a table and a figure."""
    s = parse_settings(Settings, __doc__, dict(generations=2, dialogues=16, steps=2, seeds=1))
    device = announce("07 model collapse", s)
    cells = Cells(Path(s.out, "study", "model_collapse"),
                  [transformer, sft, rollout, sys.modules[__name__]])
    data = content_hash(Path(s.out, "03_training", "model.pt"), Path(s.out, "01_tokenizer", "tasks.json"))
    common = asdict(replace(s, out="", seed=0, seeds=1, quick=False)) | {"data": data}
    curves, made = {way: [] for way in WAYS}, {}
    for seed in range(s.seed, s.seed + s.seeds):
        def descend(way, seed=seed):
            if seed not in made:
                made[seed] = Lineage(s, seed, device)
            return {"it": made[seed].descend(way)}
        for way in WAYS:
            cell = common | {"way": way, "seed": seed}
            curves[way].append(cells.get(cell, lambda way=way, descend=descend: descend(way))["it"])
    shown = [("people", [c[0] for c in curves["replaced"]])] + [
        (f"{way}, generation {g}", [c[g] for c in curves[way]])
        for way in WAYS for g in sorted({1, (s.generations + 1) // 2, s.generations})]
    print_table(["written by", "well formed %", "questions", "bits of names", "answers", "right %"], [
        [name, mean_and_spread([100 * p["well formed"] for p in points], 0),
         mean_and_spread([p["questions"] for p in points], 0),
         mean_and_spread([p["bits"] for p in points], 2),
         mean_and_spread([p["answers"] for p in points], 0),
         mean_and_spread([100 * p["right"] for p in points], 0)] for name, points in shown])
    draw(Path(s.out, "07_alignment", "model_collapse"), curves)
    write_json(Path(s.out, "07_alignment", "model_collapse.json"), {"seed": s.seed, "curves": curves})


if __name__ == "__main__":
    run_main(main)
