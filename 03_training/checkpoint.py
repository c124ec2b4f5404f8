"""Models and training states on disk: written in one piece, and never continued by other code than wrote them.

    python 03_training/run.py              kill it at any moment and run it again: it continues bit for bit
"""
import pickle
from dataclasses import asdict
from pathlib import Path

import torch

from transformer import Config, Transformer
from workbench import atomic


def read(path: Path | str) -> dict:
    """Load what torch.save wrote; tensors and plain values only. A damaged file is a ValueError that names it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0][:80]}): delete it and run make again") from None


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
    if not {"config", "weights"} <= saved.keys():
        raise ValueError(f"{path} is not a model file: delete it and run make again")
    model = Transformer(Config(**saved["config"]))
    model.load_state_dict(saved["weights"])
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
