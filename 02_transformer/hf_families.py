"""Four families of published models in our terms: config.json as our Config, their weights' names as ours.

Our names follow Hugging Face's Llama, so Llama and Qwen3 need no renaming at all. Mixtral calls its experts
otherwise, and GPT-2, the oldest, joins q, k and v in one matrix and stores every matrix transposed.

    python 02_transformer/hf_format.py FOLDER      loads such a model
"""
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model_config import Config

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """How one family writes its configuration and its weights; the functions below fill it in."""
    architecture: str
    to_ours: Callable[[dict], dict]              # fields of config.json to fields of Config
    from_ours: Callable[[Config], dict]          # and back
    read: Callable[[Weights], Weights]           # their weights to ours
    write: Callable[[Weights], Weights]          # and back
    holds: Callable[[Config], bool]              # is this configuration one of the family's?


def need(wanted: bool, said: str) -> None:
    """ValueError with a sentence about what our model has no part for."""
    if not wanted:
        raise ValueError(f"this checkpoint {said}, which has no counterpart in Config: load another model")


# Llama, Qwen3 and Mixtral


def llama_fields(c: dict) -> dict:
    """What the three newer families have in common."""
    need(c.get("hidden_act", "silu") == "silu", f"has the activation {c.get('hidden_act')}")
    need(not c.get("attention_bias") and not c.get("mlp_bias"), "has biases in its projections")
    need(c.get("partial_rotary_factor", 1) == 1, "rotates only a part of each head")
    heads = c["num_attention_heads"]
    shape = dict(vocab_size=c["vocab_size"], d_model=c["hidden_size"], d_ff=c["intermediate_size"],
                 n_layers=c["num_hidden_layers"], n_heads=heads, head_width=c.get("head_dim") or 0,
                 n_kv_heads=c.get("num_key_value_heads") or heads, max_len=c["max_position_embeddings"])
    tied = c.get("tie_word_embeddings", False)
    return dict(**shape, norm_eps=c["rms_norm_eps"], tied=tied, qk_norm=False, **rope_fields(c))


def rope_fields(c: dict) -> dict:
    """RoPE's base and scaling: older files have them at the top, newer ones in `rope_parameters`."""
    new = c.get("rope_parameters") or {}
    scaling = c.get("rope_scaling") or new
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    base = float(new.get("rope_theta") or c.get("rope_theta") or 10_000)
    if kind == "default":
        return dict(rope_base=base)
    need(kind in ("linear", "yarn", "llama3"), f"has the RoPE scaling {kind!r}")
    ramp = {"llama3": {"low_freq_factor": 1, "high_freq_factor": 4},
            "yarn": {"beta_fast": 32, "beta_slow": 1}}
    for name, usual in ramp.get(kind, {}).items():
        need(scaling.get(name) in (None, usual), f"has {name} {scaling.get(name)} instead of {usual}")
    need(scaling.get("attention_factor") is None and not scaling.get("mscale"), "scales its scores otherwise")
    return dict(rope_base=base, rope_scaling=kind, rope_factor=float(scaling["factor"]),
                trained_len=scaling.get("original_max_position_embeddings") or 0)


def llama_json(config: Config) -> dict:
    """config.json of the three newer families."""
    rope: dict = {"rope_theta": config.rope_base, "rope_type": "default"}
    if config.rope_scaling != "none":
        need(config.rope_scaling != "ntk", "has the RoPE scaling ntk")
        rope |= {"rope_type": config.rope_scaling, "factor": config.rope_factor,
                 "original_max_position_embeddings": round(config.length_of_training)}
        if config.rope_scaling == "llama3":
            rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    older = {} if config.rope_scaling == "none" else {"rope_scaling": rope}   # where older readers look
    shape = dict(vocab_size=config.vocab_size, hidden_size=config.d_model, intermediate_size=config.d_ff,
                 num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
                 num_key_value_heads=config.n_kv_heads, head_dim=config.D,
                 max_position_embeddings=config.max_len)
    return dict(**shape, rms_norm_eps=config.norm_eps, hidden_act="silu", attention_bias=False,
                mlp_bias=False, tie_word_embeddings=config.tied, rope_theta=config.rope_base,
                rope_parameters=rope, **older)


def qwen_fields(c: dict) -> dict:
    """Qwen3: Llama with norms on queries and keys."""
    need(not c.get("use_sliding_window"), "has windows in some layers")
    return {**llama_fields(c), "qk_norm": True}


def mixtral_fields(c: dict) -> dict:
    """Mixtral: Llama with experts, in some versions with a window."""
    window = {"attention": "window", "window": c["sliding_window"]} if c.get("sliding_window") else {}
    experts = {"n_experts": c["num_local_experts"], "top_k": c["num_experts_per_tok"]}
    return {**llama_fields(c), **window, **experts}


def mixtral_json(config: Config) -> dict:
    """config.json of Mixtral."""
    window = config.window if config.attention == "window" else None
    return {**llama_json(config), "num_local_experts": config.n_experts, "num_experts_per_tok": config.top_k,
            "sliding_window": window, "intermediate_size": config.expert_width}


MIXTRAL_PARTS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def read_mixtral(theirs: Weights) -> Weights:
    """block_sparse_moe.experts.0.w1 and so on to ours."""
    def ours(name: str) -> str:
        return re.sub(r"(experts\.\d+)\.(w\d)", lambda m: f"{m[1]}.{MIXTRAL_PARTS[m[2]]}",
                      name.replace("block_sparse_moe", "mlp"))
    return {ours(name): t for name, t in theirs.items()}


def write_mixtral(ours: Weights) -> Weights:
    """And back."""
    back = {ours: theirs for theirs, ours in MIXTRAL_PARTS.items()}
    return {re.sub(r"(experts\.\d+)\.(\w+_proj)", lambda m: f"{m[1]}.{back[m[2]]}",
                   name.replace(".mlp.", ".block_sparse_moe.")): t for name, t in ours.items()}


# GPT-2


def gpt2_fields(c: dict) -> dict:
    """The names of 2019."""
    activation = c.get("activation_function", "gelu_new")
    need(activation == "gelu_new", f"has the activation {activation}")
    usual = c.get("scale_attn_weights", True) and not c.get("scale_attn_by_inverse_layer_idx")
    need(usual, "scales its scores otherwise")
    shape = dict(vocab_size=c["vocab_size"], d_model=c["n_embd"], n_layers=c["n_layer"], n_heads=c["n_head"],
                 n_kv_heads=c["n_head"], d_ff=c.get("n_inner") or 4 * c["n_embd"], max_len=c["n_positions"])
    return dict(**shape, positions="learned", norm="layer", norm_eps=c["layer_norm_epsilon"],
                activation="gelu_tanh", qk_norm=False, bias=True, tied=c.get("tie_word_embeddings", True))


def gpt2_json(config: Config) -> dict:
    """config.json of GPT-2."""
    return dict(vocab_size=config.vocab_size, n_embd=config.d_model, n_layer=config.n_layers,
                n_head=config.n_heads, n_inner=config.d_ff, n_positions=config.max_len,
                layer_norm_epsilon=config.norm_eps, activation_function="gelu_new",
                tie_word_embeddings=config.tied)


GPT2_PARTS = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm",
              "attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
GPT2_WHOLE = {"wte.weight": "model.embed_tokens.weight", "wpe.weight": "model.embed_positions.weight",
              "ln_f.weight": "model.norm.weight", "ln_f.bias": "model.norm.bias",
              "lm_head.weight": "lm_head.weight"}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def turned(t: Tensor) -> Tensor:
    """GPT-2 keeps matrices as (in, out), we as (out, in)."""
    return t.T if t.ndim == 2 else t


def read_gpt2(theirs: Weights) -> Weights:
    """Rename, transpose, and cut c_attn into q, k and v."""
    def pieces() -> Iterator[tuple[str, Tensor]]:
        for name, t in theirs.items():
            name = name.removeprefix("transformer.")
            found = re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", name)
            if found is None:
                if not name.endswith(("attn.bias", "attn.masked_bias")):   # masks that old files carry along
                    yield GPT2_WHOLE.get(name, name), t
                continue
            layer, part, kind = found.groups()
            if part == "attn.c_attn":
                for p, x in zip(QKV, turned(t).chunk(3)):
                    yield f"model.layers.{layer}.{p}.{kind}", x
            elif part != "attn":
                yield f"model.layers.{layer}.{GPT2_PARTS.get(part, part)}.{kind}", turned(t)
    return dict(pieces())


def write_gpt2(ours: Weights) -> Weights:
    """And back."""
    whole, parts = ({v: k for k, v in table.items()} for table in (GPT2_WHOLE, GPT2_PARTS))
    theirs = {}
    for name, t in ours.items():
        if name in whole:
            theirs[whole[name] if name == "lm_head.weight" else "transformer." + whole[name]] = t
            continue
        inside = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        assert inside, name
        layer, part, kind = inside.groups()
        begin = f"transformer.h.{layer}."
        if part == QKV[0]:
            joined = torch.cat([ours[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
            theirs[f"{begin}attn.c_attn.{kind}"] = turned(joined)
        elif part not in QKV:
            theirs[f"{begin}{parts[part]}.{kind}"] = turned(t)
    return theirs


def newer(c: Config) -> bool:
    """Is it of Llama's kind, whatever norms and experts it has?"""
    return (c.positions, c.norm, c.placement, c.activation) == ("rope", "rms", "pre", "swiglu") \
        and not c.bias and not c.sinks and not c.softcap and c.attention in ("full", "window")


FAMILIES = {
    "llama": Family("LlamaForCausalLM", llama_fields, llama_json, dict, dict,
                    lambda c: newer(c) and not c.qk_norm and not c.n_experts and c.attention == "full"),
    "qwen3": Family("Qwen3ForCausalLM", qwen_fields, llama_json, dict, dict,
                    lambda c: newer(c) and c.qk_norm and not c.n_experts and c.attention == "full"),
    "mixtral": Family("MixtralForCausalLM", mixtral_fields, mixtral_json, read_mixtral, write_mixtral,
                      lambda c: newer(c) and not c.qk_norm and c.n_experts > 0 and c.balance != "bias"
                      and not c.n_shared and not c.dense_layers),
    "gpt2": Family("GPT2LMHeadModel", gpt2_fields, gpt2_json, read_gpt2, write_gpt2,
                   lambda c: (c.positions, c.norm, c.placement, c.activation, c.attention)
                   == ("learned", "layer", "pre", "gelu_tanh", "full") and c.bias and not c.qk_norm
                   and not c.n_experts and not c.sinks and not c.softcap and c.n_kv_heads == c.n_heads
                   and c.D * c.n_heads == c.d_model),
}
