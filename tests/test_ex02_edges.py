"""Exercises of chapter 2 at their edges: other types, large scores, long and single rows."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from agreement import agree, same_gradients
from attention import attend, causal_mask, repeat_heads, softmax, softmax_gradient
from count import flops_per_token
from generate import choose
from mixture_of_experts import route
from normalization import RMSNorm
from positions import alibi_bias, apply_rope, rope_tables
from rope_scaling import yarn_frequencies
from safetensors_file import pack_header
from sliding_window import window_mask
from test_ex02_attention import make, reference
from test_ex02_blocks import layer, toy_block
from test_ex02_positions import penalty, turned
from test_ex02_variants import latent_layer, yarn
from transformer import Config

f64 = torch.float64
EXACT = dict(rtol=1e-11, atol=1e-11)   # what float64 gives in any order of operations, and float32 does not


@pytest.mark.ex("2.1")
def test_small_weights_are_small_and_not_cut():
    """a score of -90 beside a 0 weighs e^-90, one of minus infinity nothing, in rows of any length"""
    x = torch.tensor([[0.0, -30, -60, -90, -math.inf, -1, -2, -3]], dtype=f64)
    agree(softmax(x), F.softmax(x, -1), f"{x.tolist()}", ask="cut no score off: e^-90 is a number",
          atol=0.0, rtol=1e-9)
    x = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 800]], dtype=f64)
    agree(softmax(x), F.softmax(x, -1), f"{x.tolist()}", ask="the largest may stand anywhere in the row",
          atol=1e-9)
    agree(softmax(torch.tensor([[3.0], [-2.0]])), torch.ones(2, 1), "two rows of one score",
          ask="one score weighs 1")


@pytest.mark.ex("2.1")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, f64])
def test_weights_have_the_type_of_the_scores(dtype):
    """scores in bfloat16 or float16 give weights of the same type, and float64 its full precision"""
    x = torch.randn(3, 9).to(dtype)
    off = 8 * torch.finfo(dtype).eps
    agree(softmax(x), F.softmax(x, -1), f"random scores in {dtype}", atol=off, rtol=off)


@pytest.mark.ex("2.2")
def test_a_long_mask_hides_all_of_the_future():
    """150 tokens: every key after the query is hidden, near and far"""
    for T, S in ((150, 150), (3, 150)):
        want = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
        agree(causal_mask(T, S), want, f"{T} queries and {S} keys",
              ask="keys hundreds of places ahead are hidden too")


@pytest.mark.ex("2.3")
def test_rms_norm_keeps_the_precision_of_its_input():
    """numbers in float64 are normalised in float64"""
    x, gain = torch.randn(2, 3, 7, dtype=f64), torch.randn(7, dtype=f64)
    got = torch.func.functional_call(RMSNorm(7, 1e-5), {"weight": gain}, (x,))
    agree(got, F.rms_norm(x, (7,), gain, 1e-5), "float64", ask="do not go through float32", **EXACT)


@pytest.mark.ex("2.4")
def test_one_key_head_serves_eight_query_heads_in_any_type():
    """one key head for eight query heads, in float64, float32 and bfloat16: values and gradients"""
    for dtype in (f64, torch.float32, torch.bfloat16):
        x = torch.randn(2, 1, 3, 4, dtype=f64).to(dtype)
        agree(repeat_heads(x, 8), x.expand(2, 8, 3, 4), f"1 key head, 8 query heads, {dtype}", **EXACT)
    same_gradients(lambda x: repeat_heads(x, 8), lambda x: x.expand(2, 8, 3, 4),
                   torch.randn(2, 1, 3, 4, dtype=f64))


@pytest.mark.ex("2.4")
def test_long_sequences_are_repeated_whole():
    """two hundred tokens, one or three of many heads"""
    for shape, n in (((1, 2, 200, 3), 6), ((2, 1, 70, 2), 5)):
        x = torch.randn(shape, dtype=f64)
        want = torch.stack([x[:, i // (n // shape[1])] for i in range(n)], 1)
        agree(repeat_heads(x, n), want, f"x {shape}, {n} heads", ask="each head stays whole", **EXACT)


@pytest.mark.ex("2.5")
@pytest.mark.parametrize("activation", ["swiglu", "gelu", "relu2"])
def test_large_numbers_are_not_cut(activation):
    """inputs a hundred times as large: values and gradients, with and without a gate"""
    mlp, x = layer(activation), 100 * torch.randn(1, 3, 6, dtype=f64)
    up, down = mlp.up_proj.weight.detach(), mlp.down_proj.weight.detach()

    def theirs(x):
        hidden = F.linear(x, up)
        if activation == "swiglu":
            hidden = F.silu(F.linear(x, mlp.gate_proj.weight.detach())) * hidden
        else:
            hidden = F.gelu(hidden) if activation == "gelu" else F.relu(hidden) ** 2
        return F.linear(hidden, down)

    agree(mlp(x), theirs(x), f"{activation}, one text of three tokens, inputs of about 100",
          ask="nothing is clamped")
    same_gradients(mlp, theirs, x)


@pytest.mark.ex("2.6")
@pytest.mark.parametrize("placement, slope", [("pre", 6321.0), ("post", 6666.0)])
def test_gradients_flow_through_both_branches(placement, slope):
    """the gradient goes through the stream and through both branches"""
    block, x = toy_block(placement), torch.randn(1, 2, 4, requires_grad=True)
    (got,) = torch.autograd.grad(block(x, None, None).sum(), x)
    agree(got, torch.full((1, 2, 4), slope), f"placement {placement}, the gradient",
          ask="is a .detach() in the way?")


@pytest.mark.ex("2.7")
def test_draws_at_low_temperature_and_far_from_zero():
    """logits of -1000, 0 and 1000 with a difference of 0.25, drawn at temperature 0.25: still 27% and 73%"""
    for middle in (-1000.0, 0.0, 1000.0):
        logits = torch.tensor([middle, middle + 0.25]).expand(8000, 2)
        try:
            share = choose(logits, 0.25).float().mean()
        except RuntimeError as error:
            pytest.fail(f"given the logits {logits[0].tolist()} and temperature 0.25, it raised '{error}'")
        agree(share, F.softmax(torch.tensor([0.0, 1.0]), -1)[1],
              f"logits {logits[0].tolist()}, temperature 0.25, the share of token 1", atol=0.03,
              ask="0 alone is greedy; the differences of logits count, wherever they lie")


@pytest.mark.ex("2.8")
def test_one_position_is_a_row_and_any_base_counts():
    """the tables of a single position have the shape (1, D/2), and the base may be any number"""
    cos, sin = rope_tables(1, 6)
    agree(cos, torch.ones(1, 3), "1 position, head width 6: cos")
    agree(sin, torch.zeros(1, 3), "1 position, head width 6: sin")
    angle = torch.arange(5, dtype=f64)[:, None] * 8765.4 ** -torch.tensor([0, 0.5], dtype=f64)
    agree(rope_tables(5, 4, 8765.4)[1], angle.sin().float(), "base 8765.4", ask="the base is not rounded")


@pytest.mark.ex("2.9")
def test_alibi_goes_on_far_back():
    """the bias grows with the distance, 150 tokens back and further"""
    agree(alibi_bias(2, 3, 150), penalty(2, 3, 150), "2 heads, 3 queries, 150 keys",
          ask="no distance is the last")


@pytest.mark.ex("2.11")
def test_a_rotation_keeps_precision_and_gradients():
    """float64 is turned in float64, on 40 positions"""
    x, angle = torch.randn(1, 2, 40, 6, dtype=f64), torch.randn(40, 3, dtype=f64)
    got = apply_rope(x, angle.cos(), angle.sin())
    agree(got, turned(x, angle), "40 positions in float64", ask="do not go through float32", **EXACT)


@pytest.mark.ex("2.12")
def test_attention_over_many_keys_and_large_scores():
    """150 tokens, scores of several hundred, and the gradient of a bias"""
    q, k, v = (torch.randn(1, 2, 150, 4, dtype=f64) for _ in range(3))
    agree(attend(q, k, v), reference(q, k, v), "150 tokens", ask="the future is hidden far ahead, too",
          **EXACT)
    q, k, v = 30 * torch.randn(1, 2, 9, 4, dtype=f64), 30 * torch.randn(1, 2, 9, 4, dtype=f64), v[:, :, :9]
    agree(attend(q, k, v), reference(q, k, v), "scores of about 1000", ask="no score is cut off", atol=1e-9)
    q, k, v = (torch.randn(1, 2, 4, 4, dtype=f64) for _ in range(3))
    same_gradients(lambda bias: attend(q, k, v, bias), lambda bias: reference(q, k, v, bias),
                   torch.randn(2, 4, 4, dtype=f64))


@pytest.mark.ex("2.12")
def test_one_head_has_a_bias_too():
    """a single head, one row or two, with a bias"""
    for B in (1, 2):
        q, k, v = (torch.randn(B, 1, 5, 4, dtype=f64) for _ in range(3))
        bias = torch.randn(1, 5, 5, dtype=f64)
        scores = (q @ k.mT / 2 + bias).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        agree(attend(q, k, v, bias), F.softmax(scores, -1) @ v, f"B {B}, one head, a bias",
              ask="add the bias", **EXACT)


@pytest.mark.ex("2.13")
def test_the_layer_calls_its_own_attend():
    """the layer calls self.attend, which chapter 4 replaces by one that works on several machines"""
    made, given = make(qk_norm=False), []

    def ones(q, k, v, bias=None):
        given.append((tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return torch.ones_like(q)

    made.attend, angle = ones, torch.zeros(5, 2, dtype=f64)
    got = made(torch.randn(2, 5, 24, dtype=f64), angle.cos(), angle.sin())
    assert given, "a layer whose own attend was replaced called it 0 times, wanted once"
    assert given == [((2, 6, 5, 4),) * 3], (
        f"self.attend was given q, k and v of shapes {given}, wanted (2, 6, 5, 4)")
    agree(got, F.linear(torch.ones(2, 5, 24, dtype=f64), made.o_proj.weight),
          "a self.attend that returns ones")


@pytest.mark.ex("2.13")
def test_one_token_many_tokens_and_two_rows():
    """one token and ninety, two rows that differ, in float64 to its last digits"""
    made = make(qk_norm=True)
    for T in (1, 90):
        x, angle = torch.randn(2, T, 24, dtype=f64), torch.randn(T, 2, dtype=f64)
        q, k, v = (p(x).view(2, T, -1, 4) for p in (made.q_proj, made.k_proj, made.v_proj))
        q, k, v = (h.transpose(1, 2) for h in (made.q_norm(q), made.k_norm(k), v))
        q, k = apply_rope(q, angle.cos(), angle.sin()), apply_rope(k, angle.cos(), angle.sin())
        group = q.shape[1] // k.shape[1]
        want = reference(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
        want = made.o_proj(want.transpose(1, 2).reshape(2, T, 24))
        agree(made(x, angle.cos(), angle.sin()), want, f"2 rows of {T} tokens",
              ask="each row and token alike", **EXACT)


@pytest.mark.ex("2.14")
def test_the_window_hides_all_that_is_far():
    """150 tokens and a window of 3: keys a hundred places back are hidden too"""
    for T, S in ((150, 150), (2, 150)):
        want = torch.ones(T, S, dtype=torch.bool).tril(S - T - 3)
        agree(window_mask(T, S, 3), want, f"{T} queries, {S} keys, window 3", ask="all older keys are hidden")


@pytest.mark.ex("2.14")
@pytest.mark.parametrize("T, S, window", [(3, 1100, 1000), (1100, 1100, 1), (2, 5, 1), (4, 4, 100)])
def test_windows_of_one_and_of_a_thousand(T, S, window):
    """a window of one token, one of a thousand, and one that hides nothing"""
    want = torch.tensor([[S - T + i - j >= window for j in range(S)] for i in range(T)])
    agree(window_mask(T, S, window), want, f"{T} queries, {S} keys, window {window}",
          ask="True where a key is `window` or more places behind its query")


@pytest.mark.ex("2.15")
@pytest.mark.parametrize("sigmoid", [False, True])
def test_large_logits_are_routed(sigmoid):
    """logits of several hundred overflow nowhere, and one token is a row of one"""
    logits = torch.tensor([[200.0, 199.0, -300.0, 0.0]])
    weights, chosen, scores = route(logits, torch.zeros(4), 2, sigmoid)
    want = logits.sigmoid() if sigmoid else F.softmax(logits, -1)
    agree(scores, want, f"logits {logits.tolist()}, sigmoid={sigmoid}: scores",
          {"the softmax goes over the experts of a token": F.softmax(logits, 0)},
          ask="exp(200) is too large for float32")
    picked = want.gather(-1, chosen)
    agree(weights, picked / picked.sum(-1, keepdim=True),
          f"logits {logits.tolist()}, sigmoid={sigmoid}: weights")


@pytest.mark.ex("2.18")
def test_absorbing_keeps_the_precision():
    """queries and latents in float64 give what float64 can give"""
    made = latent_layer(3, 4, 5, 2)
    parts = [torch.randn(2, *shape, dtype=f64) for shape in ((3, 4, 4), (3, 4, 2), (1, 6, 5), (1, 6, 2))]
    agree(made.mix_absorbed(*parts), made.mix(*parts), "float64", ask="do not go through float32",
          rtol=1e-9, atol=1e-9)


@pytest.mark.ex("2.19")
@pytest.mark.parametrize("case", [(8, 1e4, 4.0, 6, 32, 1), (64, 1e4, 8.0, 4096, 8, 2),
                                  (8, 1e4, 4.0, 1e6, 32, 1), (8, 1e4, 4.0, 1e9, 1e8, 1)])
def test_the_ramp_at_its_limits(case):
    """a ramp of no length, one that ends behind the last pair, and one that would leave 0 ... D - 1"""
    agree(yarn_frequencies(*case[:4], often=case[4], seldom=case[5]), yarn(*case), f"{case}",
          ask="low is at least 0, high at most D - 1, and where they are equal divide by 0.001")


@pytest.mark.ex("2.20")
def test_the_gradient_of_three_dimensional_tables():
    """(2, 3, 5), (1, 1, 1) and rows that are nearly sure: each row has a sum of its own"""
    for shape in ((2, 3, 5), (4, 1, 3), (1, 1, 1)):
        x, grad = 8 * torch.randn(shape, dtype=f64), 100 * torch.randn(shape, dtype=f64)
        x.requires_grad_()
        p = F.softmax(x, -1)
        want = torch.autograd.grad(p, x, grad)[0]
        agree(softmax_gradient(p.detach(), grad), want, f"a table {shape}", ask="sum over the last dimension",
              **EXACT)


@pytest.mark.ex("2.21")
def test_odd_names_and_shapes_have_their_places():
    """names that are no ASCII, a single number, no numbers at all, and an order that is not the alphabet's"""
    tensors = [("größe", torch.zeros(3)), ("b", torch.tensor(1.0, dtype=f64)), ("none", torch.zeros(0, 3)),
               ("a", torch.zeros(2, dtype=torch.int16))]
    want = {"größe": ("F32", [3], [0, 12]), "b": ("F64", [], [12, 20]), "none": ("F32", [0, 3], [20, 20]),
            "a": ("I16", [2], [20, 24])}
    got = pack_header(tensors)
    n = int.from_bytes(got[:8], "little")
    assert n == len(got) - 8 and n % 8 == 0, f"{len(got) - 8} bytes follow, the first say {n}: count bytes"
    entries = json.loads(got[8:])
    found = {name: (e["dtype"], e["shape"], e["data_offsets"]) for name, e in entries.items()}
    assert list(found.items()) == list(want.items()), f"given {list(want)}, got {found}, wanted {want}"


@pytest.mark.ex("2.21")
def test_no_spaces_are_added_where_none_are_needed():
    """at most seven spaces follow the JSON, and none where its length is a multiple of 8"""
    for n in range(1, 9):
        got = pack_header([("w" * n, torch.zeros(2))])[8:]
        text = got.rstrip(b" ")
        assert len(got) == -(-len(text) // 8) * 8, f"{len(text)} bytes of JSON became {len(got)} bytes"


@pytest.mark.ex("2.21")
def test_several_entries_of_metadata():
    """three entries of metadata, in the header whole"""
    metadata = {"format": "pt", "step": "700", "note": "größer"}
    got = json.loads(pack_header([("w", torch.zeros(2))], metadata)[8:])
    assert got.get("__metadata__") == metadata, f"given {metadata}, the header says {got.get('__metadata__')}"


@pytest.mark.ex("2.22")
def test_large_models_are_counted_exactly():
    """the 405B model of Llama 3 at 8,192 tokens, and widths that are no multiple of anything"""
    for C, L, H, K, F_, V, T in ((16384, 126, 128, 8, 53248, 128256, 8192), (30, 1, 3, 1, 7, 11, 1000)):
        config = Config(vocab_size=V, d_model=C, n_layers=L, n_heads=H, n_kv_heads=K, d_ff=F_, max_len=T)
        kv = K * (C // H)
        want = L * (4 * C * C + 4 * C * kv + 4 * T * C + 6 * C * F_) + 2 * C * V
        got = flops_per_token(config, T)
        assert type(got) is int and got == want, f"C {C}, {L} layers, T {T}: got {got!r}, wanted {want}"
