"""The training loop of every stage: loss, gradients, clipping, a step, a log line, now and then a checkpoint.

What differs between pretraining, supervised fine-tuning and reinforcement learning is the loss of a step, so the loop
takes it as a function. `loss_of(step)` must depend on nothing but the step and the weights: then a run that is killed
and continued gives the same bits as one that was not.

    python 03_training/run.py              pretrains with it
"""
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from checkpoint import load_state, save_state
from clipping import clip_gradients
from mixture_of_experts import move_biases
from transformer import Transformer
from workbench import Progress


def train(model: Transformer, optimizers: list, loss_of: Callable[[int], Tensor | tuple[Tensor, dict]], n_steps: int,
          scale_of: Callable[[int], float], label: str, clip: float = 1.0, state: Path | None = None, key: str = "",
          save_every: int = 50) -> list[dict]:
    """Train for `n_steps`; returns the log, one {"step", "loss", "grad_norm", "seconds"} a step.

    `loss_of(step)` gives the loss, or the loss and a dictionary of numbers that go into the log beside it. With `state` the run saves itself there every `save_every` steps and continues from it when called again with the
    same `key`.
    """
    step, log = load_state(state, key, model, optimizers) if state else (0, [])
    bar = Progress(label, n_steps, step)
    model.train()
    while step < n_steps:
        begin = time.perf_counter()
        result = loss_of(step)
        loss, numbers = result if isinstance(result, tuple) else (result, {})
        for p in model.parameters():
            p.grad = None
        loss.backward()
        norm = clip_gradients(model.parameters(), clip)
        for optimizer in optimizers:
            optimizer.step(scale_of(step))
        move_biases(model)   # of experts that are balanced without a loss
        step += 1
        log.append({"step": step, "loss": loss.item(), "grad_norm": norm, **numbers, "seconds": time.perf_counter() - begin})
        bar.update(step, "  ".join(f"{name} {value:.3f}" for name, value in {"loss": loss.item(), **numbers}.items()))
        if state and (step % save_every == 0 or step == n_steps):
            save_state(state, key, step, model, optimizers, log)
    model.eval()
    return log
