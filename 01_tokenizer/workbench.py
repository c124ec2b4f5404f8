"""What every chapter's run.py shares: errors in one sentence, devices, processes, seeds, files, progress.

Nothing here is about language models. It is in chapter 1 because a chapter imports only from earlier ones.

    python 01_tokenizer/run.py             uses all of it
"""
import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import re
import select
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

try:
    import numpy as np
    import torch
except ModuleNotFoundError as missing:   # a Python that is not the one of .venv
    raise SystemExit(f"error: this Python has no {missing.name}: first run `source .venv/bin/activate`, "
                     "and before that, once, `make setup`") from None

from settings import RunSettings, parse_settings, setting  # noqa: F401  chapters take them from here

ROOT = Path(__file__).resolve().parent.parent


def run_main(main: Callable[[], None]) -> None:
    """Run a command. An expected error ends it with one sentence and a non-zero exit status, no traceback."""
    use_two_threads()
    open_streams()
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit("\nstopped: run the same command again to continue from the last checkpoint")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError as error:
        sys.exit(f"error: {what_is_missing(error)}")
    except FileExistsError as error:
        sys.exit(f"error: {error.filename} is there and no folder: name another, or move it away")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            sys.exit(1)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit("error: the disk is full: free some space and run the same command again, nothing is "
                     "lost")
        if not error.filename:
            raise
        sys.exit(f"error: {error.filename}: {str(error.strerror).lower()}")
    except MemoryError:
        sys.exit("error: the memory of this machine is full: make the batch or the model smaller, or end "
                 "other programs")
    except torch.cuda.OutOfMemoryError:
        sys.exit("error: the memory of the GPU is full: make the batch smaller, or run with --device cpu")
    except (NotImplementedError, TypeError) as error:
        first = str(error).partition("\n")[0]
        if not re.search(r"\b(MPS|CUDA)\b", first):   # the device lacks something; other errors are ours
            raise
        sys.exit(f"error: torch {torch.__version__} cannot do this on that device, run with --device cpu "
                 f"({first[:150]})")


def what_is_missing(error: FileNotFoundError) -> str:
    """One sentence on a file that is not there: the folder that is not either, and who makes the file."""
    if error.filename is None:
        return str(error)
    path = Path(os.fsdecode(error.filename))
    away = next((folder for folder in reversed(path.parents) if not folder.exists()), None)
    chapter = next((part for part in path.parts if re.fullmatch(r"\d\d_\w+", part)), None)
    text = f"{path} is missing" + (f", there is no folder {away}" if away else "")
    if not chapter:
        return f"{text}: look at its name, or run the earlier chapters first (`make` does it in order)"
    return f"{text}: run the earlier chapters first (`make {chapter[:2]}` makes it)"


def nobody_reads() -> bool:
    """Has the reader of our output gone, as `head` does when it has seen enough? The rest goes nowhere."""
    out, asked = sys.stdout.fileno(), select.poll()
    asked.register(out, 0)       # errors are told unasked: a pipe without a reader is one
    if gone := bool(asked.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return gone


def use_two_threads() -> None:
    """Two threads that wait for each other a few microseconds and then sleep.

    Threads that spin as long as they must made a run on shared cores up to ten times slower; threads that
    sleep at once made one on two idle cores no faster than a single thread, as waking takes longer than the
    work of a small matrix. The count is GNU's OpenMP's (torch on Linux), the policy all others'. OpenMP reads
    these variables once, when torch is loaded: a command started without them starts itself again, by the
    same words (`python -u`, `python -m pdb`), but not under a debugger, whose breakpoints would be gone. A
    number of threads that was given stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ and not sys.gettrace():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def open_streams() -> None:
    """Give a closed standard stream (`2>&-`, some daemons) an end, and let no character be too much for one.

    Else the next file that is opened takes the closed one's number, and what a library says there stands in
    that file. A terminal without the character gets its number, as does a file name that is not UTF-8.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
        if mode == "w" and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def process_pool(n: int) -> ProcessPoolExecutor:
    """`n` worker processes that share nothing with this one, whatever it has computed.

    A process forked after a backward pass cannot run one where there is a CUDA device, and no forked process
    can use the device. The work must be a function at the top of a module, and the script that starts it must
    have its `if __name__ == "__main__":`.
    """
    # A fork server imports torch once and never computes. On macOS torch survives no fork: spawn there.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["torch.distributed"])
    return ProcessPoolExecutor(n, mp_context=context)


def seed_everything(seed: int) -> None:
    """Seed torch's and numpy's global generators (code that draws should still take its own generator)."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def pick_device(name: str = "auto") -> torch.device:
    """The device of --device: auto is CUDA if there is one, else the CPU. ValueError if it is not here."""
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name != "auto" and name not in here:
        raise ValueError(f"--device {name} is unknown: choose one of auto, {', '.join(here)}")
    if name != "auto" and not here[name]:
        raise ValueError(f"--device {name}: torch {torch.__version__} finds no such device here, "
                         "choose auto or cpu")
    return torch.device(name if name != "auto" else "cuda" if here["cuda"] else "cpu")


def announce(title: str, settings: RunSettings, cpu_only: bool = False) -> torch.device:
    """Print what runs, where and with which seed; returns the device (`cpu_only`: no use for another)."""
    device = torch.device("cpu") if cpu_only else pick_device(settings.device)
    where = {"cpu": f"CPU, {torch.get_num_threads()} threads", "mps": "Apple GPU"}.get(device.type)
    where = where or torch.cuda.get_device_name()
    print(f"\n== {title}  (seed {settings.seed}, {where}{', quick' if settings.quick else ''})", flush=True)
    return device


def wide(x: torch.Tensor) -> torch.Tensor:
    """x in float64, or in float32 on a device that knows no float64 (mps)."""
    return x.float() if x.device.type == "mps" else x.double()


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path to write, which takes the place of `path` if the block ends without an error.

    A rename is atomic on one file system, so a reader, or a run after kill -9, sees the old file or the new
    one. What can't be replaced without being destroyed (/dev/null, a pipe) gets the bytes copied into it, and
    a link stays one.
    """
    path = Path(path)
    special = is_special(path)
    if not special:
        path = Path(os.path.realpath(path))   # /dev/stdout may be a link to a file: the file is meant
        path.parent.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.gettempdir()) if special else path.parent
    temporary = home / f"{path.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        if special:
            with open(temporary, "rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
        else:
            os.replace(temporary, path)
    except OSError as error:
        if re.fullmatch(r"\d+ requested and \d+ written", str(error)):   # numpy's words, and no number
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_special(path: Path | str) -> bool:
    """Whether a path names a device, a pipe or a socket: something that is written to and never replaced."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def write_json(path: Path | str, value) -> None:
    """Write JSON atomically. Half a character, as in a file name that is not UTF-8, is written as \\udcff."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")   # JSON's own escape


def read_json(path: Path | str, mend: str = "delete it and run make again"):
    """Read JSON; a damaged file is a ValueError that says how to mend it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:   # no JSON, no UTF-8, numbers or brackets without end
        raise ValueError(f"{path} is damaged ({error}): {mend}") from None


def fingerprint(settings, *chapters: str) -> str:
    """A hash of the settings and of the code of these chapters: no checkpoint of other code is continued."""
    h = hashlib.sha256(repr(settings).encode() + torch.__version__.encode())
    for chapter in chapters:
        for file in sorted((ROOT / chapter).glob("*.py")):
            h.update(file.read_bytes())
    return h.hexdigest()[:16]


def content_hash(*paths: Path | str) -> str:
    """A hash of what is in some files: for the key of whatever is made from them."""
    h = hashlib.sha256()
    for path in paths:
        h.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return h.hexdigest()


class Progress:
    """A line with a rate and the time left: redrawn on a terminal, in a log a new one every 15 seconds."""

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "step"):
        self.label, self.total, self.first, self.unit = label, total, done, unit
        self.begin = self.last = time.monotonic()
        self.live = sys.stderr.isatty()

    def due(self, done: int) -> bool:
        """Would update(done) print? Whoever must wait for the numbers it shows can ask first."""
        return done >= self.total or time.monotonic() - self.last >= (0.2 if self.live else 15)

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of the total are finished."""
        if not self.due(done):
            return
        finished, now = done >= self.total, time.monotonic()
        self.last = now
        rate = (done - self.first) / max(now - self.begin, 1e-9)
        left = (self.total - done) / rate if rate else 0
        clock = f"{now - self.begin:.0f} s" if finished else f"{left:.0f} s left"
        filled = round(20 * done / max(self.total, 1))
        line = f"  {self.label:<10} [{'#' * filled:<20}] {done}/{self.total}  {rate:.3g} {self.unit}/s  "
        line += f"{clock}  {note}"
        width = shutil.get_terminal_size((100, 24)).columns - 1
        text = "\r" + line[:width].ljust(width) if self.live else line
        sys.stderr.write(text + ("\n" if finished or not self.live else ""))
        sys.stderr.flush()
