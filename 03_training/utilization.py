"""How much of the hardware a training run uses: model FLOPs utilization.

Tokens a second say how fast a run is, not whether it could be faster. MFU divides the arithmetic that the
model *needs* by what the device could do at its best (Chowdhery et al. 2022, appendix B). Work done twice
(recomputed activations) and the optimizer count as nothing, so they lower it.

    python 03_training/bench_train.py      prints it for the device it finds
"""
import re
import time

import torch

from count import count_parameters
from transformer import Config

# Dense bf16 (fp16 where there is no bf16) in FLOP/s, from the makers' data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12,
         "RTX 4090": 165e12, "RTX 3090": 71e12, "V100": 125e12, "T4": 65e12}


def model_flops_per_token(config: Config, T: int) -> float:
    """FLOPs that one token of training needs in a sequence of T: 6 N + 12 L H D T.

    N are the weights that a token is multiplied with: not a table that is only looked up (positions, an
    untied embedding). Each does one multiplication and one addition forward and twice that backward. Scores
    and weighted sums cost 4 H D T a layer forward, three times that in all; that half of them are masked is
    not subtracted.
    """
    # EXERCISE 3.16 FLOPs of a training token
    N = sum(count_parameters(config).values())
    N -= 0 if config.tied else config.vocab_size * config.d_model
    N -= config.max_len * config.d_model if config.positions == "learned" else 0
    return 6 * N + 12 * config.n_layers * config.n_heads * config.D * T
    # END EXERCISE 3.16


def mfu(tokens_per_second: float, config: Config, T: int, peak: float) -> float:
    """Share of `peak` (FLOP/s) that training at this speed uses, 0 to 1."""
    return tokens_per_second * model_flops_per_token(config, T) / peak


def published_peak(name: str) -> float | None:
    """FLOP/s of a GPU by its name, such as "NVIDIA H100 80GB HBM3"; None if it is not in the table."""
    for known, peak in PEAKS.items():
        if re.search(rf"\b{known}\b", name):
            return peak
    return None


def measured_peak(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP/s of the fastest of several (size, size) products: a little less than the device can do."""
    a = torch.randn(size, size, device=device).to(dtype)
    best = 0.0
    for _ in range(5):
        begin = time.perf_counter()
        float((a @ a)[0, 0])   # reading a number waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best
