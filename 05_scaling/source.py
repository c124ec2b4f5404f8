"""A text source whose entropy is known exactly, so that a scaling law can be checked and not only fitted.

Shannon's experiment (A Mathematical Theory of Communication, 1948, section 3): an order-k Markov chain whose
next symbol depends on the last k, with the frequencies of a real text. The text is read in a circle, so every
window of k+1 symbols, wherever it starts, is a draw from the chain's stationary law, and the best loss any
model can reach is the conditional entropy H(k+1 symbols) - H(k symbols), a number and not an estimate.

    python 05_scaling/source.py --order 3        # the entropy by order, and a sample of what the chain writes
"""
from dataclasses import dataclass

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np

from corpus import real_text


def to_symbols(text: str, n_symbols: int = 64) -> tuple[np.ndarray, str]:
    """Lower-cased text as (n,) int64 symbols: the n_symbols-1 most frequent characters, and one for the rest.

    Also returns the alphabet, in which symbol i is character i and the last is "~" (everything else).
    """
    codes = np.frombuffer(text.lower().encode("latin-1", "replace"), dtype=np.uint8)
    kept = np.argsort(-np.bincount(codes, minlength=256), kind="stable")[:n_symbols - 1]
    table = np.full(256, n_symbols - 1)
    table[kept] = np.arange(len(kept))
    return table[codes], "".join(map(chr, kept)) + "~"


def entropy_rate(symbols: np.ndarray, order: int, n_symbols: int) -> float:
    """Entropy in nats of the next symbol given the last `order`, for the chain made of this circular text.

    symbols: (n,) integers below n_symbols. It is H(order+1) - H(order), where H(m) = -sum p log p over the
    frequencies p of the n windows of m symbols (Shannon 1948, section 7).
    """
    # EXERCISE 5.4 entropy rate of a Markov source
    def block_entropy(length: int) -> float:
        code = np.zeros(len(symbols), dtype=np.int64)
        for offset in range(length):                      # a window of `length` symbols as one number
            code = code * n_symbols + np.roll(symbols, -offset)
        p = np.unique(code, return_counts=True)[1] / len(symbols)
        return float(-(p * np.log(p)).sum())

    return block_entropy(order + 1) - block_entropy(order)
    # END EXERCISE 5.4


class MarkovSource:
    """The chain itself: windows to train on, and the whole table of contexts to evaluate on exactly.

    contexts (S, order) int64, weight (S,) float64 their stationary probabilities, table (S, V) float32 the
    probability of each next symbol, entropy in nats.
    """

    def __init__(self, symbols: np.ndarray, order: int = 3, n_symbols: int = 64):
        if not 1 <= order <= 8:
            raise ValueError(f"order {order} is outside 1 to 8: numbers of windows must fit in 64 bits")
        if len(symbols) <= order or symbols.min() < 0 or symbols.max() >= n_symbols:
            raise ValueError(f"the text needs more than {order} symbols, all from 0 to {n_symbols - 1}")
        self.order, self.n_symbols, self.symbols = order, n_symbols, symbols
        n = len(symbols)
        windows = np.stack([np.roll(symbols, -i) for i in range(order + 1)], axis=1)        # (n, order+1)
        code = windows[:, :order] @ (n_symbols ** np.arange(order)[::-1])
        _, first, state = np.unique(code, return_index=True, return_inverse=True)           # state: (n,)
        counts = np.zeros((len(first), n_symbols), dtype=np.float32)                        # (S, V)
        np.add.at(counts, (state, windows[:, order]), 1)
        self.windows, self.contexts = windows, windows[first, :order]
        self.weight = np.bincount(state) / n
        self.table = counts / counts.sum(1, keepdims=True)
        self.entropy = entropy_rate(symbols, order, n_symbols)
        self._by_state = np.argsort(state, kind="stable")
        self._start = np.concatenate([[0], np.cumsum(np.bincount(state))])
        self._state = state

    def batch(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """(size, order+1) independent windows from the stationary law, ever new: context and next symbol."""
        return self.windows[rng.integers(len(self.windows), size=size)]

    def sample(self, rng: np.random.Generator, length: int) -> np.ndarray:
        """(length,) symbols written by the chain: at a random place with the same context, copy the next."""
        position = int(rng.integers(len(self.symbols)))
        out = []
        for _ in range(length):
            s = self._state[position]
            position = int(self._by_state[rng.integers(self._start[s], self._start[s + 1])])
            out.append(self.windows[position, -1])
            position = (position + 1) % len(self.symbols)
        return np.array(out)


def documentation_source(order: int = 3) -> tuple[MarkovSource, str]:
    """The chapter's source, made from the documentation that every Python carries, and its alphabet."""
    symbols, alphabet = to_symbols("\n\n".join(real_text()))
    return MarkovSource(symbols, order), alphabet


@dataclass
class Settings:
    """Which source to show."""
    order: int = setting(3, least=1, most=8)  # symbols of context of the chain
    length: int = 300  # symbols to write
    seed: int = setting(0, least=0)  # of the sample


def main() -> None:
    """Print the entropy by order and a sample."""
    settings = parse_settings(Settings, __doc__)
    source, alphabet = documentation_source(settings.order)
    for order in range(settings.order + 2):
        print(f"order {order}: {entropy_rate(source.symbols, order, 64):.4f} nats per symbol")
    print(f"{len(source.symbols):,} symbols, {len(source.contexts):,} contexts of {settings.order}")
    text = source.sample(np.random.default_rng(settings.seed), settings.length)
    print("".join(alphabet[i] for i in text))


if __name__ == "__main__":
    run_main(main)
