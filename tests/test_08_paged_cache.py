"""The books of the paged cache: nothing leaks, nothing is written that others hold, and content is found by
name.
"""
import random

import pytest
import torch

from paged_attention import PagedMemory
from paged_cache import BLOCK, BlockPool, BlockTable, OutOfBlocks, block_hash
from transformer import Config


def written(pool: BlockPool, tokens: list[int]) -> BlockTable:
    table = BlockTable(pool)
    table.reserve(0, len(tokens))
    table.publish(tokens, len(tokens))
    return table


def test_a_name_stands_for_everything_up_to_its_end():
    a, b = list(range(BLOCK)), list(range(1, BLOCK + 1))
    names = {block_hash(b"", a), block_hash(b"", b), block_hash(block_hash(b"", a), b),
             block_hash(block_hash(b"", b), a),
             block_hash(block_hash(b"", b), b), block_hash(b"", a[::-1]),
             block_hash(b"", [65536 * i for i in a])}
    assert len(names) == 7 and block_hash(b"", a) in names


def test_the_longest_unused_content_is_forgotten_first():
    pool = BlockPool(4)
    texts = [[i] * BLOCK for i in range(3)]
    for text in texts:
        written(pool, text).free()
    assert BlockTable(pool).share_prefix(texts[0] + [1]) == BLOCK       # used again: now the youngest
    # the nameless block first, then text 1
    held = [pool.allocate() for _ in range(2)]
    found = [pool.find(block_hash(b"", text)) is not None for text in texts]
    assert found == [True, False, True] and len(set(held)) == 2


def test_a_table_takes_all_or_nothing():
    pool = BlockPool(3)
    table = BlockTable(pool)
    table.reserve(0, BLOCK + 1)
    before = list(table.blocks)
    with pytest.raises(OutOfBlocks):
        table.reserve(BLOCK + 1, 4 * BLOCK)
    assert table.blocks == before and pool.n_free == 1
    with pytest.raises(ValueError, match="more often"):
        pool.release(2)


def test_books_that_do_not_add_up_are_noticed():
    pool = BlockPool(3)
    table = written(pool, [1] * BLOCK)
    pool.check([table])
    with pytest.raises(ValueError, match="leaked or lost"):
        pool.check([])
    pool.refs[2] = 1
    with pytest.raises(ValueError, match="leaked or lost"):
        pool.check([table])


def test_random_tables_never_write_what_others_hold_and_always_read_their_own_text():
    """Against a model of the memory: a dictionary from (block, place) to the token that was written there."""
    for seed in range(60):
        dice = random.Random(seed)
        pool, memory, tables = BlockPool(dice.randrange(4, 16)), {}, []
        for _ in range(60):
            action = dice.choice(("new", "grow", "grow", "fork", "free"))
            try:
                if action == "new":
                    text = [dice.randrange(2)] * dice.randrange(1, 50)
                    table = BlockTable(pool)
                    done = table.share_prefix(text)
                    assert done < len(text) and [memory[s] for s in table.slots(0, done)] == text[:done]
                    tables.append([table, text[:done], text])
                elif action == "grow" and tables:
                    table, text, goal = entry = dice.choice(tables)
                    new = goal[len(text):] or [dice.randrange(2) for _ in range(dice.randrange(1, 20))]
                    for source, target in table.reserve(len(text), len(text) + len(new)):
                        memory |= {target * BLOCK + i: memory.get(source * BLOCK + i) for i in range(BLOCK)}
                    for slot, token in zip(table.slots(len(text), len(text) + len(new)), new, strict=True):
                        assert pool.refs[slot // BLOCK] == 1
                        memory[slot] = token
                    entry[1] = text = text + new
                    table.publish(text, len(text))
                elif action == "fork" and tables:
                    table, text, goal = dice.choice(tables)
                    tables.append([table.fork(), text, goal])
                elif action == "free" and tables:
                    tables.pop(dice.randrange(len(tables)))[0].free()
            except OutOfBlocks:
                pass
            pool.check([t for t, _, _ in tables])
            for table, text, _ in tables:
                assert [memory[s] for s in table.slots(0, len(text))] == text
        for table, _, _ in tables:
            table.free()
        assert pool.n_free == len(pool.refs)


def test_copying_a_block_copies_all_layers_of_keys_and_values():
    config = Config(d_model=8, n_heads=2, n_kv_heads=1, n_layers=3)
    memory = PagedMemory(config, 4, torch.zeros(1))
    memory.k.normal_()
    memory.v.normal_()
    before = memory.k.clone(), memory.v.clone()
    memory.copy([(1, 3)])
    for tensor, old in zip((memory.k, memory.v), before):
        assert torch.equal(tensor[:, 3], old[:, 1]) and torch.equal(tensor[:, :3], old[:, :3])
    assert memory.bytes == 2 * 3 * 4 * 1 * BLOCK * 4 * 4
