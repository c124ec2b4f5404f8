"""Models and training states on disk: written in one piece, checked by a hash, never continued by other code.

A file is what torch.save gives, then a SHA-256 of it: a disk that lost a block, a copy that stopped in the
middle, a bit that flipped are found when the file is read and not a thousand steps later. Of training states
the last two are kept: if the newer one is damaged, the run continues from the one before.

    python 03_training/run.py              kill it at any moment and run it again: it continues bit for bit
"""
import hashlib
import io
import os
from dataclasses import asdict, fields
from pathlib import Path

import torch

from transformer import Config, Transformer
from workbench import atomic

SEAL = b"sha256:"   # stands before the hash at the end of each file


def read(path: Path | str) -> dict:
    """Load what `write` wrote: tensors and plain values. A damaged file is a ValueError that names it."""
    data = Path(path).read_bytes()
    try:
        data, seal = data[:-len(SEAL) - 32], data[-len(SEAL) - 32:]
        if seal != SEAL + hashlib.sha256(data).digest():
            raise ValueError("its hash is not that of its content")
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
        return value
    except Exception as error:   # torch raises one of at least eight types for what it cannot read
        what = str(error).partition("\n")[0][:80] or type(error).__name__
        raise ValueError(f"{path} is damaged ({what}): delete it and run make again") from None


def write(path: Path | str, value: dict) -> None:
    """torch.save and its hash, atomically. OSError where the disk is full."""
    buffer = io.BytesIO()
    torch.save(value, buffer)  # into a file it would answer a full disk with a RuntimeError about an iostream
    data = buffer.getvalue()
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.write(SEAL + hashlib.sha256(data).digest())


def save_model(path: Path | str, model: Transformer) -> None:
    """Configuration and weights of a model."""
    write(path, {"config": asdict(model.config), "weights": model.state_dict()})


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Transformer:
    """The model that save_model wrote. Raises FileNotFoundError or ValueError."""
    saved = read(path)
    try:
        model = Transformer(Config(**saved["config"]))
        model.load_state_dict(saved["weights"])
    except NotImplementedError:   # an exercise that is still blank
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):   # no such entries or weights
        raise ValueError(f"{path} is not a model file of this code ({what_differs(saved)}): "
                         "delete it and run make again") from None
    return model.to(device)


def what_differs(saved: dict) -> str:
    """Why a saved model cannot be built: the field of its configuration, or the weight, that does not fit."""
    if not (isinstance(saved.get("config"), dict) and isinstance(saved.get("weights"), dict)):
        return "it has no configuration or no weights"
    unknown = sorted(saved["config"].keys() - {field.name for field in fields(Config)})
    if unknown:
        return f"its configuration has a field {unknown[0]!r}, which is unknown here"
    try:
        wanted = Transformer(Config(**saved["config"])).state_dict()
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error).partition("\n")[0]
    for name in sorted(wanted.keys() ^ saved["weights"].keys()):
        return f"weight {name} is {'missing' if name in wanted else 'unknown here'}"
    for name, w in wanted.items():
        if not isinstance(saved["weights"][name], torch.Tensor):
            return f"weight {name} is no tensor"
        if w.shape != saved["weights"][name].shape:
            found = tuple(saved["weights"][name].shape)
            return f"weight {name} is {found}, by its configuration {tuple(w.shape)}"
    return "it cannot be read"


def other_fields(saved: dict, config: Config) -> str:
    """The fields in which a saved configuration differs, as "d_model 64 in place of 128", or ""."""
    mine = asdict(config)
    return ", ".join(f"{name} {saved.get(name)} in place of {mine[name]}"
                     for name in mine if saved and saved.get(name) != mine[name])


def keep_best(path: Path | str, model: Transformer, score: float) -> bool:
    """Save the model at `path` if its held-out loss `score` is below that of the one there; was it saved?"""
    path = Path(path)
    if path.exists() and not score < read(path).get("score", float("inf")):
        return False
    write(path, {"config": asdict(model.config), "weights": model.state_dict(), "score": score})
    return True


def before(path: Path | str) -> Path:
    """Where the state before the last one is kept: state.pt has state.before.pt beside it."""
    path = Path(path)
    return path.with_name(f"{path.stem}.before{path.suffix}")


def save_state(path: Path | str, key: str, step: int, model: Transformer, optimizers: list,
               log: list) -> None:
    """All that a run needs to continue at `step`; `key` says which code and settings it belongs to.

    The state that was the last becomes the one before. A full disk is an OSError, and both old states stay.
    """
    path = Path(path)
    fresh = path.with_name(f"{path.stem}.next{path.suffix}")
    write(fresh, {"key": key, "step": step, "config": asdict(model.config), "weights": model.state_dict(),
                  "optimizers": [o.state_dict() for o in optimizers], "log": log})
    if path.exists():
        os.replace(path, before(path))
    os.replace(fresh, path)   # killed between these two lines: load_state finds the state before


def load_state(path: Path | str, key: str, model: Transformer, optimizers: list) -> tuple[int, list]:
    """Put a saved state into the model and the optimizers; returns (step, log), or (0, []) without one.

    A damaged state is named and the one before it is used; ValueError if that is damaged too, or if the state
    is of a model of another configuration, with the fields that differ.
    """
    for file in (Path(path), before(path)):
        if not file.exists():
            continue
        try:
            saved = read(file)
        except ValueError as error:
            if file == before(path) or not before(path).exists():
                raise
            print(f"  {str(error).partition(': delete')[0]}: using the state before it")
            continue
        other = other_fields(saved.get("config", {}), model.config)
        if saved.get("key") != key:
            print(f"  {file} is from other code or settings{f' ({other})' if other else ''}: starting again")
            return 0, []
        if other:
            raise ValueError(f"{file} is of another model ({other}): take its configuration, or delete it")
        model.load_state_dict(saved["weights"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        print(f"  continuing at step {saved['step']}")
        return saved["step"], saved["log"]
    return 0, []
