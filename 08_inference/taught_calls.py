"""The harness around the one model that was taught to call: chapter 7's form of a call, as messages.

What a call looks like is each model's own affair; whoever serves it translates. Ours ends its turn with
<|tool|> in place of <|eos|>, reads the result as text, and goes on behind <|bot|> (tool_calls.py):

    <|eos|><|user|>723*540<|bot|>calc(723*540)<|tool|>590410<|bot|>590410<|eos|>

So `model_led` of harness_plans.py, which knows calls as the API writes them, leads this model too.

    python 08_inference/harness_study.py   beside the models that were not taught
"""
import json

from arithmetic import problem
from bpe import BOT, EOS
from chat_template import chat_prompt
from harness import Ask, Call, Plan, Said
from harness_plans import PRODUCT, Steps, as_call, model_led
from local_model import LocalModel
from openai_api import tool_call
from sampling import Sampling
from scheduler import Request
from tool_box import TEXT, Tool, schema
from tool_calls import ERROR, TOOL, calculate, parse_call
from turn_memory import Message

CALCULATOR = Tool("calc", "Sums and products of numbers with three digits, ones digit first.",
                  schema(argument=TEXT), calculate)
MALFORMED = Tool("malformed", "Stands for every call that cannot be read; no harness has it.",
                 schema(argument=TEXT), str)


class TaughtModel(LocalModel):
    """A model that ends a turn with <|tool|> when it calls; the call comes back as the API writes it."""

    def say(self, messages: list[Message], pattern: str | None = None, temperature: float = 0.0,
            seed: int = 0) -> Said:
        """The answer to the last message, or a call. A pattern would hide the calls: ValueError.

        Messages of the system are passed over: this model's form has no place for them.
        """
        if pattern is not None:
            raise ValueError("a taught model calls in its own form: leave the pattern out")
        ids, special = [], self.tokenizer.special
        for message in messages:
            text = message["content"]
            if message["role"] == "user":
                ids += chat_prompt(self.tokenizer, text)
            elif message["role"] == "tool":                    # what went wrong is a stranger's text
                ids += [*self.tokenizer.encode(ERROR if text.startswith(ERROR) else text), special[BOT]]
            elif message["role"] == "assistant":
                ids += self.tokenizer.encode(own_form(text))
                ids += [special[TOOL]] * (own_form(text) != text)
        request = Request(ids, self.n_new, Sampling(temperature), seed, special[EOS],
                          watch=lambda request, token: token == special[TOOL])
        self.engine.run([request])
        called = request.tokens[-1:] == [special[TOOL]]
        text = self.tokenizer.decode(request.tokens[:-1] if called else request.tokens)
        if called:
            text = as_call(*self.read(text))
        return Said(text, len(ids), len(request.tokens))

    def read(self, text: str) -> tuple[str, dict]:
        """Tool and arguments of a call; what is none asks for a tool that is not there and reads an error."""
        try:
            call = parse_call(text)
            if call.tool == CALCULATOR.name:
                return call.tool, {"argument": call.argument}
        except ValueError:
            pass
        return MALFORMED.name, {"argument": text}


def own_form(text: str) -> str:
    """A call as the API writes it in this model's form; any other text as it is."""
    call = tool_call(text, [CALCULATOR.name, MALFORMED.name])
    if call is None:
        return text
    argument = json.loads(call["function"]["arguments"])["argument"]
    return argument if call["function"]["name"] == MALFORMED.name else f"{CALCULATOR.name}({argument})"


def taught_to_call(copies: bool = True) -> Plan:
    """The model in the lead; a product goes in, and comes out, ones digit first.

    With `copies` off, what its first call returns is the answer, and the model does not get to say it.
    """
    lead = model_led([CALCULATOR, MALFORMED])

    def first_call(asked: str) -> Steps:
        text = yield Ask(asked)
        call = tool_call(text, [CALCULATOR.name])
        return ((yield Call(CALCULATOR.name, json.loads(call["function"]["arguments"]))) if call
                else text.strip())

    def plan(question: str) -> Steps:
        if not (match := PRODUCT.fullmatch(question)):
            return (yield from lead(question))
        asked = problem((int(match[1]), int(match[2]))).replace("+", "*")
        answer = yield from (lead if copies else first_call)(asked)
        return str(int(answer[::-1])) if answer.isascii() and answer.isdigit() else answer
    return plan
