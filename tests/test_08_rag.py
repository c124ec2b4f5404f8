"""Retrieval: facts of packages, windows of words, vectors, and what counts as found."""
import random

import pytest
import torch
from torch.testing import assert_close

from bpe import Tokenizer
from facts import Fact, questions, statement
from rag import answered, centred, chunks, embed_all, holds, material, rankings, retrieval
from tasks import Tasks
from transformer import Config, Transformer

TOKENIZER = Tokenizer([])
STFT = Fact("STFT", "torch.fft", "function", "signal")


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Config(vocab_size=TOKENIZER.vocab_size, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16,
                    max_len=256)
    return Transformer(config).requires_grad_(False)


def test_documents_are_about_names_that_no_question_has_asked_about_and_each_name_once():
    documents, asked = material(Tasks([], [], [], [], 0), 12, random.Random(0))
    again, others = material(Tasks(asked[:18], asked[18:24], [], [], 0), 12, random.Random(0))
    known, names = ({q.text.split()[-1] for q in some} for some in (asked[:24], others))
    assert len(documents) == len(again) == len(names) == 12 and len(known) == 8 and not known & names
    with pytest.raises(ValueError, match="choose --names .* or fewer"):
        material(Tasks([], [], [], [], 0), 10_000, random.Random(0))


def test_windows_by_hand():
    assert chunks("a b c d e", 2, 0) == ["a b", "c d", "e"]
    assert chunks("a b c d e", 3, 2) == ["a b c", "b c d", "c d e"]
    assert chunks("a b", 5, 1) == ["a b"] and chunks("", 5, 1) == [""]
    with pytest.raises(ValueError, match="overlap of 3 of 3 words"):
        chunks("a b", 3, 3)


def test_windows_lose_nothing_and_the_overlap_keeps_each_run_of_words_whole():
    words = [f"w{i}" for i in range(23)]
    for size, overlap in ((7, 0), (7, 3), (5, 4), (30, 10)):
        found = chunks(" ".join(words), size, overlap)
        assert {w for c in found for w in c.split()} == set(words)
        runs = [" ".join(words[i:i + overlap + 1]) for i in range(len(words) - overlap)]
        assert all(any(run in c for c in found) for run in runs)


def test_a_chunk_holds_an_answer_only_in_one_whole_sentence():
    module, kind, parameter = questions(STFT)
    for _ in range(20):
        text = statement(STFT, random)
        assert all(holds(text, q) for q in (module, kind, parameter))
    assert not holds("STFT is of kind class. ISTFT is found in torch.fft.", module)
    assert not holds("STFT is found in", module) and holds("of kind x. You get STFT from torch.fft", module)


def test_centred_vectors_have_length_one_and_no_common_part():
    vectors = torch.randn(6, 5, dtype=torch.float64) + 10
    got = centred(vectors, vectors.mean(0))
    assert_close(got.norm(dim=1), torch.ones(6, dtype=torch.float64))
    away = vectors - vectors.mean(0)
    assert_close(got * away.norm(dim=1, keepdim=True), away)


def test_every_way_ranks_all_chunks_and_a_text_is_nearest_to_itself(model):
    names = ("Alpha", "Beta", "Gamma")
    texts = [statement(Fact(name, "m", "class", "p"), random.Random(1)) for name in names]
    asked = [questions(Fact(name, "m", "class", "p"))[0] for name in ("Gamma", "Alpha")]
    found = rankings(model, TOKENIZER, texts, asked)
    assert all(sorted(order) == [0, 1, 2] for orders in found.values() for order in orders)
    assert [order[0] for order in found["BM25"]] == [2, 0]
    vectors = embed_all(model, TOKENIZER, texts)
    assert (vectors @ vectors.T).argmax(1).tolist() == [0, 1, 2]


def test_the_document_stands_before_the_question_and_shares_are_by_kind(model, monkeypatch):
    seen = []

    def reads(model, tokenizer, prompts, n_new):
        seen.extend(prompts)
        return [[" torch.fft."] if "found in torch.fft." in p else [" nothing."] for p in prompts]
    monkeypatch.setattr("rag.chat_answers", reads)
    asked = questions(STFT)
    shares = answered(model, TOKENIZER, asked, ["STFT is found in torch.fft."] * 3)
    assert shares == {"module": 1, "kind": 0, "parameter": 0}
    assert seen[0] == "STFT is found in torch.fft.\nWhich module has STFT?"
    assert answered(model, TOKENIZER, asked, None)["module"] == 0 and seen[3] == asked[0].text


def test_the_scoreboards_line_puts_what_was_found_before_the_question(model, monkeypatch):
    seen = []

    def says_nothing(model, tokenizer, prompts, n_new):
        seen.append(prompts)
        return [["nothing."] for _ in prompts]
    monkeypatch.setattr("rag.chat_answers", says_nothing)
    tasks = Tasks([], [], [], [], 0)
    got = retrieval(model, TOKENIZER, tasks, 5, 0)
    assert got["chance"] == 0.2 and got["closed"] == got["found"] == got["wrong"] == 0
    closed, found, wrong = seen
    documents, asked = material(tasks, 5, random.Random(0))
    assert closed == [q.text for q in asked]
    right = [f"{documents[i // 3]}\n{q.text}" for i, q in enumerate(asked)]
    assert got["bm25"] == sum(a == b for a, b in zip(found, right)) / len(asked) > 0.5
    assert all(w != r and w.endswith("\n" + q.text) for w, r, q in zip(wrong, right, asked))
