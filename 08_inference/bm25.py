"""Which of these texts is about the question? BM25: count rare words; then join two opinions by their ranks.

For a question Q and a document D of |D| words, out of N documents of avgdl words on average (Robertson and
Zaragoza 2009, "The probabilistic relevance framework", equations 3.3 and 3.15):

    score(D, Q) = sum over words t of Q of  idf(t) tf (k1 + 1) / (tf + k1 (1 - b + b |D| / avgdl))
    idf(t)      = max(0, log((N - n + 1/2) / (n + 1/2)))

tf is how often t stands in D, n the number of documents that have t. k1 says how soon a repeated word stops
to count, b how much its length is held against a document. A word that more than half of the documents have
would get a negative idf; here it counts nothing. The naive function comes first, the inverted index after it.

    python 08_inference/rag.py             searches with it
"""
import math
import re
from collections import Counter

K1, B = 1.5, 0.75   # the usual choices; the book names 1.2 to 2 and 0.5 to 0.8


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores in lower case: "The kind of STFT." is the, kind, of, stft."""
    return re.findall(r"\w+", text.lower())


def bm25(query: list[str], documents: list[list[str]], k1: float = K1, b: float = B) -> list[float]:
    """The score of each document for a query, all given as words; one that the query repeats counts again."""
    # EXERCISE 8.20 BM25
    N = len(documents)
    average = sum(map(len, documents)) / max(N, 1)
    scores = [0.0] * N
    for t in query:
        n = sum(t in d for d in documents)
        idf = max(0.0, math.log((N - n + 0.5) / (n + 0.5)))
        for i, d in enumerate(documents):
            tf = d.count(t)
            if tf:   # and so the document has a length
                scores[i] += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(d) / average))
    return scores
    # END EXERCISE 8.20


def best_first(scores: list[float]) -> list[int]:
    """Places from the highest score to the lowest; of equal ones the earlier comes first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


class Index:
    """The same scores from an inverted index: a query looks only at documents that have one of its words.

    A document can be replaced, which is how a fact is changed: `index[3] = "..."`.
    """

    def __init__(self, texts: list[str], k1: float = K1, b: float = B):
        self.k1, self.b = k1, b
        self.lengths: list[int] = [0] * len(texts)
        self.places: dict[str, dict[int, int]] = {}   # word to {document: tf}
        for i, text in enumerate(texts):
            self[i] = text

    def __setitem__(self, i: int, text: str) -> None:
        """Document `i` now says `text`. IndexError where there is no such document."""
        self.lengths[i] = 0
        for found in self.places.values():
            found.pop(i, None)
        for word, tf in Counter(words(text)).items():
            self.places.setdefault(word, {})[i] = tf
            self.lengths[i] += tf

    def scores(self, question: str) -> list[float]:
        """The score of each document."""
        N = len(self.lengths)
        average = sum(self.lengths) / max(N, 1)
        scores = [0.0] * N
        for t in words(question):
            found = self.places.get(t, {})
            idf = max(0.0, math.log((N - len(found) + 0.5) / (len(found) + 0.5)))
            for i, tf in found.items():
                scores[i] += idf * tf * (self.k1 + 1) / (
                    tf + self.k1 * (1 - self.b + self.b * self.lengths[i] / average))
        return scores


def fuse(rankings: list[list[int]], k: int = 60) -> list[int]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): one ranking from several, the best first.

    An item gets 1 / (k + its rank) from each ranking that has it, ranks from 1; of equal ones the smaller
    number comes first. Scores of different kinds cannot be added; ranks can.
    """
    # EXERCISE 8.21 reciprocal rank fusion
    total: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            total[item] = total.get(item, 0.0) + 1 / (k + rank)
    return sorted(total, key=lambda item: (-total[item], item))
    # END EXERCISE 8.21
