"""Given a model, a batch and a cluster: which layout is fastest, which do not fit, and why.

Memory and bytes are memory_model.py's (checked against real runs); time is a sum of a few terms, each written
below with what it leaves out, so a prediction is a lower bound of the step time. Narayanan et al. 2021 is the
model for it.

    python 04_systems/planner.py                                        Llama 3 405B on 16,384 H100
    python 04_systems/planner.py --model llama-8b --gpus 64 --tokens-per-batch 1048576
"""
from collections import Counter
from dataclasses import dataclass

try:
    from workbench import parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from count import count_parameters
from memory_model import MIXED, Placement, RankMemory, rank_memory, traffic
from pipeline_parallel import layers_of
from published_models import LLAMA, MODELS as PUBLISHED
from transformer import Config

MODELS = {"llama-8b": PUBLISHED["Llama 3 8B"], "llama-70b": PUBLISHED["Llama 3 70B"],
          "llama-405b": Config(128_256, 16_384, 126, 128, 8, 53_248, **LLAMA)}   # Dubey et al. 2024, table 3


@dataclass(frozen=True)
class Cluster:
    """Machines full of GPUs; by default H100 SXM and the network of Llama 3 (data sheets; section 3.3)."""
    gpus: int = 16384
    gpus_per_machine: int = 8
    memory: float = 80e9        # bytes of one GPU
    usable: float = 0.95        # share of it that tensors get; the rest: driver, buffers, fragments
    flops: float = 989e12       # dense bfloat16 peak of one GPU
    matmul: float = 0.70        # share of the peak that large matrix products reach: assumed, not measured
    nvlink: float = 450e9       # bytes a second that one GPU sends inside its machine
    network: float = 50e9       # and to other machines
    link: float = 0.80          # share of these that collectives reach: an assumption


@dataclass(frozen=True)
class Plan:
    """A placement with its predictions; `refused` says why it cannot run, else it is empty."""
    place: Placement
    n_micro: int
    refused: str
    memory: RankMemory | None = None
    traffic: dict[str, float] | None = None
    seconds: float = float("inf")
    bubble: float = 0.0
    exposed: dict[str, float] | None = None   # seconds of communication that nothing hides
    mfu: float = 0.0                          # useful operations a second, as a share of the peak


def layer_flops(config: Config, tokens: int, T: int) -> float:
    """Operations of one layer's forward pass: 2 a weight and token, and the causal half of the scores."""
    one = count_parameters(config)
    weights = (one["attention"] + one["feed-forward"]) / config.n_layers
    return tokens * (2 * weights + 4 * config.d_model * T / 2)


def useful_flops(config: Config, tokens: int, T: int) -> float:
    """Operations of a step that any implementation must do: three forward passes', nothing recomputed."""
    head = tokens * 2 * config.vocab_size * config.d_model
    return 3 * (config.n_layers * layer_flops(config, tokens, T) + head)


def why_not(config: Config, rows: int, cluster: Cluster, place: Placement) -> str:
    """A sentence if the shapes do not go together, else nothing."""
    if place.ranks != cluster.gpus:
        return f"uses {place.ranks} of {cluster.gpus} GPUs"
    if place.tensor > cluster.gpus_per_machine:
        return "tensor parallelism would leave the machine"
    if config.n_kv_heads % place.tensor or config.d_ff % place.tensor:
        return "heads or widths do not divide by the tensor-parallel ranks"
    if place.pipeline * place.interleave > config.n_layers + 2:
        return "more pipeline pieces than layers"
    if rows % (place.data * place.micro_rows):
        return "the batch does not divide by the data-parallel copies"
    if place.interleave > 1 and rows // (place.data * place.micro_rows) % place.pipeline:
        return "interleaving needs micro-batches in multiples of the stages"
    return ""


def plan(config: Config, rows: int, T: int, cluster: Cluster, place: Placement) -> Plan:
    """Predict one layout for batches of `rows` rows of T tokens in mixed precision with fused kernels."""
    refused = why_not(config, rows, cluster, place)
    if refused:
        return Plan(place, 0, refused)
    t, p, v = place.tensor, place.pipeline, place.interleave
    n_micro, tokens = rows // (place.data * place.micro_rows), place.micro_rows * T
    memory = max((rank_memory(config, T, place, n_micro, s, MIXED, fused=True) for s in {0, p - 1}),
                 key=lambda m: m.peak)
    if memory.peak > cluster.usable * cluster.memory:
        room = cluster.usable * cluster.memory
        return Plan(place, n_micro, f"needs {memory.peak / 1e9:.0f} GB, a GPU has {room / 1e9:.0f}", memory)
    sent = traffic(config, T, place, n_micro, 0, MIXED)
    # Compute: the slowest stage sets the pace. The head counts as part of the last stage.
    passes = 4 if place.recompute == "block" else 3
    speed = cluster.flops * cluster.matmul * t
    stage_flops = max(len(layers_of(s, p, config.n_layers)) * passes * layer_flops(config, tokens, T)
                      + (s == p - 1) * 6 * tokens * config.vocab_size * config.d_model for s in range(p))
    slot = stage_flops / speed
    # Tensor-parallel messages stand between matrix products that need them: nothing hides them.
    tensor = sent["tensor"] / (cluster.nvlink * cluster.link)
    # The bubble is filled by nobody; messages between stages are assumed to hide behind compute.
    work = n_micro * slot + tensor
    waiting = work / n_micro * (p - 1) / v
    # Data-parallel messages hide behind the backward pass (2/3 of a slot), gathers behind the forward pass,
    # of one micro-batch; ZeRO-2 and 3 communicate in every micro-batch and hide behind every one.
    hidden = slot * (n_micro if place.zero >= 2 else 1)
    wire = cluster.nvlink if place.ranks <= cluster.gpus_per_machine else cluster.network
    data = max(0.0, sent["data"] / (wire * cluster.link) - hidden)
    seconds = work + waiting + data
    mfu = useful_flops(config, rows * T, T) / (seconds * cluster.gpus * cluster.flops)
    return Plan(place, n_micro, "", memory, sent, seconds, waiting / seconds,
                {"tensor": tensor, "data": data}, mfu)


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4 ... up to `limit`."""
    return [1 << i for i in range(limit.bit_length()) if 1 << i <= limit]


def search(config: Config, rows: int, T: int, cluster: Cluster) -> list[Plan]:
    """Every layout in powers of two, best first, the refused ones last."""
    plans = []
    for tensor in powers_of_two(cluster.gpus_per_machine):
        for pipeline in powers_of_two(min(config.n_layers, cluster.gpus // tensor)):
            for interleave in powers_of_two(-(-config.n_layers // pipeline)) if pipeline > 1 else [1]:
                for micro_rows in (1, 2, 4):
                    for zero in (1, 2, 3):
                        for recompute in ("none", "elementwise", "block"):
                            place = Placement(cluster.gpus // (tensor * pipeline), pipeline, tensor,
                                              tensor > 1, zero, recompute, interleave, micro_rows)
                            plans.append(plan(config, rows, T, cluster, place))
    return sorted(plans, key=lambda x: (bool(x.refused), x.seconds))


def describe(x: Plan) -> str:
    """One line of the table."""
    s = x.place
    head = (f"{s.data:>5} {s.pipeline:>4} {s.tensor:>3} {s.interleave:>5} {s.micro_rows:>4} {s.zero:>4}"
            f"  {s.recompute:<11}")
    if x.refused:
        return head + f" refused: {x.refused}"
    assert x.memory and x.traffic is not None
    return head + (f"{x.memory.peak / 1e9:>6.1f} {sum(x.traffic.values()) / 1e9:>8.1f} {x.seconds:>7.2f}"
                   f" {x.bubble:>7.1%} {x.mfu:>6.1%}")


HEADER = " data pipe ten. inter rows zero  recompute   mem GB sent GB  step s  bubble    MFU"


@dataclass
class Settings:
    """What to plan."""
    model: str = "llama-405b"                  # llama-8b, llama-70b or llama-405b
    gpus: int = 16384                          # how many H100
    tokens_per_batch: int = 16 * 1024 * 1024   # tokens of one optimizer step
    length: int = 8192                         # tokens of one row
    top: int = 8                               # how many layouts to print


def main() -> None:
    """Search, print the best layouts and why others were refused."""
    settings = parse_settings(Settings, __doc__)
    if settings.model not in MODELS:
        raise ValueError(f"model {settings.model!r} is unknown: choose one of {', '.join(MODELS)}")
    if settings.tokens_per_batch < settings.length:
        raise ValueError(f"--tokens-per-batch {settings.tokens_per_batch} is less than one row: "
                         f"give --length {settings.length} or more")
    config, cluster = MODELS[settings.model], Cluster(gpus=settings.gpus)
    plans = search(config, settings.tokens_per_batch // settings.length, settings.length, cluster)
    print(HEADER)
    for x in plans[:settings.top]:
        print(describe(x))
    reasons = Counter("does not fit in memory" if x.memory else x.refused for x in plans if x.refused)
    print("\n".join(f"refused {n:>5}: {reason}" for reason, n in reasons.most_common()))
    if plans[0].refused:
        raise ValueError("no layout fits: use more GPUs, a smaller batch or shorter rows")


if __name__ == "__main__":
    run_main(main)
