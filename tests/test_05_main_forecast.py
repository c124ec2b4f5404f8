"""The forecast of chapter 3's model: made from the small runs alone; it says whether the model was there."""
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import main_forecast
from chinchilla import Law
from main_forecast import planned_tokens, print_outcome, write_forecast
from workbench import write_json

LAW = Law(1.1, 60.0, 0.45, 300.0, 0.45)


@pytest.fixture
def out(tmp_path, monkeypatch):
    def small_runs(folder, cache, seed, grid, jobs):
        sizes = {32: 83_488, 64: 267_072, 96: 551_008}
        runs = [(sizes[width], steps * 1024) for width, steps in grid]
        return [dict(parameters=n, tokens=d, bits_per_byte=float(LAW.loss(n, d))) for n, d in runs]

    monkeypatch.setattr(main_forecast, "transformer_sweep", small_runs)
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


def test_the_tokens_planned_are_those_of_chapter_3(tmp_path):
    np.arange(10_000, dtype=np.uint16).tofile(tmp_path / "train.bin")
    chapter_3 = runpy.run_path(str(Path(__file__).parents[1] / "03_training" / "run.py"))
    usual, quick, full = (chapter_3["Settings"](**chapter_3[name] if name else {})
                          for name in ("", "QUICK", "FULL"))
    for s, asked in ((usual, (False, False)), (quick, (True, False))):
        assert planned_tokens(tmp_path, *asked) == s.steps * s.batch * s.length
    assert full.epochs == 4 and full.batch * full.length == 4096
    assert planned_tokens(tmp_path, False, True) == 9 * 4096       # four passes over 10,000 tokens
