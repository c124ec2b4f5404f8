"""Chapter 4: take the model apart over several processes, and check predictions of memory, bytes, time.

    make 04        or  python 04_systems/run.py --help
    python 04_systems/run.py --only strategies        one section: roofline, flash_attention, collectives,
                                                      strategies, pipelines, recompute, offload or planner
"""
import copy
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

try:
    from workbench import (
        RunSettings,
        announce,
        parse_settings,
        pick_device,
        read_json,
        run_main,
        seed_everything,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch.utils.flop_counter import FlopCounterMode

from adamw import AdamW
from attention import attend
from cross_entropy import cross_entropy
from demonstrations import collective_bytes, pipeline_timeline, run_strategies
from flash_attention import flash_attend, kernel_attention
from memory_model import Placement, rank_memory, traffic
from offload import DiskStore, HostStore, Offloaded
from peak_memory import PeakMemory
from planner import HEADER, MODELS, Cluster, describe, plan, search
from ranks import run_ranks
from recompute import recompute_blocks
from roofline import H100, best_seconds, measure_machine, operations
from strategies import STRATEGIES, one_process, place_of, random_batches
from transformer import Config, Transformer


@dataclass
class Settings(RunSettings):
    """Sizes of the demonstrations."""
    only: str = ""           # run one section and write no metrics
    ranks: int = 4           # processes of the strategies (the mesh takes 8)
    batch: int = 8           # rows of a batch
    length: int = 64         # tokens of a row
    slot: float = 0.2        # seconds that a forward pass of a pipeline stage takes in the timeline
    longest: int = 2048      # longest row of the attention table


QUICK = dict(ranks=2, length=16, slot=0.01, longest=256)


def roofline(settings: Settings, folder: Path, config: Config) -> dict:
    """Measure the machine, predict six operations, measure them."""
    from draw_systems import draw_roofline
    device = pick_device(settings.device)
    machine = measure_machine(device, *((256, 8) if settings.quick else ()))
    rows = [(work, best_seconds(work.run)) for work in operations(device, settings.quick)]
    print(f"  one {'GPU' if device.type == 'cuda' else 'core'} of this machine reaches "
          f"{machine.flops / 1e9:.0f} GFLOP/s and {machine.bandwidth / 1e9:.1f} GB/s: "
          f"ridge at {machine.ridge:.0f} operations a byte (an H100: {H100.ridge:.0f})")
    print("  operation               ops/byte  limited by   measured / predicted time")
    ratios = {}
    for work, seconds in rows:
        ratios[work.name] = seconds / machine.seconds(work.flops, work.moved)
        limit = "memory" if work.intensity < machine.ridge else "arithmetic"
        print(f"  {work.name:<22} {work.intensity:>9.2f}  {limit:<11} {ratios[work.name]:>6.2f}")
    draw_roofline(folder / "roofline.png", machine, rows)
    return {"gflops": machine.flops / 1e9, "gbytes": machine.bandwidth / 1e9,
            "measured_over_predicted": ratios}


def flash_attention(settings: Settings, folder: Path, config: Config) -> dict:
    """Peak memory of both attentions, forward and backward, and how far their numbers are apart."""
    from draw_systems import draw_flash
    lengths = [n for n in (128, 256, 512, 1024, 2048, 4096) if n <= settings.longest]
    peaks: dict = {"naive": [], "tiled": []}
    print("      T   table MB   tiles MB   largest difference of a gradient")
    for T in lengths:
        q, k, v = (torch.randn(1, config.n_heads, T, 32, requires_grad=True) for _ in range(3))
        gradients = []
        for name, function in (("naive", attend), ("tiled", flash_attend)):
            with PeakMemory([q, k, v]) as memory:
                before = memory.live()
                gradients.append(torch.autograd.grad(function(q, k, v).square().sum(), (q, k, v)))
            peaks[name].append(memory.peak - before)
        apart = max((a - b).abs().max().item() for a, b in zip(*gradients))
        print(f"  {T:>5} {peaks['naive'][-1] / 1e6:>10.2f} {peaks['tiled'][-1] / 1e6:>10.2f}   {apart:.1e}")
    out, by = kernel_attention(q[:, :, :64].detach(), k[:, :, :64].detach(), v[:, :, :64].detach())
    apart = (out - attend(q[:, :, :64], k[:, :, :64], v[:, :, :64])).abs().max().item()
    print(f"  by {by}: differs by {apart:.1e}")
    draw_flash(folder / "flash_memory.png", lengths, peaks["naive"], peaks["tiled"])
    return {"lengths": lengths, **peaks, "kernel": by}


def collectives(settings: Settings, folder: Path, config: Config) -> dict:
    """Bytes that a rank sends: by the formula, counted at each send, and by the kernel's count of TCP."""
    n, table = 1 << (12 if settings.quick else 18), {}
    print("  ranks  operation             formula   counted    kernel   equals torch")
    for p in (2,) if settings.quick else (2, 4, 8):
        for name, (formula, counted, tcp, equal) in run_ranks(collective_bytes, p, n)[0].items():
            print(f"  {p:>5}  {name:<18} {formula:>10.0f} {counted:>9} {tcp if tcp is not None else '-':>9}"
                  f"   {equal}")
            table[f"{name} {p}"] = [formula, counted, tcp, equal]
    return table


def strategies(settings: Settings, folder: Path, config: Config) -> dict:
    """The table of the chapter: each strategy's memory and bytes, predicted and measured, and its error."""
    model = Transformer(config)
    batches = random_batches(config, 2, settings.batch, settings.length, settings.seed)
    losses, _, weights = one_process(copy.deepcopy(model), batches)
    print("  MB of the rank with most              kept             peak             sent"
          "        largest difference")
    print("  strategy           ranks     predicted real   predicted real   predicted real"
          "      loss   weight")
    table = {}
    jobs = [(settings.ranks, STRATEGIES[:-1])] + ([] if settings.quick else [(8, STRATEGIES[-1:])])
    for n, names in jobs:
        ranks = run_ranks(run_strategies, n, names, model, batches, weights, timeout=300)
        for i, name in enumerate(names):
            results = [rank[i] for rank in ranks]
            place, n_micro = place_of(name, n, settings.batch)
            stages = range(place.pipeline)
            memory = [rank_memory(config, settings.length, place, n_micro, s) for s in stages]
            bytes_ = max(sum(traffic(config, settings.length, place, n_micro, s).values()) for s in stages)
            row = {"ranks": n, "state": [max(m.state for m in memory), max(r.state for r in results)],
                   "peak": [max(m.peak for m in memory), max(r.peak for r in results)],
                   "sent": [bytes_, None if results[0].sent is None else max(r.sent for r in results)],
                   "loss_error": max(abs(sum(r.losses[j] for r in results) / n - x)
                                     for j, x in enumerate(losses)),
                   "weight_error": max(r.error for r in results)}
            table[name] = row
            cells = "".join(f"{a / 1e6:>11.2f} {'-' if b is None else f'{b / 1e6:.2f}':>5}" for a, b in
                            (row["state"], row["peak"], row["sent"]))
            print(f"  {name:<18} {n:>5}   {cells}   {row['loss_error']:.0e}    {row['weight_error']:.0e}",
                  flush=True)
    return table


def pipelines(settings: Settings, folder: Path, config: Config) -> dict:
    """Both schedules in real processes, each action padded to a fixed time; bubble and micro-batches held."""
    from draw_systems import draw_pipelines
    p, m = settings.ranks, 8
    table, runs = {}, {}
    for schedule in ("gpipe", "1f1b"):
        lines, held, idle = zip(*run_ranks(pipeline_timeline, p, config, schedule, m, settings.slot))
        runs[f"{schedule}, {p} stages, {m} micro-batches"] = list(lines)
        table[schedule] = {"idle": idle[0], "formula": (p - 1) / (m + p - 1), "held": list(held)}
        print(f"  {schedule:<6} idle {idle[0]:.1%}, formula {(p - 1) / (m + p - 1):.1%}; "
              f"micro-batches held by stage {list(held)}")
    draw_pipelines(folder / "pipelines.png", runs)
    return table


def recompute(settings: Settings, folder: Path, config: Config) -> dict:
    """Memory and operations of a training step: nothing, scores, or whole blocks are computed again."""
    table, plain = {}, None
    (ids, targets), = random_batches(config, 1, settings.batch, settings.length, settings.seed)
    print("  recomputed   peak MB predicted   real   operations   gradient differs by")
    for which in ("none", "attention", "block"):
        torch.manual_seed(settings.seed)
        model = Transformer(config)
        recompute_blocks(model, which)
        with PeakMemory(model) as memory, FlopCounterMode(display=False) as counter:
            cross_entropy(model(ids), targets).backward()
        flops = counter.get_total_flops()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        plain = plain or (flops, grads)
        apart = max((a - b).abs().max().item() for a, b in zip(grads, plain[1]))
        place = Placement(recompute=which, micro_rows=settings.batch)
        predicted = rank_memory(config, settings.length, place).peak
        predicted -= 8 * sum(p.numel() for p in model.parameters())   # no optimizer here
        table[which] = {"peak": [predicted, memory.peak], "operations": flops / plain[0], "apart": apart}
        print(f"  {which:<12} {predicted / 1e6:>17.1f} {memory.peak / 1e6:>6.1f} {flops / plain[0]:>11.2f}x"
              f" {apart:>12.0e}")
    return table


def offload(settings: Settings, folder: Path, config: Config) -> dict:
    """Peak memory of training steps with the optimizer state, then also the weights, elsewhere."""
    table, expected = {}, None
    config = replace(config, n_layers=2 if settings.quick else 12)
    batches = random_batches(config, 2, 1, 16, settings.seed)
    print("  where                     peak, bytes a parameter   weight differs by")
    for name, make, parameters in (("all in memory", None, False), ("moments on the host", HostStore, False),
                                   ("moments on disk", DiskStore, False),
                                   ("weights too, on disk", DiskStore, True)):
        torch.manual_seed(settings.seed)
        model = Transformer(config)
        n = sum(p.numel() for p in model.parameters())
        with tempfile.TemporaryDirectory() as scratch:
            store = make(Path(scratch)) if make is DiskStore else HostStore()
            trained: Any = Offloaded(model, store, AdamW([], 1e-3), parameters) if make else None
            optimizer: Any = None if make else AdamW(model.parameters(), 1e-3)
            known = [optimizer.m, optimizer.v] if optimizer else [unit.full for unit in trained.units]
            with PeakMemory(model, known) as memory:
                for ids, targets in batches:
                    for p in model.parameters():
                        p.grad = None
                    cross_entropy(model(ids), targets).backward()
                    (optimizer or trained).step()
            weights = [p.detach().clone() for p in (trained.load_all() if make else model).parameters()]
        expected = expected or weights
        apart = max((a - b).abs().max().item() for a, b in zip(weights, expected))
        table[name] = {"bytes_a_parameter": memory.peak / n, "apart": apart}
        print(f"  {name:<25} {memory.peak / n:>15.1f} {apart:>21.0e}")
    return table


def planner(settings: Settings, folder: Path, config: Config) -> dict:
    """The planner's choice for Llama 3 405B beside the published one."""
    model, cluster, rows, T = MODELS["llama-405b"], Cluster(), 2048, 8192
    plans = search(model, rows, T, cluster)
    plain = plan(model, rows, T, cluster, Placement(128, 16, 8, True, 1, "elementwise"))
    best = plans[0]
    assert best.memory
    print("  " + HEADER)
    for x in [*plans[:3], plain]:
        print("  " + describe(x))
    print("  published (paper, table 4): tensor 8, pipeline 16, data 128; 400 TFLOP/s a GPU, MFU 41%")
    return {"best": vars(best.place), "mfu": best.mfu, "mfu_without_interleaving": plain.mfu,
            "published_mfu": 0.41, "memory_gb": best.memory.peak / 1e9}


SECTIONS = [roofline, flash_attention, collectives, strategies, pipelines, recompute, offload, planner]


def main() -> None:
    """All sections, or one."""
    settings = parse_settings(Settings, __doc__, QUICK)
    names = [section.__name__ for section in SECTIONS]
    if settings.only and settings.only not in names:
        raise ValueError(f"section {settings.only!r} is unknown: choose one of {', '.join(names)}")
    announce("04 systems", settings)
    begin, folder = time.perf_counter(), Path(settings.out, "04_systems")
    config = Config(**read_json(Path(settings.out, "02_transformer", "config.json")))
    metrics = {"seed": settings.seed}
    for section in SECTIONS:
        if settings.only in ("", section.__name__):
            print(f"\n  -- {section.__name__}")
            seed_everything(settings.seed)
            metrics[section.__name__] = section(settings, folder, config)
    if not settings.only:
        write_json(folder / "metrics.json", {**metrics, "seconds": time.perf_counter() - begin})


if __name__ == "__main__":
    run_main(main)
