"""The forecast of chapter 3's model: made from the small runs alone; it says whether the model was there."""
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import main_forecast
from checkpoint import save_model
from chinchilla import Law, fit
from main_forecast import planned_tokens, print_outcome, write_forecast
from transformer import Config, Transformer
from workbench import write_json

LAW = Law(1.1, 60.0, 0.45, 300.0, 0.45)


FITS = {}


def fit_once(N, D, loss):
    """The fit of these runs, made by the first test that needs it."""
    key = b"".join(np.asarray(a).tobytes() for a in (N, D, loss))
    FITS[key] = FITS.get(key) or fit(N, D, loss)
    return FITS[key]


@pytest.fixture
def grids():
    return []


@pytest.fixture
def out(tmp_path, monkeypatch, grids):
    def small_runs(folder, cache, seed, grid, jobs):
        grids.append(grid)
        sizes = {32: 83_488, 64: 267_072, 96: 551_008}
        runs = [(sizes[width], steps * 1024) for width, steps in grid]
        return [dict(parameters=n, tokens=d, bits_per_byte=float(LAW.loss(n, d))) for n, d in runs]

    monkeypatch.setattr(main_forecast, "transformer_sweep", small_runs)
    monkeypatch.setattr(main_forecast, "fit", fit_once)
    write_json(tmp_path / "02_transformer" / "metrics.json", {"parameters": 935_296})
    return tmp_path


def test_runs_that_follow_a_law_forecast_what_it_says_of_the_larger_model(out):
    made = write_forecast(out, 0, 655_360, replicas=20)
    assert made["loss"] == pytest.approx(float(LAW.loss(935_296, 655_360)), rel=2e-3)
    assert made["low"] <= made["loss"] <= made["high"]
    assert made["best_so_far"] == min(row["bits_per_byte"] for row in made["rows"]) > made["loss"]
    assert json.loads((out / "05_scaling" / "main_forecast.json").read_text())["loss"] == made["loss"]


def test_the_forecast_says_whether_the_model_was_trained_already(out, capsys):
    assert write_forecast(out, 0, 655_360, replicas=5)["unseen"]
    (out / "03_training").mkdir()
    (out / "03_training" / "model.pt").touch()
    made = write_forecast(out, 0, 655_360, replicas=5)
    assert not made["unseen"]
    print_outcome(dict(made, loss=2.2, best_so_far=3.0), 2.0)
    said = capsys.readouterr().out
    assert "made after it was trained" in said and "error +10.0%" in said and "best run so far +50.0%" in said


def test_a_quick_forecast_is_made_from_a_few_short_runs(out, grids):
    write_forecast(out, 0, 655_360, quick=True, replicas=5)
    write_forecast(out, 0, 655_360, replicas=5)
    short, usual = (sum(steps for _, steps in grid) for grid in grids)
    assert len(grids[0]) == 6 and 5 * short < usual


@pytest.mark.parametrize("steps, size, again", [(640, 935_296, False), (320, 935_296, True),
                                                (640, 500_000, True)])
def test_the_forecast_of_before_stands_unless_another_model_was_trained(out, monkeypatch, grids, steps, size,
                                                                        again):
    """A forecast made once the model is there would be none."""
    before = write_forecast(out, 0, 655_360, replicas=5)
    folder = out / "05_scaling"
    write_json(folder / "main_forecast.json", before | {"loss": 7.5})
    save_model(out / "03_training" / "model.pt", Transformer(Config(vocab_size=300, d_model=32, n_layers=1)))
    settings = {"steps": steps, "batch": 8, "length": 128}
    write_json(out / "03_training" / "metrics.json", {"settings": settings})
    write_json(out / "02_transformer" / "metrics.json", {"parameters": size})
    chapter_5 = runpy.run_path(str(Path(__file__).parents[1] / "05_scaling" / "run.py"))
    names = chapter_5["real_text"].__globals__
    monkeypatch.setitem(names, "measure", lambda *_: {"bits_per_byte": 2.0})
    for name in ("print_rows", "describe"):
        monkeypatch.setitem(names, name, lambda *_: None)
    monkeypatch.setattr(names["figures"], "draw_skill", lambda *_: None)
    made = chapter_5["real_text"](chapter_5["Settings"](bootstraps=5), out, folder)
    assert len(grids) == 1 + again and made["unseen"] == (not again) and made["measured"] == 2.0
    assert (made["forecast"][0] == 7.5) == (not again)


def test_the_tokens_planned_are_those_of_chapter_3(tmp_path):
    np.arange(10_000, dtype=np.uint16).tofile(tmp_path / "train.bin")
    chapter_3 = runpy.run_path(str(Path(__file__).parents[1] / "03_training" / "run.py"))
    usual, quick, full = (chapter_3["Settings"](**chapter_3[name] if name else {})
                          for name in ("", "QUICK", "FULL"))
    for s, asked in ((usual, (False, False)), (quick, (True, False))):
        assert planned_tokens(tmp_path, *asked) == s.steps * s.batch * s.length
    assert full.epochs == 4 and full.batch * full.length == 4096
    assert planned_tokens(tmp_path, False, True) == 9 * 4096       # four passes over 10,000 tokens
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "train.bin")
    assert planned_tokens(tmp_path, False, True) == 4096           # one step at least
