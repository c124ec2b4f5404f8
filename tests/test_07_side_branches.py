"""The side branches of chapter 7's run: what each leaves behind for the scoreboard."""
from types import SimpleNamespace

import pytest
import torch

import side_branches
from bpe import Tokenizer
from facts import Question
from side_branches import SideBranches
from tasks import Tasks
from transformer import Config, Transformer

BYTES = Tokenizer([])
QUESTIONS = [Question(f"Which module has {n}?", "json", "module", "") for n in ("loads", "dumps", "load")] + [
    Question("What is the first parameter of loads?", "s", "parameter", "")]


@pytest.fixture
def side():
    s = SimpleNamespace(seed=0, refusal_steps=2, refusal_matrix_lr=1e-3, refusal_other_lr=1e-3,
                        tool_steps=1, tool_matrix_lr=1e-3, tool_other_lr=1e-3)
    return SideBranches(s, BYTES, Tasks(QUESTIONS, QUESTIONS, [(1, 2)], [], 0), None, "cpu", "key")


def small():
    torch.manual_seed(0)
    return Transformer(Config(vocab_size=260, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16,
                              max_len=200))


def test_adapters_are_merged_into_the_weights_that_they_changed(side, monkeypatch, tmp_path):
    vars(side.s).update(lora_rank=2, lora_steps=2, lora_lr=1e-2, sft_facts=1, sft_sums=1, sft_terse=0.5)
    monkeypatch.setattr(side_branches, "sft_loss",
                        lambda model, *given: lambda step: model(torch.arange(4)[None]).square().mean())
    model, before = small(), small().state_dict()
    assert [row["step"] for row in side.adapt(model, tmp_path / "state.pt")] == [1, 2]
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all("proj" in name for name in changed)


def test_look_alikes_are_counted_apart_from_the_forbidden_topic(side, monkeypatch, tmp_path):
    counted = []

    def after_training_one_look_alike(model, tokenizer, asked):
        counted.append(asked)
        return sum(q.kind == "parameter" or "dumps" in q.text for q in asked) if len(counted) > 1 else 0

    monkeypatch.setattr(side_branches, "refusals", after_training_one_look_alike)
    *log, last = side.refuse(small(), tmp_path / "state.pt")
    assert last["refused"] == {"before": 0.0, "forbidden": 1.0, "look-alikes": pytest.approx(1 / 3)}
    assert [row["step"] for row in log] == [1, 2]
    assert counted == [QUESTIONS[3:], QUESTIONS[3:], QUESTIONS[:3]]


def test_the_control_of_tool_use_is_taught_the_same_questions_without_a_tool(side, monkeypatch, tmp_path):
    taught = []
    monkeypatch.setattr(side_branches, "teach", lambda *given, **kept: taught.append(given) or [])
    monkeypatch.setattr(SideBranches, "products", lambda self, model: 0.25)
    for tools in (True, False):
        assert side.use_tools(tools)(None, tmp_path) == [{"products": 0.25}]
    with_tool, without = taught
    assert with_tool[3].use_tools and not without[3].use_tools
    assert with_tool[4:] == without[4:] and (1, 2) in with_tool[-1]
