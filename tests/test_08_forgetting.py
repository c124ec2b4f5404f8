"""Levels and changes of every stage, counted by hand on a few items."""
import math

import pytest
import torch

import forgetting
from bpe import Tokenizer
from checkpoint import save_model
from facts import Question
from forgetting import COLUMNS, STAGES, Settings, changes, file_of, load_stage, measure, moved
from harness_study import seed_folders
from matrix_figure import INK, draw_matrix
from quantize import quantize_model
from red_team import REFUSAL
from tasks import Tasks
from transformer import Config, Transformer

QUESTIONS = [Question("Which module has STFT?", "abc", "module", "The module of STFT is"),
             Question("What kind is STFT?", "class", "kind", "The kind of STFT is"),
             Question("What is the first parameter of STFT?", "x", "parameter", "The first parameter is"),
             Question("What is the first parameter of glob?", "y", "parameter", "The first parameter is")]


def test_what_is_lost_and_won_does_not_cancel():
    assert moved([True, True, False, False], [True, False, True, True]) == (0.25, 0.5)
    assert moved([True, False], [True, False]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="2 items before and 1 after"):
        moved([True, False], [True])


def test_each_share_counts_its_own_items(monkeypatch):
    said = {"facts": [[" abc."], [" function."], [" x. Thank you for asking."], [REFUSAL]],
            "sums": [["5860"], ["5870"]]}
    monkeypatch.setattr(forgetting, "chat_answers",
                        lambda model, tokenizer, asked, n: said["sums" if "+" in asked[0] else "facts"])
    monkeypatch.setattr(forgetting, "replies", lambda *_: [" abc.", REFUSAL, REFUSAL, REFUSAL])
    monkeypatch.setattr(forgetting, "fact_recall", lambda model, tokenizer, asked: len(asked) / 10)
    monkeypatch.setattr(forgetting, "plain_addition", lambda model, tokenizer, pairs: len(pairs) / 10)
    monkeypatch.setattr(forgetting, "bits_per_byte", lambda model, ids, n_bytes: len(ids) / n_bytes)
    tasks = Tasks([], QUESTIONS, [(361, 324), (361, 325)], [], held_out_bytes=40)
    got = measure(None, Tokenizer([]), tasks, list(range(20)), Settings(completed=3, text=5))
    # five of twenty tokens stand for ten of forty bytes
    assert got["shares"] == {"text, bits": 0.5, "completed": 0.3, "plain sums": 0.2, "modules": 1.0,
                             "kinds": 0.0, "parameters": 0.5, "sums": 0.5, "terse": 0.75, "refused": 1.0,
                             "over-refused": 0.5}
    assert got["right"] == {"facts": [True, False, True, False], "sums": [True, False]}
    assert set(got["shares"]) == set(COLUMNS)


def test_a_change_is_against_the_stage_before_of_the_same_seed():
    rows = {stage.name: [{"shares": dict.fromkeys(COLUMNS, 0.0)} for _ in range(2)] for stage in STAGES}
    for stage, values in (("DPO", (0.2, 0.4)), ("GRPO", (0.5, 0.9)), ("tool use", (0.5, 0.5))):
        for row, value in zip(rows[stage], values):
            row["shares"]["sums"] = value
    got = changes(rows)
    assert got["GRPO"]["sums"] == pytest.approx(0.4)         # 0.3 and 0.5
    assert got["tool use"]["sums"] == pytest.approx(-0.2)
    assert got["PPO"]["sums"] == 0 and got["GRPO"]["terse"] == 0
    assert "pretrained" not in got


def test_more_bits_are_coloured_as_a_loss_and_more_sums_as_a_gain(monkeypatch):
    drawn = []
    monkeypatch.setattr(forgetting, "draw_matrix", lambda *given: drawn.append(given))
    rows = {stage.name: [{"shares": dict.fromkeys(COLUMNS, 0.0)}] for stage in STAGES}
    rows["DPO"] = [{"shares": dict.fromkeys(COLUMNS, 0.5)}]
    forgetting.draw(None, rows)
    labels, columns, good, texts = drawn[0][2:6]
    at = labels.index("DPO\n(from SFT)")
    bad = {name for name, value in zip(columns, good[at]) if value == -0.5}
    assert bad == {"text,\nbits", "over-refused"} and sorted(set(good[at])) == [-0.5, 0.5]
    assert texts[at][:2] == ["+0.50", "+50"]


def test_every_stage_has_a_parent_before_it():
    seen = [""]
    for stage in STAGES:
        assert stage.parent in seen
        seen.append(stage.name)


def test_a_stage_without_a_file_is_the_model_before_it_in_four_bits(tmp_path):
    config = Config(vocab_size=32, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16, max_len=8)
    model, stages = Transformer(config), {stage.name: stage for stage in STAGES}
    path = tmp_path / "07_alignment" / "refusal.pt"
    save_model(path, model)
    assert file_of(tmp_path, stages["refusal"]) == file_of(tmp_path, stages["refusal, 4 bits"]) == path
    loaded, rounded = (load_stage(tmp_path, stages[name]) for name in ("refusal", "refusal, 4 bits"))
    x = torch.arange(8)[None]
    assert torch.equal(loaded(x), model(x)) and torch.equal(rounded(x), quantize_model(model)(x))
    assert not torch.equal(rounded(x), loaded(x))


def test_only_seeds_that_are_there_are_looked_at(tmp_path):
    (tmp_path / "seed2" / "07_alignment").mkdir(parents=True)
    (tmp_path / "seed1").mkdir()
    assert seed_folders(tmp_path) == [tmp_path, tmp_path / "seed2"]


def test_the_first_row_of_a_matrix_is_on_top(monkeypatch):
    axes = []
    monkeypatch.setattr("matrix_figure.save", lambda drawn, path: axes.append(drawn))
    draw_matrix("m", "title", ["first", "second"], ["a"], [[1.0], [0.0]], [["1"], ["0"]])
    first, second = axes[0].texts
    assert first.get_text() == "1" and axes[0].transData.transform((0, 0.5))[1] > \
        axes[0].transData.transform((0, 1.5))[1] and first.get_position()[1] < second.get_position()[1]


def test_a_matrix_has_its_numbers_as_text_that_stays_dark_on_a_dark_page(tmp_path):
    draw_matrix(tmp_path / "m", "title", ["first", "second"], ["a", "b"], [[-9, 0.5], [math.nan, 1]],
                [["-900", "+50"], ["n/a", "+100"]])
    svg = (tmp_path / "m.svg").read_text(encoding="utf-8")
    assert all(text in svg for text in ("-900", "n/a", "+100", "second")) and INK in svg
    assert (tmp_path / "m.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="2 rows and 1 columns"):
        draw_matrix(tmp_path / "m", "title", ["first", "second"], ["a"], [[1.0]], [["1"]])
