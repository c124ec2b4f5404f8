"""A byte-level tokenizer whose ids are somebody else's: published vocabularies have an order of their own.

Adds to bpe.py a table between our ids (256 bytes, then the merges in order) and the published ones. GPT-2's
file, for example, has "!" as 0 and <|endoftext|> as 50256. Made by formats.py when it reads such a file.

    python 01_tokenizer/tokenizer_cli.py show page.txt --tokenizer tokenizer.json     of another's
"""
from collections.abc import Iterable
from pathlib import Path

from bpe import Tokenizer, plain_ids


class Renumbered(Tokenizer):
    """A tokenizer whose ids are others than ours: published vocabularies order their bytes as they like.

    `numbers[i]` is the published id of our token i (256 bytes, then the merges); `special` has ids of its
    own.
    """

    def __init__(self, merges: Iterable[tuple[int, int]], special: dict[str, int], pattern: str,
                 numbers: list[int]):
        super().__init__(merges, tuple(special), pattern)
        self.numbers, self.special = numbers, dict(special)
        self._ours = {number: i for i, number in enumerate([*numbers, *special.values()])}
        if len(self._ours) < len(numbers) + len(special):
            raise ValueError("two tokens have the same id: each needs its own")
        if wrong := [number for number in self._ours if type(number) is not int or number < 0]:
            raise ValueError(f"the id {wrong[0]!r} is no whole number from 0 on")

    def __reduce__(self):
        return type(self), (self.merges, self.special, self.pattern, self.numbers)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: there may be gaps."""
        return max(self._ours) + 1

    def _encode_unseen(self, piece: str) -> tuple[int, ...]:
        return tuple(self.numbers[i] for i in super()._encode_unseen(piece))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes behind ids. Raises ValueError for an id that does not exist."""
        ids = plain_ids(ids)
        for i in ids:
            if i not in self._ours:
                raise ValueError(f"token id {i} is not in this vocabulary: was another tokenizer used?")
        return super().decode_bytes([self._ours[i] for i in ids])

    def save(self, path: Path | str) -> None:
        """Refused: the file of our tokenizers has no place for other ids."""
        raise ValueError("a tokenizer with published ids is saved with formats.to_hf")


def numbers_of(tokenizer: Tokenizer) -> list[int]:
    """The id of each ordinary token, in the order of the merges."""
    return getattr(tokenizer, "numbers", list(range(len(tokenizer.bytes_of))))
