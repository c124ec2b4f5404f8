"""Data that a model makes for itself: questions from documents, answers kept where the document agrees.

24 rows by people to begin with. The model that learned them reads documents of the pretraining text and
writes questions to each (Wang et al. 2023, "Self-Instruct"); copies and questions that the document does not
answer go. It answers from memory, several times, and a program reads in the document which answer is right:
rejection sampling (Zelikman et al. 2022, "STaR"; Yuan et al. 2023, "RFT"). The test asks about other names.

    python 07_alignment/synthetic.py       against unverified samples and without people; after `make 03`
"""
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np
import torch

import rollout
import sft
import transformer
from bpe import BOT, EOS, USER, Tokenizer
from cells import Cells
from chat_template import answer_batch, answer_ids, chat_prompt, load_chat_base, pad_id
from cross_entropy import cross_entropy
from facts import Fact, Question, questions, terse, verbose
from muon import muon_and_adamw
from recall import plain_answers, share
from results_table import mean_and_spread, print_table
from rollout import sample
from schedule import constant_then_decay
from skills import ANSWER_TOKENS, chat_answers, fact_skill
from tasks import load_tasks
from token_file import open_tokens
from train import train
from transformer import Transformer
from verifier import is_right

Row = tuple[list[int], list[int]]   # ids that are given, ids to learn
STATED = {"module": (r"The module of (\w+) is ([\w.]+)", r"(\w+) is found in ([\w.]+)",
                     r"(\w+) belongs to the module ([\w.]+)", r"You get (\w+) from ([\w.]+)"),
          "kind": (r"The kind of (\w+) is (\w+)", r"(\w+) is of kind (\w+)"),
          "parameter": (r"The first parameter of (\w+) is (\w+)", r"(\w+) takes (\w+) first")}
ASKED = {"module": r"Which module has (\w+)\?", "kind": r"What kind is (\w+)\?",
         "parameter": r"What is the first parameter of (\w+)\?"}


def facts_in(document: str) -> dict[tuple[str, str], str]:
    """What a document states: {(name, kind of question): answer}, {("loads", "module"): "json"}."""
    return {(name, kind): answer for kind, forms in STATED.items() for form in forms
            for name, answer in re.findall(form + r"\.(?= |$)", document)}


def asked_by_program(document: str) -> list[Question]:
    """The three questions about the one name of a document, with its answers: nobody writes, and no model."""
    stated = facts_in(document)
    name = next(iter(stated))[0]
    return questions(Fact(name, *(stated[name, kind] for kind in STATED)))


def subject(question: str) -> tuple[str, str] | None:
    """What is asked, as a key of `facts_in`; None if it is no question that can be judged."""
    found = [(m[1], kind) for kind, form in ASKED.items() if (m := re.fullmatch(form, question))]
    return found[0] if found else None


def verified(question: str, answer: str, document: str) -> bool:
    """The document answers the question, and the answer is that, in one of the two accepted forms."""
    about = subject(question)
    truth = facts_in(document).get(about) if about else None
    return truth is not None and is_right(answer, truth)


def keep_verified(answers: list[list[str]], right: list[list[bool]], k: int) -> list[list[str]]:
    """For each question the first `k` different answers that were verified; ValueError if k is below 1.

    Samples of one model come in no order, so the first are a fair choice; the shortest would not be. The
    limit keeps easy questions, answered rightly each time, from filling the data (Yuan et al. 2023).
    """
    # EXERCISE 7.17 rejection sampling
    if k < 1:
        raise ValueError(f"at most {k} answers to a question: give 1 or more")
    kept = []
    for tried, verdicts in zip(answers, right):
        accepted = [answer for answer, ok in zip(tried, verdicts) if ok]
        kept.append(list(dict.fromkeys(accepted))[:k])   # a dictionary keeps the order, a set does not
    return kept
    # END EXERCISE 7.17


def rouge_l(a: Sequence, b: Sequence) -> float:
    """ROUGE-L of two sequences (Lin 2004, section 3): F1 of their longest common subsequence, 0 to 1."""
    row = [0] * (len(b) + 1)   # row[j]: the longest one of what has been read of a, and b[:j]
    for x in a:
        diagonal = 0
        for j, y in enumerate(b):
            diagonal, row[j + 1] = row[j + 1], diagonal + 1 if x == y else max(row[j], row[j + 1])
    return 2 * row[-1] / max(len(a) + len(b), 1)


def without_copies(questions: Sequence[Sequence], threshold: float,
                   known: Sequence[Sequence] = ()) -> list[int]:
    """Which to keep, in order: those below `threshold` to all `known` ones and to all kept before."""
    kept: list[int] = []
    for i, q in enumerate(questions):
        if all(rouge_l(q, other) < threshold for other in [*known, *(questions[j] for j in kept)]):
            kept.append(i)
    return kept


def verified_pairs(made: dict) -> list[tuple[str, str]]:
    """(question, answer) of a round: one verified answer to each question that has one."""
    kept = keep_verified(made["answers"], made["right"], 1)
    return [(q, a) for q, some in zip(made["questions"], kept) for a in some]


def documents_of(tokens: np.ndarray, tokenizer: Tokenizer) -> dict[str, str]:
    """The first document of the pretraining stream about each name."""
    found: dict[str, str] = {}
    ends = np.flatnonzero(tokens == tokenizer.special[EOS])
    for begin, end in zip(ends, ends[1:]):
        text = tokenizer.decode(tokens[begin + 1:end].tolist()) if end - begin < 200 else ""
        names = {name for name, _ in facts_in(text)}
        if len(names) == 1 and len(facts_in(text)) == 3:
            found.setdefault(names.pop(), text)
    return found


@dataclass
class Settings(RunSettings):
    """How much is made, and how long a model learns from it."""
    human: int = setting(8, least=1)      # names that people have asked about, three rows each
    asked: int = 10                       # questions written to each document
    samples: int = setting(8, least=2)    # answers to each question
    copies: float = setting(1.0, above=0, most=1)   # ROUGE-L from which a question is a copy of another
    steps: int = 40                       # optimizer steps of every model
    seeds: int = 3                        # whole repetitions


class Maker:
    """One seed: the base model, the rows by people, and the documents to make more from."""

    def __init__(self, s: Settings, seed: int, device):
        self.s, self.seed, self.device = s, seed, device
        text = Path(s.out, "01_tokenizer")
        self.tokenizer, self.tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        stated = documents_of(open_tokens(text / "train.bin"), self.tokenizer)
        rng = random.Random(f"synthetic {seed}")
        asked_about = dict.fromkeys(about[0] for q in self.tasks.train_questions
                                    if (about := subject(q.text)))
        names = [n for n in asked_about if n in stated]
        if len(names) <= s.human:
            raise ValueError(f"{s.human} names asked about by people of {len(names)} in the text: "
                             "give fewer with --human")
        rng.shuffle(names)
        self.known = {n: stated[n] for n in names[:s.human]}
        self.documents = [stated[n] for n in names[s.human:]]

    def base(self) -> Transformer:
        """The model that everything begins with."""
        return load_chat_base(self.s.out, self.tokenizer, self.device)

    def by_people(self, only_known: bool) -> list[tuple[str, str]]:
        """Questions with right answers, half of them wordy."""
        rng = random.Random(f"people {self.seed}")
        return [(q.text, rng.choice([terse, verbose])(q.answer)) for q in self.tasks.train_questions
                if not only_known or (about := subject(q.text)) and about[0] in self.known]

    def tuned(self, shown: list[tuple[str, str]], label: str,
              asked: list[tuple[str, str]] | None = None) -> Transformer:
        """The base after learning to answer these, and to ask as people did about the known documents.

        `asked`: other documents and questions to learn asking from.
        """
        t, pad, model = self.tokenizer, pad_id(self.tokenizer), self.base()
        answering = [(chat_prompt(t, q), answer_ids(t, a)) for q, a in shown]
        asked = asked or [(self.known[about[0]], q) for q, _ in self.by_people(only_known=True)
                          if (about := subject(q))]
        asking = [(self.reading(d), [*t.encode(q), t.special[BOT]]) for d, q in asked]

        def loss_of(step):
            rng, loss = random.Random(f"synthetic {self.seed} {step}"), 0
            for rows, n in ((answering, 32), (asking, 12)):
                prompts, answers = map(list, zip(*rng.choices(rows, k=n)))
                x, y = answer_batch(prompts, answers, pad)
                loss = loss + cross_entropy(model(x.to(self.device)), y.to(self.device))
            return loss

        train(model, muon_and_adamw(model, 2e-3, 1.5e-3), loss_of, self.s.steps,
              lambda i: constant_then_decay(i, self.s.steps, n_warmup=2, decay=0.7), label)
        return model

    def reading(self, document: str) -> list[int]:
        """Ids of a document behind which a question is to follow."""
        return [self.tokenizer.special[EOS], *self.tokenizer.encode(document), self.tokenizer.special[USER]]

    def round(self, model: Transformer, seed: int) -> dict:
        """Questions, a document and several answers to each, the verdicts, and what the filters leave."""
        t, generator = self.tokenizer, torch.Generator(self.device).manual_seed(seed)
        written = sample(model, [self.reading(d) for d in self.documents], 20, t.special[BOT], 1.0,
                         self.s.asked, generator)
        pairs = [(t.decode(ids[:-1]), d) for group, d in zip(written, self.documents) for ids in group]
        judged = [(q, d) for q, d in pairs if subject(q) in facts_in(d)]
        known = [t.encode(q) for q, _ in self.by_people(only_known=True)]
        kept = without_copies([t.encode(q) for q, _ in judged], self.s.copies, known)
        questions, documents = [judged[i][0] for i in kept], [judged[i][1] for i in kept]
        answers = chat_answers(model, t, questions, ANSWER_TOKENS, 1.0, self.s.samples, generator)
        right = [[verified(q, a, d) for a in group] for q, group, d in zip(questions, answers, documents)]
        counts = {"written": len(pairs), "answerable": len(judged), "no copies": len(kept),
                  "right": sum(map(sum, right)) / max(sum(map(len, right)), 1)}
        return {"questions": questions, "answers": answers, "right": right, "counts": counts}

    def skill(self, model: Transformer) -> float:
        """Held-out names, the share of right answers."""
        return fact_skill(model, self.tokenizer, self.tasks.held_out_questions)["facts"]

    def without_people(self, n: int) -> tuple[dict[str, float], float]:
        """No row by people: the base asked as in its training text, and after `n` rows that a program asks.

        Their answers are those of the documents, or what the base says in the plain form, unverified. Second:
        the share of the latter that is right.
        """
        t, base, rng = self.tokenizer, self.base(), random.Random(f"no people {self.seed}")
        made = [(d, q) for d in self.documents for q in asked_by_program(d)]
        made = rng.sample(made, min(n, len(made)))
        told = [(q.text, rng.choice([terse, verbose])(q.answer)) for _, q in made]
        prompts = [[t.special[EOS], *t.encode(f"Question: {q.text}\nAnswer:")] for _, q in made]
        said = sample(base, prompts, ANSWER_TOKENS, t.special[EOS], 1.0, 1,
                      torch.Generator(self.device).manual_seed(self.seed))
        own = [(q.text, t.decode(ids).removesuffix(EOS)) for (_, q), [ids] in zip(made, said)]
        asked = [(d, q.text) for d, q in made]
        right = share([is_right(a, q.answer) for (_, a), (_, q) in zip(own, made)])
        return {"no rows, asked in the plain form": plain_answers(base, t, self.tasks.held_out_questions),
                "no people: a program's rows": self.skill(self.tuned(told, "program", asked)),
                "no people: the base's own answers": self.skill(self.tuned(own, "own answers", asked))}, right

    def compare(self) -> dict:
        """Every way to get the same number of rows, each beside the 24 by people, from the same base."""
        human = self.by_people(only_known=True)
        first = self.tuned(human, "people")
        made, rng = self.round(first, self.seed), random.Random(f"choice {self.seed}")
        tried = list(zip(made["questions"], made["answers"]))
        kept = verified_pairs(made)
        n, result = len(kept), {"no rows": self.skill(self.base()), "24 by people": self.skill(first)}
        unverified = rng.sample([(q, a) for q, group in tried for a in group], n)
        majority = rng.sample([(q, Counter(group).most_common(1)[0][0]) for q, group in tried], n)
        result["and unverified samples"] = self.skill(self.tuned([*human, *unverified], "unverified"))
        result["and majority answers"] = self.skill(self.tuned([*human, *majority], "majority"))
        better = self.tuned([*human, *kept], "verified")
        result["and verified samples"] = self.skill(better)
        again = self.round(better, self.seed + 1000)
        more = verified_pairs(again)
        result["a second round"] = self.skill(self.tuned([*human, *more], "second round"))
        result["all by people"] = self.skill(self.tuned(self.by_people(only_known=False), "all people"))
        alone, own = self.without_people(len(human) + n)
        rounds = [made["counts"] | {"kept": n}, again["counts"] | {"kept": len(more)}]
        return {"skill": result | alone, "rounds": rounds, "own": own}


def main() -> None:
    """What the filters let through, and what a model learns from it."""
    s = parse_settings(Settings, __doc__, dict(human=2, steps=2, asked=1, samples=2, seeds=1))
    device = announce("07 synthetic data", s)
    cells = Cells(Path(s.out, "study", "synthetic"), [transformer, sft, rollout, sys.modules[__name__]])
    data = content_hash(Path(s.out, "03_training", "model.pt"), Path(s.out, "01_tokenizer", "tasks.json"))
    common = asdict(replace(s, out="", seed=0, seeds=1, quick=False)) | {"data": data}
    got = [cells.get(common | {"seed": seed}, lambda seed=seed: Maker(s, seed, device).compare())
           for seed in range(s.seed, s.seed + s.seeds)]
    print_table(["questions", *got[0]["rounds"][0]], [
        [name, *(mean_and_spread([g["rounds"][i][k] * (100 if k == "right" else 1) for g in got], 0)
                 for k in got[0]["rounds"][0])] for i, name in enumerate(("first round", "second round"))])
    print_table(["learned from", "facts %"], [
        [name, mean_and_spread([100 * g["skill"][name] for g in got])] for name in got[0]["skill"]])
    print(f"  the base's own answers: {mean_and_spread([100 * g['own'] for g in got])}% right")
    write_json(Path(s.out, "07_alignment", "synthetic.json"), {"seed": s.seed, "seeds": got})


if __name__ == "__main__":
    run_main(main)
