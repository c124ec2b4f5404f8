"""Hand the model on: GGUF for llama.cpp, and a folder that transformers loads.

    make export                            make MODEL=sft export; one kind of file: --kind Q8_0
    transformers                           AutoModelForCausalLM.from_pretrained("out/08_inference/export/hf")
    llama.cpp                              llama-cli -m out/08_inference/export/model.Q4_0.gguf

Checks what it wrote: the file is read back, and the tokens that both models write are compared.
"""
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import parse_settings, run_main, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from bpe import EOS, PAD, Tokenizer
from chat_template import chat_prompt
from checkpoint import load_model
from formats import to_hf
from ggml_blocks import FORMATS
from gguf_file import CHAT, read_gguf, write_gguf
from hf_format import save_hf
from kv_cache import generate_cached
from tasks import load_tasks
from transformer import Transformer


@dataclass
class Settings:
    """What can be set on the command line."""
    out: str = "out"         # folder that make wrote
    model: str = "grpo"      # sft, dpo or grpo of chapter 7
    kind: str = "all"        # F32, F16, BF16, Q8_0, Q4_0, Q4_K, or all of them


def write_folder(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """config.json, model.safetensors, tokenizer.json and what transformers wants to know about tokens."""
    save_hf(model, folder)
    to_hf(tokenizer, folder / "tokenizer.json")
    ends = {"bos_token": EOS, "eos_token": EOS, "pad_token": PAD}
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", **ends, "chat_template": CHAT,
        "clean_up_tokenization_spaces": False, "model_max_length": model.config.max_len})
    write_json(folder / "generation_config.json", {
        "bos_token_id": tokenizer.special[EOS], "eos_token_id": tokenizer.special[EOS],
        "pad_token_id": tokenizer.special[PAD], "max_length": model.config.max_len})


def answer(model: Transformer, prompt: torch.Tensor, end: int) -> list[int]:
    """At most 16 new tokens behind prompt (1, T), up to the one that ends the text."""
    ids = generate_cached(model, prompt, 16)[0, prompt.shape[1]:].tolist()
    return ids[:ids.index(end)] if end in ids else ids


def main() -> None:
    """Write the folder and the files."""
    s = parse_settings(Settings, __doc__)
    if s.kind not in ("all", *FORMATS):
        raise ValueError(f"the kind {s.kind!r} is unknown: choose all or one of {', '.join(FORMATS)}")
    out = Path(s.out)
    tokenizer = Tokenizer.load(out / "01_tokenizer" / "tokenizer.json")
    model = load_model(out / "07_alignment" / f"{s.model}.pt")
    folder = out / "08_inference" / "export"
    write_folder(folder / "hf", model, tokenizer)
    print(f"{folder / 'hf'}: config.json, model.safetensors, tokenizer.json")
    questions = load_tasks(out / "01_tokenizer" / "tasks.json").held_out_questions[:40]
    prompts = [torch.tensor([chat_prompt(tokenizer, q.text)]) for q in questions]
    end = tokenizer.special[EOS]
    wanted = [answer(model, p, end) for p in prompts]
    print(f"{'file':<22}{'bytes':>12}   of {len(prompts)} questions answered with the same tokens")
    for kind in FORMATS if s.kind == "all" else [s.kind]:
        path = folder / f"model.{kind}.gguf"
        write_gguf(path, model, tokenizer, kind)
        back, its_tokenizer = read_gguf(path)
        if its_tokenizer.merges != tokenizer.merges:
            raise ValueError(f"{path} was written and reads back another tokenizer: this is a fault of ours")
        same = sum(answer(back, p, end) == w for p, w in zip(prompts, wanted))
        print(f"{path.name:<22}{path.stat().st_size:>12,}{same:>5}")


if __name__ == "__main__":
    run_main(main)
