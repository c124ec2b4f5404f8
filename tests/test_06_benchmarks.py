"""Chapter 6: benchmark files are read as published or refused with the row; options are scored in context."""
import gzip
import json
import math

import pytest
import torch

import evaluate as e
from benchmark_files import Choice, load_exact, load_hellaswag, load_humaneval, load_mbpp, load_mmlu
from bpe import Tokenizer, train
from likelihood import TransformerModel, encode_pair
from quality import NgramModel, words_of
from transformer import Config, Transformer

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("letter", ["", "AB", "CD", "ABCD", "E", "a", "1", "A B"])
def test_an_mmlu_answer_is_one_letter_or_the_row_is_named(tmp_path, letter):
    (tmp_path / "m.csv").write_text(f"q,a,b,c,d,A\nq,a,b,c,d,{letter}\n")
    with pytest.raises(ValueError, match="m.csv, row 2: wanted a question, four options and a letter"):
        load_mmlu(tmp_path / "m.csv")


@pytest.mark.parametrize("load, good, bad", [
    (load_hellaswag, {"ctx": "x", "endings": ["a", "b"], "label": 1}, [
        {"ctx": "x", "endings": ["a"]}, {"ctx": "x", "endings": ["a"], "label": ""},
        {"ctx": "x", "endings": ["a"], "label": 1},
        {"ctx": "x", "endings": ["a"], "label": -1}, {"ctx": "x", "endings": "ab", "label": 1},
        {"ctx": "x", "endings": [1], "label": 0}, 7, []]),
    (load_humaneval, {"task_id": "H/0", "prompt": "", "test": "", "entry_point": "f"},
     [{"task_id": "H/0", "prompt": "", "test": ""}, None]),
    (load_exact, {"question": "q", "answer": "a"},
     [{"question": "q"}, {"question": "q", "answer": 5}, "q"]),
    (load_mbpp, {"task_id": 1, "text": "t", "code": "f = len", "test_list": ["assert f([]) == 0"]}, [
        {"task_id": 1, "text": "t", "code": ""}, {"task_id": 1, "code": "", "test_list": ["x"]},
        {"task_id": 1, "text": "t", "code": "", "test_list": []},
        {"task_id": 1, "text": "t", "code": "def", "test_list": ["x"]},
        {"task_id": 1, "text": "t", "code": "", "test_list": ["x"], "test_imports": 5},
        {"task_id": 1, "text": "t", "code": "", "test_list": ["x"], "test_imports": [5]}])])
def test_a_row_that_lacks_something_is_named(tmp_path, load, good, bad):
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(good) + "\n")
    assert len(load(path)) == 1
    for row in bad:
        path.write_text(json.dumps(good) + "\n\n" + json.dumps(row) + "\n")
        with pytest.raises(ValueError, match="b.jsonl, row 2: "):
            load(path)


DAMAGED = bytearray(gzip.compress(b'{"task_id": 1}' * 9, mtime=0))   # unpacking it is a zlib.error
DAMAGED[12] ^= 255


@pytest.mark.parametrize("content", [b"{broken\n", b"\xff\xfe{}", b"{}{}", b"[" * 100_000, DAMAGED])
def test_a_file_of_another_kind_is_named(tmp_path, content):
    for name, load in (("a.jsonl", load_hellaswag), ("a.jsonl.gz", load_humaneval)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)
    (tmp_path / "a.csv").write_bytes(b'"open quote,a,b,c,d,A')
    with pytest.raises(ValueError, match="a.csv is not a CSV file"):
        load_mmlu(tmp_path / "a.csv")


def test_a_line_ends_where_the_format_says_and_not_where_unicode_has_separators(tmp_path):
    (tmp_path / "a.csv").write_text("a\u2028b\x0c,1,2,3\x85,4,A\n", encoding="utf-8")
    assert load_mmlu(tmp_path / "a.csv")[0].context == "Question: a\u2028b\x0c\nAnswer:"
    (tmp_path / "a.jsonl").write_text('{"question": "a\u2028b", "answer": "#### 1"}\n', encoding="utf-8")
    assert load_exact(tmp_path / "a.jsonl") == [("a\u2028b", "1")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "m.csv").write_bytes(MARK + b"q,a,b,c,d,A\r\n")
    assert load_mmlu(tmp_path / "m.csv")[0].context == "Question: q\nAnswer:"
    (tmp_path / "q.jsonl").write_bytes(MARK + b'{"question": "q", "answer": "#### 5"}')
    assert load_exact(tmp_path / "q.jsonl") == [("q", "5")]
    with gzip.open(tmp_path / "q.jsonl.gz", "wb") as file:
        file.write(MARK + b'{"question": "q", "answer": "5\xe2\x80\xa8"}\n')
    assert load_exact(tmp_path / "q.jsonl.gz") == [("q", "5")], "U+2028 ends no line of JSON"


def test_a_question_may_have_lines(tmp_path):
    (tmp_path / "m.csv").write_text('"one\ntwo",a,"b\n",c,d,B\n\n')
    assert load_mmlu(tmp_path / "m.csv") == [Choice("Question: one\ntwo\nAnswer:",
                                                        (" a", " b\n", " c", " d"), 1)]
    (tmp_path / "m.csv").write_text("one\u2028\x0btwo,a,b,c,d,B\n", encoding="utf-8")
    assert load_mmlu(tmp_path / "m.csv")[0].context == "Question: one\u2028\x0btwo\nAnswer:"


TEXTS = ["Answer: yes", "Answer: no", "the answer is yes", "the answer is no"] * 20


@pytest.fixture(scope="module")
def scorers():
    torch.manual_seed(0)
    tokenizer = Tokenizer(train(TEXTS, 300))
    shape = Config(vocab_size=tokenizer.vocab_size, d_model=32, n_layers=1, n_heads=2, n_kv_heads=2, d_ff=64,
                   max_len=24)
    return [TransformerModel(Transformer(shape), tokenizer), NgramModel(TEXTS, order=3)]


def test_a_blank_at_the_end_of_the_context_changes_no_score(scorers):
    for model in scorers:
        for context, option in (("Answer:", "yes"), ("the answer is", "no"), ("Answer:\n", "yes"),
                                ("", "yes")):
            wanted = model.log_likelihood(context, f" {option}")
            assert model.log_likelihood(f"{context} ", option) == wanted
        items = [Choice(f"Answer:{blank}", options, 0) for blank in ("", " ")
                 for options in ((" yes", " no"), (" no", " yes"))]
        chosen = [e.choose(model, item) for item in items]
        assert chosen[:2] == chosen[2:], "and an option brings its own blank only once"


def test_the_pieces_of_a_score_add_up(scorers):
    for model in scorers:
        whole, n = model.log_likelihood("", "the answer is yes")
        parts = [model.log_likelihood("", "the answer"), model.log_likelihood("the answer", " is yes")]
        assert math.isclose(whole, sum(p for p, _ in parts), rel_tol=1e-5) and n == sum(k for _, k in parts)


def test_context_and_continuation_are_cut_together():
    encode = Tokenizer(train(["Answer: yes"] * 9, 290)).encode
    for context, continuation in (("Answer: ", "yes"), ("Answer:", " yes"), ("Answer:  \n", "yes")):
        whole, split = encode_pair(encode, context, continuation)
        assert whole == encode(context + continuation) and whole[:split] == encode("Answer:")
    whole, split = encode_pair(encode, "Answ", "er")
    assert len(whole) == 1 and split == 0, "one token across the seam is scored"
    assert encode_pair(encode, "Answer: ", "") == (encode("Answer: "), len(encode("Answer:")))
    assert encode_pair(words_of, "do", "n't stop") == (["don't", "stop"], 1)
    assert encode_pair(words_of, "do", " ") == (["do"], 1), "blanks are no words: nothing is scored"
