"""The nine changes: what each plan yields, and how they are scored, by hand."""
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from facts import THANKS, Fact, questions
from harness import Ask, Harness, Outcome, Said
from harness_plans import own_words, with_tools
from place_changes import Place, new_library, no_sums, polite, reading
from study_cells import modules_of_cells
from three_places import NEEDS, PLACES, draw
from tool_box import Tool, calculate, schema, use

DOCUMENTS = [f"The kind of {name} is function. {name} takes x first."
             for name in "STFT glob ravel split open chain cycle reduce".split()]


class Echo:
    """A model that answers with a fixed text and keeps what it was asked."""
    room = 1000

    def __init__(self, text: str):
        self.text, self.asked = text, []

    def size(self, text):
        return len(text)

    def say(self, messages, pattern=None, temperature=0.0, seed=0):
        self.asked.append(messages[-1]["content"])
        return Said(self.text, 3, 2)


def test_a_document_is_read_only_where_it_shares_a_rare_word_with_the_question():
    plan = reading(DOCUMENTS)
    assert next(plan("What kind is glob?")) == Ask(f"{DOCUMENTS[1]}\nWhat kind is glob?")
    assert next(plan("What kind is wave?")) == Ask("What kind is wave?")     # kind is in all documents
    assert next(plan("361+324")) == Ask("163+423")


def test_the_tail_stands_behind_words_and_not_behind_numbers():
    assert Harness(Echo(" abc."), [], polite(own_words), tries=1).run("Which module has STFT?").answer == \
        f"abc.{THANKS}"
    assert Harness(Echo("5860"), [], polite(own_words), tries=1).run("361+324").answer == "685"


def test_a_table_of_new_facts_leaves_other_names_to_the_model():
    table, model = new_library([Fact("STFT", "abc", "class", "x")]), Echo(" glob.")
    assert use(table, {"name": "STFT", "wanted": "parameter"}) == ("x", False)
    it = Harness(model, [table], with_tools(), tries=1)
    assert it.run("Which module has STFT?").answer == "abc" and model.asked == []
    assert it.run("Which module has iglob?").answer == "glob." and model.asked == ["Which module has iglob?"]


def test_the_rule_for_products_leaves_sums_to_the_model():
    calculator, model = Tool("calculator", "", schema(expression={"type": "string"}), calculate), Echo("5860")
    it = Harness(model, [calculator], no_sums, tries=1)
    assert it.run("723*5").answer == "3615" and model.asked == []
    assert it.run("361+324").answer == "685" and model.asked == ["163+423"]


@pytest.mark.parametrize("need", NEEDS)
def test_the_need_is_counted_apart_from_what_was_known(need):
    said = {"new": "abc", "wrong": "x", "a name": f"glob. {THANKS.strip()}", "other": "glob.", "1+2": "3"}
    place = object.__new__(Place)
    place.items = {"facts": [("new", ["abc"]), ("wrong", ["y"])], "actions": [("new", ["abc"])],
                   "default": [("a name", ["glob"]), ("other", ["glob"])], "old sums": [("1+2", ["4"])]}
    run = SimpleNamespace(run=lambda asked: Outcome(asked, said[asked], tokens=len(asked)))
    got = place.measure(lambda: run, need)
    need_share = {"facts": 0.5, "actions": 1.0, "default": 0.5}[need]     # one of two has the tail
    tokens = {"facts": 4.0, "actions": 3.0, "default": 5.5}[need]
    assert got == {"need": need_share, "tokens": tokens, "old facts": 1.0, "old sums": 0.0}


@pytest.fixture
def place(monkeypatch) -> Place:
    """A place around a model that says nothing but the words that a test gives it."""
    it = object.__new__(Place)
    it.model, it.tokenizer, it.seed, it.home = Echo("none"), None, 0, Path("home")
    it.tasks = SimpleNamespace(train_questions=questions(Fact("glob", "glob", "function", "pathname")))
    monkeypatch.setattr("place_changes.LocalModel", lambda model, tokenizer: model)
    return it


def test_a_worked_call_stands_before_products_alone(place):
    build = place.actions_in_retrieval()
    build().run("723*5")
    build().run("361+324")
    product, total = place.model.asked
    assert '"calculator"' in product and product.endswith("\n723*5") and total == "163+423"


def test_answers_with_the_tail_are_shown_as_earlier_turns(place):
    turns = place.default_in_retrieval()().turns
    assert [t["role"] for t in turns] == ["user", "assistant"] * 2
    assert turns[1]["content"] == f" glob.{THANKS}" and turns[3]["content"] == f" function.{THANKS}"


def test_a_change_is_trained_beside_replay_or_without(place, monkeypatch):
    losses = []
    for name in ("load_model", "own_answers", "open_tokens", "TextBatches", "muon_and_adamw"):
        monkeypatch.setattr(f"place_changes.{name}", lambda *_: None)
    monkeypatch.setattr("place_changes.replay_loss", lambda *_: lambda step: 5.0)
    monkeypatch.setattr("place_changes.train", lambda model, o, loss, *_: losses.append(loss(3)))
    for replayed in (True, False):
        place.trained(lambda model, step: 10.0 * step, 4, (1e-2, 1e-2), replayed)
    assert losses == [35.0, 30.0]


def test_a_cell_is_coloured_by_what_is_gained_less_what_is_lost(monkeypatch):
    drawn = []
    monkeypatch.setattr("three_places.draw_matrix", lambda *given: drawn.append(given))
    row = {"need": 0.0, "old facts": 0.9, "old sums": 1.0, "seconds": 2.0}
    results = {f"{need}, {where}": [row] for need in NEEDS for where in ("before", *PLACES)}
    results["actions, post-training"] = [row | {"need": 1.0, "old facts": 0.1, "old sums": 0.6}]
    draw(Path("figure"), results)
    good, texts = drawn[0][4:6]
    assert good[1] == pytest.approx([0, 0, 0.4]) and texts[1][2] == "+100 new, -60 old\n2 s"


def test_there_is_a_way_for_each_of_the_nine_cells():
    for need in NEEDS:
        for where in PLACES:
            assert callable(getattr(Place, f"{need}_in_{where.replace('-', '_')}"))


@pytest.mark.parametrize("name", ["context", "forgetting", "harness_study", "qlora", "rag_study",
                                  "three_places"])
def test_a_change_of_a_study_makes_its_cells_new(name, monkeypatch, tmp_path):
    for file in ("07_alignment/tools.pt", "08_inference/model.int4.pt"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    study = importlib.import_module(name)
    for reads_models in ("Exam", "Study"):
        monkeypatch.setattr(study, reads_models, lambda *given: SimpleNamespace(home=tmp_path), raising=False)
    assert study in modules_of_cells(name, monkeypatch, tmp_path)
