"""Checkpoints of transformers in our model and ours in transformers: the same logits in float64, both ways.

make peers
"""

import json

import pytest
import torch
from torch.testing import assert_close

from hf_format import load_hf, save_hf
from safetensors_file import DTYPES, read_safetensors, write_safetensors
from transformer import Config, Transformer

transformers = pytest.importorskip("transformers", reason="run `make peers`, which installs it")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="run `make peers`, which installs it")

SHAPE = dict(vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=16)
PLAIN = dict(attn_implementation="sdpa", experts_implementation="eager")  # those that know float64
GPT2 = dict(vocab_size=61, n_embd=32, n_layer=3, n_head=4, n_positions=64)
THEIRS = {
    "llama": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama tied": lambda: transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama 3 scaling": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "llama with yarn": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=YARN),
    "qwen3 with wide heads": lambda: transformers.Qwen3Config(**SHAPE, head_dim=12, tie_word_embeddings=True),
    "mixtral": lambda: transformers.MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
    "mixtral, window": lambda: transformers.MixtralConfig(**SHAPE, num_local_experts=3, sliding_window=7),
    "gpt-2": lambda: transformers.GPT2Config(**GPT2),
    "gpt-2 untied": lambda: transformers.GPT2Config(**GPT2, n_inner=50, tie_word_embeddings=False),
}
OURS = {"llama": dict(qk_norm=False, tied=False),
        "llama 3": dict(qk_norm=False, rope_scaling="llama3", rope_factor=4.0, trained_len=16, rope_base=5e5),
        "qwen3": dict(n_kv_heads=1, head_width=10),
        "mixtral": dict(qk_norm=False, n_experts=4, expert_ff=24),
        "gpt-2": dict(positions="learned", norm="layer", activation="gelu_tanh", bias=True, qk_norm=False,
                      n_kv_heads=4)}


@pytest.fixture
def wide(monkeypatch):
    """transformers computes norms, softmaxes and angles in float32 whatever the model: make those float64."""
    to, softmax, arange = torch.Tensor.to, torch.nn.functional.softmax, torch.arange

    def wide_arange(*args, dtype=None, **kwargs):
        return arange(*args, dtype=torch.float64 if dtype is torch.float32 else dtype, **kwargs)

    def wide_to(self, *args, **kwargs):
        args = [torch.float64 if a is torch.float32 else a for a in args]
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch.Tensor, "to", wide_to)
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))
    monkeypatch.setattr(torch, "arange", wide_arange)


def shake(model: torch.nn.Module) -> torch.nn.Module:
    """Random float64 weights that are large enough for a mistake to show, gains and biases too."""
    model.double()
    for p in model.parameters():
        p.data = torch.randn_like(p) * 0.2 + (1 if p.ndim == 1 and p.data.mean() > 0.5 else 0)
    return model.eval()


def compare(ours: Transformer, theirs: torch.nn.Module) -> None:
    ids = torch.randint(61, (2, 50))
    with torch.no_grad():
        wanted, got = theirs(ids).logits, ours(ids)
    assert wanted.std() > 0.1
    assert_close(got, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", THEIRS)
def test_a_checkpoint_of_transformers_gives_their_logits_here(name, tmp_path, wide):
    theirs = shake(transformers.AutoModelForCausalLM.from_config(THEIRS[name](), **PLAIN))
    theirs.save_pretrained(tmp_path)
    compare(load_hf(tmp_path), theirs)


@pytest.mark.parametrize("name", OURS)
def test_our_checkpoint_gives_our_logits_in_transformers(name, tmp_path, wide):
    shape = dict(vocab_size=61, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=40, max_len=64)
    ours = shake(Transformer(Config(**{**shape, **OURS[name]})))
    save_hf(ours, tmp_path)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64,
                                                                     output_loading_info=True, **PLAIN)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    compare(ours, theirs)


def test_several_files_with_an_index_are_read_both_ways(tmp_path, wide):
    theirs = shake(transformers.AutoModelForCausalLM.from_config(THEIRS["llama"]()))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ours = load_hf(tmp_path / "theirs")
    compare(ours, theirs)
    save_hf(ours, tmp_path / "ours", shard_bytes=40_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    compare(ours, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float64))


def test_the_safetensors_package_reads_ours_and_we_read_theirs(tmp_path):
    tensors = {name: (torch.randn(3, 5) * 50).abs().to(dtype) for name, dtype in DTYPES.items()}
    write_safetensors(tmp_path / "a", tensors, {"made by": "hand"})
    safetensors_torch.save_file(tensors, tmp_path / "b")
    for read in (safetensors_torch.load_file(tmp_path / "a"), read_safetensors(tmp_path / "b")):
        assert set(read) == set(tensors)
        for name, t in tensors.items():
            assert_close(read[name], t, rtol=0, atol=0)


@pytest.mark.parametrize("content", [b"", b"123", b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}x", b"\2\0\0\0\0\0\0\0[]"])
def test_what_the_safetensors_package_refuses_we_refuse(content, tmp_path):
    (tmp_path / "f").write_bytes(content)
    for read in (safetensors_torch.load_file, read_safetensors):
        with pytest.raises(Exception) as refused:
            read(tmp_path / "f")
        assert read is safetensors_torch.load_file or refused.type is ValueError


def test_old_names_of_rope_scaling_are_read(tmp_path):
    """Files from before 2026 keep base and scaling at the top of config.json."""
    save_hf(Transformer(Config(qk_norm=False, n_layers=1)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    config |= {"rope_theta": 5e5, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = load_hf(tmp_path).config
    assert (read.rope_base, read.rope_scaling, read.rope_factor, read.trained_len) == (5e5, "llama3", 8.0, 16)
