"""Plain Python values as JSON and back, exactly: the only thing that crosses the wall of the sandbox.

Not pickle, which runs code when it is read. Only the exact built-in types pass: an object whose `__eq__` always
says yes is refused, not compared.

Used by sandbox.py and sandbox_child.py.
"""
_ITEMS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: object, depth: int = 0) -> object:
    """A value as something `json.dumps` takes. Raises TypeError for any type but the plain ones."""
    kind = type(value)
    if depth > 50:
        raise TypeError("a value nested more than 50 deep cannot leave the sandbox")
    if value is None or kind in (bool, int, float, str):
        return value
    if kind.__name__ in _ITEMS and kind is _ITEMS[kind.__name__]:
        return {kind.__name__: [encode(v, depth + 1) for v in value]}
    if kind is dict:
        return {"dict": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"a value of type {kind.__name__} cannot leave the sandbox: return plain Python values")


def decode(data: object) -> object:
    """The value back from `encode`. Raises ValueError for anything `encode` did not write."""
    if data is None or type(data) in (bool, int, float, str):
        return data
    if type(data) is dict and len(data) == 1:
        (kind, items), = data.items()
        try:
            if kind in _ITEMS:
                return _ITEMS[kind](decode(v) for v in items)
            if kind == "dict":
                return {decode(k): decode(v) for k, v in items}
            if kind == "bytes":
                return bytes.fromhex(items)
            if kind == "complex":
                return complex(*items)
        except TypeError as error:                           # an unhashable key, a number where a list belongs
            raise ValueError(str(error)) from None
    raise ValueError("malformed value")
