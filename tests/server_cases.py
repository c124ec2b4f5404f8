"""A server with a tiny model in a thread of the test, and a client that can also misbehave."""
import asyncio
import contextlib
import http.client
import json
import random
import re
import socket
import threading
import time
from pathlib import Path

from engine_cases import TOKENIZER, lively_model
from sampling import Sampling, pick_rows
from server import Server, Settings

EOS, USER, BOT = (TOKENIZER.special[name] for name in ("<|eos|>", "<|user|>", "<|bot|>"))


def needs_no_blank() -> None:
    """RuntimeError in a learner's tree with a blank: a server answers by nearly all that is written here, and
    what runs into a blank in another thread can only be waited for.
    """
    for file in sorted(Path(__file__).resolve().parents[1].glob("0[1-8]_*/*.py")):
        if blank := re.search(r'raise NotImplementedError\("(exercise [\d.]+: [\w ,-]*)',
                              file.read_text(encoding="utf-8")):
            raise RuntimeError(blank[1])


class Running:
    """A server on a free port; `stop()` is what SIGTERM does."""

    def __init__(self, **settings):
        needs_no_blank()
        self.server = Server(lively_model(), TOKENIZER, "tiny", Settings(port=0, **settings))
        self.loop, ready = asyncio.new_event_loop(), threading.Event()

        async def main():
            started = self.loop.create_future()
            started.add_done_callback(lambda _: ready.set())
            await self.server.run(started)

        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(main()))
        self.thread.start()
        ready.wait(30)
        self.port = self.server.port

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.server.stop.set)
            self.thread.join(60)
        assert not self.thread.is_alive()

    def ask(self, path: str, body=None, method: str = "",
            headers: dict | None = None, wait: float = 60) -> tuple[int, dict, dict]:
        """(status, body as JSON or text, headers)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=wait)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method or ("POST" if data is not None else "GET"), path, data, headers)
        answer = connection.getresponse()
        text, found = answer.read(), dict(answer.getheaders())
        connection.close()
        return answer.status, json.loads(text) if "json" in found["Content-Type"] else text.decode(), found

    def events(self, path: str, body: dict, wait: float = 60) -> list:
        """The events of a stream, JSON but for the last."""
        status, text, _ = self.ask(path, {**body, "stream": True}, wait=wait)
        assert status == 200
        *events, end = [e.removeprefix("data: ") for e in text.split("\n\n")[:-1]]
        assert end == "[DONE]"
        return [json.loads(e) for e in events]

    def raw(self, data: bytes, wait: float = 10) -> bytes:
        """What comes back to these bytes until the server closes or nothing comes for a while."""
        with socket.create_connection(("127.0.0.1", self.port),
                                      timeout=wait) as s, contextlib.suppress(OSError):
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            parts = []
            while part := s.recv(65536):
                parts.append(part)
            return b"".join(parts)
        return b""

    def settle(self, seconds: float = 20) -> None:
        """Wait until nothing is left to do; fails if a block or a place in the queue was lost."""
        end = time.monotonic() + seconds
        pool = lambda: self.server.thread.engine.scheduler.pool     # noqa: E731
        while time.monotonic() < end and (pool().n_free < len(pool().refs) or self.server.pending):
            time.sleep(0.02)
        assert pool().n_free == len(pool().refs), f"{len(pool().refs) - pool().n_free} blocks leaked"
        assert self.server.pending == 0 and not self.server.thread.engine.busy
        assert self.server.thread.restarts == 0


def alone(model, prompt: list[int], n_new: int, how: Sampling, seed: int) -> list[int]:
    """The tokens of a prompt by the plain model, one after the other."""
    import torch
    ids, dice = list(prompt), random.Random(seed)
    for _ in range(n_new):
        token = pick_rows(model(torch.tensor([ids]))[:, -1], [how], [dice], [set(ids)]).item()
        if token == EOS:
            break
        ids.append(token)
    return ids[len(prompt):]
