"""The words around a question: which ids a model gets, what counts as right, and what can stand before it."""
import random

import pytest

from bm25 import Index
from bpe import BOT, EOS, USER, Tokenizer
from context import Item, Settings, documents, nearest, prompt, right_share, table, ways
from facts import Fact, questions
from tasks import Tasks
from transformer import Config, Transformer

TOKENIZER = Tokenizer([])
SHOWN = ("What kind is glob?", " function."), ("100+21", "1210")
TASKS = Tasks([q for name in ("glob", "wraps") for q in questions(Fact(name, "os", "function", "path"))],
              [q for name in ("Fraction", "Struct") for q in questions(Fact(name, "numbers", "class", "x"))],
              [(1, 2), (3, 4), (5, 6)], [((7, 8), "5100"), ((9, 1), "0100")], 0)


def spelled(ids: list[int]) -> str:
    """Ids as text, special tokens by one letter each."""
    names = {TOKENIZER.special[name]: letter for name, letter in ((EOS, "E"), (USER, "U"), (BOT, "B"))}
    return "".join(names.get(i) or TOKENIZER.decode([i]) for i in ids)


def test_the_base_model_gets_lines_and_a_chat_model_earlier_turns():
    item = Item("300+4", "4030", SHOWN)
    assert spelled(prompt(TOKENIZER, "base", item, 200)) == ("EQuestion: What kind is glob?\nAnswer: "
                                                             "function.\n001+120=1210\n003+400=")
    assert spelled(prompt(TOKENIZER, "grpo", item, 200)) == ("EUWhat kind is glob?B "
                                                             "function.EU001+120B1210EU003+400B")
    assert spelled(prompt(TOKENIZER, "grpo", Item("300+4", "4030"), 200)) == "EU003+400B"


def test_a_text_stands_on_its_own_line_before_the_question_and_behind_the_examples():
    item = Item("300+4", "4030", SHOWN[:1], "A sum.")
    assert spelled(prompt(TOKENIZER, "base", item, 200)) == ("EQuestion: What kind is glob?\nAnswer: "
                                                             "function.\nA sum.\n003+400=")
    assert spelled(prompt(TOKENIZER, "grpo", item, 200)) == ("EUWhat kind is glob?B function.EUA "
                                                             "sum.\n003+400B")


def test_examples_that_do_not_fit_are_refused_with_a_sentence():
    item = Item("300+4", "4030", SHOWN)
    for stage in ("base", "grpo"):
        ids = prompt(TOKENIZER, stage, item, 1000)
        assert prompt(TOKENIZER, stage, item, len(ids)) == ids
        with pytest.raises(ValueError, match=f"2 examples and the question are {len(ids)} tokens"):
            prompt(TOKENIZER, stage, item, len(ids) - 1)


def test_a_chat_model_must_stop_and_the_base_model_need_not_and_calls_are_counted(monkeypatch):
    config = Config(vocab_size=TOKENIZER.vocab_size, d_model=8, n_layers=1, n_heads=1, n_kv_heads=1, d_ff=8,
                    max_len=64)
    model = Transformer(config)
    eos, said = TOKENIZER.special[EOS], TOKENIZER.encode("4030")
    call = TOKENIZER.encode('{"name": "look_up", "arguments": {}}')
    answers = [[[*said, eos]], [[*said, *TOKENIZER.encode(" x")]], [TOKENIZER.encode("40")], [[*call, eos]]]
    monkeypatch.setattr("context.sample", lambda *_: answers)
    asked = [Item("300+4", "4030")] * 4
    got = right_share(model, TOKENIZER, "grpo", asked)
    assert got == {"right": 0.25, "calls": 0.25, "tokens": len("EU003+400B")}
    assert right_share(model, TOKENIZER, "base", asked)["right"] == 0.5


def test_documents_are_about_names_of_which_all_three_answers_are_known():
    whole = TASKS.held_out_questions
    texts = documents(whole[:5], random.Random(0))
    assert len(texts) == 1 and all(word in texts[0] for word in ("Fraction", "numbers", "class", " x"))
    assert len(documents(whole, random.Random(0))) == 2


def test_the_nearest_example_stands_last():
    solved = [("one cat", "a"), ("red dog", "b"), ("blue fish", "c"), ("red fish", "d"), ("old owl", "e")]
    index = Index([q for q, _ in solved])
    assert nearest(index, solved, "the red fish", 1) == (("red fish", "d"),)
    assert nearest(index, solved, "the red fish", 3)[-1] == ("red fish", "d")


def test_each_way_asks_the_same_questions_and_only_the_orders_differ_in_the_order():
    s = Settings(questions=2, orders=5, shots=2)
    facts = {q.text for q in TASKS.held_out_questions}
    for kind, asked in (("facts", facts), ("sums", {"1+2", "3+4", "5+6"})):
        made = ways(TASKS, kind, s, random.Random(0))
        first = [item.asked for item in made["nothing"][0]]
        assert set(first) <= asked and all([item.asked for item in items] == first for orders in made.values()
                                           for items in orders)
        shown = [items[0].shown for items in made["2 examples"]]
        assert len(shown) == 5 and len({frozenset(x) for x in shown}) == 1 and len(set(shown)) == 2
        wanted = made["a tool's result"][0][0]
        assert wanted.before.endswith(wanted.wanted.strip(" ."))
        other = made["2 of the other kind"][0][0].shown
        assert all(("+" in q) == (kind == "facts") for q, _ in other)
    assert "a document, found" not in made


def test_the_document_that_is_found_is_about_the_name():
    names = "Fraction Struct Mailbox Counter Template Random Event Timer".split()
    held_out = [q for name in names for q in questions(Fact(name, f"{name.lower()}s", "class", "x"))]
    tasks = Tasks(TASKS.train_questions, held_out, [], TASKS.demonstrations, 0)
    [items] = ways(tasks, "facts", Settings(questions=24, shots=1), random.Random(0))["a document, found"]
    assert all(item.asked.split()[-1].rstrip("?") in item.before for item in items)


def test_more_than_there_is_cannot_be_asked_or_shown():
    for amounts, option in (({"questions": 7}, "--questions 6"), ({"shots": 3}, "--shots 2")):
        with pytest.raises(ValueError, match=f"choose {option} or fewer"):
            ways(TASKS, "facts", Settings(**{"questions": 1, "shots": 1, **amounts}), random.Random(0))


def test_the_table_has_means_over_models_and_how_far_orders_are_apart():
    columns = ("base, facts", "base, sums", "grpo, facts", "grpo, sums")
    cell = {"right": [0.5], "calls": 0, "tokens": 9.6}
    one = {"nothing": dict.fromkeys(columns, cell),
           "4 examples": dict.fromkeys(columns, cell | {"right": [0.25, 0.75]}),
           "a document, found": dict.fromkeys(columns[::2], cell)}
    assert table([one]) == [["nothing", *["50.0"] * 4, "10"], ["4 examples", *["50.0"] * 4, "10"],
                            ["  best order less worst", *["50.0"] * 4, "10"],
                            ["a document, found", "50.0", "-", "50.0", "-", "10"]]
