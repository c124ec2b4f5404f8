"""Speed of the model beside two others of the same shape: nanoGPT's, and Llama of transformers, in one run.

nanoGPT's shape (github.com/karpathy/nanoGPT, model.py) is written out here: torch's own Linear, LayerNorm and
fused attention, a learned table of positions, GELU. Ours and Llama have RMSNorm, RoPE and SwiGLU with as many
weights. All three get the same ids, torch's cross-entropy and torch's AdamW, so that only the models differ;
chapter 3 compares whole recipes. Times are CPU seconds of all threads, whoever else is on the machine.

    python 02_transformer/bench_transformer.py        (part of make bench)
"""
import time
from dataclasses import dataclass
from typing import Any

try:
    from workbench import parse_settings, run_main
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformer import Config, Transformer

SHAPES = {"0.9M": dict(C=128, H=4, L=4, batch=16, T=128), "11M": dict(C=384, H=6, L=6, batch=8, T=256)}
V = 1024


@dataclass
class Settings:
    """What to measure."""
    rounds: int = 5             # how often each is timed; the fastest counts
    shapes: str = "0.9M,11M"    # which of 0.9M and 11M


class NanoBlock(nn.Module):
    """A block of nanoGPT, without dropout and biases."""

    def __init__(self, C: int, H: int):
        super().__init__()
        self.ln_1, self.ln_2, self.H = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False), H
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.c_fc, self.c_out = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        B, T, C = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(B, T, 3, self.H, C // self.H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                          # (B, H, T, D) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)   # what nanoGPT calls its fast path
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class NanoGPT(nn.Module):
    """Its model: tables for tokens and positions, blocks, a last norm, the tied output."""

    def __init__(self, C: int, H: int, L: int, T: int, vocabulary: int = V):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, C), nn.Embedding(T, C)
        self.ln_f = nn.LayerNorm(C, bias=False)
        self.h = nn.Sequential(*(NanoBlock(C, H) for _ in range(L)))
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        return F.linear(self.ln_f(self.h(x)), self.wte.weight)


def contestants(C: int, H: int, L: int, T: int) -> dict[str, nn.Module]:
    """The models of one shape, by name."""
    width = C * 11 // 4
    models = {"ours": Transformer(Config(V, C, L, H, H, width, T)), "nanoGPT": NanoGPT(C, H, L, T)}
    try:
        import transformers
    except ImportError:
        print("  transformers is not installed (make bench installs it): compared with nanoGPT alone")
        return models
    shape: dict[str, Any] = dict(vocab_size=V, hidden_size=C, intermediate_size=width, num_hidden_layers=L,
                                 num_attention_heads=H)
    config = transformers.LlamaConfig(**shape, max_position_embeddings=T, tie_word_embeddings=True)
    models["Llama"] = Logits(transformers.LlamaForCausalLM(config))
    return models


class Logits(nn.Module):
    """transformers' model with the outside of ours: ids in, logits out, no cache."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.model(ids, use_cache=False).logits


def measure(models: dict[str, nn.Module], batch: int, T: int, rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds of a forward pass and of a training step of each model, the least of `rounds` in turn."""
    ids, targets = torch.randint(V, (2, batch, T))
    optimizers = {name: torch.optim.AdamW(m.parameters(), 1e-4) for name, m in models.items()}
    best = {name: {"forward": float("inf"), "step": float("inf")} for name in models}
    for _ in range(rounds + 1):   # the first round warms up and seldom counts
        for name, model in models.items():
            begin = time.process_time()
            with torch.no_grad():
                model(ids)
            middle = time.process_time()
            F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            times = {"forward": middle - begin, "step": time.process_time() - middle}
            best[name] = {what: min(best[name][what], times[what]) for what in times}
    return best


def main() -> None:
    """Measure each shape and print times and ratios."""
    s = parse_settings(Settings, __doc__)
    torch.manual_seed(0)
    print(f"seed 0, {torch.get_num_threads()} threads; CPU time of a batch, the least of {s.rounds}")
    for name in s.shapes.split(","):
        if name not in SHAPES:
            raise ValueError(f"--shapes {name} is unknown: choose from {', '.join(SHAPES)}")
        shape = dict(SHAPES[name])
        batch, T = shape.pop("batch"), shape["T"]
        best = measure(contestants(**shape), batch, T, s.rounds)
        for what in ("forward", "step"):
            ours = best["ours"][what]
            print(f"  {name:>4}  {what:<8} ours {ours * 1e3:>6.0f} ms", end="")
            for other in [other for other in best if other != "ours"]:
                theirs = best[other][what]
                print(f"   {other} {theirs * 1e3:>6.0f} ms, {theirs / ours:.2f} of ours", end="")
            print()


if __name__ == "__main__":
    run_main(main)
