"""A Unigram model as a file that Google's SentencePiece reads, written byte by byte.

Adds to formats.py the third common form. The file is a protocol buffer: a sequence of fields, each a number
with its type, then the value (protobuf.dev/programming-guides/encoding). Field numbers are those of
sentencepiece_model.proto.

    tests/peers/test_peer_tokenizers.py    sentencepiece reads it and cuts text as we do
"""
import struct
from pathlib import Path

from unigram import Unigram
from workbench import atomic

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6   # ModelProto.SentencePiece.Type
SPACE = "\u2581"                              # SentencePiece writes the space as a visible character


def varint(n: int) -> bytes:
    """A number in groups of 7 bits, the lowest first; the top bit of a byte says that more follow."""
    out = []
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field: the number and the wire type (0 varint, 2 length and bytes, 5 a float), then the value."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def to_sentencepiece(model: Unigram, path: Path | str) -> None:
    """Write `model` as a .model file, atomically. Ids differ (SentencePiece puts <unk> first), tokens do not.

    SentencePiece cuts no text beforehand: the tokens are the same because none spans two of our pieces.
    """
    pieces = [("<unk>", 0.0, UNKNOWN)]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    pieces += [(token.replace(" ", SPACE), logp, NORMAL) for token, logp in model.logp.items()]
    pieces += [(name, 0.0, CONTROL) for name in model.special]
    data = b"".join(field(1, field(1, text) + field(2, logp) + field(3, kind)) for text, logp, kind in pieces)
    minus_one = varint(2**64 - 1)   # no such token
    trainer = field(3, 1) + field(4, len(pieces)) + field(35, 1) + field(40, 0)  # Unigram, size, bytes, <unk>
    trainer += b"".join(varint(number << 3) + minus_one for number in (41, 42, 43))   # <s>, </s>, <pad>
    normalizer = field(1, "identity") + field(3, 0) + field(4, 0) + field(5, 1)   # only the space changes
    with atomic(path) as temporary:
        temporary.write_bytes(data + field(2, trainer) + field(3, normalizer))
