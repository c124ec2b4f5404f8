"""The model asks a program: a call is text of the model's own turn, ended by a token that no user can type.

Adds to chat_template.py a second way to end a turn. One that ends with <|eos|> is an answer; one that ends
with <|tool|> is a call, whose result follows, and <|bot|> gives the word back (the idea: Schick et al. 2023,
Toolformer, section 2):

    <|eos|><|user|>723*540<|bot|>calc(723*540)<|tool|>517410<|bot|>517410<|eos|>

The tokenizer has four special tokens. <|tool|> is its <|pad|>, which until now stood only behind the end of a
row. What the user typed, and what a tool returned, is encoded as text: whatever it spells, it is no token of
the template.

    python 07_alignment/tool_study.py      teaches it, and measures what becomes of it
"""
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from arithmetic import reverse_digits
from bpe import BOT, EOS, PAD, Tokenizer
from chat_template import chat_prompt
from rollout import sample
from transformer import Transformer

TOOL = PAD
TURN_TOKENS = 34      # enough for the longest call and the longest answer
LONGEST = 64          # printable characters of an argument, and of a result that the model gets to read
ERROR = "error"       # all that the model reads of what went wrong: an error's text is a stranger's too

Tool = Callable[[str], str]


@dataclass(frozen=True)
class Call:
    """Which tool is asked, and what."""
    tool: str
    argument: str


def parse_call(text: str) -> Call:
    """"calc(723*540)" gives Call("calc", "723*540"); ValueError with the reason for everything else.

    The name is of small letters a to z; the argument is all between the first "(" and the ")" at the very
    end, 1 to LONGEST printable characters, in which brackets are balanced and never closed before they are
    opened.
    """
    # EXERCISE 7.21 read a tool call
    name, bracket, rest = text.partition("(")
    if not bracket or not rest.endswith(")"):
        raise ValueError("not of the form name(argument)")
    if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyz"):
        raise ValueError("the name is not of small letters")
    argument, depth = rest[:-1], 0
    if not 1 <= len(argument) <= LONGEST or not argument.isprintable():
        raise ValueError(f"the argument is not 1 to {LONGEST} printable characters")
    for c in argument:
        depth += (c == "(") - (c == ")")
        if depth < 0:
            raise ValueError("a bracket is closed before it is opened")
    if depth:
        raise ValueError("a bracket is not closed")
    return Call(name, argument)
    # END EXERCISE 7.21


def calculate(argument: str) -> str:
    """Sums and products of three-digit numbers as this course writes them, ones digit first.

    "723*540" gives "517410", for 327 * 45 = 14715: 6 digits for a product, 4 for a sum. No `eval`: the
    argument is a stranger's text.
    """
    sign = "*" if "*" in argument else "+"
    left, _, right = argument.partition(sign)
    if not all(len(n) == 3 and n.isascii() and n.isdigit() for n in (left, right)):
        raise ValueError(f"{argument!r} is not two numbers of three digits with + or * between")
    a, b = int(left[::-1]), int(right[::-1])
    return reverse_digits(a * b, 6) if sign == "*" else reverse_digits(a + b, 4)


def look_up(table: dict[str, str]) -> Tool:
    """A tool that finds an entry of `table`, or raises KeyError."""
    def find(argument: str) -> str:
        return table[argument]
    return find


def run_tool(tools: dict[str, Tool], text: str, seconds: float = 1.0) -> tuple[str, str]:
    """What the model reads, and for the log what went wrong ("" if nothing did).

    A tool that does not answer in time is left behind in its thread, which ends with this process. Whatever
    can take the machine with it, such as a program that a model wrote, belongs in chapter 6's sandbox.
    """
    try:
        call = parse_call(text)
    except ValueError as problem:
        return ERROR, f"malformed: {problem}"
    if call.tool not in tools:
        return ERROR, f"unknown tool: {call.tool}"
    answers: queue.Queue = queue.Queue()

    def work() -> None:
        try:
            answers.put((tools[call.tool](call.argument), ""))
        except BaseException as failure:   # also SystemExit: nothing that a tool does ends the conversation
            answers.put((ERROR, f"{type(failure).__name__}: {failure}"))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, problem = answers.get(timeout=seconds)
    except queue.Empty:
        return ERROR, f"no answer in {seconds:g} s"
    if not isinstance(result, str) or not 1 <= len(result) <= LONGEST or not result.isprintable():
        return ERROR, f"the result is not text of 1 to {LONGEST} printable characters"
    return result, problem


@dataclass
class Conversation:
    """One question: the calls that the model made with what it read and what went wrong, and its answer."""
    ids: list[int]
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    answer: str | None = None      # None: it never came to an end


def converse(model: Transformer, tokenizer: Tokenizer, questions: list[str], tools: dict[str, Tool],
             most_calls: int = 3, seconds: float = 1.0, begun: list[str] | None = None) -> list[Conversation]:
    """Let the model answer greedily; where its turn ends as a call, run the tool and let it go on.

    `begun` are calls that are written for it, one a question. After `most_calls` calls a conversation ends
    without an answer: a model must not be able to ask for ever. So does one that has outgrown the model.
    """
    end, tool, bot = (tokenizer.special[t] for t in (EOS, TOOL, BOT))
    conversations = [Conversation(chat_prompt(tokenizer, q)) for q in questions]
    live = conversations
    for round_ in range(most_calls + 1):
        if round_ == 0 and begun is not None:
            turns = [[*tokenizer.encode(call), tool] for call in begun]
        else:
            live = [c for c in live if len(c.ids) + TURN_TOKENS <= model.config.max_len]
            turns = [t for [t] in sample(model, [c.ids for c in live], TURN_TOKENS, (end, tool))]
        told = []                # those that have a result to go on from
        for c, turn in zip(live, turns):
            c.ids = c.ids + turn
            said = tokenizer.decode(turn[:-1])
            if turn[-1] == end:
                c.answer = said
            elif turn[-1] == tool and len(c.calls) < most_calls:
                result, problem = run_tool(tools, said, seconds)
                c.calls.append((said, result, problem))
                c.ids = [*c.ids, *tokenizer.encode(result), bot]
                told.append(c)
        live = told
        if not live:
            break
    return conversations
