"""Files of weights, damaged at random: shared by the quick and the slow tests."""
import random
from pathlib import Path

import torch

from bpe import Tokenizer
from gguf_file import read_gguf, write_gguf
from safetensors_file import read_safetensors, write_safetensors
from transformer import Config, Transformer

NUMBERS = [0, 1, 2, 3, 7, 8, 9, 31, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63,
           2**64 - 1]


def tiny_model() -> tuple[Transformer, Tokenizer]:
    """A model and a tokenizer with two merges."""
    torch.manual_seed(0)
    tokenizer = Tokenizer([(97, 98), (256, 99)])
    config = Config(vocab_size=tokenizer.vocab_size, d_model=32, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=32,
                    max_len=16)
    return Transformer(config).requires_grad_(False), tokenizer


def damage(data: bytes, dice: random.Random, header: int) -> bytes:
    """One to three changes, most of them in the first `header` bytes: a bit, a byte, a number of 4 or 8
    bytes, a piece cut out, doubled or moved, the end cut off."""
    data = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(min(header, len(data)) if dice.random() < 0.9 else len(data)) if data else 0
        what = dice.randrange(7)
        if not data:
            break
        if what == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif what == 1:
            data[at] = dice.randrange(256)
        elif what in (2, 3):
            width = 4 * what - 4
            data[at:at + width] = (dice.choice(NUMBERS) % 2**(8 * width)).to_bytes(width, "little")
        elif what == 4:
            del data[at:at + dice.randrange(1, 50)]
        elif what == 5:
            data[at:at] = data[(begin := dice.randrange(len(data))):begin + dice.randrange(1, 50)]
        else:
            del data[at + dice.randrange(100):]
    return bytes(data)


def read_damaged(folder: Path, kind: str, n: int, seed: int) -> dict[str, int]:
    """Read `n` damaged files of a kind, gguf or safetensors. Returns how many were refused with a ValueError,
    and how many were read (damaged in a weight or a name, say); any other error comes out."""
    model, tokenizer = tiny_model()
    path, dice, counts = folder / f"damaged.{kind}", random.Random(seed), {"refused": 0, "read": 0}
    if kind == "gguf":
        write_gguf(path, model, tokenizer, "Q4_0")
    else:
        write_safetensors(path, model.state_dict(), {"format": "pt"})
    whole = path.read_bytes()
    header = whole.index(b"token_embd" if kind == "gguf" else b"}}") + 1000
    for _ in range(n):
        path.write_bytes(damage(whole, dice, header))
        try:
            if kind == "gguf":
                model, _ = read_gguf(path)
                total = sum(p.sum() for p in model.parameters())
            else:
                total = sum(t.double().sum() for t in read_safetensors(path).values())
            assert total is not None
            counts["read"] += 1
        except ValueError as error:
            assert str(path) in str(error), error
            counts["refused"] += 1
    return counts
