"""Fit the law of Hoffmann et al. (2022), L(N, D) = E + A/N^alpha + B/D^beta, and say how sure the fit is.

Their approach 3 (section 3.3 of Training Compute-Optimal Large Language Models, arXiv 2203.15556): the Huber
loss of log-loss residuals, the law written as a log-sum-exp, L-BFGS from many starts. Two points of Besiroglu
et al. (2024, arXiv 2404.10102), who found the published fit wrong, are followed: the residuals are summed,
not averaged (averaging made the optimizer stop early), and the intervals come from a bootstrap over runs.

    python 05_scaling/chinchilla.py --csv runs.csv --bootstraps 4000      # a file with columns N, D, loss
"""
import csv
import time
from dataclasses import dataclass

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np

from lbfgs import minimize

NAMES = ("E", "A", "alpha", "B", "beta")


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta, N in parameters, D in training tokens."""
    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, N, D):
        """The loss of N parameters trained on D tokens (numbers or arrays)."""
        N, D = np.asarray(N, dtype=float), np.asarray(D, dtype=float)
        with np.errstate(over="ignore"):                  # a fit that is not determined may give infinity
            of_size = np.exp(np.log(self.A) - self.alpha * np.log(N))
            return self.E + of_size + np.exp(np.log(self.B) - self.beta * np.log(D))


# The refit of the runs of Hoffmann et al. by Besiroglu et al. (2024), as they print it.
BESIROGLU = Law(E=1.82, A=482, alpha=0.348, B=2085, beta=0.366)


@dataclass(frozen=True)
class Fit:
    """A fitted law with what is needed to judge it."""
    law: Law
    residual: float       # typical relative error on the fitted runs (degrees of freedom counted)
    condition: float      # of the Jacobian by log E, log A, alpha, log B, beta: large = not determined
    theta: np.ndarray     # (5,), or (4,) when E is given: the fitted numbers in centred logs

    @property
    def determined(self) -> bool:
        """False when some combination of the parameters could be changed a lot without changing the fit."""
        return self.condition < 1e4


def log_law(theta: np.ndarray, n: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log of the law, and the share of the loss that each of its three terms has.

    theta (R, 5) holds e, a, alpha, b, beta; n and d (P,) or (R, P) are log N and log D. f = log(exp(e) +
    exp(a - alpha n) + exp(b - beta d)), (R, P), and shares (3, R, P), which are its derivatives by e, a
    and b. Computed by subtracting the largest exponent, so that nothing overflows.
    """
    # EXERCISE 5.8 log-sum-exp of the law
    e, a, alpha, b, beta = (column[:, None] for column in theta.T)
    terms = np.stack(np.broadcast_arrays(e + 0 * n, a - alpha * n, b - beta * d))     # (3, R, P)
    top = terms.max(0)
    weights = np.exp(terms - top)
    total = weights.sum(0)
    return top + np.log(total), weights / total
    # END EXERCISE 5.8


def huber(residual: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Huber's loss and its derivative: r^2/2 up to |r| = delta, then the straight line delta (|r| - delta/2).

    Any shape; a run far off the law pulls with force delta, however far off it is (Huber 1964).
    """
    # EXERCISE 5.3 Huber loss
    pull = np.clip(residual, -delta, delta)
    return pull * (residual - pull / 2), pull
    # END EXERCISE 5.3


def objective(n: np.ndarray, d: np.ndarray, y: np.ndarray, delta: float):
    """What lbfgs.minimize wants: summed Huber loss of log_law - y and its gradient by theta (R, 5 or 4).

    n, d, y: (P,) for the same data in every problem, or (R, P) for each its own. Four columns mean no E.
    """
    def function(theta: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_, d_, y_ = (v if v.ndim == 1 else v[rows] for v in (n, d, y))
        f, shares = log_law(with_e(theta), n_, d_)
        value, pull = huber(f - y_, delta)
        ge, ga, gb = pull * shares                                                       # (R, P) each
        gradient = np.stack([ge.sum(1), ga.sum(1), -(ga * n_).sum(1), gb.sum(1), -(gb * d_).sum(1)], 1)
        return value.sum(1), gradient[:, -theta.shape[1]:]
    return function


def with_e(theta: np.ndarray) -> np.ndarray:
    """theta (R, 4) with a first column e = log 0, so that (R, 5) comes out; (R, 5) as it is."""
    return theta if theta.shape[1] == 5 else np.insert(theta, 0, -np.inf, axis=1)


def check(N, D, loss, free: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The runs as float arrays, or a ValueError that says why they cannot determine `free` parameters."""
    N, D, loss = (np.asarray(v, dtype=np.float64) for v in (N, D, loss))
    if N.ndim != 1 or not N.shape == D.shape == loss.shape:
        raise ValueError(f"N, D and loss have the shapes {N.shape}, {D.shape} and {loss.shape}: give one of "
                         "each for every run")
    for name, v in (("N", N), ("D", D), ("loss", loss)):
        bad = np.flatnonzero(~(np.isfinite(v) & (v > 0)))
        if len(bad):
            raise ValueError(f"run {bad[0] + 1} has {name} = {v[bad[0]]}: the law is fitted in logarithms, "
                             "so every N, D and loss must be a positive number: repair or remove the run")
    distinct = len(set(zip(N, D)))
    if distinct < free:
        raise ValueError(f"{distinct} different (N, D) can't determine {free} parameters: add runs")
    for name, v, term in (("N", N, "A and alpha"), ("D", D, "B and beta")):
        if len(set(v)) == 1:
            raise ValueError(f"all runs have {name} = {v[0]:g}, so {term} are not determined: "
                             f"add runs of another {name}")
    return N, D, loss


def fit(N, D, loss, E: float | None = None, delta: float = 1e-3) -> Fit:
    """Fit the law to runs (P,).

    With E given the other four are fitted, to loss - E, whose log is then compared.

    Raises ValueError when the runs cannot determine the parameters; see also Fit.determined.
    """
    free = 5 if E is None else 4
    if E is not None and np.any(np.asarray(loss) <= E):
        raise ValueError(f"a loss of {np.nanmin(loss):g} is not above the entropy {E:g}, which none can "
                         "reach: give a smaller entropy")
    N, D, loss = check(N, D, np.asarray(loss, dtype=np.float64) - (E or 0), free)
    n, d, y = np.log(N), np.log(D), np.log(loss)
    n0, d0 = n.mean(), d.mean()                       # centred, or A and alpha could hardly be told apart
    mean = loss.mean()
    starts = np.array([(np.log(floor * loss.min()), np.log(share * mean), alpha,
                        np.log((1 - share) * mean), beta)
                       for floor in (0.1, 0.3, 0.5, 0.7, 0.9) for share in (0.2, 0.5, 0.8)
                       for alpha in (0.2, 0.5, 0.9) for beta in (0.2, 0.5, 0.9)])
    if E is not None:
        starts = starts[:27, 1:]                      # E is already subtracted
    thetas, values = minimize(objective(n - n0, d - d0, y, delta), starts)
    theta = thetas[values.argmin()]
    f, shares = log_law(with_e(theta[None]), n - n0, d - d0)
    e, a, b = shares[:, 0]
    columns = np.stack([e, a, -a * (n - n0), b, -b * (d - d0)][5 - free:], 1)            # (P, free)
    singular = np.linalg.svd(columns, compute_uv=False)
    residual = np.sqrt(np.square(f[0] - y).sum() / max(1, len(y) - free))
    law = to_law(theta, n0, d0, E)
    return Fit(law, float(residual), float(singular[0] / max(singular[-1], 1e-300)), theta)


def to_law(theta: np.ndarray, n0: float, d0: float, E: float | None) -> Law:
    """Undo the centring: exp(a - alpha (n - n0)) = exp(a + alpha n0) / N^alpha."""
    e, a, alpha, b, beta = with_e(theta[None])[0]
    # runs that determine nothing give any exponent
    A, B = np.exp(np.clip((a + alpha * n0, b + beta * d0), -700, 700))
    E = float(np.exp(max(e, -700.0))) if E is None else E
    return Law(E, float(A), float(alpha), float(B), float(beta))


def resample(n_runs: int, n_replicas: int, rng: np.random.Generator) -> np.ndarray:
    """(n_replicas, n_runs) indices: each replica draws n_runs of the runs with replacement (Efron 1979)."""
    return rng.integers(n_runs, size=(n_replicas, n_runs))


def interval(values: np.ndarray, level: float = 0.9) -> tuple[float, float]:
    """The percentile interval: the part of the sorted values that leaves out (1 - level) / 2 at each end."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(N, D, loss, fitted: Fit, replicas: int, seed: int = 0, delta: float = 1e-3) -> list[Law]:
    """The law refitted to `replicas` resamplings of the runs, at once, each starting at the fit of all."""
    E = fitted.law.E if len(fitted.theta) == 4 else None
    n, d, y = np.log(N), np.log(D), np.log(np.asarray(loss) - (E or 0))
    n0, d0 = n.mean(), d.mean()
    chosen = resample(len(n), replicas, np.random.default_rng(seed))                     # (R, P)
    function = objective((n - n0)[chosen], (d - d0)[chosen], y[chosen], delta)
    thetas, _ = minimize(function, np.repeat(fitted.theta[None], replicas, 0), tolerance=1e-6)
    return [to_law(theta, n0, d0, E) for theta in thetas]


def read_runs(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns N, D and loss of a CSV file, as people and spreadsheets write them; others are ignored."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:   # without Excel's mark in front
            rows = [{str(name).strip(): value for name, value in row.items()} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} can't be read ({error}): save it as CSV in UTF-8") from None
    if not rows or not {"N", "D", "loss"} <= set(rows[0]):
        raise ValueError(f"{path} needs a header line with the columns N, D and loss, then one run a line, "
                         "with commas between them")
    try:
        N, D, loss = (np.array([float(row[name]) for row in rows]) for name in ("N", "D", "loss"))
    except (TypeError, ValueError):
        raise ValueError(f"{path}: some N, D or loss is not a number: every line needs all three") from None
    return N, D, loss


def published_like_runs(seed: int, noise: float = 0.01, n: int = 245) -> tuple[np.ndarray, ...]:
    """N, D, loss of made-up runs that follow the published refit, at the original's sizes and budgets."""
    rng = np.random.default_rng(seed)
    N = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), n))
    D = np.exp(rng.uniform(np.log(6e18), np.log(3e21), n)) / 6 / N
    return N, D, BESIROGLU.loss(N, D) * np.exp(rng.normal(0, noise, n))


@dataclass
class Settings:
    """What to fit, and how often to resample."""
    csv: str = ""  # file with the columns N, D, loss; without it, made-up runs that follow a published law
    entropy: float = setting(0.0, least=0)  # the irreducible loss, where it is known; 0: fit it
    bootstraps: int = 1000  # resamplings of the runs for the intervals
    delta: float = 1e-3  # Huber's delta, in units of log loss
    seed: int = setting(0, least=0)  # of the resampling


def main() -> None:
    """Fit a CSV, or runs made from the published law, and print the constants with their intervals."""
    settings = parse_settings(Settings, __doc__)
    if not settings.csv:
        print(f"no --csv: runs made from {BESIROGLU} with 1% noise")
    N, D, loss = read_runs(settings.csv) if settings.csv else published_like_runs(settings.seed)
    fitted = fit(N, D, loss, settings.entropy or None, settings.delta)
    begin = time.process_time()
    laws = bootstrap(N, D, loss, fitted, settings.bootstraps, settings.seed, settings.delta)
    print(f"{len(N)} runs, typical error {fitted.residual:.2%}, condition number {fitted.condition:.3g}; "
          f"{settings.bootstraps} bootstraps in {time.process_time() - begin:.1f} CPU-seconds")
    for name in NAMES:
        low, high = interval(np.array([getattr(law, name) for law in laws]))
        print(f"  {name:<6} {getattr(fitted.law, name):>10.4g}   90% interval {low:.4g} to {high:.4g}")
    if not fitted.determined:
        print("  NOT DETERMINED (condition number above 1e4): very different parameters fit these runs "
              "almost as well. Vary N and D independently.")


if __name__ == "__main__":
    run_main(main)
