"""The terminal chat: sums as people read them, commands, history; and how each model is asked."""
import random

import pytest
import torch

import chat
import packed_product
from arithmetic import problem, random_pair, right_answer
from bpe import BOT, EOS, USER, Tokenizer
from checkpoint import save_model
from cuda_build import cpu_compiler
from kv_cache import stream
from model_words import as_read, as_trained, conversation, ends_at, prompt_of
from packed_model import PackedTransformer
from quantize import load_quantized, quantize_model, save_quantized
from transformer import Config, Transformer

BYTES = Tokenizer([])
EOS_ID, USER_ID, BOT_ID = (BYTES.special[name] for name in (EOS, USER, BOT))


@pytest.fixture
def talk(tmp_path, monkeypatch):
    """Sends a line to a chat whose model says what it is told to; returns what was shown."""
    BYTES.save(tmp_path / "01_tokenizer/tokenizer.json")
    model = Transformer(Config(vocab_size=BYTES.vocab_size, d_model=8, n_layers=1, n_heads=1, n_kv_heads=1,
                               d_ff=8, max_len=64))
    for name in ("03_training/model", "07_alignment/grpo", "07_alignment/sft"):
        save_model(tmp_path / f"{name}.pt", model)
    shown, prompts, says = [], [], []

    def stream(model, prompt, n_new, eos, *how):
        prompts.append((prompt, how[:3]))
        yield from says.pop(0).encode()

    monkeypatch.setattr(chat, "stream", stream)
    def say(*text, end="\n", flush=False):
        shown.append("".join(text) + end)

    it = chat.Chat(chat.Settings(out=str(tmp_path)), say)

    def send(line: str, *answers: str) -> str:
        says[:] = answers
        shown.clear()
        it.command(line) if line.startswith("/") else it.answer(line)
        return "".join(shown)

    send.prompts, send.chat = prompts, it
    return send


def test_a_sum_is_sent_as_it_was_learned():
    assert as_trained("361+324") == "163+423" and as_trained(" 5 + 30 = ") == "500+030"
    assert as_trained(" Which module has glob? ") == "Which module has glob?"


def test_every_sum_reads_the_way_people_write_it():
    dice = random.Random(0)
    for _ in range(200):
        a, b = pair = random_pair(dice)
        assert as_trained(f"{a}+{b}") == problem(pair)
        assert as_read(f"{a} + {b}", right_answer(pair)) == str(a + b)
    assert as_read("0+0", "0000") == "0"
    assert as_read("361+324", "58601") == "58601", "five digits are no answer: shown as they are"
    assert as_read("Which year?", "5860") == "5860", "only sums are turned round"


def test_a_sum_is_shown_readable_with_the_models_own_words_beside(talk):
    text = talk("361+324", "5860")
    assert text.splitlines()[0] == "model> 685" and "163+423=5860" in text
    assert talk.prompts[-1][0] == [EOS_ID, USER_ID, *b"163+423", BOT_ID]
    assert "5860" not in talk("Which module has glob?", " glob.") and "685" in talk("/history")


def test_the_base_model_is_asked_in_plain_text_and_stopped_at_the_end_of_its_answer(talk):
    talk("/model base")
    assert "glob." in talk("Which module has glob?", " glob.\nQuestion: more")
    assert "more" not in talk("/history")
    assert talk.prompts[-1][0] == [EOS_ID, *b"Question: Which module has glob?\nAnswer:"]
    assert "685" in talk("361+324", "5860 and so on") and talk.prompts[-1][0] == [EOS_ID, *b"163+423="]
    assert ends_at("grpo", "1+1", "2000 more") is None, "chat models end by themselves"
    assert prompt_of(BYTES, "sft", "q") == [EOS_ID, USER_ID, *b"q", BOT_ID]


def test_commands_change_what_they_say(talk):
    talk("/temperature 0.5"), talk("/top-k 7"), talk("/top_p 0.9")
    talk("q", "a")
    assert talk.prompts[-1][1] == (0.5, 7, 0.9)
    assert "b" in talk("/again", "b") and talk("/history").count("you>") == 1, "it replaces the last turn"
    talk("/remember"), talk("r", "c")
    assert talk.prompts[-1][0] == [EOS_ID, USER_ID, *b"q", BOT_ID, *b"b", EOS_ID, USER_ID, *b"r", BOT_ID]
    talk("/forget"), talk("s", "d")
    assert talk.prompts[-1][0] == [EOS_ID, USER_ID, *b"s", BOT_ID]
    talk("/seed 5")
    assert talk.chat.generator.initial_seed() == 5
    assert talk.chat.command("/help") and not talk.chat.command("/quit")


@pytest.mark.parametrize("line, wanted", [
    ("/temperature", "write a number"), ("/temperature hot", "write a number"), ("/top-p 7", "more than 0"),
    ("/model gpt", "choose base"), ("/", "/help"), ("/nothing", "/help"), ("/temperature nan", "0 to 100")])
def test_a_wrong_command_is_a_sentence(talk, line, wanted):
    with pytest.raises(ValueError, match=wanted):
        talk(line)


def test_what_cannot_be_asked_is_a_sentence_too(talk):
    assert "surrogate" in talk("\ud800") and "too long" in talk("x" * 62)
    assert talk("?", "").startswith("model>"), "an answer may be empty"


def test_a_conversation_keeps_the_last_turns_that_fit():
    turns = [("one", " a"), ("1+2", "3000")]
    whole = conversation(BYTES, turns, "now", 1000)
    assert whole == [EOS_ID, USER_ID, *b"one", BOT_ID, *b" a", EOS_ID, USER_ID, *b"100+200", BOT_ID, *b"3000",
                     EOS_ID, USER_ID, *b"now", BOT_ID]
    for room in range(len(whole) + 3):
        kept = conversation(BYTES, turns, "now", room)
        assert kept == whole[len(whole) - len(kept):] and (len(kept) <= room or len(kept) == 6)


def test_breaking_off_an_answer_keeps_the_chat(talk, monkeypatch):
    def stream(*_):
        yield from b" half"
        raise KeyboardInterrupt
    monkeypatch.setattr(chat, "stream", stream)
    assert talk("q") == "model> half\n" and talk.chat.turns == [("q", " half")]


@pytest.mark.parametrize("compiler", [False, pytest.param(True, marks=pytest.mark.skipif(
    not cpu_compiler(), reason="no C++ compiler found"))])
@pytest.mark.filterwarnings("ignore:packed weights are multiplied by plain torch")
def test_four_bits_are_multiplied_packed_where_there_is_a_compiler(tmp_path, monkeypatch, compiler):
    torch.manual_seed(0)
    path = tmp_path / "08_inference/model.int4.pt"
    save_quantized(path, quantize_model(Transformer(Config(vocab_size=96, d_model=32, n_layers=2, d_ff=64))))
    packed_product.library.cache_clear()
    if not compiler:
        monkeypatch.setenv("CXX", "no-such-compiler")
    try:
        model = chat.load(tmp_path, "int4")
        assert isinstance(model, PackedTransformer) == compiler
        assert [*stream(model, [1, 2, 3], 12)] == [*stream(load_quantized(path), [1, 2, 3], 12)]
    finally:
        packed_product.library.cache_clear()
