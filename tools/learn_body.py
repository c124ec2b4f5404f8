"""The body's end: a process with the reference and one body in it, which computes what the judge asks.

Adds to learn_peer.py: calls of the tree's functions, with a look at what they change and print.
learn_worker.py starts this process, behind the walls of learn_guard.py when the body is a stranger's. The
tree holds no tests.
"""

import functools
import inspect
import io
import os
import random
import sys

from learn_far import Gone, expand, print_of, random_state, relocated, set_random
from learn_peer import Peer
from learn_tensors import is_array, is_tensor, numpy, torch
from learn_wire import find


class Context:
    """What autograd.Function gives its two methods."""

    def save_for_backward(self, *tensors):
        """Keep tensors for the backward pass."""
        self.saved_tensors = tensors

    def set_materialize_grads(self, value):
        """Only the judge's copy needs to know."""

    mark_non_differentiable = mark_dirty = set_materialize_grads

    def told(self) -> list:
        """What the function has kept: plain attributes and saved tensors."""
        mine = dict(vars(self))
        saved = mine.pop("saved_tensors", ())
        return [{k: v for k, v in mine.items() if v is None or type(v) in (bool, int, float, str)},
                list(saved)]


class Printed(io.TextIOBase):
    """The first few thousand characters that a call prints; endless output goes nowhere."""

    text = ""

    def write(self, text: str) -> int:
        """Keep the beginning."""
        self.text += text[: 4000 - len(self.text)]
        return len(text)


class BodyEnd(Peer):
    """The line to the judge, and the objects that live here for it."""

    def __init__(self, line, tree: str):
        super().__init__(line, tree)
        self.objects, self.printed = {}, Printed()
        sys.stdout = self.printed

    context = Context

    def backward(self, results, leaves, grads):
        """The gradients of what was computed here, for the arguments that need one."""
        return list(torch().autograd.grad(results, leaves, grads, retain_graph=True,
                                          allow_unused=True)) if leaves else []

    # Calls

    def do_call(self, crossing, value):
        """Call a function of the tree, by the names of its arguments."""
        path, arguments = value
        function = find(*path)
        function = getattr(function, "__func__", function)
        values = inspect.signature(function).bind_partial()
        values.arguments |= arguments
        return lambda: function(*values.args, **values.kwargs), self.watch(crossing, arguments)

    def do_method(self, crossing, value):
        """Call a method of an object that lives here, made when it is first used."""
        (module, name, made), method, args, named = value

        def act():
            key = repr((module, name, made))
            if key not in self.objects:
                self.objects[key] = find(module, name)(*relocated(made, "{tree}", self.tree))
            if args is None:
                found = getattr(self.objects[key], method)
                return [True] if callable(found) else [False, found]
            return getattr(self.objects[key], method)(*args, **named) if method else None
        return act, self.watch(crossing, named)

    def watch(self, crossing, arguments: dict):
        """What to tell after a call: the values that it may change, and what it has changed besides."""
        contract = expand(crossing.contract, arguments)
        contract += [k for k, v in arguments.items() if type(v) is Context]
        others = {k: v for k, v in arguments.items() if k not in contract
                  and (is_tensor(v) or is_array(v) or isinstance(v, (list, tuple, dict, set)))}
        grads = "gradients" not in crossing.contract
        before = {name: print_of(v, grads) for name, v in others.items()}

        def told():
            state = {}
            for first, *inner in (path.split(".") for path in contract):
                new = functools.reduce(getattr, inner, arguments[first])
                if type(new) is Context:
                    new = new.told()
                state[".".join([first, *inner])] = crossing.write(new.detach() if is_tensor(new) else new,
                        deep=True)
                crossing.storages.agree(new) if is_tensor(new) else None
            return {"state": state, "changed": [k for k in before if print_of(others[k], grads) != before[k]]}
        return told

    # What goes along

    def on_request(self, message, crossing):
        """Set the generators as the judge's are."""
        super().on_request(message, crossing)
        for name in [k for k in os.environ if k.startswith("EMU_")]:
            del os.environ[name]
        os.environ.update(message["env"])
        self.random = message["random"]
        set_random(self.random) if torch() else None

    def with_request(self, crossing):
        """For a helper that draws random numbers."""
        return {**super().with_request(crossing), "random": random_state()
                if "random" in crossing.contract else ""}

    def with_answer(self, crossing):
        """What was printed, and whether random numbers were drawn."""
        now, text = random_state(), self.printed.text
        self.printed.text = ""
        return {**super().with_answer(crossing), "printed": text, "drew": now != self.random,
                "random": now if "random" in crossing.contract else ""}

    def on_answer(self, message, crossing, value):
        """A helper has run: what it has changed."""
        super().on_answer(message, crossing, value)
        set_random(message["random"]) if message.get("random") else None

    def error(self, message):
        """A helper's error; the judge will know it again."""
        found = super().error(message)
        found.raised = message.get("raised")
        return found

    def failed(self, problem):
        """The body's error."""
        return {**super().failed(problem), "raised": getattr(problem, "raised", None)}


def run(line, tree: str) -> None:
    """Serve the judge until it closes the line."""
    random.seed(0)
    numpy() and numpy().random.seed(0)
    end = BodyEnd(line, tree)
    try:
        while True:
            end.serve(*end.receive())
    except Gone:
        pass
