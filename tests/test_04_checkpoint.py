"""parallel_3d.py's checkpoints: continued by the same run on any mesh, never by another run."""
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from checkpoint import write
from parallel_3d import Layout, Mesh, Settings, Trainer3D, train
from parallel_cases import small_batches, small_model
from thread_team import Alone
from token_file import write_tokens
from transformer import Config

SHAPE = Config(vocab_size=64, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=16, max_len=32)


def write_world(folder, seed=0, config=SHAPE):
    """The artifacts of chapters 1 and 2 for a tiny model."""
    write_tokens(folder / "01_tokenizer/train.bin", np.random.default_rng(seed).integers(0, 64, 2000))
    (folder / "02_transformer").mkdir(exist_ok=True)
    (folder / "02_transformer/config.json").write_text(json.dumps(asdict(config)))


@pytest.fixture
def settings(tmp_path):
    """A run of 2 steps that has ended."""
    write_world(tmp_path)
    settings = Settings(out=str(tmp_path), steps=2, batch=4, length=8)
    assert len(train(Alone(), settings)) == 2
    return settings


def test_the_checkpoint_lies_in_the_folder_of_the_results_unless_another_is_named(settings, tmp_path):
    assert (tmp_path / "04_systems/mesh/latest.json").exists()
    train(Alone(), replace(settings, checkpoint=str(tmp_path / "elsewhere")))
    assert (tmp_path / "elsewhere/latest.json").exists()


@pytest.mark.parametrize("change", [{}, {"steps": 3}, {"micro_batches": 2},
                                    {"save_every": 1, "patience": 9.0, "schedule": "gpipe"}])
def test_a_run_is_continued_with_more_steps_or_on_another_mesh(settings, change, capsys):
    more = len(train(Alone(), replace(settings, **change)))
    assert more == change.get("steps", 2) - 2 and "continuing at step 2" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"batch": 8}, {"length": 16}, {"seed": 1}, {"lr": 1e-3}])
def test_a_run_with_other_settings_starts_again_and_says_so(settings, change, capsys):
    losses = train(Alone(), replace(settings, **change))
    said = capsys.readouterr().out
    assert len(losses) == 2 and f"holds a run with another {next(iter(change))}: starting again" in said


def test_a_run_on_another_corpus_or_of_another_model_starts_again_and_says_so(settings, tmp_path, capsys):
    write_world(tmp_path, seed=1)   # as many tokens, other ones
    assert len(train(Alone(), settings)) == 2
    assert "another corpus: starting again" in capsys.readouterr().out
    write_world(tmp_path, seed=1, config=replace(SHAPE, d_ff=32))
    assert len(train(Alone(), settings)) == 2
    assert "another model: starting again" in capsys.readouterr().out
    assert len(train(Alone(), settings)) == 0


def test_code_that_has_changed_does_not_continue(settings, tmp_path, capsys):
    file = tmp_path / "04_systems/mesh/latest.json"
    file.write_text(file.read_text().replace(json.loads(file.read_text())["recipe"]["code"], "older"))
    assert len(train(Alone(), settings)) == 2
    assert "another code: starting again" in capsys.readouterr().out


def test_a_checkpoint_not_continued_is_invalid_before_its_files_change(settings, tmp_path, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr("parallel_3d.write", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(Alone(), replace(settings, seed=1))
    assert not (tmp_path / "04_systems/mesh/latest.json").exists()


@pytest.mark.parametrize("damage, sentence", [
    (lambda f: (f / "latest.json").write_text("[]"), "latest.json is no checkpoint of this code: delete it"),
    (lambda f: (f / "latest.json").write_text('{"step": 2}'),
     "latest.json is no checkpoint of this code: delete it"),
    (lambda f: (f / "latest.json").write_text(""), "latest.json is damaged"),
    (lambda f: (f / "step2-stage0-slice0.pt").unlink(), "is incomplete"),
    (lambda f: (f / "step2-stage0-slice0.pt").write_bytes(b""), "step2-stage0-slice0.pt is damaged"),
    (lambda f: write(f / "step2-stage0-slice0.pt", {}), "is incomplete"),
    (lambda f: write(f / "step2-stage0-slice0.pt", {"model.norm.weight": [1]}), "is incomplete"),
])
def test_a_damaged_checkpoint_is_refused_with_a_sentence(settings, tmp_path, damage, sentence):
    damage(tmp_path / "04_systems/mesh")
    with pytest.raises(ValueError, match=sentence):
        train(Alone(), settings)


def test_frozen_weights_are_saved_and_loaded_too(tmp_path):
    def trainer(seed):
        model = small_model()
        model.model.layers[0].requires_grad_(False)
        for p in model.parameters():
            p.data.add_(seed)
        return Trainer3D(model, Mesh(Alone(), Layout()), Layout(), 1e-2, 0.1)
    one, other = trainer(0), trainer(1)
    one.step(*small_batches(1)[0])
    one.save(tmp_path, 1)
    assert other.load(tmp_path) == 1
    for t in (one, other):
        t.step(*small_batches(2)[1])
    torch.testing.assert_close(dict(one.model.named_parameters()), dict(other.model.named_parameters()))
