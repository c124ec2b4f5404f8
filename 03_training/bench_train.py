"""Training speed on the device it finds: plain and fast path, beside nanoGPT, in one run, interleaved.

For each: tokens a second, as a ratio to nanoGPT's; MFU; peak memory; where the time of a step goes. On a GPU the shape
is GPT-2 small's (12 layers, width 768, 16 x 1,024 tokens, vocabulary 50,304), on a CPU two small ones.

    python 03_training/bench_train.py      part of make bench; --quick for one round
"""
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

try:
    from workbench import pick_device, parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, and before that, once, `make setup`") from None
import torch
from torch import Tensor

from adamw import AdamW
from bench_transformer import NanoGPT
from clipping import clip_gradients
from cross_entropy import cross_entropy
from fast_path import BatchedAdamW, fast_optimizers, loss_on, use_fast_path
from muon import muon_and_adamw
from precision import FORMATS
from transformer import Config, Transformer
from utilization import measured_peak, mfu, published_peak
