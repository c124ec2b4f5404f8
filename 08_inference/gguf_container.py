"""The container GGUF: named values, then named tensors, in one file that a program can map into memory.

    "GGUF", version 3 (u32), number of tensors (u64), number of values (u64)
    each value      name (length u64, bytes), type (u32), the value; an array: type (u32), length (u64), ...
    each tensor     name, number of dimensions (u32), dimensions (u64, the fastest first), format (u32),
                    where it begins behind the header (u64)
    the numbers     every tensor at a multiple of 32 bytes
All little-endian. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. gguf_file.py puts a model in.

    python 08_inference/gguf_container.py FILE      lists what is in a file
"""
import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

try:
    from workbench import atomic, parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

from ggml_blocks import FORMATS, pack, unpack

ALIGNMENT = 32
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
NAME_OF = {f.code: name for name, f in FORMATS.items()}


class Stored(NamedTuple):
    """A tensor of a file: where its bytes are, and how to read them."""
    kind: str
    shape: list[int]
    data: Tensor        # (bytes,) uint8, mapped

    def values(self) -> Tensor:
        """The numbers, float32."""
        return unpack(self.data, self.kind, self.shape)


def string_bytes(text: str) -> bytes:
    """Length and UTF-8."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value_bytes(value: Any) -> bytes:
    """The type and the value: a whole number (u32), a float (f32), a bool, a text, or a list of one of them.

    Whole numbers in a list are i32.
    """
    if isinstance(value, list):
        kind = STRING if isinstance(value[0], str) else I32
        items = [string_bytes(v) if kind == STRING else struct.pack("<i", v) for v in value]
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(items)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + string_bytes(value)
    kind = BOOL if isinstance(value, bool) else U32 if isinstance(value, int) else F32
    return struct.pack(f"<I{NUMBERS[kind]}", kind, value)


def write_container(path: Path | str, values: dict[str, Any], tensors: dict[str, tuple[Tensor, str]]) -> None:
    """Write values and tensors, {name: (weight, format)}, atomically."""
    packed = {name: pack(weight, kind) for name, (weight, kind) in tensors.items()}
    header, begin = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))], 0
    header += [string_bytes(name) + value_bytes(value) for name, value in values.items()]
    for name, (weight, kind) in tensors.items():
        shape = weight.shape[::-1]
        header += [string_bytes(name), struct.pack(f"<I{len(shape)}Q", len(shape), *shape),
                   struct.pack("<IQ", FORMATS[kind].code, begin)]
        begin += aligned(len(packed[name]))
    head = b"".join(header)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(head.ljust(aligned(len(head)), b"\0"))
        for data in packed.values():
            file.write(data.cpu().numpy().tobytes().ljust(aligned(len(data)), b"\0"))


def aligned(n: int, to: int = ALIGNMENT) -> int:
    """n, or the next multiple."""
    return -(-n // to) * to


class Cursor:
    """Reads a header from the front; ValueError where the file ends too early."""

    def __init__(self, data: memoryview):
        self.data, self.at = data, 0

    def take(self, n: int) -> memoryview:
        """The next n bytes."""
        if n > len(self.data) - self.at:
            raise ValueError(f"it ends inside its header, where {n} more bytes should follow")
        self.at += n
        return self.data[self.at - n:self.at]

    def numbers(self, form: str, n: int = 1) -> tuple:
        """The next n numbers of one form of `struct`."""
        return struct.unpack(f"<{n}{form}", self.take(n * struct.calcsize(f"<{form}")))

    def text(self) -> str:
        """The next string."""
        return bytes(self.take(*self.numbers("Q"))).decode()

    def value(self) -> Any:
        """The next value of the list at the front."""
        kind, = self.numbers("I")
        if kind != ARRAY:
            return self.items(kind, 1)[0]
        kind, = self.numbers("I")
        return self.items(kind, *self.numbers("Q"))

    def items(self, kind: int, n: int) -> list:
        """The next n values of one type; each takes a byte at least, so n cannot be larger than the file."""
        if n > len(self.data):
            raise ValueError(f"it announces a list of {n} items, more than it has bytes")
        if kind == STRING:
            return [self.text() for _ in range(n)]
        if kind not in NUMBERS:
            raise ValueError(f"it has a value of the type {kind}, which we do not know")
        return list(self.numbers(NUMBERS[kind], n))


def read_container(path: Path | str) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The values and the tensors of a file, which is mapped: a tensor is read when its values are asked for.

    Nothing of the header is believed unchecked: ValueError names the file and what is wrong with it.
    """
    if os.path.getsize(path) < 24:
        raise ValueError(f"{path} is no GGUF file: it is too short")
    with open(path, "rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        return read_header(memoryview(whole), torch.frombuffer(whole, dtype=torch.uint8))
    except (ValueError, struct.error) as error:
        raise ValueError(f"{path} is damaged or of another kind: {error}; get or write it again") from None


def read_header(data: memoryview, everything: Tensor) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The same from the bytes of a file."""
    c = Cursor(data)
    if bytes(c.take(4)) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    (version,), (n_tensors, n_values) = c.numbers("I"), c.numbers("Q", 2)
    if version not in (2, 3):
        raise ValueError(f"it has version {version}, we read 2 and 3")
    if max(n_tensors, n_values) > len(data):
        raise ValueError(f"it announces {n_values} values and {n_tensors} tensors, more than it has bytes")
    values = dict((c.text(), c.value()) for _ in range(n_values))
    infos = [(c.text(), [*c.numbers("Q", dimensions(c))], *c.numbers("I"), *c.numbers("Q"))
             for _ in range(n_tensors)]
    if max(len(values) - n_values, len({i[0] for i in infos}) - n_tensors) < 0:
        raise ValueError("a name appears twice")
    step = values.get("general.alignment", ALIGNMENT)
    if type(step) is not int or step < 1 or step & (step - 1):
        raise ValueError(f"its alignment {step!r} is no power of two")
    start = aligned(c.at, step)
    return values, {name: stored(name, shape[::-1], code, everything[start + begin:] if start + begin
                                 < len(everything) else everything[:0]) for name, shape, code, begin in infos}


def dimensions(c: Cursor) -> int:
    """How many a tensor has."""
    n, = c.numbers("I")
    if not 1 <= n <= 4:
        raise ValueError(f"a tensor has {n} dimensions, not 1 to 4")
    return n


def stored(name: str, shape: list[int], code: int, rest: Tensor) -> Stored:
    """A tensor whose bytes begin at the front of `rest`."""
    if code not in NAME_OF:
        raise ValueError(f"{name!r} has the format {code}, we read {', '.join(FORMATS)}")
    f, n = FORMATS[NAME_OF[code]], math.prod(shape)
    if shape[-1] % f.block or n // f.block * f.n_bytes > len(rest) or not n:
        raise ValueError(f"{name!r} of shape {shape} does not fit into the file")
    return Stored(NAME_OF[code], shape, rest[:n // f.block * f.n_bytes])


@dataclass
class Settings:
    """What to look into."""
    file: str   # a .gguf file


def main() -> None:
    """List a file."""
    file = parse_settings(Settings, __doc__).file
    values, tensors = read_container(file)
    for name, value in values.items():
        print(f"{name:<44}{f'{len(value)} items' if isinstance(value, list) else repr(value)[:60]}")
    for name, t in tensors.items():
        print(f"{t.kind:<6}{str(t.shape):<16}{len(t.data):>12,} bytes  {name}")


if __name__ == "__main__":
    run_main(main)
