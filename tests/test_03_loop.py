"""The loop: what it reads and when, bad steps, rolling back, fp16's skipped steps, damaged states."""
import math
import os

import pytest
import torch

import train as loop
from checkpoint import before, keep_best, load_model, load_state, read, save_state, write
from cross_entropy import cross_entropy
from loss_log import Pending, first_bad
from muon import muon_and_adamw
from precision import LossScaler
from train import train
from transformer import Config, Transformer
from workbench import run_main

CONFIG = Config(vocab_size=32, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16, max_len=16)


def tiny():
    torch.manual_seed(0)
    return Transformer(CONFIG)


def batch_loss(model, step):
    ids = torch.randint(32, (4, 9), generator=torch.Generator().manual_seed(step))
    return cross_entropy(model(ids[:, :-1]), ids[:, 1:])


def run(model, n, bad=(), factor=float("nan"), **options):
    """n steps; the loss of the steps in `bad` is multiplied by `factor`."""
    def loss_of(step):
        return batch_loss(model, step) * (factor if step in bad else 1.0)
    return train(model, muon_and_adamw(model, 0.02, 0.01), loss_of, n, lambda i: 1.0, "tiny", **options)


def test_numbers_are_read_only_when_a_line_is_due(monkeypatch):
    reads = []
    read_them = Pending.read
    monkeypatch.setattr(Pending, "read", lambda self: reads.append(len(self.rows)) or read_them(self))
    log = run(tiny(), 40)
    assert reads == [40], "nothing was shown on the way (no terminal): all was read once, at the end"
    assert [row["step"] for row in log] == list(range(1, 41))
    assert all(math.isfinite(row["loss"]) for row in log)


def test_the_log_keeps_every_loss_and_the_numbers_beside_it():
    model = tiny()
    log = train(model, [], lambda step: (batch_loss(model, step), {"twice": torch.tensor(2.0 * step)}), 5,
                lambda i: 1.0, "tiny")
    want = [batch_loss(model, step).item() for step in range(5)]
    assert [row["loss"] for row in log] == want and [row["twice"] for row in log] == [0, 2, 4, 6, 8]
    assert all(type(value) in (int, float) for row in log for value in row.values())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step(tmp_path):
    with pytest.raises(ValueError, match="the loss of step 8 is not finite: lower the learning rate"):
        run(tiny(), 20, bad={7}, state=tmp_path / "s.pt", save_every=5)
    assert read(tmp_path / "s.pt")["step"] == 5, "the last good state is there"
    with pytest.raises(ValueError, match="gradient of step 4 is not finite"):
        model = tiny()
        w = next(model.parameters())
        train(model, [], lambda step: (w.sum() * 0).sqrt() if step == 3 else w.sum() * 0 + 1,
              6, lambda i: 1.0, "tiny")


def test_a_rolled_back_run_goes_on_from_the_last_state_without_the_steps_since(tmp_path):
    model = tiny()
    log = run(model, 20, bad={7}, state=tmp_path / "s.pt", save_every=5, on_bad="rollback")
    want = tiny()   # the same by hand: steps 5, 6 and 7 change nothing
    optimizers = muon_and_adamw(want, 0.02, 0.01)
    for step in [*range(5), *range(8, 20)]:
        for p in want.parameters():
            p.grad = None
        batch_loss(want, step).backward()
        loop.clip_gradients(want.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), want.state_dict().values()))
    assert math.isnan(log[7]["loss"]) and len(log) == 20, "the log keeps the bad one"


def test_a_rolled_back_run_that_is_killed_later_ends_in_the_same_bits(tmp_path):
    straight, broken = tiny(), tiny()
    options = dict(bad={7}, save_every=5, on_bad="rollback")
    run(straight, 20, state=tmp_path / "a.pt", **options)

    def stop(step):
        if step == 10:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        run(broken, 20, state=tmp_path / "b.pt", watch=stop, **options)
    again = tiny()
    run(again, 20, state=tmp_path / "b.pt", **options)
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), again.state_dict().values()))


def test_a_spike_is_a_loss_far_above_the_median_before_it():
    log = [{"step": i, "loss": 2.0, "grad_norm": 1.0} for i in range(60)]
    assert first_bad(log, 60, 3.0) is None
    log[55]["loss"] = 6.1
    assert first_bad(log, 60, 3.0) == 55 and first_bad(log, 4, 3.0) is None and first_bad(log, 60) is None
    log[20]["loss"] = 100.0
    assert first_bad(log, 60, 3.0) == 55, "the first fifty steps have no usual loss yet"
    log[3]["grad_norm"] = float("inf")
    assert first_bad(log, 60, 3.0) == 3


def test_a_negative_loss_as_of_a_policy_is_no_spike():
    log = [{"step": i, "loss": -0.02 + 0.001 * (i % 7), "grad_norm": 1.0} for i in range(60)]
    assert first_bad(log, 60) is None and first_bad(log, 60, 3.0) is None


@pytest.mark.parametrize("damage", ["cut", "one bit"])
def test_a_damaged_state_is_named_and_the_one_before_it_is_used(tmp_path, capsys, damage):
    straight, broken = tiny(), tiny()
    run(straight, 20, state=tmp_path / "a.pt", save_every=4)
    run(broken, 11, state=tmp_path / "b.pt", save_every=4)
    file = tmp_path / "b.pt"
    assert read(file)["step"] == 11 and read(before(file))["step"] == 8
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data if damage == "one bit" else data[:len(data) // 2])
    capsys.readouterr()
    again = tiny()
    run(again, 20, state=file, save_every=4)
    said = capsys.readouterr().out
    for words in ("b.pt is damaged", "using the state before it", "continuing at step 8"):
        assert words in said
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), again.state_dict().values()))


def test_every_bit_of_a_file_is_under_its_hash(tmp_path):
    write(tmp_path / "x.pt", {"a": torch.arange(5)})
    good = (tmp_path / "x.pt").read_bytes()
    for at in range(0, len(good), 37):
        data = bytearray(good)
        data[at] ^= 0x10
        (tmp_path / "x.pt").write_bytes(data)
        with pytest.raises(ValueError, match="x.pt is damaged"):
            read(tmp_path / "x.pt")


def test_a_run_killed_between_the_two_renames_finds_the_state_before(tmp_path):
    model = tiny()
    for step in (1, 2):
        save_state(tmp_path / "s.pt", "k", step, model, [], [])
    (tmp_path / "s.pt").unlink()   # state.pt became the one before, the new one has not taken its place yet
    assert load_state(tmp_path / "s.pt", "k", model, [])[0] == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_leaves_both_states(tmp_path, monkeypatch):
    model = tiny()
    for step in (1, 2):
        save_state(tmp_path / "s.pt", "k", step, model, [], [])

    (tmp_path / f"s.next.pt.{os.getpid()}.tmp").symlink_to("/dev/full")   # writing there is ENOSPC
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")   # else run_main starts the process again
    with pytest.raises(SystemExit, match="error: the disk is full: free some space and run the same"):
        run_main(lambda: save_state(tmp_path / "s.pt", "k", 3, model, [], []))
    assert [read(f)["step"] for f in (tmp_path / "s.pt", before(tmp_path / "s.pt"))] == [2, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_best_model_is_kept(tmp_path):
    model, path = tiny(), tmp_path / "best.pt"
    first = model.model.norm.weight.detach().clone()
    assert keep_best(path, model, 2.0)
    model.model.norm.weight.data += 1
    assert not keep_best(path, model, 2.5) and not keep_best(path, model, float("nan"))
    assert torch.equal(load_model(path).model.norm.weight, first)
    assert keep_best(path, model, 1.5) and torch.equal(load_model(path).model.norm.weight, first + 1)


def test_fp16_skips_steps_that_overflow_and_recovers(tmp_path):
    model = tiny()
    scaler = LossScaler(factor=2.0**16, quiet=4)
    start = [p.detach().clone() for p in model.parameters()]
    overflow = {2, 3}

    def loss_of(step):   # what fp16 would do: the loss is as it should be, the gradient overflows
        loss = batch_loss(model, step)
        if step in overflow:
            loss.register_hook(lambda grad: grad * float("inf"))
        return loss
    log = train(model, muon_and_adamw(model, 0.02, 0.01), loss_of, 12, lambda i: 1.0, "tiny", scaler=scaler)
    assert scaler.skipped == 2
    assert scaler.factor == 2.0**16 / 4 * 4, "halved twice, doubled twice in eight good steps"
    assert all(math.isfinite(row["loss"]) for row in log)
    assert all(p.isfinite().all() for p in model.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(start, model.parameters()))


def test_a_scaled_run_takes_the_steps_of_one_that_is_not():
    plain, scaled = tiny(), tiny()
    run(plain, 6)
    run(scaled, 6, scaler=LossScaler(factor=2.0**10))   # a power of two changes no digit
    torch.testing.assert_close(dict(scaled.state_dict()), dict(plain.state_dict()), rtol=1e-6, atol=1e-7)


def test_the_scale_of_the_loss_is_part_of_the_state(tmp_path):
    scaler = LossScaler(factor=2.0**10, quiet=3)
    run(tiny(), 5, state=tmp_path / "s.pt", scaler=scaler)
    again = LossScaler()
    run(tiny(), 5, state=tmp_path / "s.pt", scaler=again)
    assert (again.factor, again.since) == (scaler.factor, scaler.since) == (2.0**11, 2)
