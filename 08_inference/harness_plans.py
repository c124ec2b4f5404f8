"""Plans for the harness: the model alone, the model in the lead, rules that choose a tool, and small steps.

A model of a million parameters that was trained on single questions emits no call by itself. So either its
words are held to a call (`model_led` with `hold`), or rules written by us decide (`with_tools`), or a task is
cut into pieces that the model was trained on (`in_steps`): it adds three-digit numbers and answers one
question at a time.

    python 08_inference/harness_study.py   what each of them is worth
"""
import json
import re
from collections.abc import Generator

from arithmetic import problem
from harness import Ask, Call, NoAnswer, Plan, ToolFailed
from model_words import as_read, as_trained
from openai_api import asked_form, tool_call
from synthetic import subject
from tool_box import Notes, Tool

Steps = Generator[Ask | Call, str, str]
SUM, PRODUCT = re.compile(r"(\d{1,6})\+(\d{1,6})"), re.compile(r"(\d{1,3})\*(\d)")
NOTE = re.compile(r"The number of (\w+) is (\d{1,3})\.")
NOTED = re.compile(r"What is the number of (\w+) plus (\d{1,3})\?")


def own_words(question: str) -> Steps:
    """The model alone; a sum of three digits in the form in which it learned them."""
    return as_read(question, (yield Ask(as_trained(question)))).strip()


def tool_text(tools: list[Tool]) -> str:
    """A system prompt that says which tools there are and how they are called."""
    listed = (f"{t.name}({', '.join(t.parameters.get('properties', {}))}): {t.description}" for t in tools)
    return ('Answer, or call a tool by writing only {"name": "...", "arguments": {...}}. Tools: '
            + " ".join(listed))


def as_call(name: str, arguments: dict) -> str:
    """A call as a model writes it."""
    return json.dumps({"name": name, "arguments": arguments})


def call_pattern(tools: list[Tool]) -> str:
    """The regular expression of all calls of these tools, as the server makes it for tool_choice required."""
    listed = [{"type": "function", "function": {"name": t.name, "parameters": t.parameters}} for t in tools]
    return asked_form({"tools": listed, "tool_choice": "required"})[0] or ""


def model_led(tools: list[Tool], hold: bool = False, most_calls: int = 3) -> Plan:
    """The model's words decide: a call is carried out and its result, or its error, is the next message.

    With `hold` the first words are held to a call. An answer is whatever is no call.
    """
    names, pattern = [t.name for t in tools], call_pattern(tools) if hold else None

    def plan(question: str) -> Steps:
        text = yield Ask(as_trained(question), pattern)
        for _ in range(most_calls):
            call = tool_call(text, names)
            if call is None:
                break
            wanted = call["function"]
            try:
                result = yield Call(wanted["name"], json.loads(wanted["arguments"]))
            except ToolFailed as failure:
                result = f"error: {failure}"
            text = yield Ask(result, role="tool")
        return as_read(question, text).strip()
    return plan


def add(a: int, b: int, checked: bool) -> Generator[Ask, str, int]:
    """A sum below 2000 by the model; checked by casting out nines, which finds every forgotten carry."""
    asked = problem((a, b))

    def check(text: str) -> str | None:
        digits = text.strip()
        if not re.fullmatch("[0-9]{4}", digits):
            return f"{text[:20]!r} is not four digits"
        wrong = checked and (int(digits[::-1]) - a - b) % 9 != 0
        return f"{digits} differs from the sum by more than nines" if wrong else None

    return int((yield Ask(asked, check=check, alone=True)).strip()[::-1])


def add_long(a: int, b: int, checked: bool) -> Generator[Ask, str, int]:
    """A sum of any length in groups of three digits; the plan carries, the model adds."""
    total, carry, place = 0, 0, 1
    while a or b or carry or place == 1:
        here = yield from add(a % 1000, b % 1000, checked)
        if carry:
            here = here // 1000 * 1000 + (yield from add(here % 1000, 1, checked))
        total, carry = total + here % 1000 * place, here // 1000
        a, b, place = a // 1000, b // 1000, place * 1000
    return total


def in_steps(checked: bool = False) -> Plan:
    """Long sums in groups, products as repeated sums, two questions one after the other; else as it is."""
    def plan(question: str) -> Steps:
        if match := SUM.fullmatch(question):
            return str((yield from add_long(int(match[1]), int(match[2]), checked)))
        if match := PRODUCT.fullmatch(question):
            total = 0
            for _ in range(int(match[2])):
                total = yield from add_long(total, int(match[1]), checked)
            return str(total)
        first, both, second = question.partition("? And ")
        if both:
            return f"{(yield from plan(first + '?'))} {(yield from plan(second))}"
        return (yield from own_words(question))
    return plan


def with_tools(fallback: Plan = own_words) -> Plan:
    """Rules choose the tool; a tool that fails, or no rule that fits, leaves the question to `fallback`."""
    def plan(question: str) -> Steps:
        try:
            if SUM.fullmatch(question) or PRODUCT.fullmatch(question):
                return (yield Call("calculator", {"expression": question}))
            if about := subject(question):
                return (yield Call("look_up", {"name": about[0], "wanted": about[1]}))
        except ToolFailed:
            pass
        first, both, second = question.partition("? And ")
        if both:
            return f"{(yield from plan(first + '?'))} {(yield from plan(second))}"
        return (yield from fallback(question))
    return plan


def tools_behind(inner: Plan) -> Plan:
    """The model first: the calculator is called where its answer fails its check in every try."""
    def plan(question: str) -> Steps:
        try:
            return (yield from inner(question))
        except NoAnswer:
            return (yield Call("calculator", {"expression": question}))
    return plan


def with_notes(notes: Notes, inner: Plan) -> Plan:
    """Numbers that are told are written down, and put into the questions that ask for them."""
    def plan(question: str) -> Steps:
        if match := NOTE.fullmatch(question):
            return notes.remember(match[1], match[2])
        if (match := NOTED.fullmatch(question)) and match[1] in notes.kept:
            question = f"{notes.recall(match[1])}+{match[2]}"
        return (yield from inner(question))
    return plan
