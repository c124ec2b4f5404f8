"""Requests that come when they like: one after another, in static batches, and into a running batch.

Adds to workload.py the arrivals. Gaps between requests are exponential (a Poisson process, as from many
people who do not know of each other); what counts is how long each waits. All three run the same engine:
    one after another   a request begins when the one before it has ended
    static batches      up to 16 that wait begin together; the next batch when the last of them has ended
    engine              whoever comes joins at the next step (Yu et al. 2022, "Orca")

The clock is the processor time of the steps, plus the time in which nobody waits, which is skipped: so what
else runs on the machine matters little, and an idle hour costs nothing.

    python 08_inference/arrivals.py --out out            prints the table, draws out/08_inference/arrivals
"""
import random
import time
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from bpe import Tokenizer
from checkpoint import load_model
from engine import Engine
from figures import GREY, plt, save
from scheduler import Request
from tasks import load_tasks
from token_file import open_tokens
from transformer import Transformer
from workload import mixed_requests

WAYS = ("one after another", "static batches", "engine")
AT_ONCE = 16


@dataclass
class Settings(RunSettings):
    """How many requests, and how fast they come."""
    requests: int = setting(48, least=4)     # requests for each way and load
    loads: str = "0.5 1 2 4"                 # arrivals a second, in units of what one after another can do


QUICK = dict(requests=4, loads="0.5 2")


def poisson_times(rate: float, n: int, seed: int) -> list[float]:
    """When n requests arrive, `rate` a second on average."""
    dice, now, times = random.Random(seed), 0.0, []
    for _ in range(n):
        now += dice.expovariate(rate)
        times.append(now)
    return times


def serve(model: Transformer, requests: list[Request], times: list[float], way: str) -> dict:
    """Run fresh copies of the requests, which arrive at `times`.

    For each request the seconds to its first and to its last token, and the tokens; when the last ended.
    """
    engine = Engine(model, 1024, 1 if way == "one after another" else AT_ONCE, compiled=False)
    fresh = [Request(r.prompt, r.n_new, r.sampling, r.seed) for r in requests]
    waiting = list(zip(times, fresh))
    first, last, now = {}, {}, 0.0
    while len(last) < len(fresh):
        if not engine.busy:
            now = max(now, waiting[0][0])
        if way != "static batches" or not engine.busy:
            n = sum(when <= now for when, _ in waiting)
            for _, request in waiting[:min(n, AT_ONCE) if way == "static batches" else n]:
                engine.submit(request)
            del waiting[:min(n, AT_ONCE) if way == "static batches" else n]
        begin = time.process_time()
        engine.step()
        now += time.process_time() - begin
        for i, r in enumerate(fresh):
            if r.tokens and i not in first:
                first[i] = now - times[i]
            if r.finished and i not in last:
                last[i] = now - times[i]
    return {"first": [first[i] for i in range(len(fresh))], "last": [last[i] for i in range(len(fresh))],
            "end": now, "tokens": [r.tokens for r in fresh]}


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-round(share * 100) * len(ordered) // 100) - 1)]


def draw(path: Path, rows: list[dict]) -> None:
    """Left: tokens a second by load. Right: the time after which half, and 95 of 100, have their answer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for way, marker, color in zip(WAYS, "os^", (GREY, GREY, "black")):
        mine = [r for r in rows if r["way"] == way]
        x = [r["load"] for r in mine]
        left.plot(x, [r["tokens_per_second"] for r in mine], f"-{marker}", color=color, label=way)
        right.plot(x, [r["p95"] for r in mine], f"-{marker}", color=color, label=f"{way}, 95%")
        right.plot(x, [r["p50"] for r in mine], f":{marker}", color=color, mfc="none", label=f"{way}, half")
    left.set(ylabel="tokens a second", title="throughput")
    right.set(ylabel="seconds to the last token", yscale="log", title="latency")
    for axes in (left, right):
        axes.set(xlabel="load (1: what one after another can do)", xscale="log")
        axes.set_xticks(x, [f"{n:g}" for n in x])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    save(left, path)


def main() -> None:
    """The table and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    announce("08 arrivals", s, cpu_only=True)
    torch.set_num_threads(1)
    out = Path(s.out)
    tokenizer = Tokenizer.load(out / "01_tokenizer" / "tokenizer.json")
    questions = load_tasks(out / "01_tokenizer" / "tasks.json").held_out_questions
    model = load_model(out / "07_alignment" / "grpo.pt")
    text = open_tokens(out / "01_tokenizer" / "valid.bin")
    requests = mixed_requests(tokenizer, questions, text, s.requests, model.config.max_len, s.seed)
    alone = serve(model, requests, [0.0] * len(requests), "one after another")
    capacity = len(requests) / alone["end"]
    print(f"  {s.requests} requests, one after another: {capacity:.2f} a second; that is load 1")
    print(f"  {'load':>5}  {'':<19}{'tokens/s':>9}{'first token, half':>19}{'all, half':>11}{'95%':>8}  "
          "same tokens")
    rows = []
    for load in map(float, s.loads.split()):
        times = poisson_times(load * capacity, len(requests), s.seed)
        for way in WAYS:
            r = serve(model, requests, times, way)
            row = {"load": load, "way": way, "tokens_per_second": sum(map(len, r["tokens"])) / r["end"],
                   "first": percentile(r["first"], 0.5), "p50": percentile(r["last"], 0.5),
                   "p95": percentile(r["last"], 0.95), "same": r["tokens"] == alone["tokens"]}
            rows.append(row)
            print(f"  {load:>5g}  {way:<19}{row['tokens_per_second']:>9.0f}{row['first']:>17.2f} s"
                  f"{row['p50']:>9.2f} s{row['p95']:>6.2f} s  {row['same']}", flush=True)
    draw(out / "08_inference" / "arrivals", rows)
    write_json(out / "08_inference" / "arrivals.json", {"seed": s.seed, "capacity": capacity, "rows": rows})


if __name__ == "__main__":
    run_main(main)
