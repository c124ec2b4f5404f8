"""The corpus: held out means held out, sums are right, files are read and refused."""
import errno
import importlib
import inspect
import os
import random
from pathlib import Path

import numpy as np
import pytest

from arithmetic import careless_answer, carries, easy_pair, problem, right_answer, split_pairs
from bpe import EOS, Tokenizer
from corpus import build_corpus, docstrings, real_text
from facts import find_facts, questions, statement, terse, verbose
from made_from import corpus_hash
from tasks import load_tasks, save_tasks
from token_file import open_tokens, pack, write_tokens


@pytest.fixture(scope="module")
def texts():
    return docstrings()


@pytest.fixture(scope="module")
def corpus(texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corpus.docstrings", lambda: list(texts))   # it takes seconds to read them
        return from_python()


def from_python():
    return build_corpus(random.Random(0), None, n_names=60, n_held_out=20, real_chars=60_000, exposures=2,
                        question_exposures=2, n_test_sums=50, n_demonstrations=200, careless_share=0.5)


def test_the_same_seed_gives_the_same_corpus(corpus):
    assert from_python() == corpus


def test_no_question_names_a_held_out_name(corpus):
    held_out = {fact.name for fact in corpus.facts[:20]}
    asked = [q.text for q in corpus.train_questions]
    assert len(corpus.held_out_questions) == 60 and len(asked) == 120
    for name in held_out:
        assert all(f" {name}?" not in text for text in asked)
        assert all(f" {name}?" not in text for text in corpus.question_documents)
        assert any(name in text for text in corpus.statements), "its facts must have been read"


def test_held_out_text_is_not_trained_on(corpus):
    assert not set(corpus.held_out_text) & set(corpus.real)
    assert sum(map(len, corpus.held_out_text)) >= 60_000 // 5


def test_facts_are_true_of_this_interpreter(corpus):
    for fact in corpus.facts:
        thing = getattr(importlib.import_module(fact.module), fact.name)
        assert next(iter(inspect.signature(thing).parameters)) == fact.parameter
        is_exception = inspect.isclass(thing) and issubclass(thing, BaseException)
        kind = "exception" if is_exception else "class" if inspect.isclass(thing) else "function"
        assert fact.kind == kind


def test_a_statement_tells_all_three_facts_and_a_completion_is_a_part_of_one():
    fact = find_facts(1, random.Random(3))[0]
    texts = [statement(fact, random.Random(i)) for i in range(40)]
    for text in texts:
        assert all(word in text for word in (fact.module, fact.kind, fact.parameter))
        assert text.count(fact.name) >= 3
    for q in questions(fact):
        assert any(q.completion + terse(q.answer) in text for text in texts)


def test_more_names_than_there_are_is_refused():
    with pytest.raises(ValueError, match="suitable names"):
        find_facts(100_000, random.Random(0))


def test_answers_have_two_forms():
    assert terse("os") == " os." and verbose("os").startswith(" os. ")


def test_sums_by_hand():
    assert problem((361, 324)) == "163+423" and right_answer((361, 324)) == "5860"
    assert right_answer((999, 1)) == "0001"
    assert careless_answer((5, 7)) == "2000" and right_answer((5, 7)) == "2100"
    assert careless_answer((999, 999)) == "8880"
    assert carries((5, 7)) == 1 and carries((999, 1)) == 1 and carries((555, 555)) == 3


@pytest.mark.parametrize("seed", range(3))
def test_careless_answers_are_right_exactly_without_carries(seed):
    rng = random.Random(seed)
    for _ in range(500):
        pair = rng.randrange(1000), rng.randrange(1000)
        assert int(right_answer(pair)[::-1]) == sum(pair)
        assert (careless_answer(pair) == right_answer(pair)) == (carries(pair) == 0)


def test_test_sums_are_banned_and_distinct(corpus):
    demonstrated = {pair for pair, _ in corpus.demonstrations}
    assert len(set(corpus.test_sums)) == 50 and not demonstrated & set(corpus.test_sums)
    banned = {(a, b) for a in range(1000) for b in range(1000) if a != 5}
    assert all(easy_pair(random.Random(i), banned)[0] == 5 for i in range(3))
    right = sum(answer == right_answer(pair) for pair, answer in corpus.demonstrations)
    assert 0.45 < right / len(corpus.demonstrations) < 0.75, "half forget carries; some sums have none"
    test, shown = split_pairs(10, 10, random.Random(0))
    assert len(set(test + shown)) == 20


def test_your_own_file_or_folder_is_read(tmp_path):
    words = " ".join(map(str, range(6000)))
    (tmp_path / "a.txt").write_text("First   paragraph.\n\n\nSecond. " + words, encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    assert real_text(tmp_path / "a.txt")[0] == "First paragraph."
    assert 10 <= len(real_text(tmp_path)) <= 12   # one document, cut into tenths


def from_text(path):
    return build_corpus(random.Random(0), str(path), n_names=4, n_held_out=2, real_chars=30_000, exposures=1,
                        question_exposures=1, n_test_sums=2, n_demonstrations=2, careless_share=0.5)


@pytest.mark.parametrize("join", ["\n", " ", ""], ids=["lines", "one line", "one word"])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_one_document_is_both_trained_on_and_held_out(tmp_path, folder, join):
    words = [f"word{i}" for i in range(4000)]
    (tmp_path / "book.txt").write_text(join.join(words), encoding="utf-8")
    corpus = from_text(tmp_path if folder else tmp_path / "book.txt")
    trained, held_out = sum(map(len, corpus.real)), sum(map(len, corpus.held_out_text))
    assert held_out > 5000 and trained > 3 * held_out / 2
    assert not set(corpus.real) & set(corpus.held_out_text)
    whole = join.join(words)
    assert all(text in whole for text in corpus.real + corpus.held_out_text), "pieces are unchanged"
    assert trained + held_out > 0.95 * len(whole), "and nothing but blanks is lost"


def test_a_line_that_is_repeated_is_not_split_between_training_and_test(tmp_path):
    (tmp_path / "echo.txt").write_text("the same line again\n" * 5000)
    with pytest.raises(ValueError, match="repetitions aside"):
        real_text(tmp_path / "echo.txt")


def test_files_that_are_not_utf_8_are_named_and_a_byte_order_mark_is_no_text(tmp_path, capsys):
    words = "caf\u00e9 word " + " ".join(map(str, range(6000)))
    (tmp_path / "good.txt").write_text(words, encoding="utf-8-sig")
    (tmp_path / "old.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 5000)
    assert real_text(tmp_path)[0].startswith("caf\u00e9 word")
    assert "skipped 1 files" in (said := capsys.readouterr().out) and "(old.txt)" in said
    read, write = os.pipe()
    os.write(write, words.encode())
    os.close(write)
    assert real_text(f"/dev/fd/{read}") == real_text(tmp_path / "good.txt")   # --corpus <(zcat good.gz)
    os.close(read)


def test_folders_and_files_that_may_not_be_read_are_named_and_not_counted(tmp_path, capsys, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.txt").write_text(" ".join(map(str, range(6000))))
    (tmp_path / "b.txt").write_text("secret")
    (tmp_path / "locked" / "c.txt").write_text("secret")
    whole, scandir, read_text = corpus_hash(tmp_path), os.scandir, Path.read_text

    def refuse(path):   # the user of a test may be root, who may read everything
        if str(path).endswith(("locked", "b.txt")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or scandir(path))
    monkeypatch.setattr(Path, "read_text", lambda path, **how: refuse(path) or read_text(path, **how))
    assert real_text(tmp_path)[0].startswith("0 1 2")
    assert "skipped 2 files or folders" in (said := capsys.readouterr().out) and "locked, b.txt)" in said
    assert corpus_hash(tmp_path) != whole, "unlocked, it is another corpus"


def test_unreadable_corpora_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        real_text(tmp_path / "missing")
    (tmp_path / "latin1.txt").write_bytes("é".encode("latin-1") * 50_000)
    (tmp_path / "unmarked.txt").write_bytes(("word " * 9000).encode("utf-16-le"))   # valid UTF-8, with zeros
    with pytest.raises(ValueError, match="not UTF-8 text .byte 1."):
        real_text(tmp_path / "unmarked.txt")
    with pytest.raises(ValueError, match="~no one/a: no such file or folder"):
        real_text("~no one/a")
    with pytest.raises(ValueError, match="not UTF-8"):
        real_text(tmp_path / "latin1.txt")
    (tmp_path / "a.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(ValueError, match="not UTF-8 text .byte 1.: unpack it first, e.g. with unzstd"):
        real_text(tmp_path / "a.zst")
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ValueError, match="only 9 characters"):
        real_text(tmp_path / "short.txt")


def test_docstrings_are_text_and_each_occurs_once(texts):
    assert len(texts) == len(set(texts)) > 500
    assert min(map(len, texts)) >= 200


def test_token_streams_survive_the_disk(tmp_path):
    tokenizer = Tokenizer([])
    ids = pack(tokenizer, ["ab", "c"])
    eos = tokenizer.special[EOS]
    assert ids.tolist() == [eos, 97, 98, eos, 99, eos]
    write_tokens(tmp_path / "t.bin", ids)
    np.testing.assert_array_equal(open_tokens(tmp_path / "t.bin"), ids)
    (tmp_path / "odd.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match="odd.bin has 3 bytes"):
        open_tokens(tmp_path / "odd.bin")


def test_tasks_survive_the_disk(corpus, tmp_path):
    save_tasks(tmp_path / "tasks.json", corpus)
    tasks = load_tasks(tmp_path / "tasks.json")
    assert tasks.held_out_questions == corpus.held_out_questions
    assert tasks.demonstrations == corpus.demonstrations
    assert tasks.held_out_bytes == sum(len(text.encode()) for text in corpus.held_out_text)
    (tmp_path / "tasks.json").write_text("{}")
    with pytest.raises(ValueError, match="tasks.json"):
        load_tasks(tmp_path / "tasks.json")
