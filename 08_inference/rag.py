"""Facts the model has never seen: find the text that has them, put it before the question; does it read?

Adds to bm25.py what it searches: names of the packages that this course installs, described in the
sentences of chapter 1 and cut into chunks; a second way of searching, by the model's own vectors; and the
question that retrieval-augmented generation (Lewis et al. 2020) hangs on: is the answer better with the text?

    python 08_inference/rag.py             which way of searching finds it, half a minute; after `make 07`
"""
import random
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

from bm25 import Index, best_first, fuse
from bpe import Tokenizer
from checkpoint import load_model
from facts import Fact, Question, find_facts, questions, statement
from invented_names import name_in
from recall import share
from results_table import print_table
from scorecard import embed
from skills import chat_answers
from tasks import Tasks, load_tasks
from transformer import Transformer
from verifier import is_right

PACKAGES = """numpy numpy.linalg numpy.fft numpy.random numpy.ma torch.nn torch.nn.functional torch.optim
torch.optim.lr_scheduler torch.distributions torch.utils.data matplotlib.patches matplotlib.ticker
matplotlib.widgets matplotlib.scale matplotlib.dates regex pytest""".split()
ANSWER_TOKENS = 20   # enough for the longest module


def chunks(text: str, size: int, overlap: int) -> list[str]:
    """Windows of `size` words, each of which repeats the last `overlap` words of the one before.

    A fact that a cut goes through is whole in neither half unless the windows overlap.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"an overlap of {overlap} of {size} words: give 0 to {size - 1}")
    parts = text.split()
    starts = range(0, max(len(parts) - overlap, 1), size - overlap)
    return [" ".join(parts[i:i + size]) for i in starts]


@torch.no_grad()
def embed_all(model: Transformer, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """A vector of length 1 for each text, (n, C): the mean of the last layer's vectors."""
    return torch.stack([embed(model, tokenizer, text) for text in texts])


def centred(vectors: Tensor, mean: Tensor) -> Tensor:
    """Vectors (n, C) without what all texts share, of length 1 again (after Mu and Viswanath 2018)."""
    return torch.nn.functional.normalize(vectors - mean, dim=-1)


def holds(chunk: str, q: Question) -> bool:
    """Whether a chunk has one whole sentence that answers the question: it has the name and the answer."""
    name = name_in(q)
    return any(name in s.split() and q.answer in s.split()
               for s in (part.rstrip(".") for part in chunk.split(". ")))


def rankings(model: Transformer, tokenizer: Tokenizer, texts: list[str],
             asked: list[Question]) -> dict[str, list[list[int]]]:
    """For each way of searching, the chunks from best to worst for each question."""
    index = Index(texts)
    vectors = embed_all(model, tokenizer, texts)                                      # (n, C)
    wanted = embed_all(model, tokenizer, [q.text for q in asked])                     # (Q, C)
    near = wanted @ vectors.T                                                         # (Q, n)
    nearer = centred(wanted, wanted.mean(0)) @ centred(vectors, vectors.mean(0)).T    # (Q, n)
    found = {"BM25": [best_first(index.scores(q.text)) for q in asked],
             "own vectors": [best_first(row.tolist()) for row in near],
             "own vectors, centred": [best_first(row.tolist()) for row in nearer]}
    both = zip(found["BM25"], found["own vectors, centred"])
    return found | {"BM25 and centred, fused": [fuse([a, b]) for a, b in both]}


def answered(model: Transformer, tokenizer: Tokenizer, asked: list[Question],
             documents: list[str] | None) -> dict[str, float]:
    """The share of questions answered rightly with its document before each, by kind."""
    prompts = [q.text if documents is None else f"{documents[i]}\n{q.text}" for i, q in enumerate(asked)]
    said = [a[0] for a in chat_answers(model, tokenizer, prompts, ANSWER_TOKENS)]
    right = [is_right(a, q.answer) for a, q in zip(said, asked)]
    return {kind: share([r for r, q in zip(right, asked) if q.kind == kind])
            for kind in ("module", "kind", "parameter")}


def new_facts(tasks: Tasks, n: int, rng: random.Random) -> list[Fact]:
    """Facts about `n` names of packages that `tasks` know nothing of."""
    known = {name_in(q).lower() for q in tasks.train_questions + tasks.held_out_questions}
    return find_facts(n, rng, PACKAGES, known)


def material(tasks: Tasks, n: int, rng: random.Random) -> tuple[list[str], list[Question]]:
    """`n` documents, each about one name that `tasks` know nothing of, and three questions about each."""
    facts = new_facts(tasks, n, rng)
    return [statement(fact, rng) for fact in facts], [q for fact in facts for q in questions(fact)]


def retrieval(model: Transformer, tokenizer: Tokenizer, tasks: Tasks, n: int, seed: int) -> dict[str, float]:
    """For the scoreboard: shares of questions whose document comes first, and of right answers with it.

    Answers count modules and parameters: three kinds of name can be guessed. "wrong" has another name's
    document before the question.
    """
    documents, asked = material(tasks, n, random.Random(seed))
    found = rankings(model, tokenizer, documents, asked)
    first = {way: share([holds(documents[order[0]], q) for order, q in zip(found[way], asked)])
             for way in ("BM25", "own vectors")}
    before = {"closed": None, "found": [documents[order[0]] for order in found["BM25"]],
              "wrong": [documents[(i // 3 + 1) % n] for i in range(len(asked))]}
    answers = {name: answered(model, tokenizer, asked, d) for name, d in before.items()}
    return {"bm25": first["BM25"], "vectors": first["own vectors"], "chance": 1 / n,
            **{name: (r["module"] + r["parameter"]) / 2 for name, r in answers.items()}}


@dataclass
class Settings(RunSettings):
    """What to search and what to ask."""
    names: int = setting(80, least=3)        # names of packages, three questions about each
    size: int = setting(16, least=2)         # words of a window
    overlap: int = setting(8, least=0)       # words that neighbouring windows share


QUICK = dict(names=4)


def main() -> None:
    """Who finds the chunk that has the answer."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("08 retrieval", s, cpu_only=True)
    text, rng = Path(s.out, "01_tokenizer"), random.Random(s.seed)
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
    model = load_model(Path(s.out, "07_alignment", "grpo.pt"))
    documents, asked = material(tasks, s.names, rng)
    manual = " ".join(documents)
    table = []
    for name, texts in (("a name each", documents), (f"{s.size} words", chunks(manual, s.size, 0)),
                        (f"{s.size} words, {s.overlap} shared", chunks(manual, s.size, s.overlap))):
        possible = share([any(holds(t, q) for t in texts) for q in asked])
        for way, found in rankings(model, tokenizer, texts, asked).items():
            hits = [share([any(holds(texts[i], q) for i in order[:k]) for order, q in zip(found, asked)])
                    for k in (1, 3)]
            shown = [f"{100 * x:.1f}" for x in (*hits, possible)]
            table.append([f"{name}, {len(texts)} chunks", way, *shown])
    print_table(["chunks", "way", "in the first %", "in the first three %", "in any %"], table)
    write_json(Path(s.out, "08_inference", "rag.json"), {"seed": s.seed, "found": table})


if __name__ == "__main__":
    run_main(main)
