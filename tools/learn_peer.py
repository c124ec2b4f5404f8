"""Two processes that call each other: requests and answers over a socket, nested as deep as the calls are.

Adds to learn_wire.py: calls, errors and gradients. While one side waits for an answer it serves what the
other asks (a body that calls a helper of the test, a test that wants the gradient of a result), so that a
call behaves as if both were one program. A result that needs a gradient arrives as the output of an
autograd.Function whose backward pass asks the side that computed it. learn_judge.py and learn_body.py are the
two ends.
"""

import builtins
import contextlib
import json
import socket
import struct
import sys
import traceback

from learn_far import BodyError, Far, Gone, across, print_of
from learn_tensors import is_tensor, read_tensor, torch, write_tensor
from learn_wire import Crossing, find

MOST = 256 << 20                                    # bytes of one message


class Peer:
    """One end of a line. An end adds what it serves (do_call) and what goes with requests and answers."""

    judge = False

    def __init__(self, line: socket.socket, tree: str):
        self.line, self.tree = line, tree
        self.stack, self.kept = [], []              # open crossings; (results, leaves) for gradients to come
        # objects that the other side has handles on; its own, by number
        self.mine, self.far = [], {}

    # Handles

    def handle(self, value):
        """[owner, number] of an object that one side has a handle on; None for other things."""
        if type(value) is Far:
            return ["body's" if self.judge else "judge's", value._number]
        number = next((i for i, known in enumerate(self.mine) if known is value), None)
        return None if number is None else ["judge's" if self.judge else "body's", number]

    def give(self, value) -> list:
        """A new handle. What may be done with it is decided when it is used."""
        self.mine.append(value)
        return self.handle(value)

    def resolve(self, owner: str, number: int):
        """The object, or what stands for it (always the same)."""
        if (owner == "judge's") == self.judge:
            return self.mine[number]
        return self.far.setdefault(number, Far(self, number))

    def served(self, value, name: str):
        """The attribute `name` of an object of this side; "" is the object itself, to be called."""
        return getattr(value, name) if name else value

    def do_get(self, crossing, value):
        """An attribute of an object: [False, its value], or [True] for a method."""
        def act():
            found = self.served(*value)
            return [True] if callable(found) and not isinstance(found, type) else [False, found]
        return act, dict

    def do_use(self, crossing, value):
        """A call of an object or of its method; what it changes in place of its arguments goes back."""
        target, name, args, named = value
        before = [print_of(a) for a in args]

        def told():
            new = [i for i, a in enumerate(args) if is_tensor(a) and print_of(a) != before[i]]
            return {"args": [[i, crossing.write(args[i].detach(), deep=True)] for i in new]}
        return lambda: self.served(target, name)(*args, **named), told

    def is_chapter(self, module: str) -> bool:
        """Is this a module of the tree's chapters (not of its tests)?"""
        file = getattr(sys.modules.get(module), "__file__", None) or ""
        return file.startswith(self.tree + "/") and not file.startswith(self.tree + "/tests/")

    # Messages

    def send(self, message: dict, blobs=()) -> None:
        """One message: two lengths, JSON, raw numbers."""
        text, data = json.dumps(message).encode(), b"".join(blobs)
        try:
            self.line.sendall(struct.pack("<II", len(text), len(data)) + text + data)
        except OSError:
            raise Gone("its process has ended") from None

    def _exactly(self, size: int) -> bytes:
        data, at = bytearray(size), 0
        while at < size:
            try:
                got = self.line.recv_into(memoryview(data)[at:])
            except OSError:
                got = 0
            if not got:
                raise Gone("its process has ended")
            at += got
        return bytes(data)

    def receive(self) -> tuple[dict, bytes]:
        """The next message. Gone: the other side has ended; ValueError: what came is no message."""
        sizes = struct.unpack("<II", self._exactly(8))
        if sum(sizes) > MOST:
            raise ValueError(f"malformed message: {sum(sizes) >> 20} MB at once")
        message, data = json.loads(self._exactly(sizes[0])), self._exactly(sizes[1])
        if not isinstance(message, dict):
            raise ValueError("malformed message: no table")
        return message, data

    # Asking

    def ask(self, do: str, value, crossing: Crossing | None = None):
        """Have the other side do something with `value`, serving its own requests until the answer comes."""
        fresh = crossing is not None or not self.stack
        crossing = crossing or (Crossing(self) if fresh else self.stack[-1])
        self.stack.append(crossing)
        try:
            crossing.begin()
            written, leaves = crossing.write(value), crossing.leaves
            message = {"do": do, "value": written, "grad": bool(torch() and torch().is_grad_enabled())}
            message |= {**self.with_request(crossing), "contract": crossing.contract if fresh else None}
            self.send(message, crossing.blobs)
            while "do" in (received := self.receive())[0]:
                self.serve(*received)
            message, data = received
            crossing.begin(data)
            self.on_answer(message, crossing, value)
            if "error" in message:
                raise self.error(message)
            results = [read_tensor(r, crossing.storages, crossing.take).detach().clone()
                       for r in message["results"]]
            if results:
                always = torch().zeros((), requires_grad=True)
                results = across().apply(self, message["key"], results, always, *leaves)
            crossing.results = list(results)
            return crossing.read(message["value"])
        finally:
            self.stack.pop()

    def error(self, message: dict) -> BaseException:
        """The exception that the other side raised: of the same type if that is built in or a chapter's."""
        module, name, text = (str(part) for part in message["error"])
        kind = getattr(builtins, name, None) if module == "builtins" else None
        if self.is_chapter(module):
            kind = find(module, name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            with contextlib.suppress(TypeError):
                return kind(text)
        return BodyError(f"{name}: {text}")

    # Serving

    def serve(self, message: dict, data: bytes) -> None:
        """Do what the other side asks and send the answer."""
        fresh, told = message["contract"] is not None, dict
        crossing = Crossing(self, message["contract"]) if fresh else self.stack[-1]
        self.stack.append(crossing)
        try:
            crossing.begin(data)
            value, leaves = crossing.read(message["value"]), crossing.leaves
            self.on_request(message, crossing)
            with torch().set_grad_enabled(bool(message["grad"])) if torch() else contextlib.nullcontext():
                act, told = getattr(self, f"do_{message['do']}")(crossing, value)
                result = act()
                crossing.begin()
                reply = {**told(), **self.with_answer(crossing)}
                blobs, crossing.blobs = crossing.blobs, []
                written = crossing.write(result, answer=True)
            self.kept += [(crossing.results, leaves)] if crossing.results else []
            reply |= {"value": written, "key": len(self.kept) - 1, "results": [
                write_tensor(r.detach(), crossing.storages, blobs) for r in crossing.results]}
            blobs += crossing.blobs
        except BaseException as problem:
            if isinstance(problem, Gone) or self.fatal(problem):
                raise
            reply, blobs = self.explain(problem, told, crossing)
        finally:
            self.stack.pop()
        self.send(reply, blobs)

    def explain(self, problem: BaseException, told, crossing: Crossing) -> tuple[dict, list]:
        """The answer when something went wrong, with what was changed until then if that can be told."""
        with contextlib.suppress(Exception):
            crossing.begin()
            return {**told(), **self.with_answer(crossing), **self.failed(problem)}, crossing.blobs
        crossing.begin()
        return {**self.with_answer(crossing), **self.failed(problem)}, crossing.blobs

    def do_gradient(self, crossing: Crossing, value):
        """The gradients of what was kept under a key, for the gradients of its results."""
        return lambda: self.backward(*self.kept[value[0]], value[1]), dict

    def failed(self, problem: BaseException) -> dict:
        """An error as a message, with the lines of the tree's code that it passed."""
        kind, text = type(problem), str(problem)
        frames = traceback.extract_tb(problem.__traceback__)
        where = [[f.filename, f.lineno] for f in frames if f.filename.startswith(self.tree)]
        if isinstance(problem, SyntaxError):
            text, where = problem.msg, [*where, [problem.filename, problem.lineno or 0]]
        return {"error": [kind.__module__, kind.__qualname__, text[:3000]], "where": where[-20:]}

    def fatal(self, problem: BaseException) -> bool:
        """Must this error end the line instead of crossing it?"""
        return False

    # What goes along, for the ends to fill in

    def with_request(self, crossing: Crossing) -> dict:
        """Goes with a request, besides its value."""
        return {"grads": self.gradients(crossing)}

    def on_request(self, message: dict, crossing: Crossing) -> None:
        """Look at what came with a request."""
        self.set_gradients(message, crossing)

    def with_answer(self, crossing: Crossing) -> dict:
        """Goes with an answer, be it a value or an error."""
        return {"grads": self.gradients(crossing)}

    def on_answer(self, message: dict, crossing: Crossing, value) -> None:
        """Look at what came with the answer to a request about `value`."""
        for i, written in message.get("args", ()):
            value[2][i].detach().copy_(crossing.read(written))
        self.set_gradients(message, crossing)

    # Gradients of parameters that both sides know, kept alike where an exercise is about them

    def gradients(self, crossing: Crossing) -> list:
        """[place, gradient] of each parameter."""
        if "gradients" not in crossing.contract:
            return []
        mine = [(i, p) for i, p in enumerate(crossing.known) if is_tensor(p) and p.is_leaf
                and p.requires_grad]
        return [[i, None if p.grad is None else crossing.write(p.grad.detach().clone())] for i, p in mine]

    def set_gradients(self, message: dict, crossing: Crossing) -> None:
        """Take over the other side's."""
        for i, written in message.get("grads", ()) if "gradients" in crossing.contract else ():
            parameter, new = crossing.known[i], crossing.read(written)
            if parameter.grad is not None and new is not None:
                parameter.grad.detach().copy_(new)
            else:
                parameter.grad = new
