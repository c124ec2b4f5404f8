"""The judge's end: in its copy a function only asks the process that holds the body.

Adds to learn_peer.py: `far`, the decorator that learn_run.py writes above that function; handles on a test's
own helpers, of which only public methods are served; and what a call may change. A change in place is applied
only where EXERCISES.md says "Changes in place: ..."; any other change of an argument fails the test, and
whatever else happens to the copies over there changes nothing here. No verdict, no test and no expected value
is on the other side.
"""

import functools
import inspect
import os
import random
import signal
import socket
import sys
import threading
import types

from learn_far import Gone, expand, random_state, relocated, set_random
from learn_peer import Peer
from learn_tensors import is_array, is_tensor, torch
from learn_wire import Crossing, Refused, find

# of a test's nn.Module
OF_MODULES = ("parameters", "named_parameters", "zero_grad", "train", "eval", "training")
DOUBLE = ("__len__", "__getitem__", "__setitem__", "__iter__", "__next__", "__contains__")


class Body(Peer):
    """A process with the body in it, seen from the judge."""

    judge = True

    def __init__(self, line: socket.socket, tree: str, pid: int):
        super().__init__(line, tree)
        self.pid, self.lock, self.alive = pid, threading.RLock(), True
        self.raised = []

    # What of a test's helpers may be used from over there

    def is_test(self, module: str) -> bool:
        """Is this a module of the tests?"""
        return (getattr(sys.modules.get(module), "__file__", None) or "").startswith(self.tree + "/tests/")

    def is_common(self, value) -> bool:
        """Does the body's process know this function or class under the same name?"""
        module = getattr(value, "__module__", None)
        if not module or self.is_test(module) or "<" in value.__qualname__:
            return False
        try:
            return find(module, value.__qualname__) is value
        except (AttributeError, ImportError):
            return False

    def is_mirrored(self, kind: type) -> bool:
        """Do instances of this class become instances over there?"""
        chapter = self.is_chapter(kind.__module__) and not issubclass(kind, FarClass)
        return chapter or kind is types.SimpleNamespace or kind.__module__.startswith("torch.nn.modules")

    def served(self, value, name: str):
        """The attribute `name` of a helper; "" is the helper itself, to call. Refused if it is not public."""
        own = [c for c in type(value).__mro__ if self.is_test(c.__module__)]
        function = isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinMethodType,
                                      functools.partial))
        if name == "" and (function or own and callable(value)):
            return value
        public = name in DOUBLE or not name.startswith("_")
        inherited = torch() and isinstance(value, torch().nn.Module) and name in OF_MODULES
        if isinstance(value, random.Random) and public:
            return getattr(value, name)
        known = name in DOUBLE or inherited or name in vars(value) or any(name in vars(c) for c in own)
        if own and public and known and hasattr(value, name):
            return getattr(value, name)
        raise Refused(f"{type(value).__name__} has no public {name or 'call'} for a body to use")

    def failed(self, problem):
        """An error in a helper: a body may catch it, but not what the helper asserts."""
        self.raised.append(problem)
        if isinstance(problem, AssertionError) or not isinstance(problem, Exception):
            self.stack[-1].sticky = self.stack[-1].sticky or problem
        return {**super().failed(problem), "raised": len(self.raised) - 1}

    def fatal(self, problem):
        """The clock of the test has run out."""
        return type(problem).__name__ == "Stopped"

    def backward(self, results, leaves, grads):
        """Through a helper's result: its own parameters get their gradients, those of the leaves go back."""
        torch().autograd.backward(results, grads, retain_graph=True)
        return [leaf.grad for leaf in leaves]

    # What goes along

    def with_request(self, crossing):
        """The generator's state, what the tests set for the emulator, and what the call may change."""
        return {**super().with_request(crossing), "random": random_state(),
                "env": {k: v for k, v in os.environ.items() if k.startswith("EMU_")}}

    def on_request(self, message, crossing):
        """The body asks for something."""
        super().on_request(message, crossing)
        if "random" in crossing.contract:
            set_random(message["random"])

    def with_answer(self, crossing):
        """The generator's state after a helper has run."""
        return {**super().with_answer(crossing), "random": random_state()
                if "random" in crossing.contract else ""}

    def on_answer(self, message, crossing, value):
        """A call has ended: what was printed, what was drawn at random, what was changed."""
        print(str(message.get("printed", ""))[:4000], end="")
        if message.get("random") and "random" in crossing.contract:
            set_random(message["random"])
        elif message.get("drew"):
            torch().rand(1)                          # the generator has moved, but not to where the body says
        self.set_gradients(message, crossing)
        crossing.loose = True
        for path, written in message.get("state", {}).items():
            assign(crossing.arguments, path, crossing.read(written), crossing.contract)
        crossing.loose = False
        for name in message.get("changed", ()):
            raise AssertionError(f"the call changes its argument `{name}`, the caller's own: make a new one "
                                 "(no x += ..., no x[...] = ..., no append to it, no operation_)")

    def error(self, message):
        """The body's error; one that came from a helper of the test is that very error."""
        raised = message.get("raised")
        found = self.raised[raised] if type(raised) is int else super().error(message)
        found.far = [(str(file), int(line)) for file, line in message.get("where", ())]
        return found

    def call(self, do: str, value, arguments: dict, contract: tuple):
        """One call of the body's process; returns its value after what it may change has been changed."""
        crossing = Crossing(self, contract)
        crossing.arguments, crossing.sticky = arguments, None
        try:
            return self.ask(do, value, crossing)
        except BaseException as problem:
            if isinstance(problem, Gone) or not isinstance(problem, Exception):
                self.kill()                          # what it would still send belongs to no call
            if crossing.sticky is not None:
                raise crossing.sticky from None
            raise

    def kill(self) -> None:
        """End the process and whatever it has started."""
        self.alive = False
        for victim in (-self.pid, self.pid):
            try:
                os.kill(victim, signal.SIGKILL)
            except OSError:
                pass
        self.line.close()


def assign(arguments: dict, path: str, new, contract: tuple) -> None:
    """Give the argument, or the attribute of one, at `path` its new value: in place if it is a container."""
    first, *inner = path.split(".")
    old, owner = arguments[first], None
    context = torch() and isinstance(old, torch().autograd.function.FunctionCtx)
    if path not in expand(contract, arguments) and not (context and not inner):
        raise ValueError(f"malformed message: {path[:40]} is not to be changed")
    for name in inner:
        owner, old = old, getattr(old, name)
    same = type(old) is type(new)
    if context:
        vars(old).update(new[0])
        old.save_for_backward(*new[1])
    elif is_tensor(old) and is_tensor(new) and (old.shape, old.dtype) == (new.shape, new.dtype):
        old.detach().copy_(new.detach())
    elif same and is_array(old) and (old.shape, old.dtype) == (new.shape, new.dtype):
        old[...] = new
    elif same and isinstance(old, list):
        old[:] = new
    elif same and isinstance(old, (dict, set)):
        old.clear()
        old.update(new)
    elif owner is not None:
        setattr(owner, inner[-1], new)
    else:
        raise AssertionError(f"`{path}` was a {type(old).__name__} and became a {type(new).__name__}")


class Bodies:
    """The processes of one case: one for each thread of a test that calls, started when it is needed."""

    def __init__(self):
        self.all, self.lock = [], threading.Lock()

    def begin(self, control: socket.socket, tree: str) -> None:
        """Over `control` the worker that started this judge hands out processes with the body in them."""
        self.control, self.tree = control, tree

    def ask(self, word: str) -> tuple[str, list]:
        """Ask the worker for something; its answer and the sockets that came with it."""
        with self.lock:
            self.control.sendall(word.encode() + b"\n")
            said, lines, _, _ = socket.recv_fds(self.control, 1000, 1)
            return said.decode().strip(), lines

    def call(self, do: str, value, arguments: dict, contract: tuple = ()):
        """Have a free process do it (the one that this thread is using already, if any)."""
        for body in [b for b in self.all if b.alive]:
            if body.lock.acquire(blocking=False):
                break
        else:
            said, lines = self.ask("body")
            body = Body(socket.socket(fileno=lines[0]), self.tree, int(said))
            body.lock.acquire()
            self.all.append(body)
        try:
            return body.call(do, value, arguments, contract)
        except Gone:
            raise Gone(f"its process ended: {self.ask(f'end {body.pid}')[0]}") from None
        finally:
            body.lock.release()

    def end(self) -> None:
        """After a test that had to be stopped: nothing of it goes on."""
        for body in self.all:
            body.kill() if body.alive else None


BODIES = Bodies()


class FarClass:
    """A class whose instances live in the body's process (compiled libraries): here is how they are made."""

    def __init__(self, *made):
        made = relocated(list(made), BODIES.tree, "{tree}")
        self._made = [type(self).__module__, type(self).__qualname__, made]
        BODIES.call("method", [self._made, "", [], {}], {})

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        method, *value = BODIES.call("method", [self._made, name, None, {}], {})
        if not method:
            return value[0]
        return lambda *args, **named: BODIES.call("method", [self._made, name, list(args), named], named,
                                                  ("out_*",))


def far(*contract: str):
    """Decorates the function of an exercise in the judge's copy: calls go to the body's process."""
    def decorate(function):
        path = [function.__module__, function.__qualname__]
        if isinstance(function, type):
            return type(function.__name__, (FarClass,), dict(zip(("__module__", "__qualname__"), path)))
        signature = inspect.signature(function)

        @functools.wraps(function)
        def asked(*args, **named):
            arguments = dict(signature.bind(*args, **named).arguments)
            return BODIES.call("call", [path, arguments], arguments, contract)
        return asked
    return decorate
