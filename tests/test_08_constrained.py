"""Patterns against Python's own re, masks against partial matches of the regex package, schemas against
json.
"""
import itertools
import json
import random
import re

import pytest
import regex

from bpe import Tokenizer
from constrained import Constrainer
from pattern_automaton import DEAD, Pattern, utf8_sequences
from pattern_parser import complement, merged
from schema_pattern import any_json, schema_pattern

TOKENIZER = Tokenizer([(97, 98), (256, 97), (34, 58), (123, 34), (195, 169), (49, 50), (260, 97), (125, 10)])
EOS = TOKENIZER.special["<|eos|>"]


def some_pattern(depth: int) -> str:
    """A random pattern over a, b, c and e-acute."""
    kind = random.randrange(8) if depth else 0
    if kind <= 1:
        return random.choice(["a", "b", "ab", "[ab]", "[^ab]", ".", r"\w", "\u00e9", r"\u00e9", "[a-c]", "",
                              "[^\u00e9]"])
    if kind <= 3:
        return some_pattern(depth - 1) + some_pattern(depth - 1)
    if kind == 4:
        return f"({some_pattern(depth - 1)}|{some_pattern(depth - 1)})"
    times = random.choice(["*", "+", "?", "{2}", "{1,2}", "{0,2}", "{2,}", "{0}"])
    return f"(?:{some_pattern(depth - 1)}){times}"


def test_patterns_match_what_pythons_re_matches():
    texts = ["".join(t) for n in range(5) for t in itertools.product("ab\u00e9\n", repeat=n)]
    for _ in range(120):
        text = some_pattern(3)
        ours, theirs = Pattern(text), re.compile(text, re.ASCII)
        for t in texts:
            assert ours.matches(t.encode()) == bool(theirs.fullmatch(t)), (text, t)


def test_bytes_of_ranges_are_those_of_every_character_in_them():
    for low, high in [(0, 0x7F), (0x7E, 0x82), (0x7FE, 0x1003), (0xD7F0, 0xE010), (0xFFF0, 0x10020),
                      (0x3FFF0, 0x40FFF)]:
        got = set()
        for sequence in utf8_sequences(low, high):
            got |= {bytes(b) for b in itertools.product(*(range(a, b + 1) for a, b in sequence))}
        assert got == {chr(c).encode() for c in range(low, high + 1) if not 0xD800 <= c <= 0xDFFF}
    assert complement(complement([(5, 9), (70, 80)])) == merged([(70, 80), (5, 9)])


@pytest.mark.parametrize("bad, says", [
    ("(a", "without a )"), ("a)", "without a ("), ("[a", "ends too early"), ("*a", "stands for nothing"),
    ("a**", "repetition"),
    ("a+?", "repetition"), ("a{2,1}", "fewer"), ("a{x}", "wants {m}"), ("[b-a]", "does not run"),
    ("a\\", "ends too early"),
    (r"\k", "not known"), ("(?=a)", "not known"), (r"\xg1", "hexadecimal"), ("a{999999}", "repeat less"),
    ("((a{99}){99}){99}", "repeat less"),
    ("[^\\x00-\\uffff\U00010000-\U0010ffff]", "no character"), ("\ud800", "no character"),
    ("(" * 5000, "nested"), ("a^b", "stands for")])
def test_what_is_no_pattern_here_is_refused_with_a_sentence(bad, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Pattern(bad)


PATTERNS = ["(ab|aba)*12?", r"\d{1,3}[.,]\d{2}|aab*", "[^b]*b.", r'\{"a":(1|2|12)\}\n?', "(\u00e9a|ab){2}"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_token_is_allowed_exactly_if_a_match_can_still_follow(pattern):
    automaton, outsider = Constrainer(TOKENIZER).automaton(pattern), regex.compile(pattern, regex.ASCII)
    for _ in range(30):
        state, text = 0, b""
        for _ in range(8):
            mask = automaton.allowed(state)
            for token in range(TOKENIZER.vocab_size):
                try:
                    longer = (text + TOKENIZER.decode_bytes([token])).decode()
                except UnicodeDecodeError:
                    # ends inside a character: the outsider reads characters
                    continue
                possible = token < 264 and outsider.fullmatch(longer, partial=True) is not None
                if token == EOS:
                    possible = outsider.fullmatch(text.decode()) is not None
                assert mask[token] == possible, (text, longer)
            choices = [t for t in mask.nonzero()[:, 0].tolist() if t != EOS
                       and TOKENIZER.bytes_of[t] != b"\xc3"]
            if not choices or not mask.any():
                break
            token = random.choice(choices)
            state, text = automaton.next(state, token), text + TOKENIZER.decode_bytes([token])
            try:
                text.decode()
            except UnicodeDecodeError:
                break


@pytest.mark.parametrize("pattern", PATTERNS)
def test_whatever_is_drawn_under_the_mask_ends_as_a_match(pattern):
    automaton = Constrainer(TOKENIZER).automaton(pattern)
    for _ in range(30):
        state, ids = 0, []
        for _ in range(200):
            token = random.choice(automaton.allowed(state).nonzero()[:, 0].tolist())
            if token == EOS:
                break
            ids.append(token)
            state = automaton.next(state, token)
        if token == EOS:
            assert re.fullmatch(pattern, TOKENIZER.decode(ids), re.ASCII)


def test_forbidden_and_special_tokens_lead_nowhere():
    automaton = Constrainer(TOKENIZER).automaton("a*")
    user = TOKENIZER.special["<|user|>"]
    assert automaton.next(0, ord("b")) == DEAD and automaton.next(0, user) == DEAD
    assert not automaton.allowed(0)[user]
    assert automaton.next(DEAD, ord("a")) == DEAD and automaton.next(0, EOS) == 0


SCHEMAS = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}},
     "required": ["name"]},
    {"type": "array", "items": {"enum": ["x", 1, None, 'q"\\']}, "minItems": 1, "maxItems": 3},
    {"anyOf": [{"type": "number"}, {"type": ["boolean", "string"], "minLength": 2, "maxLength": 3}]},
    {"type": "object", "properties": {"when": {"type": "string", "pattern": "^\\d{4}-\\d\\d$"},
                                      "a.b(": {"const": [1]}}},
    {"type": "array", "items": {"type": "array", "items": {"type": "null"}, "maxItems": 0}, "minItems": 2,
     "maxItems": 2},
]


def fits(value, schema: dict) -> bool:
    """A few keywords of JSON schema, as its specification says them."""
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if "anyOf" in schema:
        return any(fits(value, s) for s in schema["anyOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if len(kinds) > 1:
        return any(fits(value, {**schema, "type": k}) for k in kinds)
    python = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
              "boolean": bool, "null": type(None)}
    is_flag = isinstance(value, bool) and kinds[0] in ("integer", "number")
    if is_flag or not isinstance(value, python[kinds[0]]):
        return False
    if kinds[0] == "object":
        parts = schema["properties"]
        return set(value) == set(parts) and all(fits(value[k], s) for k, s in parts.items())
    if kinds[0] == "array":
        long_enough = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 99)
        return long_enough and all(fits(v, schema["items"]) for v in value)
    if kinds[0] == "string":
        return (schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 9999)
                and re.search(schema.get("pattern", ""), value) is not None)
    return True


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: json.dumps(s)[:40])
def test_whatever_a_schema_lets_through_is_json_that_fits_it(schema):
    automaton = Constrainer(TOKENIZER).automaton(schema_pattern(schema))
    ended = 0
    for _ in range(40):
        state, data = 0, b""
        for _ in range(300):
            mask = automaton.allowed(state)
            if mask[EOS] and random.random() < 0.5:
                break
            choices = [t for t in mask.nonzero()[:, 0].tolist() if t != EOS]
            if not choices:
                break
            token = random.choice(choices)
            state, data = automaton.next(state, token), data + TOKENIZER.bytes_of[token]
        if automaton.allowed(state)[EOS]:
            ended += 1
            assert fits(json.loads(data), schema), data
    assert ended > 5


@pytest.mark.parametrize("schema, value", [
    (SCHEMAS[0], {"name": "\u00e9\"\\\n", "age": -12}), (SCHEMAS[1], ["x", 'q"\\', None]),
    (SCHEMAS[2], -1.5e10), (SCHEMAS[2], True),
    (SCHEMAS[3], {"when": "2024-01", "a.b(": [1]}), (SCHEMAS[4], [[], []])], ids=str)
def test_json_as_python_writes_it_is_let_through(schema, value):
    pattern = Pattern(schema_pattern(schema))
    assert pattern.matches(json.dumps(value, ensure_ascii=False).encode()) and pattern.matches(
        json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def test_any_object_may_be_asked_for():
    pattern = Pattern(any_json())
    for value in ({}, {"a": [1, {"b": None}]}, {"a": {"b": {"c": 1}}}, {"": [[True]]}):
        assert pattern.matches(json.dumps(value).encode())
    for text in ("[]", "1", '{"a":}', "{'a':1}", '{"a":01}', '{"a":{"b":{"c":{}}}}', '{"a":"\n"}'):
        assert not pattern.matches(text.encode())


@pytest.mark.parametrize("bad, says", [
    ({"type": "object"}, "needs its properties"), ({"type": "array"}, "schema of its items"),
    ({"type": "thing"}, "choose one of"),
    ({"$ref": "#"}, "choose one of"), ({"type": "string", "format": "date"}, "'format'"),
    ({"type": "integer", "minimum": 1}, "'minimum'"),
    ({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 1}, "below minItems"),
    ({"enum": []}, "at least one value"),
    ({"type": "string", "minLength": -1}, "0 or more"), ([], "is an object"),
    ({"type": "string", "pattern": "a.b"}, "allows a quote"),
    ({"type": "object", "properties": {}, "required": ["x"]}, "requires 'x'"),
    ({"type": "string", "pattern": "(a"}, "without a )")])
def test_a_schema_that_could_not_be_kept_is_refused(bad, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        schema_pattern(bad)
