"""Four ways to tell a model facts that it has never seen: what each knows, costs, forgets, and believes.

Closed book, retrieval, all that fits into the context, and fine-tuning; for the model as chapter 7 left it,
and for a specialist of the same size that was taught to read (document_reader.py). The facts are names of the
packages that this course installs. Then facts change, and then the document is the wrong one.

    python 08_inference/rag_study.py       some four minutes of one core for each of out, out/seed1 and
                                           out/seed2 that `make seeds` has written
"""
import sys
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, content_hash, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

import bm25
import document_reader
import fact_tuning
import rag
import rag_exam
import rag_models
from cells import Cells
from harness_study import seed_folders
from rag_models import Exam
from rag_tables import show


@dataclass
class Settings(RunSettings):
    """What to ask about, and how long to train."""
    names: int = setting(40, least=2)        # names of packages, three questions about each
    changes: int = setting(10, least=1)      # names that move to another module
    reading: int = setting(340, least=1)     # steps of reading
    reading_lr: float = 0.025                # learning rate of Muon there; AdamW has three quarters of it
    tuning: int = setting(120, least=1)      # steps on the new facts
    tuning_lr: float = 0.01                  # learning rate of Muon there
    again: int = setting(40, least=1)        # steps on the facts after some have changed


QUICK = dict(names=4, changes=1, reading=2, tuning=2, again=2)


# of each part of the study: the settings that it depends on besides names and changes, and the code
READER = ("reading", "reading_lr"), [document_reader]
TUNED = ("tuning", "tuning_lr", "again"), [fact_tuning]
PARTS = {"as it came": ((), []), "reader": READER, "tuned on documents": TUNED, "tuned on questions": TUNED}


def measured(s: Settings, exam: Exam, part: str) -> dict:
    """What a part of the study gave for one home of models, from its cell if it is there."""
    names, code = PARTS[part]
    cells = Cells(Path(s.out, "study", "rag"),
                  [bm25, rag, rag_exam, rag_models, *code, sys.modules[__name__]])
    data = content_hash(exam.home / "07_alignment" / "grpo.pt", exam.home / "01_tokenizer" / "tasks.json")
    sizes = {name: getattr(s, name) for name in ("names", "changes", *names)}
    return cells.get({**sizes, "part": part, "seed": exam.seed, "data": data}, exam.parts()[part])


def main() -> None:
    """Mean and spread over the models that are there."""
    s = parse_settings(Settings, __doc__, QUICK)
    if s.changes >= s.names:
        raise ValueError(f"--changes {s.changes} of --names {s.names}: some names must stay, change fewer")
    torch.set_num_threads(1)
    announce("08 facts that are new", s, cpu_only=True)
    out, results = Path(s.out), {}
    for seed, home in enumerate(seed_folders(out), s.seed):
        exam = Exam(s, home, seed)
        for part in PARTS:
            results.setdefault(part, []).append(measured(s, exam, part))
    show(results)
    write_json(out / "08_inference" / "rag_study.json", {"seed": s.seed, "results": results})


if __name__ == "__main__":
    run_main(main)
