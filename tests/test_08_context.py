"""The words around a question: which ids a model gets, and what counts as right."""
import pytest

from bpe import BOT, EOS, USER, Tokenizer
from context import prompt, right_share
from transformer import Config, Transformer

TOKENIZER = Tokenizer([])
SHOWN = [("What kind is glob?", " function."), ("100+21", "1210")]


def spelled(ids: list[int]) -> str:
    """Ids as text, special tokens by one letter each."""
    names = {TOKENIZER.special[name]: letter for name, letter in ((EOS, "E"), (USER, "U"), (BOT, "B"))}
    return "".join(names.get(i) or TOKENIZER.decode([i]) for i in ids)


def test_the_base_model_gets_lines_and_a_chat_model_earlier_turns():
    assert spelled(prompt(TOKENIZER, "base", SHOWN, "300+4", 200)) == (
        "EQuestion: What kind is glob?\nAnswer: function.\n001+120=1210\n003+400=")
    assert spelled(prompt(TOKENIZER, "grpo", SHOWN, "300+4", 200)) == (
        "EUWhat kind is glob?B function.EU001+120B1210EU003+400B")
    assert spelled(prompt(TOKENIZER, "grpo", [], "300+4", 200)) == "EU003+400B"


def test_examples_that_do_not_fit_are_refused_with_a_sentence():
    for stage in ("base", "grpo"):
        ids = prompt(TOKENIZER, stage, SHOWN, "300+4", 1000)
        assert prompt(TOKENIZER, stage, SHOWN, "300+4", len(ids)) == ids
        with pytest.raises(ValueError, match=f"2 examples and the question are {len(ids)} tokens"):
            prompt(TOKENIZER, stage, SHOWN, "300+4", len(ids) - 1)


def test_a_chat_model_must_stop_and_the_base_model_need_not(monkeypatch):
    config = Config(vocab_size=TOKENIZER.vocab_size, d_model=8, n_layers=1, n_heads=1, n_kv_heads=1, d_ff=8,
                    max_len=64)
    model = Transformer(config)
    eos, said = TOKENIZER.special[EOS], TOKENIZER.encode("4030")
    answers = [[[*said, eos]], [[*said, *TOKENIZER.encode(" x")]], [TOKENIZER.encode("40")]]
    monkeypatch.setattr("context.sample", lambda *_: answers)
    asked = [("300+4", "4030")] * 3
    assert right_share(model, TOKENIZER, "grpo", [], asked) == pytest.approx(1 / 3)
    assert right_share(model, TOKENIZER, "base", [], asked) == pytest.approx(2 / 3)
