"""A client of the chat API, and the agent that it makes of any server: text in, the next action out.

Chapter 7's graders and tasks take an agent as `Callable[[str], str]`: it gets all that happened so far and
returns what it does next. `chat_agent` is one, whichever model is behind the server. A server that is full
(429), closing (503) or out of reach is asked again, after as long as it says (Retry-After) or twice as long
each time, with some chance in it, so that many clients do not return in one moment. Whatever the client got
wrong itself (400, 401, 404) is not tried again.

    make serve                             in another window, then:
    python 08_inference/chat_client.py Which module has FrameSummary?
"""
import contextlib
import http.client
import json
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
from harness import Said
from turn_memory import Message

AGAIN = (408, 425, 429, 500, 502, 503, 504)      # what may be over in a moment
LONGEST = 16 << 20                               # bytes of an answer
GAP = "\n[...]\n"


class ChatError(Exception):
    """The server refused, or could not be asked, in as many tries as there were; one sentence."""

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


@dataclass
class Settings:
    """Which server, and what to ask it."""
    words: tuple = ()                            # the question; without one it is read from stdin
    server: str = "http://127.0.0.1:8000"        # its address
    api_key: str = ""                            # its key, if it wants one
    model: str = ""                              # its name there; empty: the server's own
    seconds: float = 120.0                       # longest wait for one answer
    tries: int = 6                               # how often a server that is full is asked
    max_new: int = 64                            # longest answer, in tokens
    seed: int = setting(0, least=0)              # of the sampling, and of the waits


class ChatClient:
    """One server and one model. `say` and `size` are what harness.py asks of a model."""

    def __init__(self, s: Settings, room: int = 192, sleep: Callable[[float], None] = time.sleep):
        self.s, self.room, self.sleep, self.dice = s, room, sleep, random.Random(s.seed)
        try:
            self.url = urlsplit(s.server if "//" in s.server else f"http://{s.server}")
            good = self.url.scheme in ("http", "https") and self.url.hostname and self.url.port != 0
        except ValueError:                           # a port that is no number, brackets without an end
            good = False
        if not good:
            raise ValueError(f"--server {s.server}: give an address such as http://127.0.0.1:8000")

    def size(self, text: str) -> int:
        """Bytes of a message, never less than its tokens: its text, and at most three that say who speaks."""
        return len(text.encode(errors="replace")) + 3

    def say(self, messages: list[Message], pattern: str | None = None, temperature: float = 0.0,
            seed: int = 0) -> Said:
        """The answer to the messages. A pattern goes as a JSON schema of a string, the API's nearest."""
        form = {} if pattern is None else {"response_format": {"type": "json_schema", "json_schema": {
            "name": "answer", "schema": {"type": "string", "pattern": pattern}}}}
        body = {"messages": messages, "temperature": temperature, "seed": self.s.seed + seed,
                "max_tokens": self.s.max_new, **({"model": self.s.model} if self.s.model else {}), **form}
        answer = self.post("/v1/chat/completions", body)
        try:
            message, usage = answer["choices"][0]["message"], answer.get("usage") or {}
            text = message.get("content") or ""
            read, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
            if calls := message.get("tool_calls"):
                wanted = calls[0]["function"]
                text = json.dumps({"name": wanted["name"], "arguments": json.loads(wanted["arguments"])})
            if not isinstance(text, str):
                raise TypeError
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise ChatError("the answer of the server is not of the API's form") from None
        if pattern is not None:
            with contextlib.suppress(ValueError):      # cut off at max_tokens it is no JSON: left as it is
                text = str(json.loads(text))
        return Said(text, read, written)

    def post(self, path: str, body: dict) -> dict:
        """The answer to one request, after as many tries as it takes. ChatError if none helps."""
        wait = 0.5
        for left in reversed(range(self.s.tries)):
            try:
                return self._once(path, body)
            except ChatError as error:
                if left == 0 or error.status not in (*AGAIN, 0):
                    raise
                told = error.retry_after
            self.sleep(min(told, 60.0) if told is not None else wait * (0.5 + self.dice.random()))
            wait = min(2 * wait, 30.0)
        raise ChatError("no try was allowed")

    def _once(self, path: str, body: dict) -> dict:
        kind: Any = (http.client.HTTPSConnection if self.url.scheme == "https" else
                     http.client.HTTPConnection)
        connection = kind(self.url.hostname, self.url.port, timeout=self.s.seconds)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.s.api_key:
            headers["Authorization"] = f"Bearer {self.s.api_key}"
        try:
            home = self.url.path.rstrip("/").removesuffix("/v1")      # with or without it, as people write it
            connection.request("POST", home + path, json.dumps(body), headers)
            answer = connection.getresponse()
            text, status = answer.read(LONGEST + 1), answer.status
        except (OSError, http.client.HTTPException) as problem:
            raise ChatError(f"{self.s.server} does not answer ({str(problem) or type(problem).__name__})") \
                from None
        finally:
            connection.close()
        if len(text) > LONGEST:
            raise ChatError(f"the answer of the server has more than {LONGEST} bytes", status)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if status == 200 and isinstance(value, dict):
            return value
        said = value.get("error") if isinstance(value, dict) else None
        words = said.get("message") if isinstance(said, dict) else None
        after = answer.getheader("Retry-After", "")          # or a date, which is not read here
        raise ChatError(f"the server answered {status}: {str(words or 'nothing that is JSON')[:300]}",
                        status if status != 200 else 422,    # not again: it would be the same
                        float(after) if re.fullmatch("[0-9]{1,9}", after) else None)


def shorten(text: str, room: int) -> str:
    """At most `room` characters: the beginning, where the task is, and the end, where things stand."""
    if len(text) <= room:
        return text
    head = max(room - len(GAP), 0) // 3
    return text[:head] + GAP + text[len(text) - max(room - len(GAP) - head, 0):]


def chat_agent(client: ChatClient, system: str = "") -> Callable[[str], str]:
    """An agent: all that happened so far in, the next action out. Each call is a conversation of its own.

    A transcript that is too long for the model is shortened in the middle until it fits.
    """
    def act(transcript: str) -> str:
        room = len(transcript)
        while True:
            messages = [{"role": "system", "content": system}] if system else []
            try:
                return client.say([*messages, {"role": "user", "content": shorten(transcript, room)}]).text
            except ChatError as error:
                if error.status not in (400, 413) or room < 40:
                    raise
                room = room * 3 // 4
    return act


def main() -> None:
    """Ask the server one question."""
    s = parse_settings(Settings, __doc__)
    client = ChatClient(s)
    try:
        print(chat_agent(client)(" ".join(s.words) if s.words else sys.stdin.read().strip()).strip())
    except ChatError as error:
        raise ValueError(str(error)) from None


if __name__ == "__main__":
    run_main(main)
