"""The training loop of every stage: loss, gradients, clipping, a step, a log line, now and then a checkpoint.

What differs between pretraining, supervised fine-tuning and reinforcement learning is the loss of a step, so
the loop takes it as a function. `loss_of(step)` must depend on nothing but the step and the weights: then a
run that is killed and continued gives the same bits as one that was not.

The loop never asks for a number that nobody looks at. On a GPU, Python only *asks* for work; reading a loss
would stop it until all that work is done, and the GPU would then idle until Python has asked for more. So
losses stay on the device and are read together when a line is due, a checkpoint is written, or the run ends.

    python 03_training/run.py              pretrains with it
"""
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from checkpoint import load_state, save_state
from clipping import clip_gradients
from loss_log import Pending, describe, first_bad
from mixture_of_experts import move_biases
from precision import LossScaler
from transformer import Transformer
from workbench import Progress

LossOf = Callable[[int], "Tensor | tuple[Tensor, dict]"]


def train(model: Transformer, optimizers: list, loss_of: LossOf, n_steps: int,
          scale_of: Callable[[int], float], label: str, clip: float = 1.0, state: Path | None = None,
          key: str = "", save_every: int = 50, scaler: LossScaler | None = None, on_bad: str = "stop",
          spike: float = float("inf"), watch: Callable[[int], None] | None = None) -> list[dict]:
    """Train for `n_steps`; returns the log, one {"step", "loss", "grad_norm", "seconds"} a step.

    `loss_of(step)` gives the loss, or the loss and a dictionary of numbers that go into the log beside it.
    With `state` the run saves itself there every `save_every` steps and continues from it when called again
    with the same `key`. `scaler` is for fp16. A loss that is not finite, or `spike` times the usual one, is
    bad: "stop" raises ValueError, "rollback" goes back to the last state and leaves out the steps up to the
    bad one (Chowdhery et al. 2022, section 5.1). `watch(step)` is called after every state that was saved.
    """
    keepers = [*optimizers, scaler] if scaler else optimizers   # what has a state of its own
    step, log = load_state(state, key, model, keepers) if state else (0, [])
    bar, pending = Progress(label, n_steps, step), Pending()
    model.train()
    while step < n_steps:
        result = loss_of(step)
        loss, numbers = result if isinstance(result, tuple) else (result, {})
        for p in model.parameters():
            p.grad = None
        (loss if scaler is None else loss * scaler.factor).backward()
        taken = scaler is None or scaler.unscale(model.parameters())
        norm = clip_gradients(model.parameters(), clip) if taken else 0.0
        for optimizer in optimizers if taken else ():
            optimizer.step(scale_of(step))
        move_biases(model)   # of experts that are balanced without a loss
        step += 1
        pending.add(step, loss, norm, numbers)
        saving = state and (step % save_every == 0 or step == n_steps)
        if saving or bar.due(step):
            rows = pending.read()   # waits for the device
            log += rows
            bad = first_bad(log, len(rows), spike)
            if bad is not None:
                log = go_back(log, bad, on_bad, state, key, model, keepers)
                step = log[-1]["step"]
            hidden = ("step", "grad_norm", "seconds")
            shown = {name: value for name, value in log[-1].items() if name not in hidden}
            bar.update(step, "  ".join(f"{name} {value:.3f}" for name, value in shown.items()))
            if state and (saving or bad is not None):
                save_state(state, key, step, model, keepers, log)
                if watch:
                    watch(step)
    model.eval()
    return log


def go_back(log: list[dict], bad: int, on_bad: str, state: Path | None, key: str, model: Transformer,
            keepers: list) -> list[dict]:
    """The log up to the bad row; the last state is back in the model, so the steps since are left out.

    Raises ValueError where the run is to stop at a bad step, or has no state to go back to.
    """
    said = describe(log[bad])
    if on_bad != "rollback" or state is None or not state.exists():
        raise ValueError(f"{said}: lower the learning rate, or look for a division by zero in the loss"
                         + (f"; the last good state is in {state}" if state and state.exists() else ""))
    print(f"  {said}: going back, and on without the steps that led to it", flush=True)
    load_state(state, key, model, keepers)
    return log[:bad + 1]
