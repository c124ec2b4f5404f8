"""Benchmarks in their published file formats: multiple choice, exact answers, programs with tests.

Every row is checked when it is read: a row that is not what the format says ends in one sentence with its
number, because a benchmark with one wrong key gives a wrong score without a word.

Sources: Hendrycks et al. 2021 (MMLU); Zellers et al. 2019 (HellaSwag); Cobbe et al. 2021 (GSM8K); Chen et al.
2021 (HumanEval); Austin et al. 2021 (MBPP).
Used by evaluate.py; small sets of our own are in 06_data/sets/.
"""
import ast
import builtins
import csv
import gzip
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Choice:
    """A question with its options, as text to be continued."""
    context: str
    options: tuple[str, ...]
    answer: int

    def text(self) -> str:
        """The question with its right answer: what a leak of this item would contain."""
        return self.context + self.options[self.answer]


@dataclass(frozen=True)
class Program:
    """A function to complete and the tests it must pass."""
    task_id: str
    prompt: str
    test: str
    entry_point: str
    solution: str = ""


def _text(path: str | Path) -> str:
    """The file as text, unpacked, without a byte order mark."""
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}): wanted UTF-8, gzip if it says so") from None


def _rows(path: str | Path, **fields: type | tuple[type, ...]) -> list[dict]:
    """The objects of a JSONL file, or of a JSON list, each with these fields of these types."""
    text = _text(path)
    try:
        rows = json.loads(text) if text.lstrip()[:1] == "[" else [json.loads(x) for x in text.split("\n")
                                                                  if x.strip()]
    except (ValueError, RecursionError) as error:   # numbers and brackets without end are no JSON either
        raise ValueError(f"{path} is not one JSON object a line ({error})") from None
    for number, row in enumerate(rows, 1):
        for name, kind in fields.items():
            if not isinstance(row, dict) or name not in row:
                raise ValueError(f"{path}, row {number}: there is no field `{name}`")
            if not isinstance(row[name], kind):
                raise ValueError(f"{path}, row {number}: `{name}` is {row[name]!r:.60}, of the wrong type")
    return rows


def load_mmlu(path: str | Path) -> list[Choice]:
    """MMLU's CSV: question, A, B, C, D, letter; no header."""
    items = []
    try:
        for number, row in enumerate(csv.reader(io.StringIO(_text(path), newline=""), strict=True), 1):
            if not row:
                continue
            if len(row) != 6 or row[5].strip() not in ("A", "B", "C", "D"):
                raise ValueError(f"{path}, row {number}: wanted a question, four options and a letter A to D")
            options = tuple(f" {o}" for o in row[1:5])
            items.append(Choice(f"Question: {row[0]}\nAnswer:", options, "ABCD".index(row[5].strip())))
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file ({error})") from None
    return items


def load_hellaswag(path: str | Path) -> list[Choice]:
    """HellaSwag's JSONL: `ctx`, `endings`, `label`."""
    items = []
    for number, row in enumerate(_rows(path, ctx=str, endings=list, label=(str, int)), 1):
        label = str(row["label"])
        if not all(isinstance(e, str) for e in row["endings"]) or \
                label not in map(str, range(len(row["endings"]))):
            raise ValueError(f"{path}, row {number}: wanted texts as `endings` and the number of one "
                             f"as `label`, which is {label!r}")
        items.append(Choice(row["ctx"].rstrip(), tuple(f" {e.lstrip()}" for e in row["endings"]), int(label)))
    return items


def load_exact(path: str | Path) -> list[tuple[str, str]]:
    """GSM8K's JSONL: `question`, and `answer` whose last part after '####' counts. [(question, answer)]."""
    return [(row["question"], row["answer"].split("####")[-1].strip())
            for row in _rows(path, question=str, answer=str)]


def load_humaneval(path: str | Path) -> list[Program]:
    """HumanEval's JSONL (also .gz): `task_id`, `prompt`, `test`, `entry_point`, `canonical_solution`."""
    rows = _rows(path, task_id=str, prompt=str, test=str, entry_point=str)
    return [Program(row["task_id"], row["prompt"], row["test"], row["entry_point"],
                    row.get("canonical_solution") or "") for row in rows]


def load_mbpp(path: str | Path) -> list[Program]:
    """MBPP's JSONL, or JSON list where sanitized: `task_id`, `text` or `prompt`, `code`, `test_list`.

    The prompt is the task and its tests as a comment, as in the paper; a completion is the whole program.
    """
    tasks = []
    for number, row in enumerate(_rows(path, task_id=(int, str), code=str, test_list=list), 1):
        asked = row.get("text", row.get("prompt"))
        setup, imports = row.get("test_setup_code") or "", row.get("test_imports") or []
        tests = row["test_list"]
        texts = [asked, setup, *tests, *imports] if isinstance(imports, list) else [None]
        if not tests or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{path}, row {number}: wanted a `text` or `prompt` and at least one test")
        asked = "\n".join([str(asked), *tests]).replace("\r\n", "\n")
        try:
            entry = _called(tests[0], row["code"])
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path}, row {number}: a test or the code is no Python ({error})") from None
        tasks.append(Program(f"MBPP/{row['task_id']}", "".join(f"# {line}\n" for line in asked.split("\n")),
                             "\n".join([setup or "\n".join(imports), *tests]) + "\n", entry, row["code"]))
    return tasks


def _called(test: str, code: str) -> str:
    """The function that a test is about: the first that it calls and the code defines."""
    defined = {n.name for n in ast.walk(ast.parse(code)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    called = [n.func.id for n in ast.walk(ast.parse(test)) if isinstance(n, ast.Call)
              and isinstance(n.func, ast.Name)]
    return next((n for n in called if n in defined),
                next((n for n in called if not hasattr(builtins, n)), ""))
