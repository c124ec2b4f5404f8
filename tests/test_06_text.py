"""Chapter 6: bytes to text, languages, rules and judges of quality."""
import json
import math
import random

import numpy as np
import pytest
import torch

import extract
import filters
import language
import pipeline
import planted
import quality

SENTENCE = "Größe, naïve café, Łódź and Привет: the same text in every encoding it was ever written in. " * 3


@pytest.mark.parametrize("body, content_type", [
    (SENTENCE.encode("utf-8"), ""), (b"\xef\xbb\xbf" + SENTENCE.encode(), "text/html; charset=latin-1"),
    (SENTENCE.encode("utf-16"), ""), (SENTENCE.encode("utf-32"), ""),
    (SENTENCE.encode(), "text/html; charset=koi8-r-typo"),
    (b'<meta charset="utf-8">' + SENTENCE.encode(), "")])
def test_a_text_is_decoded_whatever_its_encoding_says(body, content_type):
    assert extract.decode(body, content_type)[0].endswith(SENTENCE)


@pytest.mark.parametrize("codec, text", [
    ("cp1252",
     "Die Würde des Menschen ist unantastbar. Sie zu achten ist Verpflichtung für alle, "
     "auch für größere Gruppen. " * 4),
    ("koi8-r", "Все люди рождаются свободными и равными в своем достоинстве и правах. " * 4),
    ("cp1251", "Все люди рождаются свободными и равными в своем достоинстве и правах. " * 4)])
def test_an_undeclared_encoding_is_guessed(codec, text):
    assert extract.decode(text.encode(codec))[0] == text


@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
def test_mojibake_is_undone_and_right_text_is_left_alone(codec):
    text = "naïve café – “quoted” Łódź Привет 日本"
    assert extract.repair_mojibake(text) == text
    broken = text.encode().decode(codec, "ignore") if codec == "cp1252" else text.encode().decode(codec)
    assert ("café" in extract.repair_mojibake(broken)) and "naïve" in extract.repair_mojibake(broken)
    for fine in ("CAFÉ »", "Ã", "100 Â", "È vero", "Ärger"):
        assert extract.repair_mojibake(fine) == fine


def test_main_text_is_found_in_every_layout_and_scores_above_keeping_everything():
    pages = [p for p in planted.build(0) if p.kind == "article"][:40]
    kept, everything = (np.mean([extract.word_score(f(p.body.decode()), p.gold) for p in pages], axis=0)
                        for f in (extract.main_text, extract.all_text))
    assert kept[0] > everything[0] + 0.1, "precision: menus, notices and footers must go"
    assert kept[1] > 0.97, "recall: the article itself must stay"


@pytest.mark.parametrize("page", [p for p in planted.build(0) if p.kind == "broken"], ids=lambda p: p.path)
def test_broken_markup_gives_a_text_or_a_reason(page):
    text, reason = extract.extract(page.body, page.content_type)
    assert isinstance(text, str) and bool(text) != bool(reason)


def test_random_bytes_and_random_markup_never_fail():
    rng = random.Random(0)
    pieces = ["<", ">", "</", "<!--", "-->", "<![CDATA[", "&", "&#x", ";", "<p", "<script>", "</td>", '"',
              "'", "=", "a", " ", "é", "\0", "<?"]
    for _ in range(300):
        extract.extract("".join(rng.choices(pieces, k=60)).encode(), "text/html")
        extract.extract(rng.randbytes(80), "")


def test_deep_nesting_keeps_the_text_inside():
    words = ("This sentence is long enough to be the main text of a page "
             "and it sits very deep inside of it. ") * 3
    assert extract.extract(b"<div>" * 5000 + words.encode(), "text/html")[0] == words.strip()


@pytest.mark.parametrize("body, kind, reason", [(b"", "text/html", "empty"), (b" \n", "", "empty"),
                                                (b"\x00\x01\x02" * 99, "", "binary"),
                                                (b"%PDF", "application/pdf", "not text: application/pdf"),
                                                (b"<nav>Home</nav>", "text/html", "no main text")])
def test_what_has_no_text_says_why(body, kind, reason):
    assert extract.extract(body, kind) == ("", reason)


def test_languages_are_told_apart_and_longer_is_easier():
    accuracy, confusion = language.accuracy_by_length(language.default_model(),
                                                      language.load_sentences()["test"])
    assert accuracy[10] > 0.5 and accuracy[40] > 0.9 and accuracy[160] > 0.98
    assert list(accuracy.values()) == sorted(accuracy.values())
    assert confusion.sum(1).min() > 20, "every language is tested"


def test_smoothed_log_probabilities_sum_to_one():
    p = language.log_probabilities(np.array([[3, 0, 1], [0, 0, 0]]), 0.5)
    np.testing.assert_allclose(np.exp(p).sum(1), 1)
    np.testing.assert_allclose(np.exp(p[0]), [3.5 / 5.5, 0.5 / 5.5, 1.5 / 5.5])


GOOD = ("The tokenizer reads the text of the file and cuts it into pieces that the model has seen before. It "
        "is fast because most of the words of a language occur again and again. When a word is new, the "
        "pieces are shorter, down to the single byte, so that nothing is ever lost. That is what makes it "
        "robust.\n\nThe second paragraph says something "
        "else, to have more than one of them. It ends with a full stop.")


@pytest.mark.parametrize("text, rule", [
    ("too short", "words"), (" ".join(["extraordinarily"] * 60), "mean word length"),
    (GOOD + " #" * 30, "symbols per word"),
    ("- the of\n" * 60, "bullet lines"), ("the of and so on...\n" * 60, "lines ending in an ellipsis"),
    ("1234 " * 200 + GOOD, "words with a letter"), ("word " * 100, "stop words"),
    ("the same line of text\n" * 40, "duplicate lines"),
    ("the same text of a part\n\n" * 40, "duplicate paragraphs"),
    ("buy now " * 99 + GOOD, "top 2-gram"), ((" ".join(GOOD.split()[:12]) + " ") * 9, "repeated 10-grams"),
    ("of the words " * 60, "sentences"), (GOOD + " Lorem ipsum dolor.", "lorem ipsum"),
    (GOOD + " {", "curly brackets"),
    ("the words of no end\n" * 50, "lines ending in punctuation"),
    ("the of a\n" * 50, "lines under 30 characters")])
def test_every_rule_removes_its_case_and_says_so(text, rule):
    assert filters.explain(GOOD) == []
    reasons = filters.explain(text)
    assert any(f": {rule} is " in reason for reason in reasons), reasons


def test_repeated_ngrams_count_each_character_once():
    words = "a b a b a b".split()
    brute = {i for i in range(5) for j in range(i) if words[i:i + 2] == words[j:j + 2]}
    covered = {k for i in brute for k in (i, i + 1)}
    assert filters.repeated_ngram_share(words, 2) == len(covered) / 6


def test_private_data_is_masked_and_harmless_numbers_stay():
    text, counts = filters.mask_private("Ask jane.doe+x@mail.example.org, +1 (555) 010-2345 or "
                                        "555-010-2345, from 8.8.8.8 or "
                                        "2001:4860:4860::8888; not 127.0.0.1, ::1, 192.168.0.1, 3.11.7, "
                                        "1234567890, 12:30:45, a::b.")
    assert counts == {"email": 1, "phone": 2, "ip": 2}
    for kept in ("127.0.0.1", "::1", "192.168.0.1", "3.11.7", "1234567890", "12:30:45", "a::b"):
        assert kept in text
    assert "jane" not in text and "010-" not in text and "8.8" not in text


def test_code_that_no_one_wrote_is_dropped_and_licences_are_cut():
    for page in planted._code(random.Random(0)):
        text, reason = filters.clean_code(page.body.decode())
        assert reason == {"made.py": "generated", "min.js": "minified",
                          "mean.py": ""}[page.path.rpartition("/")[2]]
        assert "License" not in text
    assert filters.clean_code("# about means\ndef f():\n    return 1\n")[0].startswith("# about")


def test_line_rules_drop_notices_and_keep_sentences():
    text = ("This line has enough words in it.\nMenu\nWe use cookies to serve you better today.\n"
            "See the privacy policy here now.")
    assert filters.c4_lines(text) == "This line has enough words in it."
    assert filters.c4_lines(text, prose_only=False) == "This line has enough words in it.\nMenu"


TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog sat", "the mat and the log",
         "San Francisco", "San Francisco"]


def test_kneser_ney_sums_to_one_after_every_context():
    model = quality.NgramModel(TEXTS, order=3, min_count=1)
    for context in (("the", "cat"), ("sat", "on"), ("never", "seen"), ("<s>", "<s>"), ("dog", "never"), ()):
        assert math.isclose(sum(model.p(w, context) for w in model.vocabulary), 1, rel_tol=1e-12), context


def test_kneser_ney_agrees_with_its_formula_written_out():
    model = quality.NgramModel(TEXTS, order=2, min_count=1)
    sequences = [["<s>", *t.lower().split(), "</s>"] for t in TEXTS]
    bigrams = [pair for s in sequences for pair in zip(s, s[1:])]
    kinds = set(bigrams)

    def count(pairs, test):
        return sum(map(test, pairs))
    tally = [bigrams.count(pair) for pair in kinds]
    d2 = tally.count(1) / (tally.count(1) + 2 * tally.count(2))
    continuation = [sum(b == w for _, b in kinds) for w in {b for _, b in kinds}]
    d1 = continuation.count(1) / (continuation.count(1) + 2 * continuation.count(2))
    for word, before in (("sat", "cat"), ("francisco", "san"), ("francisco", "the"), ("log", "the")):
        p1 = (max(count(kinds, lambda p: p[1] == word) - d1,
                  0) + d1 * len(continuation) / len(model.vocabulary)) / len(kinds)
        after = count(bigrams, lambda p: p[0] == before)
        direct = max(bigrams.count((before, word)) - d2, 0) / after
        wanted = direct + d2 * count(kinds, lambda p: p[0] == before) / after * p1
        assert math.isclose(model.p(word, (before,)), wanted, rel_tol=1e-12)


def test_a_word_that_follows_only_one_word_is_unlikely_elsewhere():
    model = quality.NgramModel(TEXTS + ["San Francisco"] * 9, order=2, min_count=1)
    assert model.p("francisco", ("log",)) < model.p("sat",
                                                    ("log",)), "Francisco is frequent, but only after San"


def test_perplexity_prefers_text_like_the_training_text():
    model = quality.NgramModel([" ".join(p) for p in planted.articles()[:40]])
    held = " ".join(planted.articles()[50])
    words = held.split()
    random.Random(0).shuffle(words)
    assert model.perplexity(held) < model.perplexity(" ".join(words)) < float("inf")


def test_one_step_of_the_classifier_is_the_gradient_of_its_loss():
    model = quality.QualityClassifier(buckets=64)
    rng = np.random.default_rng(0)
    model.weights[:] = rng.normal(size=64)
    where, values = model.features("good words of a good text")
    w = torch.tensor(model.weights, requires_grad=True)
    torch.nn.functional.binary_cross_entropy_with_logits((w[where] * torch.tensor(values)).sum(),
                                                         torch.tensor(1.0).double()).backward()
    before = model.weights.copy()
    # One good and one bad example: the weight of each is 1/2, times two rows. The bad text shares no bucket.
    bad = next(t for t in map(str, range(999)) if not set(model.features(t)[0]) & set(where.tolist()))
    model.fit(["good words of a good text"], [bad], epochs=1, rate=1e-6, l2=0.0)
    torch.testing.assert_close(torch.tensor((before - model.weights)[where] / 1e-6), w.grad[where], rtol=1e-3,
                               atol=1e-6)


def test_the_classifier_separates_good_text_from_advertisements_it_has_not_seen():
    good = [" ".join(p) for p in planted.articles()]
    bad = [" ".join(p) for p in planted.offers(80, random.Random(1))]
    model = quality.QualityClassifier()
    loss = model.fit(good[:40], bad[:40])
    assert loss < math.log(2)
    assert quality.auc([model.score(t) for t in good[40:]], [model.score(t) for t in bad[40:]]) > 0.95


def test_a_threshold_keeps_the_share_it_promises():
    scores = [i / 100 for i in range(100)]
    for share in (0.5, 0.9, 0.99, 1.0):
        assert sum(s >= quality.threshold_keeping(scores, share) for s in scores) >= share * 100
    with pytest.raises(ValueError, match="give a share"):
        quality.threshold_keeping([], 0.5)
    assert quality.auc([2, 3], [1, 2]) == 3.5 / 4


@pytest.mark.parametrize("shift", range(3))
def test_a_page_cut_at_the_size_limit_is_still_utf_8(shift):
    body = b"x" * shift + "naïve café 北京 ".encode() * (extract.MAX_BYTES // 20 + 9)
    assert len(body) > extract.MAX_BYTES
    text, problem = extract.extract(body, "text/plain; charset=utf-8")
    assert not problem and "\ufffd" not in text and set(text.split()[1:]) == {"naïve", "café", "北京"}
    assert extract.beginning(b"short", 9) == b"short" and extract.beginning(b"x" * 20, 9) == b"x" * 9


def test_a_text_in_none_of_the_languages_is_unknown():
    model, sentences = language.default_model(), language.load_sentences()
    found = {name: model.identify(" ".join(said))[0] for name, said in sentences["other"].items()}
    for name in ("zh", "ja", "ko", "ar", "he", "hi", "th", "el", "vi", "tr", "fi", "hu", "cs", "et", "sw",
                 "eo", "uk", "da", "ro"):
        assert found[name] == language.UNKNOWN, name
    assert not {"en",
                "de"} & set(found.values()), "near relations go to their relations: Bulgarian, Catalan"
    for nothing in ("", "12 + 34 = 46 !!", "?", "\u4eba"):
        assert model.identify(nothing)[0] == language.UNKNOWN


def test_letters_that_a_language_does_not_have_are_another_s():
    model = language.default_model()
    for text in ("Всі люди народжуються вільними і рівними у своїй гідності та правах.",
                 "Усе людзі нараджаюцца свабоднымі і роўнымі ў сваёй годнасці.",
                 "Všetci ľudia sa rodia slobodní a sebe rovní v dôstojnosti."):
        assert model.identify(text)[0] == language.UNKNOWN, text
    assert model.identify("The café in Zürich serves crème brûlée and jalapeño.")[0] == "en"
    assert model.identify("Все люди рождаются свободными и равными (all are born free).")[0] == "ru"
    quoted = ("Das Programm von Dvořák liest eine Datei Zeile für Zeile und zählt, wie oft jedes Wort "
              "vorkommt.")
    assert model.identify(quoted)[0] == "de", "a name is no other language"


def test_texts_in_the_languages_are_still_kept():
    model, test = language.default_model(), language.load_sentences()["test"]
    unknown = language.unknown_by_length(model, test)
    assert unknown[10] < 0.02 and unknown[20] < 0.01 and unknown[40] < 0.01
    assert unknown[80] == unknown[160] == 0
    assert all(model.identify(" ".join(said))[0] == name for name, said in test.items())


def test_a_chinese_document_leaves_the_pipeline_as_unknown():
    doc = {"url": "http://a.example/x", "text": "".join(language.load_sentences()["other"]["zh"]) * 4}
    for wanted in ("en", "nl"):
        assert pipeline.apply_stage("language", doc, pipeline.Recipe(language=wanted)) == "language: unknown"


def test_the_trained_judges_are_reached_by_name(tmp_path):
    good, bad = ([" ".join(p) for p in pages] for pages in (planted.articles(),
                                                            planted.offers(60, random.Random(1))))
    judges = quality.Judges.train(good[:40], bad[:40], good[40:60], keep=0.9)
    assert sum(not judges.objection(t)
               for t in good[40:60]) >= 16 and judges.objection(bad[50]) == "classifier"
    assert judges.objection("zyx wvu " * 99) in ("classifier", "perplexity")
    path = tmp_path / "judge.json"
    path.write_text(json.dumps({"good": good[:40], "bad": bad[:40], "calibrate": good[40:60]}))
    assert pipeline.judges_of(str(path), 0.9).least == judges.least
    path.write_text(json.dumps({"good": good[:2], "calibrate": good[:2]}))
    with pytest.raises(ValueError, match="judge.json has no `bad`"):
        pipeline.judges_of(str(path), 0.8)


def test_the_probability_and_the_loss_of_the_classifier_hold_at_any_score():
    model = quality.QualityClassifier(buckets=64)
    for bias in (-2000.0, -800.0, 0.0, 800.0, 2000.0):
        model.bias = bias
        wanted = torch.sigmoid(torch.tensor(bias, dtype=torch.float64)).item()
        assert model.score("a text") == pytest.approx(wanted, abs=1e-300)
    for z in (-40.0, -1e-9, 0.0, 1e-9, 40.0):
        wanted = torch.sigmoid(torch.tensor(z, dtype=torch.float64)).item()
        assert math.isclose(quality.sigmoid(z), wanted, rel_tol=1e-14)
    model.bias = -1000.0
    # One good and one bad text: the loss is half of log(1 + exp(1000)), not of a probability cut at 1e-12.
    assert model.fit(["good words"], ["bad marks"], epochs=1, rate=0.0) == pytest.approx(500.0)
