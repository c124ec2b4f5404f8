"""Rows in one order for any batch and any number of ranks; documents that share a row; batches made ahead."""
import threading

import numpy as np
import pytest
import torch

from accumulation import accumulate
from attention import attend
from cross_entropy import cross_entropy
from muon import muon_and_adamw
from packing import documents_apart, packing_mask
from prefetch import Prefetch
from row_stream import RowStream
from transformer import Config, Transformer

CONFIG = Config(vocab_size=32, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=16, max_len=32)
STREAM = np.arange(103, dtype=np.uint16)


def test_any_batch_size_and_any_number_of_ranks_take_the_same_rows_in_the_same_order():
    one = RowStream(STREAM, 10, seed=3)
    want = one.take(0, 48)[0]
    assert torch.equal(torch.cat([RowStream(STREAM, 10, 3).take(i, 1)[0] for i in range(48)]), want)
    later = [one.take(8 + 4 * i, 4)[0] for i in range(10)]
    changed = torch.cat([RowStream(STREAM, 10, 3).take(0, 8)[0], *later])
    assert torch.equal(changed, want), "the batch was halved after the first step"
    for world in (2, 3, 6):
        for first in (0, 12):
            parts = [RowStream(STREAM, 10, 3).take(first, 12, rank, world)[0] for rank in range(world)]
            together = torch.stack(parts, 1).flatten(0, 1)   # rank r has rows r, r + world, ...
            assert torch.equal(together, want[first:first + 12])


def test_a_run_goes_on_with_the_same_weights_after_its_batch_and_its_ranks_have_changed():
    """Steps of 12 rows: one process, rows cut in micro-batches, ranks whose gradients are summed."""
    def trained(ways):
        torch.manual_seed(0)
        model, position = Transformer(Config(**{**vars(CONFIG), "vocab_size": 103})).double(), 0
        optimizers = muon_and_adamw(model, 0.02, 0.01)
        for world, pieces in ways:   # a fresh stream each time, as after a restart
            rows = RowStream(STREAM, 10, seed=3)
            batches = [rows.take(position, 12, rank, world) for rank in range(world)]
            micro = [p for x, y in batches for p in zip(x.chunk(pieces), y.chunk(pieces))]
            accumulate(model, lambda x, y: cross_entropy(model(x), y), micro)
            for optimizer in optimizers:
                optimizer.step()
            position += 12
        return model.state_dict()

    want, got = trained([(1, 1)] * 6), trained([(1, 1), (1, 4), (2, 1), (3, 2), (6, 1), (1, 12)])
    torch.testing.assert_close(dict(got), dict(want), rtol=1e-7, atol=1e-9)


def test_an_epoch_of_the_stream_reaches_nearly_every_token_and_epochs_differ():
    rows = RowStream(STREAM, 10, seed=0)
    epochs = [rows.take(e * rows.n_rows, rows.n_rows) for e in range(60)]
    for inputs, targets in epochs:
        assert torch.equal(targets, inputs + 1) and targets.max() <= 102
        assert len(set(targets.flatten().tolist())) > 85
    assert len({tuple(x[:, 0].tolist()) for x, _ in epochs}) == 60
    assert set(torch.cat([y for _, y in epochs]).flatten().tolist()) == set(range(1, 103))


def test_rows_can_begin_where_documents_do():
    eos = 0
    documents = [[eos, *range(10 * d + 1, 10 * d + 2 + d)] for d in range(1, 8)]
    stream = np.array([t for d in documents for t in d] + [eos])
    rows = RowStream(stream, 6, seed=1, eos=eos)
    assert rows.n_rows == 7
    x, _ = rows.take(0, 7)
    firsts = {tuple(r[:2]) for r in x.tolist()}
    assert {(eos, 10 * d + 1) for d in range(1, 8)} == firsts, "each document once, from its beginning"
    with pytest.raises(ValueError, match="no document begins"):
        RowStream(np.arange(1, 50), 6, 0, eos=0)


def test_bad_requests_for_rows_are_one_sentence():
    with pytest.raises(ValueError, match="5 tokens do not fill one row of 5"):
        RowStream(np.arange(5), 5, 0)
    with pytest.raises(ValueError, match="6 rows do not divide among 4 processes: take 8"):
        RowStream(STREAM, 10, 0).take(0, 6, 0, 4)
    x, y = RowStream(np.arange(6), 5, 0).take(0, 1)
    assert x.tolist() == [[0, 1, 2, 3, 4]] and y.tolist() == [[1, 2, 3, 4, 5]]


def test_the_packing_mask_on_a_row_worked_by_hand():
    mask = packing_mask(torch.tensor([[7, 7, 0, 8, 0]]), eos=0)[0]
    seen = [[int(not hidden) for hidden in row] for row in mask.tolist()]
    assert seen == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("positions", ["rope", "alibi", "none"])
def test_documents_apart_are_computed_as_if_each_were_alone(positions):
    torch.manual_seed(0)
    model = Transformer(Config(**{**vars(CONFIG), "positions": positions})).double()
    pieces = [[0, 3, 4, 5], [0, 9], [0, 7, 8, 9, 10, 11]]
    ids = torch.tensor([[t for piece in pieces for t in piece]])
    with documents_apart(model, ids, eos=0):
        together = model(ids)[0]
    alone = torch.cat([model(torch.tensor([piece]))[0] for piece in pieces])
    near = 1e-4 if positions == "rope" else 1e-9   # the angles' tables are float32
    torch.testing.assert_close(together, alone, rtol=near, atol=near)
    assert not torch.allclose(model(ids)[0], alone), "without the mask they see each other"
    assert all(layer.self_attn.attend is attend for layer in model.model.layers), "the model is as it was"


def test_batches_made_ahead_are_those_made_in_place():
    made = []

    def make(step):
        made.append((step, threading.current_thread() is threading.main_thread()))
        return torch.tensor([step]), (torch.tensor([step * 2.0]),)
    ahead = Prefetch(make, torch.device("cpu"), depth=2)
    for step in (0, 1, 2, 7, 8, 3):
        x, (y,) = ahead(step)
        assert x.item() == step and y.item() == 2 * step
    assert not any(on_main for _, on_main in made)
    ahead.pool.shutdown()


def test_an_error_on_the_thread_comes_out_where_the_batch_is_asked_for():
    ahead = Prefetch(lambda step: 1 // (step - 2), torch.device("cpu"))
    ahead.device = None
    with pytest.raises(ZeroDivisionError):
        ahead(2)
    ahead.pool.shutdown()
