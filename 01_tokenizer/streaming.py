"""Decode while tokens arrive: print what is certain, hold back the bytes of a character that is not complete yet.

A token is bytes, and a character outside ASCII may be cut in the middle by the end of a token. Decoding token by token
would print two replacement marks for one character.

    make chat                              streams its answers with this
"""
import codecs

from bpe import Tokenizer


class StreamDecoder:
    """`feed(id)` returns the text that this token completes; `finish()` returns what is left, broken bytes as U+FFFD."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The characters that are complete after this token, maybe none."""
        return self._decoder.decode(self.tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """The rest, at the end of the text."""
        return self._decoder.decode(b"", final=True)
