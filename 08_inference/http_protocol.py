"""HTTP/1.1 as far as an API needs it, on asyncio: requests with limits, answers in JSON, events as they come.

Nothing that a client sends is trusted: line and header sizes, the number of headers, the size of the body and
the time for each are limited, and whatever is not understood is answered with a status of its own and never
guessed (RFC 9112; server-sent events: WHATWG HTML, section 9.2).

    make serve                             server.py answers with this
"""
import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
           408: "Request Timeout", 413: "Content Too Large", 415: "Unsupported Media Type",
           429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
           501: "Not Implemented", 503: "Service Unavailable", 504: "Gateway Timeout"}
KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
MAX_LINE, MAX_HEADERS = 8192, 64
WRITE_SECONDS = 20.0     # a reader that takes nothing for so long is given up


class HttpError(Exception):
    """An answer other than 200; `message` is one sentence for the client."""

    def __init__(self, status: int, message: str, param: str | None = None, retry_after: int | None = None,
                 allow: str = ""):
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.retry_after, self.allow = retry_after, allow

    def body(self) -> dict:
        """The error in the API's form."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": None}}


@dataclass
class HttpRequest:
    """Method, path without its query, headers by lower-case name, body."""
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def keeps_open(self) -> bool:
        """May the next request come over the same connection?"""
        return "close" not in self.headers.get("connection", "").lower()

    def json(self) -> dict:
        """The body as a JSON object, or an HttpError that says what is wrong with it."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":   # nor none: a page of another site can send that without being asked
            said = kind[:60] or "without a Content-Type"
            raise HttpError(415, f"the body is {said}: send application/json")
        try:
            value = json.loads(self.body, parse_constant=no_number)
        except (ValueError, RecursionError) as error:      # UnicodeDecodeError is a ValueError
            raise HttpError(400, f"the body is not JSON ({str(error)[:80]})") from None
        if not isinstance(value, dict):
            raise HttpError(400, "the body must be a JSON object")
        return value


def no_number(word: str) -> float:
    """NaN and Infinity, which Python's JSON has and JSON has not."""
    raise ValueError(f"{word} is no JSON")


async def open_port(connection: Callable, host: str, port: int) -> asyncio.Server:
    """Listen, and call `connection` with the reader and writer of each; ValueError where that cannot be."""
    try:
        return await asyncio.start_server(connection, host, port, backlog=1024, limit=MAX_LINE)
    except OSError as problem:
        raise ValueError(f"{host} port {port} cannot be had ({problem.strerror or problem}): choose another "
                         "--port or --host") from None


async def read_line(reader: asyncio.StreamReader) -> bytes:
    """One line without its end; HttpError if it is too long or the connection ends inside it."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise HttpError(431, f"a line of the request is longer than {MAX_LINE} bytes") from None
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise HttpError(400, "the request ends in the middle of a line") from None
        raise EOFError from None
    return line.rstrip(b"\r\n")


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                       max_body: int) -> HttpRequest:
    """The next request of a connection. Raises EOFError when there is none, HttpError for a malformed one."""
    line = await read_line(reader) or await read_line(reader)     # some send an empty line behind a body
    parts = line.decode("latin-1").split(" ")
    if len(parts) == 3 and parts[1].startswith(("http://", "https://")):    # as one asks a proxy
        parts[1] = "/" + parts[1].split("/", 3)[3] if parts[1].count("/") > 2 else "/"
    versions = ("HTTP/1.1", "HTTP/1.0")
    if len(parts) != 3 or not parts[0].isalpha() or parts[1][:1] != "/" or parts[2] not in versions:
        raise HttpError(400, "the first line of a request is like: POST /v1/completions HTTP/1.1")
    request = HttpRequest(parts[0].upper(), parts[1].partition("?")[0], {})
    if parts[2] == "HTTP/1.0":
        request.headers["connection"] = "close"
    for _ in range(MAX_HEADERS + 1):
        try:
            header = (await read_line(reader)).decode("latin-1")
        except EOFError:
            raise HttpError(400, "the request ends in the middle of its headers") from None
        if not header:
            break
        name, colon, value = header.partition(":")
        if not colon or not name or name != name.strip() or any(c in name for c in " \t\0"):
            raise HttpError(400, "a header is like: Content-Type: application/json")
        name = name.lower()
        if name in request.headers and name in ("content-length", "authorization", "host"):
            raise HttpError(400, f"the header {name} is there twice")
        request.headers[name] = value.strip()
    else:
        raise HttpError(431, f"more than {MAX_HEADERS} headers")
    if "transfer-encoding" in request.headers:
        raise HttpError(501, "send the body with Content-Length: chunks are not read here")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise HttpError(400, "Content-Length is a number of bytes")
    if len(length) > 12 or int(length) > max_body:
        raise HttpError(413, f"the body is larger than {max_body} bytes")
    if request.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        request.body = await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        raise HttpError(400, "the body is shorter than its Content-Length") from None
    return request


async def flush(writer: asyncio.StreamWriter) -> None:
    """Wait until the client has taken most of what was written; ConnectionError if it takes too long."""
    try:
        await asyncio.wait_for(writer.drain(), WRITE_SECONDS)
    except asyncio.TimeoutError:
        writer.transport.abort()
        raise ConnectionError("the client does not read") from None


def head(status: int, headers: dict[str, str]) -> bytes:
    """The status line and headers of an answer."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def send(writer: asyncio.StreamWriter, status: int, body: bytes, kind: str, keep: bool,
               more: dict[str, str] | None = None) -> None:
    """A whole answer."""
    writer.write(head(status, {"Content-Type": kind, "Content-Length": str(len(body)),
                               "Connection": "keep-alive" if keep else "close", **(more or {})}) + body)
    await flush(writer)


async def send_json(writer: asyncio.StreamWriter, value: dict, keep: bool = True, status: int = 200) -> None:
    """A whole answer in JSON."""
    await send(writer, status, json.dumps(value).encode(), "application/json", keep)


async def send_error(writer: asyncio.StreamWriter, error: HttpError, keep: bool, bare: bool = False) -> None:
    """An error in the API's form, with the headers that belong to its status; `bare`: and no body (HEAD)."""
    more = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status == 401:
        more["WWW-Authenticate"] = "Bearer"
    if error.allow:
        more["Allow"] = error.allow
    body = b"" if bare else json.dumps(error.body()).encode()
    await send(writer, error.status, body, "application/json", keep, more)


def begin_events(writer: asyncio.StreamWriter) -> None:
    """The head of an answer that comes piece by piece and ends with the connection."""
    writer.write(head(200, {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache",
                            "Connection": "close"}))


def event(data: dict | str) -> bytes:
    """One server-sent event: `data: ` before each line, an empty line behind the last.

    JSON has no line breaks; a text may have three kinds, \\r\\n, \\n and \\r, and none may end the event
    early.
    """
    # EXERCISE 8.15 an event of a stream
    text = data if isinstance(data, str) else json.dumps(data)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
    # END EXERCISE 8.15
