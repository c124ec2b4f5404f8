"""Checkpoints in the layout of Hugging Face: ours there and back, and folders that do not fit together."""

import json

import pytest
import torch
from torch.testing import assert_close

from hf_families import read_gpt2, write_gpt2
from hf_format import INDEX, ONE_FILE, load_hf, read_folder, save_hf
from safetensors_file import read_safetensors, write_safetensors
from transformer import Config, Transformer

SHAPE = dict(vocab_size=61, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=40, max_len=64)
FAMILIES = {"llama": dict(qk_norm=False, tied=False, rope_base=5e5),
            "llama3": dict(qk_norm=False, rope_scaling="llama3", rope_factor=4.0, trained_len=16),
            "qwen3": dict(head_width=10, norm_eps=1e-6),
            "mixtral": dict(qk_norm=False, n_experts=4, top_k=3, expert_ff=24, attention="window", window=9),
            "gpt2": dict(positions="learned", norm="layer", activation="gelu_tanh", bias=True, qk_norm=False,
                         n_kv_heads=4)}


def build(name: str) -> Transformer:
    return Transformer(Config(**{**SHAPE, **FAMILIES[name]}))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shard_bytes", [10**9, 8000], ids=["one file", "several files"])
def test_a_saved_model_is_the_same_when_loaded(name, shard_bytes, tmp_path):
    model, ids = build(name), torch.randint(61, (2, 30))
    save_hf(model, tmp_path, shard_bytes)
    assert (tmp_path / INDEX).exists() == (shard_bytes == 8000) != (tmp_path / ONE_FILE).exists()
    loaded = load_hf(tmp_path)
    assert_close(loaded(ids), model(ids), rtol=0, atol=0)
    assert loaded.config.cache_shape == model.config.cache_shape and loaded.config.tied == model.config.tied


def test_saving_again_in_another_number_of_files_leaves_no_trace_of_the_first(tmp_path):
    for shard_bytes, seed in ((10**9, 0), (8000, 1), (10**9, 2)):
        torch.manual_seed(seed)
        model = build("llama")
        save_hf(model, tmp_path, shard_bytes)
        assert_close(load_hf(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_type_can_be_asked_for_and_weights_can_be_trained_after_loading(tmp_path):
    save_hf(build("mixtral").bfloat16(), tmp_path)
    assert next(load_hf(tmp_path).parameters()).dtype == torch.bfloat16
    model = load_hf(tmp_path, torch.float32).train()
    model(torch.randint(61, (1, 8))).sum().backward()
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32 and (p.grad is not None or "experts" in name), name


def test_the_oldest_files_of_gpt2_are_read():
    """openai-community/gpt2: no `transformer.` in front, and masks among the weights."""
    model = build("gpt2")
    old = {name.removeprefix("transformer."): t for name, t in write_gpt2(model.state_dict()).items()}
    assert old["h.0.attn.c_attn.weight"].shape == (32, 96)
    old |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    assert_close(read_gpt2(old), dict(model.state_dict()), rtol=0, atol=0)


def test_a_tied_table_that_is_written_twice_is_read_once(tmp_path):
    model = build("qwen3")
    save_hf(model, tmp_path)
    weights = read_safetensors(tmp_path / ONE_FILE)
    twice = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    write_safetensors(tmp_path / ONE_FILE, weights | twice)
    assert_close(load_hf(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


def changed(tmp_path, name: str, **changes):
    """A saved model whose config.json has been changed; None takes a field out."""
    save_hf(build(name), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {k: v for k, v in {**config, **changes}.items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("name, changes, sentence", [
    ("llama", dict(model_type="t5"), "family 't5': load one of llama, qwen3, mixtral, gpt2"),
    ("llama", dict(model_type=None), "family None"),
    ("llama", dict(hidden_size=None), "lacks 'hidden_size'"),
    ("llama", dict(hidden_act="gelu"), "has the activation gelu"),
    ("llama", dict(attention_bias=True), "has biases"),
    ("llama", dict(partial_rotary_factor=0.5), "only a part of each head"),
    ("llama", dict(rope_scaling={"type": "dynamic", "factor": 2.0}), "has the RoPE scaling 'dynamic'"),
    ("llama3", dict(rope_scaling={"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 2.0}),
     "has low_freq_factor 2.0 instead of 1"),
    ("qwen3", dict(use_sliding_window=True), "has windows"),
    ("gpt2", dict(activation_function="relu"), "has the activation relu"),
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scales its scores otherwise"),
    ("llama", dict(num_hidden_layers=3), "model.layers.2.input_layernorm.weight is missing"),
    ("llama", dict(num_hidden_layers=1), "model.layers.1.input_layernorm.weight has no place"),
    ("llama", dict(model_type="qwen3"), "model.layers.0.self_attn.k_norm.weight is missing"),
    ("llama", dict(intermediate_size=44), r"has the shape \(40, 32\), but config.json says \(44, 32\)"),
    ("llama", dict(num_key_value_heads=3), "same number of query heads"),
    ("llama", dict(model_type=["llama"]), r"family \['llama'\]"),
    ("llama", dict(vocab_size="64"), "is not that of a llama .vocab_size '64' is no whole"),
    ("llama", dict(max_position_embeddings=64.5), "max_len 64.5 is no whole number"),
    ("llama", dict(rms_norm_eps=[]), "is not that of a llama"),
    ("llama", dict(rope_scaling=[1]), "is not that of a llama"),
    ("gpt2", dict(n_positions=True), "max_len True is no whole number"),
])
def test_a_folder_that_does_not_fit_is_refused_in_a_sentence(name, changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        load_hf(changed(tmp_path, name, **changes))


@pytest.mark.parametrize("index", [{}, [], {"weight_map": ["a"]}, {"weight_map": {"a": 3}},
                                   {"weight_map": {"a": ""}}])
def test_an_index_that_says_nothing_is_refused_in_a_sentence(index, tmp_path):
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="does not say which file each weight is in: download it again"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_a_download_that_was_cut_off_is_to_be_downloaded_again(name, tmp_path):
    save_hf(build("llama"), tmp_path, 8000)
    (tmp_path / name).write_text((tmp_path / name).read_text()[:20])
    with pytest.raises(ValueError, match=f"{name} is damaged .*: download it again$"):
        load_hf(tmp_path)


def test_an_index_that_promises_too_much_or_leaves_its_folder_is_refused(tmp_path):
    save_hf(build("llama"), tmp_path, 8000)
    index = json.loads((tmp_path / INDEX).read_text())
    some_file = next(iter(index["weight_map"].values()))
    for file, sentence in ((some_file, "promises model.more.weight and 0 more"),
                           ("../secret.safetensors", "outside its folder")):
        more = {"model.more.weight": file}
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | more}))
        with pytest.raises(ValueError, match=sentence):
            load_hf(tmp_path)


@pytest.mark.parametrize("name, sentence", [
    ("config.json", "has no config.json: give the folder of a whole model, or download it again"),
    ("model-00001-of-", "has no model-00001-of-.*: give the folder of a whole model, or download it again"),
    (INDEX, "has no model.safetensors: only pytorch_model.bin, a pickle, and whoever reads one runs it"),
])
def test_a_folder_that_lacks_a_file_is_refused_in_a_sentence(name, sentence, tmp_path):
    save_hf(build("llama"), tmp_path, 8000)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    next(p for p in tmp_path.iterdir() if p.name.startswith(name)).unlink()
    with pytest.raises(ValueError, match=sentence):
        load_hf(tmp_path)


@pytest.mark.parametrize("options", [dict(positions="alibi"), dict(softcap=3.0), dict(attention="latent"),
                                     dict(n_experts=4), dict(placement="post"), dict(sinks=True)], ids=str)
def test_a_model_of_no_published_family_is_not_saved_as_one(options, tmp_path):
    with pytest.raises(ValueError, match="no published family"):
        save_hf(Transformer(Config(**options)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_interrupted_download_is_noticed(tmp_path):
    save_hf(build("llama"), tmp_path)
    content = (tmp_path / ONE_FILE).read_bytes()
    (tmp_path / ONE_FILE).write_bytes(content[:-100])
    with pytest.raises(ValueError, match="cut off"):
        load_hf(tmp_path)
