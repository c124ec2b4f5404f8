"""How much of which source: weights, temperature, epochs, a search with small proxy runs, and the token file.

Comes after pipeline.py, when the sources are clean but far from equal in size. A mixture is a share of the
training tokens for each source; sharing by size starves the small ones, sharing equally repeats them too
often; the temperature lies between, and a cap on epochs keeps repetition harmless (Muennighoff et al. 2023:
up to about 4).

Sources: temperature: Conneau et al. 2020 (XLM-R); capped epochs: Chung et al. 2023 (UniMax); proxy runs and
regression: Liu et al. 2024 (RegMix), Xie et al. 2023 (DoReMi).

    python 06_data/run.py                  searches the weights and writes out/06_data/train.bin
"""
from collections.abc import Callable

import numpy as np


def temperature_weights(sizes: dict[str, float], temperature: float) -> dict[str, float]:
    """Shares proportional to size^(1/temperature): 1 is by size, infinity is equal."""
    if temperature < 1:
        raise ValueError(f"temperature {temperature} is below 1: it would make large sources larger still")
    # EXERCISE 6.1 temperature
    powers = {name: size ** (1 / temperature) if size > 0 else 0.0 for name, size in sizes.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}
    # END EXERCISE 6.1


def epochs(weights: dict[str, float], sizes: dict[str, float], total: float) -> dict[str, float]:
    """How often each source is read when `total` tokens are drawn with these weights."""
    return {name: weights[name] * total / sizes[name] for name in weights}


def cap_epochs(weights: dict[str, float], sizes: dict[str, float], total: float,
               most: float) -> dict[str, float]:
    """The weights, so changed that no source is read more than `most` times; the others share the rest.

    Raises ValueError if all sources that have a weight are together too small for that.
    """
    if sum(sizes[name] for name, weight in weights.items() if weight > 0) * most < total:
        raise ValueError(f"{total:.0f} tokens need more than {most} epochs of everything that has a weight: "
                         "allow more, or train on less")
    # EXERCISE 6.12 a cap on epochs
    capped: dict[str, float] = {}
    while True:
        free = {n: w for n, w in weights.items() if n not in capped}
        left = (1 - sum(capped.values())) / (sum(free.values()) or 1)
        over = {n: most * sizes[n] / total for n, w in free.items()
                if w * left > most * sizes[n] / total + 1e-12}
        # capping one raises the others: repeat until none is over
        if not over:
            return {n: capped.get(n, weights[n] * left) for n in weights}
        capped |= over
    # END EXERCISE 6.12


def sample_documents(sources: dict[str, list[np.ndarray]], weights: dict[str, float], total: int,
                     seed: int) -> np.ndarray:
    """About `total` tokens, (N,) uint16: whole documents by the weights, each source shuffled every epoch.

    At each step the source that is furthest behind its share gives its next document, so every stretch of the
    stream has the mixture of the whole. The same seed gives the same tokens.
    """
    if abs(sum(weights.values()) - 1) > 1e-6:
        raise ValueError(f"the weights add up to {sum(weights.values()):.4f}, not 1: divide by their sum")
    empty = [n for n, w in weights.items() if w > 0 and not sum(map(len, sources[n]))]
    if empty:
        raise ValueError(f"source {empty[0]} has weight but no text: give it weight 0")
    rng = np.random.default_rng(seed)
    queues: dict[str, list[int]] = {n: [] for n in weights}
    taken, out = {n: 0 for n, w in weights.items() if w > 0}, []
    while sum(taken.values()) < total:
        name = min(taken, key=lambda n: (taken[n] / weights[n], n))
        if not queues[name]:
            queues[name] = rng.permutation(len(sources[name])).tolist()
        document = sources[name][queues[name].pop()]
        out.append(document)
        taken[name] += len(document)
    return np.concatenate(out)


def search_weights(names: list[str], score: Callable[[dict[str, float]], float], runs: int, seed: int,
                   least: float = 0.05) -> tuple[dict[str, float], list[tuple[dict[str, float], float]]]:
    """Weights that a regression on `runs` proxy runs expects to score lowest, and the runs themselves.

    Mixtures are spread over the simplex; log-linear in w and w log w (a share helps less the more there is);
    the best of many random mixtures *near those tried* is taken.
    """
    rng = np.random.default_rng(seed)

    def draw(n: int) -> np.ndarray:
        return least + (1 - least * len(names)) * rng.dirichlet(np.ones(len(names)), n)    # (n, sources)

    def features(w: np.ndarray) -> np.ndarray:
        return np.concatenate([w, w * np.log(w)], axis=1)                                  # (n, 2 sources)
    tried = draw(runs)
    results = [(dict(zip(names, map(float, w))), float(score(dict(zip(names, map(float, w))))))
               for w in tried]
    x, y = features(tried), np.array([s for _, s in results])
    # ridge: few runs, many terms
    coefficients = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ y)
    options = np.concatenate([draw(2000), tried])
    best = options[np.argmin(features(options) @ coefficients)]
    return dict(zip(names, map(float, best))), results
