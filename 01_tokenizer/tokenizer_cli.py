"""A tokenizer on the command line: train one, encode, decode, and see where it cuts.

    python 01_tokenizer/tokenizer_cli.py train book.txt --vocab 2048 --out book.json
    echo "Hello there" | python 01_tokenizer/tokenizer_cli.py encode --tokenizer book.json
    echo "72 259" | python 01_tokenizer/tokenizer_cli.py decode --tokenizer book.json
    python 01_tokenizer/tokenizer_cli.py show page.txt          each token on a background of its own
    python 01_tokenizer/tokenizer_cli.py convert book.json --to hf --out tokenizer.json
`--help` after a word lists its options. Files are read in blocks, so they may be larger than memory; without
files, standard input is read.
"""
import codecs
import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from workbench import Progress, atomic, parse_settings, read_json, run_main, setting  # checks: first

# isort: split

from bpe import SPECIAL, Tokenizer, train
from formats import from_hf, to_hf, to_tiktoken
from pretokenize import PATTERNS
from special_tokens import check_special, stream_parts
from unigram import Unigram
from unigram_training import train_unigram

OURS = "out/01_tokenizer/tokenizer.json"
COLOURS = (153, 223, 157, 217, 189, 229)   # pale backgrounds of the 256-colour terminal, for black letters
BLOCK = 1 << 16


@dataclass
class Train:
    """Learn a tokenizer from text."""
    files: tuple = ()                     # UTF-8 texts (none: standard input)
    vocab: int = setting(1024, least=1)   # tokens in all: 256 bytes, learned ones, special ones
    out: str = "tokenizer.json"           # the file to write
    kind: str = "bpe"                     # bpe or unigram
    pattern: str = "this repository"      # how text is cut: a name of pretokenize.py, or a regular expression
    special: str = ",".join(SPECIAL)      # special tokens, separated by commas
    processes: int = os.cpu_count() or 1  # that count in parallel; the result is the same for any number
    errors: str = "strict"                # bytes that are not UTF-8: strict (stop) or replace (by U+FFFD)


@dataclass
class Encode:
    """Text to ids, one line for each file."""
    files: tuple = ()                     # UTF-8 texts (none: standard input)
    tokenizer: str = OURS                 # a file that train wrote, or a Hugging Face tokenizer.json
    out: str = "-"                        # where to write (-: standard output)
    special: bool = False                 # names of special tokens in the text become their ids
    errors: str = "strict"                # bytes that are not UTF-8: strict (stop) or replace (by U+FFFD)


@dataclass
class Decode:
    """Ids, separated by blanks or lines, to the bytes they stand for."""
    files: tuple = ()                     # files of ids (none: standard input)
    tokenizer: str = OURS                 # a file that train wrote, or a Hugging Face tokenizer.json
    out: str = "-"                        # where to write (-: standard output)


@dataclass
class Show:
    """Text with each token on a background of its own; half characters as <E6>, line ends as a mark too."""
    files: tuple = ()                     # UTF-8 texts (none: standard input)
    tokenizer: str = OURS                 # a file that train wrote, or a Hugging Face tokenizer.json
    special: bool = False                 # names of special tokens in the text become tokens
    plain: bool = False                   # bars between tokens in place of colours
    errors: str = "strict"                # bytes that are not UTF-8: strict (stop) or replace (by U+FFFD)


@dataclass
class Convert:
    """A tokenizer file in the form of another package."""
    files: tuple = ()                     # one tokenizer: a file that train wrote, or a tokenizer.json
    to: str = "hf"                        # hf (tokenizer.json) or tiktoken (ranks)
    out: str = "converted"                # the file to write


@contextlib.contextmanager
def opened(file: str) -> Iterator[tuple[str, BinaryIO]]:
    """A file to read, with its name for messages; "-" is standard input."""
    if file == "-":
        yield "standard input", sys.stdin.buffer
        return
    if Path(file).is_dir() or not Path(file).exists():   # a pipe such as <(zcat book.gz) is a file too
        raise ValueError(f"{file}: no such file")
    with open(file, "rb") as source:
        yield file, source


def text_blocks(file: str, errors: str) -> Iterator[str]:
    """The text of a UTF-8 file in blocks; a byte that is none is a ValueError, or U+FFFD with "replace"."""
    if errors not in ("strict", "replace"):
        raise ValueError(f"--errors {errors}: give strict or replace")
    decoder, done = codecs.getincrementaldecoder("utf-8")(errors), 0
    with opened(file) as (name, source):
        while True:
            block = source.read(BLOCK)
            begin = done - len(decoder.getstate()[0])   # bytes of a character that the last block cut
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise ValueError(f"{name} is not UTF-8: byte {error.object[error.start]:#04x} at "
                                 f"{begin + error.start}. Convert it, e.g. with iconv, or read it with "
                                 "--errors replace") from None
            if text:
                yield text
            if not block:
                return
            done += len(block)


@contextlib.contextmanager
def output(path: str) -> Iterator[BinaryIO]:
    """Standard output for "-", else a file that is there when all is written and not before."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.flush()   # a full disk is told here, not on the way out
        return
    with atomic(path) as temporary, open(temporary, "wb") as target:
        yield target


def load(path: str) -> Tokenizer | Unigram:
    """A tokenizer of any kind that can be read; ValueError that names the file for anything else."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such tokenizer (train one, or run `make 01`)")
    try:
        data = read_json(path)
    except ValueError:
        raise ValueError(f"{path} is no tokenizer that can be read: give a file that train wrote or a "
                         "Hugging Face tokenizer.json (tiktoken ranks: formats.from_tiktoken)") from None
    if isinstance(data, dict) and "model" in data:
        return from_hf(path)
    return (Unigram if isinstance(data, dict) and "unigram" in data else Tokenizer).load(path)


def run_train(s: Train) -> None:
    """Count, learn, save."""
    special = tuple(filter(None, s.special.split(",")))
    check_special(special)
    if s.vocab < 256 + len(special):
        raise ValueError(f"--vocab {s.vocab} is smaller than 256 bytes and {len(special)} special tokens: "
                         f"give {256 + len(special)} or more")
    learn = {"bpe": train, "unigram": train_unigram}.get(s.kind)
    if not learn:
        raise ValueError(f"--kind {s.kind}: give bpe or unigram")
    pattern, size = PATTERNS.get(s.pattern, s.pattern), s.vocab - len(special)
    texts = (part for file in s.files or ["-"]
             for part, _ in stream_parts(text_blocks(file, s.errors), pattern, ()))
    bar = Progress("merges", size - 256, unit="merge")
    told = {"told": bar.update} if s.kind == "bpe" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        learned = learn(texts, size, pattern, s.processes, **told)
    tokenizer = (Tokenizer if s.kind == "bpe" else Unigram)(learned, special, pattern)
    tokenizer.save(s.out)
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    print(f"{s.out}: {tokenizer.vocab_size} tokens", file=sys.stderr)


def ids_of_file(tokenizer: Tokenizer | Unigram, file: str, special: bool, errors: str) -> Iterator[int]:
    """The ids of one file, block by block."""
    blocks = text_blocks(file, errors)
    if isinstance(tokenizer, Tokenizer):
        yield from tokenizer.encode_iterable(blocks, "all" if special else ())
        return
    names = set(tokenizer.special) if special else ()
    for part, is_special in stream_parts(blocks, tokenizer.pattern, names):
        yield from [tokenizer.special[part]] if is_special else tokenizer.encode(part)


def run_encode(s: Encode) -> None:
    """One line of ids for each file."""
    tokenizer = load(s.tokenizer)
    with output(s.out) as target:
        for file in s.files or ["-"]:
            blank = b""
            for i in ids_of_file(tokenizer, file, s.special, s.errors):
                target.write(b"%s%d" % (blank, i))
                blank = b" "
            target.write(b"\n")


def ids_in(file: str) -> Iterator[list[int]]:
    """The ids in a file of numbers, some at a time."""
    with opened(file) as (name, source):
        rest = b""
        while True:
            block = source.read(BLOCK)
            words = (rest + block).split()
            rest = words.pop() if words and block and not block[-1:].isspace() else b""   # cut in a number
            for word in words:
                if not word.isdigit():
                    raise ValueError(f"{name}: {word[:20].decode('utf-8', 'replace')!r} is no token id")
            yield list(map(int, words))
            if not block:
                return


def run_decode(s: Decode) -> None:
    """The exact bytes, whether they are text or not."""
    tokenizer = load(s.tokenizer)
    with output(s.out) as target:
        for file in s.files or ["-"]:
            for ids in ids_in(file):
                target.write(tokenizer.decode_bytes(ids))


def visible(data: bytes) -> str:
    """A token's bytes as something a terminal can show and that cannot command it."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in data)
    marks = {"\n": "⏎", "\t": "→"}
    return "".join(marks.get(c, c if c.isprintable() or c == " " else repr(c)[1:-1]) for c in text)


def run_show(s: Show) -> None:
    """Every token in the next colour, a line of the text on a line, and what it comes to."""
    tokenizer = load(s.tokenizer)
    with output("-") as target:
        tokens = size = 0
        for file in s.files or ["-"]:
            for i in ids_of_file(tokenizer, file, s.special, s.errors):
                data = tokenizer.decode_bytes([i])
                shown = f"{visible(data)}|" if s.plain else (
                    f"\x1b[30;48;5;{COLOURS[tokens % len(COLOURS)]}m{visible(data)}\x1b[0m")
                target.write((shown + "\n" * (b"\n" in data)).encode())
                tokens, size = tokens + 1, size + len(data)
        target.write(f"\n{tokens} tokens, {size} bytes, {size / max(tokens, 1):.2f} bytes a token\n".encode())


def run_convert(s: Convert) -> None:
    """Read, check, write."""
    if len(s.files) != 1:
        raise ValueError("convert takes one tokenizer file")
    tokenizer = load(s.files[0])
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError("a Unigram model can't be written in these forms, only byte-level BPE")
    write = {"hf": to_hf, "tiktoken": to_tiktoken}.get(s.to)
    if not write:
        raise ValueError(f"--to {s.to}: give hf or tiktoken")
    write(tokenizer, s.out)


COMMANDS = {"train": (Train, run_train), "encode": (Encode, run_encode), "decode": (Decode, run_decode),
            "show": (Show, run_show), "convert": (Convert, run_convert)}


def main() -> None:
    """The word after the program's name says what to do."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("-h", "--help"):
        print(__doc__)
        return
    if word not in COMMANDS:
        raise ValueError(f"{word!r} is none of {', '.join(COMMANDS)}: see --help")
    cls, run = COMMANDS[word]
    try:
        run(parse_settings(cls, cls.__doc__, argv=sys.argv[2:]))
    except BrokenPipeError:   # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run_main(main)
