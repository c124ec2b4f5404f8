"""Chapter 6: the harness, against hand-worked numbers, brute force and the model's own definition."""
import gzip
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate as e
from benchmark_files import Choice, Program, load_exact, load_hellaswag, load_humaneval, load_mmlu
from bpe import EOS, Tokenizer
from likelihood import TransformerModel
from transformer import Config, Transformer

SETS = Path(e.__file__).parent / "sets"


class Table:
    """A model that finds some continuations likelier than others, by table; one token a word."""

    def __init__(self, table):
        self.table = table

    def log_likelihood(self, context, continuation):
        return self.table.get(continuation.strip(), -100.0), len(continuation.split())


def test_our_own_sets_load_and_have_balanced_answers():
    for items in (load_mmlu(SETS / "mmlu_python.csv"), load_hellaswag(SETS / "hellaswag_python.jsonl")):
        assert len(items) >= 8 and all(len(i.options) == 4 for i in items)
        counts = {[i.answer for i in items].count(a) for a in range(4)}
        assert len(counts) == 1, "no letter is a better guess than another"
    assert len(load_exact(SETS / "exact_python.jsonl")) == 4


def test_the_published_formats_load(tmp_path):
    (tmp_path / "m.csv").write_text('"What, is ""it""?",a,b,c,d,C\n')
    assert load_mmlu(tmp_path / "m.csv") == [Choice('Question: What, is "it"?\nAnswer:',
                                                    (" a", " b", " c", " d"), 2)]
    row = {"ind": 4, "activity_label": "x", "ctx_a": "A man", "ctx_b": "", "ctx": "A man",
           "endings": ["runs", "is"], "label": "1"}
    (tmp_path / "h.jsonl").write_text(json.dumps(row) + "\n\n")
    assert load_hellaswag(tmp_path / "h.jsonl") == [Choice("A man", (" runs", " is"), 1)]
    task = {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f",
            "canonical_solution": "    return 1\n", "test": "t"}
    with gzip.open(tmp_path / "h.jsonl.gz", "wt") as file:
        file.write(json.dumps(task))
    program = Program("HumanEval/0", "def f():\n", "t", "f", "    return 1\n")
    assert load_humaneval(tmp_path / "h.jsonl.gz") == [program]
    for name, text, load in (("b.csv", "only,three,fields\n", load_mmlu),
                             ("b.jsonl", "{broken\n", load_hellaswag)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            load(tmp_path / name)


def test_the_reference_solutions_of_our_programs_pass_and_empty_ones_do_not():
    tasks = load_humaneval(SETS / "humaneval_python.jsonl")
    solutions = {t.prompt: t.solution for t in tasks}
    assert e.programs(lambda prompt: [solutions[prompt]], tasks).mean == 1
    half = e.programs(lambda prompt: [solutions[prompt], "    return None\n"], tasks[:3])
    assert half.mean == 0.5 and half.error == 0


def test_length_normalisation_changes_the_choice_as_it_should():
    item = Choice("q", (" a b c d", " zz"), 0)
    model = Table({"a b c d": -4.0, "zz": -3.0})
    assert [e.choose(model, item, n) for n in ("none", "tokens", "bytes")] == [1, 0, 0]
    assert e.choose(Table({"a b c d": -4.0, "zz": -1.4}), item, "bytes") == 1, "4 / 8 bytes against 1.4 / 3"


def test_pass_at_k_is_the_average_over_all_draws():
    for n, c, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if c <= n and k <= n:
            brute = np.mean([any(i < c for i in draw) for draw in itertools.combinations(range(n), k)])
            assert math.isclose(e.pass_at_k(n, c, k), brute, abs_tol=1e-12), (n, c, k)
    with pytest.raises(ValueError, match="makes no sense"):
        e.pass_at_k(3, 4, 1)


def test_standard_errors_agree_with_numpy_and_pairs_are_sharper():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    a, b = (e.Score.of([float(h < skill) for h in hard]) for skill in (0.6, 0.5))
    assert math.isclose(a.error, np.std(a.items, ddof=1) / math.sqrt(200))
    difference = e.paired(a, b)
    assert math.isclose(difference.mean, a.mean - b.mean) and difference.error < a.error
    with pytest.raises(ValueError, match="same items"):
        e.paired(a, e.Score.of([1.0]))
    with pytest.raises(ValueError, match="empty"):
        e.Score.of([])


def test_few_shot_prompts_show_solved_examples_and_never_the_item_itself():
    import random
    items = load_mmlu(SETS / "mmlu_python.csv")
    for item in items:
        shown = e.few_shot(item, items, 3, random.Random(0))
        assert shown.context.endswith("\n\n" + item.context) and shown.context.count("Question:") == 4
        assert item.text() not in shown.context and shown.answer == item.answer
    assert e.few_shot(items[0], items, 0, random.Random(0)) == items[0]
    with pytest.raises(ValueError, match="ask for fewer"):
        e.few_shot(items[0], items, 16, random.Random(0))


def test_exact_match_forgives_case_blanks_and_a_full_stop_only():
    answers = {"a": " Fractions.\n", "b": "fractions module", "c": "3"}
    asked = [("a", "fractions"), ("b", "fractions"), ("c", "3")]
    assert e.exact_match(answers.get, asked).items == (1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    tokenizer = Tokenizer([])
    return TransformerModel(Transformer(Config(vocab_size=tokenizer.vocab_size, d_model=32, n_layers=2,
                                               n_heads=2, n_kv_heads=2,
                                                 d_ff=64, max_len=24)), tokenizer)


def test_the_likelihood_of_a_transformer_is_the_sum_of_its_log_softmax(small):
    ids = torch.tensor([[small.tokenizer.special[EOS], *b"The cat sat."]])
    with torch.no_grad():
        log_p = torch.log_softmax(small.model(ids)[0, :-1].double(), -1)
    wanted = log_p[torch.arange(12), ids[0, 1:]]
    total, n = small.log_likelihood("", "The cat sat.")
    assert n == 12
    torch.testing.assert_close(torch.tensor(total), wanted.sum().float(), rtol=1e-4, atol=1e-4)
    total, n = small.log_likelihood("The cat", " sat.")
    assert n == 5
    torch.testing.assert_close(torch.tensor(total), wanted[7:].sum().float(), rtol=1e-4, atol=1e-4)


def test_a_text_longer_than_the_window_is_scored_in_full(small):
    text = "a sentence that is much longer than twenty-four tokens, to be read in several windows"
    total, n = small.log_likelihood("", text)
    assert n == len(text) and -20 * n < total < -n
    context, n2 = small.log_likelihood("x" * 100, "yes")
    ids = torch.tensor([[*(b"x" * 100 + b"yes")[-24:]]])
    with torch.no_grad():
        log_p = torch.log_softmax(small.model(ids[:, :-1])[0].double(), -1)
    assert n2 == 3
    torch.testing.assert_close(torch.tensor(context), log_p[torch.arange(23), ids[0, 1:]][-3:].sum().float(),
                               rtol=1e-4, atol=1e-4)


def test_bits_per_byte_weighs_bytes_equally(small):
    texts = ["short", "a much longer text than the other"]
    bits = [-small.log_likelihood("", t)[0] / math.log(2) for t in texts]
    score = e.bits_per_byte(small, texts)
    assert math.isclose(score.mean, sum(bits) / sum(map(len, texts))) and score.error > 0


def test_generation_stops_where_it_should_and_repeats_with_the_seed(small):
    a = small.generate("abc", tokens=10, temperature=1.0, seed=3)
    assert a == small.generate("abc", tokens=10, temperature=1.0, seed=3) and "\n" not in a
    assert len(small.tokenizer.encode(small.generate("abc", tokens=4))) <= 12
