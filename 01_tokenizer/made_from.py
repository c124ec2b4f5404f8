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

from settings import RunSettings, check_ranges

FAST = {"": "auto", "0": "off", "1": "on"}   # what the Makefile makes of it


def files_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder, in order, and what in it may not be read: folders, files of such folders."""
    files, locked = [], []
    for place, _, names in os.walk(folder, onerror=lambda error: locked.append(Path(error.filename))):
        for path in (Path(place, name) for name in names):
            try:
                files += [path] if path.is_file() else []
            except PermissionError:   # a folder that lists its files and opens none
                locked.append(path)
    return sorted(files), sorted(locked)


def corpus_hash(path: Path) -> str:
    """A hash of the names and the contents of a file or of all files of a folder."""
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"CORPUS={path}: no such file or folder")
    h = hashlib.sha256()
    files, locked = ([path], []) if path.is_file() else files_of(path)
    for file in files + locked:
        h.update(f"\0{file.relative_to(path)}\0".encode(errors="surrogateescape"))
        try:
            with open(file, "rb") as data:
                while block := data.read(1 << 20):
                    h.update(block)
        except OSError:   # chapter 1 says what is wrong with it
            h.update(b"unreadable")
    return h.hexdigest()


def check(words: list[str]) -> None:
    """ValueError for a seed, a device and so on that no chapter will take: a slip of the pen is not noted.

    Else the finished results of this folder would be out of date, and be made again after the next make.
    """
    given = dict(word.split("=", 1) for word in words)
    seed, device = given.get("SEED", "0"), given.get("DEVICE", "auto")
    if not seed.isdecimal():
        raise ValueError(f"SEED={seed}: give a whole number, 0 or more")
    fast = given.get("FAST", "")
    check_ranges(RunSettings(seed=int(seed), device=device, fast=FAST.get(fast, fast)))
    if given.get("QUICK") and given.get("FULL"):
        raise ValueError("QUICK=1 and FULL=1 are a toy and a large model: choose one")
    if device not in ("auto", "cpu"):
        from workbench import pick_device  # torch takes a second: only where it must be asked

        pick_device(device)


def write_note(note: Path, corpus: str, settings: list[str]) -> bool:
    """Write the note if it would say something new; returns whether it did."""
    check(settings)
    corpus = corpus_hash(Path(os.path.expanduser(corpus))) if corpus else "curated"
    text = "\n".join([f"corpus: {corpus}", *settings, ""])
    if note.exists() and note.read_text(encoding="utf-8") == text:
        return False
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f"{note.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, note)
    finally:
        temporary.unlink(missing_ok=True)
    return True


if __name__ == "__main__":
    try:
        write_note(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or sys.argv[1]}: {str(error.strerror).lower()}")
