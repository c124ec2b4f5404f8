"""What each stage adds and what it takes away: every model of a run on the same held-out items.

Chapter 7 looks at each stage for what it was made for. Here each is asked for everything: text, facts, sums,
the form of an answer, refusal. Besides what `make` leaves, the model that refuses is rounded to four bits,
to see whether the refusal stays. A mean can stand still while answers change, so items are followed one by
one: how many were right before a stage and wrong after it, and the other way round.

Forgetting: McCloskey and Cohen 1989; in language models: Luo et al. 2023, "An empirical study of catastrophic
forgetting in large language models during continual fine-tuning".

    python 08_inference/forgetting.py      both tables and the figure, two minutes of one core, for all of
                                           out, out/seed1 and out/seed2 that `make seeds` has written
"""
import sys
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import quantize
import red_team
import skills
from arithmetic import problem
from bits_per_byte import bits_per_byte
from bpe import Tokenizer
from cells import Cells
from chat_template import chat_prompt
from checkpoint import load_model
from harness_study import seed_folders
from matrix_figure import draw_matrix
from quantize import load_quantized, quantize_model
from recall import fact_recall, plain_addition, share
from red_team import REFUSAL, TOPIC, replies
from results_table import mean_and_spread, print_table
from skills import ANSWER_TOKENS, SUM_TOKENS, chat_answers
from tasks import Tasks, load_tasks
from token_file import open_tokens
from transformer import Transformer
from verifier import is_right, is_terse, sum_is_right

CODE = [sys.modules[__name__], quantize, red_team, skills]


@dataclass(frozen=True)
class Stage:
    """A model, the stage that it was made from, and its file; without one it is its parent in four bits."""
    name: str
    parent: str
    file: str = ""


STAGES = (Stage("pretrained", "", "03_training/model.pt"),
          Stage("chat tokens", "pretrained", "07_alignment/token_init.pt"),
          Stage("SFT", "chat tokens", "07_alignment/sft.pt"),
          Stage("DPO", "SFT", "07_alignment/dpo.pt"),
          Stage("PPO", "SFT", "07_alignment/ppo.pt"),
          Stage("GRPO", "DPO", "07_alignment/grpo.pt"),
          Stage("tool use", "GRPO", "07_alignment/tools.pt"),
          Stage("refusal", "GRPO", "07_alignment/refusal.pt"),
          Stage("refusal, 4 bits", "refusal"),
          Stage("distilled", "GRPO", "07_alignment/student.pt"),
          Stage("4 bits", "GRPO", "08_inference/model.int4.pt"))

# What is measured, and what a whole unit of it is worth in the colour of the figure: bits should fall, and
# so should refusals of what is allowed.
COLUMNS = {"text, bits": -1.0, "completed": 1.0, "plain sums": 1.0, "modules": 1.0, "kinds": 1.0,
           "parameters": 1.0, "sums": 1.0, "terse": 1.0, "refused": 1.0, "over-refused": -1.0}


@dataclass
class Settings(RunSettings):
    """How much to ask."""
    questions: int = setting(240, least=3)    # held-out questions in the chat form
    completed: int = setting(120, least=1)    # statements to be completed
    sums: int = setting(300, least=1)         # sums, in the chat form and in the plain one
    text: int = setting(20_000, least=300)    # tokens of held-out text


QUICK = dict(questions=6, completed=3, sums=4, text=300)


def measure(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, valid, s: Settings) -> dict:
    """One row: {"shares": a number for each of COLUMNS, "right": {"facts": a bool an item, "sums": ...}}.

    `valid` is the held-out token stream (N,). Parameters of names are what the refusing model must not tell.
    """
    asked, pairs = tasks.held_out_questions[:s.questions], tasks.test_sums[:s.sums]
    said = [a[0] for a in chat_answers(model, tokenizer, [q.text for q in asked], ANSWER_TOKENS)]
    told = replies(model, tokenizer, [chat_prompt(tokenizer, q.text) for q in asked])
    facts = [is_right(a, q.answer) for a, q in zip(said, asked)]
    added = [a[0] for a in chat_answers(model, tokenizer, [problem(p) for p in pairs], SUM_TOKENS)]
    sums = [sum_is_right(a, p) for a, p in zip(added, pairs)]
    stream = valid[:s.text]
    n_bytes = round(tasks.held_out_bytes * len(stream) / len(valid))   # its share of the whole, about
    shares = {"text, bits": bits_per_byte(model, stream, n_bytes),
              "completed": fact_recall(model, tokenizer, tasks.held_out_questions[:s.completed]),
              "plain sums": plain_addition(model, tokenizer, pairs),
              **{f"{kind}s": share([r for r, q in zip(facts, asked) if q.kind == kind])
                 for kind in ("module", "kind", "parameter")},
              "sums": share(sums), "terse": share([is_terse(a) for a in said]),
              "refused": share([t == REFUSAL for t, q in zip(told, asked) if q.kind == TOPIC]),
              "over-refused": share([t == REFUSAL for t, q in zip(told, asked) if q.kind != TOPIC])}
    return {"shares": shares, "right": {"facts": facts, "sums": sums}}


def moved(before: list[bool], after: list[bool]) -> tuple[float, float]:
    """Shares of all items that a stage lost (right before, wrong after) and won."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} items before and {len(after)} after: ask both the same")
    return (share([b and not a for b, a in zip(before, after)]),
            share([a and not b for b, a in zip(before, after)]))


def changes(rows: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """For each stage with a parent the mean over seeds of what it changed in each column."""
    return {stage.name: {c: sum(r["shares"][c] - p["shares"][c] for r, p in zip(rows[stage.name],
                                                                                rows[stage.parent]))
                         / len(rows[stage.name]) for c in COLUMNS} for stage in STAGES if stage.parent}


def file_of(home: Path, stage: Stage) -> Path:
    """The file of a stage, or of the stage that it is rounded from."""
    return home / (stage.file or next(t.file for t in STAGES if t.name == stage.parent))


def load_stage(home: Path, stage: Stage) -> Transformer:
    """The model of a stage. Raises FileNotFoundError where `make` has not left it."""
    path = file_of(home, stage)
    model = (load_quantized if "int4" in path.name else load_model)(path)
    return model if stage.file else quantize_model(model)


def fill(home: Path, cells: Cells, s: Settings) -> dict[str, dict]:
    """All rows of one folder."""
    text = home / "01_tokenizer"
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
    valid, rows = open_tokens(text / "valid.bin"), {}
    amounts = {k: getattr(s, k) for k in QUICK}
    for stage in STAGES:
        data = content_hash(file_of(home, stage), text / "tasks.json", text / "valid.bin")
        cell = {"stage": stage.name, "data": data, **amounts}
        rows[stage.name] = cells.get(cell, lambda stage=stage: measure(load_stage(home, stage), tokenizer,
                                                                       tasks, valid, s))
        print(f"  {home}: {stage.name}", flush=True)
    return rows


def shown(column: str, values: list[float]) -> str:
    """Bits with two digits, shares in %."""
    return mean_and_spread(values, 2) if "bits" in column else \
        mean_and_spread([100 * v for v in values], 0)


def draw(path: Path, rows: dict[str, list[dict]]) -> None:
    """What each stage changed of the model that it began with."""
    made, levels = changes(rows), rows["pretrained"]
    good = [[COLUMNS[c] * x for c, x in row.items()] for row in made.values()]
    texts = [[f"{x:+.2f}" if "bits" in c else f"{round(100 * x):+d}" for c, x in row.items()]
             for row in made.values()]
    first = [shown(c, [r["shares"][c] for r in levels]).split(" ±")[0] for c in COLUMNS]
    labels = [f"{stage.name}\n(from {stage.parent})" for stage in STAGES if stage.parent]
    draw_matrix(path, f"What each stage changes, points of 100; mean of {len(levels)} seeds",
                ["pretrained: level", *labels], [c.replace(", ", ",\n") for c in COLUMNS],
                [[float("nan")] * len(COLUMNS), *good], [first, *texts], 9, 5.6)


def main() -> None:
    """All models of all seeds that are there; levels, items lost and won, the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("08 forgetting", s, cpu_only=True)
    out = Path(s.out)
    cells = Cells(out / "study" / "forgetting", CODE)
    homes = [home for home in seed_folders(out) if (home / "08_inference" / "model.int4.pt").exists()]
    if not homes:
        raise ValueError(f"{out} has no finished run: run `make` first")
    filled = [fill(home, cells, s) for home in homes]
    rows = {stage.name: [f[stage.name] for f in filled] for stage in STAGES}
    print_table([f"{len(homes)} seeds, %", *COLUMNS],
                [[name, *(shown(c, [r["shares"][c] for r in got]) for c in COLUMNS)]
                 for name, got in rows.items()])
    table = []
    for stage in (t for t in STAGES if t.parent):
        both = [[moved(p["right"][k], r["right"][k]) for p, r in zip(rows[stage.parent], rows[stage.name])]
                for k in ("facts", "sums")]
        table.append([f"{stage.name}, from {stage.parent}", *(
            mean_and_spread([100 * x[i] for x in part], 1) for part in both for i in (0, 1))])
    print_table(["of all items, %", "facts lost", "won", "sums lost", "won"], table)
    draw(out / "08_inference" / "forgetting", rows)
    write_json(out / "08_inference" / "forgetting.json", {"seed": s.seed, "rows": {
        name: [r["shares"] for r in got] for name, got in rows.items()}})


if __name__ == "__main__":
    run_main(main)
