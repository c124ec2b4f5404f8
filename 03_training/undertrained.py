"""Tokens that the model hardly learned, found in its embedding without reading the training text.

A token that training never met is never pulled towards anything. Put into a prompt it does something nobody
chose (Land and Bartolo 2024, "Fishing for Magikarp"; SolidGoldMagikarp is a token of GPT-2 whose texts were
left out of its training). Two ways to find them: the length of the embedding, and its angle to tokens that
are known to be unused: the 13 bytes that occur in no UTF-8 text. Here, where input and output share one
matrix, the length misleads: every softmax pushes all tokens that never come the same way, so they end up
long, and nearly equal.

    python 03_training/undertrained.py     both ways, on out/03_training/model.pt
"""
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np
import torch

from bpe import Tokenizer
from checkpoint import load_model
from token_file import open_tokens

NEVER_IN_UTF8 = [0xC0, 0xC1, *range(0xF5, 0x100)]   # RFC 3629, section 1


@dataclass
class Settings:
    """What the search can be told."""
    out: str = "out"   # folder with the results of chapters 1 and 3
    show: int = 12     # tokens to print


def by_length(embedding: torch.Tensor) -> list[int]:
    """All tokens, those with the shortest rows of the embedding (V, C) first."""
    return torch.argsort(embedding.norm(dim=1), stable=True).tolist()


def by_angle(embedding: torch.Tensor, unused: list[int]) -> list[int]:
    """All tokens, those whose rows (V, C) point most like the `unused` ones first."""
    direction = torch.nn.functional.normalize(embedding, dim=1)   # (V, C)
    likeness = direction @ direction[unused].mean(0)              # (V,)
    return torch.argsort(likeness, descending=True, stable=True).tolist()


def share_found(order: list[int], counts: np.ndarray, known: list[int]) -> float:
    """Share of the tokens that never occur among as many first ones of `order`, `known` ones left out."""
    never = set(np.flatnonzero(counts == 0).tolist()) - set(known)
    first = [i for i in order if i not in known][:len(never)]
    return len(never & set(first)) / len(never) if never else 1.0


def main() -> None:
    """A table, and how well each way finds what never occurred."""
    s = parse_settings(Settings, __doc__)
    folder = Path(s.out)
    weights = load_model(folder / "03_training" / "model.pt").state_dict()
    embedding = weights["model.embed_tokens.weight"].float()   # (V, C)
    tokenizer = Tokenizer.load(folder / "01_tokenizer" / "tokenizer.json")
    counts = np.bincount(open_tokens(folder / "01_tokenizer" / "train.bin"), minlength=len(embedding))
    names = {i: name for name, i in tokenizer.special.items()}
    length, seen = embedding.norm(dim=1), torch.from_numpy(counts > 0)
    print(f"mean length: {length[seen].mean():.2f} of tokens that occur, {length[~seen].mean():.2f} of the "
          f"{int((~seen).sum())} that never do\n")
    for name, order in (("shortest", by_length(embedding)), ("angle", by_angle(embedding, NEVER_IN_UTF8))):
        order = [i for i in order if i not in NEVER_IN_UTF8]
        print(f"{name}: finds {share_found(order, counts, NEVER_IN_UTF8):.0%} of those that never occur. "
              "The first:")
        print("  " + "  ".join(f"{names.get(i) or repr(tokenizer.decode_bytes([i]))[1:]} ({counts[i]:,})"
                               for i in order[:s.show]))


if __name__ == "__main__":
    run_main(main)
