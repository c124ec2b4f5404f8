"""A client of the Model Context Protocol: starts a server, shakes hands, lists its tools and calls them.

The server is a stranger's program. It may die, hang, print rubbish, answer what nobody asked, or send lines
without end: each is a McpError of one sentence after a limited time, and `close` leaves no process behind. It
gets a few variables of the environment and no more, so that no key that lies there travels.

    with McpClient([sys.executable, "08_inference/mcp_server.py"]) as server:
        server.call("calculator", {"expression": "723*540"})        ("390420", False)
"""
import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from typing import Any

from mcp_messages import LONGEST, NO_METHOD, VERSIONS, error, from_line, is_id, notification, request, to_line
from tool_box import Tool

INHERITED = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "SYSTEMROOT", "TERM", "TMPDIR", "USER")
MOST_TOOLS = 1000
PATIENCE = 2.0          # seconds to end by itself, and once more after SIGTERM


class McpError(RuntimeError):
    """The server broke the protocol, refused, or did not answer; one sentence."""


class McpClient:
    """A server in a process of its own. Use it with `with`, or call `close`."""

    def __init__(self, command: list[str], seconds: float = 10.0, env: dict[str, str] | None = None):
        self.seconds, self._id, self._given_up = seconds, 0, set()
        self._lines: queue.Queue = queue.Queue(maxsize=16)  # then the server has to wait
        self._closed = False
        self._out: queue.SimpleQueue = queue.SimpleQueue()
        self._said = b""                                    # the end of what it wrote to stderr
        kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
        try:
            self.process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                 bufsize=0, stderr=subprocess.PIPE,
                                                 env={**kept, **(env or {})}, start_new_session=True)
        except OSError as problem:
            raise McpError(f"{command[0]} does not start: {problem.strerror}") from None
        # Threads, because a pipe may block in both directions, whatever the other side does.
        self._threads = [threading.Thread(target=work, daemon=True)
                         for work in (self._read, self._write, self._listen)]
        for thread in self._threads:
            thread.start()
        try:
            hello = self.request("initialize", {"protocolVersion": VERSIONS[0], "capabilities": {},
                                                "clientInfo": {"name": "five-pillars", "version": "1"}})
            self.version = hello.get("protocolVersion")
            if self.version not in VERSIONS:
                raise McpError(f"the server speaks version {str(self.version)[:40]}, this client "
                               f"{', '.join(VERSIONS)}")
            self._send(notification("notifications/initialized"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "McpClient":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def tools(self) -> list[Tool]:
        """What the server offers, ready for a harness; asks for page after page."""
        found, cursor = [], None
        while True:
            page = self.request("tools/list", {} if cursor is None else {"cursor": cursor})
            listed = page.get("tools")
            for tool in listed if isinstance(listed, list) else [None]:
                if not (isinstance(tool, dict) and isinstance(tool.get("name"), str)
                        and isinstance(tool.get("inputSchema"), dict)):
                    raise McpError("the server lists a tool without a name or a schema")
                found.append(Tool(tool["name"], str(tool.get("description") or ""), tool["inputSchema"],
                                  self._caller(tool["name"])))
            cursor = page.get("nextCursor")
            if cursor is None:
                return found
            if len(found) > MOST_TOOLS or not page["tools"]:
                raise McpError(f"the server lists more than {MOST_TOOLS} tools, or pages without any")

    def call(self, name: str, arguments: dict) -> tuple[str, bool]:
        """The text of a tool's result, and whether the tool failed."""
        result = self.request("tools/call", {"name": name, "arguments": arguments})
        content = result.get("content")
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise McpError(f"the result of {name} has no content")
        texts = [str(p.get("text", "")) if p.get("type") == "text" else f"[{p.get('type')}]" for p in content]
        return "\n".join(texts), result.get("isError") is True

    def _caller(self, name: str):
        def run(**arguments) -> str:
            text, failed = self.call(name, arguments)
            if failed:
                raise ValueError(text)
            return text
        return run

    def request(self, method: str, params: dict) -> dict:
        """Send a request and wait for its result. McpError if there is none."""
        self._id += 1
        self._send(request(self._id, method, params))
        end = time.monotonic() + self.seconds
        while True:
            left = end - time.monotonic()
            try:
                line = self._lines.get(timeout=left) if left > 0 else None
            except queue.Empty:
                line = None
            if line is None:
                self._given_up.add(self._id)               # should it come after all, it is passed over
                if method != "initialize":                 # which may not be cancelled
                    self._send(notification("notifications/cancelled", {"requestId": self._id}))
                raise McpError(f"no answer to {method} in {self.seconds:g} s")
            if isinstance(line, McpError):
                self._lines.put(line)                      # so it is for everything that is asked later
                raise line
            if not line:
                self._lines.put(line)
                raise McpError(f"the server ended before it answered {method}{self._last_words()}")
            answer = self._understand(line, method)
            if answer is not None:
                return answer

    def _understand(self, line: bytes, method: str) -> dict | None:
        """The result in a line; None for what is not the answer and may come all the same."""
        try:
            message = from_line(line)
        except ValueError:
            message = None
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            raise McpError(f"the server wrote a line that is no message: {line[:60]!r}")
        id = message.get("id")
        if "method" in message:                            # the server asks or tells us something
            if "id" in message:
                known = message["method"] == "ping"
                self._send({"jsonrpc": "2.0", "id": id, "result": {}} if known
                           else error(id, NO_METHOD, "this client answers ping alone"))
            return None
        if is_id(id) and id in self._given_up:
            return None
        refused = message.get("error")
        if isinstance(refused, dict) and id in (self._id, None):
            raise McpError(f"the server refused {method}: {str(refused.get('message'))[:200]} "
                           f"({refused.get('code')})")
        if id != self._id:
            raise McpError(f"the server answered request {str(id)[:40]}, which was not asked")
        if not isinstance(message.get("result"), dict):
            raise McpError(f"the answer to {method} has no result")
        return message["result"]

    def _send(self, message: dict) -> None:
        self._out.put(to_line(message))

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):     # it has ended, or was closed: reading tells
            while line := self._out.get():
                view = memoryview(line)
                while view:
                    view = view[self.process.stdin.write(view):]
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def _read(self) -> None:
        rest = b""
        with contextlib.suppress(OSError, ValueError):
            while part := os.read(self.process.stdout.fileno(), 65536):
                *lines, rest = (rest + part).split(b"\n")
                if max(map(len, (*lines, rest))) > LONGEST:
                    return self._lines.put(McpError(f"the server wrote a line of more than {LONGEST} bytes"))
                for line in lines:
                    if line.strip() and not self._closed:
                        self._lines.put(line)
        self._lines.put(b"")

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while part := os.read(self.process.stderr.fileno(), 65536):
                self._said = (self._said + part)[-2000:]

    def _last_words(self) -> str:
        """How it ended, for the error: the status, and the last line on stderr."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return ", which closed its stdout"
        self._threads[-1].join(PATIENCE)                   # until all of its stderr is read
        lines = self._said.decode(errors="replace").strip().splitlines()
        return f" (status {status})" + (f": {lines[-1][:200]}" if lines else "")

    def close(self) -> None:
        """End the server: its stdin closes, after a while SIGTERM, then SIGKILL; its children too."""
        if self._closed:
            return
        self._closed = True
        self._out.put(b"")
        for sign in (None, signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            if sign is not None:
                self._signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
                break
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))     # children that outlived it
        while not self._lines.empty():                               # a reader may wait for room
            with contextlib.suppress(queue.Empty):
                self._lines.get_nowait()
        for thread in self._threads:
            thread.join(1)
        if not any(thread.is_alive() for thread in self._threads):
            self.process.stdout.close()
            self.process.stderr.close()

    def _signal(self, sign: int) -> None:
        with contextlib.suppress(OSError):                 # nobody is left in the group
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, sign)
            elif self.process.poll() is None:
                self.process.send_signal(sign)
