"""Numbers as llama.cpp stores them: whole, or in blocks of 32 that share a scale, or blocks of blocks.

Adds to quantize.py the formats that other programs read. A row of a matrix is cut into blocks:
    Q8_0    32 weights: a scale (float16), 32 signed bytes                          8.5 bits a weight
    Q4_0    32 weights: a scale (float16), 16 bytes of two weights each             4.5
    Q4_K    256 weights in 8 groups of 32; each group has a scale and a minimum     4.5
            of 6 bits, in units of two float16 that the whole block shares
Source: ggml-quants.c and ggml-common.h of ggml, from which the rounding is taken too, so that bytes agree.

    python 08_inference/ggml_blocks.py     bytes and error of each format on random weights
"""
from collections.abc import Callable
from typing import NamedTuple

try:
    from workbench import run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor


def half_bytes(x: Tensor) -> Tensor:
    """x (n, k) float32 as float16, in bytes (n, 2k). ValueError for numbers too large for that."""
    half = x.half()
    if not half.isfinite().all():
        raise ValueError("a weight is too large for a float16, or no number: write this model as F32 or BF16")
    return half.contiguous().view(torch.uint8)


def half_values(data: Tensor) -> Tensor:
    """Bytes (n, 2k) of float16 to float32 (n, k)."""
    return data.contiguous().view(torch.float16).float()


def inverse(d: Tensor) -> Tensor:
    """1 / d, and 0 for 0: a block of zeros."""
    return torch.where(d == 0, 0, 1 / d)


def pack_q8_0(blocks: Tensor) -> Tensor:
    """blocks (n, 32) float32 to bytes (n, 34); halves are rounded away from zero, as C's roundf does."""
    d = blocks.abs().amax(1, keepdim=True) / 127
    scaled = blocks * inverse(d)
    integers = scaled.sign() * (scaled.abs() + 0.5).floor()
    return torch.cat((half_bytes(d), integers.to(torch.int8).view(torch.uint8)), dim=1)


def unpack_q8_0(data: Tensor) -> Tensor:
    """The weights (n, 32) in bytes (n, 34)."""
    return half_values(data[:, :2]) * data[:, 2:].contiguous().view(torch.int8).float()


def pack_q4_0(blocks: Tensor) -> Tensor:
    """blocks (n, 32) float32 to bytes (n, 18): a scale, then weights i (low) and i + 16 (high) in byte i.

    Integers are 0 to 15 and mean -8 to 7. That is lopsided, so the scale is chosen for the side that needs
    more: the weight of the largest magnitude becomes exactly -8 times it, whatever its sign.
    """
    # EXERCISE 8.16 Q4_0 block
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))                # (n, 1), with its sign
    d = largest / -8
    q = (blocks * inverse(d) + 8.5).trunc().clamp(0, 15).to(torch.uint8)            # (n, 32)
    return torch.cat((half_bytes(d), q[:, :16] | (q[:, 16:] << 4)), dim=1)
    # END EXERCISE 8.16


def unpack_q4_0(data: Tensor) -> Tensor:
    """The weights (n, 32) in bytes (n, 18)."""
    q = torch.cat((data[:, 2:] & 15, data[:, 2:] >> 4), dim=1)
    return half_values(data[:, :2]) * (q.float() - 8)


def pack_six_bits(scales: Tensor, mins: Tensor) -> Tensor:
    """Eight scales and eight minima of 6 bits, (n, 8) uint8 each, in 12 bytes: (n, 12).

    The first four of both take the low 6 bits of bytes 0 to 7. The low 4 bits of the others fill bytes 8 to
    11, scale below, minimum above; their high 2 bits go to the free ones of bytes 0 to 7.
    """
    first = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    second = mins[:, :4] | (mins[:, 4:] >> 4 << 6)
    return torch.cat((first, second, (scales[:, 4:] & 15) | (mins[:, 4:] << 4)), dim=1)


def unpack_six_bits(data: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of pack_six_bits."""
    first, second, third = data.split(4, dim=1)
    return (torch.cat((first & 63, (third & 15) | (first >> 6 << 4)), dim=1),
            torch.cat((second & 63, (third >> 4) | (second >> 6 << 4)), dim=1))


def pack_q4_k(blocks: Tensor) -> Tensor:
    """blocks (n, 256) float32 to bytes (n, 144): d, dmin, 12 bytes of six-bit numbers, 128 bytes of weights.

    A weight is d * scale * q - dmin * minimum, q from 0 to 15. Groups 2i and 2i + 1 share 32 bytes, low and
    high half.
    """
    groups = blocks.view(-1, 8, 32)
    low = groups.amin(2).clamp(max=0)                                               # (n, 8)
    wanted = torch.stack(((groups.amax(2).clamp(min=0) - low) / 15, -low))          # (2, n, 8)
    units = half_bytes(wanted.amax(2).T.contiguous() / 63)                          # (n, 4): d, dmin
    shared = half_values(units).T[:, :, None]                                       # (2, n, 1)
    codes = (wanted * inverse(shared)).round().clamp(0, 63).to(torch.uint8)         # (2, n, 8)
    scale, minimum = shared * codes                                                 # (n, 8) each, as stored
    q = ((groups + minimum[..., None]) * inverse(scale)[..., None]).round().clamp(0, 15).to(torch.uint8)
    return torch.cat((units, pack_six_bits(*codes), (q[:, 0::2] | (q[:, 1::2] << 4)).flatten(1)), dim=1)


def unpack_q4_k(data: Tensor) -> Tensor:
    """The weights (n, 256) in bytes (n, 144)."""
    shared = half_values(data[:, :4]).T[:, :, None]
    scale, minimum = shared * torch.stack(unpack_six_bits(data[:, 4:16])).float()   # (n, 8) each
    pairs = data[:, 16:].reshape(-1, 4, 1, 32)
    q = torch.cat((pairs & 15, pairs >> 4), dim=2).view(-1, 8, 32).float()
    return (q * scale[..., None] - minimum[..., None]).flatten(1)


class Format(NamedTuple):
    """One way to store numbers."""
    code: int                             # in GGUF's list of tensors
    file_type: int                        # of a file that is mostly of this format
    block: int                            # numbers in a block
    n_bytes: int                          # bytes of a block
    pack: Callable[[Tensor], Tensor]      # (n, block) float32 to (n, n_bytes) uint8
    unpack: Callable[[Tensor], Tensor]    # and back


def plain(code: int, file_type: int, dtype: torch.dtype) -> Format:
    """A format without blocks."""
    return Format(code, file_type, 1, dtype.itemsize, lambda x: x.to(dtype).contiguous().view(torch.uint8),
                  lambda data: data.contiguous().view(dtype).float())


FORMATS = {
    "F32": plain(0, 0, torch.float32),
    "F16": plain(1, 1, torch.float16)._replace(pack=half_bytes),
    "BF16": plain(30, 32, torch.bfloat16),
    "Q8_0": Format(8, 7, 32, 34, pack_q8_0, unpack_q8_0),
    "Q4_0": Format(2, 2, 32, 18, pack_q4_0, unpack_q4_0),
    "Q4_K": Format(12, 14, 256, 144, pack_q4_k, unpack_q4_k),
}


def pack(weight: Tensor, kind: str) -> Tensor:
    """weight, any shape, to bytes (n,) uint8. ValueError if its rows do not divide into blocks."""
    f, row = FORMATS[kind], weight.shape[-1]
    if row % f.block:
        raise ValueError(f"a row of {row} weights does not divide into {kind}'s blocks of {f.block}")
    if not weight.isfinite().all():
        raise ValueError("a weight is infinite or not a number: this model has diverged and cannot be stored")
    return f.pack(weight.detach().float().reshape(-1, f.block)).flatten()


def unpack(data: Tensor, kind: str, shape: list[int]) -> Tensor:
    """Bytes (n,) uint8 to float32 in this shape."""
    f = FORMATS[kind]
    return f.unpack(data.reshape(-1, f.n_bytes)).reshape(shape)


def main() -> None:
    """What each format costs and loses."""
    torch.manual_seed(0)
    weight = torch.randn(64, 1024)
    print("seed 0, normal weights\nformat   bits a weight   root mean square error")
    for kind in FORMATS:
        data = pack(weight, kind)
        error = (unpack(data, kind, [*weight.shape]) - weight).square().mean().sqrt()
        print(f"{kind:<9}{8 * len(data) / weight.numel():>13.2f}{error:>25.5f}")


if __name__ == "__main__":
    run_main(main)
