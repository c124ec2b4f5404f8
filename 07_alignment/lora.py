"""LoRA: fine-tune a matrix by a product of two thin ones beside it, which is added in at the end.

Hu et al. 2021 (section 4): W stays as it is, what is learned is W + (alpha / r) B A with B (out, r) and A (r,
in). B starts at zero, so the first forward pass is that of the base. On matrices that are kept in 4 bits this
is QLoRA (Dettmers et al. 2023): only A and B need gradients and optimizer states.

    python 07_alignment/lora.py            ranks beside full fine-tuning; after `make 03`, a few minutes
"""
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

try:
    from workbench import (
        RunSettings,
        announce,
        content_hash,
        parse_settings,
        run_main,
        seed_everything,
        write_json,
    )
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
from torch import Tensor, nn

import adamw
import sft
import transformer
from adamw import AdamW
from bpe import Tokenizer
from cells import Cells
from chat_template import load_chat_base
from results_table import mean_and_spread, print_table
from schedule import constant_then_decay
from sft import sft_loss
from skills import fact_skill, sum_skill
from tasks import Tasks, load_tasks
from train import train
from transformer import Transformer

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoRALinear(nn.Module):
    """x W^T + (alpha / r) (x A^T) B^T, where W (out, in) is frozen, A is (r, in) and B (out, r).

    `base` is any module from (..., in) to (..., out): a Linear, or a quantized one.
    """

    def __init__(self, base: nn.Module, n_in: int, n_out: int, rank: int, alpha: float):
        super().__init__()
        if not 1 <= rank <= min(n_in, n_out):
            raise ValueError(f"rank {rank} of a matrix of {n_out} x {n_in}: give 1 to {min(n_in, n_out)}")
        self.base: Any = base.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, n_in) * n_in**-0.5)
        self.B = nn.Parameter(torch.zeros(n_out, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) to (..., out)."""
        # EXERCISE 7.9 a low-rank correction
        low = x @ self.A.to(x.dtype).T                                     # (..., r)
        return self.base(x) + self.scale * low @ self.B.to(x.dtype).T
        # END EXERCISE 7.9

    def product(self) -> Tensor:
        """(alpha / r) B A, (out, in): what merging adds to W."""
        # EXERCISE 7.10 merge
        product = self.B @ self.A                                          # (out, in)
        return self.scale * product
        # END EXERCISE 7.10


def add_lora(model: Transformer, rank: int, alpha: float | None = None,
             names: tuple[str, ...] = MATRICES) -> list[nn.Parameter]:
    """Put an adapter on every matrix that is called one of `names`, freeze all else; the new parameters.

    alpha is twice the rank if not given. ValueError if the model has none of these, or has adapters already.
    """
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()
             if name in names and hasattr(child, "weight") and child.weight.ndim == 2]
    if any(isinstance(m, LoRALinear) for m in model.modules()):
        raise ValueError("this model has adapters already: merge them first")
    if not found:
        raise ValueError(f"no matrix of this model is called {' or '.join(names)}: "
                         f"name one of {', '.join(MATRICES)}")
    model.requires_grad_(False)
    adapters = []
    child: Any
    for parent, name, child in found:
        n_out, n_in = child.weight.shape
        adapter = LoRALinear(child, n_in, n_out, rank, 2 * rank if alpha is None else alpha).to(child.weight)
        setattr(parent, name, adapter)
        adapters.append(adapter)
    return [p for a in adapters for p in (a.A, a.B)]


def merge_lora(model: Transformer) -> dict[str, Tensor]:
    """Make it a plain model again, each product added to its W; the W of before, for `unmerge_lora`.

    What was trained then costs nothing more to run, and a checkpoint is an ordinary one. ValueError for a
    base that is packed: its W is computed, and what is added to it would be lost.
    """
    before, found = {}, [(p, m) for p, m in model.named_modules() if isinstance(m, LoRALinear)]
    if not all(isinstance(module.base.weight, nn.Parameter) for _, module in found):
        raise ValueError("a packed matrix has no room for a correction: add it to the unpacked weights")
    for path, module in found:
        before[path] = module.base.weight.data.clone()
        module.base.weight.data += module.product().detach().to(module.base.weight.dtype)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.base)
    model.requires_grad_(True)
    return before


def unmerge_lora(model: Transformer, before: dict[str, Tensor]) -> None:
    """The base again, bit for bit: subtracting the product would leave rounding, so W is put back."""
    for path, weight in before.items():
        model.get_parameter(f"{path}.weight").data.copy_(weight)


@dataclass
class Settings(RunSettings):
    """The experiment: the SFT of run.py at several ranks."""
    steps: int = 80          # optimizer steps, the same for every row
    ranks: str = "1,4,16"    # ranks to try
    lr: float = 6e-3         # learning rate of AdamW for adapters
    full_lr: float = 1.5e-3  # the same for full fine-tuning
    low_lr: float = 5e-4     # the same for full fine-tuning once more, more slowly
    seeds: int = 3           # fine-tunings of one base model


def ranks_of(text: str) -> list[int]:
    """"1,4,16" gives [1, 4, 16]."""
    try:
        ranks = [int(word) for word in text.split(",")]
    except ValueError:
        ranks = []
    if not ranks or min(ranks) < 1:
        raise ValueError(f"--ranks {text!r}: give whole numbers from 1 with commas between, such as 1,4,16")
    return ranks


def fine_tune(model: Transformer, parameters: list[nn.Parameter], lr: float, steps: int, tokenizer: Tokenizer,
              tasks: Tasks, seed: int, label: str) -> list[dict]:
    """The SFT of run.py by AdamW on some of the parameters; the log of `train`."""
    return train(model, [AdamW(parameters, lr)], sft_loss(model, tokenizer, tasks, 32, 64, 0.35, seed), steps,
                 lambda i: constant_then_decay(i, steps, n_warmup=2, decay=0.7), label)


def held_out_skills(model: Transformer, tokenizer: Tokenizer, tasks: Tasks) -> dict[str, float]:
    """Shares of held-out facts and sums that it answers rightly."""
    return {"facts": fact_skill(model, tokenizer, tasks.held_out_questions)["facts"],
            "addition": sum_skill(model, tokenizer, tasks.test_sums)["addition"]}


def row(s: Settings, rank: int, seed: int, device) -> dict:
    """Fine-tune at one rank (0: all weights); skills on held-out items, and what training had to keep."""
    seed_everything(seed)
    text = Path(s.out, "01_tokenizer")
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")
    model = load_chat_base(s.out, tokenizer, device)
    parameters = add_lora(model, rank) if rank else list(model.parameters())
    log = fine_tune(model, parameters, s.lr if rank else s.full_lr, s.steps, tokenizer, tasks, seed,
                    f"rank {rank or 'full'}")
    merge_lora(model)
    n = sum(p.numel() for p in parameters)
    return {**held_out_skills(model, tokenizer, tasks),
            # a gradient and two moments, 4 bytes each
            "loss": log[-1]["loss"], "trained": n, "bytes": 12 * n}


def measured(s: Settings, rank: int, seed: int, device) -> dict:
    """`row`, computed once and kept on disk."""
    cells = Cells(Path(s.out, "study", "lora"), [transformer, adamw, sft, sys.modules[__name__]])
    data = content_hash(Path(s.out, "03_training", "model.pt"), Path(s.out, "01_tokenizer", "tasks.json"))
    cell = {"rank": rank, "steps": s.steps, "lr": s.lr if rank else s.full_lr, "data": data, "seed": seed}
    return cells.get(cell, lambda: row(s, rank, seed, device))


def main() -> None:
    """A table of ranks."""
    s = parse_settings(Settings, __doc__, dict(steps=4, ranks="2", seeds=1))
    ranks = ranks_of(s.ranks)
    device = announce("07 LoRA", s)
    rows = []
    for rank, rate in [(0, s.full_lr), (0, s.low_lr), *((rank, s.lr) for rank in ranks)]:
        got = [measured(replace(s, full_lr=rate), rank, s.seed + i, device) for i in range(s.seeds)]
        rows.append([f"rank {rank}" if rank else "all weights", f"{rate:g}", f"{got[0]['trained']:,}",
                     f"{got[0]['bytes'] / 1e6:.2f}",
                     *(mean_and_spread([100 * g[k] for g in got]) for k in ("facts", "addition"))])
    print_table(["trained", "rate", "weights", "MB of state", "facts %", "sums %"], rows)
    write_json(Path(s.out, "07_alignment", "lora.json"), {"seed": s.seed, "rows": rows})


if __name__ == "__main__":
    run_main(main)
