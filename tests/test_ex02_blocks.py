"""Exercises 2.5 and 2.6: the feed-forward layer and the residual block."""

import pytest
import torch
import torch.nn.functional as F

from agreement import agree, same_gradients, unchanged
from feed_forward import FeedForward
from transformer import Block, Config

f64 = torch.float64


# 2.5 gated feed-forward


def layer(activation: str, C: int = 6, width: int = 10) -> FeedForward:
    """A float64 layer with random weights."""
    return FeedForward(Config(d_model=C, n_heads=1, n_kv_heads=1, d_ff=width, activation=activation)).double()


@pytest.mark.ex("2.5")
def test_swiglu_of_the_worked_example():
    """x = 1, gate 2, up 3, down 5: 5 * silu(2) * 3 = 26.42"""
    mlp, x = layer("swiglu", 2, 1), torch.tensor([[1.0, 0]], dtype=f64)
    mlp.gate_proj.weight.data[:] = 2
    mlp.up_proj.weight.data[:] = 3
    mlp.down_proj.weight.data[:] = 5

    def out(inside: torch.Tensor) -> torch.Tensor:
        return 5 * inside.expand(1, 2)

    gate, up = torch.tensor(2.0, dtype=f64), torch.tensor(3.0, dtype=f64)
    agree(mlp(x), out(F.silu(gate) * up), "x = (1, 0), gate weights 2, up weights 3, down weights 5",
          {"the activation belongs on the gate, not on up": out(gate * F.silu(up)),
           "the activation comes before the product": out(F.silu(gate * up)),
           "the gate needs its activation": out(gate * up),
           "gate and up are multiplied, not added": out(F.silu(gate) + up),
           "the gate is not used": out(F.silu(up)),
           "silu is gate * sigmoid(gate); use self.act": out(gate.sigmoid() * up),
           "the residual is added by the block, not here": out(F.silu(gate) * up) + x})


@pytest.mark.ex("2.5")
@pytest.mark.parametrize("activation", ["gelu", "relu", "relu2"])
def test_the_other_activations_have_no_gate(activation):
    """without a gate: down(act(up(x))), with the activation of the configuration"""
    mlp, x = layer(activation), 3 * torch.randn(2, 3, 6, dtype=f64)
    act = {"gelu": F.gelu, "relu": F.relu, "relu2": lambda u: F.relu(u) ** 2}
    wanted = {name: F.linear(f(F.linear(x, mlp.up_proj.weight)), mlp.down_proj.weight)
              for name, f in act.items()}
    try:
        got = mlp(x)
    except TypeError:
        pytest.fail(f"given activation {activation}, self.gate_proj (None) was called, wanted "
                    "down(act(up(x)))")
    agree(got, wanted[activation], f"activation {activation}",
          {"the activation is missing": F.linear(F.linear(x, mlp.up_proj.weight), mlp.down_proj.weight),
           **{f"this is {name}: use self.act": wrong for name, wrong in wanted.items()
              if name != activation}})


@pytest.mark.ex("2.5")
def test_swiglu_has_the_gradients_of_torch():
    """swiglu on (B, T, C): values and gradients of the input are torch's"""
    mlp, x = layer("swiglu"), torch.randn(2, 3, 6, dtype=f64)
    gate, up, down = (p.weight.detach() for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def theirs(x):
        return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)

    agree(mlp(x), theirs(x), "random numbers", {"the activation belongs on the gate, not on up":
                                                    F.linear(F.linear(x, gate) * F.silu(F.linear(x, up)),
                                                             down)})
    same_gradients(mlp, theirs, x)


# 2.6 residual block


class Times(torch.nn.Module):
    """Multiplies by a number and remembers what else it was given."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor, self.others = factor, None

    def forward(self, x, *others):
        self.others = others
        return self.factor * x


def toy_block(placement: str) -> Block:
    """First norm times 2, second norm times 3, attention times 10, feed-forward times 100."""
    block = Block(Config(d_model=4, n_heads=2, n_kv_heads=2, placement=placement), 0)
    block.input_layernorm, block.post_attention_layernorm = Times(2), Times(3)
    block.self_attn, block.mlp = Times(10), Times(100)
    return block


@pytest.mark.ex("2.6")
@pytest.mark.parametrize("placement, wanted", [("pre", 6321.0), ("post", 6666.0)])
def test_a_block_adds_both_branches_to_the_stream(placement, wanted):
    """norms of 2 and 3, attention of 10, feed-forward of 100: pre gives 6321, post 6666"""
    mistakes = {
        "pre": {
            "the norms are swapped": 21 + 10 + 100 * 2 * 31.0,
            "attention's branch is not added to x": 20 + 6000.0,
            "the feed-forward branch is not added to x": 6300.0,
            "x itself is never normalised in pre-norm: the stream must run through untouched": 3 * 21
            + 6300.0,
            "this is post-norm: look at self.pre": 6666.0,
            "both branches read the block's input; the second must read the sum": 1 + 20 + 300.0,
        },
        "post": {
            "post-norm normalises the sum, x + branch": 1 + 20 + 3 * 100 * 21.0,
            "this is pre-norm: look at self.pre": 6321.0,
            "the norms are swapped": 2 * 101 * 33.0,
            "attention's branch is not added to x": 3 * 101 * 20.0,
            "the feed-forward branch is not added": 3 * 100 * 22.0,
        },
    }
    agree(toy_block(placement)(torch.ones(1, 1, 4), None, None), torch.full((1, 1, 4), wanted),
          f"x = 1, placement {placement}",
          {sentence: torch.full((1, 1, 4), n) for sentence, n in mistakes[placement].items()})


@pytest.mark.ex("2.6")
def test_attention_gets_the_tables_and_the_cache():
    """attention is given cos, sin and the cache, in both placements"""
    for placement in ("pre", "post"):
        block = toy_block(placement)
        block(torch.ones(1, 1, 4), "cos", "sin", "cache")
        assert block.self_attn.others == ("cos", "sin", "cache"), (
            f"{placement}: attention got x and {block.self_attn.others}, wanted x, cos, sin and cache: "
            "without the cache, generation silently forgets the prompt")


@pytest.mark.ex("2.6")
def test_the_stream_of_the_layer_below_is_not_changed():
    """the block makes a new tensor instead of changing the one it was given"""
    for placement in ("pre", "post"):
        unchanged(lambda x: toy_block(placement)(x, None, None), torch.ones(1, 2, 4))


class Plus(torch.nn.Module):
    """Adds a number."""

    def __init__(self, number: float):
        super().__init__()
        self.number = number

    def forward(self, x, *others):
        return x + self.number


@pytest.mark.ex("2.6")
def test_in_post_norm_each_norm_follows_its_own_branch():
    """a first norm that adds 5 and a second that multiplies by 3 cannot be exchanged unseen"""
    block = toy_block("post")
    block.input_layernorm = Plus(5)
    agree(block(torch.ones(1, 1, 4), None, None), torch.full((1, 1, 4), 3 * (16 + 1600.0)),
          "post-norm: attention of 10, then a norm that adds 5; feed-forward of 100, then a norm of 3; x = 1",
          {"the norms are exchanged": torch.full((1, 1, 4), 33 + 3300 + 5.0)})
