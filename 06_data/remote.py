"""Things of an untrusted program that stay inside the sandbox, as a test outside sees them.

A benchmark's test may build a tree of the program's own `Node`, keep a function it returned, or count on a
list that the program changed. Plain values cross the wall; everything else stays where it is, and the test
holds a `Remote`: it can be called, passed back, and its attributes read and set. It cannot be compared,
measured or believed, because then the program would decide. An exception that the program raises is raised
out here as the built-in of its name.

Used by sandbox.py.
"""
import builtins
from collections.abc import Callable, Iterator
from typing import Any

Ask = Callable[..., object]            # (what to do, with which number, args, kwargs) -> its value


class Failed(Exception):
    """The program did not do what was asked: the reason is the message.

    `raised` names the classes of the exception that was raised, the most special first, `values` are its
    arguments.
    """

    def __init__(self, reason: str, raised: tuple[str, ...] = (), values: tuple = ()):
        super().__init__(reason)
        self.raised, self.values = raised, values


class Remote:
    """An object of the program, by number."""

    def __init__(self, ask: Ask, number: int, kind: str):
        vars(self).update(_ask=ask, _number=number, _kind=kind)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._ask("call", self._number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):                            # what Python itself looks for
            raise AttributeError(name)
        return self._ask("get", self._number, (name,), {})

    def __setattr__(self, name: str, value: object) -> None:
        self._ask("set", self._number, (name, value), {})

    def __repr__(self) -> str:
        return f"<a {self._kind} of the program>"


def _refuse(self: Remote, *_: object) -> object:
    raise Failed(f"a value of type {self._kind} cannot leave the sandbox: return plain Python values")


for _name in ("eq ne lt le gt ge bool len iter next contains getitem hash add radd sub rsub mul rmul "
              "truediv mod pow neg abs round int float index str format reversed").split():
    setattr(Remote, f"__{_name}__", _refuse)


def items(ask: Ask, number: int) -> Iterator[object]:
    """What an iterator of the program gives, one request for each, as long as its limits last."""
    while True:
        found: Any = ask("next", number, (), {})
        if not found:
            return
        yield found[0]


def raise_as(failure: Failed, known: dict[str, object]) -> None:
    """Raise what the program raised: a class of that name among `known`, or the built-in, or the failure."""
    for name in failure.raised:
        kind = known.get(name, getattr(builtins, name, None))
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                error = kind(*failure.values)
            except Exception:                            # it wants other arguments: the next more general one
                continue
            vars(error)["from_program"] = failure
            raise error
    raise failure
