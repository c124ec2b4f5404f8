"""Two judges of quality that are learned instead of written: a smoothed n-gram model and a linear classifier.

Comes after filters.py. `NgramModel` gives the perplexity of a text under good text (CCNet keeps the most
predictable third); `QualityClassifier` is a logistic regression on hashed word n-grams that separates good
text from the raw crawl (GPT-3, DCLM). Both see only which words occur: neither knows what is true.

Sources: Kneser and Ney 1995; Chen and Goodman 1999, equations for interpolated smoothing with one discount
per order; Wenzek et al. 2020 (CCNet); Joulin et al. 2017 (fastText); Brown et al. 2020, appendix A.

    python 06_data/run.py                  trains both and shows whom they reject
"""
import math
import re
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from likelihood import encode_pair

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
LOOKED_AT = 4000                       # characters of a text whose perplexity counts


def words_of(text: str) -> list[str]:
    """Lower-case words and single marks: "Don't stop." gives ["don't", "stop", "."]."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s]", text.lower())


class NgramModel:
    """Interpolated Kneser-Ney. `p(word, context)` sums to one over the vocabulary for every context."""

    def __init__(self, texts: list[str], order: int = 3, min_count: int = 2):
        if order < 1:
            raise ValueError(f"order is {order}: an n-gram model needs at least 1")
        sequences = [words_of(text) for text in texts]
        seen = Counter(w for words in sequences for w in words)
        self.order = order
        self.vocabulary = {w for w, c in seen.items() if c >= min_count} | {UNKNOWN, END}
        # Highest order: how often an n-gram occurs. Lower orders: after how many *different* words it occurs,
        # because they are consulted exactly when the longer context was never seen ("Francisco" follows one
        # word).
        self.counts: list[Counter] = [Counter() for _ in range(order + 1)]
        for words in sequences:
            padded = [START] * (order - 1) + [self._known(w) for w in words] + [END]
            for i in range(order - 1, len(padded)):
                self.counts[order][tuple(padded[i - order + 1:i + 1])] += 1
        for n in range(order - 1, 0, -1):
            for ngram in self.counts[n + 1]:
                self.counts[n][ngram[1:]] += 1
        # sum of counts after a context
        self.totals: list[dict] = [defaultdict(int) for _ in range(order + 1)]
        self.kinds: list[dict] = [defaultdict(int) for _ in range(order + 1)]        # distinct words after it
        for n in range(1, order + 1):
            for ngram, count in self.counts[n].items():
                self.totals[n][ngram[:-1]] += count
                self.kinds[n][ngram[:-1]] += 1
        self.discount = [0.0] + [self._discount(n) for n in range(1, order + 1)]

    def _known(self, word: str) -> str:
        return word if word in self.vocabulary else UNKNOWN

    def _discount(self, n: int) -> float:
        """n1 / (n1 + 2 n2): the leave-one-out estimate of Ney, Essen and Kneser (1994)."""
        times = Counter(self.counts[n].values())
        return times[1] / (times[1] + 2 * times[2]) if times[1] and times[2] else 0.5

    def p(self, word: str, context: tuple[str, ...]) -> float:
        """Probability of `word` after `context` (the last order - 1 words of it are used)."""
        # EXERCISE 6.10 kneser-ney
        word = self._known(word)
        context = tuple(self._known(w) if w != START else w for w in context)
        p = 1 / len(self.vocabulary)                         # below the shortest context: nothing is known
        for n in range(1, self.order + 1):
            tail = context[len(context) - n + 1:] if n > 1 else ()
            if len(tail) < n - 1 or not self.totals[n].get(tail):
                break                                        # never seen: the shorter context decides
            total, d = self.totals[n][tail], self.discount[n]
            direct = max(self.counts[n][(*tail, word)] - d, 0) / total
            p = direct + d * self.kinds[n][tail] / total * p
        return p
        # END EXERCISE 6.10

    def log_p(self, text: str) -> tuple[float, int]:
        """(sum of log-probabilities in nats, number of words) of a text, its end included."""
        words = [START] * (self.order - 1) + words_of(text) + [END]
        logs = [math.log(self.p(words[i], tuple(words[max(0, i - self.order + 1):i])))
                for i in range(self.order - 1, len(words))]
        return sum(logs), len(logs)

    def perplexity(self, text: str) -> float:
        """exp of the mean surprise of a word: 1 is perfectly predictable."""
        total, n = self.log_p(text)
        return math.exp(-total / n)

    def log_likelihood(self, context: str, continuation: str) -> tuple[float, int]:
        """(nats, words) of `continuation` after `context`: the interface that evaluate.py asks of a model."""
        whole, split = encode_pair(words_of, context, continuation)
        words = [START] * (self.order - 1) + whole
        logs = [math.log(self.p(words[i], tuple(words[max(0, i - self.order + 1):i])))
                for i in range(self.order - 1 + split, len(words))]
        return sum(logs), len(logs)


class QualityClassifier:
    """Logistic regression on hashed word 1- and 2-grams, trained by stochastic gradient descent.

    `score` is the probability that a text comes from the good examples and not from the bad ones.
    """

    def __init__(self, buckets: int = 1 << 16, seed: int = 0):
        self.weights, self.bias = np.zeros(buckets), 0.0
        self.buckets, self.seed = buckets, seed

    def features(self, text: str, limit: int = 1000) -> tuple[np.ndarray, np.ndarray]:
        """(buckets (k,), values (k,)) of the first `limit` words; the values have length one together."""
        words = words_of(text[:10 * limit])[:limit]
        hashed = [zlib.crc32(w.encode()) for w in words]     # not hash(): Python salts that in every process
        pairs = [(a * 31 + b) & 0xFFFFFFFF for a, b in zip(hashed, hashed[1:])]
        found, counts = np.unique(np.array(hashed + pairs, dtype=np.int64) % self.buckets, return_counts=True)
        values = np.log1p(counts)
        return found, values / max(np.sqrt((values ** 2).sum()), 1e-9)

    def fit(self, good: list[str], bad: list[str], epochs: int = 10, rate: float = 2.0,
            l2: float = 1e-4) -> float:
        """Train; returns the mean loss of the last epoch in nats. Both sides weigh the same."""
        if not good or not bad:
            raise ValueError("the quality classifier needs at least one good and one bad text")
        rows = [(*self.features(t), 1.0, 0.5 / len(good)) for t in good]
        rows += [(*self.features(t), 0.0, 0.5 / len(bad)) for t in bad]
        rng, loss = np.random.default_rng(self.seed), 0.0
        for epoch in range(epochs):
            loss, step = 0.0, rate * (1 - epoch / epochs)
            for i in rng.permutation(len(rows)):
                where, values, label, weight = rows[i]
                z = values @ self.weights[where] + self.bias
                loss += weight * float(np.logaddexp(0, -z if label else z))      # -log p, at any z
                error = (sigmoid(z) - label) * weight * len(rows)                # its derivative by z
                self.weights[where] -= step * (error * values + l2 * self.weights[where])
                self.bias -= step * error * 0.1              # the bias moves slowly: it is in every example
        return loss

    def score(self, text: str) -> float:
        """Probability in (0, 1) that the text is good."""
        where, values = self.features(text)
        return sigmoid(float(values @ self.weights[where]) + self.bias)


def sigmoid(z: float) -> float:
    """1 / (1 + exp(-z)), without an overflow however far z is from 0."""
    e = math.exp(-abs(z))
    return 1 / (1 + e) if z >= 0 else e / (1 + e)


@dataclass
class Judges:
    """Both judges, trained, and where each cuts."""
    ngrams: NgramModel
    most: float                        # perplexity above which a text goes
    classifier: QualityClassifier
    least: float                       # score below which it goes

    @classmethod
    def train(cls, good: list[str], bad: list[str], calibrate: list[str], keep: float = 0.99) -> "Judges":
        """Learn from good and bad texts; each cut keeps a share of `calibrate`, good texts unseen."""
        ngrams, classifier = NgramModel(good), QualityClassifier()
        classifier.fit(good, bad)
        cut = [text[:LOOKED_AT] for text in calibrate]
        return cls(ngrams, -threshold_keeping([-ngrams.perplexity(t) for t in cut], keep),
                   classifier, threshold_keeping([classifier.score(t) for t in cut], keep))

    def objection(self, text: str) -> str:
        """'' for a text worth keeping, else which judge is against it."""
        if self.classifier.score(text) < self.least:
            return "classifier"
        return "perplexity" if self.ngrams.perplexity(text[:LOOKED_AT]) > self.most else ""


def threshold_keeping(scores: list[float], share: float) -> float:
    """The score that `share` of these texts reach: a cut that loses at most 1 - share of good text."""
    if not scores or not 0 < share <= 1:
        raise ValueError(f"cannot keep a share of {share} of {len(scores)} scores: "
                         "give a share in (0, 1] and some scores")
    return sorted(scores)[min(int(math.floor((1 - share) * len(scores))), len(scores) - 1)]


def auc(good: list[float], bad: list[float]) -> float:
    """Probability that a good text scores above a bad one (area under the ROC curve); ties count half."""
    ranks = np.array(good)[:, None] - np.array(bad)[None, :]
    return float((ranks > 0).mean() + (ranks == 0).mean() / 2)
