"""The model of the checkable sweep: a neural n-gram language model, several seeds trained in one pass.

Bengio et al., A Neural Probabilistic Language Model (JMLR 2003): embed the last k symbols, join the
embeddings, and map them to the next symbol, here through two residual blocks. Because it sees exactly the k
symbols that the chain of source.py looks back, its expected loss is a finite sum over the contexts, without
evaluation noise. Every parameter has a leading axis S, one slice per seed, so one batched matmul trains S
independent models.

    python 05_scaling/ngram.py --width 32 --tokens 100000      # one run: loss, entropy, reducible loss
"""
from dataclasses import dataclass

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from adamw import AdamW
from cross_entropy import cross_entropy
from muon import orthogonalize
from schedule import constant_then_decay
from source import MarkovSource, documentation_source


class NgramModel(nn.Module):
    """S independent models: k embeddings of width C/2, joined into C, two blocks, an output matrix."""

    def __init__(self, order: int, n_symbols: int, width: int, seeds: list[int], n_blocks: int = 2):
        super().__init__()
        E, C, V = max(4, width // 2), width, n_symbols
        rngs = [torch.Generator().manual_seed(7919 * seed + width) for seed in seeds]

        def matrix(rows: int, columns: int, std: float) -> nn.Parameter:
            return nn.Parameter(std * torch.stack([torch.randn(rows, columns, generator=g) for g in rngs]))

        def gain() -> nn.Parameter:
            return nn.Parameter(torch.ones(len(seeds), 1, C))

        self.embedding = matrix(V, E, 1.0)                                              # (S, V, E)
        self.entry = matrix(order * E, C, (order * E) ** -0.5)                          # (S, k*E, C)
        self.up = nn.ParameterList(matrix(C, 2 * C, C ** -0.5) for _ in range(n_blocks))
        small = 0.5 * (2 * C * n_blocks) ** -0.5
        self.down = nn.ParameterList(matrix(2 * C, C, small) for _ in range(n_blocks))
        self.gains = nn.ParameterList(gain() for _ in range(n_blocks + 1))
        self.head = matrix(C, V, 0.0)                                                  # zero: starts at log V

    def forward(self, contexts: torch.Tensor) -> torch.Tensor:
        """contexts (S, B, k) integers, or (B, k) for all seeds alike -> logits (S, B, V)."""
        S, V, E = self.embedding.shape
        contexts = contexts.expand(S, *contexts.shape[-2:])
        rows = contexts + V * torch.arange(S)[:, None, None]            # seed s reads rows sV .. sV+V-1
        x = self.embedding.reshape(S * V, E)[rows].flatten(2)           # (S, B, k*E)
        x = x @ self.entry                                              # (S, B, C)
        for up, down, gain in zip(self.up, self.down, self.gains):
            x = x + F.gelu(rms_norm(x) * gain @ up, approximate="tanh") @ down                # (S, B, C)
        return rms_norm(x) * self.gains[-1] @ self.head                 # (S, B, V)

    def sizes(self) -> tuple[int, int]:
        """Parameters of one seed's model: all, and without embedding and output matrices (Kaplan's count)."""
        total = sum(p[0].numel() for p in self.parameters())
        return total, total - self.embedding[0].numel() - self.head[0].numel()


def rms_norm(x: torch.Tensor) -> torch.Tensor:
    """x / root mean square over the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def reducible_loss(logits: torch.Tensor, table: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Expected KL divergence from the source to the model, nats: the loss minus the entropy, exactly.

    logits (..., S, V) for every context, table (S, V) the source's probabilities, weight (S,) how often each
    context occurs -> (...) the sum over contexts of weight * sum_v p (log p - log q), in float64.
    """
    # EXERCISE 5.7 reducible loss by enumeration
    logits, table = logits.double(), table.double()
    log_q = logits - logits.logsumexp(-1, keepdim=True)
    # a logit of -inf may stand there: 0 inf = NaN
    log_q = torch.where(table > 0, log_q, 0)
    log_p = torch.where(table > 0, table, 1).log()                 # 0 log 0 = 0
    return ((table * (log_p - log_q)).sum(-1) * weight).sum(-1)
    # END EXERCISE 5.7


@torch.no_grad()
def evaluate(model: NgramModel, source: MarkovSource, chunk: int = 4096) -> list[float]:
    """The reducible loss of each seed's model, in nats per symbol, over every context of the source."""
    total = torch.zeros(len(model.head), dtype=torch.float64)
    for i in range(0, len(source.contexts), chunk):
        logits = model(torch.from_numpy(source.contexts[i:i + chunk]))
        table, weight = source.table[i:i + chunk], source.weight[i:i + chunk]
        total += reducible_loss(logits, torch.from_numpy(table), torch.from_numpy(weight))
    return total.tolist()


def train(source: MarkovSource, width: int, tokens: int, seeds: list[int], batch: int = 512,
          rate: float = 0.05, checkpoints: tuple[int, ...] = ()) -> list[dict]:
    """Train one model per seed on `tokens` symbols; Muon on the matrices, Adam on the rest, decay to zero.

    The step size is rate * (1e5 / tokens)^(1/4), tuned in sweep.py. Seed s draws the same data at every
    width. Returns a row per seed; `unfinished` holds the reducible loss at the given earlier token counts,
    where the schedule had not ended (what Kaplan et al. used).
    """
    model = NgramModel(source.order, source.n_symbols, width, seeds)
    matrices = [model.entry, *model.up, *model.down, model.head]
    momentum = [torch.zeros_like(p) for p in matrices]
    adamw = AdamW([model.embedding, *model.gains], lr=8e-3)
    rngs = [np.random.default_rng(seed + 1) for seed in seeds]
    steps = max(2, round(tokens / batch))
    unfinished = {}
    for step in range(steps):
        data = torch.from_numpy(np.stack([source.batch(rng, batch) for rng in rngs]))         # (S, B, k+1)
        loss = len(seeds) * cross_entropy(model(data[..., :-1]), data[..., -1])     # sum over seeds of means
        model.zero_grad()
        loss.backward()
        clip_each(list(model.parameters()))
        scale = constant_then_decay(step, steps, n_warmup=steps // 20, decay=0.95, floor=0.0)
        muon_step(matrices, momentum, rate * (1e5 / tokens) ** 0.25 * scale)
        adamw.step(scale)
        seen = (step + 1) * batch
        for wanted in [c for c in checkpoints if c <= seen and str(c) not in unfinished]:
            unfinished[str(wanted)] = evaluate(model, source)
    total, body = model.sizes()
    return [dict(width=width, tokens=steps * batch, seed=seed, parameters=total, body_parameters=body,
                 entropy=source.entropy, reducible=reducible,
                 unfinished={count: values[i] for count, values in unfinished.items()})
            for i, (seed, reducible) in enumerate(zip(seeds, evaluate(model, source)))]


@torch.no_grad()
def clip_each(parameters: list[nn.Parameter], longest: float = 1.0) -> None:
    """Clip the gradients (S, ...) to length `longest`, every seed by its own length."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = sum((g.flatten(1).square().sum(1) for g in grads), torch.zeros(())).sqrt()         # (S,)
    for g in grads:
        g /= (norm / longest).clamp(min=1.0).view(-1, 1, 1)


@torch.no_grad()
def muon_step(matrices: list[nn.Parameter], momentum: list[torch.Tensor], rate: float, beta=0.95) -> None:
    """Chapter 3's Muon for stacks (S, in, out): all matrices of a shape in one orthogonalization."""
    for shape in {p.shape for p in matrices}:
        group = [(p, p.grad, m) for p, m in zip(matrices, momentum)
                 if p.shape == shape and p.grad is not None]
        ahead = [g + beta * m.mul_(beta).add_(g) for _, g, m in group]
        for (p, *_), update in zip(group, orthogonalize(torch.stack(ahead))):          # (number, S, in, out)
            p.sub_(rate * max(1, shape[2] / shape[1]) ** 0.5 * update)


@dataclass
class Settings:
    """One training run."""
    width: int = 32  # C, the model width
    tokens: int = 100_000  # symbols to train on
    seeds: int = 1  # independent models trained side by side
    order: int = setting(3, least=1, most=8)  # of the source, and the model's window


def main() -> None:
    """Train, and print the reducible loss of each seed."""
    settings = parse_settings(Settings, __doc__)
    source, _ = documentation_source(settings.order)
    for row in train(source, settings.width, settings.tokens, list(range(settings.seeds))):
        print(f"seed {row['seed']}: {row['parameters']:,} parameters, {row['tokens']:,} symbols, "
              f"entropy {row['entropy']:.4f} + reducible {row['reducible']:.4f} nats")


if __name__ == "__main__":
    run_main(main)
