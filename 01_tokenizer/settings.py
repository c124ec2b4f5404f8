"""Settings of a command from a dataclass: a field becomes an option, its comment the help, its range a check.

    python 01_tokenizer/run.py --help      every field of the Settings dataclass, with its comment and range
"""
import argparse
import dataclasses
import inspect
import math
import re


@dataclasses.dataclass(frozen=True)
class Range:
    """Which numbers a setting may be: from `least`, or above `above`, to `most`; never NaN or infinite."""
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf

    def __contains__(self, x: float) -> bool:
        return self.least <= x <= self.most and x > self.above and abs(x) < math.inf   # all false for NaN

    def __str__(self) -> str:
        if self.above > -math.inf:
            return f"above {self.above:g}" + (f", at most {self.most:.10g}" if self.most < math.inf else "")
        return f"{self.least:g} to {self.most:.10g}" if self.most < math.inf else f"{self.least:g} or more"


@dataclasses.dataclass(frozen=True)
class Choices:
    """The words that a setting may be."""
    words: tuple[str, ...]

    def __contains__(self, x: str) -> bool:
        return x in self.words

    def __str__(self) -> str:
        return " or ".join(filter(None, (", ".join(self.words[:-1]), self.words[-1])))


USUAL = {int: Range(least=1), float: Range(above=0)}   # of a setting that names no range of its own


def setting(default, *words: str, **limits):
    """A field with a range of its own, `top_p: float = setting(1.0, above=0, most=1)`, or words to choose."""
    allowed = Choices(words) if words else Range(**limits)
    return dataclasses.field(default=default, metadata={"range": allowed})


@dataclasses.dataclass
class RunSettings:
    """The options that every run.py has; chapters add their own by subclassing."""
    out: str = "out"                                  # folder for the results of all chapters
    seed: int = setting(0, least=0, most=2**32 - 1)   # seed of every random choice
    quick: bool = False                               # a toy version of seconds, to see that everything runs
    full: bool = False                                # a model of 30 times the size, for a GPU or a night
    fast: str = setting("auto", "auto", "on", "off")  # fused operations; auto: on CUDA
    device: str = setting("auto", "auto", "cpu", "cuda", "mps")   # auto: CUDA if it is here, else cpu


def field_comments(cls: type) -> dict[str, str]:
    """The comment after each field of a dataclass: `steps: int = 5  # of Muon` gives {"steps": "of Muon"}."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
        found.update(re.findall(r"^    (\w+): [^#\n]*#\s*(.+)$", inspect.getsource(base), re.MULTILINE))
    return found


def range_of(field: dataclasses.Field) -> Range | Choices | None:
    """Which numbers or words this field may hold; None where it may hold anything."""
    return field.metadata.get("range") or USUAL.get(field.type)


def check_ranges(settings) -> None:
    """ValueError for the first setting outside its range: before the work begins, not an hour into it."""
    for f in dataclasses.fields(settings):
        value, allowed = getattr(settings, f.name), range_of(f)
        if allowed and value not in allowed:
            name = f.name if f.default is dataclasses.MISSING else "--" + f.name.replace("_", "-")
            raise ValueError(f"{name} {value}: give {allowed}")


def parse_settings(cls: type, description: str | None, quick: dict | None = None,
                   argv: list[str] | None = None, full: dict | None = None):
    """Build a `cls` from the command line; ValueError for a number outside its field's range.

    A field without a default is a positional argument, one with the default () any number of them. `quick`
    holds the values that --quick puts in place of the defaults, `full` those of --full.
    """
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=as_written)
    comments = field_comments(cls)
    for f in dataclasses.fields(cls):
        flag, allowed = "--" + f.name.replace("_", "-"), range_of(f)
        text = comments.get(f.name, "").replace("%", "%%")
        if f.default is dataclasses.MISSING:
            parser.add_argument(f.name, type=f.type, help=text)
        elif f.default == ():
            parser.add_argument(f.name, nargs="*", default=None, help=text)
        elif isinstance(f.default, bool):
            action = argparse.BooleanOptionalAction if f.default else "store_true"
            parser.add_argument(flag, action=action, default=None, help=text)
        else:
            usual = f"default {f.default!r}" + (f"; {allowed}" if allowed else "")
            kind = getattr(f.type, "__name__", "").upper()
            parser.add_argument(flag, type=f.type, default=None, metavar=kind, help=f"{text} ({usual})")
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    if given.get("quick") and given.get("full"):
        raise ValueError("--quick and --full are a toy and a large model: choose one")
    size = (given.get("quick") and quick) or (given.get("full") and full) or {}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    settings = cls(**{**size, **given})
    check_ranges(settings)
    return settings
