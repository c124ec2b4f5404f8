"""Exercises 2.21 and 2.22: a header of the safetensors format, and the arithmetic of a token."""

import json
import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from count import flops_per_token
from ex_compare import call, same
from safetensors_file import pack_header
from transformer import Config, Transformer

# 2.21 safetensors header


@pytest.mark.ex("2.21")
def test_the_header_of_the_worked_example():
    """one tensor w of two float32 numbers: 56, seven zero bytes, 51 characters of JSON, 5 spaces"""
    text = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    got = call("w, two float32 numbers", pack_header, [("w", torch.zeros(2))])
    assert isinstance(got, bytes), f"wanted bytes, got {type(got).__name__}"
    n = len(got) - 8
    assert n % 8 == 0, f"w: the header has {n} bytes, wanted a multiple of 8"
    same(int.from_bytes(got[:8], "little"), n, "w: the first 8 bytes",
         mistakes={"little-endian: the smallest byte first": int.from_bytes(n.to_bytes(8, "little"), "big"),
                   "the 8 bytes themselves do not count": n + 8})
    assert got.rstrip(b" ").endswith(b"}"), f"the header ends in {got[-6:]}: only spaces may follow the JSON"
    same(json.loads(got[8:]), json.loads(text), "w: the JSON")


@pytest.mark.ex("2.21")
def test_offsets_follow_each_other_in_bytes():
    """random tensors of several types and shapes: each begins where the one before ended"""
    types = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64, "U8": torch.uint8}
    tensors, want, end = [], {}, 0
    for i in range(6):
        name, shape = random.choice(list(types)), random.choices(range(1, 5), k=random.randint(0, 3))
        t = torch.zeros(shape, dtype=types[name])
        tensors.append((f"layer.{i}", t))
        size = t.numel() * t.element_size()
        want[f"layer.{i}"] = {"dtype": name, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    got = json.loads(call("six tensors", pack_header, tensors)[8:])
    for name, entry in want.items():
        hint = "offsets are bytes, counted from the end of the header, and the end is not a length"
        same(got.get(name), entry, f"shapes {[list(t.shape) for _, t in tensors]}: {name}", hint)
    same(list(got), list(want), "the names, in the order of the tensors")


@pytest.mark.ex("2.21")
def test_metadata_stands_under_its_own_name():
    """metadata goes under "__metadata__", and without metadata there is no such entry"""
    for given in ({"format": "pt"}, None, {}):
        got = json.loads(call(f"metadata {given}", pack_header, [("w", torch.zeros(1))], given)[8:])
        same(got.get("__metadata__"), given or None, f"metadata {given}")
        assert set(got) <= {"w", "__metadata__"}, f"entries {set(got)}, wanted w and perhaps __metadata__"


# 2.22 floating-point operations


@pytest.mark.ex("2.22")
def test_the_token_of_the_worked_example_costs_448():
    """C 4, 2 heads, 1 key/value head, F 6, 1 layer, V 10, T 8: 96 + 128 + 144 + 80"""
    config = Config(vocab_size=10, d_model=4, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=6)
    got = call("the worked example", flops_per_token, config, 8)
    same(got, 448, "the worked example", mistakes={
        "a multiplication and an addition are two operations": 224,
        "the means of the values cost as much as the scores": 384,
        "the logits are a product too": 368,
        "K heads of keys and values, not H": 464})


@pytest.mark.ex("2.22")
@pytest.mark.parametrize("options", [{}, dict(n_kv_heads=1), dict(activation="gelu"), dict(tied=False),
                                     dict(n_layers=3)])
def test_the_formula_is_what_torch_counts(options):
    """torch's own counter, over a forward pass of the real model"""
    shape = dict(vocab_size=19, d_model=12, n_layers=2, n_heads=2, n_kv_heads=2, d_ff=10, max_len=16)
    config = Config(**{**shape, **options})
    for T in (1, 9):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            Transformer(config)(torch.zeros(2, T, dtype=torch.int64))
        same(call(f"{options}, T {T}", flops_per_token, config, T), counter.get_total_flops() // (2 * T),
             f"{options or 'the defaults'}, T {T}", "only the scores and means depend on T")
