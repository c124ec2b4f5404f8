"""Which language is this? Character n-grams, counted, smoothed and multiplied: naive Bayes in one matrix.

Comes after extract.py and before filters.py, whose stop-word rule knows English only. A text is hashed into
counts of its 1- to 4-grams of characters; a language is a vector of log-probabilities over the same buckets;
the score is their dot product. The best of ten languages is not the language of a text in an eleventh: a text
whose n-grams are rare in the best, and hardly rarer in the second, or with letters that the best does not
have, is called unknown. `languages.txt` holds parallel sentences to train on, and articles of the Universal
Declaration of Human Rights to test on.

Source: Cavnar and Trenkle, "N-gram-based text categorization" (1994); Lui and Baldwin, langid.py (2012).

    python 06_data/language.py "Wie spät ist es?"
"""
import sys
from functools import cache
from string import ascii_lowercase

try:
    import numpy as np
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None

from planted import load_sentences

BUCKETS = 1 << 15
ORDERS = (1, 2, 3, 4)
UNKNOWN = "unknown"
# The letters of each language beside a to z, loan words included; English quotes names of all. Near relations
# share most n-grams, but seldom all letters: Danish has ø, Ukrainian і, Romanian ț.
LETTERS = {"de": "äöüßéà", "es": "áéíñóúü", "fr": "àâæçèéêëîïôœùûüÿ", "it": "àèéìíîòóùú",
           "nl": "éèêëïóöüáç", "pl": "ąćęłńóśźż", "pt": "áâãàçéêíóôõúü", "sv": "åäöéàü",
           "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"}
STRANGE = 0.01                     # share of the letters that a language may lack: names, quotations
FLOOR = -8.7                       # nats; below it `best + lead` is that of a language the model has not seen


def ngrams(text: str, limit: int = 2000) -> np.ndarray:
    """Bucket numbers of the character n-grams of the first `limit` characters, (n,) int64.

    Runs of anything but letters become one blank: digits and punctuation belong to every language.
    """
    letters = "".join(c if c.isalpha() else " " for c in text[:limit].lower())
    codes = np.array([ord(c) for c in f" {' '.join(letters.split())} "], dtype=np.uint64)
    found = []
    for n in ORDERS:
        h = np.full(max(len(codes) - n + 1, 0), n, dtype=np.uint64)
        for i in range(n):                             # h of every window at once: h * prime + next character
            h = h * np.uint64(0x100000001B3) + codes[i:i + len(h)]
        h ^= h >> np.uint64(29)
        found.append((h * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(49))          # the top 15 bits
    return np.concatenate(found).astype(np.int64)


class LanguageModel:
    """Naive Bayes over hashed character n-grams. Every language is equally likely at the start."""

    def __init__(self, sentences: dict[str, list[str]], smoothing: float = 0.5):
        self.names = sorted(sentences)
        counts = np.stack([np.bincount(ngrams(" ".join(sentences[name]), limit=1 << 20), minlength=BUCKETS)
                           for name in self.names])                                 # (languages, BUCKETS)
        self.log_p = log_probabilities(counts, smoothing)

    def scores(self, text: str) -> np.ndarray:
        """Mean log-probability of an n-gram of `text` in each language, (languages,)."""
        return self.log_p[:, ngrams(text)].mean(axis=1)

    def nearest(self, text: str) -> tuple[str, float, float]:
        """(the likeliest of the languages, its score, how far ahead of the second it is), in nats an n-gram.

        A lead, not a probability: n-grams of one text overlap, so a product of thousands of them is absurdly
        sure of everything.
        """
        scores = self.scores(text)
        second, first = np.argsort(scores)[-2:]
        return self.names[first], float(scores[first]), float(scores[first] - scores[second])

    def identify(self, text: str) -> tuple[str, float]:
        """(language or UNKNOWN, its lead). Unknown: nothing to read, or in none of the languages."""
        name, score, lead = self.nearest(text)
        letters = [c for c in text[:2000].lower() if c.isalpha()]
        known = set(ascii_lowercase) | set(LETTERS.get(name, letters))
        strange = sum(c not in known for c in letters)
        right = score + lead >= FLOOR and (strange < 3 or strange <= STRANGE * len(letters))
        return (name if len(letters) >= 3 and right else UNKNOWN), lead


def log_probabilities(counts: np.ndarray, smoothing: float) -> np.ndarray:
    """Counts (L, n) to log-probabilities (L, n): `smoothing` is added to each count, rows sum to one."""
    smoothed = counts + smoothing
    return np.log(smoothed / smoothed.sum(axis=1, keepdims=True))


@cache
def default_model() -> LanguageModel:
    """The model trained on languages.txt."""
    return LanguageModel(load_sentences()["train"])


def accuracy_by_length(model: LanguageModel, sentences: dict[str, list[str]],
                       lengths: tuple[int, ...] = (10, 20, 40, 80, 160)) -> tuple[dict[int, float],
                                                                                  np.ndarray]:
    """(accuracy on windows of each length if none is unknown, confusions (true, guessed) at the shortest)."""
    accuracy, confusion = {}, np.zeros((len(model.names), len(model.names)), dtype=int)
    for length in lengths:
        right = total = 0
        for row, name in enumerate(model.names):
            text = " ".join(sentences[name])
            for window in windows(text, length):
                guess = model.nearest(window)[0]
                right, total = right + (guess == name), total + 1
                if length == min(lengths):
                    confusion[row, model.names.index(guess)] += 1
        accuracy[length] = right / max(total, 1)
    return accuracy, confusion


def windows(text: str, length: int) -> list[str]:
    """Pieces of a text of this length, each half over the one before; the whole text if it is shorter."""
    return [text[i:i + length] for i in range(0, max(len(text) - length, 1), max(length // 2, 1))]


def unknown_by_length(model: LanguageModel, sentences: dict[str, list[str]],
                      lengths: tuple[int, ...] = (10, 20, 40, 80, 160)) -> dict[int, float]:
    """Share of windows of each length that are called unknown."""
    texts = [" ".join(sentences[name]) for name in sentences]
    guesses = {n: [model.identify(w)[0] for text in texts for w in windows(text, n)] for n in lengths}
    return {n: guesses[n].count(UNKNOWN) / len(guesses[n]) for n in lengths}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('language.py: give one text: python 06_data/language.py "Wie spät ist es?"')
    language, ahead = default_model().identify(sys.argv[1])
    print(f"{language} (ahead by {ahead:.2f} nats an n-gram)")
