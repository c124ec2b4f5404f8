"""What a request of the OpenAI API asks for: every field checked, then put into the engine's own words.

A field that is known and not implemented (logit_bias, penalties by count) is refused where it asks for
something: a setting that is silently ignored is a wrong answer. A field that the API does not have is left
alone, as clients send many.

    make serve                             server.py reads requests with this
"""
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bpe import BOT, EOS, USER, Tokenizer
from constrained import Constrainer, TokenAutomaton
from http_protocol import HttpError
from sampling import Sampling
from schema_pattern import any_json, literal, schema_pattern

NOT_HERE = {"logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0, "best_of": 1, "suffix": None,
            "echo": False, "audio": None, "functions": None, "function_call": None}
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass
class Limits:
    """How much one request may ask for."""
    max_len: int
    max_choices: int = 8
    max_stops: int = 4
    max_stop_length: int = 64
    max_top: int = 20


@dataclass
class Job:
    """A request of the API in the engine's words; `n` choices of each prompt."""
    chat: bool
    prompts: list[list[int]]
    n: int
    n_new: int
    sampling: Sampling
    seed: int
    n_top: int | None
    stops: list[str]
    automaton: TokenAutomaton | None
    stream: bool
    usage: bool                      # at the end of a stream
    owner: str
    tool: str | None = None          # the choices are calls of a tool: this one, or "" for the one they name
    tools: list[str] = field(default_factory=list)


def get(body: dict, name: str, default, accepts: Callable[[Any], bool], wanted: str):
    """A field of the body, its default if it is absent or null; HttpError 400 if it is not what is wanted."""
    value = body.get(name)
    if value is None:
        return default
    if not accepts(value):
        raise HttpError(400, f"{name} must be {wanted}", name)
    return value


def is_integer(least: int, most: int) -> Callable[[object], bool]:
    """Tests for a whole number in a range; JSON's true is no number."""
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most


def is_number(v: object) -> bool:
    """Tests for a number."""
    return isinstance(v, (int, float)) and not isinstance(v, bool)


def is_flag(v: object) -> bool:
    """Tests for true or false."""
    return isinstance(v, bool)


def parse_job(body: dict, chat: bool, tokenizer: Tokenizer, constrainer: Constrainer, limits: Limits,
              owner: str) -> Job:
    """Check every field of a completion or a chat completion. Raises HttpError 400 that names the field."""
    for name, nothing in NOT_HERE.items():
        if body.get(name) not in (None, nothing):
            raise HttpError(400, f"{name} is not implemented here: leave it out", name)
    prompts = ([chat_ids(body.get("messages"), tokenizer)] if chat
               else prompt_ids(body.get("prompt"), tokenizer))
    longest = max(map(len, prompts))
    if longest >= limits.max_len:
        raise HttpError(400, f"the prompt has {longest} tokens and the model reads at most {limits.max_len} "
                             "with the answer", "messages" if chat else "prompt")
    room = limits.max_len - longest
    asked = get(body, "max_tokens", None, is_integer(1, 10**9), "a whole number of at least 1")
    asked = get(body, "max_completion_tokens", asked, is_integer(1, 10**9), "a whole number of at least 1")
    n = get(body, "n", 1, is_integer(1, limits.max_choices), f"a whole number from 1 to {limits.max_choices}")
    if n * len(prompts) > limits.max_choices:
        raise HttpError(400, f"{len(prompts)} prompts times n = {n} are more than {limits.max_choices} texts",
                        "n")
    stops = get(body, "stop", [], lambda v: isinstance(v, (str, list)), "a string or a list of strings")
    stops = [stops] if isinstance(stops, str) else stops
    if len(stops) > limits.max_stops or not all(isinstance(s, str) and 0 < len(s) <= limits.max_stop_length
                                                for s in stops):
        raise HttpError(400, f"stop must be at most {limits.max_stops} strings of 1 to "
                             f"{limits.max_stop_length} characters", "stop")
    options = get(body, "stream_options", {}, lambda v: isinstance(v, dict), "an object")
    pattern, tool, tools = asked_form(body)
    return Job(chat, prompts, n, min(asked or (room if chat else 16), room), parse_sampling(body),
               get(body, "seed", secrets.randbits(32), is_integer(-2**63, 2**63 - 1), "a whole number"),
               parse_logprobs(body, chat, limits), stops,
               automaton_of(pattern, constrainer) if pattern else None,
               get(body, "stream", False, is_flag, "true or false"),
               bool(get(options, "include_usage", False, is_flag, "true or false")),
               get(body, "user", owner, lambda v: isinstance(v, str), "a string")[:256], tool, tools)


def automaton_of(pattern: str, constrainer: Constrainer) -> TokenAutomaton:
    """The automaton of a pattern, or an HttpError for one that is too large."""
    try:
        return constrainer.automaton(pattern)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, str(error)[:300], "response_format") from None


def parse_sampling(body: dict) -> Sampling:
    """How tokens are picked; the API's default temperature is 1."""
    numbers = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    chosen = {name: float(get(body, name, default, lambda v: is_number(v) and abs(v) < 1e9, "a number"))
              for name, default in numbers.items()}
    top_k = get(body, "top_k", 0, is_integer(0, 10**9), "a whole number of at least 0")
    try:
        return Sampling(top_k=top_k, **chosen)
    except ValueError as error:
        raise HttpError(400, str(error), str(error).split()[0]) from None


def parse_logprobs(body: dict, chat: bool, limits: Limits) -> int | None:
    """How many alternatives are wanted with each token, None if no log-probabilities are."""
    top = f"a whole number from 0 to {limits.max_top}"
    if not chat:
        return get(body, "logprobs", None, is_integer(0, limits.max_top), top)
    wanted = get(body, "logprobs", False, is_flag, "true or false")
    n = get(body, "top_logprobs", 0, is_integer(0, limits.max_top), top)
    if n and not wanted:
        raise HttpError(400, "top_logprobs needs logprobs to be true", "top_logprobs")
    return n if wanted else None


def prompt_ids(prompt, tokenizer: Tokenizer) -> list[list[int]]:
    """A text, token ids, or a list of either, to lists of ids. Every text follows <|eos|>, as in training."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt or len(prompt) > 64:
        raise HttpError(400, "prompt must be a text, a list of token ids, or a list of 1 to 64 of these",
                        "prompt")
    out = []
    for p in prompt:
        if isinstance(p, str):
            out.append([tokenizer.special[EOS], *encode(tokenizer, p, "prompt")])
        elif isinstance(p, list) and p and all(is_integer(0, tokenizer.vocab_size - 1)(i) for i in p):
            out.append(p)
        else:
            raise HttpError(400, f"a prompt is a text or ids from 0 to {tokenizer.vocab_size - 1}", "prompt")
    return out


def encode(tokenizer: Tokenizer, text: str, name: str) -> list[int]:
    """Ids of a text; HttpError for one that is no text (half of a surrogate pair)."""
    try:
        return tokenizer.encode(text)
    except ValueError:
        raise HttpError(400, f"{name} contains half of a surrogate pair, which is no character",
                        name) from None


def content_text(message: dict) -> str:
    """The text of a message: a string, or parts of type text."""
    content, calls = message.get("content"), message.get("tool_calls")
    if not content and calls and isinstance(calls, list):        # some clients send "" beside their calls
        return json.dumps([c.get("function") for c in calls if isinstance(c, dict)])
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text"
                                         and isinstance(p.get("text"), str) for p in content):
        return "".join(p["text"] for p in content)
    if not isinstance(content, str):
        raise HttpError(400, "the content of a message is a text (images and sound are not read here)",
                        "messages")
    return content


def chat_ids(messages, tokenizer: Tokenizer) -> list[int]:
    """Messages to <|eos|><|user|>question<|bot|>answer<|eos|><|user|>...<|bot|>, the form of chapter 7.

    The model has never seen a system message or a tool's result: these stand before, or as, what the user
    says.
    """
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise HttpError(400, "messages must be a list of at least one message", "messages")
    t, ids, before = tokenizer.special, [], []
    for message in messages:
        role, text = message.get("role"), content_text(message)
        if role not in ROLES:
            raise HttpError(400, f"the role of a message is one of {', '.join(ROLES)}", "messages")
        if role == "assistant":
            ids += [*([] if ids else [t[EOS], t[USER], t[BOT]]), *encode(tokenizer, text, "messages")]
        elif role in ("system", "developer"):
            before.append(text)
        else:
            text = "\n".join([*before, text])
            before = []
            ids += [t[EOS], t[USER], *encode(tokenizer, text, "messages"), t[BOT]]
    if before or messages[-1].get("role") == "assistant":
        raise HttpError(400, "the last message must be of the user or a tool: it is what is answered",
                        "messages")
    return ids


def asked_form(body: dict) -> tuple[str | None, str | None, list[str]]:
    """What the answer must look like: (pattern or None, tool or None, names of all tools).

    A tool that must be called is a JSON object {"name": ..., "arguments": ...} whose arguments fit its
    parameters.
    """
    tools = get(body, "tools", [], lambda v: isinstance(v, list) and len(v) <= 32,
                "a list of at most 32 tools")
    known: dict[str, dict] = {}
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if (not isinstance(function, dict) or not isinstance(function.get("name"), str)
                or not 0 < len(function["name"]) <= 64):
            raise HttpError(400, "a tool is like {type: function, function: {name, parameters}}", "tools")
        known[function["name"]] = function.get("parameters") or {"type": "object", "properties": {}}
    choice = body.get("tool_choice") or ("auto" if known else "none")
    named = (choice.get("function") or {}) if isinstance(choice, dict) else {}
    name = named.get("name") if isinstance(named, dict) else None
    name = name if isinstance(name, str) else None
    if choice not in ("auto", "none", "required") and name not in known:
        raise HttpError(400, "tool_choice is none, auto, required or one of the tools", "tool_choice")
    if choice == "required" and not known:
        raise HttpError(400, "tool_choice is required but there are no tools", "tool_choice")
    try:
        if choice not in ("auto", "none"):
            allowed = {name: known[name]} if name in known else known
            calls = [rf'\{{"name": ?{literal(json.dumps(n))}, ?"arguments": ?{schema_pattern(p)}\}}'
                     for n, p in allowed.items()]
            return "(" + "|".join(calls) + ")", name or "", list(known)
        form = body.get("response_format") or {"type": "text"}
        kind = form.get("type") if isinstance(form, dict) else None
        if kind == "text":
            return None, None, list(known) if choice == "auto" else []
        if kind == "json_object":
            return any_json(), None, []
        if kind == "json_schema":
            wrapped = form.get("json_schema")
            schema: Any = wrapped.get("schema") if isinstance(wrapped, dict) else None
            return schema_pattern(schema), None, []
    except (ValueError, RecursionError) as error:
        raise HttpError(400, str(error)[:300], "tools" if known else "response_format") from None
    raise HttpError(400, "response_format is of type text, json_object or json_schema", "response_format")


def tool_call(text: str, tools: list[str]) -> dict | None:
    """The call of one of these tools that a text is, or None: the text must be nothing else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if (not isinstance(value, dict) or value.get("name") not in tools
            or not isinstance(value.get("arguments"), dict)):
        return None
    return {"id": "call_" + secrets.token_hex(12), "type": "function",
            "function": {"name": value["name"], "arguments": json.dumps(value["arguments"])}}
