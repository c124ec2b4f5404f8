"""The models that are examined, and all that is measured of each: as it came, taught to read, fine-tuned.

Adds to rag_exam.py the models. Every number that rag_study.py prints comes from a method of `Exam`.

    python 08_inference/rag_study.py       measures them
"""
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rag_exam
from bm25 import Index
from bpe import Tokenizer
from checkpoint import load_model
from document_reader import teach_reading
from fact_tuning import tune_on_facts
from facts import statement
from rag import ANSWER_TOKENS, new_facts
from rag_exam import PLANTED, Manual, changed, found, marks, of_another, planted, said, shelves, verdicts
from recall import fact_recall
from skills import fact_skill, sum_skill
from tasks import load_tasks
from transformer import Transformer


@dataclass
class Exam:
    """One home of models, its manual, and everything that is measured there."""
    s: Any           # the Settings of rag_study.py
    home: Path
    seed: int

    def __post_init__(self):
        text = self.home / "01_tokenizer"
        self.tokenizer, self.tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
        rng = random.Random(f"manual {self.seed}")
        facts = new_facts(self.tasks, self.s.names, rng)
        self.manual = Manual(facts, [statement(fact, rng) for fact in facts])
        self.moved, self.places = changed(self.manual, self.s.changes, rng)

    def model(self) -> Transformer:
        """The model that chapter 7 left."""
        return load_model(self.home / "07_alignment" / "grpo.pt")

    def row(self, model: Transformer, before: list[str] | None) -> dict:
        """Marks and cost with these texts before the questions."""
        answers, cost = said(model, self.tokenizer, self.manual, before)
        return marks(self.manual, answers) | cost

    def kept(self, model: Transformer) -> dict:
        """What it knew before: names of the standard library, and sums."""
        return {"old facts": fact_skill(model, self.tokenizer, self.tasks.held_out_questions)["facts"],
                "sums": sum_skill(model, self.tokenizer, self.tasks.test_sums[:100])["addition"]}

    def with_texts(self, model: Transformer) -> dict:
        """A model with nothing, with what BM25 finds, with all that fits, and with texts that are wrong."""
        begin = time.process_time()
        index = Index(self.manual.documents)
        indexing = time.process_time() - begin
        room = model.config.max_len - ANSWER_TOKENS - 3 - max(
            len(self.tokenizer.encode("\n" + q.text)) for q in self.manual.asked)
        shelf, per_shelf = shelves(self.tokenizer, self.manual, room)
        rows = {"closed book": self.row(model, None),
                "retrieval": self.row(model, found(index, self.manual)),
                "long context": self.row(model, shelf)}
        asked = self.manual.asked
        other, _ = said(model, self.tokenizer, self.manual, of_another(self.manual))
        wrong = {"another name's document": verdicts(
            self.manual, other, lambda i: asked[(i + 3) % len(asked)].answer)}
        for name, plant in rag_exam.PLANTS.items():
            answers, _ = said(model, self.tokenizer, self.manual, planted(self.manual, plant))
            wrong[name] = verdicts(self.manual, answers, lambda i: PLANTED)
        begin = time.process_time()
        for i in self.places:
            index[i] = self.moved.documents[i]
        updating = (time.process_time() - begin) / len(self.places)
        answers, _ = said(model, self.tokenizer, self.moved, found(index, self.moved))
        return {"rows": rows, "wrong": wrong, "indexing": indexing, "per_shelf": per_shelf,
                "change": self.after_change(answers) | {"seconds": updating}, "kept": self.kept(model)}

    def after_change(self, answers: list[str]) -> dict:
        """Of the names that moved, shares of new and of old answers; of the others, of right ones."""
        def part(manual: Manual, places: list[int]) -> float:
            of = Manual([manual.facts[i] for i in places], [])
            return marks(of, [a for i in places for a in answers[3 * i:3 * i + 3]])["two"]
        others = [i for i in range(len(self.moved.facts)) if i not in self.places]
        return {"new": part(self.moved, self.places), "old": part(self.manual, self.places),
                "others": part(self.moved, others)}

    def reader(self) -> dict:
        """A specialist that is taught to read."""
        model, begin, s = self.model(), time.process_time(), self.s
        teach_reading(model, self.tokenizer, self.tasks, s.reading, s.reading_lr, self.seed)
        return {"seconds": time.process_time() - begin} | self.with_texts(model)

    def tuned(self, as_questions: bool) -> dict:
        """The model after it was trained on the manual, and after it was trained on the changed one."""
        model, s = self.model(), self.s
        spent = []

        def tune(facts: list, steps: int) -> None:
            begin = time.process_time()
            tune_on_facts(model, self.tokenizer, facts, self.tasks, as_questions, steps, s.tuning_lr,
                          self.seed)
            spent.append(time.process_time() - begin)
        tune(self.manual.facts, s.tuning)
        recalled = fact_recall(model, self.tokenizer, [q for q in self.manual.asked if q.kind != "kind"])
        result = {"rows": {"closed book": self.row(model, None)}, "kept": self.kept(model),
                  "recall": recalled}
        tune(self.moved.facts, s.again)
        answers, _ = said(model, self.tokenizer, self.moved, None)
        return result | {"seconds": spent[0], "change": self.after_change(answers) | {"seconds": spent[1]}}

    def parts(self) -> dict[str, Callable[[], dict]]:
        """The cells of the study."""
        return {"as it came": lambda: self.with_texts(self.model()), "reader": self.reader,
                "tuned on documents": lambda: self.tuned(False),
                "tuned on questions": lambda: self.tuned(True)}
