"""Chapter 6: copies found, exams kept out, sources mixed."""
import itertools
import json
import random
from dataclasses import asdict

import numpy as np
import pytest

import decontaminate
import deduplicate as d
import mix
import planted
import quality
from benchmark_files import Choice
from bpe import Tokenizer
from commands import command
from evaluate import multiple_choice, paired
from facts import Question
from token_file import pack, write_tokens

TEXTS = [" ".join(page) for page in planted.articles()]
A, B = d.hash_functions()


def test_a_word_has_one_hash_wherever_it_stands_and_different_words_differ():
    words = d.word_hashes("tok, Tok (tok) other\ttok's é É")
    assert words[0] == words[1] == words[2] == words[4] and words[6] == words[7]
    assert len(set(words.tolist())) == 4, "tok, other, s and é"
    vocabulary = sorted({w for t in TEXTS for w in t.lower().split() if w.isalnum()})
    assert len(set(d.word_hashes(" ".join(vocabulary)).tolist())) == len(vocabulary) > 1000


def test_shingles_are_the_runs_of_five_words():
    a, b = d.shingles("one two three four five six"), d.shingles("zero. One, two three - four five")
    assert len(a) == 2 and len(b) == 2 and a[0] == b[1] and a[1] not in b
    assert len(d.shingles("only three words")) == 1 and len(d.shingles(" . ")) == 0
    assert d.shingles("b a c d e")[0] != d.shingles("a b c d e")[0], "the order of words matters"


def test_signatures_equal_the_definition_for_any_grouping():
    docs = [d.shingles(t) for t in TEXTS[:6]] + [d.shingles(""), d.shingles("short")]
    wanted = [d.signature_naive(doc.tolist(), A, B) for doc in docs]
    for block in (1, 100, 10**6):
        assert d.signatures(docs, A, B, block).tolist() == wanted


def test_the_share_of_equal_entries_estimates_jaccard_without_bias():
    rng, errors = random.Random(0), []
    a, b = d.hash_functions(256, seed=5)
    for page in planted.articles()[:60]:
        x, y = (d.shingles(" ".join(p)) for p in (page, planted.edited(page, 0.05, rng)))
        s = d.signatures([x, y], a, b)
        errors.append((s[0] == s[1]).mean() - d.jaccard(x, y))
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.05


def test_jaccard_agrees_with_sets():
    x, y = d.shingles(TEXTS[0]), d.shingles(TEXTS[0][:600] + TEXTS[1])
    a, b = set(x.tolist()), set(y.tolist())
    assert d.jaccard(x, y) == len(a & b) / len(a | b)
    assert d.jaccard(d.shingles(""), d.shingles("")) == 0


def test_the_s_curve_is_the_share_of_random_signatures_that_collide():
    rng = np.random.default_rng(0)
    equal = rng.random((20000, 18, 7)) < 0.7
    assert abs(equal.all(2).any(1).mean() - d.s_curve(0.7, 18, 7)) < 0.01


def test_the_chosen_bands_are_the_steepest_that_reach_the_recall():
    for n, threshold, recall in ((128, 0.8, 0.95), (64, 0.5, 0.9), (256, 0.9, 0.99)):
        bands, rows = d.choose_bands(n, threshold, recall)
        assert bands * rows <= n and d.s_curve(threshold, bands, rows) >= recall
        assert all(d.s_curve(threshold, n // r, r) < recall for r in range(rows + 1, n + 1))
    with pytest.raises(ValueError, match="use more"):
        d.choose_bands(4, 0.1, 0.99)


def test_recall_and_false_merges_on_edited_copies_reach_what_is_asked():
    rng, docs, pairs = random.Random(1), [], []
    for i in range(400):
        page = planted.articles()[i % len(TEXTS)]
        # Words of its own in front, so that copies of one article in different pairs are not near copies.
        page = [" ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=250))] + page
        pairs.append((len(docs), len(docs) + 1))
        docs += [d.shingles(" ".join(page)),
                 d.shingles(" ".join(planted.edited(page, rng.random() ** 2 * 0.15, rng)))]
    sigs, bands = d.signatures(docs, A, B), d.choose_bands()
    exact = lambda i, j: d.jaccard(docs[i], docs[j])                              # noqa: E731
    for similarity in (None, exact):
        clusters, merged = d.near_duplicates(sigs, *bands, similarity=similarity)
        near = [(i, j) for i, j in pairs if exact(i, j) >= 0.8]
        assert len(near) > 100
        assert np.mean([clusters[i] == clusters[j] for i, j in near]) >= 0.95
        wrong = [exact(int(i), int(j)) < (0.7 if similarity is None else 0.8) for i, j, _ in merged]
        assert np.mean(wrong) < 0.01


def test_candidates_find_exactly_the_pairs_that_share_a_band():
    rng = np.random.default_rng(0)
    sigs = rng.integers(0, 3, (40, 12)).astype(np.uint32)
    found = {tuple(p) for p in d.candidates(sigs, 4, 3).tolist()}
    brute = {(i, j) for i, j in itertools.combinations(range(40), 2) for b in range(4)
             if (sigs[i, 3 * b:3 * b + 3] == sigs[j, 3 * b:3 * b + 3]).all()}
    assert found <= brute and all(i < j for i, j in found)
    joined, wanted = d.UnionFind(40), d.UnionFind(40)
    for i, j in found:
        joined.join(i, j)
    for i, j in brute:
        wanted.join(i, j)
    assert [joined.find(i) for i in range(40)] == [wanted.find(i) for i in range(40)], (
        "the chain joins what all pairs would")


def test_empty_documents_are_no_copies_of_each_other():
    clusters, merged = d.near_duplicates(d.signatures([d.shingles("")] * 3, A, B), *d.choose_bands())
    assert clusters == [0, 1, 2] and len(merged) == 0


def test_exact_copies_differ_only_in_case_and_blanks():
    assert d.exact_key("A  text\n") == d.exact_key("a text") != d.exact_key("a test")


ITEMS = [Choice(f"Question: which of the {i} colours was the favourite colour of number {i}?\nAnswer:",
                (" red", " green", " blue", " grey"), i * 7 % 4) for i in range(40)]


def test_a_planted_leak_is_found_and_inflates_the_score():
    leak = "Practice makes perfect. " + " ".join(i.text() for i in ITEMS[:20])
    corpus = TEXTS[:60] + [leak] + TEXTS[60:]
    found = decontaminate.report([i.text() for i in ITEMS], corpus, threshold=0.8)
    assert found["documents"] == [60] and {leak.item for leak in found["leaks"]} == set(range(20))
    assert found["leaked_items"] == 0.5
    clean = [t for i, t in enumerate(corpus) if i not in found["documents"]]
    before, after = (multiple_choice(quality.NgramModel(t, order=5, min_count=1), ITEMS[:20])
                     for t in (corpus, clean))
    gain = paired(before, after)
    assert before.mean > 0.8 and gain.mean > 3 * gain.error > 0


def test_items_shorter_than_the_window_are_found_as_a_whole():
    assert decontaminate.report(["blue green red"],
                                ["the blue, green, RED car", "blue red green"])["documents"] == [0]
    assert decontaminate.report([], ["anything"])["leaked_items"] == 0


def test_the_audit_counts_what_stands_in_the_training_stream(tmp_path):
    home, tokenizer = tmp_path / "01_tokenizer", Tokenizer([])
    long = [f"paragraph {i} " + " ".join(f"word{i}x{j}" for j in range(40)) for i in range(4)]
    write_tokens(home / "train.bin", pack(tokenizer, ["Which module has glob? glob.", long[1], long[3]]))
    write_tokens(home / "valid.bin", pack(tokenizer, [long[0] + "\n\n" + long[1], long[2]]))
    assert decontaminate.documents_of(tokenizer, home / "valid.bin") == [long[0] + "\n\n" + long[1], long[2]]
    tokenizer.save(home / "tokenizer.json")
    questions = [Question(text, "glob", "module", "The module of glob is")
                 for text in ("Which module has glob?", "What kind is glob?")]
    (home / "tasks.json").write_text(json.dumps({
        "train_questions": [], "held_out_questions": [asdict(q) for q in questions], "test_sums": [],
        "demonstrations": [],
        "held_out_bytes": 1}))
    done = command(decontaminate.__file__, "--out", tmp_path)
    assert "document: 1 of 3" in done.stdout and "text: 1 of 2" in done.stdout, done.stdout + done.stderr


SIZES = {"a": 1000.0, "b": 100.0, "c": 10.0}


def test_temperature_lies_between_size_and_equality():
    assert mix.temperature_weights(SIZES, 1) == pytest.approx({k: v / 1110 for k, v in SIZES.items()})
    assert mix.temperature_weights(SIZES, 2)["a"] == pytest.approx(10 / (10 + 10 ** 0.5 + 1))
    assert list(mix.temperature_weights(SIZES, 1e9).values()) == pytest.approx([1 / 3] * 3)
    with pytest.raises(ValueError, match="below 1"):
        mix.temperature_weights(SIZES, 0.5)


def test_capped_epochs_are_kept_and_the_rest_goes_to_the_others():
    weights = mix.cap_epochs({"a": 0.2, "b": 0.4, "c": 0.4}, SIZES, 600, 4)
    assert sum(weights.values()) == pytest.approx(1)
    times = mix.epochs(weights, SIZES, 600)
    assert times["c"] == pytest.approx(4) and max(times.values()) <= 4.001
    assert weights["a"] / weights["b"] == pytest.approx(0.5), "the free ones keep their proportion"
    with pytest.raises(ValueError, match="epochs of everything"):
        mix.cap_epochs(weights, SIZES, 5000, 4)


def test_a_source_without_weight_stays_without_and_helps_no_other():
    capped = mix.cap_epochs({"a": 0.0, "b": 0.4, "c": 0.6}, SIZES, 100, 4)
    assert capped == pytest.approx({"a": 0, "b": 0.6, "c": 0.4})
    with pytest.raises(ValueError, match="everything that has a weight"):
        mix.cap_epochs({"a": 0.0, "b": 0.4, "c": 0.6}, SIZES, 600, 4)     # 4 epochs of b and c are 440 tokens


def test_the_token_stream_is_whole_documents_in_the_asked_shares_and_repeatable():
    docs = {name: [np.full(n, n, dtype=np.uint16) for n in sizes]
            for name, sizes in (("a", range(10, 40)), ("b", range(50, 60)))}
    tokens = mix.sample_documents(docs, {"a": 0.25, "b": 0.75}, 8000, seed=1)
    assert abs((tokens < 45).mean() - 0.25) < 0.01 and 8000 <= len(tokens) < 8060
    assert abs((tokens[:2000] < 45).mean() - 0.25) < 0.05, "every stretch has the mixture"
    assert (tokens == mix.sample_documents(docs, {"a": 0.25, "b": 0.75}, 8000, seed=1)).all()
    runs = [len(list(g)) for n, g in itertools.groupby(tokens.tolist())]
    assert all(r % n == 0 for r, n in zip(runs, (n for n, _ in itertools.groupby(tokens.tolist()))))
    with pytest.raises(ValueError, match="not 1"):
        mix.sample_documents(docs, {"a": 0.5, "b": 0.6}, 10, 0)
    with pytest.raises(ValueError, match="no text"):
        mix.sample_documents({"a": docs["a"], "b": []}, {"a": 0.5, "b": 0.5}, 10, 0)


def test_the_search_finds_the_mixture_that_a_known_loss_prefers():
    wanted = {"a": 0.6, "b": 0.3, "c": 0.1}
    found, runs = mix.search_weights(list(wanted), lambda w: -sum(wanted[k] * np.log(w[k]) for k in w), 12,
                                     seed=0)
    assert len(runs) == 12 and all(abs(found[k] - wanted[k]) < 0.12 for k in wanted), found
