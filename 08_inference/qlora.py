"""QLoRA: fine-tune a model that stays in 4 bits, by adapters beside its packed matrices.

Dettmers et al. 2023 (section 3). Chapter 7's lora.py takes any base; what is added here is the way back.
Autograd keeps what the backward pass will need, and for x W^T that is W: a float32 copy of every matrix, from
its forward product to its backward one, which is what the four bits were to save. So the product with a
packed matrix is unpacked twice, and between the two passes only the packed bytes are kept.

    python 08_inference/qlora.py           beside LoRA and full fine-tuning; after `make 07` (make study)
"""
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
import lora
import quantize
import sft
import transformer
from bpe import Tokenizer
from cells import Cells
from chat_template import load_chat_base
from lora import LoRALinear, add_lora, fine_tune, held_out_skills, merge_lora
from quantize import QuantizedWeight, quantize_model, stored_bytes
from results_table import mean_and_spread, print_table
from scale_tuning import swap
from sft import sft_loss
from tasks import load_tasks
from transformer import Transformer


class UnpackTwice(torch.autograd.Function):
    """x W^T for a packed W, which is unpacked for the product and again for the gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: QuantizedWeight) -> Tensor:
        """x (..., in) to (..., out)."""
        ctx.layer = layer
        return x @ layer.weight.to(x.dtype).T

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient (..., out) of the product to that of x, (..., in). W learns nothing and has none."""
        return grad @ ctx.layer.weight.to(grad.dtype), None


class FrozenWeight(nn.Module):
    """A QuantizedWeight as the base of an adapter: gradients flow through it, and nothing float32 is kept."""

    def __init__(self, packed: QuantizedWeight):
        super().__init__()
        if packed.bias is not None:
            raise ValueError("this model has biases: adapters are for matrices without")
        self.packed = packed

    @property
    def weight(self) -> Tensor:
        """(out, in) float32, unpacked."""
        return self.packed.weight

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) to (..., out)."""
        return UnpackTwice.apply(x, self.packed)


class QLoRA(Transformer):
    """A quantized model (quantize_model) whose packed weights stay, with an adapter on each matrix."""

    def __init__(self, quantized: Transformer, rank: int):
        nn.Module.__init__(self)                     # not Transformer's, which would make float32 weights
        if quantized.lm_head is not None:
            raise ValueError("this model's output layer is not its embedding: quantize one that is tied")
        self.config, self.softcap, self.lm_head = quantized.config, quantized.softcap, None
        self.model = copy.deepcopy(quantized.model)
        swap(self, QuantizedWeight, FrozenWeight)
        self.adapters = add_lora(self, rank)

    def unembed(self, x: Tensor) -> Tensor:
        """(..., C) to logits (..., V)."""
        return self.softcap(UnpackTwice.apply(x, self.model.embed_tokens))


def merge_qlora(model: QLoRA) -> Transformer:
    """A float32 model with each product added to its unpacked W; `model` stays as it is.

    The sum lies between the 16 levels of its group, so it has no packed form: what is merged is as large as
    before it was quantized. Rounding it again loses part of what was learned.
    """
    weights: dict[str, Any] = {name: p for name, p in model.named_parameters()
                               if not name.endswith((".A", ".B"))}
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            weights[f"{path}.weight"] = module.base.weight + module.product()
    weights["model.embed_tokens.weight"] = model.model.embed_tokens.weight
    plain = Transformer(model.config)
    plain.load_state_dict(weights)
    return plain


def kept_for_backward(model: nn.Module, loss_of: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between the passes of a step, each storage once, without the model's own."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}                     # alive, or others would come to lie in the same place

    def keep(t: Tensor) -> Tensor:
        kept.setdefault(t.untyped_storage().data_ptr(), t)
        return t
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss_of()
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


@dataclass
class Settings(RunSettings):
    """The experiment: the SFT of chapter 7 on a base in 4 bits and on one in float32."""
    steps: int = 80          # optimizer steps, the same for every row
    rank: int = 4            # of the adapters
    lr: float = 6e-3         # learning rate of AdamW for adapters
    full_lr: float = 1.5e-3  # the same for full fine-tuning
    seeds: int = 3           # fine-tunings of one base model


class Study:
    """The base, what it is taught, and what is measured on held-out items."""

    def __init__(self, s: Settings, device):
        text, self.s, self.device = Path(s.out, "01_tokenizer"), s, device
        self.tokenizer, self.tasks = Tokenizer.load(text / "tokenizer.json"), load_tasks(text / "tasks.json")

    def base(self) -> Transformer:
        """The model that everything begins with."""
        return load_chat_base(self.s.out, self.tokenizer, self.device)

    def skills(self, model: Transformer) -> dict[str, float]:
        """Shares of held-out facts and sums, and the bytes of all weights as they are stored."""
        return {**held_out_skills(model, self.tokenizer, self.tasks), "bytes": stored_bytes(model)}

    def tune(self, model: Transformer, adapters: list[nn.Parameter], seed: int, label: str) -> None:
        """Train the adapters as chapter 7 does."""
        fine_tune(model, adapters, self.s.lr, self.s.steps, self.tokenizer, self.tasks, seed, label)

    def row(self, seed: int) -> dict:
        """LoRA and QLoRA of one seed, and each after what may be done to it next."""
        seed_everything(seed)
        whole = self.base()
        self.tune(whole, add_lora(whole, self.s.rank), seed, "LoRA")
        found = {"LoRA": self.skills(whole)}
        merge_lora(whole)
        found["LoRA, merged, then 4 bits"] = self.skills(quantize_model(whole))
        seed_everything(seed)
        small = QLoRA(quantize_model(self.base()), self.s.rank).to(self.device)
        packed = [b.clone() for b in small.buffers()]
        self.tune(small, small.adapters, seed, "QLoRA")
        found["QLoRA"] = self.skills(small)
        plain = merge_qlora(small).to(self.device)
        found["QLoRA, merged to float32"] = self.skills(plain)
        found["QLoRA, merged, 4 bits again"] = self.skills(quantize_model(plain))
        asked = [self.tokenizer.encode(q.text) for q in self.tasks.held_out_questions]
        ids = torch.tensor([a[:min(map(len, asked))] for a in asked], device=self.device)
        logits = plain(ids)
        return {"rows": found, "difference": (small(ids) - logits).abs().max().item(),
                "largest": logits.abs().max().item(),
                "moved": sum(not torch.equal(a, b) for a, b in zip(packed, small.buffers(), strict=True))}

    def memory(self) -> dict[str, dict[str, int]]:
        """Bytes of weights, of gradients and moments, and of what autograd keeps in the first step."""
        ways = {"all weights": self.base().requires_grad_(True)}
        ways["LoRA"] = self.base()
        add_lora(ways["LoRA"], self.s.rank)
        ways["4 bits, unpacked once"] = quantize_model(self.base())
        add_lora(ways["4 bits, unpacked once"], self.s.rank)
        ways["QLoRA"] = QLoRA(quantize_model(self.base()), self.s.rank)
        found = {}
        for name, model in ways.items():
            loss = sft_loss(model.to(self.device), self.tokenizer, self.tasks, 32, 64, 0.35, self.s.seed)
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            found[name] = {"trained": trained, "weights": stored_bytes(model), "state": 12 * trained,
                           "kept": kept_for_backward(model, lambda loss=loss: loss(0))}
        return found


def main() -> None:
    """Quality and memory, side by side."""
    s = parse_settings(Settings, __doc__, dict(steps=4, seeds=1))
    device, out = announce("08 QLoRA", s), Path(s.out)
    study = Study(s, device)
    cells = Cells(out / "study" / "qlora", [transformer, adamw, sft, lora, quantize, sys.modules[__name__]])
    cell = {"steps": s.steps, "rank": s.rank, "lr": s.lr,
            "data": content_hash(out / "03_training" / "model.pt", out / "01_tokenizer" / "tasks.json")}
    seeds = range(s.seed, s.seed + s.seeds)
    full = lora.Settings(out=s.out, steps=s.steps, full_lr=s.full_lr)
    rows = {"all weights": [{**g, "bytes": stored_bytes(study.base())} for g in
                            (lora.measured(full, 0, seed, device) for seed in seeds)]}
    found = [cells.get(cell | {"seed": seed}, lambda seed=seed: study.row(seed)) for seed in seeds]
    rows |= {name: [f["rows"][name] for f in found] for name in found[0]["rows"]}
    print_table(["trained", "MB stored", "facts %", "sums %"],
                [[name, f"{got[0]['bytes'] / 1e6:.2f}",
                  *(mean_and_spread([100 * g[k] for g in got]) for k in ("facts", "addition"))]
                 for name, got in rows.items()])
    print(f"  merged against unmerged: logits up to {max(f['largest'] for f in found):.1f} differ by at most "
          f"{max(f['difference'] for f in found):.1e}; packed tensors changed by training: "
          f"{sum(f['moved'] for f in found)}")
    memory = cells.get(cell | {"what": "memory", "seed": s.seed}, study.memory)
    print_table(["MB in training", "weights trained", "weights", "gradients, moments", "kept for backward"],
                [[name, f"{m['trained']:,}", *(f"{m[k] / 1e6:.2f}" for k in ("weights", "state", "kept"))]
                 for name, m in memory.items()])
    write_json(out / "08_inference" / "qlora.json", {"seed": s.seed, "rows": rows, "memory": memory})


if __name__ == "__main__":
    run_main(main)
