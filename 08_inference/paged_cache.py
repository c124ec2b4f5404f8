"""A cache in blocks: memory for keys and values in small pieces, shared, and copied only when written.

Adds to kv_cache.KVCache what many requests at once need. A sequence does not reserve room for its longest
possible text but holds a *block table*, a list of blocks of 16 tokens, and takes another when it grows (Kwon
et al. 2023, PagedAttention). Two sequences with the same beginning share its blocks, found by a hash of all
tokens up to a block's end. Each block counts who holds it; what is shared is copied before it is written to.

This file keeps the books, with no tensor in it; paged_attention.py holds the memory.

    python 08_inference/workload.py        runs requests through it
"""
import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

BLOCK = 16


def block_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a full block: a hash of its tokens *and* of the block before it, so of all up to its end.

    Keys and values depend on all earlier tokens, so the same 16 tokens after another beginning are another
    block. A cryptographic hash, because a collision would give one user the answer to another's text.
    """
    return hashlib.blake2b(parent + np.array(tokens, dtype="<i4").tobytes(), digest_size=16).digest()


class OutOfBlocks(Exception):
    """No block is free; the engine answers with a preemption."""


class BlockPool:
    """Which blocks are free, how many hold each, and which full block has which content.

    A block that nobody holds any more keeps its content and its name until the room is needed (least recently
    used first): the next request with the same beginning finds it.
    """

    def __init__(self, n_blocks: int):
        self.refs = [0] * n_blocks
        # least recently used first
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(n_blocks))
        self._names: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}

    @property
    def n_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def allocate(self) -> int:
        """A block to write to, held once; the longest unused one, whose old content is forgotten."""
        if not self._free:
            raise OutOfBlocks
        block, _ = self._free.popitem(last=False)
        if block in self._name_of:
            del self._names[self._name_of.pop(block)]
        self.refs[block] = 1
        return block

    def hold(self, block: int) -> None:
        """One more holder of a block that is held, or that was kept for its content."""
        if self.refs[block] == 0:
            del self._free[block]
        self.refs[block] += 1

    def release(self, block: int) -> None:
        """One holder less; the last one leaves the block free. A block without a name is used again first."""
        if self.refs[block] < 1:
            raise ValueError(f"block {block} is released more often than it was held")
        self.refs[block] -= 1
        if self.refs[block] == 0:
            self._free[block] = None
            if block not in self._name_of:
                self._free.move_to_end(block, last=False)

    def publish(self, block: int, name: bytes) -> None:
        """Let others find a block that is full *and computed*; of two equal ones the first keeps the name."""
        if name not in self._names and block not in self._name_of:
            self._names[name], self._name_of[block] = block, name

    def find(self, name: bytes) -> int | None:
        """The block of this name, if it still has its content."""
        return self._names.get(name)

    def check(self, tables: list["BlockTable"]) -> None:
        """ValueError unless the books agree with these tables, all there are: nothing is leaked or lost."""
        held = [0] * len(self.refs)
        for table in tables:
            for block in table.blocks:
                held[block] += 1
        if held != self.refs or {b for b, n in enumerate(held) if n == 0} != set(self._free):
            raise ValueError(f"held {held}, counted {self.refs}, free {sorted(self._free)}: a block was "
                             "leaked or lost")
        if self._name_of != {block: name for name, block in self._names.items()}:
            raise ValueError("a block's name and the block of that name differ")


class BlockTable:
    """Where one sequence's tokens are: token i in block `blocks[i // BLOCK]`, at place `i % BLOCK` of it."""

    def __init__(self, pool: BlockPool):
        self.pool = pool
        self.blocks: list[int] = []
        self.names: list[bytes] = []     # of its first blocks, all full and computed

    def share_prefix(self, tokens: list[int]) -> int:
        """Take over blocks that hold the beginning of `tokens`; returns how many tokens need not be computed.

        Never the whole: the last token goes through the model again, because its logits are needed.
        """
        # EXERCISE 8.13 share a prefix
        parent = b""
        for begin in range(0, len(tokens) - BLOCK, BLOCK):
            parent = block_hash(parent, tokens[begin:begin + BLOCK])
            block = self.pool.find(parent)
            if block is None:
                break
            self.pool.hold(block)
            self.blocks.append(block)
            self.names.append(parent)
        return len(self.blocks) * BLOCK
        # END EXERCISE 8.13

    def reserve(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Make tokens begin to end - 1 writable; the pairs (from, to) of blocks to be copied before.

        New blocks are taken where the table is too short; a block that others hold too is replaced by one of
        our own. All or nothing: raises OutOfBlocks, with everything as it was, if the pool has too few.
        """
        # EXERCISE 8.12 block table
        first = begin // BLOCK
        shared = [i for i in range(first, len(self.blocks)) if self.pool.refs[self.blocks[i]] > 1]
        shared = [i for i in shared if i * BLOCK < end]
        missing = max(0, -(-end // BLOCK) - len(self.blocks))
        if len(shared) + missing > self.pool.n_free:
            raise OutOfBlocks
        copies = []
        for i in shared:
            ours = self.pool.allocate()
            copies.append((self.blocks[i], ours))
            self.pool.release(self.blocks[i])
            self.blocks[i] = ours
        self.blocks += [self.pool.allocate() for _ in range(missing)]
        return copies
        # END EXERCISE 8.12

    def publish(self, tokens: list[int], computed: int) -> None:
        """Name the blocks that the first `computed` of these tokens fill, so that others can share them."""
        for i in range(len(self.names), computed // BLOCK):
            parent = self.names[-1] if self.names else b""
            self.names.append(block_hash(parent, tokens[i * BLOCK:(i + 1) * BLOCK]))
            self.pool.publish(self.blocks[i], self.names[-1])

    def fork(self) -> "BlockTable":
        """A second sequence with the same tokens so far, sharing all blocks, the one that is not full too."""
        other = BlockTable(self.pool)
        other.blocks, other.names = list(self.blocks), list(self.names)
        for block in other.blocks:
            self.pool.hold(block)
        return other

    def slots(self, begin: int, end: int) -> list[int]:
        """The places of tokens begin to end - 1 in memory that is laid out block after block."""
        return [self.blocks[i // BLOCK] * BLOCK + i % BLOCK for i in range(begin, end)]

    def free(self) -> None:
        """Give everything back, the last block first, so that a prefix outlives what came after it."""
        while self.blocks:
            self.pool.release(self.blocks.pop())
        self.names = []
