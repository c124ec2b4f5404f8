"""The engine in a thread of its own, behind a queue: many clients submit, cancel and listen, one computes.

What a client hears goes through the event loop (`call_soon_threadsafe`), in the order in which it happened.
An error inside the engine ends every request that it had with an error, none without one, and the engine
begins anew.

    make serve                             server.py submits to this
"""
import asyncio
import queue
import threading
import time
import traceback
from collections.abc import Callable

from engine import Engine
from scheduler import Request
from stop_strings import StopStrings
from streaming import StreamDecoder


class Choice:
    """One text that is being written: decodes tokens, watches for stop strings, and tells its listener.

    The listener hears ("text", text, number of tokens so far) and at last ("end", reason).
    """

    def __init__(self, request: Request, decoder: StreamDecoder, stops: list[str],
                 tell: Callable[[tuple], None]):
        self.request, self.decoder, self.stops, self.tell = request, decoder, StopStrings(stops), tell
        self.begin, self.first, self.ended_at = time.monotonic(), None, None
        request.watch = self.watch

    def watch(self, request: Request, token: int) -> bool:
        """Called by the engine with each token; True ends the text."""
        self.first = self.first or time.monotonic()
        text = self.stops.feed(self.decoder.feed(token))
        self.tell(("text", text, len(request.tokens)))
        return self.stops.hit is not None

    def end(self) -> None:
        """Called once the request has finished, for whatever reason."""
        if self.ended_at is not None:
            return
        self.ended_at = time.monotonic()
        rest = self.stops.feed(self.decoder.finish()) + self.stops.finish() if self.stops.hit is None else ""
        if rest:
            self.tell(("text", rest, len(self.request.tokens)))
        self.tell(("end", self.request.finished or "error"))


class EngineThread:
    """Runs `make_engine()` in a thread; `submit` and `cancel` may be called from the event loop."""

    def __init__(self, make_engine: Callable[[], Engine], loop: asyncio.AbstractEventLoop):
        self._make, self._loop = make_engine, loop
        self.engine = make_engine()
        self.restarts = 0
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._alive: dict[Request, Choice] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, choices: list[Choice]) -> None:
        """Queue choices; those behind the first that have its prompt are its siblings."""
        self._inbox.put(("submit", choices))

    def cancel(self, choices: list[Choice]) -> None:
        """End choices that nobody waits for any more; those that have ended are left alone."""
        self._inbox.put(("cancel", choices))

    def stop(self) -> None:
        """End the thread after what it is doing; whatever is left ends with an error."""
        self._inbox.put(("stop", []))
        self._thread.join(timeout=30)

    def _tell(self, function, *values) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *values)
        except RuntimeError:      # the loop has closed: nobody listens
            pass

    def _run(self) -> None:
        while True:
            try:
                while not self.engine.busy or not self._inbox.empty():
                    what, choices = self._inbox.get()
                    if what == "stop":
                        return self._fail_all()
                    for choice in choices if what == "cancel" else ():
                        self.engine.cancel(choice.request)
                    if what == "submit":
                        self._submit(choices)
                    self._sweep()
                self.engine.step()
                self._sweep()
            except Exception:     # an error of ours: say so, to the log and to every client, and go on
                traceback.print_exc()
                self._fail_all()
                self.engine = self._make()
                self.restarts += 1

    def _submit(self, choices: list[Choice]) -> None:
        first, *others = (c.request for c in choices)
        first.siblings = others
        self._alive |= {c.request: c for c in choices}
        try:
            self.engine.submit(first)
        except ValueError:        # what a client can cause was refused before; this is a mistake of ours
            traceback.print_exc()
            for choice in choices:
                choice.request.finished = "error"

    def _sweep(self) -> None:
        for request in [r for r in self._alive if r.finished]:
            self._alive.pop(request).end()

    def _fail_all(self) -> None:
        for request, choice in list(self._alive.items()):
            request.finished = request.finished or "error"
            choice.end()
        self._alive.clear()

    def listener(self, heard: asyncio.Queue, index: int) -> Callable[[tuple], None]:
        """A function for Choice that puts (index, *event) into a queue of the event loop."""
        return lambda message: self._tell(heard.put_nowait, (index, *message))
