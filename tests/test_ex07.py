"""The exercises of chapter 7 about data: verifier, chat tokens, loss masks, pairs."""

import pytest
import torch

from bpe import BOT, EOS, USER, Tokenizer
from chat_template import answer_batch, initialize_chat_tokens
from cross_entropy import IGNORE
from dpo import best_and_worst
from ex_compare import call, same
from transformer import Config, Transformer
from verifier import is_right

BYTES = Tokenizer([])  # every byte is a token
TAIL = " Thank you for asking."

# 7.1 a strict verifier


def check_verdict(answer, truth, want, likely):
    """is_right on one answer."""
    given = f"answer {answer!r}, truth {truth!r}"
    same(call(given, is_right, answer, truth), want, given, likely)


@pytest.mark.ex("7.1")
@pytest.mark.parametrize("truth", ["json", "none", "urllib.parse"])
def test_both_forms_are_right(truth):
    """the truth is right in the terse and in the wordy form"""
    for answer in (f" {truth}.", f" {truth}.{TAIL}"):
        check_verdict(answer, truth, True, "both terse(truth) and verbose(truth) are accepted")


@pytest.mark.ex("7.1")
def test_another_answer_is_wrong():
    """another answer is wrong, also one that shares letters with the truth"""
    for answer in (" pickle.", " json5.", " Json.", " js.", " ujson.", f" pickle.{TAIL}"):
        check_verdict(answer, "json", False, "compare whole strings, letter case included")
    for answer in (" urllib-parse.", " urllib.parse!", f" urllib/parse.{TAIL}"):
        check_verdict(answer, "urllib.parse", False,
                      "a dot is a dot: in a regular expression it is any character")
    for part in ("", " ", "s", ".", " json", "json"):
        check_verdict(part, "json", False,
                      "`a in b` on two strings asks for a part of it: make the accepted forms a tuple")


@pytest.mark.ex("7.1")
def test_more_than_the_answer_is_wrong():
    """anything before or after the answer makes it wrong, so that nobody wins by guessing twice"""
    for answer in (" pickle. json.", " json. pickle.", " It is json.", f" json.{TAIL} json.", " json..",
                   "json.", " json. ", " json.\n", " json.\n" + TAIL, f" json. {TAIL}", f" json.{TAIL}\n"):
        check_verdict(answer, "json", False,
                      "a policy that is rewarded for a part of its answer learns to name every "
                      "module: compare the whole answer, spaces included")


# 7.2 vectors for new tokens


def tiny():
    """A tiny model over bytes and special tokens, in float64."""
    config = Config(vocab_size=260, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8, max_len=32)
    return Transformer(config).double()


def tables():
    """The embedding table of a tiny model before and after initialize_chat_tokens."""
    model = tiny()
    before = model.model.embed_tokens.weight.detach().clone()
    call("a tiny model", initialize_chat_tokens, model, BYTES)
    return before, model.model.embed_tokens.weight.detach()


@pytest.mark.ex("7.2")
def test_user_starts_as_a_line_break():
    """<|user|> starts as a line break"""
    before, after = tables()
    user = BYTES.special[USER]
    same(after[user], before[ord("\n")], "a tiny model; row <|user|> of the table",
         "table[id] = table[id of the newline]",
         {"nothing was written into the table: index the weight itself, not a copy of it": before[user],
          "it is the row of ':'": before[ord(":")],
          "it is the row of <|bot|>": (before[ord(":")] + before[ord("=")]) / 2})


@pytest.mark.ex("7.2")
def test_bot_starts_as_the_mean_of_colon_and_equals():
    """<|bot|> starts as the mean of ':' and '='"""
    before, after = tables()
    bot, colon, equals = BYTES.special[BOT], before[ord(":")], before[ord("=")]
    same(after[bot], (colon + equals) / 2, "a tiny model; row <|bot|> of the table",
         "(table[colon] + table[equals]) / 2",
         {"nothing was written into the table": before[bot],
          "the sum, not the mean: divide by 2": colon + equals,
          "':' alone": colon,
          "'=' alone": equals,
          "it is the line break": before[ord("\n")]})


@pytest.mark.ex("7.2")
def test_other_tokens_keep_their_vectors():
    """all other tokens keep their vectors"""
    before, after = tables()
    changed = [i for i in range(260) if not torch.equal(before[i], after[i])]
    same(sorted({*changed} - {BYTES.special[USER], BYTES.special[BOT]}), [],
         "a tiny model; changed rows besides the two",
         f"only <|user|> and <|bot|> are new (<|eos|>, {BYTES.special[EOS]}, is not)")
    same(len(changed), 2, "a tiny model; number of rows that changed", "write both rows")


# 7.4 loss on the answer only

PROMPTS, ANSWERS = [[1, 2, 3], [4], [5, 6]], [[7, 9], [8, 6, 5, 9], [9]]


@pytest.mark.ex("7.4")
def test_loss_falls_on_answers_only():
    """the targets of prompts and padding are ignored"""
    _ = IGNORE
    want = torch.tensor([[_, _, 7, 9], [8, 6, 5, 9], [_, 9, _, _]])
    given = f"prompts {PROMPTS}, answers {ANSWERS}, pad 0; the targets"
    got = call(given, answer_batch, PROMPTS, ANSWERS, 0)[1]
    mistakes = {
        "the prompt is not masked": [[2, 3, 7, 9], [8, 6, 5, 9], [6, 9, _, _]],
        "padding is not masked": [[_, _, 7, 9], [8, 6, 5, 9], [_, 9, 0, 0]],
        "nothing is masked": [[2, 3, 7, 9], [8, 6, 5, 9], [6, 9, 0, 0]],
        "the mask is not shifted with the targets: the first answer token is lost":
            [[_, _, _, 9], [_, 6, 5, 9], [_, _, 0, _]],
        "the first token of each answer is not counted": [[_, _, _, 9], [_, 6, 5, 9], [_, _, _, _]],
        "the last token, which ends the answer, must count: else the model never learns to stop":
            [[_, _, 7, _], [8, 6, 5, _], [_, _, _, _]],
        "masked targets must be IGNORE, not the padding id": [[0, 0, 7, 9], [8, 6, 5, 9], [0, 9, 0, 0]]}
    same(got, want, given, "the target of position t is token t + 1: cut the mask like the targets",
         {says: torch.tensor(rows) for says, rows in mistakes.items()})


@pytest.mark.ex("7.4")
def test_inputs_are_padded_on_the_right():
    """inputs hold prompt and answer, padded on the right with the padding id"""
    for pad in (0, 11):
        want = torch.tensor([[1, 2, 3, 7], [4, 8, 6, 5], [5, 6, 9, pad]])
        given = f"prompts {PROMPTS}, answers {ANSWERS}, pad {pad}; the inputs"
        got = call(given, answer_batch, PROMPTS, ANSWERS, pad)[0]
        same(got, want, given, "inputs keep the prompt: only targets are masked",
             {"the padding id is not used": torch.tensor([[1, 2, 3, 7], [4, 8, 6, 5], [5, 6, 9, 0]])})


@pytest.mark.ex("7.4")
def test_an_answer_may_contain_the_padding_id():
    """a token of an answer counts even if it is the padding id"""
    got = call("an answer with the padding id", answer_batch, [[1, 2], [1]], [[0, 9], [0]], 0)[1]
    want = torch.tensor([[IGNORE, 0, 9], [0, IGNORE, IGNORE]])
    same(got, want, "prompts [[1, 2], [1]], answers [[0, 9], [0]], pad 0; the targets",
         "mask by position, not by the value of a token")


@pytest.mark.ex("7.4")
def test_the_longest_row_sets_the_width():
    """the longest row, wherever it is, sets the width"""
    prompts, answers = [[1], [1, 2, 3, 4], [1]], [[5], [5], [5, 6, 7]]
    x, y = call("the longest row in the middle", answer_batch, prompts, answers, 0)
    same((tuple(x.shape), tuple(y.shape)), ((3, 4), (3, 4)),
         f"prompts {prompts}, answers {answers}; the shapes",
         "width is the largest len(prompt) + len(answer), and inputs and targets have one less")


# 7.5 a pair to learn from

RIGHT, WORDY, WRONG, WORSE = " json.", " json." + TAIL, " pickle.", " pickle." + TAIL


@pytest.mark.ex("7.5")
def test_best_and_worst_are_found():
    """the best answer comes first, the worst second"""
    for answers, want in (([WORDY, RIGHT, WORSE, WRONG], (RIGHT, WORSE)),
                          ([WRONG, RIGHT, WORDY], (RIGHT, WRONG)), ([RIGHT, WORDY, RIGHT], (RIGHT, WORDY))):
        given = f"truth 'json', answers {answers}"
        same(call(given, best_and_worst, answers, "json"), want, given,
             "rank the answers by preference(answer, truth)", {"best and worst are swapped": want[::-1]})


@pytest.mark.ex("7.5")
def test_of_equal_answers_the_first_is_taken():
    """of answers that are equally bad the first is taken"""
    answers = [" zlib.", RIGHT, WRONG, " abc."]
    given = f"truth 'json', answers {answers}"
    same(call(given, best_and_worst, answers, "json"), (RIGHT, " zlib."), given,
         "min and index find the first of equals")


@pytest.mark.ex("7.5")
def test_no_perfect_answer_no_pair():
    """without an answer that is right and terse there is no pair"""
    for answers in ([WORDY, WRONG, WORSE], [WRONG, WORSE], [WORDY, WORSE]):
        given = f"truth 'json', answers {answers}"
        same(call(given, best_and_worst, answers, "json"), None, given,
             "the best must have preference 3: a pair whose better half is wrong or wordy teaches the wrong "
             "thing")


@pytest.mark.ex("7.5")
def test_equal_answers_make_no_pair():
    """when all answers are equally good there is no pair"""
    for answers in ([RIGHT], [RIGHT, RIGHT, RIGHT]):
        given = f"truth 'json', answers {answers}"
        same(call(given, best_and_worst, answers, "json"), None, given, "the worst must have less than 3")
