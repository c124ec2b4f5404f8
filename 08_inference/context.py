"""What the words around a question do to one fixed model: examples, their order, an instruction.

Few-shot prompting (Brown et al. 2020) is said to teach without training; the order of the examples alone can
move a model from chance to its best (Lu et al. 2022). Both are tried on held-out questions and sums, on the
model before chat and on the one after, each asked in the form that it knows (model_words.py).

    python 08_inference/context.py         the table, about half a minute; after `make 07`
"""
import itertools
import random
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from arithmetic import Pair, right_answer
from bpe import EOS, Tokenizer
from checkpoint import load_model
from facts import terse
from model_words import conversation, prompt_of
from recall import share
from results_table import mean_and_spread, print_table
from rollout import sample
from tasks import load_tasks
from transformer import Transformer

INSTRUCTION = "Answer in one word. "
Shown = list[tuple[str, str]]   # a question as people write it, and its answer as the model writes it


def prompt(tokenizer: Tokenizer, stage: str, shown: Shown, asked: str, room: int) -> list[int]:
    """Ids of `asked` behind solved examples: earlier turns for a chat model, lines above for the base model.

    Raises ValueError where they are more than `room` tokens.
    """
    if stage == "base":
        own = prompt_of(tokenizer, stage, asked)
        lines = [[*prompt_of(tokenizer, stage, q)[1:], *tokenizer.encode(answer + "\n")]
                 for q, answer in shown]
        ids = [own[0], *itertools.chain(*lines), *own[1:]]
    else:
        ids = conversation(tokenizer, shown, asked, 10**9)
    if len(ids) > room:
        raise ValueError(f"{len(shown)} examples and the question are {len(ids)} tokens, and {room} fit: "
                         "show fewer")
    return ids


def right_share(model: Transformer, tokenizer: Tokenizer, stage: str, shown: Shown,
                asked: list[tuple[str, str]], n_new: int = 16) -> float:
    """The share of (question, answer as the model writes it) that is answered to the letter, greedily."""
    eos, room = tokenizer.special[EOS], model.config.max_len - n_new
    prompts = [prompt(tokenizer, stage, shown, q, room) for q, _ in asked]
    hits = []
    for (_, wanted), [ids] in zip(asked, sample(model, prompts, n_new, eos)):
        said = tokenizer.decode(ids[:-1] if ids[-1] == eos else ids)
        hits.append(said.startswith(wanted) if stage == "base" else said == wanted)   # base does not stop
    return share(hits)


def as_asked(pair: Pair) -> tuple[str, str]:
    """A sum as people write it, and what the model should write."""
    return f"{pair[0]}+{pair[1]}", right_answer(pair)


@dataclass
class Settings(RunSettings):
    """How much to ask."""
    questions: int = setting(30, least=1)   # of each kind
    orders: int = setting(4, least=1)       # orders of the same examples
    shots: int = setting(4, least=1)        # examples


QUICK = dict(questions=3, orders=1, shots=1)


def main() -> None:
    """One row for each model and kind of question."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("08 context", s, cpu_only=True)
    text, rng = Path(s.out, "01_tokenizer"), random.Random(s.seed)
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
    facts = [(q.text, terse(q.answer)) for q in rng.sample(tasks.held_out_questions, s.questions)]
    sums = [as_asked(p) for p in rng.sample(tasks.test_sums, s.questions)]
    solved = {"facts": [(q.text, terse(q.answer)) for q in rng.sample(tasks.train_questions, s.shots)],
              "sums": [as_asked(p) for p, _ in rng.sample(tasks.demonstrations, s.shots)]}
    models = {"base": load_model(Path(s.out, "03_training", "model.pt")),
              "grpo": load_model(Path(s.out, "07_alignment", "grpo.pt"))}
    rows = []
    exams = (("facts", facts), ("sums", sums))
    for (stage, model), (kind, asked) in itertools.product(models.items(), exams):
        other = solved["sums" if kind == "facts" else "facts"]
        orders = [rng.sample(solved[kind], s.shots) for _ in range(s.orders)]
        by_order = [100 * right_share(model, tokenizer, stage, shown, asked) for shown in orders]
        told = [(INSTRUCTION + q, answer) for q, answer in asked]
        cells = [100 * right_share(model, tokenizer, stage, shown, questions) for shown, questions in
                 (([], asked), ([], told), (solved[kind][:1], asked), (other, asked))]
        shown = [f"{c:.1f}" for c in cells]
        if kind == "sums":
            shown[1] = "-"   # a sum behind words is no longer in the form that the model learned
        rows.append([f"{stage}, {kind}", *shown, mean_and_spread(by_order),
                     f"{min(by_order):.1f} to {max(by_order):.1f}"])
    print_table(["% right", "alone", "instruction", "1 example", "other kind", f"{s.shots} examples",
                 "over orders"], rows)
    write_json(Path(s.out, "08_inference", "context.json"), {"seed": s.seed, "rows": rows})


if __name__ == "__main__":
    run_main(main)
