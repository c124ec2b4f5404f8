"""Plain Python values as JSON and back, exactly: the only thing that crosses the wall of the sandbox.

Not pickle, which runs code when it is read. Only the exact types of the table below pass: an object whose
`__eq__` always says yes is refused, not compared. Lists and other things that can change are numbered in the
order they are met, on both sides alike, so that a call can say which of its arguments it has changed.

Used by sandbox.py, remote.py and sandbox_child.py.
"""
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST = 1 << 13                      # bits; Python refuses to write much longer numbers in decimal
DEEPEST = 50
SEQUENCES = {k.__name__: k for k in (list, tuple, set, frozenset, deque)}
MAPPINGS = {k.__name__: k for k in (dict, Counter, OrderedDict, defaultdict)}
CHANGEABLE = (list, set, deque, bytearray, *MAPPINGS.values())
VIEWS = {"dict_keys": lambda items: dict.fromkeys(items).keys(),
         "dict_items": lambda items: dict(items).items(),
         "dict_values": lambda items: dict(enumerate(items)).values()}
# Type, to text or numbers, and back.
ATOMS = {"bytes": (bytes, bytes.hex, bytes.fromhex),
         "bytearray": (bytearray, bytearray.hex, bytearray.fromhex),
         "complex": (complex, lambda z: [z.real, z.imag], lambda p: complex(*p)),
         "range": (range, lambda r: [r.start, r.stop, r.step], lambda p: _short(range(*p))),
         "Decimal": (Decimal, str, Decimal), "date": (date, date.isoformat, date.fromisoformat),
         "Fraction": (Fraction, lambda f: [hex(f.numerator), hex(f.denominator)],
                      lambda p: Fraction(int(p[0], 16), int(p[1], 16))),
         "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
         "time": (time, time.isoformat, time.fromisoformat),
         "timedelta": (timedelta, lambda t: [t.days, t.seconds, t.microseconds], lambda p: timedelta(*p))}
NAMES: dict[type, str] = {kind: name for name, kind in (SEQUENCES | MAPPINGS).items()}
NAMES |= {kind: name for name, (kind, _, _) in ATOMS.items()}
NAMES |= {type({}.keys()): "dict_keys", type({}.values()): "dict_values", type({}.items()): "dict_items"}


class Shared:
    """The changeable objects of one call, numbered; the other side numbers its copies alike."""

    def __init__(self) -> None:
        self.objects: list = []
        self.number: dict[int, int] = {}                     # by id: the list above keeps the objects alive

    def add(self, value: object) -> None:
        """Give an object the next number."""
        self.number[id(value)] = len(self.objects)
        self.objects.append(value)


def _short(numbers: range) -> range:
    if len(numbers) > 1_000_000:                             # list() of it would fill the judge's memory
        raise ValueError("a range of more than a million numbers cannot leave the sandbox")
    return numbers


def encode(value: Any, shared: Shared | None = None, other=None, depth: int = 0) -> object:
    """A value as something `json.dumps` takes. Raises TypeError for any type but the plain ones.

    `other(value)` encodes those, if it is given.
    """
    kind = type(value)
    if depth > DEEPEST:
        raise TypeError(f"a value nested more than {DEEPEST} deep cannot leave the sandbox")
    if kind is int and value.bit_length() > LONGEST:
        return {"int": hex(value)}
    if value is None or kind in (bool, int, float, str):
        return value
    if issubclass(kind, tuple) and kind.__bases__ == (tuple,) and "_fields" in vars(kind):
        fields = [encode(x, shared, other, depth + 1) for x in tuple.__iter__(value)]
        return {"namedtuple": [kind.__name__, list(map(str, vars(kind)["_fields"])), fields]}
    if kind not in NAMES:
        if other:
            return other(value)
        raise TypeError(f"a value of type {kind.__name__} cannot leave the sandbox: return plain values")
    if shared and kind in CHANGEABLE:
        if id(value) in shared.number:
            return {"same": shared.number[id(value)]}
        shared.add(value)
    return {NAMES[kind]: content(value, shared, other, depth)}


def content(value: Any, shared: Shared | None = None, other=None, depth: int = 0) -> object:
    """What stands behind the name of the type."""
    name = NAMES[type(value)]
    if name in ATOMS:
        return ATOMS[name][1](value)
    if name in MAPPINGS:
        return [[encode(x, shared, other, depth + 1) for x in pair] for pair in value.items()]
    return [encode(x, shared, other, depth + 1) for x in value]


def decode(data: Any, shared: Shared | None = None, other=None) -> Any:
    """The value back from `encode`. Raises ValueError for anything `encode` did not write."""
    if data is None or type(data) in (bool, int, float, str):
        return data
    if type(data) is not dict or len(data) != 1:
        raise ValueError("malformed value")
    (kind, items), = data.items()
    try:
        if kind == "same" and shared and type(items) in (int,) and 0 <= items < len(shared.objects):
            return shared.objects[items]
        if kind == "int":
            return int(items, 16)
        if kind == "namedtuple":                             # a new one, with none of the program's methods
            name, fields, found = items
            return namedtuple(str(name), map(str, fields))(*(decode(x, shared, other) for x in found))
        if kind in ("list", "set", "deque") or kind in MAPPINGS:
            value = (SEQUENCES | MAPPINGS)[kind]()
            if shared is not None:
                shared.add(value)                            # before its items: it may be one of them
            return fill(value, items, shared, other)
        if kind in SEQUENCES or kind in VIEWS:
            return (SEQUENCES | VIEWS)[kind]([decode(x, shared, other) for x in items])
        if kind in ATOMS:
            value = ATOMS[kind][2](items)
            if shared is not None and kind == "bytearray":
                shared.add(value)
            return value
    except (TypeError, ArithmeticError, LookupError) as error:        # an unhashable key, a number for a list
        raise ValueError(str(error)) from None
    if other:
        return other(kind, items)
    raise ValueError("malformed value")


def fill(value, items: Any, shared: Shared | None = None, other=None):
    """Put decoded content into a changeable object, in place of what it held; returns it."""
    if type(value) is bytearray:
        value[:] = bytes.fromhex(items)
        return value
    if type(value) in MAPPINGS.values():
        pairs = [[decode(x, shared, other) for x in pair] for pair in items]
        value.clear()
        for key, x in pairs:
            value[key] = x
        return value
    found = [decode(x, shared, other) for x in items]
    value.clear()
    (value.update if type(value) is set else value.extend)(found)
    return value
