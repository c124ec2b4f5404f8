"""What stands before a question, what an answer is then, and what new facts in the weights are trained on."""
import random
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

import rag_exam
import rag_study
from bm25 import Index
from bpe import EOS, Tokenizer
from fact_tuning import OLD_WEIGHT, fact_loss, told_loss, tune_on_facts
from facts import Fact, questions, statement, terse
from rag_exam import PLANTED, Manual, changed, found, marks, of_another, own, planted, said, shelves, verdicts
from rag_models import Exam
from rag_tables import READS, TUNED, believing, changing, knowing
from sft import answer_loss
from tasks import Tasks
from tool_use import UNKNOWN
from transformer import Config, Transformer

TOKENIZER = Tokenizer([])
FACTS = [Fact(name, f"m{i}.linalg", "class", f"p{i}") for i, name in enumerate(("Alpha", "Beta", "Gamma"))]
MANUAL = Manual(FACTS, [statement(fact, random.Random(1)) for fact in FACTS])
TASKS = Tasks(questions(Fact("glob", "glob", "function", "pathname")), [], [], [((1, 2), "4000")], 0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Config(vocab_size=TOKENIZER.vocab_size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16,
                    max_len=512)
    return Transformer(config)


def answers(say) -> list[str]:
    """An answer to each question of the manual."""
    return [terse(say(i, q)) for i, q in enumerate(MANUAL.asked)]


def test_each_question_gets_its_own_text_another_one_or_the_one_that_is_found():
    assert own(MANUAL) == found(Index(MANUAL.documents), MANUAL)
    assert of_another(MANUAL) == [MANUAL.documents[i] for i in (1, 1, 1, 2, 2, 2, 0, 0, 0)]
    assert all(q.text.split()[-1].rstrip("?") in text for q, text in zip(MANUAL.asked, own(MANUAL)))


def test_a_shelf_is_as_full_as_fits_and_holds_the_questions_own_document():
    lengths = [len(TOKENIZER.encode(text)) for text in MANUAL.documents]
    two = lengths[0] + 1 + lengths[1]
    for room, per_shelf in ((1, 1), (two - 1, 1), (two, 1.5), (sum(lengths) + 2, 3)):
        texts, average = shelves(TOKENIZER, MANUAL, room)
        assert average == pytest.approx(per_shelf) and len(texts) == 9
        assert all(text in shelf for text, shelf in zip(own(MANUAL), texts))
        assert all(len(TOKENIZER.encode(shelf)) <= room or per_shelf == 1 for shelf in texts)


def test_what_is_planted_stands_beside_the_whole_document():
    for name, plant in rag_exam.PLANTS.items():
        for text, q, got in zip(own(MANUAL), MANUAL.asked, planted(MANUAL, plant)):
            assert text in got and (PLANTED in got) == (name != "nothing else")
            assert (f"{q.completion} {PLANTED}." in got) == name.startswith("a false fact")


def test_a_changed_manual_has_moved_the_names_it_says_and_no_others():
    moved, places = changed(MANUAL, 2, random.Random(0))
    for i, (old, new) in enumerate(zip(MANUAL.facts, moved.facts)):
        same = i not in places
        assert (old == new) == same and (MANUAL.documents[i] == moved.documents[i]) == same
        assert old.name == new.name and old.kind == new.kind
        assert (old.module == new.module) == (old.parameter == new.parameter) == same
        assert f" {new.module}" in moved.documents[i]
    assert len(places) == 2 and MANUAL.facts == FACTS


def test_a_change_that_leaves_no_name_as_it_was_is_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["rag_study.py", "--names", "4", "--changes", "4"])
    with pytest.raises(ValueError, match="--changes 4 of --names 4"):
        rag_study.main()


def test_marks_keep_kinds_apart():
    assert marks(MANUAL, answers(lambda i, q: q.answer)) == {"two": 1, "kind": 1}
    assert marks(MANUAL, answers(lambda i, q: "class")) == {"two": 0, "kind": 1}
    assert marks(MANUAL, answers(lambda i, q: q.answer if i == 0 else "x")) == {"two": 1 / 6, "kind": 0}


def test_verdicts_leave_kinds_out_and_add_up_to_one():
    given = answers(lambda i, q: (q.answer, "x", PLANTED)[i // 3])
    given[3] = UNKNOWN
    assert verdicts(MANUAL, given, lambda i: PLANTED) == pytest.approx({"right": 2 / 6, "instead": 2 / 6,
                                                                        "unknown": 1 / 6, "other": 1 / 6})
    same = verdicts(MANUAL, answers(lambda i, q: q.answer), lambda i: MANUAL.asked[i].answer)
    assert same["right"] == 1 and same["instead"] == same["other"] == 0


def test_of_a_reader_that_believes_its_text_everything_is_measured(monkeypatch):
    exam = object.__new__(Exam)
    exam.tokenizer, exam.manual, exam.kept = TOKENIZER, MANUAL, lambda model: {}
    exam.moved, exam.places = changed(MANUAL, 1, random.Random(0))

    def reads(model, tokenizer, manual, before):
        """The first word of the text that answers such a question, about whichever name it is."""
        words = {q.kind: {p.answer for p in MANUAL.asked if p.kind == q.kind} for q in MANUAL.asked}
        found = [next((w for w in text.replace(". ", " ").rstrip(".").split() if w in words[q.kind]), "none")
                 for text, q in zip(before or [""] * 9, manual.asked)]
        return [terse(word) for word in found], {"tokens": 1.0}
    monkeypatch.setattr("rag_models.said", reads)
    got = exam.with_texts(SimpleNamespace(config=SimpleNamespace(max_len=512)))
    assert got["per_shelf"] == 3 and [r["two"] for r in got["rows"].values()] == [0, 1, pytest.approx(1 / 3)]
    assert got["wrong"]["another name's document"] == {"right": 0, "instead": 1, "unknown": 0, "other": 0}
    assert got["wrong"]["a false fact before"]["right"] == 1     # zlib is in no manual
    assert [got["change"][name] for name in ("new", "old", "others")] == [1, 0, 1]
    stale = [terse(q.answer) for q in MANUAL.asked]
    assert exam.after_change(stale) == {"new": 0, "old": 1, "others": 1}


def test_the_cost_of_an_answer_is_every_token_read_and_written(model, monkeypatch):
    monkeypatch.setattr("rag_exam.chat_answers", lambda model, t, prompts, n: [[" abc."] for _ in prompts])
    given, cost = said(model, TOKENIZER, MANUAL, own(MANUAL))
    characters = sum(len(text) + 1 + len(q.text) + 5 for text, q in zip(own(MANUAL), MANUAL.asked)) / 9
    assert given == [" abc."] * 9 and cost["tokens"] == pytest.approx(characters + 4)   # four special tokens


def test_told_facts_have_the_loss_of_their_text(model):
    rng, again, eos = random.Random(3), random.Random(3), TOKENIZER.special[EOS]
    texts = [[eos, *TOKENIZER.encode(statement(fact, again)), eos] for fact in FACTS]
    loss = torch.nn.functional.cross_entropy
    nats = [loss(model(torch.tensor([t[:-1]]))[0], torch.tensor(t[1:]), reduction="sum") for t in texts]
    wanted = sum(nats) / sum(len(t) - 1 for t in texts)
    assert_close(told_loss(model, TOKENIZER, FACTS, rng), wanted)


def test_a_step_has_new_facts_and_old_questions_and_depends_on_seed_and_step_alone(model):
    new = [(q.text, terse(q.answer)) for fact in FACTS for q in questions(fact)]
    loss = fact_loss(model, TOKENIZER, FACTS, TASKS, True, 9, 4, 0)
    old = [*((q.text, terse(q.answer)) for q in TASKS.train_questions), ("100+200", "3000")]
    only = [answer_loss(model, TOKENIZER, [pair]).item() for pair in old]
    new_part = answer_loss(model, TOKENIZER, new).item()
    assert new_part + OLD_WEIGHT * min(only) <= loss(0).item() <= new_part + OLD_WEIGHT * max(only)
    assert_close(loss(5), fact_loss(model, TOKENIZER, FACTS, TASKS, True, 9, 4, 0)(5))
    assert fact_loss(model, TOKENIZER, FACTS, TASKS, False, 3, 4, 0)(0) != loss(0)


def test_half_of_the_old_rows_are_questions_and_half_are_right_sums(model, monkeypatch):
    seen = []
    monkeypatch.setattr("fact_tuning.answer_loss", lambda _, t, pairs: seen.append(pairs) or torch.zeros(()))
    fact_loss(model, TOKENIZER, FACTS, TASKS, True, 9, 16, 0)(0)
    new, old = seen
    assert len(new) == 9 and len(old) == 16 and old.count(("100+200", "3000")) == 8


def test_tuning_makes_the_facts_likelier(model):
    before = told_loss(model, TOKENIZER, FACTS, random.Random(0)).item()
    tune_on_facts(model, TOKENIZER, FACTS, TASKS, False, 12, 0.2, 0, rows=3, old=2)
    assert told_loss(model, TOKENIZER, FACTS, random.Random(0)).item() < 0.8 * before


def test_tables_have_a_row_for_each_way_and_percentages():
    row = {"two": 0.5, "kind": 1.0, "tokens": 60.4, "seconds": 0.0123}
    verdict = {"right": 0.25, "instead": 0.75, "unknown": 0.0, "other": 0.0}
    change = {"new": 1.0, "old": 0.0, "others": 0.5, "seconds": 0.5}
    kept = {"old facts": 0.9, "sums": 1.0}
    reads = {"rows": {"closed book": row, "retrieval": row}, "wrong": {"another": verdict}, "indexing": 0.002,
             "per_shelf": 5.0, "change": change, "kept": kept, "seconds": 200.0}
    tuned = {"rows": {"closed book": row}, "change": change, "kept": kept, "seconds": 60.0, "recall": 1.0}
    results = {part: [reads] for part in READS} | {part: [tuned] for part in TUNED}
    rows = knowing(results)
    assert rows[0] == ["as it came, closed book", "50", "100", "60", "12.3", "0", "90", "100"]
    assert [r[5] for r in rows] == ["0", "0.002", "0", "0.002", "60", "60"]
    assert believing(results)[1] == ["reader: another", "25", "75", "0", "0"]
    assert changing(results)[0] == ["retrieval, as it came", "100", "0", "50", "0.5"]
