"""Tools: a name, a sentence that says what it does, what it takes as a small JSON schema, and a function.

Whoever calls is not trusted, be it a model or another program: arguments are checked against the schema
before the function sees them, and whatever the function raises comes back as text that the caller can act on.

    python 08_inference/mcp_server.py      serves these tools to any client of the Model Context Protocol
"""
import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from facts import MODULES, Fact, facts_of

LONGEST_RESULT = 10_000      # characters
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict,
         "array": list}


@dataclass(frozen=True)
class Tool:
    """What a caller must know of a tool, and the function, which gets the arguments by name."""
    name: str
    description: str
    parameters: dict             # a JSON schema of type object
    function: Callable[..., str]


def by_name(tools: list[Tool]) -> dict[str, Tool]:
    """Tools under their names. ValueError for two of one name: the second would be called for the first."""
    named = {tool.name: tool for tool in tools}
    if len(named) < len(tools):
        raise ValueError("two tools have the same name: rename one")
    return named


def misfit(schema: dict, value: Any, what: str = "arguments") -> str | None:
    """What is wrong with a value, in a sentence, or None: type, enum, properties, required, items.

    What else a schema says, also a list of types, is left to the tool.
    """
    kind = schema.get("type")
    if "enum" in schema and value not in schema["enum"]:
        return f"{what} must be one of {', '.join(map(str, schema['enum']))}"
    if isinstance(kind, str) and kind in TYPES:
        if not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind == "boolean"):
            return f"{what} must be of type {kind}"                               # True is an int to Python
    if kind == "array" and "items" in schema:
        return next(filter(None, (misfit(schema["items"], v, f"an item of {what}") for v in value)), None)
    if kind != "object":
        return None
    known = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            return f"{name} is missing in {what}"
    for name, v in value.items():
        if name not in known:
            return f"{what} know no {str(name)[:40]}: give {', '.join(known) or 'none'}"
        if problem := misfit(known[name], v, name):
            return problem
    return None


def use(tool: Tool, arguments: Any) -> tuple[str, bool]:
    """What the tool says, and whether that is an error; never an exception."""
    try:
        if problem := misfit(tool.parameters, arguments):      # the schema too may be a stranger's
            return problem, True
        result = tool.function(**arguments)
    except Exception as problem:      # a tool may fail in any way, and the one who called can still go on
        return f"{tool.name} failed: {str(problem)[:300] or type(problem).__name__}", True
    if not isinstance(result, str):
        return f"{tool.name} returned no text", True
    if len(result) > LONGEST_RESULT:
        return result[:LONGEST_RESULT] + f" [{len(result) - LONGEST_RESULT} more characters left out]", False
    return result, False


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
             ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod}


def calculate(expression: str) -> str:
    """Whole numbers with + - * // % and brackets: "723*540" gives "390420". ValueError for all else.

    Not `eval`, which would run whatever a stranger wrote; and no powers: 9**9**9 never ends.
    """
    if len(expression) > 200:
        raise ValueError("an expression has at most 200 characters")

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError("only whole numbers, + - * // % and brackets are known here")

    try:
        return str(value(ast.parse(expression.strip(), mode="eval").body))
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{expression[:60]!r} is no expression") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None


class Library:
    """What this Python says about a name of its standard library, asked when it is wanted first."""

    def __init__(self):
        self._facts: dict[str, list[Fact]] = {}

    def look_up(self, name: str, wanted: str) -> str:
        """The module, the kind or the first parameter of a name. ValueError for an unknown name."""
        if not self._facts:
            for module in MODULES:
                for fact in facts_of(module):
                    self._facts.setdefault(fact.name, []).append(fact)
        if name not in self._facts:
            raise ValueError(f"the standard library has no {name[:40]}")
        return ", ".join(dict.fromkeys(getattr(fact, wanted) for fact in self._facts[name]))


@dataclass
class Notes:
    """What was written down, by name; it stays when turns are forgotten."""
    kept: dict[str, str] = field(default_factory=dict)
    most: int = 100

    def remember(self, name: str, value: str) -> str:
        """Write down, or write over."""
        if len(self.kept) >= self.most and name not in self.kept:
            raise ValueError(f"there are {self.most} notes already: write over one of them")
        self.kept[name] = value
        return f"{name} is {value}"

    def recall(self, name: str) -> str:
        """What was written down under a name."""
        if name not in self.kept:
            raise ValueError(f"there is no note {name[:40]}")
        return self.kept[name]


def schema(**properties: dict) -> dict:
    """A JSON schema of an object that has all of these and nothing else."""
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}


TEXT = {"type": "string"}


def course_tools(notes: Notes | None = None) -> list[Tool]:
    """A calculator, the facts that the model was trained on, and notes."""
    notes = Notes() if notes is None else notes
    return [
        Tool("calculator", "Works out whole numbers with + - * // % and brackets.", schema(expression=TEXT),
             calculate),
        Tool("look_up", "The module, kind or first parameter of a name of Python's standard library.",
             schema(name=TEXT, wanted={"type": "string", "enum": ["module", "kind", "parameter"]}),
             Library().look_up),
        Tool("remember", "Writes a value down under a name.", schema(name=TEXT, value=TEXT), notes.remember),
        Tool("recall", "What was written down under a name.", schema(name=TEXT), notes.recall)]
