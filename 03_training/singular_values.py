"""What Muon does to a gradient, drawn: its singular values before and after the five iterations.

The gradient of a matrix is nearly one of low rank: a few directions hold most of its length, and a plain
step moves along those alone. Among all steps X whose largest singular value is 1, the one that lowers the
loss fastest, which maximizes <G, X>, is X = U V^T for G = U S V^T: <G, X> is the sum of s_i u_i^T X v_i, and
no term can exceed s_i. So every direction of G moves by the same amount; Newton-Schulz gives nearly that
without an SVD.

    python 03_training/singular_values.py      after `make 03`: a table, and out/study/singular_values.png
"""
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import RunSettings, announce, parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor

from batches import TextBatches
from checkpoint import load_model
from cross_entropy import cross_entropy
from figures import GREY, new_axes, save
from muon import orthogonalize
from parameter_groups import group_parameters
from token_file import open_tokens


@dataclass
class Settings(RunSettings):
    """Which gradient."""
    batches: int = 20     # batches of 8 x 128 tokens that it is the mean of, about what momentum remembers
    layer: int = 1        # the block that is drawn, counted from 0


def spectrum(G: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values of G (m, n), largest first, divided by the largest; and those of orthogonalize(G)."""
    before = torch.linalg.svdvals(G)
    return before / before[0], torch.linalg.svdvals(orthogonalize(G))


def share_of_length(values: Tensor, count: int) -> float:
    """Share, 0 to 1, of the sum of squared singular values (largest first) that the first `count` hold."""
    return float(values[:count].square().sum() / values.square().sum())


def main() -> None:
    """The mean gradient of some batches, matrix by matrix, and a drawing of one."""
    s = parse_settings(Settings, __doc__, dict(batches=2))
    announce("singular values", s, cpu_only=True)
    model = load_model(Path(s.out, "03_training", "model.pt"))
    if s.layer >= model.config.n_layers:
        raise ValueError(f"--layer {s.layer}: the model has layers 0 to {model.config.n_layers - 1}")
    batches = TextBatches(open_tokens(Path(s.out, "01_tokenizer", "train.bin")), 8, 128, s.seed)
    for step in range(s.batches):
        x, y = batches(step)
        (cross_entropy(model(x), y) / s.batches).backward()
    axes = new_axes("A gradient before and after Muon's iterations", "number of the singular value",
                    "singular value (before: of the largest)")
    print(f"{'layer ' + str(s.layer):<12}{'shape':>10}   before: median  smallest  in the first 8   "
          "after: largest  median  smallest  in the first 8")
    inside = f".layers.{s.layer}."
    for name, p in group_parameters(model)["matrix"].items():
        if inside not in name or p.grad is None:
            continue
        before, after = spectrum(p.grad)
        kind, middle = name.split(".")[-2], len(before) // 2
        print(f"{kind:<12}{'x'.join(map(str, p.shape)):>10}   {before[middle]:>14.3f}{before[-1]:>10.4f}"
              f"{share_of_length(before, 8):>16.0%}   {after[0]:>14.2f}"
              f"{after[middle]:>8.2f}{after[-1]:>10.2f}{share_of_length(after, 8):>16.0%}")
        if kind == "down_proj":
            axes.plot(range(1, len(before) + 1), before, "--", color=GREY, label=f"{kind} before")
            axes.plot(range(1, len(after) + 1), after, "-", color="black", label="after")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    save(axes, Path(s.out, "study", "singular_values"))


if __name__ == "__main__":
    run_main(main)
