"""The Model Context Protocol over two pipes: what the specification says, and sides that misbehave."""
import io
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcp_client import McpClient, McpError
from mcp_messages import LONGEST, VERSIONS, agreed_version, from_line, request, respond, to_line
from mcp_server import serve, server_methods
from tool_box import Notes, Tool, calculate, course_tools, misfit, schema, use

SERVER = [sys.executable, str(Path(__file__).resolve().parent.parent / "08_inference" / "mcp_server.py")]
HELLO = """
import json, os, sys, time
def answer(result=None, **more):
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    ask = json.loads(line)
    if "id" not in ask:
        return answer(result, **more)
    print(json.dumps({"jsonrpc": "2.0", "id": ask["id"], "result": result or {}, **more}), flush=True)
    return ask
answer({"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}})
"""


def server(code: str, seconds: float = 10.0) -> McpClient:
    """A client of a small program that greets and then does what the code says."""
    return McpClient([sys.executable, "-I", "-S", "-c", HELLO + code], seconds)


def answers(*messages) -> list:
    """What our server writes to these lines: messages, or bytes as they are."""
    source = io.BytesIO(b"".join(m if isinstance(m, bytes) else to_line(m) for m in messages))
    target = io.BytesIO()
    serve(course_tools(), source, target)
    return [json.loads(line) for line in target.getvalue().splitlines()]


def test_a_session_as_the_specification_shows_it():
    """Revision 2025-11-25: basic/lifecycle and server/tools."""
    hello, listed, ping, call = answers(
        request(1, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {},
                                  "clientInfo": {"name": "c", "version": "1"}}),
        {"jsonrpc": "2.0", "method": "notifications/initialized"}, request("two", "tools/list"),
        request(3, "ping"),
        request(4, "tools/call", {"name": "calculator", "arguments": {"expression": "6*7"}}))
    assert hello["id"] == 1 and hello["result"]["protocolVersion"] == "2025-11-25"
    assert "tools" in hello["result"]["capabilities"] and hello["result"]["serverInfo"]["name"]
    assert listed["id"] == "two"
    assert [t["name"] for t in listed["result"]["tools"]] == ["calculator", "look_up", "remember", "recall"]
    assert all(t["inputSchema"]["type"] == "object" and t["description"] for t in listed["result"]["tools"])
    assert ping == {"jsonrpc": "2.0", "id": 3, "result": {}}
    assert call["result"] == {"content": [{"type": "text", "text": "42"}], "isError": False}


def test_a_version_is_taken_if_it_is_known_and_else_the_newest_is_offered():
    for version in VERSIONS:
        assert agreed_version(version) == version
    for strange in ("2026-07-28", "1.0.0", None, 7, ["2025-11-25"]):
        assert agreed_version(strange) == VERSIONS[0] == "2025-11-25"
    code = [a.get("error", {}).get("code") for a in answers(request(1, "server/discover"))]
    assert code == [-32601], "a client of the revision without a handshake falls back on this"


def test_an_unknown_tool_is_an_error_of_the_protocol_and_a_failing_one_a_result():
    unknown, failing, wrong, bare = answers(
        request(1, "tools/call", {"name": "oven"}),
        request(2, "tools/call", {"name": "calculator", "arguments": {"expression": "1//0"}}),
        request(3, "tools/call", {"name": "calculator", "arguments": {"number": 3}}),
        request(4, "tools/call", {"name": "calculator"}))
    assert unknown["error"]["code"] == -32602 and "Unknown tool: oven" in unknown["error"]["message"]
    for answer, words in ((failing, "division by zero"), (wrong, "expression is missing"), (bare, "missing")):
        assert answer["result"]["isError"] and words in answer["result"]["content"][0]["text"]


def test_whatever_comes_the_server_answers_in_form_and_goes_on():
    odd = [b"no json\n", b"[" * 100_000 + b"\n", b"\xff\xfe\n", b'{"jsonrpc": "2.0", "id": NaN}\n', b"\n",
           b"x" * (3 * LONGEST) + b"\n"]
    codes = [a["error"]["code"] for a in answers(*odd)]
    assert codes == [-32700, -32700, -32700, -32700, -32600]
    odd = [[], 7, None, "text", {}, {"jsonrpc": "2.0", "id": True, "method": "ping"},
           {"jsonrpc": "2.0", "id": 1, "method": 5}, {"jsonrpc": "1.0", "id": 1, "method": "ping"}]
    assert [a["error"]["code"] for a in answers(*odd)] == [-32600] * len(odd)
    assert answers(request(1, "ping", [1]))[0]["error"]["code"] == -32602
    silent = [{"jsonrpc": "2.0", "method": "nothing/known"}, {"jsonrpc": "2.0", "id": 1, "result": {}},
              {"jsonrpc": "2.0", "id": None, "error": {}}]
    assert answers(*silent, request(9, "ping")) == [{"jsonrpc": "2.0", "id": 9, "result": {}}]
    assert answers(b"x" * LONGEST) [0]["error"]["code"] == -32700, "without a line end too"


def test_a_method_that_breaks_tells_the_client_nothing_of_it():
    def broken(params):
        raise OSError("/secret/path")
    answer = respond(request(1, "x"), {"x": broken})
    assert answer["error"]["code"] == -32603 and "secret" not in json.dumps(answer)


def test_two_tools_of_one_name_are_refused():
    tool = Tool("same", "", schema(), lambda: "")
    with pytest.raises(ValueError, match="same name"):
        server_methods([tool, tool])


def test_our_client_talks_to_our_server_and_leaves_no_process():
    with McpClient(SERVER) as client:
        assert client.version == "2025-11-25"
        tools = {t.name: t for t in client.tools()}
        assert use(tools["calculator"], {"expression": "361*(324-4)"}) == ("115520", False)
        assert use(tools["look_up"], {"name": "FrameSummary", "wanted": "kind"}) == ("class", False)
        tools["remember"].function(name="Ada", value="361")
        assert client.call("recall", {"name": "Ada"}) == ("361", False)
        assert client.call("recall", {"name": "Bob"}) == ("recall failed: there is no note Bob", True)
        with pytest.raises(McpError, match=r"refused tools/call: Unknown tool: oven \(-32602\)"):
            client.call("oven", {})
    assert client.process.returncode == 0, "it ended by itself when its stdin closed"


def test_what_a_tool_prints_does_not_reach_the_line(tmp_path):
    """Neither Python's print nor what a program below it writes; input() finds an end and not a message."""
    code = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from mcp_server import serve, take_stdio
from tool_box import Tool, schema
def noisy():
    print("hello"); os.system("echo hello")
    try:
        input()
    except EOFError:
        return "read nothing"
serve([Tool("noisy", "", schema(), noisy)], *take_stdio())
"""
    file = tmp_path / "noisy.py"
    file.write_text(code)
    with McpClient([sys.executable, str(file)]) as client:
        assert client.call("noisy", {}) == ("read nothing", False)


@pytest.mark.parametrize("code, wanted", [
    ("sys.exit(3)", r"ended before it answered tools/list \(status 3\)"),
    ("print('out of paper', file=sys.stderr); os._exit(1)", r"\(status 1\): out of paper"),
    ("print('Welcome to my server!', flush=True); answer()", "no message: b'Welcome to my server!'"),
    ("print('[1, 2]', flush=True); answer()", "no message"),
    ("answer(id=77)", "answered request 77, which was not asked"),
    ("answer(id=[1])", "which was not asked"),
    ("sys.stdin.readline(); sys.stdout.write('x' * 10_000_000); sys.stdout.flush(); answer()",
     "more than 1048576 bytes"),
    ("answer(result={'tools': 7})", "lists a tool without a name"),
    ("answer(error={'code': 5, 'message': 'no'})", "refused tools/list: no .5."),
    ("answer(result='text')", "has no result"),
    ("answer({'tools': [{'name': 'a'}]})", "without a name or a schema"),
    ("while True: answer({'tools': [], 'nextCursor': 'more'})", "pages without any"),
    ("while True: answer({'tools': [{'name': 'a', 'inputSchema': {}}] * 600, 'nextCursor': '1'})",
     "more than 1000")])
def test_a_server_that_breaks_the_protocol_is_one_clear_sentence(code, wanted, monkeypatch):
    monkeypatch.setattr("mcp_client.PATIENCE", 0.5)
    with server(code) as client, pytest.raises(McpError, match=wanted) as caught:
        client.tools()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert client.process.returncode is not None, "the process is reaped"
    assert not any(thread.is_alive() for thread in client._threads)


@pytest.mark.parametrize("code", [
    "time.sleep(60)",                                                                    # hangs
    # talks without end
    "while True: print('{\"jsonrpc\": \"2.0\", \"method\": \"notifications/message\"}')"])
def test_a_server_that_does_not_answer_is_given_up(code, monkeypatch):
    monkeypatch.setattr("mcp_client.PATIENCE", 0.2)
    with server(code) as client:
        client.seconds = 0.3
        for _ in range(2):
            with pytest.raises(McpError, match="no answer to tools/list in 0.3 s"):
                client.tools()
    assert client.process.returncode is not None


def test_an_answer_that_comes_too_late_is_passed_over():
    code = """
while "id" not in (ask := json.loads(sys.stdin.readline())):
    pass
time.sleep(0.5)
print(json.dumps({"jsonrpc": "2.0", "id": ask["id"], "result": {"tools": []}}), flush=True)
while True:
    answer({'content': []})
"""
    with server(code) as client:
        client.seconds = 0.2
        with pytest.raises(McpError, match="no answer"):
            client.tools()
        client.seconds = 10
        assert client.call("x", {}) == ("", False)


def test_a_server_that_ignores_its_end_is_killed_with_its_children(monkeypatch):
    monkeypatch.setattr("mcp_client.PATIENCE", 0.2)
    code = """
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(60)'])
answer({'content': [{'type': 'text', 'text': str(child.pid)}]})
time.sleep(60)
"""
    with server(code) as client:
        child = int(client.call("x", {})[0])
    assert client.process.returncode == -9
    state = Path(f"/proc/{child}/stat")
    def alive():
        try:
            return state.read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False
    end = time.monotonic() + 5
    while alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive()


def test_a_program_that_is_not_there_or_speaks_another_version_is_a_sentence():
    with pytest.raises(McpError, match="no/such/program does not start: No such file"):
        McpClient(["no/such/program"])
    with pytest.raises(McpError, match="the server speaks version 1999-01-01"):
        McpClient([sys.executable, "-I", "-S", "-c", HELLO.replace("2025-06-18", "1999-01-01")])


def test_a_server_gets_no_key_from_the_environment(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "hidden")
    code = "answer({'content': [{'type': 'text', 'text': str(os.environ.get('SECRET_KEY'))}]})"
    with server(code) as client:
        assert client.call("x", {}) == ("None", False)


def test_the_client_answers_a_ping_and_refuses_other_requests():
    code = """
for id, method in ((1, 'ping'), (2, 'roots/list')):
    print(json.dumps({"jsonrpc": "2.0", "id": id, "method": method}), flush=True)
asked = [json.loads(sys.stdin.readline()) for _ in range(4)]
back = [a for a in asked if 'method' not in a]
result = {"content": [{"type": "text", "text": json.dumps(back)}]}
print(json.dumps({"jsonrpc": "2.0", "id": 2, "result": result}), flush=True)
"""
    with server(code) as client:
        first, second = json.loads(client.call("x", {})[0])
    assert first == {"jsonrpc": "2.0", "id": 1, "result": {}} and second["error"]["code"] == -32601


def test_the_command_serves_until_its_input_ends():
    sent = to_line(request(1, "ping")) + b"rubbish\n"
    done = subprocess.run(SERVER, input=sent, capture_output=True, timeout=60)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr.decode()
    assert lines[0]["result"] == {} and lines[1]["error"]["code"] == -32700


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_stream_is_one_sentence(closed):
    done = subprocess.run(["sh", "-c", f"exec {shlex.join(SERVER)} {closed}"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("error: stdin and stdout carry"), done
    assert done.stderr.count("\n") == 1


def test_arguments_are_checked_against_the_schema():
    form = schema(name={"type": "string"}, n={"type": "integer"}, to={"enum": ["a", "b"]},
                  rows={"type": "array", "items": {"type": "number"}}, sure={"type": "boolean"})
    good = {"name": "x", "n": 3, "to": "a", "rows": [1, 2.5], "sure": True}
    assert misfit(form, good) is None
    for name, value, words in (("name", 3, "type string"), ("n", True, "type integer"), ("n", 3.0, "integer"),
                               ("to", "c", "one of a, b"), ("rows", [1, "2"], "type number"),
                               ("sure", 1, "boolean"), ("rows", {}, "array"), ("more", 1, "know no more")):
        assert words in misfit(form, {**good, name: value})
    assert misfit(form, []) == "arguments must be of type object"
    assert "n is missing" in misfit(form, {"name": "x"})


def test_a_tool_never_raises():
    def fails(how: str) -> str:
        if how == "number":
            return 7
        if how == "long":
            return "x" * 20_000
        raise {"key": KeyError("k"), "none": ValueError(), "deep": RecursionError("deep")}[how]
    tool = Tool("t", "", schema(how={"type": "string"}), fails)
    assert use(tool, {"how": "key"}) == ("t failed: 'k'", True)
    assert use(tool, {"how": "none"}) == ("t failed: ValueError", True)
    assert use(tool, {"how": "deep"})[1] and use(tool, {"how": "number"}) == ("t returned no text", True)
    assert use(tool, {"how": "long"})[0].endswith("[10000 more characters left out]")
    assert use(tool, {})[1] and use(tool, "text")[1]


@pytest.mark.parametrize("odd", [
    {"type": ["string", "null"]}, {"type": {}}, True, 7, {"enum": 7}, {"type": "object", "required": 7},
    {"type": "object", "properties": [1], "required": ["a"]}, {"type": "array", "items": 5}])
def test_a_strangers_schema_breaks_nothing(odd):
    tool = Tool("t", "", {"type": "object", "properties": {"a": odd}}, lambda a: "done")
    for value in ("text", None, [1], {"a": 1}):
        text, failed = use(tool, {"a": value})
        assert isinstance(text, str) and failed == (text != "done")
    assert use(Tool("t", "", odd, lambda: "done"), {"b": 1})[1]
    assert odd != {"type": ["string", "null"]} or use(tool, {"a": None}) == ("done", False)


def test_the_calculator_agrees_with_python_and_runs_nothing():
    for text in ("723*540", "1+2*3", "-(7-19)//5", "17 % 5", "((2))*3 - -4"):
        assert calculate(text) == str(eval(text))
    for text in ("2**9", "__import__('os')", "1.5+1", "1 2", "", "a", "True+1", "(" * 150, "9" * 201, "1//0",
                 "[1]", "1 if 1 else 2", "'a'*9", "\0"):
        with pytest.raises(ValueError):
            calculate(text)


def test_notes_stay_and_have_a_limit():
    notes = Notes(most=2)
    notes.remember("a", "1"), notes.remember("b", "2"), notes.remember("a", "3")
    assert notes.recall("a") == "3"
    with pytest.raises(ValueError, match="2 notes already"):
        notes.remember("c", "4")


def test_a_line_is_utf_8_and_may_hold_any_text():
    for text in ("ä\n\r\u2028\u0085", "\ud800", "\0"):
        line = to_line({"a": text})
        assert line.count(b"\n") == 1 and from_line(line) == {"a": text}
