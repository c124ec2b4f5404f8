"""The data order, the loss mask of sums, and bits per byte of a model that one can work out by hand."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from arithmetic import carries
from batches import TextBatches, inputs_and_targets, sum_rows
from bits_per_byte import bits_per_byte
from bpe import EOS, Tokenizer
from cross_entropy import IGNORE

BYTES = Tokenizer([])   # every byte is a token


def positions(batches, steps):
    """Where the inputs of some steps stand in a stream whose tokens are their own positions."""
    return torch.cat([batches(step)[0].flatten() for step in steps]).tolist()


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_covers_every_token_once(epoch):
    length, batch = 10, 4
    batches = TextBatches(np.arange(417, dtype=np.uint16), batch, length, seed=3)
    assert batches.n_rows == 40 and batches.steps_per_epoch == 10
    seen = positions(batches, range(10 * epoch, 10 * epoch + 10))
    assert sorted(seen) == list(range(min(seen), min(seen) + 400)), "one unbroken stretch, nothing twice"
    assert min(seen) < 17 and seen != sorted(seen)


@pytest.mark.parametrize("n", [40, 41, 49])
def test_no_token_is_out_of_reach(n):
    """The last target may be the last token: rows that all began below `length` left up to 9 unread."""
    batches = TextBatches(np.arange(n, dtype=np.uint16), 1, 10, seed=0)
    inputs, targets = zip(*(batches(step) for step in range(150 * batches.n_rows)))
    assert set(torch.cat(inputs).flatten().tolist()) == set(range(n - 1))
    assert set(torch.cat(targets).flatten().tolist()) == set(range(1, n))


def test_epochs_are_cut_at_different_offsets_in_different_orders():
    batches = TextBatches(np.arange(417, dtype=np.uint16), 4, 10, seed=0)
    orders = [positions(batches, range(10 * e, 10 * e + 10)) for e in range(6)]
    assert len({min(o) for o in orders}) > 1 and len({tuple(o) for o in orders}) == 6


def test_targets_are_the_next_tokens():
    batches = TextBatches(np.arange(417, dtype=np.uint16), 4, 10, seed=0)
    for step in range(25):
        x, y = batches(step)
        assert x.shape == y.shape == (4, 10) and x.dtype == torch.int64
        assert torch.equal(y, x + 1)


def test_a_batch_depends_on_seed_and_step_alone():
    tokens = np.arange(417, dtype=np.uint16)
    straight = TextBatches(tokens, 4, 10, seed=1)
    want = [straight(step) for step in range(23)]
    for step in (22, 0, 11, 10, 9, 11):
        torch.testing.assert_close(TextBatches(tokens, 4, 10, seed=1)(step), want[step])
        torch.testing.assert_close(straight(step), want[step])
    assert not torch.equal(TextBatches(tokens, 4, 10, seed=2)(0)[0], want[0][0])


def test_a_memory_mapped_stream_works_and_the_last_row_fits(tmp_path):
    np.arange(41, dtype="<u2").tofile(tmp_path / "t.bin")
    stream = np.memmap(tmp_path / "t.bin", dtype="<u2", mode="r")
    batches = TextBatches(stream, 3, 10, seed=0)
    for step in range(30):   # every offset below `length` turns up
        assert batches(step)[1].max() <= 40


def test_too_little_text_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="too few for a batch of 4 rows of 10"):
        TextBatches(np.arange(49), 4, 10, seed=0)


@pytest.mark.parametrize("n", [1, 2])
def test_inputs_and_targets_share_no_memory_that_a_mask_could_spoil(n):
    x, y = inputs_and_targets(torch.arange(4 * n).view(n, 4))
    y[:] = IGNORE
    assert x.tolist() == [[0, 1, 2], [4, 5, 6]][:n]


def test_sums_carry_loss_on_the_result_alone():
    x, y = sum_rows(BYTES, 6, set(), seed=0, step=0)
    assert x.shape == y.shape == (6, 13)
    for inputs, targets in zip(x.tolist(), y.tolist()):
        text = BYTES.decode(inputs[1:])
        a, rest = text.split("+")
        b, result = rest.split("=")
        assert inputs[0] == BYTES.special[EOS] and int(a[::-1]) + int(b[::-1]) == int(result[::-1])
        assert targets[:8] == [IGNORE] * 8
        assert BYTES.decode(targets[8:-1]) == result and targets[-1] == BYTES.special[EOS]


def test_a_banned_sum_is_never_shown():
    def pairs(banned):
        shown = set()
        for step in range(60):
            for row in sum_rows(BYTES, 32, banned, seed=0, step=step)[0].tolist():
                text = BYTES.decode(row[1:])
                shown.add((int(text[2::-1]), int(text[6:3:-1])))
        return shown
    free = pairs(set())
    banned = set(sorted(free)[::2])
    assert len(free) > 1500 and not pairs(banned) & banned
    assert all(carries(p) <= 1 for p in free)


def test_sums_depend_on_seed_and_step_alone():
    first = sum_rows(BYTES, 4, set(), 1, 2)
    torch.testing.assert_close(sum_rows(BYTES, 4, set(), 1, 2), first)
    assert not torch.equal(sum_rows(BYTES, 4, set(), 1, 3)[0], first[0])
    assert not torch.equal(sum_rows(BYTES, 4, set(), 2, 2)[0], first[0])


class Fixed(nn.Module):
    """A model that always gives the same logits; it notes how many predictions it was asked for."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.asked = nn.Parameter(torch.tensor(logits)), 0

    def forward(self, ids):
        self.asked += ids.numel()
        return self.logits.expand(*ids.shape, -1)


@pytest.mark.parametrize("n", [2, 21, 22, 41, 50])
def test_a_uniform_model_of_256_tokens_needs_8_bits_a_prediction(n):
    model = Fixed([0.0] * 256)
    got = bits_per_byte(model, np.zeros(n, dtype=np.uint16), n_bytes=n - 1, length=5, batch=2)
    assert math.isclose(got, 8.0, rel_tol=1e-5) and model.asked == n - 1


def test_bits_are_counted_over_bytes_and_the_first_token_is_not_predicted():
    quarter = [math.log(0.25), math.log(0.5), math.log(0.25)]
    tokens = np.array([1, 0, 1, 1, 2, 0, 1], dtype=np.uint16)   # six predictions: 9 bits
    for length in (2, 3, 4, 6, 128):
        got = bits_per_byte(Fixed(quarter), tokens, n_bytes=18, length=length)
        assert math.isclose(got, 0.5, rel_tol=1e-5)
