"""A model that is taught to read: rows whose answers stand in them, and training that reaches the weights."""
import copy
import random

import pytest
import torch
from torch.testing import assert_close

import document_reader
from bpe import BOT, EOS, USER, Tokenizer
from cross_entropy import IGNORE
from document_reader import ASKED, as_turns, first_row, invented_fact, reading_loss, reading_row
from facts import Fact, Question, questions
from rag import holds
from tasks import Tasks
from tool_use import UNKNOWN, said_batch
from transformer import Config, Transformer

TOKENIZER = Tokenizer([])
WORDS = "glob JSONDecoder namedtuple Fraction wraps heappush Mailbox urlencode Struct dedent".split()
OLD = [q for name in ("glob", "wraps") for q in questions(Fact(name, "os", "function", "path"))]
TASKS = Tasks(OLD, [], [], [], 0)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Config(vocab_size=TOKENIZER.vocab_size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16,
                    max_len=512)
    return Transformer(config)


def asked_of(rows) -> list[tuple[str, str, str]]:
    """Text, question and answer of each question of some rows."""
    return [(text, q, answer) for text, asked in rows for q, answer in asked]


def test_every_answer_stands_in_the_text_of_its_row_or_the_name_does_not():
    rng = random.Random(0)
    rows = {n: asked_of(reading_row(WORDS, n, 0.5, rng) for _ in range(40)) for n in (1, 2, 5)}
    made = [item for some in rows.values() for item in some]
    assert len(made) == 120 * ASKED
    assert all(10 < sum(answer == UNKNOWN for _, _, answer in some) < 30 for some in rows.values())
    for text, q, answer in made:
        name = q.split()[-1].rstrip("?")
        told = f"{name} is of kind" in text or f"kind of {name} is" in text
        assert told == (answer != UNKNOWN)
        wanted = Question(q, answer.strip(" ."), "", "")
        assert not told or any(holds(line, wanted) for line in text.split("\n"))


def test_without_missing_names_all_can_be_answered_and_each_row_asks_different_questions():
    rng = random.Random(1)
    for text, asked in (reading_row(WORDS, 2, 0.0, rng) for _ in range(30)):
        assert len({q for q, _ in asked}) == ASKED and text.count("\n") == 1
        assert all(answer != UNKNOWN for _, answer in asked)


def test_the_first_lesson_is_one_sentence_or_words_to_repeat():
    rng = random.Random(2)
    for _ in range(60):
        text, [(q, answer)] = first_row(WORDS, False, rng)
        assert text.count(". ") == 0 and text.endswith(".") and q.split()[-1].rstrip("?") in text
        assert answer.strip(" .") in [word.rstrip(".") for word in text.split()]
        assert first_row(WORDS, True, rng)[1][0][1] != answer
        text, [(q, answer)] = first_row(WORDS, True, rng)
        assert answer == f" {q}." and text == "Repeat:"


def test_invented_facts_look_like_facts_and_their_four_words_differ():
    rng = random.Random(3)
    facts = [invented_fact(WORDS, rng) for _ in range(200)]
    assert all(f.name.isalpha() and len(f.name) <= 14 and len(f.parameter) <= 10 for f in facts)
    assert {f.module.count(".") for f in facts} == {0, 1, 2} and len({f.name for f in facts}) > 20
    assert {f.kind for f in facts} == {"function", "class", "exception"}
    few = [invented_fact(WORDS[:2], rng) for _ in range(200)]
    assert all(len({f.name.lower(), f.module, f.kind, f.parameter}) == 4 for f in few)
    spelled = [invented_fact(WORDS, rng, 1.0).name for _ in range(20)]
    assert all(name.islower() and len(name) < 6 for name in spelled)


def test_the_text_stands_in_the_first_turn_alone_and_loss_falls_on_answers():
    said = as_turns(TOKENIZER, "A text.", [("Q?", " a."), ("R?", " b.")], 100)
    letters = {TOKENIZER.special[name]: letter for name, letter in ((EOS, "E"), (USER, "U"), (BOT, "B"))}
    spelled = ["".join(letters.get(i) or TOKENIZER.decode([i]) for i in ids) for ids, _ in said]
    assert spelled == ["EUA text.\nQ?B", " a.E", "EUR?B", " b.E"]
    length = sum(len(ids) for ids, _ in said)
    assert as_turns(TOKENIZER, "A text.", [("Q?", " a."), ("R?", " b.")], length) == said
    assert as_turns(TOKENIZER, "A text.", [("Q?", " a."), ("R?", " b.")], length - 1) == said[:2]
    x, y = said_batch([said], 0)
    with_loss = [i for i in y[0].tolist() if i != IGNORE]
    assert "".join(letters.get(i) or TOKENIZER.decode([i]) for i in with_loss) == " a.E b.E"


def test_a_step_depends_on_its_seed_and_number_and_lessons_follow_each_other(model):
    one, same, other = (reading_loss(model, TOKENIZER, TASKS, 10, 3, 2, 0.5, seed) for seed in (0, 0, 1))
    for step in (0, 4, 7):
        assert_close(one(step), same(step))
        assert one(step) != other(step)
    longest = []
    model.forward = lambda x: longest.append(x.shape) or torch.zeros(*x.shape, TOKENIZER.vocab_size)
    for step in (0, 4, 7):
        one(step)
    assert [rows for rows, _ in longest] == [10, 3, 3]     # short ones, of one document, of two
    assert longest[0][1] < longest[1][1] < longest[2][1]


def test_teaching_lowers_the_loss_of_reading(model):
    loss = reading_loss(model, TOKENIZER, TASKS, 1, 4, 2, 0.0, 7)
    before, weights = loss(0).item(), copy.deepcopy(model.state_dict())
    log = document_reader.teach_reading(model, TOKENIZER, TASKS, 12, 0.1, 0, rows=3, most=2)
    assert len(log) == 12 and loss(0).item() < 0.8 * before
    assert all(not torch.equal(p, weights[name]) for name, p in model.state_dict().items())
