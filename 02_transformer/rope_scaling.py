"""Stretch RoPE: run a model on texts longer than those it was trained on.

Beyond the length of training the slow pairs of RoPE reach angles that no weight has ever seen. Four remedies,
each a rule for the frequency of every pair, `factor` being the new length over the old one:
    linear   all pairs turn `factor` times slower: positions are interpolated (Chen et al. 2023)
    ntk      a larger base: fast pairs keep their speed, the slowest is interpolated (bloc97 2023; Peng et al.
             2023, section 3.1)
    yarn     pairs that turn often in a training text stay, those that turn less than once are interpolated,
             with a ramp between; and scores grow a little sharper (Peng et al. 2023, sections 3.2 and 3.3)
    llama3   the same idea with another ramp (the code that came with Llama 3.1)

    python 02_transformer/hf_format.py FOLDER      loads models that were stretched so, Llama 3.1 for one
"""
import math

import torch
from torch import Tensor


def plain_frequencies(width: int, base: float) -> Tensor:
    """base^(-2i/D) for each pair, (D/2,) float64: radians a token."""
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def ntk_frequencies(width: int, base: float, factor: float) -> Tensor:
    """A larger base: the slowest pair turns `factor` times slower, the fastest as before, (D/2,)."""
    return plain_frequencies(width, base * factor ** (width / (width - 2)) if width > 2 else base)


def yarn_frequencies(width: int, base: float, factor: float, trained_len: float, often: float = 32,
                     seldom: float = 1) -> Tensor:
    """Mix of plain and interpolated frequencies, (D/2,).

    The pair that turns n times in `trained_len` tokens has the index
    D ln(trained_len / (2 pi n)) / (2 ln base). Pairs below the index of `often` turns, rounded down, stay
    plain; those above the index of `seldom`, rounded up, are divided by `factor`; in between the share of the
    interpolated one grows linearly with the index.
    """
    # EXERCISE 2.19 YaRN
    def index_of(turns: float) -> float:
        return width * math.log(trained_len / (2 * math.pi * turns)) / (2 * math.log(base))
    low, high = max(math.floor(index_of(often)), 0), min(math.ceil(index_of(seldom)), width - 1)
    ramp = ((torch.arange(width // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
    plain = plain_frequencies(width, base)
    return plain * (1 - ramp) + plain / factor * ramp
    # END EXERCISE 2.19


def llama3_frequencies(width: int, base: float, factor: float, trained_len: float, often: float = 4,
                       seldom: float = 1) -> Tensor:
    """As YaRN, but the ramp is linear in how often a pair turns within `trained_len` tokens, (D/2,)."""
    plain = plain_frequencies(width, base)
    turns = trained_len * plain / (2 * math.pi)
    share = ((turns - seldom) / (often - seldom)).clamp(0, 1)                 # of the plain frequency
    return plain * share + plain / factor * (1 - share)


def scaled_rope_tables(config, width: int) -> tuple[Tensor, Tensor]:
    """cos and sin of every angle of a configuration with `rope_scaling`, (max_len, width / 2) float32."""
    kind, base, factor = config.rope_scaling, config.rope_base, config.rope_factor
    trained = config.length_of_training
    frequency = {"linear": lambda: plain_frequencies(width, base) / factor,
                 "ntk": lambda: ntk_frequencies(width, base, factor),
                 "yarn": lambda: yarn_frequencies(width, base, factor, trained),
                 "llama3": lambda: llama3_frequencies(width, base, factor, trained)}[kind]()
    angle = torch.arange(config.max_len, dtype=torch.float64)[:, None] * frequency               # (T, D/2)
    sharper = 1 + 0.1 * math.log(factor) if kind == "yarn" else 1.0   # on q and on k: squared in scores
    return (angle.cos() * sharper).float(), (angle.sin() * sharper).float()
