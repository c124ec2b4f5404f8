"""Learn a Unigram tokenizer: begin with too many tokens, estimate probabilities, drop what matters least.

Adds the training to unigram.py (Kudo 2018, section 3.2). Which segmentation a text "has" is hidden, so the
probabilities come from expectation maximisation (Dempster, Laird, Rubin 1977): count each token in all
segmentations, weighted by how probable they are now (forward-backward), and take the counts for new
probabilities. The likelihood of the text never falls.

    python 01_tokenizer/unigram.py         trains one
"""
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable

from piece_counts import count_pieces
from pretokenize import PATTERN
from unigram import UNKNOWN_PENALTY, viterbi

LONGEST = 16          # characters of the longest token
CUT = 32              # longer pieces are cut here for training only: a product of at most 32 probabilities
COVERAGE = 0.9995     # share of the text's characters that have a token of their own; the rest is bytes
SEEDS = 8             # tokens to begin with, times those wanted
KEEP = 0.75           # share of the tokens that survives one round


def expected_counts(words: dict[str, int], p: dict[str, float]) -> tuple[dict[str, float], float]:
    """The expected uses of each token over all segmentations of `words`, and the words' log-likelihood.

    forward[i]: the summed probability of all segmentations of word[:i]; backward[i]: of word[i:]. A token
    from i to j is used with probability forward[i] p backward[j] / forward[end]. Each word must have a
    segmentation.
    """
    # EXERCISE 1.12 one step of EM
    longest = max(map(len, p))
    counts, likelihood = dict.fromkeys(p, 0.0), 0.0
    for word, times in words.items():
        n = len(word)
        edges = [(i, j, p[word[i:j]]) for i in range(n) for j in range(i + 1, min(n, i + longest) + 1)
                 if word[i:j] in p]
        forward, backward = [1.0] + [0.0] * n, [0.0] * n + [1.0]
        for i, j, probability in edges:
            forward[j] += forward[i] * probability
        for i, j, probability in reversed(edges):
            backward[i] += backward[j] * probability
        likelihood += times * math.log(forward[n])
        for i, j, probability in edges:
            counts[word[i:j]] += times * forward[i] * probability * backward[j] / forward[n]
    return counts, likelihood
    # END EXERCISE 1.12


def normalised(counts: dict[str, float], needed: set[str]) -> dict[str, float]:
    """Counts as probabilities. A token used less than half a time is dropped, unless it is `needed`."""
    kept = {t: max(n, 1e-3) for t, n in counts.items() if n >= 0.5 or t in needed}
    total = sum(kept.values())
    return {t: n / total for t, n in kept.items()}


def losses(counts: dict[str, float], p: dict[str, float], needed: set[str]) -> dict[str, float]:
    """The fall of the log-likelihood without each token, whose uses then take the best other segmentation."""
    logp = {t: math.log(x) for t, x in p.items()}
    unknown = min(logp.values()) - UNKNOWN_PENALTY
    lost = {}
    for token in p.keys() - needed:
        own = logp.pop(token)
        other = sum(logp.get(t, unknown) for t in viterbi(token, logp, LONGEST, unknown))
        logp[token] = own
        lost[token] = counts[token] * (own - other)
    return lost


def seed_counts(words: dict[str, int], n: int, needed: set[str]) -> dict[str, float]:
    """All `needed`, and the `n` substrings that cover most: length x occurrences, of which at least two."""
    counts = Counter()
    for word, times in words.items():
        for i in range(len(word)):
            for j in range(i + 1, min(len(word), i + LONGEST) + 1):
                counts[word[i:j]] += times
    found = [t for t in counts if len(t) > 1 and counts[t] > 1]
    found.sort(key=lambda t: (-counts[t] * len(t), t))
    return {t: float(counts[t]) for t in [*sorted(needed), *found[:n]]}


def frequent_characters(words: dict[str, int]) -> set[str]:
    """The most frequent characters that make up COVERAGE of the text, and all ASCII ones."""
    counts = Counter()
    for word, times in words.items():
        for character in word:
            counts[character] += times
    wanted, covered, chosen = COVERAGE * counts.total(), 0, set()
    for character, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered < wanted or character.isascii():
            chosen.add(character)
        covered += n
    return chosen


def train_unigram(texts: Iterable[str], vocab_size: int, pattern: str = PATTERN, processes: int = 1,
                  told: Callable[[int], None] = lambda tokens: None) -> dict[str, float]:
    """Learn {token: log-probability} for `vocab_size` tokens: 256 bytes and learned ones, no special ones.

    Raises ValueError for a text without characters or a vocabulary too small for its alphabet. `told` hears
    how many tokens are left after each round.
    """
    counted = count_pieces(texts, pattern, processes)
    if not counted:
        raise ValueError("the corpus is empty: a tokenizer is learned from text, give some")
    words = Counter()
    for piece, times in counted.items():
        for begin in range(0, len(piece), CUT):
            words[piece[begin:begin + CUT]] += times
    needed = frequent_characters(words)
    alphabet = sum(not c.isascii() for c in needed)
    if not hasattr(vocab_size, "__index__"):
        raise ValueError(f"vocab_size {vocab_size} is no whole number: give one from 256 on")
    wanted = vocab_size - 256   # tokens of more than one byte
    if wanted < alphabet:
        raise ValueError(f"vocab_size {vocab_size} is too small: 256 bytes and {alphabet} characters of "
                         f"this text need {256 + alphabet}")
    # What has no token is left out of the training: it will be bytes whatever the model says.
    words = {w: n for w, n in sorted(words.items()) if all(c in needed for c in w)}

    p = normalised(seed_counts(words, SEEDS * wanted, needed), needed)
    while True:
        for _ in range(2):
            counts, _ = expected_counts(words, p)
            p = normalised(counts, needed)
        size = sum(len(t.encode()) > 1 for t in p)
        told(size)
        if size <= wanted:
            if size < wanted:
                warnings.warn(f"the text has only {size} tokens that are used, not {wanted}: give more text "
                              "for more", stacklevel=2)
            return {t: math.log(x) for t, x in sorted(p.items(), key=lambda item: (-item[1], item[0]))}
        lost = losses(counts, p, needed)
        n = max(wanted - alphabet, int(KEEP * len(lost)))
        survivors = set(sorted(lost, key=lambda t: (-lost[t], t))[:n]) | needed
        p = normalised({t: counts[t] for t in p if t in survivors}, survivors)
