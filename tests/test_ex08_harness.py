"""Exercises of chapter 8: a message of JSON-RPC, a conversation that must fit. Learners see docstrings."""
import random

import pytest

from mcp_messages import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, NO_METHOD, respond
from turn_memory import condense

# 8.18 answer one message


def echo(params: dict) -> dict:
    return {"got": params}


def fussy(params: dict) -> dict:
    raise ValueError("n is missing")


def broken(params: dict) -> dict:
    raise KeyError("secret")


METHODS = {"echo": echo, "fussy": fussy, "broken": broken}


def asked(message, methods=None):
    """respond, with a sentence where it crashes."""
    try:
        return respond(message, METHODS if methods is None else methods)
    except Exception as problem:
        pytest.fail(f"the message {message!r} made respond raise {type(problem).__name__}: {problem}; wanted "
                    "an answer")


def refused(message, code: int, id) -> dict:
    """The error of a response, which must have this code and id and nothing else."""
    got = asked(message)
    assert isinstance(got, dict) and "error" in got, f"{message!r} gave {got!r}, wanted an error {code}"
    assert got["error"]["code"] == code, f"{message!r} gave code {got['error']['code']}, wanted {code}"
    same = got.get("id", "no id") == id and type(got.get("id")) is type(id)
    assert same and got.get("jsonrpc") == "2.0" and "result" not in got, (
        f"{message!r} gave {got!r}, wanted jsonrpc 2.0 and the id {id!r}, and no result beside the error")
    return got["error"]


@pytest.mark.ex("8.18")
def test_a_request_gets_its_result_under_its_id():
    """a request is answered with the result of its method and its own id; params are {} if there are none"""
    for id in (0, 7, "seven", "", -1):
        for params in ({}, {"a": [1, None]}):
            message = {"jsonrpc": "2.0", "id": id, "method": "echo", "params": params}
            wanted = {"jsonrpc": "2.0", "id": id, "result": {"got": params}}
            got = asked(message)
            assert got == wanted, f"{message} gave {got}, wanted {wanted}"
    got = asked({"jsonrpc": "2.0", "id": 1, "method": "echo"})
    assert got == {"jsonrpc": "2.0", "id": 1, "result": {"got": {}}}, (
        f"without params it gave {got}, wanted the result {{'got': {{}}}}")


@pytest.mark.ex("8.18")
def test_a_notification_and_a_response_are_never_answered():
    """what has no id, and what is itself a response, gets None; no method is called for it"""
    called = []
    methods = {"note": lambda params: called.append(params)}
    for message in ({"jsonrpc": "2.0", "method": "note"},
                    {"jsonrpc": "2.0", "method": "unknown", "params": []},
                    {"jsonrpc": "2.0", "id": 3, "result": {}}, {"jsonrpc": "2.0", "id": None, "error": {}},
                    {"jsonrpc": "2.0", "id": "x", "error": {"code": 1, "message": ""}}):
        got = asked(message, methods)
        assert got is None, f"{message} gave {got}, wanted None"
    assert called == [], f"given a notification, its method was called {len(called)} times, wanted 0"


@pytest.mark.ex("8.18")
def test_what_is_no_request_is_refused_with_the_id_if_there_is_one():
    """no object, another jsonrpc, no text as method, an id that is none: INVALID_REQUEST"""
    for message in ([], [{"jsonrpc": "2.0", "id": 1, "method": "echo"}], "echo", 7, None, True, {}):
        refused(message, INVALID_REQUEST, None)
    for id in (None, True, False, 1.5, [], {}):
        refused({"jsonrpc": "2.0", "id": id, "method": "echo"}, INVALID_REQUEST, None)
    for extra in ({"jsonrpc": "1.0"}, {"jsonrpc": 2.0}, {"method": 5}, {"method": None},
                  {"method": ["echo"]}):
        refused({"jsonrpc": "2.0", "id": "a", "method": "echo", **extra}, INVALID_REQUEST, "a")
    refused({"id": 4, "method": "echo"}, INVALID_REQUEST, 4)
    refused({"jsonrpc": "2.0", "id": 4}, INVALID_REQUEST, 4)
    refused({"jsonrpc": "2.0", "method": 5}, INVALID_REQUEST, None)


@pytest.mark.ex("8.18")
def test_unknown_methods_and_wrong_params_have_codes_of_their_own():
    """NO_METHOD, whatever its params; INVALID_PARAMS for a list or null where an object belongs"""
    for params in ({}, [], None):
        refused({"jsonrpc": "2.0", "id": 1, "method": "sing", "params": params}, NO_METHOD, 1)
    for params in ([1, 2], None, "text", 3):
        refused({"jsonrpc": "2.0", "id": "p", "method": "echo", "params": params}, INVALID_PARAMS, "p")


@pytest.mark.ex("8.18")
def test_a_method_that_raises_is_answered_and_keeps_its_secrets():
    """ValueError's text goes out as INVALID_PARAMS; of any other error nothing but INTERNAL_ERROR does"""
    told = refused({"jsonrpc": "2.0", "id": 1, "method": "fussy"}, INVALID_PARAMS, 1)
    assert told["message"] == "n is missing", f"the message is {told['message']!r}, wanted 'n is missing'"
    told = refused({"jsonrpc": "2.0", "id": 2, "method": "broken"}, INTERNAL_ERROR, 2)
    assert "secret" not in str(told), f"given a KeyError('secret'), the error is {told}, wanted no secret"


# 8.19 condense a conversation

def talk(*parts: str) -> list[dict]:
    """"s:", "u:", "a:", "t:" and a text each."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[p[0]], "content": p[2:]} for p in parts]


def letters(text: str) -> int:
    return len(text)


def shown(messages) -> list[str]:
    return [f"{m['role'][0]}:{m['content']}" for m in messages]


def kept(messages, room, digest=None) -> list[str]:
    """condense, with a sentence where it crashes."""
    before = [dict(m) for m in messages]
    try:
        got = condense(messages, room, letters, digest)
    except Exception as problem:
        pytest.fail(f"{shown(messages)} in {room}: raised {type(problem).__name__}: {problem}")
    assert messages == before, (
        f"{shown(before)} in {room}: the list that was given is now {shown(messages)}, wanted it unchanged")
    assert isinstance(got, list) and got is not messages, (
        f"{shown(before)} in {room}: got {'the same list' if got is messages else got!r}, wanted a new list")
    return shown(got)


@pytest.mark.ex("8.19")
def test_old_turns_go_whole_and_only_as_many_as_must():
    """the oldest turns are dropped with everything that belongs to them, until the rest fits"""
    messages = talk("u:aa", "a:bbb", "t:c", "a:d", "u:ee", "a:ff", "u:g", "a:hh", "u:iii")
    for room, wanted in ((17, 9), (16, 5), (10, 5), (9, 3), (6, 3), (5, 1), (3, 1), (100, 9)):
        got = kept(messages, room)
        assert got == shown(messages[9 - wanted:]), (
            f"{shown(messages)} in {room}: kept {got}, wanted the last {wanted}, "
            f"{shown(messages[9 - wanted:])}")


@pytest.mark.ex("8.19")
def test_the_system_message_stays_and_counts():
    """a system message at the front is kept and takes room; one further back is part of its turn"""
    messages = talk("s:SS", "u:aa", "a:bb", "s:cc", "u:dd")
    for room, wanted in ((10, messages), (9, [messages[0], messages[4]]), (4, [messages[0], messages[4]])):
        got = kept(messages, room)
        assert got == shown(wanted), f"{shown(messages)} in {room}: kept {got}, wanted {shown(wanted)}"
    for messages in (talk("s:ab", "s:cd", "u:ef"), talk("u:ab", "s:cd", "u:ef")):
        wanted = shown([m for m in messages[:1] if m["role"] == "system"] + messages[2:])
        got = kept(messages, 5)
        assert got == wanted, (f"{shown(messages)} in 5: kept {got}, wanted {wanted}: only a system message "
                               "at the very front stays")
    messages = talk("a:hello", "u:aa", "a:b", "u:c")
    for room, wanted in ((9, 4), (8, 3), (4, 3), (3, 1)):
        got = kept(messages, room)
        assert got == shown(messages[4 - wanted:]), (
            f"{shown(messages)} in {room}: kept {got}, wanted {shown(messages[4 - wanted:])}")


@pytest.mark.ex("8.19")
def test_a_last_turn_that_does_not_fit_is_refused():
    """the last turn and the system message must fit, else ValueError; they are never cut"""
    for messages, room in ((talk("u:aaaa"), 3), (talk("s:SS", "u:aa"), 3), (talk("u:a", "a:b", "u:cccc"), 3),
                           (talk("u:a", "u:bb", "t:cc"), 3), (talk("u:a"), 0)):
        try:
            got = condense(messages, room, letters)
        except ValueError:
            continue
        pytest.fail(f"{shown(messages)} in {room}: gave {shown(got)}, wanted ValueError")


@pytest.mark.ex("8.19")
def test_a_digest_stands_for_what_was_dropped_if_it_fits():
    """digest gets the messages that were dropped; its text stands behind the system message, if it fits"""
    seen = []
    def digest(dropped):
        seen.append(shown(dropped))
        return "x" * length
    messages = talk("s:ab", "u:cd", "a:ef", "u:gh")
    for room, length, wanted in ((7, 3, ["s:ab", "s:xxx", "u:gh"]), (7, 4, ["s:ab", "u:gh"]),
                                 (7, 2, ["s:ab", "s:xx", "u:gh"]),
                                 (7, 0, ["s:ab", "u:gh"]), (4, 1, ["s:ab", "u:gh"])):
        seen.clear()
        got = kept(messages, room, digest)
        assert got == wanted, (f"{shown(messages)} in {room} with a digest of {length} letters: {got}, "
                               f"wanted {wanted}")
        assert seen == [["u:cd", "a:ef"]], f"the digest was asked for {seen}, wanted [['u:cd', 'a:ef']]"
    seen.clear()
    length = 1
    got = kept(messages, 100, digest)
    assert (got, seen) == (shown(messages), []), (
        f"{shown(messages)} in 100: got {got} and digests of {seen}, wanted all messages and no digest")
    messages = talk("u:aaaa", "a:bb", "u:ccc", "u:d")
    got = kept(messages, 5, digest)
    assert got == ["s:x", "u:ccc", "u:d"], f"without a system message: {got}, wanted ['s:x', 'u:ccc', 'u:d']"


@pytest.mark.ex("8.19")
def test_a_thousand_turns_keep_the_longest_end_that_fits():
    """of random conversations the longest end that begins with a question and fits is kept"""
    for _ in range(40):
        messages = talk(*(random.choice("uat") + ":" + "x" * random.randrange(9)
                          for _ in range(random.randrange(1, 60))), "u:end")
        room = random.randrange(3, 200)
        got = kept(messages, room)
        ends = [messages[i:] for i, m in enumerate(messages) if m["role"] == "user" or i == 0]
        fitting = [e for e in ends if sum(len(m["content"]) for m in e) <= room]
        assert got == shown(fitting[0]), (
            f"{shown(messages)} in {room}: kept {got}, wanted {shown(fitting[0])}")
