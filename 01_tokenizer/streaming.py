"""Decode while tokens arrive: print what is certain, hold back the bytes of an unfinished character.

A token is bytes, and a character outside ASCII may be cut in the middle by the end of a token. Decoding token
by token would print two replacement marks for one character.

    make chat                              streams its answers with this
"""
from bpe import Tokenizer


class StreamDecoder:
    """`feed(id)` gives the text that this token completes; `finish()` the rest, broken bytes as U+FFFD."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._held = b""   # the first bytes of a character whose other bytes have not come yet

    def feed(self, token: int) -> str:
        """The characters that are complete after this token, maybe none.

        The first byte of a UTF-8 character says how many there are: 0xxxxxxx 1, 110xxxxx 2, 1110xxxx 3,
        11110xxx 4; the others are 10xxxxxx (RFC 3629, section 3). C0, C1 and F5 to FF begin nothing: no use
        in waiting (section 4).
        """
        # EXERCISE 1.8 streaming decode
        data = self._held + self.tokenizer.decode_bytes([token])
        cut = len(data)
        for back, byte in enumerate(reversed(data[-3:]), 1):   # an unfinished character has at most three
            if byte & 0xC0 != 0x80:   # the last first byte, `back` bytes before the end
                length = 1 if not 0xC2 <= byte <= 0xF4 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
                if back < length:
                    cut = len(data) - back
                break
        self._held = data[cut:]
        return data[:cut].decode("utf-8", errors="replace")
        # END EXERCISE 1.8

    def finish(self) -> str:
        """The rest, at the end of the text."""
        rest, self._held = self._held, b""
        return rest.decode("utf-8", errors="replace")
