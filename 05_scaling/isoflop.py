"""Other ways to read a sweep: the lower envelope, isoFLOP parabolas, Kaplan's form and what misled it.

Hoffmann et al. (2022), sections 3.1 and 3.2: which size is best at each compute C = 6 N D, first as the
lowest of all loss curves, then as the bottom of a parabola through the sizes at one C. Kaplan et al. (arXiv
2001.08361) fitted a form without an irreducible loss, counted parameters without the embeddings, and used
losses of unfinished schedules.

    python 05_scaling/run.py        prints all of them on the same runs
"""
from dataclasses import dataclass

import numpy as np

from lbfgs import minimize


@dataclass(frozen=True)
class Frontier:
    """Optimal size against compute: N_opt = scale * C^exponent, and the points it was fitted to."""
    compute: np.ndarray    # (K,) FLOPs
    size: np.ndarray       # (K,) best N at each
    loss: np.ndarray       # (K,) the loss there
    exponent: float


def curves(N: np.ndarray, D: np.ndarray, loss: np.ndarray) -> dict[float, tuple[np.ndarray, float, float]]:
    """For each size its log loss as a quadratic in log D (for np.polyval), and the range of D.

    Runs of one size whose D agree to 1% (several seeds) count as one D. Raises ValueError below three D at
    a size.
    """
    found = {}
    for size in sorted(set(N)):
        d, y = np.log(D[N == size]), np.log(loss[N == size])
        if len(set(np.round(d, 2))) < 3:
            raise ValueError(f"size N = {size:g} was run at fewer than 3 token counts: add some")
        found[size] = (np.polyfit(d, y, 2), np.exp(d.min()), np.exp(d.max()))
    return found


def slice_at(compute: float, found: dict, slack: float = 1.1) -> tuple[np.ndarray, np.ndarray]:
    """The sizes whose curve reaches this compute (D = C / 6N within its range) and their losses there."""
    sizes, losses = [], []
    for size, (curve, low, high) in found.items():
        D = compute / (6 * size)
        if low / slack <= D <= high * slack:
            sizes.append(size)
            losses.append(np.exp(np.polyval(curve, np.log(D))))
    return np.array(sizes), np.array(losses)


def frontier(compute: list[float], size: list[float], loss: list[float]) -> Frontier:
    """The points with their exponent, size = scale * compute^exponent, by least squares of the logarithms."""
    if len(compute) < 3:
        raise ValueError(f"only {len(compute)} slices have their optimum inside the sizes: widen the grid")
    exponent = float(np.polyfit(np.log(compute), np.log(size), 1)[0])
    return Frontier(np.array(compute), np.array(size), np.array(loss), exponent)


def envelope(N, D, loss, n_slices: int = 200) -> Frontier:
    """Approach 1: at many values of compute, the size whose curve is lowest.

    Slices that an end size wins are left out.
    """
    N, D, loss = map(np.asarray, (N, D, loss))
    found = curves(N, D, loss)
    compute, best, lowest = [], [], []
    for C in np.geomspace(6 * (N * D).min(), 6 * (N * D).max(), n_slices):
        sizes, losses = slice_at(C, found)
        if len(sizes) >= 3 and 0 < losses.argmin() < len(sizes) - 1:
            compute.append(C)
            best.append(sizes[losses.argmin()])
            lowest.append(losses.min())
    return frontier(compute, best, lowest)


def parabola_minimum(log_size: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
    """The bottom (position, height) of the least-squares parabola through loss (K,) against log N (K,).

    Raises ValueError when it opens downwards or has its bottom outside the sizes that were run: then this
    slice of the sweep does not contain its own optimum and says nothing about it.
    """
    # EXERCISE 5.6 isoFLOP parabola
    middle = log_size.mean()
    a, b, c = np.polyfit(log_size - middle, loss, 2)
    bottom = -b / (2 * a) if a > 0 else np.inf
    if not log_size.min() <= bottom + middle <= log_size.max():
        raise ValueError("the parabola has no minimum among the sizes that were run")
    return float(bottom + middle), float(c - b * b / (4 * a))
    # END EXERCISE 5.6


def isoflop(N, D, loss, n_slices: int = 15) -> Frontier:
    """Approach 2: at several values of compute a parabola through the sizes; its bottom is the best size."""
    N, D, loss = map(np.asarray, (N, D, loss))
    found = curves(N, D, loss)
    compute, best, lowest = [], [], []
    for C in np.geomspace(6 * (N * D).min(), 6 * (N * D).max(), n_slices + 2)[1:-1]:
        sizes, losses = slice_at(C, found)
        if len(sizes) < 4:
            continue
        try:
            bottom, height = parabola_minimum(np.log(sizes), losses)
        except ValueError:
            continue
        compute.append(C)
        best.append(np.exp(bottom))
        lowest.append(height)
    return frontier(compute, best, lowest)


@dataclass(frozen=True)
class Kaplan:
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D, no E (Kaplan et al. 2020, eq. 1.5)."""
    N_c: float
    alpha_N: float
    D_c: float
    alpha_D: float

    def loss(self, N, D):
        """The loss of N parameters trained on D tokens (numbers or arrays)."""
        size = (self.N_c / np.asarray(N)) ** (self.alpha_N / self.alpha_D)
        return (size + self.D_c / np.asarray(D)) ** self.alpha_D


def fit_kaplan(N, D, loss) -> Kaplan:
    """Least squares of log loss, from several starts."""
    n, d, y = (np.log(np.asarray(v, dtype=float)) for v in (N, D, loss))
    n0, d0 = n.mean(), d.mean()

    def function(theta, rows):
        p, r, q, alpha = (column[:, None] for column in theta.T)      # f = alpha log(e^(p - r n) + e^(q - d))
        u, v = p - r * (n - n0), q - (d - d0)
        total = np.logaddexp(u, v)                                    # (R, P)
        residual = alpha * total - y
        gu, gv = residual * alpha * np.exp(u - total), residual * alpha * np.exp(v - total)
        gradient = [gu.sum(1), -(gu * (n - n0)).sum(1), gv.sum(1), (residual * total).sum(1)]
        return 0.5 * np.square(residual).sum(1), np.stack(gradient, 1)

    starts = np.array([(p, r, 0.0, alpha) for p in (-1.0, 1.0) for r in (0.5, 1.0) for alpha in (0.1, 0.3)])
    thetas, values = minimize(function, starts)
    p, r, q, alpha = thetas[values.argmin()]
    return Kaplan(float(np.exp(n0 + p / r)), float(r * alpha), float(np.exp(q + d0)), float(alpha))
