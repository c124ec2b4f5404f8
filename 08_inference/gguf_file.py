"""A model and its tokenizer in one GGUF file, which llama.cpp runs.

Adds to gguf_container.py what our parts are called there. Our model is Qwen3 in their list of architectures:
Llama with norms on queries and keys. The tokenizer is byte-level BPE, "gpt2".

    make export                            writes out/08_inference/export/model.Q4_0.gguf and more
    python 08_inference/gguf_file.py FILE  loads one and counts it

llama.cpp has the patterns that cut text into pieces compiled in, those of published models. Ours is not among
them: `tokenizer.ggml.pre` names the nearest (see the lesson for how near), and a value of our own says which
it is, so that we read back exactly what was written.
"""
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from workbench import parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from bpe import BOT, EOS, PAD, USER, Tokenizer
from formats import byte_alphabet, check_spelling
from ggml_blocks import FORMATS
from gguf_container import Stored, read_container, write_container
from hf_format import compare_names
from model_config import Config
from pretokenize import PATTERNS
from transformer import Transformer, angles_of

NAMES = {   # ours in a layer, theirs
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
QWEN3 = dict(positions="rope", norm="rms", placement="pre", activation="swiglu", qk_norm=True, bias=False,
             rope_scaling="none", attention="full", softcap=0.0, sinks=False, n_experts=0)   # their "qwen3"
NEAREST = {"this repository": "smollm", "GPT-2": "gpt-2", "GPT-4 (cl100k)": "dbrx", "Llama 3": "llama-bpe"}
PATTERN_KEY = "five_pillars.tokenizer.pattern"
LONGEST = 1 << 20     # context of a file that we read: the table of RoPE is made whole
CHAT = (f"{{% for m in messages %}}{{% if m.role == 'user' %}}{EOS}{USER}{{{{ m.content }}}}{BOT}"
        "{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}")


def their_name(ours: str) -> str:
    """model.layers.2.mlp.up_proj.weight is blk.2.ffn_up.weight."""
    if layer := re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", ours):
        return f"blk.{layer[1]}.{NAMES[layer[2]]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight"}[ours]


def kind_of(name: str, shape: torch.Size, kind: str) -> str:
    """The format of one weight; norms stay whole.

    In 4-bit files the tables of tokens, and rows that do not divide into the format's blocks, get 8 bits;
    rows that do not divide into those get 16.
    """
    if len(shape) == 1:
        return "F32"
    if FORMATS[kind].block > 1 and (name in ("token_embd.weight", "output.weight")
                                    or shape[1] % FORMATS[kind].block):
        return "Q8_0" if shape[1] % FORMATS["Q8_0"].block == 0 else "F16"
    return kind


def write_gguf(path: Path | str, model: Transformer, tokenizer: Tokenizer, kind: str = "F16") -> None:
    """Write both, atomically; `kind` is one of FORMATS.

    ValueError for a model or a tokenizer that the architecture "qwen3" cannot say.
    """
    c = model.config
    if kind not in FORMATS:
        raise ValueError(f"the kind {kind!r} is unknown: choose one of {', '.join(FORMATS)}")
    other = [f"{name}={getattr(c, name)!r}" for name, value in QWEN3.items() if getattr(c, name) != value]
    if other:
        raise ValueError(f"we write GGUF of models of Qwen3's form, not of one with {', '.join(other)}: "
                         "hf_format.py may have a family for it")
    if c.vocab_size != tokenizer.vocab_size:
        raise ValueError(f"the model has {c.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}: they "
                         "do not belong together")
    values = {"general.architecture": "qwen3", "general.name": "Five Pillars",
              "general.file_type": FORMATS[kind].file_type, **shape_values(c), **tokenizer_values(tokenizer)}
    named = {their_name(name): t for name, t in model.state_dict().items()}
    write_container(path, values, {name: (t, kind_of(name, t.shape, kind)) for name, t in named.items()})


def shape_values(c: Config) -> dict[str, Any]:
    """The configuration in their words."""
    return {"qwen3.context_length": c.max_len, "qwen3.embedding_length": c.d_model,
            "qwen3.block_count": c.n_layers, "qwen3.feed_forward_length": c.d_ff,
            "qwen3.attention.head_count": c.n_heads, "qwen3.attention.head_count_kv": c.n_kv_heads,
            "qwen3.attention.key_length": c.D, "qwen3.attention.value_length": c.D,
            "qwen3.attention.layer_norm_rms_epsilon": float(c.norm_eps),
            "qwen3.rope.freq_base": float(c.rope_base)}


def tokenizer_values(tokenizer: Tokenizer) -> dict[str, Any]:
    """Tokens, merges and special tokens in their words."""
    pattern = next((name for name, p in PATTERNS.items() if p == tokenizer.pattern), None)
    if pattern is None or type(tokenizer) is not Tokenizer:
        raise ValueError("only tokenizers with ids of our own and a pattern of pretokenize.py can be written")
    check_spelling(tokenizer)
    alphabet, special = byte_alphabet(), tokenizer.special
    names = ["".join(alphabet[byte] for byte in data) for data in tokenizer.bytes_of]
    values = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": NEAREST[pattern], PATTERN_KEY: pattern,
              "tokenizer.ggml.tokens": [*names, *special],
              "tokenizer.ggml.token_type": [1] * len(names) + [3] * len(special)}       # 1 normal, 3 control
    if tokenizer.merges:
        values["tokenizer.ggml.merges"] = [f"{names[a]} {names[b]}" for a, b in tokenizer.merges]
    for key, name in (("bos", EOS), ("eos", EOS), ("padding", PAD)):
        if name in special:
            values[f"tokenizer.ggml.{key}_token_id"] = special[name]
    values["tokenizer.ggml.add_bos_token"] = False
    return values | ({"tokenizer.chat_template": CHAT} if {EOS, USER, BOT} <= set(special) else {})


def read_gguf(path: Path | str) -> tuple[Transformer, Tokenizer]:
    """The model, in eval mode with float32 weights, and the tokenizer of a file that write_gguf wrote.

    Raises FileNotFoundError, or ValueError for a file that is damaged or holds something else.
    """
    values, tensors = read_container(path)
    try:
        config, tokenizer = config_of(values, tensors), tokenizer_of(values)
        if config.vocab_size != tokenizer.vocab_size:
            raise ValueError(f"{config.vocab_size} rows of the embedding, {tokenizer.vocab_size} tokens")
        with torch.device("meta"):
            model = Transformer(config)
        wanted = model.state_dict()
        theirs = {their_name(name): name for name in wanted}
        found = {theirs.get(name, name): t for name, t in tensors.items()}
        compare_names(path, {name: torch.empty(t.shape, device="meta") for name, t in found.items()}, wanted)
    except NotImplementedError:   # an exercise that is still blank
        raise
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{path} is no model that we know ({error!r})") from None
    except ValueError as error:
        raise ValueError(f"{path} is no model that we can load: {error}") from None
    model.load_state_dict({name: t.values() for name, t in found.items()}, assign=True)
    model.model.cos, model.model.sin = angles_of(config)
    return model.requires_grad_(False).eval(), tokenizer


def config_of(values: dict[str, Any], tensors: dict[str, Stored]) -> Config:
    """The configuration. What decides how much memory is taken must agree with the tensors in the file."""
    if values["general.architecture"] != "qwen3":
        raise ValueError(f"its architecture is {values['general.architecture']!r}, we read qwen3")
    n = {key: values[f"qwen3.{key}"] for key in ("context_length", "embedding_length", "block_count",
                                                 "feed_forward_length", "attention.head_count",
                                                 "attention.head_count_kv", "attention.key_length")}
    if any(type(x) is not int or not 0 < x <= LONGEST for x in n.values()):
        raise ValueError(f"a size is no whole number from 1 to {LONGEST}")
    heads, width = n["attention.head_count"], n["attention.key_length"]
    (V, C), (F, _) = tensors["token_embd.weight"].shape, tensors["blk.0.ffn_up.weight"].shape
    if (C, F, heads * width) != (n["embedding_length"], n["feed_forward_length"],
                                 tensors["blk.0.attn_q.weight"].shape[0]) or n["block_count"] > len(tensors):
        raise ValueError("its sizes are not those of its tensors")
    eps, base = (float(f"{values[f'qwen3.{key}']:.7g}")     # a float32 has seven digits: 1e-5 stays 1e-5
                 for key in ("attention.layer_norm_rms_epsilon", "rope.freq_base"))
    if not (math.isfinite(eps) and eps >= 0 and math.isfinite(base)) or n["context_length"] * width > 1 << 27:
        raise ValueError("the epsilon of its norms, the base of RoPE or the longest text is impossible")
    return Config(vocab_size=V, d_model=C, n_layers=n["block_count"], n_heads=heads, d_ff=F,
                  head_width=0 if width * heads == C else width,
                  n_kv_heads=n["attention.head_count_kv"], max_len=n["context_length"], qk_norm=True,
                  tied="output.weight" not in tensors, norm_eps=eps, rope_base=base)


def tokenizer_of(values: dict[str, Any]) -> Tokenizer:
    """The tokenizer: 256 bytes in order, one token a merge, then the special ones."""
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    if values["tokenizer.ggml.model"] != "gpt2" or len(tokens) != len(types):
        raise ValueError("its tokenizer is not byte-level BPE")
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    special = [token for token, kind in zip(tokens, types) if kind == 3]
    spelled = [bytes(byte_of[c] for c in token) for token in tokens[:len(tokens) - len(special)]]
    number = {data: i for i, data in enumerate(spelled)}
    halves = [merge.split(" ") for merge in values.get("tokenizer.ggml.merges", [])]
    merges: list[Any] = [tuple(number[bytes(byte_of[c] for c in half)] for half in pair) for pair in halves]
    if any(len(pair) != 2 for pair in merges):
        raise ValueError("a merge is not of two tokens")
    tokenizer = Tokenizer(merges, special, PATTERNS[values[PATTERN_KEY]])
    if tokenizer.bytes_of != spelled or [*tokenizer.special] != tokens[len(spelled):]:
        raise ValueError("its tokens are not 256 bytes, one for each merge, and special ones at the end")
    return tokenizer


@dataclass
class Settings:
    """What to look into."""
    file: str   # a .gguf file


def main() -> None:
    """Load a file and say what it is."""
    file = parse_settings(Settings, __doc__).file
    model, tokenizer = read_gguf(file)
    size, n = Path(file).stat().st_size, sum(p.numel() for p in model.parameters())
    print(f"{n:,} parameters, {tokenizer.vocab_size} tokens, {size:,} bytes")


if __name__ == "__main__":
    run_main(main)
