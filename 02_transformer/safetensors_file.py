"""Safetensors: weights in a file that can be checked before it is believed, and that runs no code.

A pickle, torch's old format, is a program that the reader executes. This format is data alone:
    8 bytes     n, the length of the header, little-endian
    n bytes     JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
    the rest    the numbers, row by row, little-endian, where the offsets say, without gaps or overlaps
https://github.com/huggingface/safetensors#format. Who can write it by hand can read any published checkpoint.

    python 02_transformer/safetensors_file.py FILE      lists what is in a file
"""
import json
import math
import mmap
import os
import sys
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import atomic, parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
          "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
          "BOOL": torch.bool}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000   # bytes, as in the reference implementation


def write_safetensors(path: Path | str, tensors: dict[str, Tensor],
                      metadata: dict[str, str] | None = None) -> None:
    """Write tensors (any shapes, the types of DTYPES), atomically; ValueError for other types.

    Widest types first keeps every tensor aligned to its own width, as the reference implementation does.
    """
    for name, t in tensors.items():
        if t.dtype not in NAMES:
            raise ValueError(f"{name} has the type {t.dtype}, which this format has no name for: convert it")
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header = pack_header(ordered, metadata)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        for _, t in ordered:
            file.write(raw_bytes(t))


def pack_header(tensors: list[tuple[str, Tensor]], metadata: dict[str, str] | None = None) -> bytes:
    """The length of the header (8 bytes, little-endian) and the header of tensors in this order.

    The JSON is padded with spaces to a multiple of 8 bytes, so that the numbers begin at one.
    """
    # EXERCISE 2.21 safetensors header
    entries: dict = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, t in tensors:
        begin, end = end, end + t.numel() * t.itemsize
        entries[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
    # END EXERCISE 2.21


def raw_bytes(t: Tensor) -> bytes:
    """The numbers of a tensor as they lie in memory, row by row, little-endian."""
    flat = t.detach().cpu().contiguous().flatten().view(torch.uint8)
    if sys.byteorder == "big":
        flat = flat.view(-1, t.itemsize).flip(1).flatten()
    return flat.numpy().tobytes()


def read_safetensors(path: Path | str) -> dict[str, Tensor]:
    """All tensors of a file, by name. The file is mapped: numbers come from disk when they are used.

    Nothing of the header is believed unchecked; ValueError names the file and what is wrong with it. Changing
    a tensor in place does not change the file.
    """
    entries, data = open_checked(path)
    return {name: view_of(data, entry) for name, entry in entries.items()}


def open_checked(path: Path | str) -> tuple[dict[str, dict], Tensor]:
    """The entries of the header, without metadata, and the numbers behind it, (bytes,) uint8."""
    size = os.path.getsize(path)
    if size < 8:
        raise ValueError(f"{path} is no safetensors file: it has only {size} bytes")
    with open(path, "rb") as file:
        n = int.from_bytes(file.read(8), "little")
        if n > LONGEST_HEADER or 8 + n > size:
            raise ValueError(f"{path} is damaged or no safetensors file: it announces a header of {n} bytes "
                             f"in a file of {size}; download it again")
        entries = parse_header(path, file.read(n))
        check_layout(path, entries, size - 8 - n)
        if size == 8 + n:
            return entries, torch.empty(0, dtype=torch.uint8)
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return entries, torch.frombuffer(whole, dtype=torch.uint8, offset=8 + n)


def parse_header(path: Path | str, text: bytes) -> dict[str, dict]:
    """The entries of a header, each with a known type, a shape and two offsets; ValueError otherwise."""
    def no_twins(pairs: list[tuple[str, object]]) -> dict:
        if len(dict(pairs)) < len(pairs):   # one reader would take the first, another the last
            raise ValueError("a name appears twice")
        return dict(pairs)

    try:
        entries = json.loads(text, object_pairs_hook=no_twins)
        if not isinstance(entries, dict):
            raise ValueError("it is no object")
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            check_entry(name, entry)
    except (ValueError, RecursionError) as error:   # json's errors are ValueErrors
        raise ValueError(f"{path} has a bad header: {error}") from None
    return entries


def check_entry(name: str, entry: object) -> None:
    """ValueError unless it has a type that we know, a shape that torch can have, and two offsets."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name!r} has the type {dtype!r}, known are {', '.join(DTYPES)}")
    for numbers, most in ((shape, 64), (offsets, 2)):
        if not isinstance(numbers, list) or len(numbers) > most or any(type(x) is not int for x in numbers):
            raise ValueError(f"{name!r} has a shape or offsets that are no short list of whole numbers")
    if len(offsets) != 2 or min(*offsets, *shape) < 0 or math.prod(max(x, 1) for x in shape) >= 2**60:
        raise ValueError(f"{name!r} has an impossible shape {shape} or impossible offsets {offsets}")


def check_layout(path: Path | str, entries: dict[str, dict], n_bytes: int) -> None:
    """ValueError unless the tensors, each as long as its shape says, fill exactly `n_bytes`."""
    end = 0
    for name, e in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = e["data_offsets"]
        length = math.prod(e["shape"]) * DTYPES[e["dtype"]].itemsize
        if stop - begin != length:
            raise ValueError(f"{path}: {name!r} has {stop - begin} bytes, but {e['dtype']} numbers in the "
                             f"shape {e['shape']} take {length}")
        if begin != end:
            raise ValueError(f"{path}: {name!r} begins at byte {begin}, the one before it ends at {end}: "
                             "tensors must neither overlap nor leave gaps")
        end = stop
    if end != n_bytes:
        raise ValueError(f"{path} holds {n_bytes} bytes of numbers, but its header describes {end}: "
                         "the file was cut off or has something appended; download it again")


def view_of(data: Tensor, entry: dict) -> Tensor:
    """One tensor of the mapped bytes, in its shape."""
    dtype, (begin, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    piece = data[begin:end]
    if sys.byteorder == "big":
        piece = piece.view(-1, dtype.itemsize).flip(1).flatten()
    if piece.data_ptr() % dtype.itemsize:   # a file may put numbers where this type can't be read in place
        piece = piece.clone()
    return piece.view(dtype).view(entry["shape"])


@dataclass
class Settings:
    """What to look into."""
    file: str   # a .safetensors file


def main() -> None:
    """List a file: name, type, shape, and the sum."""
    entries, _ = open_checked(parse_settings(Settings, __doc__).file)
    for name, e in entries.items():
        print(f"{e['dtype']:<5} {str(e['shape']):<18} {name}")
    print(f"{sum(math.prod(e['shape']) for e in entries.values()):,} numbers in {len(entries)} tensors")


if __name__ == "__main__":
    run_main(main)
