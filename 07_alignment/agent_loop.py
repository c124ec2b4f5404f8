"""An agent at work: text in, text out, one action a turn, until it submits or its budget is spent.

An agent is any function from the transcript so far to its next action: a script, a model, a server. What it
says is parsed strictly, because a loop that guesses what was meant trains a model to be careless; what is
malformed is answered with one sentence, and costs a step. Yang et al. 2024, SWE-agent: the interface decides
how well an agent works.

    python 07_alignment/code_agent.py      trains one
"""
import http.client
import json
import re
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

Agent = Callable[[str], str]
ACTIONS = "list, show FILE, test, replace FILE LINE TEXT, submit"


@dataclass(frozen=True)
class Action:
    """One thing to do: its name, and what it is done to."""
    name: str
    file: str = ""
    line: int = 0
    text: str = ""


@dataclass(frozen=True)
class Budget:
    """What one episode may use."""
    steps: int = 8               # actions, malformed ones included
    action_chars: int = 200      # of one action
    shown_chars: int = 400       # of one answer to it


def parse_action(said: str) -> Action:
    """The action that a line of text is. ValueError, with a sentence, for everything else.

    The text of `replace` is all that follows one space, its indentation included; it may be empty.
    """
    if said != first_line(said):
        raise ValueError("an action is one line of text")
    name, _, rest = said.partition(" ")
    if said in ("list", "test", "submit"):
        return Action(said)
    if name == "show" and re.fullmatch(r"\S+", rest):
        return Action("show", rest)
    found = re.fullmatch(r"(\S+) ([1-9][0-9]{0,5}) (.*)", rest)
    if name == "replace" and found:
        return Action("replace", found[1], int(found[2]), found[3])
    raise ValueError(f"no such action; there are: {ACTIONS}")


def first_line(said: str) -> str:
    """The first line of what was said, as UTF-8 can write it: a server may send half a surrogate pair."""
    return (said.splitlines() or [""])[0].encode("utf-8", "replace").decode()


class Place(Protocol):
    """Where an agent works: `transcript` is all it sees, `act` does one action, until `done`."""
    transcript: str

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        ...

    def act(self, said: str) -> None:
        """Do what was said, and write it and the answer into the transcript."""


AnyPlace = TypeVar("AnyPlace", bound=Place)


class Repository:
    """Files with a problem: shown, tested, changed line by line, and submitted.

    `run_tests` gives what the visible tests say of {path: text}; hidden tests are nowhere in here.
    """

    def __init__(self, issue: str, files: dict[str, str], run_tests: Callable[[dict[str, str]], str],
                 budget: Budget = Budget()):
        self.files, self.run_tests, self.budget = dict(files), run_tests, budget
        self.transcript, self.steps = f"{issue}\n> ", 0
        self.malformed, self.submitted = 0, False

    @property
    def done(self) -> bool:
        """Submitted, or out of steps."""
        return self.submitted or self.steps >= self.budget.steps

    def act(self, said: str) -> None:
        """One turn. Of what is no single line only the first is kept: nobody forges the answer to it."""
        self.steps += 1
        try:
            if len(said) > self.budget.action_chars:
                raise ValueError(f"an action has at most {self.budget.action_chars} characters")
            answer = self.answer(parse_action(said))
        except ValueError as error:
            self.malformed += 1
            answer = f"error: {error}"
        self.transcript += f"{first_line(said)[:self.budget.action_chars]}\n"
        if not self.submitted:
            self.transcript += f"{quoted(answer[:self.budget.shown_chars])}\n> "

    def answer(self, action: Action) -> str:
        """What the agent is told. ValueError for a file or a line that is not there."""
        if action.name == "submit":
            self.submitted = True
            return ""
        if action.name == "list":
            return "\n".join(sorted(self.files))
        if action.name == "test":
            return self.run_tests(self.files)
        if action.file not in self.files:
            raise ValueError(f"there is no file {action.file}")
        lines = self.files[action.file].removesuffix("\n").split("\n")
        if action.name == "show":
            return "\n".join(f"{i} {line}" for i, line in enumerate(lines, 1))
        if action.line > len(lines):
            raise ValueError(f"{action.file} has {len(lines)} lines")
        lines[action.line - 1] = action.text
        self.files[action.file] = "\n".join(lines) + "\n"
        return "ok"


def quoted(answer: str) -> str:
    """The answer as UTF-8 can write it, with no line that looks like an action: those begin with "> "."""
    return re.sub(r"(?m)^> ", " > ", answer.encode("utf-8", "replace").decode())


def play(agent: Agent, place: AnyPlace) -> AnyPlace:
    """Let an agent work until it is done."""
    while not place.done:
        place.act(agent(place.transcript))
    return place


def do_nothing(transcript: str) -> str:
    """The agent every score is to be compared with: it submits what it was given."""
    return "submit"


def turns_of(transcript: str) -> list[tuple[str, str]]:
    """(what was shown, what was done) for each turn; the last has nothing done yet if it is the agent's turn.

    >>> turns_of("issue\\n> list\\na.py\\n> ")
    [('issue', 'list'), ('a.py', '')]
    """
    first, *rest = re.split(r"(?m)^> ", transcript)
    turns, shown = [], first.removesuffix("\n")
    for part in rest:
        done, _, after = part.partition("\n")
        turns.append((shown, done))
        shown = after.removesuffix("\n")
    return turns


def served(url: str, model: str = "", rules: str = f"Answer with one action: {ACTIONS}.") -> Agent:
    """An agent behind a server with the chat API: `url` ends before /chat/completions.

    Each turn is asked for once. ValueError if no answer comes, or one of another form; an agent that asks a
    busy server again is chat_client.py's, in chapter 8.
    """
    def agent(transcript: str) -> str:
        messages = [{"role": "system", "content": rules}, {"role": "user", "content": transcript}]
        body = json.dumps({"model": model, "messages": messages, "max_tokens": 60, "temperature": 0}).encode()
        request = urllib.request.Request(url.rstrip("/") + "/chat/completions", body,
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["choices"][0]["message"]["content"].strip("\n")
        except (OSError, http.client.HTTPException) as problem:
            raise ValueError(f"{url} gives no answer ({problem}): start the server, or correct the address") \
                from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(f"{url} answers in another form than the chat API's: ask a server that has it") \
                from None
    return agent
