"""The official `mcp` package's client against our server, and our client against its server.

make peers
"""
import asyncio
import sys
from pathlib import Path

import pytest

from mcp_client import McpClient, McpError
from tool_box import use

pytest.importorskip("mcp", reason="run `make peers`, which installs it")
from mcp import ClientSession, StdioServerParameters  # noqa: E402
from mcp.client.stdio import stdio_client  # noqa: E402

OURS = str(Path(__file__).resolve().parents[2] / "08_inference" / "mcp_server.py")
try:
    from mcp.server.mcpserver import MCPServer  # noqa: F401  its name since version 2
    THEIRS = "from mcp.server.mcpserver import MCPServer as Server"
except ModuleNotFoundError:
    THEIRS = "from mcp.server.fastmcp import FastMCP as Server"
THEIRS += """
server = Server("theirs")
@server.tool()
def add(a: int, b: int) -> str:
    "Adds two numbers."
    return str(a + b)
@server.tool()
def fail(why: str) -> str:
    "Fails."
    raise ValueError(why)
server.run()
"""


def field(thing, *names):
    """The first of these fields that a result has: version 2 of the package writes them another way."""
    return next(getattr(thing, name) for name in names if hasattr(thing, name))


def test_the_official_client_lists_and_calls_our_tools():
    async def session():
        ours = StdioServerParameters(command=sys.executable, args=[OURS])
        async with stdio_client(ours) as (read, write):
            async with ClientSession(read, write) as client:
                hello = await client.initialize()
                tools = (await client.list_tools()).tools
                good = await client.call_tool("calculator", {"expression": "723*540"})
                bad = await client.call_tool("calculator", {"expression": "1//0"})
                wrong = await client.call_tool("look_up", {"name": "glob", "wanted": "colour"})
                await client.send_ping()
                with pytest.raises(Exception, match="Unknown tool"):
                    await client.call_tool("oven", {})
                return hello, tools, good, bad, wrong

    hello, tools, good, bad, wrong = asyncio.run(asyncio.wait_for(session(), 60))
    assert field(hello, "protocol_version", "protocolVersion") in ("2025-11-25", "2025-06-18")
    assert [t.name for t in tools] == ["calculator", "look_up", "remember", "recall"]
    assert field(tools[0], "input_schema", "inputSchema")["required"] == ["expression"]
    assert good.content[0].text == "390420" and not field(good, "is_error", "isError")
    assert field(bad, "is_error", "isError") and "division by zero" in bad.content[0].text
    assert field(wrong, "is_error", "isError") and "one of module, kind, parameter" in wrong.content[0].text


def test_our_client_lists_and_calls_the_tools_of_the_official_server(tmp_path):
    file = tmp_path / "theirs.py"
    file.write_text(THEIRS)
    with McpClient([sys.executable, str(file)], seconds=60) as client:
        tools = {t.name: t for t in client.tools()}
        assert set(tools) == {"add", "fail"} and tools["add"].description == "Adds two numbers."
        assert use(tools["add"], {"a": 361, "b": 324}) == ("685", False)
        assert use(tools["add"], {"a": 361}) == ("b is missing in arguments", True), "before theirs"
        text, failed = client.call("fail", {"why": "out of paper"})
        assert failed and "fail" in text
        try:
            text, failed = client.call("oven", {})    # an error of the protocol, or a result: both are in use
            assert failed and "oven" in text
        except McpError as error:
            assert "oven" in str(error)
    assert client.process.returncode is not None


def test_a_client_of_both_eras_falls_back_to_the_handshake():
    """Revision 2026-07-28 has none: its clients ask for server/discover and take the refusal as a sign."""
    client = pytest.importorskip("mcp.client.client", reason="this version of mcp knows the handshake alone")

    async def session():
        ours = StdioServerParameters(command=sys.executable, args=[OURS])
        async with client.Client(ours) as both:
            return await both.call_tool("calculator", {"expression": "6*7"})

    assert asyncio.run(asyncio.wait_for(session(), 60)).content[0].text == "42"
