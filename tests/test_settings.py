"""Every command of every chapter refuses in one sentence a number that makes no sense, before it does
anything.
"""
import dataclasses
import functools
import importlib.util
import sys
from pathlib import Path

import pytest

from settings import field_comments, range_of
from workbench import run_main

NO_NUMBERS = ("", "zzz")
ROOT = Path(__file__).resolve().parent.parent
COMMANDS = sorted(p for p in [*ROOT.glob("0[1-8]_*/*.py"), *ROOT.glob("csrc/*.py")]
                  if "parse_settings(" in p.read_text(encoding="utf-8") and p.stem != "settings")


def load(path: Path):
    """The module of a command, under a name of its own: eight of them are called run."""
    name = f"command_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings_of(module) -> list[tuple[type, list[str]]]:
    """The settings of a command, or those of each of its sub-commands with the word that chooses it."""
    if hasattr(module, "Settings"):
        return [(module.Settings, [])]
    return [(c, [c.__name__.lower()]) for c in vars(module).values()
            if isinstance(c, type) and dataclasses.is_dataclass(c) and c.__module__ == module.__name__]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_zero_negative_and_nan_are_refused_in_one_sentence(path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr("settings.field_comments", functools.cache(field_comments))   # it parses the file
    module = load(path)
    for settings, chosen in settings_of(module):
        fields = dataclasses.fields(settings)
        positional = ["x" for f in fields if f.default is dataclasses.MISSING]
        for f in fields:
            allowed, flag = range_of(f), "--" + f.name.replace("_", "-")
            for bad in ("0", "-1", "nan", "inf", "1e400", *NO_NUMBERS) if allowed else ():
                if bad not in NO_NUMBERS and float(bad) in allowed:   # a field may say that 0 means something
                    assert bad == "0", f"{flag} {bad} makes no sense anywhere"
                    continue
                monkeypatch.setattr(sys, "argv", [str(path), *chosen, *positional, f"{flag}={bad}"])
                with pytest.raises(SystemExit) as stopped:
                    run_main(module.main)
                if f.type is str or bad in ("0", "-1") or f.type is float and bad not in NO_NUMBERS:
                    # argparse itself refuses "nan" for a whole number
                    assert str(stopped.value.code).startswith(f"error: {flag} "), (path, flag, bad)


def test_the_commands_are_found():
    assert {p.parent.name[:2] for p in COMMANDS} >= {p.name[:2] for p in ROOT.glob("0[1-8]_*")}
