"""x W^T for weights kept in 4 or 8 bits: C++ with vectors and threads, or plain torch without a compiler.

Adds to packed_product.cpp shapes, limits and the choice between the two. W is stored as 08_inference's
quantize.py stores it: integers, a byte for the scale of each 16 neighbours of a row, and the 256 values of
that byte.
    from packed_product import packed_product;  y = packed_product(x, packed, codes, table, bits=4)

    python csrc/packed_product.py          both ways beside float32 on one matrix
"""

import ctypes
import functools
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor

from cuda_build import BuildError, build_host, load

GROUP = 16  # weights that share a scale
SOURCE = Path(__file__).resolve().with_name("packed_product.cpp")


class Product(ctypes.Structure):
    """The arguments as packed_product.cpp names them."""

    _fields_ = [*((name, ctypes.c_void_p) for name in ("packed", "codes", "table", "x", "y")),
                *((name, ctypes.c_long) for name in ("rows", "n", "vectors")), ("bits", ctypes.c_int)]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None, after one sentence, where they cannot be had."""
    try:
        return load(build_host(SOURCE))
    except (BuildError, OSError) as error:
        warnings.warn(f"packed weights are multiplied by plain torch, slowly: {error}", stacklevel=3)
        return None


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The integers (rows, n) in packed (rows, n / 2) uint8, or packed itself if it has 8 bits."""
    if bits == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1).to(torch.int8) - 8


def product_torch(x: Tensor, packed: Tensor, codes: Tensor, table: Tensor, bits: int) -> Tensor:
    """The same by making the matrix first: 4 bytes a weight are written and read again."""
    scales = table.to(x.dtype)[codes.long()]                                             # (rows, groups)
    weight = unpack(packed, bits).to(x.dtype).unflatten(1, (-1, GROUP)) * scales[..., None]
    return x @ weight.flatten(1).T


def check_shapes(x: Tensor, packed: Tensor, codes: Tensor, table: Tensor, bits: int) -> None:
    """Raise ValueError, one sentence, for what does not fit together: the C++ would read wild memory."""
    devices = {str(t.device) for t in (x, packed, codes, table)}
    if len(devices) > 1:
        raise ValueError(f"tensors on {' and '.join(sorted(devices))}: move them to one device")
    n = x.shape[-1]
    if bits not in (4, 8) or packed.dtype != (torch.uint8 if bits == 4 else torch.int8):
        raise ValueError(f"{bits} bits in {packed.dtype}: give 4 bits as uint8 or 8 bits as int8")
    if n % GROUP or packed.ndim != 2 or packed.shape[1] * 8 != n * bits:
        raise ValueError(f"x of {n} numbers, packed {tuple(packed.shape)}: want a multiple of {GROUP}, and "
                         f"rows of {n * bits // 8} bytes")
    if codes.shape != (len(packed), n // GROUP) or codes.dtype != torch.uint8 or table.shape != (256,):
        raise ValueError(f"codes {tuple(codes.shape)} {codes.dtype}, table {tuple(table.shape)}: want "
                         f"{(len(packed), n // GROUP)} uint8 and (256,)")


def packed_product(x: Tensor, packed: Tensor, codes: Tensor, table: Tensor, bits: int, plain: bool = False,
                   threads: int = 0) -> Tensor:
    """x (..., n) times W^T, W (rows, n) packed in `bits` 4 or 8: (..., rows).

    packed (rows, n / 2) uint8 or (rows, n) int8, codes (rows, n / 16) uint8, table (256,) the scale of each
    code. threads: 0 means torch's number; plain: the C++ loop without vectors and threads. Tensors that are
    not float32 on the CPU, or that need gradients, and machines without a compiler take product_torch. Raises
    ValueError.
    """
    check_shapes(x, packed, codes, table, bits)
    c = None if x.dtype != torch.float32 or x.device.type != "cpu" or (
        torch.is_grad_enabled() and (x.requires_grad or table.requires_grad)) else library()
    if c is None or not x.numel() or not len(packed):
        return product_torch(x, packed, codes, table, bits)
    x, packed, codes, table = (t.detach().contiguous() for t in (x, packed, codes, table.float()))
    y = x.new_empty(*x.shape[:-1], len(packed))
    p = Product(*(t.data_ptr() for t in (packed, codes, table, x, y)), len(packed), x.shape[-1],
                x.numel() // x.shape[-1], bits)
    if plain:
        c.plain_product(ctypes.byref(p))
    else:
        c.packed_product(ctypes.byref(p), threads or torch.get_num_threads())
    return y


def main() -> None:
    """Milliseconds of one product, and against float32, the best of 7 rounds in turn."""
    rows = n = 4096
    torch.manual_seed(0)
    x, codes = torch.randn(1, n), torch.randint(256, (rows, n // GROUP), dtype=torch.uint8)
    table, whole = torch.rand(256) / n**0.5, torch.randn(rows, n)
    ways = {"float32 (torch)": lambda: x @ whole.T}
    for bits in (8, 4):
        packed = torch.randint(-128, 128, (rows, n * bits // 8), dtype=torch.int8).view(
            torch.uint8 if bits == 4 else torch.int8)
        given = (x, packed, codes, table, bits)
        ways[f"{bits} bits, made float32 first (torch)"] = lambda g=given: product_torch(*g)
        ways[f"{bits} bits, plain loop"] = lambda g=given: packed_product(*g, plain=True)
        ways[f"{bits} bits, packed"] = lambda g=given: packed_product(*g)
    seconds = {name: [] for name in ways}
    for _ in range(8):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    print(f"{rows} x {n}, {torch.get_num_threads()} threads, seed 0")
    first = min(next(iter(seconds.values()))[1:])
    for name, s in seconds.items():
        print(f"  {name:<36}{min(s[1:]) * 1e3:>8.2f} ms{first / min(s[1:]):>8.2f}")


if __name__ == "__main__":
    main()
