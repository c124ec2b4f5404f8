"""L-BFGS for many small problems at once: all starts of a fit, or all its bootstrap replicas, in one array.

Liu and Nocedal, On the limited memory BFGS method (1989): the step is minus an approximate inverse Hessian
times the gradient, built from the last few steps and gradient changes by the two-loop recursion (Nocedal and
Wright, Numerical Optimization, algorithm 7.4). Backtracking makes every step decrease the function.

    python 05_scaling/chinchilla.py --help       the fit that uses it
"""
from collections.abc import Callable

import numpy as np


def two_loop(gradient: np.ndarray, steps: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The L-BFGS direction (R, n) of R problems: minus the approximate inverse Hessian times gradient (R, n).

    steps and changes (m, R, n) hold the last m steps s and gradient changes y, oldest first. A pair with
    s.y = 0 (an empty slot) is ignored; with none left the direction is -gradient.
    """
    # EXERCISE 5.9 the two-loop recursion
    direction = gradient.copy()                                          # (R, n)
    products = (steps * changes).sum(-1)                                 # (m, R), s.y
    rho = np.divide(1.0, products, out=np.zeros_like(products), where=products > 0)
    alphas = []
    for s, y, r in zip(steps[::-1], changes[::-1], rho[::-1]):           # newest to oldest
        alphas.append(r * (s * direction).sum(-1))                       # (R,)
        direction -= alphas[-1][:, None] * y
    scale = np.ones(len(gradient))
    for y, r in zip(changes, rho):                                       # the newest pair has the last word
        scale = np.where(r > 0, 1 / np.maximum(r * (y * y).sum(-1), 1e-300), scale)
    direction *= scale[:, None]
    for s, y, r, alpha in zip(steps, changes, rho, alphas[::-1]):        # oldest to newest
        direction += (alpha - r * (y * direction).sum(-1))[:, None] * s
    return -direction
    # END EXERCISE 5.9


def minimize(function: Callable, x: np.ndarray, iterations: int = 1000, memory: int = 8,
             tolerance: float = 1e-10) -> tuple[np.ndarray, np.ndarray]:
    """Minimise R functions of n variables from x (R, n); returns the points (R, n) and the values (R,).

    function(x (r, n), rows (r,)) gives values (r,) and gradients (r, n) of the functions numbered `rows`.
    A problem stops when three steps in a row gain less than `tolerance` of its value, or when no step
    along its gradient gains.
    """
    x = np.array(x, dtype=np.float64)
    R, n = x.shape
    value, gradient = function(x, np.arange(R))
    steps, changes = np.zeros((memory, R, n)), np.zeros((memory, R, n))
    patience = np.full(R, 3)
    for _ in range(iterations):
        rows = np.flatnonzero(patience > 0)
        if len(rows) == 0:
            break
        direction = two_loop(gradient[rows], steps[:, rows], changes[:, rows])
        slope = (direction * gradient[rows]).sum(1)
        uphill = ~(slope < 0)
        direction[uphill], slope[uphill] = -gradient[rows][uphill], -np.square(gradient[rows][uphill]).sum(1)
        longest = np.abs(direction).max(1)
        fraction = np.minimum(1.0, 1.0 / np.maximum(longest, 1e-300))       # no variable moves by more than 1
        new_x, new_value, new_gradient = x[rows].copy(), value[rows].copy(), gradient[rows].copy()
        waiting = np.arange(len(rows))
        for _ in range(40):                                             # halve until the value has decreased
            trial = x[rows[waiting]] + fraction[waiting, None] * direction[waiting]
            v, g = function(trial, rows[waiting])
            good = v <= value[rows[waiting]] + 1e-4 * fraction[waiting] * slope[waiting]
            done, waiting = waiting[good], waiting[~good]
            new_x[done], new_value[done], new_gradient[done] = trial[good], v[good], g[good]
            if len(waiting) == 0:
                break
            fraction[waiting] *= 0.5
        s, y = new_x - x[rows], new_gradient - gradient[rows]
        flat = (s * y).sum(1) <= 1e-12 * np.sqrt((s * s).sum(1) * (y * y).sum(1))
        y[flat] = 0                                                             # keep only positive curvature
        steps[:-1, rows], changes[:-1, rows] = steps[1:, rows], changes[1:, rows]
        steps[-1, rows], changes[-1, rows] = s, y
        steps[:, rows[waiting]] = 0                                # stuck: forget, try the gradient once
        small = value[rows] - new_value <= tolerance * np.abs(new_value) + 1e-300
        patience[rows] = np.where(small, patience[rows] - 1, 3)
        x[rows], value[rows], gradient[rows] = new_x, new_value, new_gradient
    return x, value
