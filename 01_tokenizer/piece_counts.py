"""How often each piece occurs in a text, counted by several processes.

Training needs the text only as {piece: how often}. Counting is most of the work, and parts of a text that
were cut where no piece crosses (pretokenize.safe_parts) can be counted anywhere: the sum is the same for any
number of processes. A worker is this file run as a program of its own, fed through a pipe. So nothing is
forked, which would break after torch has computed, and nothing imports the caller's script again, which
multiprocessing's spawn does.

    python 01_tokenizer/bench_tokenizers.py     what it gains
"""
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pretokenize import PATTERN, safe_parts, splitter

PART = 1 << 20   # characters in one message to a worker


def count_pieces(texts: Iterable[str], pattern: str = PATTERN, processes: int = 1) -> Counter:
    """{piece: how often it occurs in all texts}, counted by `processes` processes.

    Texts may come from a generator. Raises ValueError for what is no text, and for a lone surrogate, which
    has no bytes.
    """
    if processes < 1:
        raise ValueError(f"processes {processes}: give 1 or more")
    parts = (part for text in checked(texts) for part in safe_parts(text, pattern, PART))
    if processes == 1:
        return count_here(parts, pattern)
    splitter(pattern)   # a bad pattern is told here, not by a worker
    lock = threading.Lock()

    def next_part() -> str | None:
        with lock:
            return next(parts, None)

    with ThreadPoolExecutor(processes) as threads:   # a thread waits for a worker; the workers compute
        jobs = [threads.submit(run_worker, pattern, next_part) for _ in range(processes)]
        total = Counter()
        for job in jobs:
            total.update(job.result())
    return total


def checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts one by one. A single string, or something that is no text, is a ValueError."""
    if isinstance(texts, (str, bytes)):
        raise ValueError("a list of texts is needed, not one text: put it in brackets, [text]")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a text is a str, not {type(text).__name__}: decode bytes first, e.g. "
                             ".decode('utf-8')")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(surrogate_message(text)) from None
        yield text


def surrogate_message(text: str) -> str:
    """What to say of the first character of a text that UTF-8 has no bytes for."""
    place = next(i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff")
    return (f"character {place} of the text is the lone surrogate {text[place]!a}, half of a character "
            "without bytes: read the file as UTF-8 with errors='replace', or remove it")


def count_here(parts: Iterable[str], pattern: str) -> Counter:
    """Count in this process."""
    split, counts = splitter(pattern), Counter()
    for part in parts:
        counts.update(split(part))
    return counts


def run_worker(pattern: str, next_part) -> dict[str, int]:
    """Start one worker, feed it with next_part() until that gives None, and return what it counted."""
    command = [sys.executable, os.path.abspath(__file__), pattern]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin and worker.stdout
        try:
            while (part := next_part()) is not None:
                pickle.dump(part, worker.stdin)
            worker.stdin.close()   # the worker's sign to answer
            return pickle.load(worker.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            raise RuntimeError(f"a counting process stopped with status {worker.wait()}, maybe for want of "
                               "memory: try processes=1") from None
        finally:
            worker.kill()


def parts_from_pipe() -> Iterator[str]:
    """In a worker: the parts that the parent sends, until it closes the pipe."""
    while True:
        try:
            yield pickle.load(sys.stdin.buffer)
        except EOFError:
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # Ctrl-C stops the parent, which ends its workers
    pickle.dump(dict(count_here(parts_from_pipe(), sys.argv[1])), sys.stdout.buffer)
