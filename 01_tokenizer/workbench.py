"""What every chapter's run.py shares: settings from a dataclass, seeds, progress, files that are never half written.

Nothing here is about language models. It is in chapter 1 because a chapter imports only from earlier ones.

    python 01_tokenizer/run.py --help      every field of the Settings dataclass, with its comment
"""
import argparse
import contextlib
import dataclasses
import errno
import hashlib
import inspect
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

try:
    import numpy as np
    import torch
except ModuleNotFoundError as missing:   # a Python that is not the one of .venv
    raise SystemExit(f"error: this Python has no {missing.name}: first run `source .venv/bin/activate`, "
                     "and before that, once, `make setup`") from None

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers a setting may be: at least `least`, greater than `above`, at most `most`, never infinite or NaN."""
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf

    def __contains__(self, x: float) -> bool:
        return self.least <= x <= self.most and x > self.above and abs(x) < math.inf   # no comparison holds for NaN

    def __str__(self) -> str:
        low = f"{self.least:g} or more" if self.above == -math.inf else f"above {self.above:g}"
        if self.most == math.inf:
            return low
        return f"{self.least:g} to {self.most:.10g}" if self.above == -math.inf else f"{low}, at most {self.most:.10g}"


USUAL = {int: Range(least=1), float: Range(above=0)}   # of every numeric setting that names no range of its own


def setting(default, **limits):
    """A field with a range of its own: `top_p: float = setting(1.0, above=0, most=1)  # ...`."""
    return dataclasses.field(default=default, metadata={"range": Range(**limits)})


@dataclasses.dataclass
class RunSettings:
    """The options that every run.py has; chapters add their own by subclassing."""
    out: str = "out"                                    # folder for the results of all chapters
    seed: int = setting(0, least=0, most=2**32 - 1)     # seed of every random choice
    quick: bool = False                                 # a toy version of seconds, to see that everything runs
    full: bool = False                                  # a model of 30 times the size, for a GPU or a night
    fast: str = "auto"                                  # fused operations: auto (on CUDA), on or off
    device: str = "auto"                                # auto (CUDA if there is one, else the CPU), cpu, cuda, mps


def field_comments(cls: type) -> dict[str, str]:
    """The comment after each field of a dataclass: `steps: int = 5  # of Muon` gives {"steps": "of Muon"}."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
        found.update(re.findall(r"^    (\w+): [^#\n]*#\s*(.+)$", inspect.getsource(base), re.MULTILINE))
    return found


def range_of(field: dataclasses.Field) -> Range | None:
    """Which numbers this field may hold; None where it holds no number."""
    return field.metadata.get("range") or USUAL.get(field.type)


def check_ranges(settings) -> None:
    """ValueError for the first setting outside its range: said before the work begins, not an hour into it."""
    for f in dataclasses.fields(settings):
        value, allowed = getattr(settings, f.name), range_of(f)
        if allowed and value not in allowed:
            name = f.name if f.default is dataclasses.MISSING else "--" + f.name.replace("_", "-")
            raise ValueError(f"{name} {value}: give {allowed}")


def parse_settings(cls: type, description: str, quick: dict | None = None, argv: list[str] | None = None,
                   full: dict | None = None):
    """Build a `cls` from the command line; ValueError for a number outside its field's range.

    A field without a default is a positional argument. `quick` holds the values that --quick puts in place of the
    defaults, `full` those of --full.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    comments = field_comments(cls)
    for f in dataclasses.fields(cls):
        flag, allowed = "--" + f.name.replace("_", "-"), range_of(f)
        text = comments.get(f.name, "").replace("%", "%%")
        if f.default is dataclasses.MISSING:
            parser.add_argument(f.name, type=f.type, help=text)
        elif isinstance(f.default, bool):
            action = argparse.BooleanOptionalAction if f.default else "store_true"
            parser.add_argument(flag, action=action, default=None, help=text)
        else:
            usual = f"default {f.default!r}" + (f"; {allowed}" if allowed else "")
            parser.add_argument(flag, type=f.type, default=None, metavar=f.type.__name__.upper(), help=f"{text} ({usual})")
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    if given.get("quick") and given.get("full"):
        raise ValueError("--quick and --full are a toy and a large model: choose one")
    size = (given.get("quick") and quick) or (given.get("full") and full) or {}
    settings = cls(**{**size, **given})
    check_ranges(settings)
    return settings


def run_main(main: Callable[[], None]) -> None:
    """Run a command. An expected error ends it with one sentence and a non-zero exit status, not a traceback."""
    use_sleeping_threads()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped: run the same command again to continue from the last checkpoint")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename} is missing: run the earlier chapters first (`make` does it in order)")
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        sys.exit(f"error: {error.filename}: {error.strerror.lower()}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit("error: the disk is full: free some space and run the same command again, nothing is lost")
    except torch.cuda.OutOfMemoryError:
        sys.exit("error: the memory of the GPU is full: make the batch smaller, or run with --device cpu")
    except (NotImplementedError, TypeError) as error:
        first = str(error).partition("\n")[0]
        if not re.search(r"\b(MPS|CUDA)\b", first):   # what torch lacks on a device is known; other errors are ours
            raise
        sys.exit(f"error: torch {torch.__version__} cannot do this on that device, run with --device cpu ({first[:150]})")


def use_sleeping_threads() -> None:
    """Two threads that sleep while they wait: threads that spin made a run on shared cores up to ten times slower.

    OpenMP reads these variables once, when torch is loaded, so a command started without them starts itself again.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(min(2, os.cpu_count() or 1))}
        os.execv(sys.executable, [sys.executable, *sys.argv])


def process_pool(n: int) -> ProcessPoolExecutor:
    """`n` worker processes that share nothing with this one, so that it does not matter what this one has computed.

    A process forked after a backward pass cannot run one where there is a CUDA device, and no forked process can use
    the device. The work must be a function at the top of a module, the script an `if __name__ == "__main__":`.
    """
    # A fork server imports torch once and never computes. On macOS its libraries do not survive a fork: spawn there.
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["torch.distributed"])
    return ProcessPoolExecutor(n, mp_context=context)


def seed_everything(seed: int) -> None:
    """Seed torch's and numpy's global generators (code that draws should still take its own generator)."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def pick_device(name: str = "auto") -> torch.device:
    """The device of --device: auto is CUDA if there is one, else the CPU. ValueError for one that is not here."""
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name != "auto" and name not in here:
        raise ValueError(f"--device {name} is unknown: choose one of auto, {', '.join(here)}")
    if name != "auto" and not here[name]:
        raise ValueError(f"--device {name}: torch {torch.__version__} finds no such device here, choose auto or cpu")
    return torch.device(name if name != "auto" else "cuda" if here["cuda"] else "cpu")


def announce(title: str, settings: RunSettings, cpu_only: bool = False) -> torch.device:
    """Print what runs, where and with which seed; returns the device. `cpu_only`: the chapter has no use for another."""
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
    """Yields a temporary path to write; it takes the place of `path` only when the block ends without an error.

    A rename is atomic on one file system, so a reader, or a run after kill -9, sees the old file or the new one. What
    can't be replaced without being destroyed (/dev/null, a pipe) gets the bytes copied into it, and a link stays one.
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
    finally:
        temporary.unlink(missing_ok=True)


def is_special(path: Path | str) -> bool:
    """Whether a path names a device, a pipe or a socket: something that is written to and never replaced."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def write_json(path: Path | str, value) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path | str):
    """Read JSON; a damaged file is a ValueError that says what to delete."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run make again") from None


def fingerprint(settings, *chapters: str) -> str:
    """A hash of the settings and of the code of the named chapters: a checkpoint made by other code is not continued."""
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
    """A progress line with a rate and the time left. On a terminal it is redrawn; in a log it prints every 15 seconds."""

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
        line = f"  {self.label:<10} [{'#' * filled:<20}] {done}/{self.total}  {rate:.3g} {self.unit}/s  {clock}  {note}"
        width = shutil.get_terminal_size((100, 24)).columns - 1
        sys.stderr.write(("\r" + line[:width].ljust(width) if self.live else line) + ("\n" if finished or not self.live else ""))
        sys.stderr.flush()
