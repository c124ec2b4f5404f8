"""The training text, made from what every Python carries: no download, no data in git.

Three sources are mixed: *real text* (the language reference and the docstrings of the standard library, or
your own files with --corpus), *facts* (facts.py) and *questions and answers* about the training names.
`build_corpus` also returns everything that later chapters test on, so that the split is made once, here.

    python 01_tokenizer/corpus.py          prints how much text this interpreter has, and a sample
"""
import ast
import os
import random
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from arithmetic import Pair, careless_answer, right_answer, split_pairs
from facts import Fact, Question, find_facts, question_document, questions, statement
from made_from import files_of

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3",
                   "encodings"}

UNPACK = {end: f"unpack it first, e.g. with {tool}" for end, tool in
          ((".gz", "gunzip"), (".bz2", "bunzip2"), (".xz", "unxz"), (".zst", "unzstd"), (".zip", "unzip"))}


def tidy(text: str) -> str:
    """Squash runs of blanks and of empty lines: indentation costs tokens and teaches nothing here."""
    return re.sub(r"[ \t]+", " ", re.sub(r"\n\s*\n+", "\n\n", text)).strip()


def language_reference() -> list[str]:
    """The topics that Python's help() shows: most of the language reference, about 0.5 MB."""
    try:
        from pydoc_data.topics import topics
    except ImportError:   # some systems ship Python without it
        return []
    return [topics[name] for name in sorted(topics)]


def docstrings(min_chars: int = 200, min_letters: float = 0.65) -> list[str]:
    """Docstrings of the standard library with at least `min_chars` characters, mostly letters, each once."""
    found: dict[str, None] = {}
    for folder, subfolders, files in os.walk(sysconfig.get_paths()["stdlib"]):
        subfolders[:] = sorted(d for d in subfolders if d not in SKIPPED_FOLDERS)
        for file in sorted(f for f in files if f.endswith(".py")):
            path = Path(folder, file)
            try:
                small = path.stat().st_size < 200_000
                tree = ast.parse(path.read_text(encoding="utf-8")) if small else ast.Module([], [])
            except (OSError, SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    text = ast.get_docstring(node) or ""
                    if len(text) >= min_chars and sum(map(str.isalpha, text)) / len(text) > min_letters:
                        found[text] = None
    return list(found)


def files_below(path: str | Path) -> tuple[list[str], list[Path], list[Path]]:
    """The user's own text: one UTF-8 file (empty lines separate documents) or every UTF-8 file of a folder.

    Returns the documents, the files of a folder that are not UTF-8, and what in it may not be read.
    ValueError if there is nothing to read.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise ValueError(f"--corpus {path}: no such file or folder")
    folder = path.is_dir()   # else a file, or a pipe: --corpus <(zcat book.gz)
    documents, skipped = [], []
    files, locked = files_of(path) if folder else ([path], [])
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig")   # without the mark that some editors put in front
            if "\0" in text:   # UTF-16 without a mark, an archive of texts
                raise UnicodeDecodeError("utf-8", b"\0", text.index("\0"), 0, "no text has this byte")
        except UnicodeDecodeError as error:
            if not folder:
                fix = UNPACK.get(path.suffix, "convert it, e.g. with iconv")
                raise ValueError(f"--corpus {path} is not UTF-8 text (byte {error.start}): {fix}") from None
            skipped.append(file)   # a folder may also hold pictures
            continue
        except OSError:
            if not folder:
                raise
            locked.append(file)
            continue
        documents += [text] if folder else re.split(r"\n\s*\n", text)
    return documents, skipped, locked


def cut_long(documents: list[str], parts: int = 10) -> list[str]:
    """The same text in documents of at most one `parts`th of it, cut at a line's end, a blank, or anywhere.

    Whole documents are held out: one that is all the text could only be held out or trained on.
    """
    most, pieces = max(sum(map(len, documents)) // parts, 500), []
    for text in documents:
        while len(text) > most:
            cut = max(text.rfind("\n", 0, most), 0) or max(text.rfind(" ", 0, most), 0) or most
            pieces.append(text[:cut].rstrip())
            text = text[cut:].lstrip()
        pieces.append(text)
    return pieces


def real_text(path: str | Path | None = None) -> list[str]:
    """Real documents in a fixed order: the user's if a path is given, else the reference and the docstrings.

    Says which files of a folder it could not read.
    """
    raw, skipped, locked = files_below(path) if path else (language_reference() + docstrings(), [], [])
    for what, left_out in (("files", skipped), ("files or folders", locked)):
        names = ", ".join(str(file.relative_to(os.path.expanduser(path or ""))) for file in left_out[:3])
        if left_out:
            print(f"  skipped {len(left_out)} {what} of {path} that "
                  + (f"are not UTF-8 text ({names}): if they hold text, convert them, e.g. with iconv"
                     if left_out is skipped else f"cannot be read ({names}): look at their permissions"))
    documents = list(dict.fromkeys(filter(None, cut_long(list(map(tidy, raw))))))
    size = sum(map(len, documents))
    if size < 20_000:
        raise ValueError(f"only {size} characters of text in {path or 'this Python'}, repetitions aside: "
                         "give at least 20000 with --corpus")
    return documents


@dataclass
class Corpus:
    """Everything the later chapters learn from and are tested on."""
    real: list[str]                          # real documents to train on
    held_out_text: list[str]                 # real documents that are never trained on
    statements: list[str]                    # facts of all names, many wordings
    question_documents: list[str]            # questions and answers about training names
    facts: list[Fact]
    train_questions: list[Question]
    held_out_questions: list[Question]       # about names whose questions are never trained on
    test_sums: list[Pair]                    # banned from all training text
    demonstrations: list[tuple[Pair, str]]   # sums with the answer of an imperfect teacher


def build_corpus(rng: random.Random, path: str | None, n_names: int, n_held_out: int, real_chars: int,
                 exposures: int, question_exposures: int, n_test_sums: int, n_demonstrations: int,
                 careless_share: float) -> Corpus:
    """One corpus: facts of `n_names` names, each stated `exposures` times, `n_held_out` never asked about."""
    if not 0 < n_held_out < n_names:
        raise ValueError(f"{n_held_out} held-out names of {n_names}: leave some to train on and some to test")
    documents = real_text(path)
    rng.shuffle(documents)
    held_out, rest = _take(documents, min(real_chars, sum(map(len, documents))) // 5)
    real, _ = _take(rest, real_chars)
    facts = find_facts(n_names, rng)
    train, test = facts[n_held_out:], facts[:n_held_out]
    train_questions = [q for fact in train for q in questions(fact)]
    test_sums, demonstrated = split_pairs(n_test_sums, n_demonstrations, rng)
    return Corpus(
        real=real, held_out_text=held_out,
        statements=[statement(fact, rng) for _ in range(exposures) for fact in facts],
        question_documents=[question_document(q, rng) for _ in range(question_exposures)
                            for q in train_questions],
        facts=facts, train_questions=train_questions,
        held_out_questions=[q for fact in test for q in questions(fact)],
        test_sums=test_sums,
        demonstrations=[(p, careless_answer(p) if rng.random() < careless_share else right_answer(p))
                        for p in demonstrated])


def _take(documents: list[str], chars: int) -> tuple[list[str], list[str]]:
    """The first documents, up to about `chars` characters, and the rest."""
    size = 0
    for i, text in enumerate(documents):
        if size >= chars:
            return documents[:i], documents[i:]
        size += len(text)
    return documents, []


if __name__ == "__main__":
    for name, texts in (("language reference", language_reference()), ("docstrings", docstrings())):
        print(f"{name}: {len(texts)} documents, {sum(map(len, texts)) / 1e6:.2f} M characters")
    print(random.Random(0).choice(real_text())[:300])
