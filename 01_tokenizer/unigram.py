"""The Unigram tokenizer: a probability for each token, and of all ways to cut a text the most probable one.

The other tokenizer in use (T5, ALBERT, XLNet, many translation models), by another road than bpe.py: BPE
applies merges in the order it learned them, Unigram compares whole segmentations. Source: Kudo 2018 (subword
regularization) and SentencePiece (Kudo and Richardson 2018). Learned by unigram_training.py.

    python 01_tokenizer/unigram.py         trains one, and shows ten segmentations of a word
"""
import math
import random
from collections.abc import Iterable
from pathlib import Path

from bpe import SPECIAL, Known, plain_ids
from piece_counts import surrogate_message
from pretokenize import PATTERN, safe_parts, splitter, whole
from special_tokens import check_special
from workbench import read_json, write_json

UNKNOWN_PENALTY = 10.0   # a character without a token is this much worse than the worst token (SentencePiece)


def viterbi(text: str, logp: dict[str, float], longest: int, unknown: float) -> list[str]:
    """The segmentation of `text` into tokens with the highest sum of log-probabilities.

    A character without a token stands for itself at the price `unknown`. `longest` is the length of the
    longest token, so the time is proportional to the text. Of equally good ones, that with the longest last
    token.
    """
    # EXERCISE 1.11 the best segmentation
    # Of each prefix of the text: the best score, and where its last token begins.
    best, begin = [0.0] + [-math.inf] * len(text), [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        for start in range(max(0, end - longest), end):
            score = logp.get(text[start:end], unknown if end - start == 1 else -math.inf)
            if best[start] + score > best[end]:
                best[end], begin[end] = best[start] + score, start
    tokens, end = [], len(text)
    while end > 0:
        tokens.append(text[begin[end]:end])
        end = begin[end]
    return tokens[::-1]
    # END EXERCISE 1.11


def sample(text: str, logp: dict[str, float], longest: int, unknown: float, alpha: float,
           rng: random.Random) -> list[str]:
    """A segmentation drawn with probability proportional to P(segmentation) to the power `alpha` (Kudo 2018).

    Forward: the log of the sum over all segmentations of each prefix. Backward: draw the last token of the
    text in proportion to (sum before it) x (its own probability), then the token before it, and so on.
    """
    total = [0.0]
    choices: list[list[tuple[float, int]]] = [[]]   # for each prefix: (log weight, start) of its last token
    for end in range(1, len(text) + 1):
        here = []
        for start in range(max(0, end - longest), end):
            score = logp.get(text[start:end], unknown if end - start == 1 else -math.inf)
            if score > -math.inf:
                here.append((total[start] + alpha * score, start))
        top = max(weight for weight, _ in here)
        total.append(top + math.log(sum(math.exp(weight - top) for weight, _ in here)))
        choices.append(here)
    tokens, end = [], len(text)
    while end > 0:
        weights = [math.exp(weight - total[end]) for weight, _ in choices[end]]
        start = rng.choices([s for _, s in choices[end]], weights)[0]
        tokens.append(text[start:end])
        end = start
    return tokens[::-1]


class Unigram:
    """Text to ids and back. Ids 0 to 255 are the bytes, then one id a token, then the special tokens.

    A token of one ASCII character has the id of its byte. What has no token is written in bytes (byte
    fallback).
    """

    def __init__(self, logp: dict[str, float], special: Iterable[str] = SPECIAL, pattern: str = PATTERN):
        """`logp` is the natural logarithm of each token's probability; ValueError for what can't be one."""
        if not logp or not all(isinstance(t, str) and t and -math.inf < p <= 0 for t, p in logp.items()):
            raise ValueError("a Unigram model is at least one token, each with the logarithm of a "
                             "probability")
        special = tuple(special)
        check_special(special)
        self.logp, self.pattern = dict(logp), pattern
        self.tokens = [t for t in logp if len(t.encode()) > 1]   # in the order of their ids
        self.id_of = {chr(i): i for i in range(128)} | {t: 256 + i for i, t in enumerate(self.tokens)}
        self.bytes_of = [bytes([i]) for i in range(256)] + [t.encode() for t in self.tokens]
        self.special = {text: len(self.bytes_of) + i for i, text in enumerate(special)}
        self.longest = max(map(len, logp))
        self.unknown = min(logp.values()) - UNKNOWN_PENALTY
        self._split = splitter(pattern)
        self._ids_of = Known(self._encode_unseen)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.bytes_of) + len(self.special)

    def ids_of_tokens(self, tokens: list[str]) -> list[int]:
        """The ids of a segmentation: one for a known token, else one for each byte of the character."""
        # EXERCISE 1.13 byte fallback
        ids = []
        for token in tokens:
            if token in self.id_of:
                ids.append(self.id_of[token])
            else:
                ids += token.encode()
        return ids
        # END EXERCISE 1.13

    def _encode_unseen(self, piece: str) -> tuple[int, ...]:
        return tuple(self.ids_of_tokens(viterbi(piece, self.logp, self.longest, self.unknown)))

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text: the most probable segmentation of each piece."""
        if not isinstance(text, str):
            raise ValueError(f"encode takes a text (str), not {type(text).__name__}")
        ids: list[int] = []
        try:
            for part in safe_parts(text, self.pattern):
                pieces = whole(self._split(part), part, self.pattern)
                for found in map(self._ids_of.__getitem__, pieces):
                    ids += found
        except UnicodeEncodeError:
            raise ValueError(surrogate_message(text)) from None
        return ids

    def sample(self, text: str, alpha: float, rng: random.Random) -> list[int]:
        """Ids of a random segmentation: a model that reads many learns that they are the same word.

        alpha 0: all segmentations equally likely; 1: as the model thinks; large: nearly always the best.
        """
        self.encode(text)   # says what is wrong with a text that can't be encoded
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha {alpha}: give 0 or more")
        ids = []
        for piece in self._split(text):
            ids += self.ids_of_tokens(sample(piece, self.logp, self.longest, self.unknown, alpha, rng))
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes behind ids. Raises ValueError for an id that does not exist."""
        names = {i: text.encode() for text, i in self.special.items()}
        ids = plain_ids(ids)
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise ValueError(f"token id {wrong} is outside the vocabulary of {self.vocab_size}")
        return b"".join(names[i] if i in names else self.bytes_of[i] for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text. Bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, path: Path | str) -> None:
        """Write the model as JSON, atomically."""
        write_json(path, {"pattern": self.pattern, "special": list(self.special), "unigram": self.logp})

    @classmethod
    def load(cls, path: Path | str) -> "Unigram":
        """Read a model; a file that is not one gives a ValueError that names it."""
        data = read_json(path)
        try:
            return cls(data["unigram"], data["special"], data["pattern"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a Unigram model ({error}): train it again") from None


if __name__ == "__main__":
    from corpus import real_text
    from unigram_training import train_unigram

    model = Unigram(train_unigram(real_text()[:150], 600))
    rng = random.Random(0)
    for alpha in (0.1, 0.5, 1.0):
        drawn = [model.sample(" interpreter", alpha, rng) for _ in range(5)]
        print(f"alpha {alpha}:", "   ".join("|".join(model.decode([i]) for i in ids) for ids in drawn))
    print("best:     ", "|".join(model.decode([i]) for i in model.encode(" interpreter")))
