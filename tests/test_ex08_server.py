"""Exercise of chapter 8: an event of a stream. A learner sees the docstrings."""
import json

import pytest

from http_protocol import event


def parsed(data: bytes) -> list[str]:
    """The events that a browser sees (WHATWG HTML, section 9.2.6): an empty line ends an event."""
    events, lines = [], []
    for line in data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        if line == "":
            if lines:
                events.append("\n".join(lines))
            lines = []
        elif line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
    return events


def made(data) -> bytes:
    got = event(data)
    assert isinstance(got, bytes), f"event({data!r}) gave a {type(got).__name__}, wanted bytes"
    return got


@pytest.mark.ex("8.15")
def test_an_object_is_one_event_in_json():
    """an object becomes one line `data: ` and its JSON, then an empty line"""
    for value in ({"a": 1}, {"text": "one\ntwo"}, {"text": "\u00e9\r\n"}, {}):
        got = made(value)
        assert got.startswith(b"data: ") and got.endswith(b"\n\n") and got.count(b"\n") == 2, (
            f"event({value!r}) gave {got!r}, wanted b'data: ' + JSON + two line ends")
        try:
            back = json.loads(got[6:])
        except ValueError as error:
            pytest.fail(f"event({value!r}) gave {got!r}, which is not JSON behind `data: ` ({error})")
        assert back == value, f"event({value!r}) gave {got!r}, whose JSON is another value"


@pytest.mark.ex("8.15")
def test_a_text_arrives_as_it_was_sent():
    """a text of several lines is one event, each line behind its own `data: `"""
    for text in ("[DONE]", "one\ntwo", "one\n\nthree", "\nbegins with a line end", "caf\u00e9",
                 "  two spaces  ",
                 "ends with one\n", "ends with two\n\n", "", "a\x0bb\x0cc\x1cd\x85e\u2028f\tg"):
        got = made(text)
        assert parsed(got) == [text], (
            f"event({text!r}) gave {got!r}; a browser reads the events {parsed(got)}, wanted [{text!r}]: an "
            "empty line ends an event, so each line needs its own `data: `")


@pytest.mark.ex("8.15")
def test_every_kind_of_line_end_is_one():
    """\\r\\n and \\r end a line too, and \\r\\n ends one line, not two"""
    for text in ("one\r\ntwo", "one\rtwo", "one\r\rthree", "one\r\n\r\nthree", "a\rb\nc\r\nd"):
        got = made(text)
        wanted = text.replace("\r\n", "\n").replace("\r", "\n")
        assert parsed(got) == [wanted], (
            f"event({text!r}) gave {got!r}; a browser reads the events {parsed(got)}, wanted [{wanted!r}]")


@pytest.mark.ex("8.15")
def test_events_behind_each_other_stay_apart():
    """two events behind each other are read as two"""
    for first, second in (("a", "b"), ({"x": 1}, "[DONE]"), ("a\nb", {"y": "\n"})):
        got = parsed(made(first) + made(second))
        assert len(got) == 2, f"event({first!r}) + event({second!r}) is read as {got}, wanted two events"
