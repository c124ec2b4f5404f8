"""A server that speaks the OpenAI API, on the standard library: an engine in a thread, one event loop.

    make serve                             http://127.0.0.1:8000/v1, the model of chapter 7
    curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{
        "messages": [{"role": "user", "content": "163+423"}]}'

It promises: no answer differs from the one that the request would get alone; whatever is not answered gets an
error; a client that leaves or does not read holds nothing; SIGTERM finishes what was accepted.
"""
import asyncio
import contextlib
import hmac
import os
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

try:
    from workbench import parse_settings, run_main, setting
except ModuleNotFoundError:
    raise SystemExit("error: first run `source .venv/bin/activate`, once `make setup` has run") from None
import http_protocol
from api_answer import Answer
from bpe import EOS, Tokenizer
from checkpoint import load_model
from constrained import Constrainer
from engine import Engine
from engine_thread import Choice, EngineThread
from http_protocol import HttpError, HttpRequest, event, flush, read_request, send, send_error, send_json
from openai_api import Job, Limits, parse_job
from page_api import Page, page_html, stage_models
from scheduler import Request
from server_metrics import Metrics
from streaming import StreamDecoder
from tasks import load_tasks
from transformer import Transformer


@dataclass
class Settings:
    """What can be set on the command line."""
    out: str = "out"                                       # folder that make wrote
    model: str = "grpo"                                    # sft, dpo or grpo of chapter 7, or a model's file
    host: str = "127.0.0.1"                                # 0.0.0.0 lets other machines in: set a key then
    port: int = setting(8000, least=0, most=65535)         # 0 takes a free one and prints it
    api_key: str = ""                # clients must send it; FIVE_PILLARS_API_KEY hides it from ps
    blocks: int = 1024                                     # blocks of 16 tokens in the cache
    running: int = 32                                      # requests that are computed together
    queue: int = 256                                       # texts waited for or written; beyond: 429
    connections: int = 1024                                # open at once; beyond: 503
    body: int = 1 << 20                                    # largest body, in bytes
    seconds: float = 120.0                                 # longest time for one request
    idle: float = 30.0                                     # longest wait for a request, or its rest
    grace: float = 30.0                                    # time to finish after SIGTERM


class Server:
    """Routes, limits and the life of a connection."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, name: str, s: Settings):
        self.s, self.tokenizer, self.name = s, tokenizer, name
        self.key = s.api_key or os.environ.get("FIVE_PILLARS_API_KEY", "")
        self.constrainer, self.limits = Constrainer(tokenizer), Limits(model.config.max_len)
        self.make_engine = lambda: Engine(model, s.blocks, s.running, max(256, s.running))
        self.metrics, self.created = Metrics(), int(time.time())
        self.pending = 0                                   # texts that are waited for
        self.open: dict[asyncio.Task, bool] = {}           # connections, and whether they are answering
        self.closing = False
        self.pages: dict[str, tuple[str, bytes]] = {}      # other things to serve: path to (type, content)
        self.posts: dict[str, Callable[[dict], dict]] = {}     # what the page asks, one at a time
        self.worker, self.asked = ThreadPoolExecutor(1), 0

    async def run(self, started: asyncio.Future | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then finish what was accepted."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        listener = await http_protocol.open_port(self.connection, self.s.host, self.s.port)
        self.thread = EngineThread(self.make_engine, loop)
        for sign in (signal.SIGTERM, signal.SIGINT):
            # not in a thread of a test
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(sign, stop.set)
        self.stop, self.port = stop, listener.sockets[0].getsockname()[1]
        host = f"[{self.s.host}]" if ":" in self.s.host else self.s.host or "127.0.0.1"
        page = f", to look at: http://{host}:{self.port}/" if "/" in self.pages else ""
        print(f"{self.name} at http://{host}:{self.port}/v1{page}   (Ctrl-C ends it)", flush=True)
        if started is not None:
            started.set_result(self.port)
        await stop.wait()
        self.closing = True
        listener.close()
        for task in [t for t, busy in self.open.items() if not busy]:
            task.cancel()
        if self.open:
            await asyncio.wait(list(self.open), timeout=self.s.grace)
        for task in list(self.open):
            task.cancel()
        if self.open:
            await asyncio.wait(list(self.open), timeout=5)
        self.thread.stop()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one connection, one after the other."""
        task = asyncio.current_task()
        assert task
        try:
            self.open[task] = False
            if len(self.open) > self.s.connections:
                await send_error(writer, HttpError(503, "too many connections", retry_after=1), keep=False)
                return
            while not self.closing:
                try:
                    request = await asyncio.wait_for(read_request(reader, writer, self.s.body), self.s.idle)
                except asyncio.TimeoutError:
                    break
                except HttpError as error:
                    self.metrics.answered("unread", error.status)
                    await send_error(writer, error, keep=False)
                    break
                self.open[task] = True
                keep = await self.answer(request, reader, writer)
                self.open[task] = False
                if not keep:
                    break
        except (EOFError, ConnectionError, TimeoutError, asyncio.CancelledError):
            pass                                           # the client has left, or the server ends
        finally:
            del self.open[task]
            writer.close()

    async def answer(self, request: HttpRequest, reader, writer) -> bool:
        """Answer one request; says whether the connection stays open."""
        keep, status = request.keeps_open and not self.closing, 200
        try:
            keep = await self.route(request, reader, writer, keep)
        except HttpError as error:
            status = error.status
            await send_error(writer, error, keep, bare=request.method == "HEAD")
        except (ConnectionError, asyncio.CancelledError):
            self.metrics.answered(request.path, 499)       # as others count a client that has left
            raise
        except Exception:                                  # ours: to the log, the client gets no detail
            traceback.print_exc()
            status, keep = 500, False
            await send_error(writer, HttpError(500, "an error of the server, which its log describes"), keep)
        self.metrics.answered(request.path, status)
        return keep

    async def route(self, request: HttpRequest, reader, writer, keep: bool) -> bool:
        """Find what answers a path."""
        methods = {"/health": "GET", "/metrics": "GET", "/v1/models": "GET", f"/v1/models/{self.name}": "GET",
                   "/v1/completions": "POST", "/v1/chat/completions": "POST",
                   **dict.fromkeys(self.pages, "GET"), **dict.fromkeys(self.posts, "POST")}
        if request.path not in methods:
            raise HttpError(404, f"there is no {request.path[:80]} here")
        if request.method != (allowed := methods[request.path]):
            raise HttpError(405, f"{request.path} answers {allowed}", allow=allowed)
        if request.path == "/health":
            await send_json(writer, {"status": "closing" if self.closing else "ok"}, keep)
        elif request.path in self.pages:
            kind, content = self.pages[request.path]
            await send(writer, 200, content, kind, keep)
        else:
            self.authorize(request)
            if request.path == "/metrics":
                text = self.metrics.text(self.thread, self.pending)
                await send(writer, 200, text.encode(), "text/plain; version=0.0.4; charset=utf-8", keep)
            elif request.path.startswith("/v1/models"):
                model = {"id": self.name, "object": "model", "created": self.created,
                         "owned_by": "five-pillars"}
                one = request.path != "/v1/models"
                await send_json(writer, model if one else {"object": "list", "data": [model]}, keep)
            elif request.path in self.posts:
                await send_json(writer, await self.compute(self.posts[request.path], request.json()), keep)
            else:
                return await self.generate(request, reader, writer, keep)
        return keep

    async def compute(self, function: Callable[[dict], dict], body: dict) -> dict:
        """Call a function of the page in its thread."""
        if self.asked >= 32:
            raise HttpError(429, "the page has asked for too much at once", retry_after=1)
        self.asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.worker, function, body)
        finally:
            self.asked -= 1

    def authorize(self, request: HttpRequest) -> None:
        """HttpError 401 unless the client sent the key, if there is one."""
        kind, _, sent = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(sent.strip().encode("latin-1"), self.key.encode())
        if self.key and not (same and kind.lower() == "bearer"):
            raise HttpError(401, "send the server's key as: Authorization: Bearer KEY")

    async def generate(self, request: HttpRequest, reader, writer, keep: bool) -> bool:
        """A completion or a chat completion, whole or as a stream."""
        body, chat = request.json(), request.path == "/v1/chat/completions"
        if body.get("model") not in (None, "", self.name):
            raise HttpError(404, f"the model here is {self.name}", "model")
        peer = (writer.get_extra_info("peername") or ["?"])[0]
        job = parse_job(body, chat, self.tokenizer, self.constrainer, self.limits, peer)
        if self.closing:
            raise HttpError(503, "the server is closing", retry_after=5)
        if self.pending + len(job.prompts) * job.n > self.s.queue:
            raise HttpError(429, f"{self.pending} texts are waited for already", retry_after=1)
        heard: asyncio.Queue = asyncio.Queue()
        choices = self.choices(job, heard)
        self.pending += len(choices)
        try:
            return await self.listen(job, choices, heard, reader, writer, keep)
        finally:
            self.pending -= len(choices)
            self.thread.cancel(choices)                    # those that have ended are left alone
            self.metrics.written(choices)

    def choices(self, job: Job, heard: asyncio.Queue) -> list[Choice]:
        """Submit the job: the choices of one prompt are siblings, each with a seed of its own."""
        eos, choices = self.tokenizer.special[EOS], []
        for prompt in job.prompts:
            family = []
            for i in range(job.n):
                request = Request(prompt, job.n_new, job.sampling, job.seed + i, eos, job.automaton,
                                  job.n_top, job.owner)
                family.append(Choice(request, StreamDecoder(self.tokenizer), job.stops,
                                     self.thread.listener(heard, len(choices) + i)))
            self.thread.submit(family)
            choices += family
        return choices

    async def listen(self, job: Job, choices: list[Choice], heard: asyncio.Queue, reader, writer,
                     keep: bool) -> bool:
        """Pass on what the engine says until every choice has ended."""
        answer, requests = Answer(job, self.name, self.tokenizer), [c.request for c in choices]
        deadline, left = time.monotonic() + self.s.seconds, len(choices)
        if job.stream:
            http_protocol.begin_events(writer)
        while left:
            try:
                index, what, *values = await asyncio.wait_for(heard.get(), 0.5)
            except asyncio.TimeoutError:
                index = None
            if reader.at_eof() or writer.transport.is_closing():
                raise ConnectionError("the client has left")
            late = time.monotonic() > deadline
            error = HttpError(504, f"not done after {self.s.seconds:g} s") if late else None
            if index is not None and what == "end" and values[0] not in ("stop", "length"):
                error = HttpError(500, "an error of the server, which its log describes")
            if error is not None:
                if not job.stream:
                    raise error
                writer.write(event(error.body()))
                await flush(writer)
                return False
            if index is None:
                continue
            if what == "end":
                left -= 1
                answer.reasons[index] = values[0]
                chunk = answer.last_chunk(index, values[0]) if job.stream else None
            elif job.stream:
                chunk = answer.chunk(index, values[0], requests[index], values[1])
            else:
                answer.texts[index] += values[0]
                chunk = None
            if chunk is not None:
                writer.write(event(chunk))
                await flush(writer)
        if not job.stream:
            await send_json(writer, answer.whole(requests), keep)
            return keep
        if job.usage:
            writer.write(event(answer.usage_chunk(requests)))
        writer.write(event("[DONE]"))
        await flush(writer)
        return False


def main() -> None:
    """Load the model and serve it."""
    s = parse_settings(Settings, __doc__)
    out = Path(s.out)
    named = out / "07_alignment" / f"{s.model}.pt"
    model = load_model(named if named.exists() else s.model).requires_grad_(False)
    text = out / "01_tokenizer"
    tokenizer, tasks = Tokenizer.load(text / "tokenizer.json"), text / "tasks.json"
    name = Path(s.model).stem
    server = Server(model, tokenizer, name, s)
    questions = [q.text for q in load_tasks(tasks).held_out_questions[:3]] if tasks.exists() else []
    page = Page({**stage_models(out), name: model}, tokenizer, name, questions)
    server.pages["/"], server.posts = ("text/html; charset=utf-8", page_html()), page.posts()
    asyncio.run(server.run())


if __name__ == "__main__":
    run_main(main)
