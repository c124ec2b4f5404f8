"""A loop around a model that is not changed: what is asked in which order, tools, retries, memory, a budget.

What to do with a question is a *plan*: a generator that yields what it wants, `Ask` (words for the model) or
`Call` (a tool), gets the text that came of it, and returns the answer. The loop does what every plan needs:
it sends the system prompt and what is remembered along, asks again when an answer is empty or fails its
check, hands over a tool's failure as an exception that the plan may catch, and ends what costs too much. The
model may also lead: `model_led` yields its words as calls, as in ReAct (Yao et al. 2022).

           question                              +----------------+
              v              Ask: words          | the model      |
          +--------+   --------------------->    +----------------+
          |  plan  |   <--- text, checked ---      again, sampled, if it is empty or fails its check
          |        |         Call: tool          +----------------+
          |        |   --------------------->    | a tool, or a   |
          +--------+   <--- result or throw --   | server of them |
              v                                  +----------------+
           answer            the budget counts tokens, calls and seconds of all of it

    python 08_inference/harness_study.py   every part beside the model alone
"""
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol

from tool_box import Tool, by_name, use
from turn_memory import Message, condense


@dataclass(frozen=True)
class Said:
    """What a model answered, and its cost."""
    text: str
    read: int = 0            # tokens
    written: int = 0


class Model(Protocol):
    """Anything that answers messages: local_model.py, or a server by chat_client.py."""
    room: int                # of all messages together, as `size` counts

    def say(self, messages: list[Message], pattern: str | None = None, temperature: float = 0.0,
            seed: int = 0) -> Said:
        """The answer, held to a regular expression if one is given."""
        ...

    def size(self, text: str) -> int:
        """Tokens of a text, or something that is never less."""
        ...


@dataclass(frozen=True)
class Ask:
    """Words for the model; `check` says what is wrong with an answer, or None."""
    text: str
    pattern: str | None = None
    check: Callable[[str], str | None] = lambda text: None
    role: str = "user"
    alone: bool = False      # without earlier turns: a step that needs nothing but its own words


@dataclass(frozen=True)
class Call:
    """A tool to be run."""
    tool: str
    arguments: dict


Plan = Callable[[str], Generator[Ask | Call, str, str]]


class NoAnswer(Exception):
    """The model gave no answer that passes its check, in as many tries as it may have."""


class ToolFailed(Exception):
    """A tool does not exist, or said that it failed."""


class OverBudget(Exception):
    """A question would cost more than it may; no plan gets to catch this."""


@dataclass
class Budget:
    """What one question may cost."""
    tokens: int = 4000       # read and written
    asks: int = 64           # calls of the model
    calls: int = 16          # calls of tools
    seconds: float = 60.0


@dataclass
class Outcome:
    """An answer, why it ended, and what it cost."""
    question: str
    answer: str = ""
    problem: str = ""        # why there is no answer
    tokens: int = 0
    asks: int = 0
    calls: int = 0
    seconds: float = 0.0
    trace: list[str] = field(default_factory=list)


class Harness:
    """A model, its tools and a plan; one conversation, as long as `remember` is set."""

    def __init__(self, model: Model, tools: list[Tool], plan: Plan, system: str = "",
                 budget: Budget | None = None, tries: int = 3, temperature: float = 0.7,
                 remember: bool = False, digest: Callable[[list[Message]], str] | None = None):
        if tries < 1:
            raise ValueError(f"tries is {tries}: give the model at least 1")
        self.model, self.plan, self.tries, self.temperature = model, plan, tries, temperature
        self.tools = by_name(tools)
        self.system = [{"role": "system", "content": system}] if system else []
        self.budget, self.remember, self.digest = budget or Budget(), remember, digest
        self.turns: list[Message] = []

    def run(self, question: str) -> Outcome:
        """Carry out the plan for a question. What goes wrong is told in the outcome and not raised."""
        outcome, begin, scratch = Outcome(question), time.monotonic(), []
        plan = self.plan(question)
        try:
            step = next(plan)
            while True:
                self._afford("calls" if isinstance(step, Call) else "asks", outcome, begin)
                try:
                    if isinstance(step, Ask):
                        got = self._ask(step, scratch, outcome, begin)
                    else:
                        got = self._call(step, outcome)
                except (NoAnswer, ToolFailed) as problem:
                    outcome.trace.append(f"  ! {problem}")
                    step = plan.throw(problem)
                else:
                    step = plan.send(got)
        except StopIteration as end:
            outcome.answer = end.value
        except (NoAnswer, ToolFailed, OverBudget) as problem:
            outcome.problem = str(problem)
        except NotImplementedError:       # what is not written yet is not an answer that failed
            raise
        except Exception as problem:      # a server that is gone, a plan that is wrong: the loop lives on
            outcome.problem = f"{type(problem).__name__}: {problem}"
        finally:
            plan.close()
        if self.remember and not outcome.problem:      # an open question would be answered later
            self.turns += [{"role": "user", "content": question},
                           {"role": "assistant", "content": outcome.answer}]
        outcome.seconds = time.monotonic() - begin
        return outcome

    def _afford(self, kind: str, outcome: Outcome, begin: float) -> None:
        """OverBudget where tokens or seconds are spent, or the steps of this kind, asks or calls."""
        spent = {"tokens": outcome.tokens, kind: getattr(outcome, kind), "seconds": time.monotonic() - begin}
        for name, n in spent.items():
            most = getattr(self.budget, name)
            if n >= most:
                raise OverBudget(f"the budget of {most:g} {name} is spent")

    def _ask(self, ask: Ask, scratch: list[Message], outcome: Outcome, begin: float) -> str:
        """The first answer that is not empty and passes the check: greedy, then sampled."""
        message, earlier = {"role": ask.role, "content": ask.text}, [] if ask.alone else self.turns + scratch
        messages = condense(self.system + earlier + [message], self.model.room, self.model.size, self.digest)
        for attempt in range(self.tries):
            if attempt:
                self._afford("asks", outcome, begin)
            said = self.model.say(messages, ask.pattern, self.temperature if attempt else 0.0, attempt)
            outcome.asks += 1
            outcome.tokens += said.read + said.written
            outcome.trace.append(f"  model  {ask.text.strip()!r} -> {said.text!r}")
            reason = ask.check(said.text) if said.text.strip() else "the answer is empty"
            if reason is None:
                scratch += [message, {"role": "assistant", "content": said.text}]
                return said.text
        raise NoAnswer(f"no good answer in {self.tries} tries: {reason}")

    def _call(self, call: Call, outcome: Outcome) -> str:
        outcome.calls += 1
        if call.tool not in self.tools:
            raise ToolFailed(f"there is no tool {call.tool}")
        text, failed = use(self.tools[call.tool], call.arguments)
        outcome.trace.append(f"  tool   {call.tool} {call.arguments} -> {text!r}")
        if failed:
            raise ToolFailed(text)
        return text
