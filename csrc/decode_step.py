"""One call of C++ for a step of the whole model: what torch does in some hundred operations a token.

Adds to decode_step.cpp checks, the choice of float32 or float64, and what happens without a compiler. At a
million parameters a token is two million operations of arithmetic, which take less time than starting a
hundred operations of torch; this is the fast path that starts one.

    python 08_inference/bench_inference.py     times the engine with it, without it, and transformers
"""

import ctypes
import functools
import warnings
from pathlib import Path

import torch
from torch import Tensor

from cuda_build import BuildError, build_host, load

SOURCE = Path(__file__).resolve().with_name("decode_step.cpp")
SIZES = ("rows", "layers", "C", "H", "K", "D", "F", "block", "n_blocks", "most_blocks", "qk_norm")
POINTERS = ("embedding", "rotation", "weights", "keys", "values", "ids", "positions", "tables", "x")


class Step(ctypes.Structure):
    """The arguments as decode_step.cpp names them."""

    _fields_ = [*((name, ctypes.c_int64) for name in SIZES), ("eps", ctypes.c_double),
                *((name, ctypes.c_void_p) for name in POINTERS)]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled function; None, after one sentence, where it cannot be had."""
    try:
        return load(build_host(SOURCE))
    except (BuildError, OSError) as error:
        warnings.warn(f"every operation of a step is started by torch, slowly: {error}", stacklevel=3)
        return None


class DecodeStep:
    """The weights and the memory of a model, and `hidden`, which uses one and fills the other.

    layers: (qkv ((H + 2K) D, C), gain (H + K, D), o (C, H D), gate_up (2F, C), down (C, F)) each; embedding
    (V, C); rotation (max_len, D/2) complex; keys, values (L, n_blocks, K, block, D), written in place. All of
    one format, float32 or float64, on the CPU: ValueError otherwise, or without a compiler.
    """

    def __init__(self, embedding: Tensor, layers: list[tuple[Tensor, ...]], rotation: Tensor, eps: float,
                 qk_norm: bool, keys: Tensor, values: Tensor):
        L, n_blocks, K, block, D = keys.shape
        C, H, F = embedding.shape[1], len(layers[0][1]) - K, layers[0][4].shape[1]
        angles = torch.view_as_real(rotation)                                              # (max_len, D/2, 2)
        wanted = ((H + 2 * K) * D, C), (H + K, D), (C, H * D), (2 * F, C), (C, F)
        weights = [t.detach().contiguous() for layer in layers for t in layer]
        if (any(tuple(t.shape for t in layer) != wanted for layer in layers) or len(layers) != L
                or values.shape != keys.shape or angles.shape[1:] != (D // 2, 2) or H % K or D % 2):
            raise ValueError("weights, rotation and cache are not of one model: take all of them from one")
        kinds = {(t.dtype, t.device.type) for t in (embedding, angles, keys, values, *weights)}
        if len(kinds) > 1 or kinds - {(torch.float32, "cpu"), (torch.float64, "cpu")}:
            raise ValueError("the compiled step takes float32 or float64 on the CPU: move the model there")
        if not keys.is_contiguous() or not values.is_contiguous():
            raise ValueError("the cache is written in place: make it contiguous")
        c = library()
        if c is None:
            raise ValueError("the step could not be compiled, a warning says why: install g++ or clang++, or "
                             "leave it to torch with compiled=False")
        self.call = c.decode_step_float if keys.dtype == torch.float32 else c.decode_step_double
        self.limits = dict(token=len(embedding), position=len(rotation), block=n_blocks)
        embedding, angles = embedding.detach().contiguous(), angles.detach().contiguous()
        pointers = (ctypes.c_void_p * len(weights))(*(t.data_ptr() for t in weights))
        self.kept = embedding, angles, weights, pointers, keys, values         # as long as C++ points at them
        self.step = Step(0, L, C, H, K, D, F, block, n_blocks, 0, qk_norm, eps, embedding.data_ptr(),
                         angles.data_ptr(), ctypes.addressof(pointers), keys.data_ptr(), values.data_ptr())

    def hidden(self, ids: list[int], positions: list[int], tables: list[list[int]]) -> Tensor:
        """Tokens (N) at positions (N), each with its sequence's blocks, to the last layer's vectors (N, C).

        Their keys and values are kept in the blocks first. Raises ValueError for what would lie outside.
        """
        if not len(ids) == len(positions) == len(tables):
            raise ValueError(f"{len(ids)} tokens, {len(positions)} positions, {len(tables)} tables: want "
                             "equally many")
        for what, numbers in (("token", ids), ("position", positions), ("block", sum(tables, []))):
            if numbers and not 0 <= min(numbers) <= max(numbers) < self.limits[what]:
                raise ValueError(f"a {what} is outside 0 to {self.limits[what] - 1}: no such place in memory")
        s, most = self.step, max(map(len, tables), default=0)
        if any(p // s.block >= len(table) for p, table in zip(positions, tables)):
            raise ValueError("a position lies behind its sequence's last block: reserve one first")
        numbers = torch.tensor([ids, positions], dtype=torch.int64)                        # (2, N)
        table = torch.tensor([t + [0] * (most - len(t)) for t in tables], dtype=torch.int64)       # (N, M)
        x = self.kept[0].new_empty(len(ids), s.C)
        s.rows, s.most_blocks, s.ids, s.positions = len(ids), most, numbers.data_ptr(), numbers[1].data_ptr()
        s.tables, s.x = table.data_ptr(), x.data_ptr()
        self.call(ctypes.byref(s))
        return x
