"""Files of other packages: written, read back, and refused. `make peers` compares ids with the packages."""
import base64
import json
import pickle
import random
import warnings

import pytest

from bpe import SPECIAL, Tokenizer, train
from formats import Renumbered, byte_alphabet, from_hf, from_tiktoken, to_hf, to_tiktoken
from pretokenize import PATTERN, PATTERNS

TEXT = "The quick brown fox\n\n  jumps over 1234 naïve 日本語 dogs, don't they? 🙂 the the then " * 3


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train([TEXT], 300))


def changed(tokenizer: Tokenizer, path, edit) -> None:
    """Write a tokenizer.json that `edit` has changed."""
    to_hf(tokenizer, path)
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_what_is_written_is_read_back_as_it_was(pattern, tmp_path):
    tokenizer = Tokenizer(train([TEXT], 300, pattern), SPECIAL, pattern)
    to_hf(tokenizer, tmp_path / "hf.json")
    to_tiktoken(tokenizer, tmp_path / "ranks")
    for again in (from_hf(tmp_path / "hf.json"),
                  from_tiktoken(tmp_path / "ranks", pattern, tokenizer.special)):
        assert type(again) is Tokenizer and again.merges == tokenizer.merges
        assert again.special == tokenizer.special and again.pattern == pattern
        assert again.encode(TEXT) == tokenizer.encode(TEXT)


def test_a_token_is_written_in_the_alphabet_of_gpt_2(tmp_path):
    """GPT-2's vocabulary writes " the" as Ġthe, a line end as Ċ, é as Ã© (encoder.json of the release)."""
    alphabet = byte_alphabet()
    spell = lambda text: "".join(alphabet[b] for b in text.encode())   # noqa: E731
    spelt = {" the": "Ġthe", "\n": "Ċ", "é": "Ã©", "\t": "ĉ", "\xa0": "Âł", "\xad": "ÂŃ"}
    assert {t: spell(t) for t in spelt} == spelt
    assert len(set(alphabet)) == 256 and all(c.isprintable() and not c.isspace() for c in alphabet)


def test_published_ids_are_kept(tokenizer, tmp_path):
    """Bytes in GPT-2's order (! is 0), special tokens first or with gaps: all that encodes keeps them."""
    order = sorted(range(256), key=lambda b: byte_alphabet()[b])
    numbers = [order.index(b) + 2 for b in range(256)] + [i + 2 for i in range(256, len(tokenizer.bytes_of))]
    published = Renumbered(tokenizer.merges, {"<s>": 0, "</s>": 1, "<pad>": 5000}, PATTERN, numbers)
    ids = published.encode(TEXT + "<s>", "all")
    assert ids == [numbers[i] for i in tokenizer.encode(TEXT)] + [0]
    long = TEXT * 40   # the fast path too
    assert published.encode(long.replace("日本語", "x").replace("ï", "i").replace("🙂", "")) == [
        numbers[i] for i in tokenizer.encode(long.replace("日本語", "x").replace("ï", "i").replace("🙂", ""))]
    assert list(published.encode_iterable(TEXT)) == published.encode(TEXT)
    assert published.decode(ids) == TEXT + "<s>" and published.vocab_size == 5001
    with pytest.raises(ValueError, match="token id 4999 is not in this vocabulary"):
        published.decode([4999])
    to_hf(published, tmp_path / "hf.json")
    to_tiktoken(published, tmp_path / "ranks")
    for again in (from_hf(tmp_path / "hf.json"),
                  from_tiktoken(tmp_path / "ranks", PATTERN, published.special),
                  pickle.loads(pickle.dumps(published))):
        assert again.encode(TEXT + "<s>", "all") == ids and again.special == published.special
    with pytest.raises(ValueError, match="to_hf"):
        published.save(tmp_path / "t.json")


def test_merges_of_random_texts_survive_the_way_through_ranks(tmp_path):
    """The ranks hold no merges; they come out the same on 60 small corpora with many ties and runs."""
    rng = random.Random(0)
    for _ in range(60):
        text = "".join(rng.choices(rng.choice(["ab", "aab é", "abc\n "]), k=80))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = Tokenizer(train([text], 300), ())
        to_tiktoken(tokenizer, tmp_path / "ranks")
        assert from_tiktoken(tmp_path / "ranks", PATTERN).merges == tokenizer.merges


def test_tokens_that_share_their_bytes_are_not_written(tmp_path):
    twice = Tokenizer([(97, 98), (98, 99), (256, 99), (97, 257)])   # abc as ab+c and as a+bc
    for write in (to_hf, to_tiktoken):
        with pytest.raises(ValueError, match="b'abc'"):
            write(twice, tmp_path / "file")
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_what_tokenizers_would_read_in_another_way_is_not_written(tmp_path):
    for tokenizer, message in ((Tokenizer([], ("<",)), "'<' is spelled like"),
                               (Tokenizer([], ("Ġ",)), "spelled like"),
                               (Tokenizer([], pattern=r"\p{N}{1,3}+|\P{N}"), "possessive")):
        with pytest.raises(ValueError, match=message):
            to_hf(tokenizer, tmp_path / "hf.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("edit, message", [
    (lambda d: d["model"].update(type="Unigram"), "type Unigram is not supported"),
    (lambda d: d["model"].update(dropout=0.1), "dropout 0.1"),
    (lambda d: d["model"].update(byte_fallback=True), "byte_fallback"),
    (lambda d: d["model"].update(unk_token="<unk>"), "unk_token"),
    (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    (lambda d: d.update(normalizer={"type": "NFC"}), "normalizer NFC"),
    (lambda d: d.update(post_processor={"type": "TemplateProcessing"}), "TemplateProcessing"),
    (lambda d: d.update(post_processor={"type": "Sequence", "processors": [
        {"type": "ByteLevel"}, {"type": "TemplateProcessing"}]}), "TemplateProcessing"),
    (lambda d: d.update(truncation={"max_length": 5}), "truncation is not supported"),
    (lambda d: d.update(padding={"pad_id": 0}), "padding is not supported"),
    (lambda d: d.update(pre_tokenizer={"type": "Metaspace"}), "Metaspace"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\p{N}{1,3}+|\P{N}"),
     "possessive"),
    (lambda d: d.update(pre_tokenizer=None), "pre_tokenizer none"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "Split"),
    (lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "add_prefix_space"),
    (lambda d: d["added_tokens"][0].update(lstrip=True), "lstrip"),
    (lambda d: d["model"]["merges"].append(["T", "h"]), "two merges make|made by|comes before|has no id"),
    (lambda d: d["model"]["merges"].insert(0, ["zz", "h"]), "comes before its halves"),
    (lambda d: d["model"]["vocab"].pop("a"), "b'a' has no id"),
    (lambda d: d["model"]["vocab"].update(xyzzy=9999), "b'xyzzy' is made by no merge"),
    (lambda d: d["model"]["vocab"].update({"日": 9999}), "the token '日' has .* which stands for no byte"),
    (lambda d: d.pop("model"), "no tokenizer.json, which is an object with a model"),
    (lambda d: d["model"].pop("vocab"), "the entry 'vocab' is missing"),
    (lambda d: d["model"]["vocab"].update(a="7"), "the id '7' is no whole number"),
    (lambda d: d["model"]["vocab"].update(a=-1), "the id -1 is no whole number from 0 on"),
    (lambda d: d["added_tokens"][0].update(id=None), "the id None is no whole number"),
    (lambda d: d["model"].update(merges=5), "not of the kind it should be .*int")])
def test_what_is_not_supported_is_named(tokenizer, tmp_path, edit, message):
    changed(tokenizer, tmp_path / "hf.json", edit)
    with pytest.raises(ValueError, match=rf"(?s)hf\.json can't be read.*({message})"):
        from_hf(tmp_path / "hf.json")


def test_gpt_2s_own_pre_tokenizer_and_merges_as_text_are_read(tmp_path):
    tokenizer = Tokenizer(train([TEXT], 300, PATTERNS["GPT-2"]), (), PATTERNS["GPT-2"])

    def as_in_2019(data):
        data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
        data["model"]["ignore_merges"] = True
    changed(tokenizer, tmp_path / "hf.json", as_in_2019)
    assert from_hf(tmp_path / "hf.json").encode(TEXT) == tokenizer.encode(TEXT)


def test_a_byte_level_file_without_a_pattern_is_one_piece(tmp_path):
    whole = Tokenizer(train(["a b a b"], 260, "(?s).+"), (), "(?s).+")

    def without_pattern(data):
        data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    changed(whole, tmp_path / "hf.json", without_pattern)
    assert from_hf(tmp_path / "hf.json").encode("a b\na b") == whole.encode("a b\na b")


def test_tokens_of_thousands_of_bytes_are_written_and_read_in_linear_time(tmp_path):
    """Tokens of up to 2^16 letters: with the square of their length this test would run for minutes."""
    tokenizer = Tokenizer(train(["a" * 2**17], 256 + 16))
    assert len(tokenizer.bytes_of[-1]) == 2**16
    to_hf(tokenizer, tmp_path / "hf.json")
    to_tiktoken(tokenizer, tmp_path / "ranks")
    assert from_hf(tmp_path / "hf.json").merges == tokenizer.merges
    assert from_tiktoken(tmp_path / "ranks", PATTERN).merges == tokenizer.merges


@pytest.mark.parametrize("content, message", [
    (b"YQ== 0\nYQ== 1\n", "line 2.*there twice"), (b"YQ== -1\n", "line 1.*negative"),
    (b"YQ== 0\nnot base64 1\n", "line 2"), (b"YQ==\n", "line 1"), (b"\xff\xfe\x00", "line 1"),
    (b"YQ== x", "line 1"),
    (b"YQ== 0\n", "has no id"), (b"{}", "line 1")])
def test_a_file_that_is_no_ranks_is_refused(tmp_path, content, message):
    (tmp_path / "ranks").write_bytes(content)
    with pytest.raises(ValueError, match=rf"ranks.*{message}"):
        from_tiktoken(tmp_path / "ranks", PATTERN)


def test_a_token_without_halves_is_refused(tmp_path):
    tokens = [*(bytes([i]) for i in range(256)), b"abc"]
    lines = [base64.b64encode(token) + b" %d" % i for i, token in enumerate(tokens)]
    (tmp_path / "ranks").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match="b'abc' is not two earlier ones"):
        from_tiktoken(tmp_path / "ranks", PATTERN)
