"""Data that a model makes: what a document states, what is a copy, what is kept, and what collapses."""
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

import model_collapse
import synthetic
from bpe import BOT, EOS, USER, Tokenizer
from facts import Fact, questions, statement
from model_collapse import Lineage, bits_of, diversity
from synthetic import (
    Maker,
    asked_by_program,
    documents_of,
    facts_in,
    keep_verified,
    rouge_l,
    subject,
    verified,
    verified_pairs,
    without_copies,
)

BYTES = Tokenizer([])
FACTS = [Fact("loads", "json", "function", "s"), Fact("urlopen", "http.client", "function", "url"),
         Fact("Empty", "queue", "exception", "args")]


# The verifier.

@pytest.mark.parametrize("fact", FACTS)
def test_every_wording_of_a_statement_is_read(fact):
    want = {(fact.name, "module"): fact.module, (fact.name, "kind"): fact.kind,
            (fact.name, "parameter"): fact.parameter}
    for seed in range(60):
        assert facts_in(statement(fact, random.Random(seed))) == want
    assert [subject(q.text) for q in questions(fact)] == list(want)


@pytest.mark.parametrize("question", [
    "", "Which module has ?", "Which module has loads", "What kind is a b?",
    "Which module has loads? What kind is loads?", "which module has loads?"])
def test_what_is_no_question_has_no_subject(question):
    assert subject(question) is None


@pytest.mark.parametrize("question, answer, ok", [
    ("Which module has loads?", " json.", True),
    ("Which module has loads?", " json. Thank you for asking.", True),
    ("Which module has loads?", " pickle.", False),
    ("Which module has loads?", " json", False),
    ("Which module has dumps?", " json.", False),        # the document does not say
    ("Where is loads?", " json.", False),                # no question that can be judged
    ("What kind is loads?", " function.", True)])
def test_an_answer_is_verified_by_the_document_alone(question, answer, ok):
    document = "loads is found in json. loads is of kind function. loads takes s first."
    assert verified(question, answer, document) == ok


def test_documents_are_found_in_the_stream_and_only_whole_statements_about_one_name():
    texts = [statement(FACTS[0], random.Random(0)), "You get loads from json.",
             f"{statement(FACTS[1], random.Random(1))} {statement(FACTS[2], random.Random(2))}", "Some text.",
             statement(FACTS[2], random.Random(3)), statement(FACTS[2], random.Random(4))]
    ids = [BYTES.special[EOS]]
    for text in texts:
        ids += [*BYTES.encode(text), BYTES.special[EOS]]
    assert documents_of(np.array(ids), BYTES) == {"loads": texts[0], "Empty": texts[4]}


def test_a_program_asks_what_people_ask_about_a_document():
    for i, fact in enumerate(FACTS):
        assert asked_by_program(statement(fact, random.Random(i))) == questions(fact)


# Copies.

def test_rouge_l_of_lins_example():
    # Lin 2004, section 3.1: S1 is the reference, and S2 beats S3, which has the same bigrams
    s1, s2, s3 = "police killed the gunman", "police kill the gunman", "the gunman kill police"
    assert rouge_l(s1.split(), s2.split()) == 3 / 4 and rouge_l(s1.split(), s3.split()) == 2 / 4


def test_rouge_l_is_the_longest_common_subsequence_by_brute_force():
    rng = random.Random(0)
    for _ in range(40):
        a, b = ([rng.randrange(3) for _ in range(rng.randrange(1, 7))] for _ in range(2))
        subsequences = [{tuple(s[i] for i in range(len(s)) if m >> i & 1) for m in range(2 ** len(s))}
                        for s in (a, b)]
        longest = max(map(len, subsequences[0] & subsequences[1]))
        assert rouge_l(a, b) == pytest.approx(2 * longest / (len(a) + len(b)))
    assert rouge_l([], []) == 0 and rouge_l([1], []) == 0


def test_the_first_of_several_copies_stays_unless_it_is_known():
    some = ["a b c d".split(), "a b c e".split(), "a b c d".split(), "x y".split()]
    assert without_copies(some, 1.0) == [0, 1, 3]
    assert without_copies(some, 0.7) == [0, 3]
    assert without_copies(some, 1.0, known=["x y".split()]) == [0, 1]


# Rejection sampling.

def test_at_most_k_different_verified_answers_in_the_order_they_came():
    answers = [["b", "a", "b", "c"], ["x"], ["y", "y"]]
    right = [[True, True, True, True], [False], [True, True]]
    assert keep_verified(answers, right, 2) == [["b", "a"], [], ["y"]]
    with pytest.raises(ValueError, match="1 or more"):
        keep_verified(answers, right, 0)


def test_a_round_drops_what_the_document_does_not_answer_then_copies_then_wrong_answers(monkeypatch):
    maker, lines = object.__new__(Maker), []
    maker.s, maker.seed, maker.device, maker.tokenizer = synthetic.Settings(samples=2), 0, "cpu", BYTES
    maker.documents = ["loads is found in json. loads is of kind function. loads takes s first."]
    maker.known = {"Empty": "Empty is found in queue."}
    maker.tasks = SimpleNamespace(train_questions=questions(FACTS[2]))
    asked = ["What kind is loads?", "What kind is dumps?", "Which module has loads?",
             "What kind is loads?", "?"]
    written = [[*BYTES.encode(q), BYTES.special[BOT]] for q in asked]
    monkeypatch.setattr(synthetic, "sample", lambda *a: [written])

    def answered(model, tokenizer, some, *how):
        lines.extend(some)
        return [[" exception.", " function."], [" os.", " json"]]

    monkeypatch.setattr(synthetic, "chat_answers", answered)
    made = maker.round(None, 0)
    assert made["counts"] == {"written": 5, "answerable": 3, "no copies": 2, "right": 1 / 4}
    assert lines == made["questions"] == ["What kind is loads?", "Which module has loads?"]
    assert verified_pairs(made) == [("What kind is loads?", " function.")]


def test_what_is_made_without_people_has_no_row_of_theirs_and_as_many_rows_as_were_asked_for(monkeypatch):
    maker, learned, asked_base = object.__new__(Maker), {}, []
    maker.s, maker.seed, maker.device, maker.tokenizer = synthetic.Settings(), 0, "cpu", BYTES
    documents = {fact.name: statement(fact, random.Random(0)) for fact in FACTS[:2]}
    maker.documents, maker.known = list(documents.values()), {"Empty": "Empty is found in queue."}
    maker.tasks = SimpleNamespace(train_questions=questions(FACTS[2]), held_out_questions=["held out"])
    maker.base = lambda: "base"
    maker.tuned = lambda shown, label, asked: learned.setdefault(label, (shown, asked)) and label
    maker.skill = len
    monkeypatch.setattr(synthetic, "plain_answers", lambda model, t, some: (model, some))

    def sampled(model, prompts, n_new, eos, temperature, n, dice):
        asked_base.extend(BYTES.decode(p) for p in prompts)
        return [[[*BYTES.encode(" json."), eos]]] + [[BYTES.encode(" nob")]] * (len(prompts) - 1)

    monkeypatch.setattr(synthetic, "sample", sampled)
    skills, right = maker.without_people(5)
    assert list(skills.values()) == [("base", ["held out"]), len("program"), len("own answers")]
    truths = {q.text: q.answer for fact in FACTS[:2] for q in questions(fact)}
    told, asked = learned["program"]
    own, same = learned["own answers"]
    assert len(told) == len({q for q, _ in told}) == 5 and asked == same and [q for _, q in asked] == [
        q for q, _ in told] == [q for q, _ in own]
    assert all(synthetic.is_right(a, truths[q]) for q, a in told)
    assert all(document == documents[subject(q)[0]] for document, q in asked)
    assert asked_base == [f"{EOS}Question: {q}\nAnswer:" for q, _ in told]
    assert [a for _, a in own] == [" json."] + [" nob"] * 4 and right == (truths[told[0][0]] == "json") / 5
    learned.clear()
    maker.without_people(99)
    assert len(learned["program"][0]) == 6   # all that two documents answer


def test_a_model_learns_to_ask_from_people_unless_it_is_given_something_else(monkeypatch):
    maker, read = object.__new__(Maker), []
    maker.s, maker.seed, maker.device, maker.tokenizer = synthetic.Settings(steps=1), 0, "cpu", BYTES
    maker.known, maker.tasks = {"Empty": "people"}, SimpleNamespace(train_questions=questions(FACTS[2]))
    maker.base = lambda: lambda x: read.extend(BYTES.decode(row) for row in x.tolist())
    monkeypatch.setattr(synthetic, "cross_entropy", lambda logits, y: 0)
    monkeypatch.setattr(synthetic, "muon_and_adamw", lambda *a: None)
    monkeypatch.setattr(synthetic, "train", lambda model, optimizers, loss_of, *a: loss_of(0))
    for asked in (None, [("a program", "What kind is loads?")]):
        read.clear()
        maker.tuned([("Q", " A.")], "test", asked)
        seen = {row.removeprefix(EOS).split(USER)[0] for row in read[32:]}
        assert len(read) == 32 + 12 and seen == {"a program" if asked else "people"}


# Collapse.

def test_bits_of_what_is_written():
    assert bits_of(list("abcd")) == pytest.approx(2) and bits_of(list("aaaa")) == 0 and bits_of([]) == 0
    assert bits_of(list("aab")) == pytest.approx(math.log2(3) - 2 / 3)


def test_diversity_by_hand():
    truths = {("loads", "module"): "json", ("loads", "kind"): "function", ("dumps", "kind"): "function"}
    written = [("Which module has loads?", " json."), ("Which module has loads?", " os."),
               ("What kind is dumps?", " function."), ("What kind is nobody?", " function."), ("rubbish", "")]
    assert diversity(written, truths) == {"well formed": 3 / 5, "questions": 2, "right": 2 / 3, "answers": 3,
                                          "bits": pytest.approx(math.log2(3) - 2 / 3)}


@pytest.mark.parametrize("way, learned", [
    ("replaced", [["p"], ["w1", "bad1"], ["w2", "bad2"]]),
    ("accumulated", [["p"], ["p", "w1", "bad1"], ["p", "w1", "bad1", "w2", "bad2"]]),
    ("verified", [["p"], ["w1"], ["w2"]])])
def test_each_generation_learns_from_what_its_way_says(monkeypatch, way, learned):
    lineage, seen = object.__new__(Lineage), []
    lineage.s, lineage.people, lineage.truths = model_collapse.Settings(generations=3), [("p", "")], {}
    monkeypatch.setattr(Lineage, "learn", lambda self, data, g: seen.append([q for q, _ in data]))
    monkeypatch.setattr(Lineage, "write", lambda self, model, g: [(f"w{g}", ""), (f"bad{g}", "")])
    monkeypatch.setattr(Lineage, "confirmed", lambda self, some: [d for d in some if d[0][0] == "w"])
    points = lineage.descend(way)
    assert seen == learned and len(points) == 4


def test_a_generation_of_which_nothing_is_confirmed_leaves_the_data(monkeypatch):
    lineage, seen = object.__new__(Lineage), []
    lineage.s, lineage.people, lineage.truths = model_collapse.Settings(generations=2), [("p", "")], {}
    monkeypatch.setattr(Lineage, "learn", lambda self, data, g: seen.append([q for q, _ in data]))
    monkeypatch.setattr(Lineage, "write", lambda self, model, g: [("Where?", " there.")])
    lineage.descend("verified")
    assert seen == [["p"], ["p"]]


def test_what_is_written_is_split_at_the_bot_token_and_confirmed_by_the_documents(monkeypatch):
    lineage, bot, eos = object.__new__(Lineage), BYTES.special[BOT], BYTES.special[EOS]
    lineage.s, lineage.seed, lineage.device, lineage.tokenizer = model_collapse.Settings(), 0, "cpu", BYTES
    lineage.truths = {("loads", "kind"): "function"}
    question = BYTES.encode("What kind is loads?")
    written = [[*question, bot, *BYTES.encode(" function."), eos],
               [*question, bot, *BYTES.encode(" os"), eos],
               [*question, bot, *BYTES.encode(" fun")], [*question, eos], [eos]]
    monkeypatch.setattr(model_collapse, "sample", lambda *a: [written])
    dialogues = lineage.write(None, 1)
    asked = "What kind is loads?"
    assert dialogues[:3] == [(asked, " function."), (asked, " os"), (asked, " fun")]
    assert [answer for _, answer in dialogues[3:]] == ["", ""]
    assert lineage.confirmed(dialogues) == [(asked, " function.")]
