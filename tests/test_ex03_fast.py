"""The exercises of chapter 3 about groups, chunks, formats, packing, FLOPs and one more schedule."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from chunked_loss import loss_of_chunk
from cross_entropy import IGNORE
from ex_compare import call, same, show
from packing import packing_mask
from parameter_groups import group_parameters
from precision import LossScaler
from schedule import linear
from transformer import Config
from utilization import model_flops_per_token


class Toy(nn.Module):
    """Weights of every kind, under names like those of a Transformer; the output layer is the embedding."""

    def __init__(self, frozen=(), with_vectors=True):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(5, 4)
        self.model.layers = nn.ModuleList([nn.Module()])
        self.model.layers[0].mlp = nn.Linear(4, 3, bias=with_vectors)
        self.model.layers[0].experts = nn.ParameterList([nn.Parameter(torch.zeros(2, 3, 4))])
        self.model.layernorm_scale = nn.Parameter(torch.zeros(2, 2))   # "layer" in its name, but in no layer
        if with_vectors:
            self.model.layers[0].norm = nn.LayerNorm(4, bias=False)
        self.lm_head = nn.Module()
        self.lm_head.weight = self.model.embed_tokens.weight
        for name in frozen:
            self.get_parameter(name).requires_grad_(False)


def names_of(model):
    """What group_parameters gives, as sorted names."""
    groups = call("a small model", group_parameters, model)
    same(sorted(groups), ["matrix", "table", "vector"], "a small model",
         "three groups, also where one is empty")
    return {kind: sorted(group) for kind, group in groups.items()}


@pytest.mark.ex("3.12")
def test_every_weight_is_in_its_group():
    """matrices inside the blocks, tables elsewhere, vectors of any place"""
    want = {"matrix": ["model.layers.0.experts.0", "model.layers.0.mlp.weight"],
            "table": ["model.embed_tokens.weight", "model.layernorm_scale"],
            "vector": ["model.layers.0.mlp.bias", "model.layers.0.norm.weight"]}
    same(names_of(Toy()), want, "a model with a tied output layer",
         "ask for the number of dimensions first, then for '.layers.' in the name; a tied weight has one "
         "name")


@pytest.mark.ex("3.12")
def test_frozen_weights_are_in_no_group():
    """a frozen weight is in no group, and an empty group is there"""
    model = Toy(frozen=["model.embed_tokens.weight"], with_vectors=False)
    want = {"matrix": ["model.layers.0.experts.0", "model.layers.0.mlp.weight"],
            "table": ["model.layernorm_scale"],
            "vector": []}
    same(names_of(model), want, "a model without vectors, its embedding frozen", "skip p.requires_grad False")


@pytest.mark.ex("3.12")
def test_the_groups_hold_the_weights_themselves():
    """the groups hold the model's own tensors, no copies"""
    model = Toy()
    groups = call("a small model", group_parameters, model)
    if groups["matrix"].get("model.layers.0.mlp.weight") is not model.model.layers[0].mlp.weight:
        pytest.fail("given a small model, got a copy as groups['matrix']['model.layers.0.mlp.weight'], "
                    "wanted the model's own tensor", pytrace=False)


def rows(n=7, C=4, V=6):
    """Random rows and a table in float64, and targets of which some are ignored."""
    targets = torch.randint(V, (n,))
    targets[[0, 3]] = IGNORE
    return torch.randn(n, C, dtype=torch.float64), torch.randn(V, C, dtype=torch.float64), targets


@pytest.mark.ex("3.13")
def test_the_loss_of_a_chunk_is_torchs_sum():
    """the loss is torch's sum over the targets that count"""
    x, table, targets = rows()
    loss, _ = call("7 rows, 2 ignored", loss_of_chunk, x, table, targets)
    want = F.cross_entropy(x @ table.T, targets, reduction="sum")
    same(loss, want, "7 rows, 2 ignored", "the sum of logsumexp(logits) - logits[target] over kept rows",
         {"the mean, not the sum": want / 7, "the mean over kept targets, not the sum": want / 5})


@pytest.mark.ex("3.13")
def test_the_gradient_of_a_chunk_is_torchs():
    """the gradient of the logits is torch's, zero in ignored rows"""
    x, table, targets = rows()
    logits = (x @ table.T).requires_grad_()
    (want,) = torch.autograd.grad(F.cross_entropy(logits, targets, reduction="sum"), logits)
    _, d = call("7 rows, 2 ignored", loss_of_chunk, x, table, targets)
    same(d, want, "7 rows, 2 ignored", "softmax minus one at the target, rows of IGNORE zero",
         {"the sign": -want,
          "the one at the target is missing": logits.softmax(-1) * (targets != IGNORE)[:, None],
          "ignored rows have a gradient": torch.where((targets == IGNORE)[:, None], d, want)})


@pytest.mark.ex("3.13")
def test_large_logits_do_not_overflow():
    """logits of a thousand give finite numbers"""
    x, table = torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss, d = call("logits 1000 and -1000", loss_of_chunk, x, table, torch.tensor([1, 1]))
    same((loss, d), (torch.tensor(1000.0), torch.tensor([[1.0, -1.0], [0.0, 0.0]])), "logits 1000 and -1000",
         "subtract logsumexp, which never takes exp of a large number")


@pytest.mark.ex("3.13")
def test_sixteen_bits_are_summed_in_thirtytwo():
    """bf16 rows are summed in float32"""
    x, table, targets = rows(40, 8, 300)
    x, table = x.bfloat16(), table.bfloat16()
    loss, d = call("40 rows in bf16", loss_of_chunk, x, table, targets)
    logits = (x @ table.T).float()
    want = F.cross_entropy(logits, targets, reduction="sum")
    same(loss, want, "40 rows in bf16, 300 words", "widen the logits with at_least_float32", rtol=1e-5)
    if d.dtype != torch.float32:
        pytest.fail(f"given rows in bf16, got a gradient of {d.dtype}, wanted torch.float32", pytrace=False)


def factors_of(finite, factor, quiet):
    """The factor after each step, and the scaler."""
    scaler, out = LossScaler(factor, quiet), []
    for ok in finite:
        call("a step", scaler.update, ok)
        out.append(scaler.factor)
    return out, scaler


@pytest.mark.ex("3.14")
@pytest.mark.parametrize("quiet", [1, 2, 3])
def test_the_factor_moves_as_in_the_example(quiet):
    """halved at once, doubled after a quiet time, counting anew after both"""
    steps = [True] * 7 + [False] + [True] * 2 + [False] + [True] * 4
    want, factor, since = [], 64.0, 0
    for ok in steps:
        since = since + 1 if ok else 0
        factor = factor if ok else factor / 2
        if since == quiet:
            factor, since = factor * 2, 0
        want.append(factor)
    same(factors_of(steps, 64.0, quiet)[0], want,
         f"factor 64, quiet {quiet}, finite {[int(s) for s in steps]}",
         "since starts at 0 after an overflow and after a doubling")


@pytest.mark.ex("3.14")
def test_the_factor_has_limits():
    """the factor stays between 1 and 2^24"""
    same(factors_of([False] * 4, 4.0, 9)[0], [2.0, 1.0, 1.0, 1.0], "factor 4, four overflows",
         "never below 1")
    same(factors_of([True] * 3, 2.0**23, 1)[0], [2.0**24] * 3, "factor 2^23, three good steps",
         "never above 2^24")


@pytest.mark.ex("3.14")
def test_a_quiet_time_of_a_thousand_steps():
    """999 good steps in a row have been counted: the next one doubles the factor"""
    scaler = LossScaler(8.0, 1000)
    scaler.since = 999
    call("a good step", scaler.update, True)
    same((scaler.factor, scaler.since), (16.0, 0), "factor 8, quiet 1000, since 999, a good step")


@pytest.mark.ex("3.14")
def test_skipped_steps_are_counted():
    """every overflow counts as one skipped step"""
    scaler = factors_of([True, False, True, False, False], 2.0**10, 5)[1]
    same((scaler.skipped, scaler.since), (3, 0), "two good steps, three overflows",
         "skipped += 1 for an overflow only")
    same(factors_of([True, True], 2.0**10, 5)[1].skipped, 0, "two good steps")


def seen(mask):
    """A mask as rows of 0 and 1, 1 where a query may look."""
    return [[[int(not hidden) for hidden in row] for row in one] for one in mask.tolist()]


@pytest.mark.ex("3.15")
def test_the_mask_of_a_row():
    """a token sees its own document, from its eos on, and no other"""
    for eos in (0, 9):
        ids = torch.tensor([[7, 7, eos, 8, eos]])
        mask = call(f"ids {ids.tolist()}, eos {eos}", packing_mask, ids, eos)
        same(tuple(mask.shape), (1, 5, 5), f"ids {ids.tolist()}, eos {eos}; the shape of the mask")
        same(seen(mask),
             [[[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]],
             f"ids {ids.tolist()}, eos {eos}; 1 where the mask is False",
             "the eos belongs to the document after it")
        if mask.dtype != torch.bool:
            pytest.fail(f"given {ids.tolist()}, got a mask of {mask.dtype}, wanted torch.bool", pytrace=False)


@pytest.mark.ex("3.15")
def test_rows_of_a_batch_are_apart():
    """each row has its own documents"""
    ids = torch.randint(1, 9, (3, 11))
    ids[0, 4] = ids[2, 2] = ids[2, 3] = 0
    document = [[row[:i + 1].count(0) for i in range(11)] for row in ids.tolist()]
    want = torch.tensor([[[a != b for b in row] for a in row] for row in document])
    same(call("three random rows", packing_mask, ids, 0), want,
         f"ids {show(ids[0])} and two more rows, eos 0",
         "the cumulative sum runs along the row")


@pytest.mark.ex("3.16")
def test_gpt2_small():
    """GPT-2 small needs 855 million FLOPs a token"""
    gpt2 = Config(vocab_size=50257, d_model=768, n_layers=12, n_heads=12, n_kv_heads=12, d_ff=3072,
                  max_len=1024, positions="learned", norm="layer", activation="gelu", qk_norm=False,
                  bias=True)
    N = 124_439_808 - 1024 * 768
    want = 6 * N + 12 * 12 * 768 * 1024
    got = call("GPT-2 small, T 1024", model_flops_per_token, gpt2, 1024)
    same(got, want, "GPT-2 small, T 1024", "6 N + 12 L H D T, without the table of positions",
         {"positions are looked up, not multiplied with": want + 6 * 1024 * 768,
          "attention is missing": 6 * N,
          "the forward pass alone": 2 * N + 4 * 12 * 768 * 1024}, rtol=1e-9)
    same(call("T 100", model_flops_per_token, gpt2, 100), 6 * N + 12 * 12 * 768 * 100, "GPT-2 small, T 100",
         "T is the length of the sequences, not the longest possible one", rtol=1e-9)


@pytest.mark.ex("3.16")
def test_an_untied_table_is_only_looked_up():
    """an untied embedding is looked up, a tied one is multiplied with too; heads may be wider than C / H"""
    shape = dict(vocab_size=50, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24, max_len=32,
                 head_width=12, qk_norm=False)
    blocks = 2 * (2 * 16 * 24 + 2 * 16 * 12 + 3 * 16 * 24) + 5 * 16   # q and o, k and v, feed-forward, norms
    want = 6 * (blocks + 50 * 16) + 12 * 2 * 2 * 12 * 8
    for tied, positions in ((True, "rope"), (False, "rope"), (True, "alibi"), (False, "none")):
        given = f"a small model, tied {tied}, positions {positions}, T 8"
        got = call(given, model_flops_per_token, Config(tied=tied, positions=positions, **shape), 8)
        same(got, want, given, "one table of V C is multiplied with, and only learned positions are a table",
             rtol=1e-9)


@pytest.mark.ex("3.17")
@pytest.mark.parametrize("n_steps, n_warmup, floor", [(6, 2, 0.1), (10, 0, 0.0), (9, 3, 0.5), (5, 3, 0.2)])
def test_a_straight_line_to_the_floor(n_steps, n_warmup, floor):
    """warm-up, then a straight line that ends at the floor and stays there"""
    want = []
    for step in range(n_steps + 3):
        line = 1 - (1 - floor) * (step - n_warmup) / (n_steps - 1 - n_warmup)
        want.append((step + 1) / n_warmup if step < n_warmup else max(line, floor))
    given = f"n_steps {n_steps}, n_warmup {n_warmup}, floor {floor}"
    got = [call(f"step {i}, {given}", linear, i, n_steps, n_warmup, floor) for i in range(n_steps + 3)]
    same(got, want, f"{given}, steps 0 to {n_steps + 2}",
         "from 1 at step n_warmup to floor at step n_steps - 1")


@pytest.mark.ex("3.17")
def test_a_warm_up_that_ends_in_the_last_step():
    """a run whose warm-up fills it has no line, and divides by nothing"""
    got = [call(f"step {i} of 4, warm-up of 3", linear, i, 4, 3, 0.2) for i in range(4)]
    same(got, [1 / 3, 2 / 3, 1.0, 1.0], "4 steps, n_warmup 3, floor 0.2",
         "one step is left, and it is step n_warmup")
    got = call("step 0 of 1", linear, 0, 1, 0, 0.2)
    if not math.isfinite(got):
        pytest.fail(f"given a run of one step, got {got}, wanted a finite number", pytrace=False)
