"""Sixteen mixed requests through the engine: one after another, four and all at once, in little memory.

What a server meets: short questions with short answers beside long texts to continue. Every way of running
them must give the same tokens; what differs is how long it takes. First by torch alone, whose operations a
batch shares; the last two lines with the compiled step, which has few to share.

    python 08_inference/workload.py        after make 08
"""
import random
import time
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None

from bpe import EOS, Tokenizer
from chat_template import chat_prompt
from checkpoint import load_model
from engine import Engine
from facts import Question
from scheduler import Request
from tasks import load_tasks
from token_file import open_tokens
from transformer import Transformer


@dataclass
class Settings:
    """What can be set on the command line."""
    out: str = "out"       # folder that make wrote
    seed: int = setting(0, least=0, most=2**32 - 1)   # seed of the choice of requests
    requests: int = 16     # how many
    blocks: int = 24       # blocks of the small cache, in which requests must be preempted


def mixed_requests(tokenizer: Tokenizer, questions: list[Question], text, n: int, max_len: int,
                   seed: int = 0) -> list[Request]:
    """Half are questions, half 8 to 96 tokens of `text` (token ids); 16 to 120 new tokens each."""
    dice = random.Random(seed)
    requests = []
    for i in range(n):
        if i % 2:
            prompt = chat_prompt(tokenizer, dice.choice(questions).text)
        else:
            begin, length = dice.randrange(len(text) - 96), dice.randrange(8, 97)
            prompt = [tokenizer.special[EOS], *map(int, text[begin:begin + length])]
        n_new = dice.randrange(16, 121)
        requests.append(Request(prompt[:max_len - n_new], n_new, seed=i))
    return requests


def run_together(model: Transformer, requests: list[Request], at_once: int, n_blocks: int = 512,
                 compiled: bool | None = None) -> dict:
    """Run copies of the requests, `at_once` together: seconds, new tokens a second, and the tokens."""
    engine = Engine(model, n_blocks, at_once, compiled=compiled)
    fresh = [Request(r.prompt, r.n_new, r.sampling, r.seed) for r in requests]
    begin = time.perf_counter()
    engine.run(fresh)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "tokens_per_second": engine.counts.generated / seconds,
            "steps": engine.counts.steps, "preemptions": engine.scheduler.preemptions,
            "tokens": [r.tokens for r in fresh]}


def main() -> None:
    """A line for each way of running the same requests."""
    s = parse_settings(Settings, __doc__)
    out = Path(s.out)
    tokenizer = Tokenizer.load(out / "01_tokenizer" / "tokenizer.json")
    tasks = load_tasks(out / "01_tokenizer" / "tasks.json")
    model = load_model(out / "07_alignment" / "grpo.pt")
    text = open_tokens(out / "01_tokenizer" / "valid.bin")
    requests = mixed_requests(tokenizer, tasks.held_out_questions, text, s.requests, model.config.max_len,
                              s.seed)
    for compiled in (False, None):                                        # to warm up
        run_together(model, requests[:2], 2, compiled=compiled)
    print(f"{s.requests} requests, seed {s.seed}")
    print(f"{'':<28}{'seconds':>9}{'tokens/s':>10}{'steps':>8}{'preempted':>11}  same tokens")
    first, n = None, s.requests
    for name, at_once, n_blocks, compiled in (
            ("one after another", 1, 512, False), ("4 at once", 4, 512, False),
            (f"{n} at once", n, 512, False), (f"{n} at once, {s.blocks} blocks", n, s.blocks, False),
            ("one after another, compiled", 1, 512, None), (f"{n} at once, compiled", n, 512, None)):
        r = run_together(model, requests, at_once, n_blocks, compiled)
        first = first or r
        same = r["tokens"] == first["tokens"]
        print(f"{name:<28}{r['seconds']:>9.2f}{r['tokens_per_second']:>10.0f}{r['steps']:>8}"
              f"{r['preemptions']:>11}  {same}")


if __name__ == "__main__":
    run_main(main)
