"""How the learning rate moves: up at the start, down at the end. Each function gives the factor of one step.

Cosine: Loshchilov and Hutter 2017. Constant then decay ("warm-up, stable, decay"): Hu et al. 2024, MiniCPM
(section 4).

    python 03_training/run.py --schedule cosine
"""
import math


def warmup(step: int, n_warmup: int) -> float:
    """1/n, 2/n, ... 1, then 1: the first steps are short while the optimizer's averages fill."""
    return min(1.0, (step + 1) / max(n_warmup, 1))


def cosine(step: int, n_steps: int, n_warmup: int, floor: float = 0.02) -> float:
    """Warm-up, then half a cosine wave from 1 down to `floor` at the last step; `floor` also after it."""
    # EXERCISE 3.3 cosine schedule
    if step < n_warmup:
        return warmup(step, n_warmup)
    progress = min((step - n_warmup) / max(n_steps - 1 - n_warmup, 1), 1.0)   # the wave rises again after 1
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    # END EXERCISE 3.3


def constant_then_decay(step: int, n_steps: int, n_warmup: int, decay: float = 0.5,
                        floor: float = 0.02) -> float:
    """Warm-up, then 1, then a straight line down to `floor` over the last `decay` share of the steps."""
    # EXERCISE 3.2 constant, then decay
    n_decay = max(int(n_steps * decay), 1)
    return max(floor, min(warmup(step, n_warmup), (n_steps - step) / n_decay))
    # END EXERCISE 3.2


def linear(step: int, n_steps: int, n_warmup: int, floor: float = 0.02) -> float:
    """Warm-up, then a straight line from 1 down to `floor` at the last step; `floor` also after it."""
    # EXERCISE 3.17 linear schedule
    if step < n_warmup:
        return warmup(step, n_warmup)
    progress = min((step - n_warmup) / max(n_steps - 1 - n_warmup, 1), 1.0)
    return 1 - (1 - floor) * progress
    # END EXERCISE 3.17


SCHEDULES = {"cosine": cosine, "constant": constant_then_decay, "linear": linear}
