"""A small JSON schema to a pattern: what constrained.py needs to make a model write JSON of a given form.

Known: type (object, array, string, integer, number, boolean, null, or a list of these), properties (all are
written, in the order of the schema), items, minItems, maxItems, enum, const, anyOf, minLength, maxLength,
pattern. Anything else is refused with a sentence: a schema that is silently obeyed in part would be a lie.

    make serve                             the field "response_format" of a request
"""
import json

from pattern_parser import Parser

ESCAPED = r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})'
CHARACTER = rf'([^"\\\x00-\x1f]|{ESCAPED})'
STRING = f'"{CHARACTER}*"'
INTEGER = r"-?(0|[1-9][0-9]{0,14})"
NUMBER = INTEGER + r"(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?"
# at most one blank: a model that may write them for ever will
GAP = " ?"
ANY_LENGTH = {"minLength", "maxLength", "pattern"}
KNOWN = {"object": {"properties", "required", "additionalProperties"},
         "array": {"items", "minItems", "maxItems"},
         "string": ANY_LENGTH, "integer": set(), "number": set(), "boolean": set(), "null": set()}
REMARKS = {"title", "description", "default", "examples", "$schema"}


def literal(text: str) -> str:
    """The pattern of exactly this text."""
    return "".join("\\" + c if c in r"\.[](){}|*+?^$/-" else c for c in text)


def schema_pattern(schema: dict) -> str:
    """The pattern of all JSON texts, without blanks but for one between parts, that a schema allows.

    Raises ValueError for a keyword that is not known.
    """
    if not isinstance(schema, dict):
        raise ValueError(f"a JSON schema is an object, not {json.dumps(schema)[:60]}")
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        _only(schema, {"const", "enum", "type"})
        if not isinstance(values, list) or not values:
            raise ValueError("enum in a JSON schema is a list of at least one value")
        return _any(literal(json.dumps(v, ensure_ascii=False)) for v in values)
    if "anyOf" in schema:
        _only(schema, {"anyOf"})
        if not isinstance(schema["anyOf"], list) or not schema["anyOf"]:
            raise ValueError("anyOf in a JSON schema is a list of at least one schema")
        return _any(schema_pattern(s) for s in schema["anyOf"])
    kind = schema.get("type")
    if isinstance(kind, list) and kind and all(isinstance(k, str) and k in KNOWN for k in kind):
        others = {k: set().union(*(words for name, words in KNOWN.items() if name != k)) - KNOWN[k]
                  for k in kind}
        return _any(schema_pattern({n: v for n, v in schema.items() if n not in others[k]} | {"type": k})
                    for k in kind)
    if not isinstance(kind, str) or kind not in KNOWN:
        raise ValueError(f"type {json.dumps(kind)[:40]} in a JSON schema: choose one of {', '.join(KNOWN)}")
    _only(schema, KNOWN[kind] | {"type"})
    return {"object": _object, "array": _array, "string": _string}.get(kind, lambda s: SIMPLE[kind])(schema)


SIMPLE = {"integer": INTEGER, "number": NUMBER, "boolean": "(true|false)", "null": "null"}


def any_json(depth: int = 3) -> str:
    """The pattern of any JSON object with at most `depth` levels of objects and arrays."""
    value = _any([STRING, NUMBER, "true", "false", "null"])
    for level in range(depth):
        members = _list("{", f'{STRING}:{GAP}{value}', "}", 0, None)
        value = members if level == depth - 1 else _any([value, members, _list("[", value, "]", 0, None)])
    return value


def _any(patterns) -> str:
    return "(" + "|".join(patterns) + ")"


def _list(opened: str, item: str, closed: str, least: int, most: int | None) -> str:
    """Items between brackets, with commas between them."""
    more = f"{{{max(least - 1, 0)},{'' if most is None else max(most - 1, 0)}}}"
    inside = f"{item}(,{GAP}{item}){more}" if most != 0 else ""
    return rf"\{opened}({inside})\{closed}" if least else rf"\{opened}({inside})?\{closed}"


def _object(schema: dict) -> str:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        raise ValueError("an object in a JSON schema needs its properties, a schema by name")
    required = schema.get("required") or []
    if not isinstance(required, list):
        raise ValueError("required in a JSON schema is a list of names")
    missing = [name for name in required if not isinstance(name, str) or name not in properties]
    if missing:
        raise ValueError(f"a JSON schema requires {missing[0]!r} but has no property of this name")
    parts = [f"{literal(json.dumps(name, ensure_ascii=False))}:{GAP}{schema_pattern(value)}"
             for name, value in properties.items()]
    return r"\{" + f",{GAP}".join(parts) + r"\}"


def _array(schema: dict) -> str:
    least, most = _bounds(schema, "minItems", "maxItems")
    if "items" not in schema:
        raise ValueError("an array in a JSON schema needs a schema of its items")
    return _list("[", schema_pattern(schema["items"]), "]", least, most)


def _string(schema: dict) -> str:
    if "pattern" in schema:
        _only(schema, {"type", "pattern"})
        return f'"({_inside_quotes(schema["pattern"])})"'
    least, most = _bounds(schema, "minLength", "maxLength")
    return f'"{CHARACTER}{{{least},{"" if most is None else most}}}"'


def _inside_quotes(pattern: str) -> str:
    """A pattern without its ^ and $, if everything that it allows can stand between quotes as it is."""
    if not isinstance(pattern, str):
        raise ValueError("pattern in a JSON schema is a string")
    left = [Parser(pattern).parse()]
    while left:
        kind, *parts = left.pop()
        if kind == "characters":
            if any(low <= c <= high for low, high in parts[0] for c in (*range(32), ord('"'), ord("\\"))):
                raise ValueError(f"the pattern {pattern[:40]!r} in a JSON schema allows a quote, a backslash "
                                 "or a control character: say which characters you want, for example [a-z ]")
        else:
            left += [parts[0]] if kind == "repeat" else parts[0]
    body = pattern.removeprefix("^")
    return body[:-1] if body.endswith("$") and not body.endswith("\\$") else body


def _bounds(schema: dict, low: str, high: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for name, n in ((low, least), (high, most)):
        if not (n is None and name == high) and (not isinstance(n, int) or isinstance(n, bool) or n < 0):
            raise ValueError(f"{name} in a JSON schema is a number of 0 or more, not {json.dumps(n)[:40]}")
    if most is not None and most < least:
        raise ValueError(f"{high} {most} in a JSON schema is below {low} {least}")
    return least, most


def _only(schema: dict, known: set[str]) -> None:
    unknown = [k for k in schema if k not in known and k not in REMARKS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} in a JSON schema is not known here: leave it out, or ask for less")
