"""Attention over a paged cache: the memory behind the block tables, and how a step's tokens look into it.

Keys and values lie block after block, (blocks, K, BLOCK, D) a layer, so that gathering a sequence's blocks
head by head puts its tokens in order. Sequences that add one token each (decode) are gathered together,
padded to the longest and masked; one that adds several (a chunk of a prompt) goes alone, with a causal mask
(Kwon et al. 2023, section 4).

    python 08_inference/workload.py        runs requests through it
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from attention import softmax
from paged_cache import BLOCK, BlockTable
from transformer import Config


@dataclass
class Piece:
    """What one sequence adds in a step: its tokens `begin` to `end` - 1."""
    table: BlockTable
    ids: list[int]
    begin: int

    @property
    def end(self) -> int:
        """How many tokens the sequence has after the step."""
        return self.begin + len(self.ids)


class PagedMemory:
    """Keys and values of `n_blocks` blocks: two tensors (L, n_blocks, K, BLOCK, D)."""

    def __init__(self, config: Config, n_blocks: int, like: Tensor):
        self.kv_heads, self.head_width = config.n_kv_heads, config.D
        shape = (config.n_layers, n_blocks, config.n_kv_heads, BLOCK, self.head_width)
        self.k, self.v = like.new_zeros(shape), like.new_zeros(shape)

    @property
    def bytes(self) -> int:
        """Memory of all blocks."""
        return 2 * self.k.numel() * self.k.element_size()

    def copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy the content of blocks, (from, to) each, in all layers."""
        for tensor in (self.k, self.v):
            for source, target in pairs:
                tensor[:, target] = tensor[:, source]


class PagedAttention:
    """One step's tokens, laid out piece after piece, and `attend` for FusedModel.hidden."""

    def __init__(self, memory: PagedMemory, pieces: list[Piece]):
        self.memory = memory
        K = memory.kv_heads
        device = memory.k.device
        self.ids = torch.tensor([i for p in pieces for i in p.ids], device=device)                   # (N,)
        self.positions = torch.tensor([i for p in pieces for i in range(p.begin, p.end)], device=device)
        slots = torch.tensor([s for p in pieces for s in p.table.slots(p.begin, p.end)], device=device)
        heads = torch.arange(K, device=device)
        self.write_to = ((slots // BLOCK * K)[:, None] + heads) * BLOCK + (slots % BLOCK)[:, None]   # (N, K)
        self.last = torch.tensor([len(p.ids) for p in pieces], device=device).cumsum(0) - 1   # of each piece
        self.groups = []      # (rows of the step, blocks to gather, mask): decoding together, chunks alone
        ones = [i for i, p in enumerate(pieces) if len(p.ids) == 1]
        starts = [e - len(p.ids) + 1 for e, p in zip(self.last.tolist(), pieces)]
        if ones:
            self._group([pieces[i] for i in ones], torch.tensor([starts[i] for i in ones],
                                                                device=device)[:, None])
        for start, p in zip(starts, pieces):
            if len(p.ids) > 1:
                self._group([p], torch.arange(start, start + len(p.ids), device=device)[None])

    def _group(self, pieces: list[Piece], rows: Tensor) -> None:
        """Sequences with T new tokens each, at these rows (G, T) of the step."""
        device, K = rows.device, self.memory.kv_heads
        most = max(-(-p.end // BLOCK) for p in pieces)
        blocks = [(p.table.blocks + [0] * most)[:most] for p in pieces]
        tables = torch.tensor(blocks, device=device)                                     # (G, M)
        gather = tables[:, None] * K + torch.arange(K, device=device)[:, None]           # (G, K, M)
        key = torch.arange(most * BLOCK, device=device)                                  # (S,)
        hidden = key > self.positions[rows][..., None]                                   # (G, T, S)
        self.groups.append((rows, gather.flatten(), hidden[:, None, None]))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (N, H, D), scaled; k, v (N, K, D) of the new tokens. Keeps k and v; returns (N, H, D)."""
        K, D, H = self.memory.kv_heads, self.memory.head_width, q.shape[1]
        stores = self.memory.k[layer], self.memory.v[layer]
        for store, new in zip(stores, (k, v)):
            store.view(-1, D)[self.write_to] = new
        out = torch.empty_like(q)
        for rows, gather, hidden in self.groups:
            G, T = rows.shape
            # (blocks K, BLOCK D) rows to (G, K, S, D): each head's blocks one after another
            keys, values = (s.view(-1, BLOCK * D).index_select(0, gather).view(G, K, -1, D) for s in stores)
            # (G, K, H/K T, D)
            queries = q[rows].view(G, T, K, H // K, D).permute(0, 2, 3, 1, 4).reshape(G, K, -1, D)
            # (.., T, S)
            scores = (queries @ keys.transpose(-1, -2)).view(G, K, H // K, T, -1)
            weights = softmax(scores.masked_fill(hidden, float("-inf"))).view(G, K, H // K * T, -1)
            mixed = (weights @ values).view(G, K, H // K, T, D)
            out[rows] = mixed.permute(0, 3, 1, 2, 4).reshape(G, T, H, D)
        return out
