"""What the later chapters test and practise on, written once by chapter 1: every stage uses the same split.

    python 01_tokenizer/run.py             writes out/01_tokenizer/tasks.json
"""
from dataclasses import asdict, dataclass
from pathlib import Path

from arithmetic import Pair
from corpus import Corpus
from facts import Question
from workbench import read_json, write_json


@dataclass
class Tasks:
    """Questions and sums to practise on, and others to test on."""
    train_questions: list[Question]
    held_out_questions: list[Question]       # about names that no training question is about
    test_sums: list[Pair]                    # in no training text
    demonstrations: list[tuple[Pair, str]]   # sums with an imperfect teacher's answers
    held_out_bytes: int                      # bytes of the text in valid.bin


def save_tasks(path: Path | str, corpus: Corpus) -> None:
    """Write the tasks of a corpus as JSON, atomically."""
    write_json(path, {
        "train_questions": [asdict(q) for q in corpus.train_questions],
        "held_out_questions": [asdict(q) for q in corpus.held_out_questions],
        "test_sums": corpus.test_sums, "demonstrations": corpus.demonstrations,
        "held_out_bytes": sum(len(text.encode()) for text in corpus.held_out_text)})


def load_tasks(path: Path | str) -> Tasks:
    """Read what save_tasks wrote. Raises ValueError if the file is damaged."""
    data = read_json(path)
    try:
        return Tasks([Question(**q) for q in data["train_questions"]],
                     [Question(**q) for q in data["held_out_questions"]],
                     [tuple(p) for p in data["test_sums"]],
                     [(tuple(p), answer) for p, answer in data["demonstrations"]],
                     data["held_out_bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a task file ({error!r}): delete it and "
                         "run `make 01` again") from None
