"""Predict one rank's memory, and the bytes it sends, before anything runs: the arithmetic of the planner.

Two activation counts: `ours` is what autograd keeps for this repository's plain code, to the byte (tests
compare); `fused` is what a production framework keeps, with flash attention and fused norms and SwiGLU, and
with the inputs of sliced matrices stored in slices and gathered again (Korthikanti et al. 2022, table 2, for
SwiGLU and grouped queries).

    python 04_systems/planner.py           uses it
"""
from dataclasses import dataclass, replace

from count import count_parameters
from pipeline_parallel import layers_of
from transformer import Config
from zero import state_bytes


@dataclass(frozen=True)
class Placement:
    """How a model is spread, and how it runs."""
    data: int = 1                # data-parallel copies
    pipeline: int = 1            # stages
    tensor: int = 1              # slices
    sequence: bool = False       # activations between slices are cut along time
    zero: int = 0                # ZeRO stage over the data-parallel ranks
    recompute: str = "none"      # none, attention (scores; not fused), elementwise (fused only), or block
    interleave: int = 1          # pieces of the model a stage holds (1: contiguous)
    micro_rows: int = 1          # rows of a micro-batch
    schedule: str = "1f1b"       # 1f1b or gpipe

    @property
    def ranks(self) -> int:
        """How many processors it takes."""
        return self.data * self.pipeline * self.tensor


@dataclass(frozen=True)
class Precision:
    """Bytes of one number, by use."""
    weight: int = 4
    gradient: int = 4
    moments: int = 8             # both moments, and the master copy if there is one
    activation: int = 4


# gradients summed in float32
FLOAT32, MIXED = Precision(), Precision(weight=2, gradient=4, moments=12, activation=2)


def stage_parameters(config: Config, place: Placement, stage: int) -> float:
    """Parameters that one rank of a stage holds (norms are not sliced; vocabulary rows are padded)."""
    t, C = place.tensor, config.d_model
    one = count_parameters(config)
    head = C // config.n_heads
    per_layer = ((one["attention"] + one["feed-forward"]) / config.n_layers - 2 * head * config.qk_norm) / t \
        + 2 * head * config.qk_norm + 2 * C * (2 if config.norm == "layer" else 1)
    total = len(layers_of(stage, place.pipeline, config.n_layers)) * per_layer
    table = -(-config.vocab_size // t) * C
    first, last = stage == 0, stage == place.pipeline - 1
    n_tables = (first or last) if config.tied else first + last
    return total + n_tables * table + last * C * (2 if config.norm == "layer" else 1)


def layer_numbers(config: Config, T: int, place: Placement, fused: bool) -> float:
    """Numbers a token that a layer (pre-norm, SwiGLU, RoPE, RMSNorm) keeps for its gradient, on one rank."""
    t, C, F = place.tensor, config.d_model, config.d_ff
    s = t if place.sequence else 1
    H, K = config.n_heads, config.n_kv_heads
    Q, KV = C, K * (C // H)                                  # widths of all queries, of all keys
    if place.recompute == "block":
        return C / s
    if fused:
        numbers = 2 * C / s + (2 * Q + 2 * KV + 2 * F) / t   # inputs of norms; q, out, k, v; gate, up
        # norm outputs, the product
        return numbers + (0 if place.recompute == "elementwise" else 2 * C / s + F / t)
    numbers = (4 * C + 2) / s + 2 * C                        # twice: x, x/rms, 1/rms; norm output, gathered
    numbers += (4 * Q + 5 * F) / t                           # q, k, v, out; gate, sigmoid, silu, up, product
    if config.qk_norm:
        numbers += (2 * Q + 2 * KV + H + K) / t
    if place.recompute == "none":
        numbers += H * T / t                                 # the attention weights
    return numbers


def held_micro_batches(place: Placement, n_micro: int, stage: int = 0) -> float:
    """Micro-batches whose activations a stage holds at once, in units of the whole stage."""
    # EXERCISE 4.10 micro-batches held
    p, v = place.pipeline, place.interleave
    if place.schedule == "gpipe":
        return n_micro
    if v == 1:
        return min(p - stage, n_micro)
    return min(p - stage + (p - 1) / v, n_micro)             # Narayanan et al. 2021, section 2.2
    # END EXERCISE 4.10


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank."""
    state: float         # weights, gradients, optimizer moments, all present after a backward pass
    activations: float   # kept between forward and backward passes
    peak: float          # the most at one time


def rank_memory(config: Config, T: int, place: Placement, n_micro: int = 1, stage: int = 0,
                precision: Precision = FLOAT32, fused: bool = False) -> RankMemory:
    """Predict one rank of pipeline stage `stage`, rows of T tokens.

    The peak is at the start of a backward pass: of the first one if all micro-batches are held, and then our
    code (fused=False) has no gradients yet; production code keeps buffers for them all the time. The head
    needs three copies of the logits.
    """
    tokens, last = place.micro_rows * T, stage == place.pipeline - 1
    n = stage_parameters(config, place, stage)
    state = state_bytes(n, place.data, place.zero, precision.weight, precision.gradient, precision.moments)
    layers = len(layers_of(stage, place.pipeline, config.n_layers))
    held = held_micro_batches(place, n_micro, stage)
    kept = held * layers * layer_numbers(config, T, place, fused)
    C, V, s = config.d_model, config.vocab_size, place.tensor if place.sequence else 1
    # last norm, logits; gradients
    head = last * (held * (2 * C / s + C + V / place.tensor) + 2 * V / place.tensor)
    kept += held * (not last) * C / s                        # what was handed to the next stage
    per_number = tokens * precision.activation
    gradients = 0.0 if fused else n * precision.gradient / (place.data if place.zero >= 2 else 1)
    at_head = state - (gradients if held >= n_micro else 0.0) + (kept + head) * per_number
    peak = max(state, at_head)
    if place.recompute == "block":                           # while one layer is being computed again
        layer = layer_numbers(config, T, replace(place, recompute="none"), fused)
        peak = max(peak, state + (kept + layer) * per_number)
    return RankMemory(state, (kept + head) * per_number, peak)


def traffic(config: Config, T: int, place: Placement, n_micro: int, stage: int = 0,
            precision: Precision = FLOAT32) -> dict[str, float]:
    """Bytes that one rank sends in one step, by axis: the formulas of collectives.py summed over a step."""
    d, p, t = place.data, place.pipeline, place.tensor
    first, last = stage == 0, stage == p - 1
    layers, a = len(layers_of(stage, p, config.n_layers)), precision.activation
    tokens = place.micro_rows * T
    plane = tokens * config.d_model * a                                  # one (b, T, C) tensor
    all_reduces = layers * (6 if place.recompute == "block" else 4) + first + last
    tensor = n_micro * (all_reduces * 2 * (t - 1) / t * plane + last * (t - 1) * 3 * tokens * a)
    between = n_micro * plane / (t if place.sequence else 1) * ((not last) + (not first))
    n = stage_parameters(config, place, stage)
    table = -(-config.vocab_size // t) * config.d_model
    if config.tied and p > 1 and (first or last):
        between += table * precision.gradient                # two ranks all-reduce the tied embedding
    weights, gradients, share = n * precision.weight, n * precision.gradient, (d - 1) / d
    kept = table * precision.weight * (first + last if not config.tied else first or last)
    if place.zero == 0:
        data = 2 * share * gradients
    else:   # stage 3 brings the blocks in twice, forward and backward, the embedding once
        gathered = n_micro * (2 * weights - kept) if place.zero == 3 else weights
        data = share * (gradients * (n_micro if place.zero >= 2 else 1) + gathered)
    return {"tensor": tensor, "pipeline": between, "data": data}
