"""Chapter 1 against the tokenizers, tiktoken and sentencepiece packages: the same ids and tokens through our
files.
"""
import base64
import random
import unicodedata
import warnings

import pytest
import regex

from bpe import SPECIAL, Tokenizer, train
from corpus import real_text
from formats import from_hf, from_tiktoken, to_hf, to_tiktoken
from pretokenize import PATTERN, PATTERNS, splitter
from sentencepiece_file import to_sentencepiece
from unigram import Unigram
from unigram_training import train_unigram

ODD = ("naïve e\u0301 שָׁלוֹם مَرْحَبًا नमस्ते ไทย 한국어 日本語 \U00010348 👩‍👩‍👧‍👦 👍🏽 "
       "\u200d\ufeff\u0000\x1c\x7f\x85\xa0\u1680\u2028\u3000"
       " a\r\nb\rc\n\n\t d  \r\n ½²Ⅳ٣ IT'S it'll 'ſ x'S 1234567 ...!!! (a)[b] \U0002f800   ")


@pytest.fixture(scope="module")
def corpus():
    return real_text()


@pytest.fixture(scope="module", params=PATTERNS.values(), ids=PATTERNS)
def trained(request, corpus):
    return Tokenizer(train(corpus[::5] + [ODD], 3000, request.param), SPECIAL, request.param)


def random_texts(n: int = 300) -> list[str]:
    """Texts of odd characters in random order, so that odd neighbours meet."""
    rng = random.Random(0)
    return ["".join(rng.choices(ODD, k=rng.randint(1, 60))) for _ in range(n)]


def test_tiktoken_gives_our_ids_over_the_whole_corpus(trained, corpus, tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe
    to_tiktoken(trained, tmp_path / "ranks")
    theirs = tiktoken.Encoding("ours", pat_str=trained.pattern, special_tokens=trained.special,
                               mergeable_ranks=load_tiktoken_bpe(str(tmp_path / "ranks")))
    for text in [*corpus, "".join(corpus[:300]), ODD, *random_texts()]:
        assert theirs.encode_ordinary(text) == trained.encode(text)
    marked = "a<|eos|> <|bot|>b<|eos"
    assert theirs.encode(marked, allowed_special="all") == trained.encode(marked, "all")
    got = theirs.encode(marked, allowed_special={"<|eos|>"}, disallowed_special=())
    assert got == trained.encode(marked, {"<|eos|>"})
    again = from_tiktoken(tmp_path / "ranks", trained.pattern, trained.special)
    assert again.merges == trained.merges


@pytest.mark.parametrize("name, ours", [("gpt2", "GPT-2"), ("cl100k_base", "GPT-4 (cl100k)"),
                                        ("o200k_base", "")])
def test_a_published_vocabulary_gives_its_own_ids(name, ours, corpus, tmp_path):
    """Read as ranks, written as tokenizer.json, read again: 50,000 to 200,000 tokens that OpenAI trained."""
    tiktoken, tokenizers = pytest.importorskip("tiktoken"), pytest.importorskip("tokenizers")
    try:
        theirs = tiktoken.get_encoding(name)
    except Exception as error:   # tiktoken fetches the file: no network, or none of its own
        pytest.skip(f"{name} can't be fetched: {type(error).__name__}")
    ranks = "".join(f"{base64.b64encode(t).decode()} {i}\n" for t, i in theirs._mergeable_ranks.items())
    (tmp_path / "ranks").write_text(ranks)
    pattern = PATTERNS.get(ours, theirs._pat_str)
    read = from_tiktoken(tmp_path / "ranks", pattern, theirs._special_tokens)
    to_hf(read, tmp_path / "hf.json")
    hf, again = tokenizers.Tokenizer.from_file(str(tmp_path / "hf.json")), from_hf(tmp_path / "hf.json")
    for text in [*corpus[::6], ODD, *random_texts(100)]:
        ids = theirs.encode_ordinary(text)
        assert read.encode(text) == again.encode(text) == hf.encode(text).ids == ids, text
        assert read.decode(ids) == text


def test_tokenizers_gives_our_ids_over_the_whole_corpus(trained, corpus, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    to_hf(trained, tmp_path / "t.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    texts = [*corpus, ODD, *random_texts()]
    for text, found in zip(texts, theirs.encode_batch(texts)):
        assert found.ids == trained.encode(text)
        assert theirs.decode(found.ids, skip_special_tokens=False) == text
    marked = "a<|eos|> <|bot|>b<|eos"
    assert theirs.encode(marked).ids == trained.encode(marked, "all")


def test_of_special_tokens_the_longest_counts_there_too(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    ours = Tokenizer([(97, 98)], ("<e>", "<e><e>x", "<e", "ab<"))
    to_hf(ours, tmp_path / "t.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(["<e>", "<", "e>", "x", " ", "ab"], k=12))
        assert theirs.encode(text).ids == ours.encode(text, "all"), text


def test_a_tokenizer_that_tokenizers_trained_is_read(corpus, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False,
                                             special_tokens=["<|endoftext|>"])
    theirs.train_from_iterator(corpus[::5], trainer)
    theirs.save(str(tmp_path / "t.json"))
    ours = from_hf(tmp_path / "t.json")
    assert ours.special == {"<|endoftext|>": 0} and ours.pattern == PATTERNS["GPT-2"]
    for text in [*corpus[::3], ODD, *random_texts()]:
        assert ours.encode(text) == theirs.encode(text).ids
    to_hf(ours, tmp_path / "again.json")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "again.json")).encode(ODD).ids == ours.encode(ODD)


def test_every_character_is_of_the_same_kind_for_all_three():
    """Python's regex and the one of tokenizers agree on all characters that this Python's Unicode knows."""
    tokenizers = pytest.importorskip("tokenizers")
    old = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    text = "".join(f"a{c}1" for c in old)
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == splitter(PATTERN)(text)


@pytest.fixture(scope="module")
def unigram(corpus):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Unigram(train_unigram(corpus[::4], 2000), special=())


def test_sentencepiece_cuts_like_our_viterbi(unigram, corpus, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    to_sentencepiece(unigram, tmp_path / "ours.model")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "ours.model"))
    differing = 0
    for text in corpus[::7]:
        ours = [unigram.decode_bytes([i]) for i in unigram.encode(text)]
        got = [bytes([int(p[3:5], 16)]) if regex.fullmatch("<0x..>", p) else p.replace("\u2581", " ").encode()
               for p in theirs.encode(text, out_type=str)]
        differing += got != ours
        assert b"".join(got) == text.encode()
    assert differing == 0


def test_our_unigram_compresses_as_well_as_sentencepieces(unigram, corpus, tmp_path):
    """On held-out text, with as many tokens and the same cuts: at most 2% more tokens."""
    sentencepiece = pytest.importorskip("sentencepiece")
    split = splitter(PATTERN)
    # One piece a line, the space as a character that survives: SentencePiece then counts what we count.
    def spell(text: str) -> list[str]:
        return [piece.replace(" ", "\u2581").replace("\n", "\u23ce") for piece in split(text)]
    lines = "\n".join(p for text in corpus[::4] for p in spell(text))
    (tmp_path / "pieces.txt").write_text(lines, encoding="utf-8")
    size = len(unigram.logp) + 256 + 1   # theirs need tokens for ASCII characters, bytes and <unk> besides
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "pieces.txt"), model_prefix=str(tmp_path / "theirs"), vocab_size=size,
        byte_fallback=True, model_type="unigram", normalization_rule_name="identity", add_dummy_prefix=False,
        bos_id=-1, eos_id=-1,
        remove_extra_whitespaces=False, split_by_number=False, split_by_unicode_script=False, num_threads=2,
        character_coverage=0.9995, minloglevel=2, hard_vocab_limit=False)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "theirs.model"))
    held_out = corpus[1::9]
    wanted = sum(map(len, theirs.encode([p for text in held_out for p in spell(text)])))
    got = sum(len(unigram.encode(text)) for text in held_out)
    print(f"tokens on held-out text: ours {got}, sentencepiece {wanted}, ratio {got / wanted:.4f}")
    assert got <= 1.02 * wanted
