"""Models and training states on disk: written in one piece, and never continued by other code than wrote them.

    python 03_training/run.py              kill it at any moment and run it again: it continues bit for bit
"""
import io
from dataclasses import asdict
from pathlib import Path

import torch

from transformer import Config, Transformer
from workbench import atomic


def read(path: Path | str) -> dict:
    """Load what `write` wrote; tensors and plain values only. A damaged file is a ValueError that names it."""
    data = Path(path).read_bytes()
    try:
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
        return value
    except Exception as error:   # a damaged file makes torch raise one of at least eight types
        what = str(error).partition("\n")[0][:80] or type(error).__name__
        raise ValueError(f"{path} is damaged ({what}): delete it and run make again") from None


def write(path: Path | str, value: dict) -> None:
    """torch.save, atomically."""
    with atomic(path) as temporary:
        torch.save(value, temporary)


def save_model(path: Path | str, model: Transformer) -> None:
    """Configuration and weights of a model."""
    write(path, {"config": asdict(model.config), "weights": model.state_dict()})


def load_model(path: Path | str, device: torch.device | str = "cpu") -> Transformer:
    """The model that save_model wrote. Raises FileNotFoundError or ValueError."""
    saved = read(path)
    try:
        model = Transformer(Config(**saved["config"]))
        model.load_state_dict(saved["weights"])
    except (KeyError, TypeError, RuntimeError):   # no such entries, no such field, no such weights
        raise ValueError(f"{path} is not a model file of this code: delete it and run make again") from None
    return model.to(device)


def save_state(path: Path | str, key: str, step: int, model: Transformer, optimizers: list, log: list) -> None:
    """All that a run needs to continue at `step`; `key` says which code and settings it belongs to."""
    write(path, {"key": key, "step": step, "weights": model.state_dict(),
                 "optimizers": [o.state_dict() for o in optimizers], "log": log})


def load_state(path: Path | str, key: str, model: Transformer, optimizers: list) -> tuple[int, list]:
    """Put a saved state into the model and the optimizers; returns (step, log), or (0, []) if there is none to continue."""
    if not Path(path).exists():
        return 0, []
    saved = read(path)
    if saved.get("key") != key:
        print(f"  {path} is from other code or settings: starting again")
        return 0, []
    model.load_state_dict(saved["weights"])
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    print(f"  continuing at step {saved['step']}")
    return saved["step"], saved["log"]
