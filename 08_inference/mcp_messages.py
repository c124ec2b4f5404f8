"""JSON-RPC 2.0 as the Model Context Protocol uses it over two pipes: one JSON object a line.

A *request* has an id and wants a response with the same id, which holds a result or an error; a
*notification* has none and is never answered. The protocol names the methods: a client opens with
`initialize`, says `notifications/initialized`, asks for `tools/list`, and then sends `tools/call` as often as
it likes (Model Context Protocol, revision 2025-11-25: basic/lifecycle, basic/transports, server/tools).

Revision 2026-07-28 drops the handshake: each request carries its version. Clients of it ask for
`server/discover` first and open in the old way when that is an unknown method, as it is here.

    python 08_inference/mcp_server.py      speaks it
"""
import json
from collections.abc import Callable

# Newest first. 2025-03-26 is left out: it alone demands that lists of messages are read.
VERSIONS = ("2025-11-25", "2025-06-18", "2024-11-05")
PARSE_ERROR, INVALID_REQUEST, NO_METHOD = -32700, -32600, -32601
INVALID_PARAMS, INTERNAL_ERROR = -32602, -32603
LONGEST = 1 << 20      # bytes of one message


def request(id: int | str, method: str, params: dict | None = None) -> dict:
    """A message that wants a response."""
    return {"jsonrpc": "2.0", "id": id, "method": method, **({} if params is None else {"params": params})}


def notification(method: str, params: dict | None = None) -> dict:
    """A message that wants none."""
    return {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}


def error(id: int | str | None, code: int, text: str) -> dict:
    """A response that says what was wrong; id is None where the request's could not be read."""
    return {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}


def to_line(message: dict) -> bytes:
    """A message as it travels: JSON in ASCII, which has no line ends, and one line end."""
    return json.dumps(message).encode() + b"\n"


def from_line(line: bytes) -> object:
    """The JSON value of a line. ValueError for anything else, also for NaN, which JSON has not."""
    def refuse(word: str):
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(line.decode(), parse_constant=refuse)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def agreed_version(wanted: object) -> str:
    """The version a server answers with: the client's if it is known, else the server's newest."""
    return wanted if wanted in VERSIONS else VERSIONS[0]


def is_id(value: object) -> bool:
    """May this be the id of a request? A text or a whole number; JSON's true is no number, null no id."""
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def respond(message: object, methods: dict[str, Callable[[dict], dict]]) -> dict | None:
    """The response to one decoded message, or None if it wants none.

    A method takes the params, {} if there are none, and returns the result; it raises ValueError, whose text
    is the client's business, for params that are wrong. The text of any other exception stays here.
    """
    # EXERCISE 8.18 answer one message
    if not isinstance(message, dict):
        return error(None, INVALID_REQUEST, "a message is one JSON object")
    if "method" not in message and ("result" in message or "error" in message):
        return None                                        # a response: nothing was asked here
    id = message["id"] if is_id(message.get("id")) else None
    if message.get("jsonrpc") != "2.0" or ("id" in message and id is None):
        return error(id, INVALID_REQUEST, "jsonrpc is 2.0, and an id a text or whole number")
    name, params = message.get("method"), message.get("params", {})
    if not isinstance(name, str):
        return error(id, INVALID_REQUEST, "method is a text")
    if id is None:
        return None                                        # a notification: not even an error goes back
    if name not in methods:
        return error(id, NO_METHOD, f"there is no method {name[:80]}")
    if not isinstance(params, dict):
        return error(id, INVALID_PARAMS, "params is an object")
    try:
        return {"jsonrpc": "2.0", "id": id, "result": methods[name](params)}
    except ValueError as problem:
        return error(id, INVALID_PARAMS, str(problem))
    except Exception:
        return error(id, INTERNAL_ERROR, "an error inside the server")
    # END EXERCISE 8.18
