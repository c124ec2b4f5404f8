"""Training on each device that there may be: the numbers of the CPU, resumed and masked in the same way."""
import copy

import pytest
import torch

from checkpoint import load_model, save_model
from chunked_loss import chunked_cross_entropy
from cross_entropy import IGNORE, cross_entropy
from fast_path import fast_optimizers, loss_on, use_fast_path
from muon import muon_and_adamw
from packing import documents_apart
from precision import LossScaler, use_precision
from prefetch import Prefetch
from train import train
from transformer import Config, Transformer

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
CONFIG = Config(vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_len=32)


def tiny(device="cpu"):
    torch.manual_seed(0)
    return Transformer(CONFIG).to(device)


def ids_of(step):
    return torch.randint(8, (4, 13), generator=torch.Generator().manual_seed(step % 3))


def run(model, n, fast=False, **options):
    """n steps on the model's device by batches made ahead; the losses."""
    device = next(model.parameters()).device
    ahead = Prefetch(lambda step: (ids_of(step)[:, :-1], ids_of(step)[:, 1:]), device)
    optimizers = (fast_optimizers if fast else muon_and_adamw)(model, 0.02, 0.01)
    log = train(model, optimizers, lambda step: loss_on(model, *ahead(step), fast), n, lambda i: 1.0,
                "device", **options)
    ahead.pool.shutdown()
    return torch.tensor([row["loss"] for row in log])


@DEVICES
def test_a_plain_run_has_the_losses_of_the_cpu(device):
    torch.testing.assert_close(run(tiny(device), 20), run(tiny(), 20), rtol=2e-2, atol=2e-2)


@DEVICES
def test_a_fast_run_has_the_losses_of_the_plain_one(device):
    model = tiny(device)
    use_fast_path(model, "fp32")
    plain = run(tiny(device), 20)
    assert plain[-1] < 0.8 * plain[0]      # it learns: equal losses say something
    torch.testing.assert_close(run(model, 20, fast=True), plain, rtol=2e-2, atol=2e-2)


@DEVICES
def test_the_losses_and_their_gradients_are_those_of_torch(device):
    x, table = (torch.randn(n, 8, device=device, requires_grad=True) for n in (20, 11))
    y = torch.randint(11, (20,), device=device)
    y[3:6] = IGNORE
    want = torch.nn.functional.cross_entropy(x @ table.T, y)
    grads = torch.autograd.grad(want, (x, table))
    for loss in (cross_entropy(x @ table.T, y), chunked_cross_entropy(x, table, y, 6)):
        torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.autograd.grad(loss, (x, table)), grads, rtol=1e-4, atol=1e-6)


@DEVICES
def test_a_run_is_continued_to_the_same_losses(device, tmp_path):
    straight = run(tiny(device), 12)
    run(tiny(device), 7, state=tmp_path / "s.pt", save_every=3)
    torch.testing.assert_close(run(tiny(device), 12, state=tmp_path / "s.pt", save_every=3), straight)
    model = tiny(device)
    save_model(tmp_path / "m.pt", model)
    assert next(load_model(tmp_path / "m.pt", device).parameters()).device.type == device


@DEVICES
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_sixteen_bits_train_nearly_as_well(device, name, fast):
    model = tiny(device)
    use_fast_path(model, name, compiled=False) if fast else use_precision(model, name)
    scaler = LossScaler() if name == "fp16" else None
    losses, want = run(model, 20, fast, scaler=scaler), run(tiny(device), 20)
    torch.testing.assert_close(losses, want, rtol=0.1, atol=0.1)


@DEVICES
@pytest.mark.parametrize("variant", [dict(), dict(positions="alibi"), dict(sinks=True),
                                     dict(attention="window")], ids=str)
def test_documents_are_kept_apart_on_both_paths_in_every_format(device, variant):
    """What stands in another document changes nothing; without the mask it does."""
    torch.manual_seed(0)
    plain = Transformer(Config(**{**vars(CONFIG), **variant})).to(device)
    a = torch.tensor([[0, 3, 4, 5, 0, 9, 8, 7]], device=device)
    b = torch.tensor([[0, 6, 6, 6, 0, 9, 8, 7]], device=device)
    for name in ("fp32", "bf16"):
        for fast in (False, True):
            model = copy.deepcopy(plain)
            use_fast_path(model, name, compiled=False) if fast else use_precision(model, name)
            with documents_apart(model, a, 0):
                one, other = model(a)[0, 4:], model(b)[0, 4:]
            torch.testing.assert_close(one, other, rtol=0, atol=0)
            assert not torch.equal(model(a)[0, 4:], model(b)[0, 4:])


@DEVICES
def test_a_step_without_any_target_moves_nothing(device):
    for fast in (False, True):
        model = tiny(device)
        if fast:
            use_fast_path(model, "fp32", compiled=False)
        before = [p.detach().clone() for p in model.parameters()]
        x = ids_of(0).to(device)
        loss = loss_on(model, x, torch.full_like(x, IGNORE), fast)
        loss.backward()
        for optimizer in (fast_optimizers if fast else muon_and_adamw)(model, 0.02, 0.01):
            optimizer.step()
        assert loss.item() == 0 and all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
