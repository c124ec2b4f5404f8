"""Exercises of chapter 8: the block table, sharing a prefix, admission. A learner sees the docstrings."""
import random

import pytest

from paged_cache import BLOCK, BlockPool, BlockTable, OutOfBlocks, block_hash
from sampling import Sampling
from scheduler import Request, Scheduler, whose_turn


def reserve(table: BlockTable, begin: int, end: int) -> list:
    """reserve, with a sentence where it crashes."""
    try:
        return table.reserve(begin, end)
    except OutOfBlocks:
        pytest.fail(f"tokens {begin} to {end - 1}, {len(table.blocks)} blocks in the table, "
                    f"{table.pool.n_free} free: raised OutOfBlocks, but there is room")
    except (IndexError, ValueError, KeyError, TypeError) as error:
        pytest.fail(f"tokens {begin} to {end - 1}: raised '{error}'")


def filled(pool: BlockPool, tokens: list[int], lost: int | None = None) -> BlockTable:
    """A table whose full blocks hold these tokens and can be found, all but the one of number `lost`."""
    table, parent = BlockTable(pool), b""
    table.blocks = [pool.allocate() for _ in range(-(-len(tokens) // BLOCK))]
    for i in range(len(tokens) // BLOCK):
        parent = block_hash(parent, tokens[i * BLOCK:(i + 1) * BLOCK])
        table.names.append(parent)
        if i != lost:
            pool.publish(table.blocks[i], parent)
    return table


# 8.12 block table

@pytest.mark.ex("8.12")
def test_a_table_grows_by_whole_blocks_when_it_must():
    """blocks are taken when tokens do not fit into those that the table has, and no earlier"""
    table = BlockTable(BlockPool(4))
    for begin, end, wanted in ((0, 1, 1), (1, BLOCK, 1), (BLOCK, BLOCK + 1, 2), (BLOCK + 1, 4 * BLOCK, 4)):
        got = reserve(table, begin, end)
        assert len(table.blocks) == wanted and got == [], (
            f"after reserving up to token {end} the table has {len(table.blocks)} blocks, wanted {wanted}; "
            f"copies {got}, wanted none: {end} tokens need {end} / {BLOCK} blocks, rounded up")
        assert len(set(table.blocks)) == wanted, f"the blocks are {table.blocks}, wanted {wanted} different"
    assert table.pool.n_free == 0, f"4 of 4 blocks are in use but {table.pool.n_free} are free, wanted 0"


@pytest.mark.ex("8.12")
def test_a_block_that_others_hold_is_replaced_and_copied():
    """a shared block that will be written is replaced by a copy of one's own; what is only read stays
    shared
    """
    pool = BlockPool(8)
    ours = BlockTable(pool)
    ours.blocks = [pool.allocate() for _ in range(3)]
    other, before = ours.fork(), list(ours.blocks)
    got = reserve(ours, 2 * BLOCK + 3, 2 * BLOCK + 5)
    assert ours.blocks[:2] == before[:2], (
        f"tokens {2 * BLOCK + 3} and {2 * BLOCK + 4} lie in the third block: the table was {before}, is "
        f"{ours.blocks}, wanted the first two unchanged")
    assert got == [(before[2], ours.blocks[2])] and ours.blocks[2] != before[2], (
        f"copies {got}, the table was {before}, is {ours.blocks}: wanted one copy from {before[2]} to a new "
        "block")
    counts = [pool.refs[b] for b in (*before, ours.blocks[2])]
    assert counts == [2, 2, 1, 1], f"holders of {(*before, ours.blocks[2])} are {counts}, wanted [2, 2, 1, 1]"
    assert other.blocks == before, f"the other table is now {other.blocks}, wanted {before}"
    got = reserve(other, 2 * BLOCK + 3, 2 * BLOCK + 4)
    assert got == [] and other.blocks == before, f"the other table's own block: copies {got}, wanted none"


@pytest.mark.ex("8.12")
def test_what_lies_behind_the_tokens_is_not_copied():
    """shared blocks behind the tokens to write stay shared"""
    pool = BlockPool(8)
    ours = BlockTable(pool)
    ours.blocks = [pool.allocate() for _ in range(3)]
    ours.fork()
    before = list(ours.blocks)
    got = reserve(ours, 3, BLOCK)
    assert len(got) == 1 and ours.blocks[1:] == before[1:], (
        f"tokens 3 to {BLOCK - 1} lie in block 0 of {before}; copies {got}, the table is {ours.blocks}")


@pytest.mark.ex("8.12")
def test_all_or_nothing():
    """where the pool has too few blocks OutOfBlocks is raised, and everything is as it was"""
    for held, fork, free, begin, end in ((2, False, 1, 2 * BLOCK, 4 * BLOCK),
                                         (2, True, 0, BLOCK + 3, BLOCK + 4), (2, True, 1, BLOCK, 3 * BLOCK),
                                         (3, True, 1, 0, 2 * BLOCK)):
        pool = BlockPool(held + free)
        table = BlockTable(pool)
        table.blocks = [pool.allocate() for _ in range(held)]
        if fork:
            table.fork()
        before = list(table.blocks), list(pool.refs)
        try:
            table.reserve(begin, end)
        except OutOfBlocks:
            pass
        else:
            pytest.fail(f"tokens {begin} to {end - 1}, {free} free blocks: not refused, wanted OutOfBlocks")
        assert (table.blocks, pool.refs) == before, (
            f"tokens {begin} to {end - 1} with {free} free: refused; the table is {table.blocks} and the "
            f"counts are {pool.refs}, wanted {before[0]} and {before[1]}, as before")


# 8.13 share a prefix

@pytest.mark.ex("8.13")
def test_a_known_beginning_is_taken_over():
    """full blocks with the same beginning are found and held, up to the first that differs"""
    text = list(range(4 * BLOCK))
    for same, wanted in ((3 * BLOCK + 5, 3), (2 * BLOCK, 2), (BLOCK - 1, 0)):
        pool = BlockPool(9)
        owner = filled(pool, text)
        tokens = text[:same] + [999] * 20
        table = BlockTable(pool)
        got = table.share_prefix(tokens)
        assert table.blocks == owner.blocks[:wanted] and got == wanted * BLOCK, (
            f"{same} tokens are the same: took over {table.blocks} and returned {got}, wanted "
            f"{owner.blocks[:wanted]} and {wanted * BLOCK} tokens")
        counts = [pool.refs[b] for b in owner.blocks]
        assert counts == [2] * wanted + [1] * (4 - wanted), (
            f"{same} tokens are the same: the blocks have {counts} holders, wanted "
            f"{[2] * wanted + [1] * (4 - wanted)}")
        assert table.names == owner.names[:wanted], (
            f"{same} tokens are the same: self.names is {table.names}, wanted {owner.names[:wanted]}")


@pytest.mark.ex("8.13")
def test_the_last_token_is_left_to_compute():
    """a prompt that is known to its end shares all blocks but the one with its last token"""
    pool = BlockPool(9)
    filled(pool, list(range(3 * BLOCK)))
    for length, wanted in ((3 * BLOCK, 2), (2 * BLOCK, 1), (2 * BLOCK + 1, 2), (BLOCK, 0)):
        got = BlockTable(pool).share_prefix(list(range(length)))
        assert got == wanted * BLOCK, (
            f"{length} tokens, all known: returned {got}, wanted {wanted * BLOCK}: the logits of the last "
            "one are needed, so it goes through the model again")


@pytest.mark.ex("8.13")
def test_nothing_is_taken_from_behind_a_gap():
    """if a block in the middle has been lost, what comes after it is not taken over"""
    pool = BlockPool(9)
    owner = filled(pool, list(range(3 * BLOCK)), lost=1)
    table = BlockTable(pool)
    got = table.share_prefix(list(range(3 * BLOCK + 1)))
    assert (got, table.blocks) == (BLOCK, owner.blocks[:1]), (
        f"of three known blocks the second is lost: shared {got} tokens, blocks {table.blocks}, wanted "
        f"{BLOCK} tokens and {owner.blocks[:1]}: token i must be in block i // BLOCK of the table")


# 8.17 admission

def turn(waiting: list, running: list, n_free: int) -> int | None:
    """whose_turn, with a sentence where it crashes; what it returns is a place or None."""
    try:
        got = whose_turn(waiting, running, n_free)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        pytest.fail(f"waiting {waiting}, running {running}: raised {type(error).__name__}: {error}")
    assert got is None or type(got) is int, f"waiting {waiting}: got {got!r}, wanted a place or None"
    return got


@pytest.mark.ex("8.17")
def test_the_owner_with_the_fewest_requests_is_next():
    """of the owners with the fewest running requests the earliest request is next, wherever it stands"""
    queue = [("ada", 3, 1), ("cy", 7, 4), ("ben", 4, 1), ("cy", 6, 5)]
    for running, wanted in ((["ada", "ada", "ben"], 3), (["cy", "cy", "ada", "ben"], 0), (["ada", "cy"], 2),
                            ([], 0), (["cy"] * 3 + ["ada"] * 300, 2), (["dan", "dan"], 0),
                            (["cy"] * 40 + ["ada"] * 30 + ["ben"] * 29, 2)):
        got = turn(queue, running, 9)
        assert got == wanted, (
            f"waiting (owner, arrival, blocks) {queue}, running {running[:6]}, got {got}, not {wanted}: "
            "first the number of running requests of its owner, then the arrival")
    queue = [("ada", n, 1) for n in (12, 9, 100, 10)]
    got = turn(queue, ["ada"], 1)
    assert got == 1, f"waiting {queue}, running ['ada'], got {got}, not 1: the earliest arrival"


@pytest.mark.ex("8.17")
def test_nobody_overtakes_a_request_that_is_too_large():
    """the next one waits for blocks, and so does everybody behind it; exactly enough is enough"""
    queue = [("ada", 1, 1), ("cy", 2, 5), ("cy", 3, 2)]
    for n_free, wanted in ((5, 1), (4, None), (2, None), (0, None), (6, 1)):
        got = turn(queue, ["ada"], n_free)
        assert got == wanted, (f"waiting {queue}, running ['ada'], {n_free} free: got {got}, not {wanted}: 1 "
                               "is next and needs 5")
    got = turn([("ada", 1, 0)], [], 0)
    assert got == 0, f"waiting [('ada', 1, 0)], 0 free: got {got}, wanted 0: it needs no block"


@pytest.mark.ex("8.17")
def test_nobody_waits():
    """an empty queue has no next one"""
    got = turn([("ada", 5, 1)], [], 1)
    assert got == 0, f"waiting [('ada', 5, 1)], nobody running, 1 free: got {got}, wanted 0"
    got = turn([], ["ada"], 8)
    assert got is None, f"nobody waiting, running ['ada'], 8 free: got {got}, wanted None"


@pytest.mark.ex("8.17")
def test_a_fair_queue_of_many():
    """two hundred random requests, against sorting them"""
    for _ in range(20):
        queue = [(random.choice("abcd"), n, random.randrange(6)) for n in random.sample(range(1000), 10)]
        running, n_free = random.choices("abcde", k=random.randrange(8)), random.randrange(6)
        first = sorted(queue, key=lambda r: (running.count(r[0]), r[1]))[0]
        wanted = queue.index(first) if first[2] <= n_free else None
        got = turn(queue, running, n_free)
        assert got == wanted, f"waiting {queue}, running {running}, {n_free} free: got {got}, wanted {wanted}"


def request(n: int) -> Request:
    return Request(list(range(n)), 5, Sampling())


def test_a_request_is_let_in_if_it_and_its_next_token_fit():
    """a request is let in if the pool has blocks for all its tokens and one more"""
    for n, blocks in ((3 * BLOCK - 1, 3), (3 * BLOCK, 4), (1, 1)):
        for free in (blocks - 1, blocks, blocks + 1):
            scheduler, r = Scheduler(BlockPool(free), 4, 64), request(n)
            scheduler.add(r)
            got = scheduler._admit()
            assert bool(got) == (free >= blocks), (f"{n} tokens, blocks of {BLOCK}, {free} free: let in "
                                                   f"{got}, but {n} + 1 tokens need {blocks} blocks")
            assert (r in scheduler.running) == (free >= blocks)


def test_shared_blocks_are_no_new_ones():
    """what is found in the cache needs no block, also if nobody holds it; the request begins behind it"""
    for keep in (True, False):
        pool = BlockPool(4)
        owner = filled(pool, list(range(2 * BLOCK)))
        if not keep:
            owner.free()
        scheduler, r = Scheduler(pool, 4, 64), request(2 * BLOCK + 9)
        scheduler.add(r)
        assert scheduler._admit(), (f"{2 * BLOCK + 9} tokens, of which {2 * BLOCK} are in the cache, need "
                                    f"one new block of {BLOCK}; 2 are free: refused, wanted it let in")
        assert r.table is not None and len(r.table.blocks) == 2 and r.computed == 2 * BLOCK, (
            f"computed is {r.computed}, wanted {2 * BLOCK}, and the table holds the two shared blocks")


def test_who_is_not_let_in_holds_nothing():
    """a request that is refused holds no block and has no table"""
    pool = BlockPool(4)
    owner = filled(pool, list(range(2 * BLOCK)))
    scheduler, r = Scheduler(pool, 4, 64), request(5 * BLOCK)
    scheduler.add(r)
    before = list(pool.refs)
    got = scheduler._admit()
    assert not got and pool.refs == before and r.table is None and r.computed == 0, (
        f"let in {got}, counts were {before}, are {pool.refs}, table {r.table}, computed {r.computed}: give "
        "back what was shared before you say no")
    owner.free()
