"""The safetensors format: bytes by hand, and files that lie."""

import json
import struct

import pytest
import torch
from torch.testing import assert_close

from safetensors_file import DTYPES, pack_header, read_safetensors, write_safetensors

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(path, header, data: bytes = b"", length: int | None = None):
    """A file with this header (an object, or text) and these bytes behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def some_tensors() -> dict[str, torch.Tensor]:
    """One or more of every type, shapes of 0 to 3 dimensions, an empty one, one that is a transposed view."""
    made = {"view": torch.randn(3, 4).T, "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)}
    for name, dtype in DTYPES.items():
        made[f"a.{name}"] = (torch.randn(2, 3, 5) * 50).abs().to(dtype)
    return made


def test_what_is_written_is_read(tmp_path):
    tensors = some_tensors()
    write_safetensors(tmp_path / "a.safetensors", tensors, {"made by": "hand"})
    read = read_safetensors(tmp_path / "a.safetensors")
    assert set(read) == set(tensors)
    for name, t in tensors.items():
        assert_close(read[name], t.contiguous(), rtol=0, atol=0)


def test_a_file_made_by_hand_is_read(tmp_path):
    data = struct.pack("<2f", 1.5, -2.0) + struct.pack("<3h", 1, 2, -3)
    b = {"dtype": "I16", "shape": [3, 1], "data_offsets": [8, 14]}
    header = {"__metadata__": {"format": "pt"}, "b": b, "a": ENTRY}
    read = read_safetensors(file_of(tmp_path / "f", header, data))
    assert read["a"].tolist() == [1.5, -2.0] and read["b"].tolist() == [[1], [2], [-3]]


def test_the_file_that_we_write_is_the_one_the_format_describes(tmp_path):
    x, n = torch.tensor([[1.0, 2.0]]), torch.tensor([7])
    write_safetensors(tmp_path / "f", {"x": x, "n": n})
    content = (tmp_path / "f").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    assert length % 8 == 0 and json.loads(content[8 : 8 + length]) == {
        "n": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
        "x": {"dtype": "F32", "shape": [1, 2], "data_offsets": [8, 16]},
    }
    assert content[8 + length :] == struct.pack("<q2f", 7, 1.0, 2.0)
    assert content[: 8 + length] == pack_header([("n", n), ("x", x)])


def test_numbers_that_are_not_aligned_are_read(tmp_path):
    a, b = ({"dtype": d, "shape": [1], "data_offsets": o} for d, o in (("F64", [1, 9]), ("U8", [0, 1])))
    read = read_safetensors(file_of(tmp_path / "f", {"a": a, "b": b}, b"\x05" + struct.pack("<d", 0.1)))
    assert read["a"].item() == 0.1 and read["b"].item() == 5


def test_changing_a_tensor_does_not_change_the_file(tmp_path):
    write_safetensors(tmp_path / "f", {"x": torch.zeros(3)})
    read_safetensors(tmp_path / "f")["x"].fill_(9)
    assert read_safetensors(tmp_path / "f")["x"].tolist() == [0, 0, 0]


def entry(**changes) -> dict:
    return {"a": {**ENTRY, **changes}}


HOSTILE = {
    "an offset outside the file": (entry(shape=[20], data_offsets=[0, 80]), "holds 8 bytes of numbers"),
    "offsets in the wrong order": (entry(data_offsets=[8, 0]), "has -8 bytes"),
    "negative offsets": (entry(data_offsets=[-8, 0]), "impossible offsets"),
    "one offset": (entry(data_offsets=[0]), "impossible offsets"),
    "a fraction": (entry(data_offsets=[0, 8.0]), "whole numbers"),
    "truth for a number": (entry(shape=[True, 2]), "whole numbers"),
    "a shape of text": (entry(shape="2"), "whole numbers"),
    "a negative shape": (entry(shape=[-1, -2]), "impossible shape"),
    "a shape beyond every memory": (entry(shape=[2**40, 2**40], data_offsets=[0, 8]), "impossible shape"),
    "an empty shape of astronomical size": (entry(shape=[0, 2**62], data_offsets=[0, 0]), "impossible shape"),
    "sixty-five dimensions": (entry(shape=[1] * 65), "short list"),
    "a shape that is too long for its bytes": (entry(shape=[3]), r"take 12"),
    "an unknown type": (entry(dtype="F4"), "known are F64"),
    "a type that is a list": (entry(dtype=[]), "known are F64"),
    "an entry too little": ({"a": {"dtype": "F32", "shape": [2]}}, "must have dtype"),
    "an entry that is a number": ({"a": 3}, "must have dtype"),
    "overlaps": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, "neither overlap nor leave gaps"),
    "the same bytes twice": ({"a": ENTRY, "b": ENTRY}, "neither overlap nor leave gaps"),
    "a gap": (entry(data_offsets=[4, 12]), "neither overlap nor leave gaps"),
    "no tensors, but numbers": ({}, "holds 8 bytes of numbers, but its header describes 0"),
    "a list": ([], "it is no object"),
    "no JSON": (b"{'a'", "bad header"),
    "no UTF-8": (b"\xff\xff", "bad header"),
    "a number of ten thousand digits": (b'{"a":' + b"9" * 10_000 + b"}", "bad header"),
    "a thousand brackets deep": (b"[" * 100_000, "bad header"),
    "one name twice": (f'{{"a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}'.encode(), "appears twice"),
}


@pytest.mark.parametrize("header, sentence", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_refused_in_a_sentence(tmp_path, header, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_safetensors(file_of(tmp_path / "f", header, bytes(8)))


@pytest.mark.parametrize("length", [2**64 - 1, 100_000_001, 100])
def test_a_header_that_is_longer_than_its_file_is_not_even_read(tmp_path, length):
    with pytest.raises(ValueError, match=f"announces a header of {length} bytes"):
        read_safetensors(file_of(tmp_path / "f", entry(), bytes(8), length))


def test_every_cut_through_a_file_is_noticed(tmp_path):
    write_safetensors(tmp_path / "f", {"x": torch.randn(5), "y": torch.ones(3, dtype=torch.int8)})
    whole = (tmp_path / "f").read_bytes()
    for n in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:n])
        with pytest.raises(ValueError, match="cut"):
            read_safetensors(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="something appended"):
        read_safetensors(tmp_path / "cut")


def test_types_without_a_name_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="no name for: convert it"):
        write_safetensors(tmp_path / "f", {"x": torch.zeros(2, dtype=torch.complex64)})
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_tensors_is_a_file(tmp_path):
    write_safetensors(tmp_path / "f", {})
    assert read_safetensors(tmp_path / "f") == {}
