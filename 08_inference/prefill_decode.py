"""Two phases: reading a prompt is arithmetic, writing a token is moving the weights through the processor.

Adds to kv_cache.py the question where the time goes. A prompt of T tokens uses each weight T times, so that
it is limited by arithmetic; a new token uses each weight once, so that it is limited by memory, and more
requests at once cost little until arithmetic takes over. Chapter 4's roofline says how long both must take.

    python 08_inference/prefill_decode.py --out out   prints the table, draws out/08_inference/prefill_decode
"""
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, run_main, setting, write_json
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch

from figures import GREY, plt, save
from kv_cache import KVCache
from model_config import Config
from roofline import Machine, best_seconds, measure_machine
from transformer import Transformer

MODELS = {   # this course's, and one whose weights are larger than the processor's caches
    "0.9M parameters": Config(vocab_size=1024, max_len=1024),
    "26M parameters": Config(vocab_size=1024, d_model=512, n_layers=8, n_heads=8, n_kv_heads=8, d_ff=1408,
                             max_len=1024),
}


@dataclass
class Settings(RunSettings):
    """How long to measure."""
    repeats: int = setting(3, least=1)    # runs of each case, of which the fastest counts
    longest: int = setting(512, least=16, most=960)    # the longest prompt
    batch: int = setting(8, least=1)      # the largest batch


QUICK = dict(repeats=1, longest=32, batch=2)


def work(config: Config, batch: int, new: int, before: int) -> tuple[float, float]:
    """Floating-point operations and bytes (float32) of reading `new` tokens behind `before`, `batch` times.

    Every weight of a matrix is read once and used for all tokens; the cache is read once too.
    """
    c, L = config, config.n_layers
    heads, kept = c.n_heads * c.D, c.n_kv_heads * c.D
    weights = c.d_model * (L * (2 * heads + 2 * kept + 3 * c.d_ff) + c.vocab_size)
    pairs = new * before + new * (new + 1) / 2              # of a query and a key that it sees
    flops = batch * (2 * weights * new + 4 * L * heads * pairs)
    return flops, 4 * (weights + batch * L * 2 * kept * (before + new))


@torch.no_grad()
def time_prefill(model: Transformer, batch: int, length: int, repeats: int) -> float:
    """Seconds until the first token of prompts (batch, length) is known: the time to first token."""
    ids = torch.randint(model.config.vocab_size, (batch, length))
    config = model.config
    return best_seconds(lambda: model(ids, KVCache(config, batch, length), 0)[:, -1].argmax(-1), repeats)


@torch.no_grad()
def time_decode(model: Transformer, batch: int, length: int, repeats: int) -> float:
    """Seconds for one more token of each of `batch` sequences of `length` tokens: the time per token."""
    cache = KVCache(model.config, batch, length + 4 * (repeats + 1))
    ids = torch.randint(model.config.vocab_size, (batch, length))
    model(ids, cache, 0)
    steps = iter(range(length, length + 4 * (repeats + 1)))

    def four():
        for _ in range(4):
            model(ids[:, :1], cache, next(steps))[:, -1].argmax(-1)
    return best_seconds(four, repeats) / 4


def measure(machine: Machine, s: Settings) -> list[dict]:
    """A row for each model, phase, batch and length: seconds, and the least that the machine allows."""
    lengths = [n for n in (16, 32, 64, 128, 256, 512, 960) if n <= s.longest]
    batches = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= s.batch]
    usual = min(128, s.longest)
    rows = []
    for name, config in MODELS.items():
        model = Transformer(config)
        for phase, run in (("prefill", time_prefill), ("decode", time_decode)):
            for batch, length in [(1, n) for n in lengths] + [(b, usual) for b in batches if b > 1]:
                new, before = (length, 0) if phase == "prefill" else (1, length)
                flops, moved = work(config, batch, new, before)
                rows.append({"model": name, "phase": phase, "batch": batch, "length": length,
                             "seconds": run(model, batch, length, s.repeats),
                             "least": machine.seconds(flops, moved), "intensity": flops / moved,
                             "limit": "arithmetic" if flops / moved > machine.ridge else "memory"})
    return rows


def draw(path: Path, rows: list[dict]) -> None:
    """Left: time to first token by length. Right: time per token by batch. Lines: the roofline's bound."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
    usual = max(r["length"] for r in rows if r["batch"] > 1)
    for axes, phase, key, title, label in (
            (panels[0], "prefill", "length", "time to first token, batch 1", "tokens in the prompt"),
            (panels[1], "decode", "batch", f"time per token, {usual} tokens before it", "sequences at once")):
        for i, name in enumerate(MODELS):
            mine = [r for r in rows if r["model"] == name and r["phase"] == phase
                    and (r["batch"] == 1 if key == "length" else r["length"] == usual)]
            x = [r[key] for r in mine]
            axes.plot(x, [1000 * r["seconds"] for r in mine], "os"[i], color="black",
                      mfc=("none", "black")[i], label=f"{name}, measured")
            axes.plot(x, [1000 * r["least"] for r in mine], "--" if i == 0 else "-", color=GREY,
                      label=f"{name}, at least")
        axes.set(xscale="log", yscale="log", title=title, xlabel=label, ylabel="milliseconds")
        axes.set_xticks(x, [str(n) for n in x])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    save(panels[0], path)


def main() -> None:
    """The table and the figure."""
    s = parse_settings(Settings, __doc__, QUICK)
    device = announce("08 prefill and decode", s, cpu_only=True)
    torch.manual_seed(s.seed)
    machine = measure_machine(device)
    print(f"  one thread: {machine.flops / 1e9:.0f} GFLOP/s, {machine.bandwidth / 1e9:.1f} GB/s: memory is "
          f"the limit below {machine.ridge:.1f} operations a byte")
    rows = measure(machine, s)
    print(f"  {'model':<17}{'phase':<9}{'batch':>5}{'length':>8}{'ms':>10}{'at least':>10}{'share':>8}  "
          "limit")
    for r in rows:
        print(f"  {r['model']:<17}{r['phase']:<9}{r['batch']:>5}{r['length']:>8}{1000 * r['seconds']:>10.2f}"
              f"{1000 * r['least']:>10.2f}{r['least'] / r['seconds']:>8.0%}  {r['limit']}")
    folder = Path(s.out, "08_inference")
    draw(folder / "prefill_decode", rows)
    write_json(folder / "prefill_decode.json", {"flops": machine.flops, "bandwidth": machine.bandwidth,
                                                "rows": rows})


if __name__ == "__main__":
    run_main(main)
