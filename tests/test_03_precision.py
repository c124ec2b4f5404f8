"""Chunked loss, parameter groups, SGD, low precision: against torch, and against the plain path."""
import pytest
import torch
from torch import nn

from adamw import AdamW
from chunked_loss import chunked_cross_entropy, loss_of_chunk
from cross_entropy import IGNORE, cross_entropy
from muon import Muon, muon_and_adamw
from parameter_groups import adamw_only, group_parameters, optimizer_bytes
from precision import LossScaler, choose_precision, lost_gradients, use_precision
from schedule import linear
from sgd import SGD
from transformer import Config, Transformer

CONFIG = Config(vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_len=32)


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_the_chunked_loss_has_the_value_and_gradients_of_torch(chunk):
    x = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(11, (3, 7))
    y[0, :4] = IGNORE
    want = nn.functional.cross_entropy((x @ table.T).flatten(0, 1), y.flatten())
    got = chunked_cross_entropy(x, table, y, chunk)
    torch.testing.assert_close(got, want.detach(), rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(3 * loss, (x, table)) for loss in (got, want)]
    torch.testing.assert_close(*grads)


def test_the_chunked_loss_of_ignored_targets_is_zero_and_so_is_its_gradient():
    x, table = torch.randn(4, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    loss = chunked_cross_entropy(x, table, torch.full((4,), IGNORE), 3)
    loss.backward()
    assert loss.item() == 0 and not x.grad.any() and not table.grad.any()


def test_the_chunked_loss_holds_only_one_chunk_of_logits(monkeypatch):
    sizes = []
    plain = loss_of_chunk
    monkeypatch.setattr("chunked_loss.loss_of_chunk",
                        lambda x, *rest: sizes.append(len(x)) or plain(x, *rest))
    chunked_cross_entropy(torch.randn(50, 4), torch.randn(9, 4), torch.randint(9, (50,)), 16)
    assert sizes == [16, 16, 16, 2]


def test_the_chunked_loss_survives_large_logits_and_refuses_a_second_derivative():
    x = torch.tensor([[200.0, 0.0], [0.0, -300.0]], requires_grad=True)
    table = torch.eye(2, requires_grad=True)
    loss = chunked_cross_entropy(x, table, torch.tensor([1, 0]))
    torch.testing.assert_close(loss.item(), 100.0)
    with pytest.raises(NotImplementedError, match="use cross_entropy_naive"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_the_gradient_of_the_chunked_loss_agrees_with_finite_differences():
    x, table = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    y = torch.tensor([1, IGNORE, 3, 0, 2])
    assert torch.autograd.gradcheck(lambda a, b: chunked_cross_entropy(a, b, y, 2), (x, table))


@pytest.mark.parametrize("momentum, decay", [(0.0, 0.0), (0.9, 0.0), (0.9, 0.1)])
def test_sgd_takes_the_steps_of_torch_over_hundreds_of_steps(momentum, decay):
    mine = [nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for shape in ((3, 4), (5,))]
    theirs = [nn.Parameter(p.detach().clone()) for p in mine]
    a, b = SGD(mine, 0.05, momentum, decay), torch.optim.SGD(theirs, 0.05, momentum)
    for step in range(300):
        g = torch.Generator().manual_seed(step)
        for p, q in zip(mine, theirs):
            p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64)
            q.grad = p.grad.clone()
        with torch.no_grad():   # torch adds the decay to the gradient; ours is decoupled, as AdamW's is
            for q in theirs:
                q.mul_(1 - 0.05 * decay)
        a.step()
        b.step()
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_in_one_group(tied):
    model = Transformer(Config(**{**vars(CONFIG), "tied": tied, "norm": "layer"}))
    groups = group_parameters(model)
    assert sum(len(g) for g in groups.values()) == len(list(model.parameters()))
    assert all(".layers." in n and n.endswith("proj.weight") for n in groups["matrix"])
    assert set(groups["table"]) == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert all(p.ndim == 1 for p in groups["vector"].values()) and any("norm" in n for n in groups["vector"])
    model.model.embed_tokens.weight.requires_grad_(False)
    assert "model.embed_tokens.weight" not in group_parameters(model)["table"]


def test_only_matrices_decay():
    model = Transformer(CONFIG)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in adamw_only(model, 0.1, weight_decay=0.5):
        optimizer.step()
    for name, p in model.named_parameters():
        factor = 0.95 if name in group_parameters(model)["matrix"] else 1.0
        torch.testing.assert_close(p.detach(), start[name] * factor, rtol=1e-5, atol=1e-7)


def test_what_optimizers_remember():
    p = [nn.Parameter(torch.zeros(10, 10))]
    sizes = [optimizer_bytes(o) for o in (SGD(p, 1), SGD(p, 1, 0.9), Muon(p, 1), AdamW(p, 1))]
    assert sizes == [0, 400, 400, 800]


def test_linear_schedule_by_hand():
    assert [round(linear(i, 6, 2, 0.1), 6) for i in range(8)] == [0.5, 1.0, 1.0, 0.7, 0.4, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("name, near", [("bf16", 0.03), ("fp16", 0.005)])
def test_low_precision_gives_nearly_the_loss_and_float32_gradients(name, near):
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    ids = torch.randint(64, (4, 17))

    def loss_and_grads():
        for p in model.parameters():
            p.grad = None
        loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])
    want, want_grads = loss_and_grads()
    use_precision(model, name)
    got, grads = loss_and_grads()
    assert got != want and abs(got - want) < near, "other digits, nearly the same loss"
    assert grads.dtype == torch.float32 and (grads - want_grads).norm() < 3 * near * want_grads.norm()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    use_precision(model, "fp32")
    assert loss_and_grads()[0] == want


def test_a_step_too_small_for_bf16_reaches_the_master_weights():
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    use_precision(model, "bf16")
    weight = model.model.layers[0].mlp.up_proj.weight
    start = weight.detach().clone()
    cross_entropy(model(torch.randint(64, (2, 8))), torch.randint(64, (2, 8))).backward()
    for optimizer in muon_and_adamw(model, 1e-6, 1e-6):
        optimizer.step()
    moved, seen = weight != start, weight.bfloat16() != start.bfloat16()
    assert moved.float().mean() > 0.9 and seen.float().mean() < 0.02


def test_unknown_formats_are_refused():
    with pytest.raises(ValueError, match="precision 'fp8' is unknown: choose one of auto, fp32, bf16, fp16"):
        use_precision(Transformer(CONFIG), choose_precision("fp8", torch.device("cpu")))
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"


def test_fp16_loses_small_gradients_that_a_scale_saves():
    lost = lost_gradients((1.0, 2.0**15, 2.0**32))
    assert lost[1.0][0] > 0.99 and lost[2.0**15][0] < 0.01 and lost[2.0**15][1] == 0 and lost[2.0**32][1] > 0


def test_the_scaler_halves_after_an_overflow_and_doubles_after_a_quiet_time():
    scaler, factors = LossScaler(8.0, quiet=3), []
    for finite in "110111111000000":
        scaler.update(finite == "1")
        factors.append(scaler.factor)
    assert factors == [8, 8, 4, 4, 4, 8, 8, 8, 16, 8, 4, 2, 1, 1, 1] and scaler.skipped == 7
    top = LossScaler(2.0**24, quiet=1)
    top.update(True)
    assert top.factor == 2.0**24
