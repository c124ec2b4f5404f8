"""Exercises of chapter 8, first part: choosing tokens and the cache. A learner sees the docstrings."""

import pytest
import torch
from torch.testing import assert_close

from generate import generate
from kv_cache import KVCache, generate_cached
from sampling import keep_top_k, keep_top_p
from transformer import Config, Transformer

INF = float("inf")


def distinct(rows: int, n: int) -> torch.Tensor:
    """Logits (rows, n) in random order, no two of a row equal."""
    return torch.stack([torch.randperm(n) for _ in range(rows)]) * 0.3 + torch.randn(rows, 1) * 3.0


def kept(logits: torch.Tensor) -> list[list[int]]:
    """The columns of each row that are not -inf."""
    return [[i for i, x in enumerate(row) if x != -INF] for row in logits.tolist()]


# 8.1 top-k

@pytest.mark.ex("8.1")
def test_the_k_largest_of_each_row_stay():
    """the k largest of each row stay as they were, the others become -inf"""
    logits = distinct(3, 7)
    for k in (1, 2, 5):
        got = keep_top_k(logits.clone(), k)
        wanted = [sorted(sorted(range(7), key=lambda i: -row[i])[:k]) for row in logits.tolist()]
        assert kept(got) == wanted, (f"given {logits} and k = {k}, kept the columns {kept(got)}, wanted "
                                     f"{wanted}: -inf for all others, row by row; is the k-th itself kept?")
        assert_close(got[got != -INF], logits[got != -INF], msg="what is kept must not change")


@pytest.mark.ex("8.1")
def test_of_equal_logits_no_more_than_k_stay():
    """k tokens stay, also where others are equal to the k-th"""
    logits = torch.tensor([[3.0, 1.0, 3.0, 3.0, 2.0], [0.0] * 5, [-2.0, -2.0, 7.0, -2.0, 7.0]])
    for k in (1, 2, 3):
        got = kept(keep_top_k(logits.clone(), k))
        assert [len(columns) for columns in got] == [k] * 3, (
            f"given {logits.tolist()} and k = {k}, kept the columns {got}, wanted {k} of each row: a "
            "threshold keeps all that equal it, so that k = 1 is not greedy")
        low = [sorted(row, reverse=True)[:k] for row in logits.tolist()]
        values = [sorted((row[i] for i in columns), reverse=True)
                  for row, columns in zip(logits.tolist(), got)]
        assert values == low, f"given {logits.tolist()} and k = {k}, kept the logits {values}, wanted {low}"


@pytest.mark.ex("8.1")
def test_zero_or_a_large_k_keeps_everything():
    """k = 0 keeps everything, and so does a k as large as the vocabulary or larger"""
    logits = distinct(2, 5)
    for k in (0, 5, 9):
        try:
            got = keep_top_k(logits, k)
        except (RuntimeError, IndexError) as error:
            pytest.fail(f"k = {k} of 5 tokens raised '{error}', wanted all five kept")
        assert kept(got) == [list(range(5))] * 2, f"k = {k} of 5 tokens kept {kept(got)}, wanted all five"


@pytest.mark.ex("8.1")
def test_top_k_leaves_the_callers_logits_alone():
    """the caller's logits are not changed"""
    logits = distinct(2, 5)
    before = logits.clone()
    keep_top_k(logits, 2)
    assert torch.equal(logits, before), (
        f"given {before.tolist()} and k = 2, the logits are now {logits.tolist()}, wanted them unchanged")


# 8.5 top-p

@pytest.mark.ex("8.5")
def test_the_token_that_crosses_p_stays():
    """the fewest tokens that reach p stay: of 0.5, 0.3, 0.15, 0.05 three for p = 0.9"""
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    for p, wanted in ((0.9, [0, 1, 3]), (0.6, [1, 3]), (0.4, [1]), (0.01, [1]), (0.97, [0, 1, 2, 3])):
        wanted = [wanted]
        given = logits.clone()
        got = keep_top_p(given, p)
        assert torch.equal(given, logits), (
            f"given {logits.tolist()} and p = {p}, the logits are now {given.tolist()}, wanted no change")
        shown = ", ".join(f"{v:.2f}" for v in logits.exp()[0])
        assert kept(got) == wanted, (f"given the probabilities ({shown}) and p = {p}, kept the columns "
                                     f"{kept(got)}, wanted {wanted}: the token with which the sum reaches p "
                                     "is kept too, and the mask must go back to the order of the vocabulary")


@pytest.mark.ex("8.5")
def test_top_p_stops_when_p_is_reached_exactly():
    """two of four equally likely tokens reach 0.5 exactly, no third is kept"""
    for n, p, wanted in ((4, 0.5, 2), (8, 0.25, 2), (2, 0.5, 1)):
        got = len(kept(keep_top_p(torch.zeros(1, n), p))[0])
        assert got == wanted, (f"of {n} equally likely tokens, p = {p} kept {got}, wanted {wanted}: a token "
                               "goes when the likelier ones alone already reach p")


@pytest.mark.ex("8.5")
def test_p_of_zero_keeps_the_likeliest():
    """p = 0 keeps one token, the likeliest"""
    logits = distinct(3, 5)
    got, wanted = kept(keep_top_p(logits.clone(), 0.0)), [[int(row.argmax())] for row in logits]
    assert got == wanted, (
        f"given {logits} and p = 0, kept the columns {got}, wanted {wanted}: at least one token always stays")


@pytest.mark.ex("8.5")
def test_p_of_one_keeps_the_unlikeliest_token():
    """p = 1 keeps everything, however unlikely"""
    logits = torch.tensor([[100.0, 0.0, -5.0]])
    got = keep_top_p(logits.clone(), 1.0)
    assert kept(got) == [[0, 1, 2]], (f"given {logits.tolist()} and p = 1, kept {kept(got)}, wanted all: "
                                      "rounded sums reach 1 too early, so treat p = 1 apart")


@pytest.mark.ex("8.5")
def test_top_p_agrees_with_adding_up_one_by_one():
    """each row is cut where adding up its probabilities, largest first, reaches p"""
    logits = distinct(6, 9) * torch.rand(6, 1) * 4
    for p in (0.3, 0.7, 0.95):
        got = keep_top_p(logits.clone(), p)
        for row, mine in zip(logits.double(), got):
            probability = (row - row.logsumexp(0)).exp().tolist()
            wanted, total = set(), 0.0
            for i in sorted(range(9), key=lambda i: -probability[i]):
                wanted.add(i)
                total += probability[i]
                if total >= p:
                    break
            assert set(kept(mine[None])[0]) == wanted, (
                f"given the probabilities {[round(v, 3) for v in probability]} and p = {p}, kept "
                f"{kept(mine[None])[0]}, wanted {sorted(wanted)}: sort from the largest, add up "
                "probabilities, and bring the marks back to the columns they came from (scatter; gather "
                "goes the other way)")
        assert_close(got[got != -INF], logits[got != -INF],
                     msg="what is kept must stay the logit that was given")


@pytest.mark.ex("8.5")
def test_top_p_works_after_top_k():
    """tokens that are -inf already stay out"""
    logits = torch.tensor([[-INF, 2.0, -INF, 2.0, 2.0, 2.0]])
    got = keep_top_p(logits, 0.9)
    assert kept(got) == [[1, 3, 4, 5]], (
        f"given {logits.tolist()} and p = 0.9, kept {kept(got)}, wanted [[1, 3, 4, 5]]: what is "
        "cut off is -inf, not 0, and what was -inf has the probability 0")


# 8.6 cache append

CONFIG = Config(vocab_size=40, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=32, max_len=24)


def append(cache: KVCache, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """append, with a sentence where it crashes."""
    try:
        return cache.append(layer, k, v)
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        pytest.fail(f"append to layer {layer}, which held {cache.filled[layer]} of {cache.k.shape[3]} "
                    f"tokens, {k.shape[2]} more raised '{error}'")


@pytest.mark.ex("8.6")
def test_the_cache_returns_the_whole_sequence():
    """every append returns all keys and values so far, of each layer its own"""
    cache = KVCache(CONFIG, 2, 10)
    parts = {layer: ([], []) for layer in range(3)}
    for T in (4, 1, 1, 3):
        for layer in range(3):
            k, v = torch.randn(2, 2, T, 8), torch.randn(2, 2, T, 8)
            parts[layer][0].append(k)
            parts[layer][1].append(v)
            got = append(cache, layer, k.clone(), v.clone())
            for name, mine, wanted in zip(("keys", "values"), got, parts[layer]):
                wanted = torch.cat(wanted, 2)
                assert mine.shape == wanted.shape, (
                    f"layer {layer}, after appending {T}: the {name} have shape {tuple(mine.shape)}, wanted "
                    f"{tuple(wanted.shape)}: all tokens so far, none of the empty room behind them")
                assert torch.equal(mine, wanted), (
                    f"layer {layer}, after appending {T}: the {name} begin with "
                    f"{mine[0, 0, :, 0].tolist()} in head 0, wanted {wanted[0, 0, :, 0].tolist()}")


@pytest.mark.ex("8.6")
def test_an_overfull_cache_is_refused_with_a_sentence():
    """one token too many is a ValueError, and the cache stays as it was"""
    cache, one = KVCache(CONFIG, 1, 4), torch.ones(1, 2, 1, 8)
    cache.append(1, torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8))
    try:
        cache.append(1, torch.zeros(1, 2, 2, 8), torch.zeros(1, 2, 2, 8))
    except ValueError as error:
        assert "4" in str(error), f"5 tokens in a cache of 4: the error says '{error}', wanted the 4 in it"
    except (RuntimeError, IndexError) as error:
        pytest.fail(f"5 tokens in a cache of 4 raised {type(error).__name__}, wanted a ValueError with a "
                    "sentence")
    else:
        pytest.fail("a cache with room for 4 took 5 tokens, wanted a ValueError")
    k, v = append(cache, 1, one, one)
    assert k.shape[2] == 4 and bool((k == 1).all()) and bool((v == 1).all()), (
        f"after a refused append, one token more gave {k.shape[2]} tokens, {k[0, 0, :, 0].tolist()}, wanted "
        "four ones: check the room before anything is written or counted")


@pytest.mark.ex("8.6")
def test_append_copies_nothing_that_is_stored():
    """what is returned is a view of the cache's own memory"""
    cache = KVCache(CONFIG, 1, 6)
    for T in (3, 1):
        got = append(cache, 2, torch.randn(1, 2, T, 8), torch.randn(1, 2, T, 8))
        for name, mine, room in zip(("keys", "values"), got, (cache.k, cache.v)):
            assert mine.untyped_storage().data_ptr() == room.untyped_storage().data_ptr(), (
                f"after appending {T}, got {name} in memory of their own, wanted a view of the cache's")


# 8.7 cached generation

def lively_model(**options) -> Transformer:
    """A small random model with weights large enough that each position and each token matters."""
    model = Transformer(Config(**{**vars(CONFIG), **options})).requires_grad_(False)
    for name, p in model.named_parameters():
        if "embed" in name:
            p.normal_()
        else:
            p.mul_(3.0)
    return model


@pytest.mark.ex("8.7")
def test_cached_generation_equals_running_everything_again():
    """the same tokens as without a cache"""
    for positions in ("rope", "learned"):
        model = lively_model(positions=positions)
        ids = torch.randint(40, (8, 5))
        try:
            got = generate_cached(model, ids, 12)
        except (ValueError, RuntimeError) as error:
            pytest.fail(f"it raised '{error}'")
        wanted = generate(model, ids, 12)
        assert got.shape == wanted.shape, (
            f"given ids (8, 5) and 12 new tokens, got {tuple(got.shape)}, wanted (8, 17)")
        row = int((got != wanted).any(1).int().argmax())
        assert torch.equal(got, wanted), (
            f"positions {positions}, prompt {ids[row].tolist()}: got {got[row, 5:].tolist()}, wanted "
            f"{wanted[row, 5:].tolist()}: does each new token go to the model with the position at which it "
            "stands, and is the last row of logits used?")


class Adder:
    """A model whose next token is the sum of all before, modulo 40; notes what it gets, fills the cache."""

    def __init__(self, dtype=torch.float32, **options):
        self.config, self.calls, self.text = Config(**{**vars(CONFIG), **options}), [], None
        self.dtype, self.kept = dtype, set()        # of the weights, and of the keys that the cache has kept

    def parameters(self):
        yield torch.zeros(1, dtype=self.dtype)

    def __call__(self, ids, cache=None, start=0):
        self.calls.append((tuple(ids.shape), start))
        self.text = ids if cache is None or not start else torch.cat((self.text[:, :start], ids), 1)
        if cache is not None:
            D = CONFIG.d_model // CONFIG.n_heads
            part = torch.zeros(ids.shape[0], CONFIG.n_kv_heads, ids.shape[1], D, dtype=self.dtype)
            for layer in range(CONFIG.n_layers):
                self.kept.add(cache.append(layer, part, part)[0].dtype)
        return torch.nn.functional.one_hot(self.text.cumsum(1) % 40, 40).float()[:, -ids.shape[1]:]


def added(ids: torch.Tensor, n_new: int) -> torch.Tensor:
    """What an Adder writes after ids."""
    for _ in range(n_new):
        ids = torch.cat((ids, ids.sum(1, keepdim=True) % 40), 1)
    return ids


@pytest.mark.ex("8.7")
def test_each_token_is_run_through_the_model_once():
    """each token goes through the model once: the prompt in one call, then one token a call"""
    model, ids = Adder(max_len=300), torch.randint(40, (2, 270))
    got = generate_cached(model, ids, 4)
    assert got.shape == (2, 274), (
        f"given ids (2, 270) and 4 new tokens, got {tuple(got.shape)}, wanted (2, 274)")
    assert model.calls == [((2, 270), 0)] + [((2, 1), n) for n in (270, 271, 272)], (
        f"for 4 new tokens the model was called with ids of these shapes at these positions: {model.calls}, "
        "wanted (2, 270) at 0 and three times (2, 1), at 270, 271 and 272: only the newest token, and no "
        "call after the last token is chosen")
    assert torch.equal(got, added(ids, 4)), (
        f"got {got[:, 270:].tolist()}, wanted {added(ids, 4)[:, 270:].tolist()}")


@pytest.mark.ex("8.7")
def test_the_cache_has_no_room_for_the_whole_context():
    """the cache has room for the prompt and the new tokens, not for all that the model could read"""
    ids = torch.randint(40, (2, 6))
    try:
        got = generate_cached(Adder(max_len=1 << 50), ids, 4)
    except RuntimeError as error:
        pytest.fail(f"for ids (2, 6), 4 new tokens and a model that can read 2^50, it raised '{error}': "
                    "reserve room for the 10 tokens of the text")
    assert torch.equal(got, added(ids, 4)), (
        f"got {got[:, 6:].tolist()}, wanted {added(ids, 4)[:, 6:].tolist()}")


@pytest.mark.ex("8.7")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_cache_has_the_type_of_the_weights(dtype):
    """a model in float64 or bfloat16 writes with a cache of the same type"""
    model, ids = Adder(dtype), torch.randint(40, (2, 3))
    try:
        got = generate_cached(model, ids, 4)
    except RuntimeError as error:
        pytest.fail(f"a model in {dtype} raised '{error}'")
    assert torch.equal(got, added(ids, 4)) and model.kept == {dtype}, (
        f"a model in {dtype} had its keys kept as {model.kept}, wanted {dtype}: KVCache takes it as `dtype`")
    real = generate_cached(lively_model().to(dtype), ids, 4)
    assert real.shape == (2, 7), f"a model in {dtype} wrote {tuple(real.shape)}, wanted (2, 7)"


@pytest.mark.ex("8.7")
def test_generation_fills_the_context_to_the_end():
    """a text may fill the model's context to the last token, and one or no token may be asked for"""
    model, ids = lively_model(), torch.randint(40, (1, 20))
    for n_new in (4, 1, 0):
        try:
            got = generate_cached(model, ids, n_new)
        except (ValueError, RuntimeError) as error:
            pytest.fail(f"20 + {n_new} tokens of {CONFIG.max_len} raised '{error}': is a token run that "
                        "nobody needs?")
        assert torch.equal(got, generate(model, ids, n_new)), (
            f"20 + {n_new} tokens: {got.tolist()} is not what comes without a cache")
