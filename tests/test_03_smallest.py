"""Chapters 1 to 3 with the smallest numbers that their commands accept, on a corpus of one line."""
import importlib.util
import sys
from pathlib import Path

import pytest

from workbench import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent


def run(folder: str, *words: object) -> None:
    """`python FOLDER/run.py words`, in this process."""
    spec = importlib.util.spec_from_file_location(f"smallest_{folder}", ROOT / folder / "run.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.argv = [folder, *map(str, words)]
    module.main()


def test_the_smallest_settings_train(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    (tmp_path / "one line.txt").write_text(" ".join(map(str, range(5000))))
    out = tmp_path / "my results"
    run("01_tokenizer", "--out", out, "--corpus", tmp_path / "one line.txt", "--vocab-size", 260,
        "--names", 2, "--held-out", 1, "--real-chars", 20_000, "--exposures", 1, "--question-exposures", 1,
        "--test-sums", 1, "--demonstrations", 1, "--careless-share", 0)
    run("02_transformer", "--out", out, "--d-model", 2, "--n-layers", 1, "--n-heads", 1, "--n-kv-heads", 1,
        "--d-ff", 1)
    smallest = ("--out", out, "--steps", 1, "--batch", 1, "--length", 1, "--sum-steps", 0, "--sum-batch", 1,
                "--sum-rows", 1, "--sum-weight", 0)
    for rows in ((), ("--rows", "documents", "--apart")):
        run("03_training", *smallest, *rows)
        assert 0 < read_json(out / "03_training" / "metrics.json")["after"]["bits_per_byte"] < 9
    with pytest.raises(ValueError, match="--rows odd is unknown: choose stream or documents"):
        run("03_training", *smallest, "--rows", "odd")
    config = read_json(out / "02_transformer" / "config.json")
    write_json(out / "02_transformer" / "config.json", {**config, "vocab_size": 200})
    with pytest.raises(ValueError, match=r"train.bin holds token \d+, but the model has a vocabulary of 200"):
        run("03_training", *smallest)
    with pytest.raises(ValueError, match="too few for a batch of 9000000 rows"):
        write_json(out / "02_transformer" / "config.json", config)
        run("03_training", *smallest, "--batch", 9_000_000)
