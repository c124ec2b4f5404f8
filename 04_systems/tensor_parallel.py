"""Tensor parallelism: every rank holds a slice of every matrix, and two ranks together compute one layer.

A pair of matrices is cut so that only one sum is needed: the first by columns (each rank makes some of the
hidden numbers), the second by rows (each rank adds up its part of the sum). Attention is cut by heads, the
vocabulary by rows. Between the slices stand two conjugate operators, Megatron's f (`enter`) and g (`leave`):

                 forward          backward              with sequence parallelism
    enter (f)    nothing          all-reduce            all-gather         reduce-scatter
    leave (g)    all-reduce       nothing               reduce-scatter     all-gather

Sequence parallelism cuts what lies between leave and enter (norms, residual stream) along time: the same
bytes, and no activation is held twice. Shoeybi et al. 2019 (section 3), Korthikanti et al. 2022 (4.2).

    python 04_systems/run.py --only strategies
"""
import torch
from torch import Tensor, nn

from collectives import Team, all_gather, all_reduce, reduce_scatter
from cross_entropy import IGNORE
from transformer import Transformer


def gather_time(x: Tensor, team: Team) -> Tensor:
    """(B, T/p, C) of each rank to (B, T, C)."""
    B, T, C = x.shape
    return all_gather(x.transpose(0, 1), team).view(T * team.size, B, C).transpose(0, 1).contiguous()


def scatter_time(x: Tensor, team: Team) -> Tensor:
    """The sum of all ranks' x (B, T, C), this rank's times of it: (B, T/p, C)."""
    B, T, C = x.shape
    if T % team.size:
        raise ValueError(f"a sequence of {T} tokens cannot be cut into {team.size} equal parts: choose "
                         "another length")
    return reduce_scatter(x.transpose(0, 1), team).view(T // team.size, B, C).transpose(0, 1)


def refuse_second_derivative() -> None:
    """Called by a backward pass: under create_graph=True what it exchanges would not be part of the graph."""
    if torch.is_grad_enabled():
        raise NotImplementedError("tensor parallelism has no second derivative: use one process for that")


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, team: Team, sequence: bool) -> Tensor:
        ctx.team, ctx.sequence = team, sequence
        return gather_time(x, team) if sequence else x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        refuse_second_derivative()
        return (scatter_time if ctx.sequence else all_reduce)(grad, ctx.team), None, None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, team: Team, sequence: bool) -> Tensor:
        ctx.team, ctx.sequence = team, sequence
        return (scatter_time if sequence else all_reduce)(x, team)

    @staticmethod
    def backward(ctx, grad: Tensor):
        refuse_second_derivative()
        return gather_time(grad, ctx.team) if ctx.sequence else grad, None, None


def enter(x: Tensor, team: Team, sequence: bool = False) -> Tensor:
    """f: into a region where ranks make different things of one x (B, T, C); gradients are summed."""
    return _Enter.apply(x, team, sequence)


def leave(x: Tensor, team: Team, sequence: bool = False) -> Tensor:
    """g: out of it: the ranks' partial results x (B, T, C) are summed."""
    return _Leave.apply(x, team, sequence)


CUT_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")   # W (out/p, in)
CUT_COLUMNS = ("o_proj", "down_proj")                                                          # W (out, in/p)


def cut(name: str, full: Tensor, rank: int, size: int) -> Tensor:
    """Rank `rank`'s slice of the parameter `name`; rows are padded with zeros to a multiple of `size`."""
    if name.split(".")[-2] in CUT_COLUMNS:
        return full.chunk(size, 1)[rank].clone()
    if name.split(".")[-2] in CUT_ROWS:
        rows = -(-len(full) // size)
        padded = torch.cat((full, full.new_zeros(rows * size - len(full), full.shape[1])))
        return padded[rank * rows:(rank + 1) * rows].clone()
    return full.clone()


def join(name: str, parts: list[Tensor], rows: int) -> Tensor:
    """Undo `cut`: the full parameter, which has `rows` rows, from the slices of all ranks."""
    if name.split(".")[-2] in CUT_COLUMNS:
        return torch.cat(parts, 1)
    return torch.cat(parts)[:rows] if name.split(".")[-2] in CUT_ROWS else parts[0]


class ColumnParallelLinear(nn.Module):
    """Rows r V/p ... of W (out, in), columns of W^T: this rank's part of the output, of x behind `enter`."""

    def __init__(self, full: Tensor, team: Team):
        super().__init__()
        if len(full) % team.size:
            raise ValueError(f"{len(full)} outputs cannot be cut into {team.size} equal parts: choose a "
                             "width that can")
        self.weight = nn.Parameter(full.detach().chunk(team.size)[team.rank].clone(), full.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out/p)."""
        return x @ self.weight.T


class RowParallelLinear(nn.Module):
    """Columns r in/p ... of W (out, in): a partial sum of every output. The result goes through `leave`."""

    def __init__(self, full: Tensor, team: Team):
        super().__init__()
        if full.shape[1] % team.size:
            raise ValueError(f"{full.shape[1]} inputs cannot be cut into {team.size} equal parts: choose a "
                             "width that can")
        self.weight = nn.Parameter(full.detach().chunk(team.size, 1)[team.rank].clone(), full.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in/p) to (..., out)."""
        return x @ self.weight.T


class VocabParallelEmbedding(nn.Module):
    """Rows of the table (V, C): a rank looks up the tokens it has, others count as zero, `leave` adds."""

    def __init__(self, full: Tensor, team: Team, sequence: bool):
        super().__init__()
        mine = cut("embed_tokens.weight", full.detach(), team.rank, team.size)
        self.weight = nn.Parameter(mine, full.requires_grad)
        self.team, self.sequence = team, sequence

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) to (B, T, C), or (B, T/p, C) with sequence parallelism."""
        local = ids - self.team.rank * len(self.weight)
        mine = (local >= 0) & (local < len(self.weight))
        x = self.weight[local.clamp(0, len(self.weight) - 1)] * mine[..., None]
        return leave(x, self.team, self.sequence)


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, first: int, team: Team) -> Tensor:
        # EXERCISE 4.7 vocabulary-parallel cross-entropy
        local = targets - first
        mine = (local >= 0) & (local < logits.shape[-1])
        local = local.clamp(0, logits.shape[-1] - 1)
        m = logits.amax(-1)                                                           # (N,)
        l = (logits - m[:, None]).exp().sum(-1)                                       # (N,)
        # (N,) 0 where another rank has it: not `* mine`, since -inf * 0 is NaN
        picked = torch.where(mine, logits.gather(-1, local[:, None])[:, 0], 0.0)
        every = all_gather(torch.stack((m, l, picked)), team)                         # (p * 3 * N,)
        m_all, l_all, picked_all = every.view(team.size, 3, -1).unbind(1)             # (p, N) each
        m = m_all.amax(0)                                                             # (N,)
        log_z = m + (l_all * (m_all - m).exp()).sum(0).log()                          # as tiles are merged
        kept = targets != IGNORE
        ctx.save_for_backward(logits, log_z, local, mine, kept)
        return ((log_z - picked_all.sum(0)) * kept).sum() / kept.sum().clamp(min=1)
        # END EXERCISE 4.7

    @staticmethod
    def backward(ctx, grad: Tensor):
        refuse_second_derivative()
        logits, log_z, local, mine, kept = ctx.saved_tensors
        d = (logits - log_z[:, None]).exp()                                           # my part of softmax
        d.scatter_add_(-1, local[:, None], -mine[:, None].to(d))
        return d * (kept * (grad / kept.sum().clamp(min=1)))[:, None], None, None, None


def vocab_parallel_cross_entropy(logits: Tensor, targets: Tensor, first: int, team: Team) -> Tensor:
    """Mean cross-entropy of logits (N, V/p) of the tokens from `first` on; targets (N,) of any rank.

    No rank ever holds a full row of V logits: three numbers a token are exchanged instead of V.
    """
    return _VocabParallelCrossEntropy.apply(logits, targets, first, team)


def split_heads_and_widths(model: Transformer, team: Team, sequence: bool = False) -> Transformer:
    """Turn a model, in place, into this rank's slice of it. ValueError if it cannot be cut evenly."""
    config = model.config
    for name in ("n_heads", "n_kv_heads", "d_ff"):
        if getattr(config, name) % team.size:
            raise ValueError(f"{name} {getattr(config, name)} is not a multiple of {team.size} "
                             "tensor-parallel ranks: choose fewer ranks or another shape")
    if config.attention == "latent" or config.n_experts or config.bias or config.sinks:
        raise ValueError("latent attention, experts, biases and sinks are not cut here: use the plain "
                         "decoder")
    if config.positions == "alibi" or sequence and config.positions in ("learned", "sinusoidal"):
        raise ValueError(f"positions {config.positions!r} cannot be cut this way: use rope")
    if -(-config.vocab_size // team.size) * (team.size - 1) >= config.vocab_size:
        raise ValueError(f"{config.vocab_size} tokens are too few for {team.size} ranks: use fewer ranks")
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        attention.heads //= team.size
        attention.kv_heads //= team.size
        for part, names in ((attention, ("q_proj", "k_proj", "v_proj")), (mlp, ("gate_proj", "up_proj"))):
            for name in names:
                if getattr(part, name) is not None:
                    setattr(part, name, ColumnParallelLinear(getattr(part, name).weight, team))
            part.register_forward_pre_hook(lambda _, args: (enter(args[0], team, sequence), *args[1:]))
            part.register_forward_hook(lambda _, args, out: leave(out, team, sequence))
        attention.o_proj = RowParallelLinear(attention.o_proj.weight, team)
        mlp.down_proj = RowParallelLinear(mlp.down_proj.weight, team)
    model.model.embed_tokens = VocabParallelEmbedding(model.model.embed_tokens.weight, team, sequence)
    if model.lm_head is not None:
        full = model.lm_head.weight
        mine = cut("lm_head.weight", full.detach(), team.rank, team.size)
        model.lm_head.weight = nn.Parameter(mine, full.requires_grad)
    return model


def split_loss(model: Transformer, x: Tensor, targets: Tensor, team: Team, sequence: bool = False) -> Tensor:
    """Loss of a sliced model from its decoder's output x (B, T, C) (or (B, T/p, C)) and targets (B, T)."""
    logits = model.unembed(enter(x, team, sequence)).flatten(0, 1)                    # (B T, V/p)
    first = team.rank * logits.shape[-1]
    known = min(logits.shape[-1], model.config.vocab_size - first)                    # the rest is padding
    return vocab_parallel_cross_entropy(logits[:, :known], targets.reshape(-1), first, team)


def sum_gradient(p: nn.Parameter, team: Team) -> None:
    """Add up one gradient over the team. A frozen parameter has none; a rank without one adds zero."""
    if p.requires_grad:
        p.grad = all_reduce(torch.zeros_like(p) if p.grad is None else p.grad, team)


def sum_partial_gradients(model: Transformer, team: Team, sequence: bool = False) -> None:
    """After the backward pass: add up gradients of weights that all ranks hold but used on different data.

    The q/k norms see only this rank's heads; with sequence parallelism all norms see only its tokens.
    """
    for name, p in model.named_parameters():
        if "q_norm" in name or "k_norm" in name or sequence and "norm" in name:
            sum_gradient(p, team)
