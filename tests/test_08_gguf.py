"""GGUF: blocks by hand, a file by hand, what is written is read, and files that lie."""
import math
import struct
from dataclasses import fields

import pytest
import torch
from torch.testing import assert_close

from bpe import Tokenizer
from damaged_files import read_damaged, tiny_model
from export_model import write_folder
from ggml_blocks import FORMATS, pack, pack_six_bits, unpack, unpack_six_bits
from gguf_container import read_container, write_container
from gguf_file import read_gguf, write_gguf
from hf_format import load_hf
from model_config import CHOICES
from pretokenize import PATTERNS
from transformer import Config, Transformer


def test_a_block_of_q8_0_by_hand():
    x = torch.zeros(32)
    x[0], x[1], x[2] = 254.0, -3.0, 1.0                 # scale 2: 127, -1.5 and 0.5, away from zero
    data = pack(x, "Q8_0")
    assert bytes(data[:5].tolist()) == struct.pack("<e3b", 2.0, 127, -2, 1)
    assert unpack(data, "Q8_0", [32])[:4].tolist() == [254.0, -4.0, 2.0, 0.0]


def test_a_block_of_q4_0_by_hand():
    x = torch.zeros(32)
    x[0], x[1], x[16], x[17] = -8.0, 3.0, 7.9, -1.0     # scale 1; 7.9 is rounded to 8 and cut at 7
    data = pack(x, "Q4_0")
    assert len(data) == 18 and bytes(data[:4].tolist()) == struct.pack("<eBB", 1.0, 0 | 15 << 4, 11 | 7 << 4)
    assert unpack(data, "Q4_0", [32])[[0, 1, 16, 17, 5]].tolist() == [-8.0, 3.0, 7.0, -1.0, 0.0]
    x[20] = 16.0                                        # the largest is positive: the scale is negative
    assert unpack(pack(x, "Q4_0"), "Q4_0", [32])[[0, 20]].tolist() == [-8.0, 16.0]


def test_six_bits_by_hand():
    scales, mins = torch.zeros(1, 8, dtype=torch.uint8), torch.zeros(1, 8, dtype=torch.uint8)
    scales[0, 0], scales[0, 4], mins[0, 4] = 0b111111, 0b101101, 0b010011
    data = pack_six_bits(scales, mins)
    assert data[0].tolist() == [0b10111111, 0, 0, 0, 0b01000000, 0, 0, 0, 0b00111101, 0, 0, 0]
    codes = torch.randint(64, (2, 50, 8), dtype=torch.uint8)
    assert_close(torch.stack(unpack_six_bits(pack_six_bits(*codes))), codes)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_weight_comes_back_as_near_as_its_format_can(kind):
    """Half a step of the integers, or half a place of the last bit; a little more for rounded scales."""
    torch.manual_seed(1)
    x = torch.randn(6, 512) * torch.logspace(-1, 3, 6)[:, None]
    x[2, :256] = 0
    x[3, :256] = x[3, :256].abs() + 1                   # no weight below 0
    back = unpack(pack(x, kind), kind, [6, 512])
    groups = x.view(6, -1, 32)
    size, span = groups.abs().amax(2), groups.amax(2).clamp(min=0) - groups.amin(2).clamp(max=0)
    blocks = span.view(6, -1, 8).amax(2).repeat_interleave(8, 1)     # Q4_K: scales are shares of the largest
    allowed = {"F32": 0 * size, "F16": size / 2**11, "BF16": size / 2**8, "Q8_0": size / 127 * 0.57,
               "Q4_0": size / 8 * 1.01, "Q4_K": span / 15 * 0.6 + blocks / 63 * 0.6}[kind]
    error = (back - x).view(6, -1, 32).abs().amax(2)
    assert (error <= allowed + 1e-12).all(), (error / allowed).max()
    assert len(pack(x, kind)) * FORMATS[kind].block == x.numel() * FORMATS[kind].n_bytes


def test_a_container_made_by_hand_is_read(tmp_path):
    def text(s):
        return struct.pack("<Q", len(s)) + s
    values = [text(b"a") + struct.pack("<Iq", 11, -5), text(b"b") + struct.pack("<Id", 12, 0.1),
              text(b"c") + struct.pack("<IIQ3H", 9, 2, 3, 1, 2, 3), text(b"d") + struct.pack("<I?", 7, True),
              text(b"general.alignment") + struct.pack("<II", 4, 64),
              text(b"e") + struct.pack("<IIQ", 9, 8, 2) + text("ü".encode()) + text(b"")]
    info = text(b"w") + struct.pack("<I2QIQ", 2, 3, 2, 0, 64)          # 2 rows of 3, F32, at 64
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(values)) + b"".join(values) + info
    head += b"\0" * (-len(head) % 64 + 64)
    (tmp_path / "f").write_bytes(head + struct.pack("<6f", *range(6)))
    read, tensors = read_container(tmp_path / "f")
    assert read == {"a": -5, "b": 0.1, "c": [1, 2, 3], "d": True, "general.alignment": 64, "e": ["ü", ""]}
    assert tensors["w"].values().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_container_that_we_write_is_the_one_the_format_describes(tmp_path):
    write_container(tmp_path / "f", {"n": 7, "x": [-1]}, {"w": (torch.tensor([[1.0, 2.0]]), "F32")})
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + struct.pack("<Q1sII", 1, b"n", 4, 7)
    head += struct.pack("<Q1sIIQi", 1, b"x", 9, 5, 1, -1) + struct.pack("<Q1sI2QIQ", 1, b"w", 2, 2, 1, 0, 0)
    head += b"\0" * (-len(head) % 32)
    assert (tmp_path / "f").read_bytes() == head + struct.pack("<2f", 1, 2).ljust(32, b"\0")


@pytest.mark.parametrize("kind", FORMATS)
def test_model_and_tokenizer_come_back(kind, tmp_path):
    model, tokenizer = tiny_model()
    write_gguf(tmp_path / "f", model, tokenizer, kind)
    back, its = read_gguf(tmp_path / "f")
    assert back.config == model.config and its.pattern == tokenizer.pattern
    assert (its.merges, its.special) == (tokenizer.merges, tokenizer.special)
    used = "Q8_0" if kind in ("Q4_0", "Q4_K") else kind
    for (name, w), mine in zip(back.state_dict().items(), model.state_dict().values()):
        f = "F32" if mine.ndim == 1 else used if "embed" in name or kind == "Q4_K" else kind
        assert_close(w, unpack(pack(mine, f), f, [*mine.shape]), rtol=0, atol=0)
    ids = torch.randint(tokenizer.vocab_size, (2, 9))
    if kind == "F32":
        assert_close(back(ids), model(ids), rtol=0, atol=0)


def test_untied_models_and_other_patterns_come_back(tmp_path):
    tokenizer = Tokenizer([], pattern=PATTERNS["Llama 3"])
    model = Transformer(Config(vocab_size=tokenizer.vocab_size, d_model=64, n_layers=2, n_heads=2,
                               n_kv_heads=1, d_ff=96, head_width=16, tied=False, norm_eps=1e-6,
                               rope_base=5e5, max_len=99))
    write_gguf(tmp_path / "f", model, tokenizer, "F32")
    back, its = read_gguf(tmp_path / "f")
    assert back.config == model.config and its.pattern == tokenizer.pattern
    for name, w in model.state_dict().items():
        assert_close(back.state_dict()[name], w, rtol=0, atol=0)


@pytest.mark.parametrize("config, kind, says", [
    (dict(qk_norm=False), "F32", "Qwen3's form, not of one with qk_norm=False:"),
    (dict(norm="layer", bias=True), "F32", "norm='layer', bias=True"),
    (dict(rope_scaling="linear", rope_factor=2.0), "F32", "rope_scaling='linear'"),
    (dict(vocab_size=300), "F32", "do not belong together"), (dict(), "Q5_1", "choose one of")])
def test_what_cannot_be_said_in_the_file_is_refused(config, kind, says, tmp_path):
    _, tokenizer = tiny_model()
    model = Transformer(Config(**{"vocab_size": tokenizer.vocab_size, "n_layers": 1, **config}))
    with pytest.raises(ValueError, match=says):
        write_gguf(tmp_path / "f", model, tokenizer, kind)
    assert not list(tmp_path.iterdir())


OTHER = {"window": 7, "softcap": 30.0, "rope_base": 5e5, "norm_eps": 1e-6,
         "head_width": 8, "n_kv_heads": 1, "trained_len": 8}
ALSO = {"rope_scaling": {"rope_factor": 2.0}, "attention": {"window": 4, "rope_width": 8, "qk_norm": True}}


def every_change() -> list[tuple]:
    """(field, a value of its own) for each field of Config that is not a plain size."""
    changes = []
    for f in fields(Config):
        values = [v for v in CHOICES.get(f.name, ()) if v != f.default]
        if f.type in (bool, "bool"):
            values = [not f.default]
        if f.name == "n_experts":      # what goes with experts or scaling alone is not tried
            values = [2]
        changes += [(f.name, v) for v in values or [OTHER.get(f.name)] if v is not None]
    return changes


@pytest.mark.parametrize("field, value", every_change())
def test_every_kind_of_model_comes_back_equal_or_is_refused_by_name(field, value, tmp_path):
    _, tokenizer = tiny_model()
    config = Config(**{"vocab_size": tokenizer.vocab_size, "d_model": 32, "n_heads": 2, "n_kv_heads": 2,
                       "n_layers": 2, "d_ff": 32, "max_len": 16, **ALSO.get(field, {}), field: value})
    torch.manual_seed(0)
    model, ids = Transformer(config).requires_grad_(False), torch.randint(259, (2, 12))
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.1)                   # biases and gains count
    try:
        write_gguf(tmp_path / "f", model, tokenizer, "F32")
    except ValueError as error:
        assert f"{field}={value!r}" in str(error) and str(error).count("\n") == 0
    else:
        assert_close(read_gguf(tmp_path / "f")[0](ids), model(ids), rtol=1e-5, atol=1e-5)


def test_weights_that_a_format_cannot_hold_are_refused():
    for bad, kind in ((math.nan, "F32"), (math.inf, "Q4_0"), (1e6, "F16"), (1e8, "Q8_0")):
        with pytest.raises(ValueError, match="weight is"):
            pack(torch.full((32,), bad), kind)
    with pytest.raises(ValueError, match="blocks of 256"):
        pack(torch.zeros(2, 32), "Q4_K")


def test_sizes_that_would_take_memory_without_end_are_refused(tmp_path):
    model, tokenizer = tiny_model()
    write_gguf(tmp_path / "f", model, tokenizer, "F32")
    whole = (tmp_path / "f").read_bytes()
    for key in (b"context_length", b"block_count", b"head_count", b"key_length", b"embedding_length"):
        at = whole.index(key) + len(key) + 4
        for value in (2**20, 2**31, 2**32 - 1, 0):
            (tmp_path / "f").write_bytes(whole[:at] + struct.pack("<I", value) + whole[at + 4:])
            if (key, value) != (b"context_length", 2**20):
                with pytest.raises(ValueError, match="is no model that we can load"):
                    read_gguf(tmp_path / "f")
    at = whole.index(b"GGUF") + 8
    (tmp_path / "f").write_bytes(whole[:at] + struct.pack("<QQ", 2**60, 2**60) + whole[at + 16:])
    with pytest.raises(ValueError, match="more than it has bytes"):
        read_gguf(tmp_path / "f")


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_damaged_files_are_refused_or_read_and_nothing_else_happens(kind, tmp_path):
    counts = read_damaged(tmp_path, kind, 250, seed=0)
    assert counts["refused"] > 150 and counts["read"] > 0, counts


def test_the_exported_folder_is_read_again(tmp_path):
    model, tokenizer = tiny_model()
    write_folder(tmp_path, model, tokenizer)
    ids = torch.randint(tokenizer.vocab_size, (2, 9))
    assert_close(load_hf(tmp_path)(ids), model(ids), rtol=0, atol=0)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "generation_config.json"}
