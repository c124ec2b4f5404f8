"""Talk to the trained model in the terminal; the answer appears token by token.

    make chat      or  python 08_inference/chat.py --temperature 0.8 --top-p 0.95
"""
import re
import sys
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, and before that, once, `make setup`") from None
import torch

from arithmetic import problem
from bpe import EOS, Tokenizer
from chat_template import chat_prompt
from checkpoint import load_model
from kv_cache import stream
from quantize import load_quantized
from streaming import StreamDecoder
from tasks import load_tasks
from transformer import Transformer


@dataclass
class Settings:
    """What can be set on the command line."""
    out: str = "out"            # folder that make wrote
    seed: int = setting(0, least=0)                      # seed of the sampling
    temperature: float = setting(0.0, least=0)           # 0 always takes the likeliest token
    top_k: int = setting(0, least=0)                     # sample among the k likeliest tokens only (0: all)
    top_p: float = setting(1.0, above=0, most=1)         # sample among the likeliest tokens of this total probability only
    max_new: int = 60           # longest answer, in tokens
    int4: bool = False          # use the 4-bit model


def as_trained(text: str) -> str:
    """A sum typed as people write it, `361+324`, in the form that the model learned, `163+423`; other text unchanged."""
    numbers = re.fullmatch(r"\s*(\d{1,3})\s*\+\s*(\d{1,3})\s*=?\s*", text)
    return problem((int(numbers[1]), int(numbers[2]))) if numbers else text.strip()


def answer(model: Transformer, tokenizer: Tokenizer, text: str, s: Settings, generator: torch.Generator) -> None:
    """Print the model's answer as it comes."""
    prompt = chat_prompt(tokenizer, text)
    room = model.config.max_len - len(prompt)
    if room < 1:
        print(f"  (too long: {len(prompt)} tokens, the model reads at most {model.config.max_len})")
        return
    decoder = StreamDecoder(tokenizer)
    print("model>", end="", flush=True)
    for token in stream(model, prompt, min(s.max_new, room), tokenizer.special[EOS], s.temperature, s.top_k, s.top_p, generator):
        print(decoder.feed(token), end="", flush=True)
    print(decoder.finish(), flush=True)


def main() -> None:
    """Load, say what can be asked, answer until the end of the input."""
    s = parse_settings(Settings, __doc__)
    for channel in (sys.stdin, sys.stdout):
        channel.reconfigure(errors="replace")   # a byte that is no text, typed or written, does not end the chat
    out = Path(s.out)
    tokenizer, tasks = Tokenizer.load(out / "01_tokenizer" / "tokenizer.json"), load_tasks(out / "01_tokenizer" / "tasks.json")
    model = load_quantized(out / "08_inference" / "model.int4.pt") if s.int4 else load_model(out / "07_alignment" / "grpo.pt")
    generator = torch.Generator().manual_seed(s.seed)
    print(f"A model of {sum(p.numel() for p in load_model(out / '07_alignment' / 'grpo.pt').parameters()) / 1e6:.2f} M parameters. "
          "It knows some names of Python's standard library and adds three-digit numbers.\nTry:")
    for q in tasks.held_out_questions[:3]:
        print(f"  {q.text}")
    print("  361+324      (it reads and writes numbers ones digit first)\nAn empty line or Ctrl-D ends the chat.")
    while True:
        try:
            typed = input("\n  you> ")
        except EOFError:
            typed = ""
        if not typed.strip():
            print("bye" if sys.stdin.isatty() else "")
            return
        text = as_trained(typed)
        if text != typed.strip():
            print(f"       (sent as {text})")
        answer(model, tokenizer, text, s, generator)


if __name__ == "__main__":
    run_main(main)
