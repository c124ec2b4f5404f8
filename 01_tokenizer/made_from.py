"""A note of what results are made from besides the code, so that make knows when they are out of date.

make compares times of files, and a corpus that was edited, or another seed in the same folder, has no file of
its own that is new. So each make writes this note first, and leaves it alone, with its old time, where
nothing has changed.

    python 01_tokenizer/made_from.py out/made_from.txt CORPUS SEED=0        what the Makefile runs
"""
import hashlib
import os
import sys
from pathlib import Path


def corpus_hash(path: Path) -> str:
    """A hash of the names and the contents of a file or of all files of a folder."""
    h = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        h.update(f"\0{file.relative_to(path)}\0".encode(errors="surrogateescape"))
        try:
            with open(file, "rb") as data:
                while block := data.read(1 << 20):
                    h.update(block)
        except OSError:   # chapter 1 says what is wrong with it
            h.update(b"unreadable")
    return h.hexdigest()


def write_note(note: Path, corpus: str, settings: list[str]) -> bool:
    """Write the note if it would say something new; returns whether it did."""
    corpus = corpus_hash(Path(corpus).expanduser()) if corpus else "curated"
    text = "\n".join([f"corpus: {corpus}", *settings, ""])
    if note.exists() and note.read_text(encoding="utf-8") == text:
        return False
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f"{note.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, note)
    return True


if __name__ == "__main__":
    try:
        write_note(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")
