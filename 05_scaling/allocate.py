"""What to do with a fitted law: the best size and data for a budget, and the price of wanting something else.

The optimum is Hoffmann et al. (2022), equation 4. Serving cost: Sardana et al., Beyond Chinchilla-Optimal
(arXiv 2401.00448). Repeated data: Muennighoff et al., Scaling Data-Constrained Language Models (arXiv
2305.16264, section 3.1). Training costs 6 FLOPs per parameter and token (2 forward, 4 backward), reading a
token at inference 2.

    python 05_scaling/allocate.py --flops 1e21      # a plan for this budget, and the published runs
"""
from dataclasses import dataclass

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np

from chinchilla import Law
from count import count_parameters
from planner import Cluster, Plan, search
from transformer import Config

# The refit of Chinchilla's own runs by Besiroglu et al. (2024), and the published runs to hold against it.
CHINCHILLA = Law(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
PUBLISHED = (  # name, parameters used for a token, training tokens, report
    ("GPT-3", 175e9, 300e9, "arXiv 2005.14165, table 2.1"),
    ("Gopher", 280e9, 300e9, "arXiv 2112.11446, table 1"),
    ("Chinchilla", 70e9, 1.4e12, "arXiv 2203.15556, table 1"),
    ("Llama 3 405B", 405e9, 15.6e12, "arXiv 2407.21783, section 3.4"),
    ("DeepSeek-V3", 37e9, 14.8e12, "arXiv 2412.19437, abstract; 37B of 671B are active"),
)


def optimal(law: Law, compute: float) -> tuple[float, float]:
    """(N, D) with the lowest loss among all with 6 N D = compute, in closed form.

    Where the derivatives of both terms by log N cancel, alpha A / N^alpha = beta B / D^beta.
    """
    # EXERCISE 5.5 compute-optimal size and tokens
    both = law.alpha + law.beta
    G = (law.alpha * law.A / (law.beta * law.B)) ** (1 / both)
    N = G * (compute / 6) ** (law.beta / both)
    return N, compute / (6 * N)
    # END EXERCISE 5.5


def optimal_numeric(law: Law, compute: float) -> tuple[float, float]:
    """The same by looking: golden-section search over log N, along which the loss has one minimum."""
    def loss(log_n: float) -> float:
        return law.loss(np.exp(log_n), compute / (6 * np.exp(log_n)))

    low, high, golden = np.log(1.0), np.log(compute / 6), (5 ** 0.5 - 1) / 2
    while high - low > 1e-9:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp(low)), float(compute / (6 * np.exp(low)))


def tokens_to_reach(law: Law, N: float, loss: float) -> float:
    """Training tokens after which N parameters reach this loss; infinite if they never do."""
    # EXERCISE 5.1 tokens to reach a loss
    left = loss - law.E - law.A / N ** law.alpha
    return (law.B / left) ** (1 / law.beta) if left > 0 else float("inf")
    # END EXERCISE 5.1


def overtraining(law: Law, compute: float, shrink: float) -> tuple[float, float]:
    """Train a model `shrink` times smaller than the optimum of `compute` to the same loss.

    Returns the compute it takes, as a multiple, and its tokens per parameter.
    """
    N, D = optimal(law, compute)
    tokens = tokens_to_reach(law, N / shrink, law.loss(N, D))
    return 6 * N / shrink * tokens / compute, tokens * shrink / N


def lifetime_optimal(law: Law, loss: float, served: float) -> tuple[float, float, float]:
    """(N, D, FLOPs) of the cheapest model of this loss that will also read `served` tokens.

    FLOPs are 6 N D for training and 2 N served for reading.
    """
    smallest = (law.A / (loss - law.E)) ** (1 / law.alpha)
    N = smallest * np.geomspace(1.0001, 1e4, 20_000)
    D = np.array([tokens_to_reach(law, n, loss) for n in N])
    cost = 6 * N * D + 2 * N * served
    best = int(cost.argmin())
    return float(N[best]), float(D[best]), float(cost[best])


def effective_tokens(unique: float, tokens: float, r_star: float = 15.39) -> float:
    """Tokens of fresh data that are worth as much as `tokens` tokens read from `unique` ones, repeatedly.

    The first epoch counts in full, each repetition less: unique + unique R* (1 - exp(-R / R*)), R =
    tokens/unique - 1 repetitions, R* = 15.39 measured by Muennighoff et al. for data of a language model.
    """
    # EXERCISE 5.2 effective tokens
    if tokens <= unique:
        return tokens
    repetitions = tokens / unique - 1
    return unique + unique * r_star * (1 - np.exp(-repetitions / r_star))
    # END EXERCISE 5.2


def shape_for(N: float, vocab_size: int = 128_000) -> Config:
    """A decoder of about N parameters: width about 100 times the depth, a quarter of the heads for K and V.

    Heads are of 128 (64 in narrow models).

    The ratio is custom: Kaplan et al. (figure 5) found the loss flat over a wide range of shapes.
    """
    shapes = []
    for width in range(512, 40 * 1024, 512):
        heads = width // (64 if width < 1024 else 128)
        for depth in {max(2, round(width / ratio)) for ratio in (70, 85, 100, 120, 140)}:
            shape = Config(vocab_size=vocab_size, d_model=width, n_layers=depth, n_heads=heads,
                           n_kv_heads=heads // 4, d_ff=-(-8 * width // 3 // 256) * 256, max_len=8192)
            shapes.append((abs(np.log(sum(count_parameters(shape).values()) / N)), shape))
    return min(shapes, key=lambda pair: pair[0])[1]


def gpu_hours(compute: float, peak: float = 989e12, utilization: float = 0.4) -> float:
    """Hours of one GPU for so many FLOPs; by default an H100 (989 TFLOP/s dense bf16) at 40% of its peak."""
    return compute / (peak * utilization) / 3600


def training_memory(N: float) -> float:
    """Bytes: weights (2), gradients (2), float32 weights and Adam's mean and square (12), 16 a parameter."""
    return 16.0 * N


def layout(shape: Config, gpus: int, tokens_per_batch: int = 2 ** 20) -> Plan:
    """Chapter 4's fastest layout of this model on so many H100s that fits their memory.

    Raises ValueError with the planner's reason when there is none.
    """
    plans = search(shape, tokens_per_batch // shape.max_len, shape.max_len, Cluster(gpus=gpus))
    best = plans[0]
    if best.refused:
        full = [plan.refused for plan in plans if plan.memory]   # more GPUs help against this alone
        reason, fix = (full[0], "more --gpus") if full else (best.refused, "fewer --gpus, a power of two")
        raise ValueError(f"no layout of this model runs on {gpus} GPUs ({reason}): choose {fix}")
    return best


def published_table(law: Law = CHINCHILLA) -> list[dict]:
    """For each published run its compute, what the law recommends for it, and the expected losses of both."""
    rows = []
    for name, N, D, report in PUBLISHED:
        C = 6 * N * D
        best_N, best_D = optimal(law, C)
        rows.append(dict(name=name, report=report, compute=C, N=N, D=D, ratio=D / N,
                         best_N=best_N, best_D=best_D, best_ratio=best_D / best_N,
                         excess=float(law.loss(N, D) - law.loss(best_N, best_D))))
    return rows


@dataclass
class Settings:
    """The budget and what is known about its use."""
    flops: float = 1e21  # the training budget
    unique: float = setting(0.0, least=0)  # distinct training tokens you have; 0: enough
    served: float = setting(0.0, least=0)  # tokens it will read and write when it serves; 0: not counted
    gpus: int = 64  # H100s to train on, a power of two


def main() -> None:
    """Print the plan for the budget, and the published runs beside the law."""
    s = parse_settings(Settings, __doc__)
    N, D = optimal(CHINCHILLA, s.flops)
    loss = float(CHINCHILLA.loss(N, D))
    print(f"{s.flops:.3g} FLOPs: {N:.3g} parameters, {D:.3g} tokens ({D / N:.1f} each), loss {loss:.3f}")
    if s.unique and D > s.unique:
        worth = effective_tokens(s.unique, D)
        print(f"  {D / s.unique:.1f} epochs of {s.unique:.3g} tokens are worth {worth:.3g}: "
              f"loss {CHINCHILLA.loss(N, worth):.3f}")
    if s.served:
        n, d, cost = lifetime_optimal(CHINCHILLA, loss, s.served)
        print(f"  with {s.served:.3g} tokens served: {n:.3g} parameters, {d:.3g} tokens ({d / n:.0f} each); "
              f"same loss, {cost / (s.flops + 2 * N * s.served):.1%} of the lifetime FLOPs")
    shape = shape_for(N)
    print(f"  shape: {shape.n_layers} layers of width {shape.d_model}, {shape.n_heads} heads, "
          f"{sum(count_parameters(shape).values()):.3g} parameters")
    hours, memory = gpu_hours(s.flops), training_memory(N) / 1e9
    print(f"  {hours:,.0f} H100-hours at 40% utilization, {hours / s.gpus / 24:.1f} days on {s.gpus}; "
          f"{memory:,.0f} GB of state, {memory / s.gpus:.1f} a GPU")
    best = layout(shape, s.gpus)
    place = best.place
    assert best.memory
    print(f"  chapter 4's planner: {place.data} copies x {place.pipeline} stages x {place.tensor} tensor "
          f"ranks, ZeRO-{place.zero}, recompute {place.recompute}:\n"
          f"    {best.memory.peak / 1e9:.0f} GB a GPU, at most {best.mfu:.0%} of peak")
    print("  training compute for the same loss (and tokens a parameter) of a model that is smaller")
    print("  " + "   ".join(f"{k:g} times: {times:.2f} ({ratio:,.0f})" for k in (1, 1.5, 2, 3, 4, 5)
                          for times, ratio in [overtraining(CHINCHILLA, s.flops, k)]))
    print("\nrun            parameters   tokens      each |  the law: N   tokens      each | above optimum")
    for r in published_table():
        print(f"{r['name']:<14} {r['N']:>10.3g} {r['D']:>8.3g} {r['ratio']:>9.1f} | {r['best_N']:>11.3g} "
              f"{r['best_D']:>8.3g} {r['best_ratio']:>9.1f} | {r['excess']:.3f}")


if __name__ == "__main__":
    run_main(main)
