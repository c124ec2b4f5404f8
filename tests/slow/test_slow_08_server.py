"""The server under load: 500 clients at once, slow readers, clients that leave, 10,000 hostile requests, SIGTERM.

    .venv/bin/python -m pytest tests/slow
"""
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from engine_cases import TOKENIZER, lively_model  # noqa: E402
from server_cases import EOS, Running, alone  # noqa: E402

from checkpoint import save_model  # noqa: E402
from sampling import Sampling  # noqa: E402

TEXT = "/v1/completions"


def memory() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def running():
    server = Running(blocks=64, queue=600, idle=60.0)
    yield server
    server.settle()
    server.stop()


def test_five_hundred_clients_at_once_get_the_right_answers(running):
    model, how = lively_model(), Sampling(temperature=1.0)
    asks = [(f"q{i % 20}", i % 5) for i in range(500)]
    wanted = {a: TOKENIZER.decode(alone(model, [EOS, *a[0].encode()], 12, how, a[1])) for a in set(asks)}
    got, threads, gate = {}, [], threading.Barrier(500)

    def ask(i):
        gate.wait()
        body = {"prompt": asks[i][0], "seed": asks[i][1], "max_tokens": 12}
        if i % 2:
            got[i] = 200, "".join(e["choices"][0]["text"] for e in running.events(TEXT, body))
        else:
            status, answer, _ = running.ask(TEXT, body)
            got[i] = status, answer["choices"][0]["text"] if status == 200 else answer

    for i in range(500):
        threads.append(threading.Thread(target=ask, args=(i,)))
        threads[-1].start()
    for t in threads:
        t.join()
    assert len(got) == 500
    wrong = [i for i in got if got[i] != (200, wanted[asks[i]])]
    assert not wrong, (len(wrong), got[wrong[0]], wanted[asks[wrong[0]]])
    running.settle()


def test_slow_readers_and_clients_that_leave_hold_up_nobody(running):
    body = json.dumps({"prompt": "abc", "max_tokens": 100, "n": 8, "logprobs": 20, "stream": True}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    slow = []
    for _ in range(10):                            # they ask, and read nothing
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect(("127.0.0.1", running.port))
        s.sendall(request)
        slow.append(s)
    before = memory()
    for i in range(150):                           # others leave at any moment
        with socket.create_connection(("127.0.0.1", running.port)) as s:
            s.sendall(request[:random.randrange(1, len(request) + 1)] if i % 2 else request)
            if i % 3:
                s.recv(random.randrange(1, 5000))
        if i % 10 == 0:
            assert running.ask(TEXT, {"prompt": "x", "max_tokens": 3})[0] == 200
    assert memory() - before < 60e6
    running.settle(60)                             # the slow ones are given up after 20 seconds
    for s in slow:
        s.close()


def test_ten_thousand_hostile_requests_each_get_an_answer(running):
    hypothesis = pytest.importorskip("hypothesis", reason="it is in the peers extra")
    st = hypothesis.strategies
    names = ["prompt", "messages", "max_tokens", "n", "stop", "seed", "temperature", "top_p", "logprobs",
             "stream", "tools",
             "tool_choice", "response_format", "stream_options", "user", "model", "top_k", "min_p",
             "logit_bias"]
    scalar = st.one_of(st.none(), st.booleans(), st.integers(-10**20, 10**20), st.floats(),
                       st.text(max_size=8),
                       st.sampled_from(["abc", "user", "json_object", "json_schema", "function", "required",
                                        "tiny"]))
    keys = st.one_of(st.sampled_from(["role", "content", "type", "text", "function", "name", "parameters",
                                      "properties",
                                      "json_schema", "schema", "items", "enum", "include_usage"]),
                     st.text(max_size=4))
    value = st.recursive(scalar, lambda v: st.lists(v, max_size=4) | st.dictionaries(keys, v, max_size=4),
                         max_leaves=8)
    good = {"prompt": st.just("abc"), "messages": st.just([{"role": "user", "content": "a"}]),
            "max_tokens": st.integers(1, 3)}
    bodies = st.dictionaries(st.sampled_from(names), value, max_size=6).flatmap(
        lambda d: st.fixed_dictionaries({k: s for k, s in good.items()}).map(
            lambda g: {**d, **g} if len(d) % 2 else {**g, **d}))
    raw = st.one_of(bodies.map(lambda b: json.dumps(b).encode()), st.binary(max_size=60))
    kept: dict[str, socket.socket] = {}

    @hypothesis.settings(max_examples=10_000, deadline=None, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(st.sampled_from([TEXT, "/v1/chat/completions"]), raw, st.integers(0, 40))
    def attack(path, body, cut):
        head = f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        data = head.encode() + body
        if cut == 0:                               # bytes that are hardly a request
            data = body + b"\r\n\r\n"
        answer = running.raw(data, wait=30)
        # a client that has shut its side may find that the server takes it for gone
        assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:100]
        assert not answer.startswith(b"HTTP/1.1 500"), (body, answer)

    attack()
    assert not kept and running.server.thread.restarts == 0
    status, answer, _ = running.ask(TEXT, {"prompt": "abc", "max_tokens": 5, "temperature": 0})
    assert status == 200 and answer["usage"]["completion_tokens"] == 5
    running.settle()


def test_sigterm_under_load_finishes_what_was_accepted(tmp_path):
    (tmp_path / "01_tokenizer").mkdir()
    TOKENIZER.save(tmp_path / "01_tokenizer" / "tokenizer.json")
    torch.manual_seed(0)
    save_model(tmp_path / "tiny.pt", lively_model().float())
    command = [sys.executable, ROOT / "08_inference" / "server.py", "--out", tmp_path, "--model",
               tmp_path / "tiny.pt", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    port, results, stop = int(server.stdout.readline().split(":")[2].split("/")[0]), [], threading.Event()
    client = Running.__new__(Running)
    client.port = port

    def ask():
        while not stop.is_set():
            try:
                status, _, _ = client.ask(TEXT, {"prompt": "abc", "max_tokens": 60, "n": 2})
            except OSError as error:               # refused: nothing was accepted
                results.append(type(error).__name__)
                return
            results.append(status)
            if status != 200:
                return

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for t in threads:
        t.start()
    time.sleep(3)
    server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) == 0
    stop.set()
    for t in threads:
        t.join()
    lost = [r for r in results if r not in (200, 503, 429, "ConnectionRefusedError", "ConnectionResetError",
                                            "RemoteDisconnected")]
    assert results.count(200) > 30 and not lost, lost
