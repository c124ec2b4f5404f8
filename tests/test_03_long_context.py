"""Rows with pass keys, and what long_context.py trains and measures."""
from pathlib import Path

import numpy as np
import pytest
import torch

import long_context
import stretch_trained
from bpe import EOS
from cross_entropy import IGNORE
from long_context import BASES, KINDS, LONG, SHORT, fit, measure
from pass_keys import DIGITS, Rows
from stretch_trained import KINDS as STRETCHES, stretched
from transformer import Config, Transformer


class Letters:
    """As much of a tokenizer as Rows asks for: digits are the ids 1 to 10, the end-of-text token is 0."""
    special = {EOS: 0}

    def encode(self, text: str) -> list[int]:
        return [1 + int(d) for d in text]


@pytest.fixture
def rows() -> Rows:
    return Rows(np.random.default_rng(0).integers(32, size=3000).astype(np.uint16), Letters(), seed=1)


def test_the_key_at_the_end_is_the_one_in_the_text(rows):
    x, y = rows.keys(3, 20, 24)
    assert x.shape == y.shape == (20, 24)
    assert (y[:, :-DIGITS] == IGNORE).all()
    whole = torch.cat((x, y[:, -1:]), 1)
    places = set()
    for row in whole.tolist():
        first, second = [i for i, token in enumerate(row) if token == 0]
        assert second == 24 - DIGITS and row[first + 1:first + 1 + DIGITS] == row[second + 1:]
        assert all(1 <= d <= 10 for d in row[second + 1:]) and first + DIGITS < second
        places.add(first)
    assert len(places) > 8 and torch.equal(y[:, -DIGITS:], whole[:, -DIGITS:])


def test_rows_depend_on_the_seed_and_the_step_alone(rows):
    other = Rows(rows.tokens, Letters(), seed=2)
    for kind in ("text", "keys"):
        make = getattr(rows, kind)
        torch.testing.assert_close(make(5, 4, 24), make(5, 4, 24), rtol=0, atol=0)
        assert not torch.equal(make(5, 4, 24)[0], make(6, 4, 24)[0])
        assert not torch.equal(make(5, 4, 24)[0], getattr(other, kind)(5, 4, 24)[0])


def test_text_is_a_piece_of_the_stream(rows):
    x, y = rows.text(0, 3, 24)
    stream = rows.tokens.tolist()
    for row, target in zip(x.tolist(), y[:, -1].tolist()):
        assert any(stream[i:i + 25] == [*row, target] for i in range(len(stream) - 24))


def test_the_lines_of_progress_name_the_kind(monkeypatch):
    labels = []

    class Known:
        vocab_size = 32
    for module in (long_context, stretch_trained):
        monkeypatch.setattr(module.Tokenizer, "load", lambda path: Known)
        monkeypatch.setattr(module, "fit", lambda *of: labels.append(of[-1]))
        for name in ("Rows", "open_tokens", "measure"):
            monkeypatch.setattr(module, name, lambda *of: None)
    for name in ("load_model", "stretched"):
        monkeypatch.setattr(stretch_trained, name, lambda *of: None)
    for kind in STRETCHES:
        stretch_trained.one_kind(kind, stretch_trained.Settings())
    assert labels == list(STRETCHES)
    for base in BASES:
        long_context.one_base(base, long_context.Settings(), Path(), 7)
    assert not [label for label in labels if "{" in label] and "no positions 7" in labels


def test_every_kind_reads_with_the_weights_of_its_base():
    assert [first for first, _ in KINDS.values() if first not in BASES] == []
    for first, then in KINDS.values():
        shape = dict(vocab_size=32, d_model=32, n_layers=1, d_ff=16, max_len=LONG, **first)
        trained, model = Transformer(Config(**shape)), Transformer(Config(**shape, **then))
        assert trained.state_dict().keys() == model.state_dict().keys()
        if then:   # stretched: RoPE turns less at the end of a long row, so that no angle is new
            turn = [torch.atan2(m.model.sin[-1, -1], m.model.cos[-1, -1]) for m in (trained, model)]
            assert turn[1] < turn[0]


def test_measuring_gives_a_loss_a_place_and_a_share_of_keys(rows):
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=32, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=16,
                               max_len=LONG))
    fit(model, rows, 2, SHORT, 1.0, "test")
    found = measure(model, rows, rows=8, width=64)
    x, y = rows.text(0, 8, LONG)
    want = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none")
    torch.testing.assert_close(torch.tensor(found["loss"]), want.view(8, 4, 64).mean((0, 2)).detach())
    assert found["keys"].keys() == {"64", "128", "256"} and all(0 <= v <= 1 for v in found["keys"].values())


def test_a_stretched_model_has_the_weights_and_within_windows_the_outputs_of_the_trained_one():
    torch.manual_seed(0)
    trained = Transformer(Config(vocab_size=32, d_model=32, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=16,
                                 max_len=128)).eval()
    ids = torch.randint(32, (1, 60))
    same = {kind: torch.allclose(stretched(trained, then)(ids), trained(ids), atol=1e-5)
            for kind, then in STRETCHES.items()}
    assert same == {"RoPE": True, "RoPE, interpolated": False, "RoPE, NTK": False, "RoPE, YaRN": False,
                    "RoPE, windows of 64": True}
    assert stretched(trained, {})(torch.zeros(1, 512, dtype=torch.long)).shape == (1, 512, 32)
