"""Others read what we export: the gguf package, llama.cpp (if llama-cpp-python is here), transformers.

make peers
"""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bpe import Tokenizer, train  # noqa: E402
from export_model import write_folder  # noqa: E402
from ggml_blocks import FORMATS, pack  # noqa: E402
from gguf_file import read_gguf, write_gguf  # noqa: E402
from kv_cache import generate_cached  # noqa: E402
from transformer import Config, Transformer  # noqa: E402

gguf = pytest.importorskip("gguf", reason="run `make peers`, which installs it")
TEXT = ("def area(width, height):\n    return width * height   # in metres, 12 by 30\n'small' things "
        "(and ünïcode) ")


@pytest.fixture(scope="module")
def pair():
    """A model wide enough for blocks of 256, lively enough to write more than one word, and a tokenizer."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(train([TEXT], 290))
    config = Config(vocab_size=tokenizer.vocab_size, d_model=256, n_layers=2, n_heads=4, n_kv_heads=2,
                    d_ff=512, max_len=64)
    model = Transformer(config).requires_grad_(False)
    for name, p in model.named_parameters():
        p.normal_() if "embed" in name else p.mul_(3) if p.ndim == 2 else p.add_(0.2 * torch.randn_like(p))
    return model, tokenizer


@pytest.mark.parametrize("kind", FORMATS)
def test_the_gguf_package_reads_the_same_values(kind, pair, tmp_path):
    model, tokenizer = pair
    write_gguf(tmp_path / "f.gguf", model, tokenizer, kind)
    theirs, (ours, _) = gguf.GGUFReader(tmp_path / "f.gguf"), read_gguf(tmp_path / "f.gguf")
    ours = [*ours.state_dict().values()]
    assert len(theirs.tensors) == len(ours) > 20
    for t, w in zip(theirs.tensors, ours):
        values = gguf.quants.dequantize(t.data, t.tensor_type)
        assert_close(torch.from_numpy(np.array(values)).view(w.shape), w, rtol=2e-7, atol=1e-7)
    assert {t.tensor_type.name for t in theirs.tensors} >= {kind}
    fields = theirs.fields
    tokens = [bytes(fields["tokenizer.ggml.tokens"].parts[i]).decode()
              for i in fields["tokenizer.ggml.tokens"].data]
    assert len(tokens) == tokenizer.vocab_size and tokens[-4:] == [*tokenizer.special]
    assert fields["qwen3.block_count"].contents() == 2


@pytest.mark.parametrize("kind", ["BF16", "Q8_0", "Q4_0"])
def test_our_bytes_are_those_of_the_gguf_package(kind):
    torch.manual_seed(2)
    x = torch.randn(40, 256) * torch.logspace(-4, 3, 40)[:, None]
    x[5] = 0
    wanted = gguf.quants.quantize(x.numpy(), gguf.GGMLQuantizationType[kind])
    assert pack(x, kind).tolist() == wanted.view(np.uint8).flatten().tolist()


@pytest.mark.parametrize("kind", FORMATS)
def test_llama_cpp_writes_the_same_text(kind, pair, tmp_path):
    """Quantized, llama.cpp rounds the inputs of each product to 8 bits too: one text of four must agree."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install "
                                                        "llama-cpp-python compiles it, some minutes)")
    model, tokenizer = pair
    path, n_new = tmp_path / "f.gguf", 24
    write_gguf(path, model, tokenizer, kind)
    llm = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    model, _ = read_gguf(path)
    exact, agree = kind == "F32", 0
    for prompt in ("def area(", "    return", "12 by 30", "ünïcode"):
        ids = tokenizer.encode(prompt)
        llm.reset()
        got = [i for i, _ in zip(llm.generate(ids, temp=0.0), range(n_new))]
        wanted = generate_cached(model, torch.tensor([ids]), n_new)[0, len(ids):].tolist()
        assert llm.detokenize(got[:8]) == tokenizer.decode_bytes(got[:8])
        agree += got == wanted
        llm.reset()
        llm.eval(ids)
        theirs, ours = torch.from_numpy(np.array(llm.scores[:len(ids)])), model(torch.tensor([ids]))[0]
        error = (theirs - ours).abs().max() / ours.std()
        assert error < (0.01 if exact else 0.15), (kind, error)    # its cache is float16
    assert agree == 4 or not exact and agree >= 1, (kind, agree)
    for text in (TEXT.replace("'small' ", ""), "ab\n    cd  ef", "x = [1, 22]"):
        assert llm.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text)


def test_transformers_loads_the_exported_folder_with_the_same_ids_and_logits(pair, tmp_path):
    transformers = pytest.importorskip("transformers", reason="run `make peers`, which installs it")
    model, tokenizer = pair
    write_folder(tmp_path, model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, "a  b\n\n\tc 123 'dict' <|eos|>"):
        ids = tokenizer.encode(text, allowed_special="all")[:64]
        assert words(text)["input_ids"][:64] == ids
        assert_close(theirs(torch.tensor([ids])).logits, model(torch.tensor([ids])), rtol=1e-4, atol=1e-3)
    chat = words.apply_chat_template([{"role": "user", "content": "area?"}], tokenize=False)
    assert chat == "<|eos|><|user|>area?<|bot|>"
