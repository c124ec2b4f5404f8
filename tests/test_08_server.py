"""The server: right answers, every limit with its status, nothing left behind by clients that misbehave."""
import asyncio
import json
import socket
import threading
import time

import pytest

from engine_cases import TOKENIZER, lively_model
from http_protocol import event
from sampling import Sampling
from server import Server, Settings
from server_cases import BOT, EOS, USER, Running, alone


@pytest.fixture(scope="module")
def running():
    server = Running(blocks=64, queue=20, body=20_000, idle=2.0)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(running):
    yield
    running.settle()


def test_a_completion_is_what_the_model_writes_alone(running, model):
    for seed, temperature in ((1, 0), (2, 1.3)):
        status, answer, _ = running.ask("/v1/completions", {"prompt": "abc", "max_tokens": 9, "seed": seed,
                                                            "n": 2,
                                                            "temperature": temperature})
        how = Sampling(temperature=temperature)
        wanted = [alone(model, [EOS, *b"abc"], 9, how, seed + i) for i in range(2)]
        assert status == 200 and [c["text"]
                                  for c in answer["choices"]] == [TOKENIZER.decode(w) for w in wanted]
        assert [c["finish_reason"] for c in answer["choices"]] == ["length" if len(w) == 9 else "stop"
                                                                   for w in wanted]
        usage = answer["usage"]
        assert usage["prompt_tokens"] == 4 and usage["completion_tokens"] == sum(map(len, wanted))


def test_a_chat_is_put_into_the_models_own_form(running, model):
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": [{"type": "text", "text": "c"}]}]
    ids = [EOS, USER, *b"be kind\na", BOT, *b"b", EOS, USER, *b"c", BOT]
    _, answer, _ = running.ask("/v1/chat/completions", {"messages": messages, "temperature": 0,
                                                        "max_tokens": 7})
    assert answer["choices"][0]["message"]["content"] == TOKENIZER.decode(alone(model, ids, 7, Sampling(), 0))
    assert answer["usage"]["prompt_tokens"] == len(ids)
    for content in (None, ""):            # beside a call one client sends null and another nothing
        said = {"role": "assistant", "content": content, "tool_calls": [{"function": {"name": "f"}}]}
        _, answer, _ = running.ask("/v1/chat/completions", {"messages": [said, *USER_SAYS], "max_tokens": 1})
        call = [EOS, USER, BOT, *b'[{"name": "f"}]']
        assert answer["usage"]["prompt_tokens"] == len([*call, EOS, USER, *b"q", BOT])


def test_a_stream_adds_up_to_the_whole(running):
    body = {"prompt": ["xy", [1, 2, 3]], "max_tokens": 12, "seed": 3, "n": 2, "logprobs": 2}
    _, whole, _ = running.ask("/v1/completions", body)
    chunks = running.events("/v1/completions", {**body, "stream_options": {"include_usage": True}})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for i, choice in enumerate(whole["choices"]):
        mine = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == i]
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        for key in ("tokens", "token_logprobs", "text_offset"):
            assert sum((c["logprobs"][key] for c in mine if c["logprobs"]), []) == choice["logprobs"][key]
    chat = running.events("/v1/chat/completions", {"messages": [{"role": "user", "content": "q"}],
                                                   "max_tokens": 5})
    assert [c["choices"][0]["delta"].get("role") for c in chat] == ["assistant"] + [None] * (len(chat) - 1)


def test_a_stop_string_ends_the_text_before_it(running):
    body = {"prompt": "abc", "max_tokens": 20, "temperature": 0}
    text = running.ask("/v1/completions", body)[1]["choices"][0]["text"]
    stop = text[4:7]
    _, answer, _ = running.ask("/v1/completions", {**body, "stop": [stop, "never there"]})
    choice = answer["choices"][0]
    assert choice["text"] == text[:text.index(stop)] and choice["finish_reason"] == "stop"


def test_json_is_json_and_a_tool_is_called(running):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}}
    user = [{"role": "user", "content": "q"}]
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    _, answer, _ = running.ask("/v1/chat/completions", {"messages": user, "response_format": form, "seed": 1})
    value = json.loads(answer["choices"][0]["message"]["content"])
    assert isinstance(value["a"], int) and value["b"] in "xy"
    tools = [{"type": "function", "function": {"name": n, "parameters": schema}} for n in ("f", "g")]
    for choice, allowed in (("required", "fg"), ({"type": "function", "function": {"name": "g"}}, "g")):
        body = {"messages": user, "tools": tools, "tool_choice": choice, "seed": 1}
        _, answer, _ = running.ask("/v1/chat/completions", body)
        call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
        assert call["name"] in allowed and set(json.loads(call["arguments"])) == {"a", "b"}
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        last = running.events("/v1/chat/completions", body)[-1]["choices"][0]
        assert last["delta"]["tool_calls"][0]["function"] == call and last["finish_reason"] == "tool_calls"


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER_SAYS = [{"role": "user", "content": "q"}]


@pytest.mark.parametrize("path, body, status, says", [
    (TEXT, b"{", 400, "not JSON"), (TEXT, b"[1]", 400, "JSON object"), (TEXT, b"\xff", 400, "not JSON"),
    (TEXT, b"[" * 9000, 400, "not JSON"), (TEXT, {}, 400, "prompt"), (TEXT, {"prompt": []}, 400, "prompt"),
    (TEXT, {"prompt": [1, True]}, 400, "prompt"), (TEXT, {"prompt": [9999]}, 400, "prompt"),
    (TEXT, {"prompt": "\ud800"}, 400, "surrogate"), (TEXT, {"prompt": "a" * 200}, 400, "at most 112"),
    (TEXT, {"prompt": "a", "max_tokens": 0}, 400, "max_tokens"), (TEXT, {"prompt": "a", "n": 9}, 400,
                                                                  "n must"),
    (TEXT, {"prompt": ["a"] * 5, "n": 2}, 400, "more than 8"), (TEXT, {"prompt": "a", "n": True}, 400,
                                                                "n must"),
    (TEXT, {"prompt": "a", "temperature": "hot"}, 400, "temperature"),
    (TEXT, {"prompt": "a", "top_p": 0}, 400, "top_p"),
    (TEXT, {"prompt": "a", "temperature": -1}, 400, "temperature"), (TEXT, {"prompt": "a", "stop": [""]}, 400,
                                                                     "stop"),
    (TEXT, {"prompt": "a", "stop": ["x"] * 5}, 400, "stop"), (TEXT, {"prompt": "a", "seed": 1.5}, 400,
                                                              "seed"),
    (TEXT, {"prompt": "a", "logit_bias": {"1": 5}}, 400, "logit_bias"),
    (TEXT, {"prompt": "a", "logprobs": 99}, 400, "logprobs"),
    (TEXT, {"prompt": "a", "stream": "yes"}, 400, "stream"), (TEXT, {"prompt": "a", "model": "gpt-9"}, 404,
                                                              "tiny"),
    (CHAT, {"messages": []}, 400, "messages"), (CHAT, {"messages": [{"role": "king", "content": "a"}]}, 400,
                                                "role"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, 400, "content"),
    (CHAT, {"messages": [{"role": "assistant", "content": "a"}]}, 400, "last message"),
    (CHAT, {"messages": USER_SAYS, "top_logprobs": 2}, 400, "top_logprobs"),
    (CHAT, {"messages": USER_SAYS, "response_format": {"type": "xml"}}, 400, "response_format"),
    (CHAT, {"messages": USER_SAYS, "response_format": {"type": "json_schema",
                                                       "json_schema": {"schema": {"$ref": "#"}}}},
     400, "choose one of"),
    (CHAT, {"messages": USER_SAYS, "tools": [{"type": "function"}]}, 400, "tool"),
    (CHAT, {"messages": USER_SAYS, "tool_choice": "required"}, 400, "no tools"),
    (CHAT, {"messages": USER_SAYS, "tools": [{"function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": ["f"]}}}, 400, "tool_choice"),
    (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": 5}, *USER_SAYS]}, 400,
     "content"),
    (TEXT, b'{"prompt": "a", "user": NaN}', 400, "NaN is no JSON"),
    (CHAT, {"messages": USER_SAYS, "tool_choice": "f"}, 400, "tool_choice"),
    (TEXT, {"prompt": "a" * 30_000}, 413, "20000"), ("/v1/other", {}, 404, "/v1/other"),
    ("/health", {}, 405, "GET")],
    ids=lambda v: str(v)[:40])
def test_what_cannot_be_served_is_refused_in_the_apis_form(running, path, body, status, says):
    got, answer, _ = running.ask(path, body)
    assert got == status and set(answer) == {"error"} and says in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_a_body_without_a_content_type_is_refused_because_any_page_may_send_one(running):
    status, answer, _ = running.ask("/v1/completions", {"prompt": "a"}, headers={"Content-Type": ""})
    assert status == 415 and "application/json" in answer["error"]["message"]


@pytest.mark.parametrize("data, status", [
    (b"nonsense\r\n\r\n", 400), (b"GET /health\r\n\r\n", 400), (b"GET health HTTP/1.1\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nno colon\r\n\r\n", 400), (b"GET /health HTTP/1.1\r\n: x\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 431),
    (b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 99, 431),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\nContent-Length: 9\r\n\r\n", 400),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort", 400),
    (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413)],
    ids=lambda v: str(v)[:50])
def test_malformed_requests_get_a_status_and_an_end(running, data, status):
    assert running.raw(data).startswith(f"HTTP/1.1 {status} ".encode())


def test_one_connection_carries_many_requests(running):
    three = (b"GET /health HTTP/1.1\r\n\r\n", b"GET /nothing HTTP/1.1\r\n\r\n",
             b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert running.raw(b"".join(three)).count(b"HTTP/1.1 200") == 2


def test_what_other_clients_send_is_understood(running):
    """RFC 9112: an empty line before a request (2.2), the form that proxies get (3.2.2); RFC 9110: HEAD has
    no body (9.3.2), 405 says what is allowed (15.5.6)."""
    end = b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
    for data in (b"\r\n" + end, end.replace(b"/health", b"http://a/health"),
                 end.replace(b"/health", b"http://a:80/health?x=y")):
        assert running.raw(data).startswith(b"HTTP/1.1 200")
    for path, status in ((b"/health", 405), (b"/nothing", 404)):
        said = running.raw(b"HEAD " + path + b" HTTP/1.1\r\n\r\n" + end)
        first, _, rest = said.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 %d" % status) and rest.startswith(b"HTTP/1.1 200"), said
    assert running.ask("/health", {})[2]["Allow"] == "GET"


def test_a_port_that_cannot_be_had_is_one_sentence(running, model):
    for host, port in (("127.0.0.1", running.port), ("203.0.113.5", 0)):
        taken = Server(model, TOKENIZER, "tiny", Settings(host=host, port=port))
        with pytest.raises(ValueError, match=f"{host} port {port} cannot be had .* choose another"):
            asyncio.run(taken.run())


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_the_address_that_is_printed_is_one_to_click(model, capsys):
    async def serve():
        server = Server(model, TOKENIZER, "tiny", Settings(host="::1", port=0))
        started = asyncio.get_running_loop().create_future()
        started.add_done_callback(lambda _: server.stop.set())
        await server.run(started)
        return server.port
    try:
        port = asyncio.run(serve())
    except ValueError:
        pytest.skip("this machine has no IPv6")
    assert f"http://[::1]:{port}/v1" in capsys.readouterr().out


def test_a_client_that_says_nothing_is_let_go(running):
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\n")
        assert s.recv(100) == b""


def test_a_client_that_leaves_takes_its_blocks_with_it(running):
    body = json.dumps({"prompt": "abc", "max_tokens": 100, "n": 8, "stream": True}).encode()
    for _ in range(5):
        s = socket.create_connection(("127.0.0.1", running.port), timeout=20)
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        s.recv(300)
        s.close()
    running.settle()


def test_a_full_queue_says_when_to_come_back(running):
    statuses, body = [], {"prompt": "abc", "max_tokens": 60, "n": 8}
    def ask():
        status, answer, headers = running.ask("/v1/completions", body)
        statuses.append((status, headers.get("Retry-After")))
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(statuses) == {(200, None), (429, "1")}


def test_metrics_are_in_the_form_that_prometheus_reads(running):
    status, text, headers = running.ask("/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
              if line[0] != "#"}
    assert values["five_pillars_blocks"] == 64 and values["five_pillars_tokens_generated_total"] > 50
    name = "five_pillars_text_seconds"
    assert values[name + '_bucket{le="+Inf"}'] == values[name + "_count"] > 10


def test_a_key_is_asked_for_where_there_is_one():
    server = Running(blocks=64, api_key="secret")
    try:
        for sent, status in ((None, 401), ("Bearer wrong", 401), ("secret", 401), ("Bearer secret", 200),
                             ("bearer  secret", 200), ("Basic secret", 401)):
            got, _, headers = server.ask("/v1/models", headers={"Authorization": sent} if sent else {})
            assert got == status and (status == 200 or headers["WWW-Authenticate"] == "Bearer")
        assert server.ask("/health")[0] == 200
    finally:
        server.stop()


def test_what_was_accepted_is_finished_after_sigterm():
    server, done = Running(blocks=64), []
    body = {"prompt": "abc", "max_tokens": 100, "n": 4}
    threads = [threading.Thread(target=lambda: done.append(server.ask(TEXT, body))) for _ in range(4)]
    for t in threads:
        t.start()
    while server.server.pending < 16:
        time.sleep(0.005)
    server.stop()
    for t in threads:
        t.join()
    assert [status for status, _, _ in done] == [200] * 4
    with pytest.raises(OSError):
        server.ask("/health")


def test_an_error_inside_the_engine_reaches_the_client_and_the_next_request_is_served(capsys):
    server = Running(blocks=64)
    try:
        server.server.thread.engine.step = lambda: 1 / 0
        status, answer, _ = server.ask(TEXT, {"prompt": "abc"})
        assert status == 500 and "ZeroDivision" not in str(answer)
        assert "ZeroDivisionError" in capsys.readouterr().err
        assert server.ask(TEXT, {"prompt": "abc"})[0] == 200
    finally:
        server.stop()


@pytest.mark.parametrize("text", ["a", "a\nb", "a\r\nb", "a\rb", "", "\n"])
def test_an_event_ends_once(text):
    got = event(text)
    assert got.endswith(b"\n\n") and got.count(b"\n\n") == 1 and b"\r" not in got
    lines = got.decode()[:-2].split("\n")
    assert "\n".join(line.removeprefix("data: ")
                     for line in lines) == text.replace("\r\n", "\n").replace("\r", "\n")
