"""Which weight gets which optimizer, and which may be pulled towards zero.

Matrices inside the blocks map one stream of features to another: Muon orthogonalizes their updates, weight
decay keeps them from growing for ever. The rest is different in kind. A norm's gain starts at 1 and is
*right* there, so a pull towards 0 is a pull towards a silent layer. A row of the embedding gets a gradient
only when its token occurs, but decay would shrink it in every step: rare tokens would fade. So only matrices
decay (Radford et al. 2019 and nanoGPT do decay the embedding; most later trainers do not).

    python 03_training/parameter_groups.py      groups of the default model, and what optimizers remember
"""
from torch import nn

from adamw import AdamW
from muon import Muon
from sgd import SGD
from transformer import Config, Transformer

Group = dict[str, nn.Parameter]


def group_parameters(model: nn.Module) -> dict[str, Group]:
    """The trainable parameters of a Transformer by name in three groups: "matrix", "table" and "vector".

    "matrix" has two or more dimensions and lies inside the blocks (".layers." in its name); "table" is any
    other of two or more dimensions (embeddings, the output layer); "vector" is the rest (gains, biases). A
    weight used in two places (a tied output layer) is listed once, under its first name.
    """
    # EXERCISE 3.12 parameter groups
    groups: dict[str, Group] = {"matrix": {}, "table": {}, "vector": {}}
    for name, p in model.named_parameters():   # names each tensor once
        if p.requires_grad:
            kind = "vector" if p.ndim < 2 else "matrix" if ".layers." in name else "table"
            groups[kind][name] = p
    return groups
    # END EXERCISE 3.12


def adamw_only(model: Transformer, lr: float, weight_decay: float,
               betas: tuple[float, float] = (0.9, 0.95)) -> list:
    """Two AdamW of one learning rate: matrices decay, tables and vectors do not."""
    groups = group_parameters(model)
    rest = [*groups["table"].values(), *groups["vector"].values()]
    return [AdamW(groups["matrix"].values(), lr, betas, weight_decay=weight_decay), AdamW(rest, lr, betas)]


def optimizer_bytes(optimizer) -> int:
    """What an optimizer remembers between steps: AdamW two numbers a weight, Muon and SGD's momentum one."""
    def size(value) -> int:
        if isinstance(value, (list, tuple)):
            return sum(map(size, value))
        return value.numel() * value.element_size() if hasattr(value, "numel") else 0
    return sum(map(size, optimizer.state_dict().values()))


if __name__ == "__main__":
    model = Transformer(Config())
    for kind, group in group_parameters(model).items():
        weights = sum(p.numel() for p in group.values())
        print(f"{kind:<7} {len(group):>3} tensors {weights:>8,} weights   e.g. {next(iter(group))}")
    print("bytes remembered a weight:")
    matrices = list(group_parameters(model)["matrix"].values())
    weights = sum(p.numel() for p in matrices)
    for name, optimizer in (("SGD", SGD(matrices, 0.1)), ("SGD with momentum", SGD(matrices, 0.1, 0.9)),
                            ("AdamW", AdamW(matrices, 0.1)), ("Muon", Muon(matrices, 0.1))):
        print(f"  {name:<18} {optimizer_bytes(optimizer) / weights:.0f}")
