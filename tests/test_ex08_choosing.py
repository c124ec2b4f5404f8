"""Exercises of chapter 8: min-p, stop strings, tokens that a pattern allows. A learner sees the
docstrings.
"""
import itertools
import random

import pytest
import torch

from bpe import Tokenizer
from constrained import TokenAutomaton, TokenTree
from sampling import keep_min_p
from stop_strings import StopStrings

INF = float("inf")


def kept(logits: torch.Tensor) -> list[list[int]]:
    return [[i for i, x in enumerate(row) if x != -INF] for row in logits.tolist()]


# 8.9 min-p

@pytest.mark.ex("8.9")
def test_min_p_compares_with_the_likeliest():
    """what is at least p times as likely as the likeliest token of its row stays"""
    for p in (0.05, 0.3, 0.9):
        probability = torch.rand(3, 8).clamp(min=0.01)
        wanted = [[i for i in range(8) if row[i] > p * row.max()] for row in probability]
        given = probability.log() + torch.randn(3, 1) * 5
        got = keep_min_p(given.clone(), p)
        assert kept(got) == wanted, (
            f"given probabilities in proportion to {probability.tolist()} and p = {p}, kept {kept(got)}, "
            f"wanted {wanted}: compare each with p times the largest of its own row, as probabilities and "
            "not as logits")
        same = torch.equal(got[got != -INF], given[got != -INF])
        assert same, (f"given the logits {given.tolist()}, kept {got[got != -INF].tolist()}, wanted "
                      f"{given[got != -INF].tolist()}")


@pytest.mark.ex("8.9")
def test_min_p_keeps_the_likeliest_and_its_equals():
    """p = 1 keeps the likeliest tokens alone, p = 0 keeps everything"""
    row = torch.tensor([[2.0, -60.0, 2.0, 1.9]])
    for p, wanted in ((1.0, [[0, 2]]), (0.0, [[0, 1, 2, 3]])):
        try:
            got = keep_min_p(row.clone(), p)
        except (ValueError, RuntimeError) as error:
            pytest.fail(f"p = {p} raised '{error}'")
        assert kept(got) == wanted, (
            f"given {row.tolist()} and p = {p}, kept {kept(got)}, wanted {wanted}")


@pytest.mark.ex("8.9")
def test_min_p_leaves_the_callers_logits_alone():
    """the caller's logits are not changed, and what was -inf stays out"""
    row = torch.tensor([[0.0, -INF, 5.0]])
    before = row.clone()
    got = keep_min_p(row, 0.5)
    assert torch.equal(row, before), (
        f"given {before.tolist()} and p = 0.5, the logits are now {row.tolist()}, wanted them unchanged")
    assert kept(got) == [[2]], f"given {before.tolist()} and p = 0.5, kept {kept(got)}, wanted [[2]]"


# 8.10 stop strings

def fed(stops: list[str], pieces: list[str]) -> tuple[list[str], StopStrings]:
    watch = StopStrings(stops)
    return [watch.feed(piece) for piece in pieces], watch


@pytest.mark.ex("8.10")
def test_a_stop_string_is_found_across_pieces():
    """a stop string that arrives in pieces ends the text, and neither it nor what follows is shown"""
    for pieces in (["one\n", "Q", ": two"], ["one", "\nQ:", " two"], ["one\nQ: two"], list("one\nQ: two")):
        got, watch = fed(["\nQ:"], pieces)
        assert "".join(got) == "one" and watch.hit == "\nQ:", (
            f"stop '\\nQ:', pieces {pieces}: shown {got}, hit {watch.hit!r}; wanted 'one', hit '\\nQ:'")


@pytest.mark.ex("8.10")
def test_what_cannot_be_a_stop_string_is_shown_at_once():
    """only what may be the beginning of a stop string is held back, and shown when it proves harmless"""
    for stops, pieces, wanted in ((["\nQ:"], ["ab", "\n", "Q", "- c"], ["ab", "", "", "\nQ- c"]),
                                  (["aab"], ["a", "a", "a", "c"], ["", "", "a", "aac"]),
                                  (["xy", "zzz"], ["ax", "zz", "z"], ["a", "x", ""])):
        got, watch = fed(stops, pieces)
        assert got == wanted, f"stops {stops}, pieces {pieces}: shown {got}, wanted {wanted}"
    assert watch.hit == "zzz", f"stops {stops}, pieces {pieces}: hit is {watch.hit!r}, wanted 'zzz'"


@pytest.mark.ex("8.10")
def test_the_stop_string_that_is_complete_first_wins():
    """the stop string that is complete first ends the text; of two that end together the longer one"""
    for stops, text, shown, hit in ((["abcd", "bc"], "abcd", "a", "bc"), (["bc", "abc"], "xabc", "x", "abc"),
                                    (["d", "b"], "abcd", "a", "b"), (["b"], "abcb", "a", "b"),
                                    (["cd", "abcd"], "abcd", "", "abcd")):
        for n in range(4):
            at = sorted(random.sample(range(1, len(text)), n))
            pieces = [text[i:j] for i, j in itertools.pairwise([0, *at, len(text)])]
            got, watch = fed(stops, pieces)
            assert "".join(got) == shown and watch.hit == hit, (
                f"stops {stops}, pieces {pieces}: shown {got}, hit {watch.hit!r}; wanted {shown!r} in all, "
                f"hit {hit!r}")


@pytest.mark.ex("8.10")
def test_nothing_comes_after_the_end():
    """after a stop string nothing more is shown; without one finish() gives what was held back, once"""
    got, watch = fed(["ab"], ["xab", "c", "d"])
    assert got == ["x", "", ""], f"stop 'ab', pieces 'xab', 'c', 'd': shown {got}, wanted ['x', '', '']"
    got, watch = fed(["abc"], ["xa", "b"])
    assert (got, watch.finish(), watch.finish()) == (["x", ""], "ab", ""), (
        f"stop 'abc', pieces 'xa', 'b': shown {got}, wanted ['x', ''] and then 'ab' from finish(): "
        "what is held must be kept in self._held, all of it")


# 8.11 which tokens may come next

# ab, aba, e-acute, b + e-acute, 12
WORDS = Tokenizer([(97, 98), (256, 97), (195, 169), (98, 258), (49, 50)])
EOS = WORDS.special["<|eos|>"]


def allowed(pattern: str, written: str) -> tuple[set, set]:
    """The tokens that the exercise allows after a text, and those that a search over all texts finds."""
    automaton = TokenAutomaton(pattern, TokenTree(WORDS))
    state = 0
    for byte in written.encode():
        state = automaton.pattern.step(state, byte)
    got = {i for i, x in enumerate(automaton.allowed(state).tolist()) if x}
    wanted = set()
    for token, data in enumerate(WORDS.bytes_of):
        here = 0
        for byte in written.encode() + data:
            here = automaton.pattern.step(here, byte) if here >= 0 else here
        if here >= 0:
            wanted.add(token)
    return got, wanted | ({EOS} if automaton.pattern.matches(written.encode()) else set())


def names(tokens: set) -> list[str]:
    return sorted("end" if t == EOS else repr(WORDS.decode_bytes([t])) for t in tokens)


@pytest.mark.ex("8.11")
def test_a_token_is_allowed_if_all_its_bytes_are():
    """a token is allowed if every one of its bytes may follow, and no other token is"""
    for pattern, written in (("(ab)+1", ""), ("(ab)+1", "a"), ("aba|abc|b\u00e9", ""), ("a[^x]*", "a"),
                             ("12?3*", "")):
        got, wanted = allowed(pattern, written)
        assert got - {EOS} == wanted - {EOS}, (
            f"pattern {pattern!r} after {written!r}: allowed but should not be {names(got - wanted)[:8]}, "
            f"missing {names(wanted - got)[:8]}: walk each token from the state that was given, to its last "
            "byte")


@pytest.mark.ex("8.11")
def test_the_end_is_allowed_after_a_whole_match_only():
    """<|eos|> is allowed exactly where the text so far is a whole match, also if it could go on"""
    for pattern, written, wanted in (("ab*", "a", True), ("ab*", "", False), ("(ab)+", "aba", False),
                                     ("(ab)+", "abab", True), ("", "", True)):
        got = EOS in allowed(pattern, written)[0]
        assert got == wanted, f"pattern {pattern!r} after {written!r}: end allowed {got}, wanted {wanted}"


@pytest.mark.ex("8.11")
def test_each_state_has_a_mask_of_its_own():
    """asking for one state after another gives each its own mask, for all ids of the vocabulary"""
    automaton = TokenAutomaton("a12", TokenTree(WORDS))
    masks, state = [], 0
    for byte in b"a12":
        masks.append(automaton.allowed(state))
        state = automaton.pattern.step(state, byte)
    for text, mask, wanted in zip(("", "a", "a1"), masks, ({97}, {49, 260}, {50})):
        assert len(mask) == WORDS.vocab_size, f"the mask has {len(mask)} places, wanted {WORDS.vocab_size}"
        got = {i for i, x in enumerate(mask.tolist()) if x}
        assert got == wanted, f"pattern 'a12' after {text!r}: allowed {names(got)}, wanted {names(wanted)}"
