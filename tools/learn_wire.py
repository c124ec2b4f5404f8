"""Values across the wall between a test and the body it judges: JSON and raw numbers, never pickles.

The judge (the process of the tests) sends arguments, the process of the body sends results. What may cross
depends on the direction. From the judge: plain values, tensors, arrays, and instances of the chapters'
classes, which become real instances over there; anything else, such as a test's own helper, becomes a handle
whose calls come back. From the body: plain values of exactly the built-in types, tensors, arrays, dataclasses
of the chapters, and handles that the judge gave out. Nothing that the judge reads can run code, and what says
that it equals everything cannot cross.

Objects that the judge sends are numbered on both sides: what is one object here is one object there, and a
body that returns its own argument gives the judge its own object back. Sources: values.py of chapter 6;
Birrell and Nelson, Implementing Remote Procedure Calls (1984), for handles.
"""

import collections
import dataclasses
import importlib
import os
import types
from functools import reduce
from pathlib import Path, PurePath

from learn_tensors import (
    Storages,
    is_array,
    is_tensor,
    read_array,
    read_tensor,
    torch,
    write_array,
    write_tensor,
)

ATOMS = {type(None), bool, int, float, str}
SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
MAPPINGS = {"dict": dict, "Counter": collections.Counter, "OrderedDict": collections.OrderedDict,
            "defaultdict": collections.defaultdict}
FACTORIES = {"int": int, "float": float, "set": set, "list": list, "dict": dict,
             "Counter": collections.Counter}
OTHERS = {bytearray: bytearray.hex, range: lambda r: [r.start, r.stop, r.step],
          slice: lambda s: [s.start, s.stop, s.step], complex: lambda c: [c.real, c.imag]}
ITERATORS = (types.GeneratorType, map, zip, filter, enumerate, reversed,
             *(type(iter(x)) for x in ([], (), {}, set())))
DEEPEST = 60


class Refused(TypeError):
    """A value that may not cross; the message says why."""


def find(module: str, name: str):
    """The object that a module calls so: find("attention", "Attention.forward")."""
    return reduce(getattr, name.split("."), importlib.import_module(module))


class Crossing:
    """One call and all that crosses during it, on one side. `end` (learn_peer.py) gives handles."""

    def __init__(self, end, contract=()):
        self.end, self.judge, self.contract = end, end.judge, tuple(contract)   # what the call may change
        self.known, self.number = [], {}            # the judge's objects in the order of sending; id to place
        self.storages, self.loose = Storages(end.judge), False
        self.begin()

    def begin(self, data: bytes = b"", results=()) -> None:
        """A new message, to be written or (with its raw numbers and the results of a call) to be read."""
        self.blobs, self.data, self.at = [], data, 0
        # tensors that need a gradient: arguments, and what was made
        self.leaves, self.results = [], list(results)

    # Writing

    def write(self, value, answer: bool = False, deep: bool = False, depth: int = 0):
        """A value as JSON takes it. `answer`: it is what a call returned, so gradients may flow back from it.

        `deep`: containers that the judge knows are told by what they hold now.
        """
        kind = type(value)
        if kind in ATOMS:
            return value
        if depth > DEEPEST:
            raise Refused(f"a value nested more than {DEEPEST} deep cannot cross")

        def inner(v):
            return v if type(v) in ATOMS else self.write(v, answer, deep, depth + 1)
        if kind in (tuple, frozenset):              # what cannot change needs no number
            return [kind.__name__, [inner(v) for v in value]]
        if kind is bytes:
            return ["bytes", value.hex()]
        if is_tensor(value):
            return self._tensor(value, answer, deep)
        plain = SEQUENCES.get(kind.__name__) is kind or MAPPINGS.get(kind.__name__) is kind
        n = self.number.get(id(value))
        if n is not None and not (deep and (plain or is_array(value))):
            return ["same", n]
        if self.judge and n is None:
            self._remember(value)
        if SEQUENCES.get(kind.__name__) is kind:
            return [kind.__name__, list(value) if ATOMS.issuperset(map(type, value))
                    else [inner(v) for v in value]]
        if MAPPINGS.get(kind.__name__) is kind:
            made = getattr(value, "default_factory", None)
            return [kind.__name__, [[inner(k), inner(v)] for k, v in value.items()],
                    getattr(made, "__name__", None)]
        if kind in OTHERS:
            return [kind.__name__, OTHERS[kind](value)]
        if is_array(value):
            return ["array", *write_array(value, self.blobs)]
        if isinstance(value, ITERATORS):
            return ["iterator", [inner(v) for v in value]]
        return self._object(value, inner, answer, deep)

    def _remember(self, value):
        self.number[id(value)] = len(self.known)
        self.known.append(value)
        return value

    def _tensor(self, x, answer: bool, deep: bool) -> list:
        """A result that a gradient flows to goes by its place in `results`; others by window and storage."""
        flows, n = x.requires_grad and torch().is_grad_enabled(), self.number.get(id(x))
        if answer and flows and not (x.is_leaf and (self.judge or n is not None)):
            self.results.append(x)
            return ["result", len(self.results) - 1]
        if n is not None and (self.judge or (x.requires_grad if deep else answer or not flows)):
            return ["same", n]
        if self.judge and n is None:
            self._remember(x)
        if x.requires_grad and not answer:
            self.leaves.append(x)
        grad = x.grad if self.judge and x.is_leaf else None
        return ["tensor", write_tensor(x, self.storages, self.blobs),
                grad if grad is None else self.write(grad)]

    def _object(self, value, inner, answer: bool, deep: bool) -> list:
        """Names, handles, small things of torch, and instances of the chapters' classes."""
        kind, handle = type(value), self.end.handle(value)
        where = [kind.__module__, kind.__qualname__]
        if handle is not None:
            return handle
        if torch() and isinstance(value, (torch().dtype, torch().device)):
            return ["torch", kind.__name__, str(value).removeprefix("torch.")]
        if torch() and isinstance(value, torch().Size):
            return ["tuple", list(value)]
        if isinstance(value, PurePath) and self.judge and value.parent.name == "tests":
            return ["file", value.name, value.read_text(encoding="utf-8")]
        if isinstance(value, PurePath):
            return ["path", os.path.relpath(value, self.end.tree)]
        if not self.judge:
            if self.end.is_chapter(kind.__module__) and (deep or answer and dataclasses.is_dataclass(value)):
                return ["object", *where, inner(vars(value))]
            if answer or not self.end.is_chapter(kind.__module__):
                raise Refused(f"a {where[1]} cannot be judged: return plain values, tensors or arrays")
            return self.end.give(value)             # a cache, say, for a model that is the test's
        if isinstance(value,
                      (type, types.FunctionType, types.BuiltinFunctionType)) and self.end.is_common(value):
            return ["name", value.__module__, value.__qualname__]
        if isinstance(value, types.MethodDescriptorType):   # str.encode
            return ["name", value.__objclass__.__module__, value.__qualname__]
        if isinstance(value, types.BuiltinMethodType) and type(value.__self__).__name__ == "Pattern":
            return ["method", inner(value.__self__), value.__name__]
        if kind.__module__ in ("re", "_regex") and kind.__name__ == "Pattern":
            return ["pattern", kind.__module__.removeprefix("_"), value.pattern, int(value.flags)]
        if torch() and isinstance(value, torch().Generator):
            return ["generator", bytes(value.get_state().numpy()).hex()]
        if torch() and isinstance(value, torch().autograd.function.FunctionCtx):
            saved = value.saved_tensors if hasattr(value, "next_functions") else ()
            return ["context", inner(dict(vars(value))), inner(list(saved))]
        if self.end.is_mirrored(kind):
            state = dict(vars(value))
            if torch() and isinstance(value, torch().nn.Module):   # its empty tables of hooks need not travel
                blank = vars(torch().nn.Module())
                state = {k: v for k, v in state.items() if k == "training" or k not in blank or v}
            return ["object", *where, inner(state)]
        return self.end.give(value)

    # Reading

    def take(self, length) -> bytes:
        """The next raw bytes of the message."""
        if type(length) is not int or not 0 <= length <= len(self.data) - self.at:
            raise ValueError("malformed message: more numbers than were sent")
        self.at += length
        return self.data[self.at - length : self.at]

    def read(self, data):
        """The value again. ValueError or TypeError for anything that `write` does not write."""
        if type(data) in ATOMS:
            return data
        tag, *rest = data
        if tag == "bytes":
            return bytes.fromhex(rest[0])
        if tag in ("tuple", "frozenset"):
            return SEQUENCES[tag](v if type(v) in ATOMS else self.read(v) for v in rest[0])
        if tag in ("list", "set"):
            made = self._number(SEQUENCES[tag]())
            items = rest[0] if ATOMS.issuperset(map(type, rest[0])) else [self.read(v) for v in rest[0]]
            made.extend(items) if tag == "list" else made.update(items)
            return made
        if tag in MAPPINGS:
            factory = [FACTORIES.get(rest[1])] if tag == "defaultdict" else []
            made = MAPPINGS[tag](*factory)
            self._number(made)
            for k, v in rest[0]:
                made[self.read(k)] = v if type(v) in ATOMS else self.read(v)
            return made
        if tag == "same":
            return self.known[rest[0]]
        if tag == "result":
            return self.results[rest[0]]
        if tag in ("judge's", "body's"):
            return self._number(self.end.resolve(tag, rest[0]))
        if tag == "tensor":
            x = self._number(read_tensor(rest[0], self.storages, self.take))
            if x.requires_grad:
                self.leaves.append(x)
            if rest[1] is not None and not self.judge:
                x.grad = self.read(rest[1])
            return x
        if tag == "array":
            return self._number(read_array(rest, self.take))
        if tag == "bytearray":
            return self._number(bytearray.fromhex(rest[0]))
        if tag in ("range", "slice", "complex"):
            return self._number({"range": range, "slice": slice, "complex": complex}[tag](*rest[0]))
        if tag == "torch" and rest[0] in ("dtype", "device"):
            return self._number(getattr(torch(), str(rest[1])) if rest[0] == "dtype"
                                else torch().device(rest[1]))
        if tag == "iterator":
            place = self._number(None, hold=True)
            return self._settle(place, (v for v in [self.read(v) for v in rest[0]]))
        if tag == "path" and ".." not in str(rest[0]):
            return self._number(Path(self.end.tree, str(rest[0])))
        if tag == "object":
            return self._instance(*rest)
        if self.judge:
            raise ValueError(f"malformed message: {str(tag)[:40]}")
        return self._trusted(tag, rest)

    def _number(self, value, hold: bool = False):
        """Count what the judge has sent as the judge did; `hold` keeps a place for what is not made yet."""
        if not self.judge:
            self._remember(value) if not hold else self.known.append(None)
        return len(self.known) - 1 if hold else value

    def _settle(self, place: int, value):
        if not self.judge:
            self.known[place], self.number[id(value)] = value, place
        return value

    def _instance(self, module: str, name: str, state):
        """An instance of a chapter's class without running its code.

        The judge takes only dataclasses as results; what a call may change may hold others (a table).
        """
        kind = find(module, name) if not self.judge or self.end.is_chapter(module) else None
        if self.judge and not (isinstance(kind, type) and (self.loose or dataclasses.is_dataclass(kind))):
            raise ValueError(f"malformed message: an instance of {name}")
        made = self._number(kind.__new__(kind))
        if torch() and isinstance(made, torch().nn.Module):
            torch().nn.Module.__init__(made)
        vars(made).update(self.read(state))
        return made

    def _trusted(self, tag: str, rest: list):
        """What only the judge may send."""
        if tag == "name":
            return self._number(find(*rest))
        if tag == "file":                           # a file of the tests, for a compiler
            Path(rest[0]).write_text(rest[1], encoding="utf-8")
            return self._number(Path(rest[0]).resolve())
        if tag == "pattern":
            return self._number(importlib.import_module(rest[0]).compile(rest[1], rest[2]))
        place = self._number(None, hold=True)
        if tag == "method":
            return self._settle(place, getattr(self.read(rest[0]), rest[1]))
        if tag == "generator":
            made = torch().Generator()
            made.set_state(torch().frombuffer(bytearray.fromhex(rest[0]), dtype=torch().uint8))
            return self._settle(place, made)
        if tag == "context":
            made = self.end.context()
            self._settle(place, made)
            vars(made).update(self.read(rest[0]))
            made.saved_tensors = tuple(self.read(rest[1]))
            return made
        raise ValueError(f"malformed message: {tag}")
