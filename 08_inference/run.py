"""Chapter 8: make the aligned model fast (cache, batches, guesses) and small (four bits), and check it.

    make 08        or  python 08_inference/run.py --help
"""
import copy
import math
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from batches import TextBatches
from bits_per_byte import bits_per_byte
from bpe import Tokenizer
from chat_template import answer_ids, chat_prompt
from checkpoint import load_model
from facts import Question, terse
from fused_model import FusedModel
from generate import generate
from gguf_file import read_gguf, write_gguf
from gptq import compensated
from kv_cache import KVCache, generate_cached
from mixed_bits import widen_worst
from quantize import load_quantized, quantize_model, save_quantized, stored_bytes
from rag import retrieval
from report import write_report
from scale_tuning import random_batches, tune_scales
from scoreboard import collect
from skills import fact_skill, sum_skill
from speculative import look_up, speculate, texts as prompt_texts
from tasks import load_tasks
from token_file import open_tokens
from transformer import Transformer
from workload import mixed_requests, run_together


@dataclass
class Settings(RunSettings):
    """What to measure, and how."""
    new_tokens: int = 128     # tokens to decode when timing the cache
    batch: int = 4            # sequences decoded together
    rounds: int = 3           # times each way of decoding is timed, in turn
    calibration: int = 50     # batches of 16 x 128 training tokens: the inputs of each layer, for rounding
    tuning: int = setting(0, least=0)   # steps of training the scales of the small model; 100 brought little
    wide: int = setting(5, least=0)   # matrices of the small model that keep 8 bits: those that need it most
    unseen: int = setting(80, least=3)   # names that the model has never seen, to find and to ask about
    table_bits: int = setting(8, least=2, most=8)   # bits of the embedding in the small model: 8 or 4


QUICK = dict(rounds=2, new_tokens=32, calibration=4, tuning=4, unseen=8)


def time_cache(model: Transformer, ids: torch.Tensor, n_new: int, rounds: int) -> dict:
    """Decode without a cache and with it, in turn: a busy machine disturbs both. Is the output the same?"""
    seconds, out = {"uncached": [], "cached": []}, {}
    for _ in range(rounds):
        for name, decode in (("uncached", generate), ("cached", generate_cached)):
            begin = time.perf_counter()
            out[name] = decode(model, ids, n_new)
            seconds[name].append(time.perf_counter() - begin)
    ratio = statistics.median(u / c for u, c in zip(seconds["uncached"], seconds["cached"]))
    return {"speedup": ratio, "same_output": torch.equal(out["cached"], out["uncached"]), "rounds": seconds,
            "cache_bytes": KVCache(model.config, len(ids), ids.shape[1] + n_new).bytes}


def in_turn(slow, fast, rounds: int) -> dict:
    """Two ways to the same tokens, run in turn: how many times as fast the second is, and if they agree."""
    ratios, same = [], True
    for _ in range(rounds):
        begin = time.perf_counter()
        wanted = slow()
        middle = time.perf_counter()
        same = fast() == wanted and same
        ratios.append((middle - begin) / (time.perf_counter() - middle))
    return {"speedup": statistics.median(ratios), "same_output": same}


def time_serving(model: Transformer, tokenizer: Tokenizer, questions: list[Question], text,
                 s: Settings) -> dict:
    """Sixteen mixed requests at once against one after another; prompt look-up where text repeats, or none.

    All by torch alone.
    """
    requests = mixed_requests(tokenizer, questions, text, 16, model.config.max_len)
    batching = in_turn(lambda: run_together(model, requests, 1, compiled=False)["tokens"],
                       lambda: run_together(model, requests, 16, compiled=False)["tokens"], min(s.rounds, 2))
    fused, V = FusedModel(model), model.config.vocab_size
    prompts = prompt_texts(tokenizer, text, random.Random(0))["text that repeats"]

    def written(k: int) -> list[list[int]]:
        return [speculate(fused, lambda ids, k: look_up(ids, k, V), p, s.new_tokens, k).tokens
                for p in prompts]

    return {"batching": batching, "speculation": in_turn(lambda: written(0), lambda: written(4),
                                                         min(s.rounds, 2))}


def chat_rows(tokenizer: Tokenizer, questions: list[Question], device) -> list[torch.Tensor]:
    """Training questions with their answers in the chat form, (B, T) for each length that occurs."""
    rows = [chat_prompt(tokenizer, q.text) + answer_ids(tokenizer, terse(q.answer)) for q in questions]
    return [torch.tensor([r for r in rows if len(r) == n], device=device)
            for n in sorted({len(r) for r in rows})]


def perplexity(model: Transformer, valid, n_bytes: int) -> float:
    """e to the mean loss a token on held-out text."""
    return math.exp(bits_per_byte(model, valid, n_bytes) * n_bytes * math.log(2) / (len(valid) - 1))


def through_gguf(path: Path, model: Transformer, tokenizer: Tokenizer, questions: list[Question]) -> dict:
    """Write a model and its tokenizer as Q8_0, read both again, and ask what is read."""
    write_gguf(path, model, tokenizer, "Q8_0")
    back, words = read_gguf(path)
    same = words.merges == tokenizer.merges and words.special == tokenizer.special
    device = next(model.parameters()).device
    return {"bytes": path.stat().st_size, "same_tokenizer": same,
            "facts": fact_skill(back.to(device), words, questions)["facts"]}


def main() -> None:
    """Time the cache and the engine, quantize, measure both models, then the scoreboard and the report."""
    s = parse_settings(Settings, __doc__, QUICK)
    device = announce("08 inference", s)
    begin = time.perf_counter()
    out, folder = Path(s.out), Path(s.out, "08_inference")
    text = out / "01_tokenizer"
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
    valid = open_tokens(text / "valid.bin")
    model = load_model(out / "07_alignment" / "grpo.pt", device)

    prompt = chat_prompt(tokenizer, tasks.held_out_questions[0].text)
    cache = time_cache(model, torch.tensor([prompt] * s.batch, device=device), s.new_tokens, s.rounds)
    print(f"  cache: {cache['speedup']:.2f} times as fast at {s.new_tokens} tokens, same output: "
          f"{cache['same_output']}")
    cache["seconds"] = time.perf_counter() - begin

    serving = time.perf_counter()
    served = time_serving(model, tokenizer, tasks.held_out_questions, valid, s)
    served["batching"]["seconds"] = time.perf_counter() - serving
    for name, label in (("batching", "16 requests at once"),
                        ("speculation", "prompt look-up on text that repeats")):
        r = served[name]
        print(f"  {label}: {r['speedup']:.2f} times as fast, same output: {r['same_output']}")

    quantizing = time.perf_counter()
    chats = chat_rows(tokenizer, tasks.train_questions, device)
    batches = TextBatches(open_tokens(text / "train.bin"), batch=16, length=128, seed=0)
    rows = [batches(i)[0].to(device) for i in range(max(s.calibration, s.tuning))]
    careful = quantize_model(model, s.table_bits, compensated(model, rows[:s.calibration], chats))
    small = copy.deepcopy(careful)
    wide = widen_worst(small, model, random_batches(chats, 8, size=32), s.wide)
    print(f"  eight bits for {', '.join(n.removeprefix('model.layers.') for n in wide) or 'no matrix'}")
    made = [("before", "float32", model),
            ("rounded", "int4, each weight rounded", quantize_model(model, s.table_bits)),
            ("careful", "int4, errors repaired (GPTQ)", careful)]
    label = f"  {len(wide)} worst matrices in 8 bits"
    if s.tuning:
        made.append(("mixed", label, copy.deepcopy(small)))
        tune_scales(small, model, rows[:s.tuning], random_batches(chats, s.tuning, size=32))
        label = "  then scales and norms tuned"
    save_quantized(folder / "model.int4.pt", small)
    small = load_quantized(folder / "model.int4.pt").to(device)   # what is measured is what was written
    made.append(("after", label, small))
    int4 = {"seconds": time.perf_counter() - quantizing, "bytes_before": stored_bytes(model),
            "bytes_after": stored_bytes(small)}
    print(f"  {'':<34}{'bytes':>10}{'perplexity':>12}{'facts':>8}{'sums':>8}")
    for name, label, m in made:
        r = int4[name] = {"perplexity": perplexity(m, valid, tasks.held_out_bytes),
                          **fact_skill(m, tokenizer, tasks.held_out_questions),
                          **sum_skill(m, tokenizer, tasks.test_sums)}
        print(f"  {label:<34}{stored_bytes(m):>10,}{r['perplexity']:>12.2f}{r['facts']:>8.1%}"
              f"{r['addition']:>8.1%}")
    int4["evaluation_seconds"] = time.perf_counter() - quantizing - int4["seconds"]

    gguf = through_gguf(folder / "model.Q8_0.gguf", model, tokenizer, tasks.held_out_questions)
    print(f"  through a GGUF file of Q8_0, {gguf['bytes']:,} bytes: facts {gguf['facts']:.1%}, same "
          f"tokenizer: {gguf['same_tokenizer']}")

    searching = time.perf_counter()
    rag = retrieval(model, tokenizer, tasks, s.unseen, s.seed)
    rag["seconds"] = time.perf_counter() - searching
    print(f"  retrieval, names never seen: right document first {rag['bm25']:.1%} (own vectors "
          f"{rag['vectors']:.1%}); answers {rag['closed']:.1%} without, {rag['found']:.1%} with it")

    write_json(folder / "metrics.json", {"seed": s.seed, "cache": cache, **served, "int4": int4,
                                         "gguf": gguf, "rag": rag,
                                         "seconds": time.perf_counter() - begin, "settings": asdict(s)})
    write_json(out / "scoreboard.json", collect(out))
    write_report(out)


if __name__ == "__main__":
    run_main(main)
