"""Talk to the trained model in the terminal; the answer appears token by token.

Sums are shown the way people read them, with what the model really wrote beside. /help lists the commands.

    make chat      or  python 08_inference/chat.py --temperature 0.8 --top-p 0.95
"""
import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from bpe import EOS, Tokenizer
from checkpoint import load_model
from kv_cache import stream
from model_words import STAGES, as_read, as_trained, conversation, ends_at, prompt_of, sum_of
from packed_model import PackedTransformer
from packed_product import library
from quantize import load_quantized
from sampling import Sampling
from streaming import StreamDecoder
from tasks import load_tasks
from transformer import Transformer


@dataclass
class Settings:
    """What can be set on the command line."""
    out: str = "out"            # folder that make wrote
    seed: int = setting(0, least=0)                # seed of the sampling
    temperature: float = setting(0.0, least=0)     # 0 always takes the likeliest token
    top_k: int = setting(0, least=0)               # sample among the k likeliest tokens only (0: all)
    top_p: float = setting(1.0, above=0, most=1)   # sample among the likeliest of this total probability only
    max_new: int = 60           # longest answer, in tokens
    int4: bool = False          # use the 4-bit model


HELP = """  /model NAME         talk to another: base, sft, dpo, grpo or int4
  /temperature 0.8    how freely it samples, 0 for the likeliest token; also /top-k and /top-p
  /seed 1             begin the random numbers again from this one
  /again              the last question once more
  /remember           send earlier turns along, or stop it (it was trained on single questions)
  /history            what was said
  /forget             begin a new conversation
  /quit               end; so do an empty line and Ctrl-D.  Ctrl-C ends an answer."""


def load(out: Path, name: str) -> Transformer:
    """One of the models that `make` wrote; int4 multiplied packed where there is a C++ compiler."""
    if name not in (*STAGES, "int4"):
        raise ValueError(f"there is no model {name!r}: choose {', '.join(STAGES)} or int4")
    if name == "int4":
        small = load_quantized(out / "08_inference" / "model.int4.pt")
        return small if library() is None else PackedTransformer(small)
    return load_model(out / ("03_training/model.pt" if name == "base" else f"07_alignment/{name}.pt"))


class Chat:
    """A conversation: the model, how it samples, and what was said."""

    def __init__(self, s: Settings, say: Callable[..., None] = print):
        self.out, self.say, self.max_new = Path(s.out), say, s.max_new
        self.tokenizer = Tokenizer.load(self.out / "01_tokenizer" / "tokenizer.json")
        self.how = Sampling(s.temperature, s.top_k, s.top_p)
        self.generator = torch.Generator().manual_seed(s.seed)
        self.turns: list[tuple[str, str]] = []     # what was typed, and the model's own words
        self.remember = False
        self.name = "int4" if s.int4 else "grpo"
        self.model = load(self.out, self.name)

    def answer(self, text: str) -> None:
        """Print the model's answer as it comes; a sum, whose digits come ones first, when it is whole."""
        room = self.model.config.max_len
        try:
            prompt = prompt_of(self.tokenizer, self.name, text)
            if self.remember and self.name != "base":
                prompt = conversation(self.tokenizer, self.turns, text, max(room - self.max_new, room // 2))
        except ValueError as error:                # half of a surrogate pair
            return self.say(f"  ({error})")
        if len(prompt) >= room:
            return self.say(f"  (too long: {len(prompt)} tokens, the model reads at most {room})")
        decoder, words, is_sum, done = StreamDecoder(self.tokenizer), "", sum_of(text) is not None, None
        self.say("model>", end="", flush=True)
        with contextlib.suppress(KeyboardInterrupt):          # Ctrl-C ends this answer, not the chat
            for token in stream(self.model, prompt, min(self.max_new, room - len(prompt)),
                                self.tokenizer.special[EOS], self.how.temperature, self.how.top_k,
                                self.how.top_p, self.generator):
                new = decoder.feed(token)
                done = ends_at(self.name, text, words + new)
                new = new if done is None else done[len(words):]
                words += new
                if not is_sum:
                    self.say(new, end="", flush=True)
                if done is not None:
                    break
        rest = decoder.finish() if done is None else ""
        words += rest
        self.say(" " + as_read(text, words) if is_sum else rest, flush=True)
        if is_sum:
            self.say(f"       (its own words, ones digit first: {as_trained(text)}={words.strip()})")
        self.turns.append((text, words))

    def command(self, line: str) -> bool:
        """Do what a line like `/seed 1` says; False if it ends the chat. ValueError for a wrong one."""
        name, _, value = line[1:].strip().partition(" ")
        name, value = name.lower().replace("_", "-"), value.strip()
        if name in ("quit", "exit", "bye"):
            return False
        if name == "help":
            self.say(HELP)
        elif name == "model":
            self.model, self.name = load(self.out, value), value
            self.say(f"  {value} answers now")
        elif name in ("temperature", "top-p", "top-k"):
            number = number_of(name, value, int if name == "top-k" else float)
            self.how = Sampling(**{**vars(self.how), name.replace("-", "_"): number})
            self.say(f"  {name} is {value}" + ("" if self.how.temperature or name == "temperature" else
                                               ": it counts once the temperature is above 0"))
        elif name == "seed":
            self.generator.manual_seed(int(number_of(name, value, int)) % 2**63)
            self.say(f"  the random numbers begin again from {value}")
        elif name == "again":
            if not self.turns:
                raise ValueError("nothing was asked yet")
            text, _ = self.turns.pop()
            self.say(f"       ({text})")
            self.answer(text)
        elif name == "remember":
            self.remember = not self.remember
            self.say("  earlier turns are sent along" if self.remember else "  each question stands alone")
        elif name == "history":
            self.say("\n".join(f"  you> {a}\nmodel>{' ' if sum_of(a) else ''}{as_read(a, b)}"
                               for a, b in self.turns) or "  nothing was said yet")
        elif name == "forget":
            self.turns.clear()
            self.say("  a new conversation")
        else:
            raise ValueError(f"there is no command /{name[:40]}: /help lists them")
        return True


def number_of(name: str, value: str, kind: type) -> float:
    """The number behind a command, or a ValueError that shows how it is used."""
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"write a number behind it, like /{name} {kind(1)}") from None


def welcome(chat: Chat, questions: list[str]) -> None:
    """Say what can be asked."""
    size = sum(p.numel() for p in load(chat.out, "grpo").parameters()) / 1e6
    print(f"A model of {size:.2f} M parameters. It knows some names of Python's standard library and adds "
          "three-digit numbers.\nTry:")
    for question in questions:
        print(f"  {question}")
    print("  361+324\n/help lists commands; an empty line or Ctrl-D ends the chat.")


def main() -> None:
    """Load, say what can be asked, answer until the end of the input."""
    s = parse_settings(Settings, __doc__)
    for channel in (sys.stdin, sys.stdout):
        if isinstance(channel, io.TextIOWrapper):
            channel.reconfigure(errors="replace")   # a byte that is no text, typed or written, ends nothing
    with contextlib.suppress(ImportError):      # input() then edits lines and recalls earlier ones
        import readline  # noqa: F401
    chat, tasks = Chat(s), load_tasks(Path(s.out, "01_tokenizer", "tasks.json"))
    welcome(chat, [q.text for q in tasks.held_out_questions[:3]])
    while True:
        try:
            typed = input("\n  you> ")
        except EOFError:
            typed = ""
        if not typed.strip():
            break
        try:
            if not typed.lstrip().startswith("/"):
                chat.answer(typed.strip())
            elif not chat.command(typed.strip()):
                break
        except ValueError as error:             # a wrong command does not end the chat either
            print(f"  ({error})")
        except FileNotFoundError as error:
            print(f"  ({error.filename} is missing: run make)")
    print("bye" if sys.stdin.isatty() else "")


if __name__ == "__main__":
    run_main(main)
