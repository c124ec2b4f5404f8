"""Stop at a string, though it may begin in one token and end three tokens later.

Adds to streaming.StreamDecoder the second thing that must be held back: text that may turn out to be the
beginning of a stop string. Where the text ends does not depend on how it was cut into tokens: at the stop
string that is complete first, and of two that end together at the longer.

    make serve                             the field "stop" of a request
"""


class StopStrings:
    """`feed(text)` gives what may be shown; when a stop string is complete `hit` names it: no more comes."""

    def __init__(self, stops: list[str]):
        if "" in stops:
            raise ValueError("an empty stop string would end every text before it begins: leave it out")
        self.stops = stops
        self.hit: str | None = None
        self._held = ""   # the end of the text so far that may be the beginning of a stop string

    def feed(self, text: str) -> str:
        """The text now certain to come before any stop string; `hit` is set where one is complete."""
        # EXERCISE 8.10 stop strings
        if self.hit is not None:
            return ""
        text, self._held = self._held + text, ""
        found = [(text.index(stop) + len(stop), -len(stop)) for stop in self.stops if stop in text]
        if found:
            end, minus_length = min(found)
            self.hit = text[end + minus_length:end]
            return text[:end + minus_length]
        begun = [n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        keep = max(begun, default=0)
        self._held = text[len(text) - keep:]
        return text[:len(text) - keep]
        # END EXERCISE 8.10

    def finish(self) -> str:
        """What was held back, when the text has ended without a stop string."""
        rest, self._held = self._held, ""
        return rest
