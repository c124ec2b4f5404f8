"""Exercises of chapter 8 at their edges: float64, large vocabularies, exact halves, long prefixes."""
import pytest
import torch

from bpe import Tokenizer
from constrained import TokenAutomaton, TokenTree
from kv_cache import KVCache, generate_cached
from paged_cache import BLOCK, BlockPool, BlockTable
from quantize import dequantize, quantize_groups
from sampling import keep_min_p, keep_top_k, keep_top_p
from stop_strings import StopStrings
from test_ex08 import CONFIG, Adder, added
from test_ex08_paging import filled

f64, INF = torch.float64, float("inf")


def checked(got: torch.Tensor, logits: torch.Tensor, keep: list[int], given: str) -> None:
    """The columns `keep` of the one row are as they were, all others minus infinity, in the same type."""
    want = torch.full_like(logits, -INF)
    want[0, keep] = logits[0, keep]
    assert got.dtype == logits.dtype, f"{given}: got {got.dtype}, wanted {logits.dtype}, that of the logits"
    kept = (got[0] > -INF).nonzero()[:, 0].tolist()
    assert torch.equal(got, want), (
        f"{given}: kept {len(kept)} columns, {kept[:6]} ..., wanted {len(keep)}, {keep[:6]} ...")


@pytest.mark.ex("8.1")
def test_top_k_of_a_large_vocabulary_in_float64():
    """the largest may stand behind column 65,536, and float64 stays float64"""
    logits = torch.randn(1, 70_000, dtype=f64)
    logits[0, [69_999, 3, 40_000]] = torch.tensor([50.0, 60.0, 70.0], dtype=f64)
    checked(keep_top_k(logits.clone(), 3), logits, [3, 40_000, 69_999], "70,000 logits, k = 3")


@pytest.mark.ex("8.2")
def test_scales_keep_all_their_digits():
    """a float32 scale is used as it is, without rounding it to half precision"""
    integers, scales = torch.tensor([[3, -8, 1, 7]], dtype=torch.int8), torch.tensor([[0.123456789, 1e-6]])
    got, want = dequantize(integers, scales), integers.float() * scales.repeat_interleave(2, 1)
    assert got.dtype == torch.float32 and torch.equal(got, want), (
        f"given {integers.tolist()} and scales {scales.tolist()}, got {got.tolist()}, wanted {want.tolist()}")


@pytest.mark.ex("8.5")
def test_top_p_of_many_tokens_and_of_large_logits():
    """1,502 of 2,995 equal tokens are the fewest that reach 1,501.5 parts; logits of 200 are no trouble"""
    for wanted in (1101, 1502, 2003, 2604, 2696, 2905):
        n = int((keep_top_p(torch.zeros(1, 2995), (wanted - 0.5) / 2995) > -INF).sum())
        assert n == wanted, f"2,995 equal tokens, p = {wanted - 0.5} / 2995: kept {n}: add up in float32"
    for dtype in (torch.float32, f64):
        logits = torch.tensor([[200.0, 199.0, 0.0, 198.0]], dtype=dtype)
        checked(keep_top_p(logits.clone(), 0.9), logits, [0, 1], f"{logits.tolist()} in {dtype}, p = 0.9")


@pytest.mark.ex("8.6")
def test_append_returns_a_pair_of_keys_and_values():
    """keys and values come as a tuple of two"""
    cache = KVCache(CONFIG, 1, 6)
    got = cache.append(0, torch.ones(1, 2, 2, 8), torch.zeros(1, 2, 2, 8))
    assert type(got) is tuple and len(got) == 2, f"got a {type(got).__name__}, wanted a tuple (keys, values)"


@pytest.mark.ex("8.7")
def test_the_cache_is_filled_to_its_last_place_but_one():
    """the cache is made for the prompt and the new tokens, exactly"""
    class Looking(Adder):
        """Notes the room of the cache."""

        def __call__(self, ids, cache=None, start=0):
            rooms.add(tuple(cache.k.shape))
            return super().__call__(ids, cache, start)

    rooms, ids = set(), torch.randint(40, (2, 6))
    got = generate_cached(Looking(), ids, 4)
    assert torch.equal(got, added(ids, 4)), f"got {got.tolist()}, wanted {added(ids, 4).tolist()}"
    assert rooms == {(3, 2, 2, 10, 8)}, (f"for ids (2, 6) and 4 new tokens the cache's keys were {rooms}, "
                                         "wanted (3, 2, 2, 10, 8): room for 10 tokens")


@pytest.mark.ex("8.8")
def test_halves_go_to_the_even_neighbour_and_scales_are_float32():
    """2.5 becomes 2 and -0.5 becomes 0, where the scale is 1; weights in float64 have scales in float32"""
    weight = torch.tensor([[7.0, -7.0, 7.0, 2.5], [7.0, -7.0, 7.0, -0.5]], dtype=f64)
    integers, scales = quantize_groups(weight, 4, 4)
    assert integers.tolist() == [[7, -7, 7, 2], [7, -7, 7, 0]], (
        f"given {weight.tolist()}, got {integers.tolist()}, wanted [7, -7, 7, 2] and [7, -7, 7, 0]: a half "
        "rounds to the even neighbour, as .round() does")
    assert scales.dtype == torch.float32 and scales.tolist() == [[1.0], [1.0]], (
        f"the scales are {scales.tolist()} in {scales.dtype}, wanted 1 and 1 in float32")


@pytest.mark.ex("8.9")
def test_min_p_of_large_logits_and_of_a_small_p():
    """logits of 900 are no trouble, a p of a thousandth counts, and float64 stays float64"""
    for dtype in (torch.float32, f64):
        logits = torch.tensor([[900.0, 895.0, 890.0, -900.0]], dtype=dtype)
        checked(keep_min_p(logits.clone(), 0.001), logits, [0, 1], f"{logits.tolist()} in {dtype}, p = 0.001")


@pytest.mark.ex("8.10")
def test_what_is_shown_is_not_stripped():
    """white space that cannot begin a stop string is shown as it came"""
    for pieces, wanted in (([" a\n", "\n", " b \t"], [" a\n", "\n", " b \t"]), (["\n", "x"], ["\n", ""])):
        watch = StopStrings(["xyz"])
        got = [watch.feed(piece) for piece in pieces]
        assert got == wanted, f"stop 'xyz', pieces {pieces}: shown {got}, wanted {wanted}"


@pytest.mark.ex("8.11")
def test_two_tokens_with_the_same_bytes_are_both_allowed():
    """aba may have been learned in two ways: both tokens are allowed, in a mask of booleans"""
    words = Tokenizer([(97, 98), (98, 97), (256, 97), (97, 257)])      # ab, ba, ab + a, a + ba
    mask = TokenAutomaton("(ab)+a", TokenTree(words)).allowed(0)
    assert mask.dtype == torch.bool, f"the mask is {mask.dtype}, wanted torch.bool: numbers do not select"
    got = mask.nonzero()[:, 0].tolist()
    assert got == [97, 256, 258, 259], (
        f"pattern '(ab)+a': allowed {got}, wanted a, ab and twice aba: 97, 256, 258, 259")


@pytest.mark.ex("8.13")
def test_a_long_prefix_is_shared_to_its_end():
    """nine blocks of a long prompt are shared, block 0 of the pool among them"""
    pool = BlockPool(20)
    text = list(range(9 * BLOCK + 3))
    owner, table = filled(pool, text), BlockTable(pool)
    got = table.share_prefix(text)
    assert got == 9 * BLOCK and table.blocks == owner.blocks[:9], (
        f"{len(text)} known tokens: returned {got} and took {table.blocks}, wanted {9 * BLOCK} and "
        f"{owner.blocks[:9]}")


@pytest.mark.ex("8.1")
def test_rows_that_already_hold_minus_infinity():
    """what a mask has excluded stays excluded, also where fewer than k are left"""
    logits = torch.tensor([[-INF, 3.0, -INF, 1.0, 2.0, -INF]])
    for k, keep in ((2, [1, 4]), (3, [1, 3, 4]), (5, [1, 3, 4])):
        checked(keep_top_k(logits.clone(), k), logits, keep, f"logits {logits.tolist()}, k = {k}")


@pytest.mark.ex("8.10")
def test_blanks_are_shown_as_they_are():
    """blanks and line breaks before a stop string, at the beginning and alone are text"""
    for stops, pieces, shown, hit in ((["Q"], ["  one \n Q"], "  one \n ", "Q"),
                                      (["END"], [" \t", "EN",
                                                 "D"], " \t", "END"), (["\n\n"], ["a ", "\n", " \n",
                                                                                  "\n"], "a \n ", "\n\n")):
        watch = StopStrings(stops)
        got = "".join(watch.feed(piece) for piece in pieces)
        assert (got, watch.hit) == (shown, hit), (
            f"stops {stops}, pieces {pieces}: shown {got!r}, hit {watch.hit!r}, wanted {shown!r} and {hit!r}")


@pytest.mark.ex("8.13")
def test_large_ids_and_their_order_make_the_name():
    """ids beyond 65,536 that differ by 2^16, by 256 or in their order are other tokens"""
    text = [70_000 + 3 * i for i in range(3 * BLOCK)]
    for change in (lambda t: t - 65_536, lambda t: t - 256, lambda t: t + 1):
        pool = BlockPool(9)
        owner, table = filled(pool, text), BlockTable(pool)
        other = text[:BLOCK] + [change(t) for t in text[BLOCK:]] + [1]
        got = table.share_prefix(other)
        assert (got, table.blocks) == (BLOCK, owner.blocks[:1]), (
            f"the same first block, then ids that differ by {text[0] - change(text[0])}: shared {got} tokens")
    pool = BlockPool(9)
    filled(pool, text)
    got = BlockTable(pool).share_prefix(text[BLOCK - 1::-1] + text[BLOCK:])
    assert got == 0, f"the first block in reverse: shared {got} tokens, wanted 0"
