"""Tools for any program that speaks the Model Context Protocol: messages come on stdin, answers go to stdout.

Adds to mcp_messages.py the methods. A tool that fails is no error of the protocol: its result says so
(`isError`), because the model that called it may correct itself; a tool that does not exist is one.

Nothing but messages may stand on stdout. A tool that prints would break the line for both sides, so while
serving, what is printed goes to stderr, and what asks for input finds an empty file.

    python 08_inference/mcp_server.py      the course's tools
    echo '{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}' | python 08_inference/mcp_server.py
"""
import contextlib
import os
import sys
from collections.abc import Callable
from typing import BinaryIO

from mcp_messages import (
    INVALID_REQUEST,
    LONGEST,
    PARSE_ERROR,
    agreed_version,
    error,
    from_line,
    respond,
    to_line,
)

try:
    from tool_box import Tool, by_name, course_tools, use
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None


def server_methods(tools: list[Tool]) -> dict[str, Callable[[dict], dict]]:
    """What a server of these tools answers to. ValueError for two tools of one name."""
    named = by_name(tools)

    def initialize(params: dict) -> dict:
        return {"protocolVersion": agreed_version(params.get("protocolVersion")),
                "capabilities": {"tools": {}}, "serverInfo": {"name": "five-pillars", "version": "1"}}

    def list_tools(params: dict) -> dict:
        return {"tools": [{"name": t.name, "description": t.description, "inputSchema": t.parameters}
                          for t in tools]}

    def call_tool(params: dict) -> dict:
        name = params.get("name")
        if not isinstance(name, str) or name not in named:
            raise ValueError(f"Unknown tool: {str(name)[:80]}")
        arguments = params.get("arguments")
        text, failed = use(named[name], {} if arguments is None else arguments)
        return {"content": [{"type": "text", "text": text}], "isError": failed}

    return {"initialize": initialize, "ping": lambda params: {}, "tools/list": list_tools,
            "tools/call": call_tool}


def serve(tools: list[Tool], source: BinaryIO, target: BinaryIO) -> None:
    """Answer the messages of `source`, a line each, on `target` until it ends or nobody reads."""
    methods = server_methods(tools)
    try:
        while line := source.readline(LONGEST + 1):
            if len(line) > LONGEST:
                while line and not line.endswith(b"\n"):       # its rest, without keeping it
                    line = source.readline(LONGEST)
                answer = error(None, INVALID_REQUEST, f"a message has at most {LONGEST} bytes")
            elif not line.strip():
                continue
            else:
                try:
                    answer = respond(from_line(line), methods)
                except ValueError as problem:
                    answer = error(None, PARSE_ERROR, f"not a line of JSON: {str(problem)[:80]}")
            if answer is not None:
                target.write(to_line(answer))
                target.flush()
    except BrokenPipeError:
        pass                                                   # the client has gone


def take_stdio() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout for the messages alone: prints go to stderr, also those of code that is not Python."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    sys.stdout.flush()
    os.dup2(2, 1)
    return source, target


def main() -> None:
    """Serve the course's tools until stdin ends."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        return print(__doc__)
    try:
        source, target = take_stdio()
    except (OSError, AttributeError):        # a closed stream has no number, or is None
        raise SystemExit("error: stdin and stdout carry the messages, and one is closed: start this from a "
                         "client, or in a terminal") from None
    with contextlib.suppress(KeyboardInterrupt):
        serve(course_tools(), source, target)


if __name__ == "__main__":
    main()       # not run_main, which imports torch: a server should be there at once
