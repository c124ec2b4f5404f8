"""Chapter 6: what a hostile program can't do, with all walls up and with the kernel's walls alone."""
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import values
from sandbox import Failed, Limits, Sandbox, judge

PROMPT = 'def add(a, b):\n    """The sum of two numbers."""\n'
TEST = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-5, 2) == -3\n"
TIGHT = Limits(cpu_seconds=1, wall_seconds=6, memory_mb=256, file_bytes=1 << 16, reply_bytes=1 << 16)
TRICKS = {
    "endless loop": "    while True: pass",
    "sleep": "    import time; time.sleep(99)",
    "fork bomb": "    import os\n    while True: os.fork()",
    "endless output": "    while True: print('x' * 1000)",
    "endless answer": "    return 'x' * 10**7",
    "memory": "    return [0] * 10**10",
    "deep answer": "    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "deep recursion": "    return add(a, b)",
    "leaves with success": "    import sys; sys.exit(0)",
    "leaves at once": "    import os; os._exit(0)",
    "prints success": "    print('passed'); print('{\"value\": 3}')",
    "equals everything": "    class Yes:\n        def __eq__(self, other): return True\n    return Yes()",
    "a number that equals everything":
        "    class Yes(int):\n        def __eq__(self, other): return True\n    return Yes(4)",
    "patches the builtins":
        "    import builtins; builtins.AssertionError = ValueError; builtins.all = lambda x: True; return 0",
    "patches the encoder": "    import sys\n    for m in list(sys.modules.values()):\n"
                           "        if hasattr(m, 'encode'): m.encode = lambda v: [1]\n    return 0",
    "writes to every descriptor": "    import os\n    for fd in range(20):\n"
                                  "        try: os.write(fd, b'{\"value\": true}\\n{\"passed\": true}\\n')\n"
                                  "        except OSError: pass",
    "kills the parent": "    import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    "raises KeyboardInterrupt": "    raise KeyboardInterrupt",
}


@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_changes_the_verdict(name):
    verdict = judge(PROMPT, TRICKS[name] + "\n", TEST, "add", TIGHT)
    assert not verdict.passed and verdict.reason


def test_an_honest_program_passes_and_a_wrong_one_fails_with_a_reason():
    assert judge(PROMPT, "    return a + b\n", TEST, "add").passed
    assert judge(PROMPT, "    return a - b\n", TEST, "add").reason.startswith("wrong answer")
    assert "SyntaxError" in judge(PROMPT, "    return a +\n", TEST, "add").reason
    assert "NameError" in judge(PROMPT, "    return c\n", TEST, "add").reason
    assert judge(PROMPT, "    import math, re, json, collections, dataclasses\n    return a + b\n", TEST,
                 "add").passed


def attempt(body: str, audit: bool):
    """What `f` with this body gives in the sandbox, or the reason why it gives nothing."""
    try:
        with Sandbox("def f():\n" + "\n".join("    " + line for line in body.splitlines()), TIGHT,
                     audit=audit) as program:
            return program.call("f")
    except Failed as failure:
        return f"refused: {failure}"


def kernel_walls() -> bool:
    with Sandbox("", TIGHT) as program:
        return {"landlock", "seccomp"} <= set(program.walls)


WALLS = [True] + ([False] if sys.platform == "linux" and kernel_walls() else [])


@pytest.mark.parametrize("audit", WALLS, ids=lambda a: "all walls" if a else "kernel walls alone")
class TestTheHostIsSafe:
    def test_files_outside_the_scratch_folder(self, audit, tmp_path):
        secret, victim = tmp_path / "secret", tmp_path / "victim"
        secret.write_text("the test answers")
        victim.write_text("precious")
        for body in (f"return open({str(secret)!r}).read()", f"open({str(victim)!r}, 'w').write('x')",
                     f"import os; os.remove({str(victim)!r})",
                     f"import os; os.rename({str(victim)!r}, 'mine')",
                     f"import os; os.mkdir({str(tmp_path / 'new')!r})",
                     f"import os; os.chmod({str(victim)!r}, 0)",
                     f"import os; os.symlink({str(secret)!r}, 'link'); return open('link').read()",
                     f"import os; return os.listdir({str(tmp_path)!r})",
                     f"import shutil; shutil.rmtree({str(tmp_path)!r})", "return open('/etc/passwd').read()"):
            got = attempt(body, audit)
            assert str(got).startswith("refused"), (body, got)
        assert victim.read_text() == "precious"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["secret", "victim"]
        assert victim.stat().st_mode & 0o777 != 0

    def test_the_scratch_folder_can_be_used_and_is_gone_afterwards(self, audit):
        where = attempt("import os\nopen('note', 'w').write('hello')\n"
                        "return os.getcwd() + '|' + open('note').read()", audit)
        folder, text = where.split("|")
        assert text == "hello" and not Path(folder).exists()

    def test_the_memory_and_environment_of_the_parent(self, audit, monkeypatch):
        monkeypatch.setenv("SECRET", "hunter2")
        parent = os.getpid()
        for what in ("environ", "mem", "maps", "cmdline", "fd/0"):
            got = attempt(f"return open('/proc/{parent}/{what}', 'rb').read(100)", audit)
            assert str(got).startswith("refused"), what
        assert "hunter2" not in str(attempt("import os; return dict(os.environ)", audit))

    def test_the_network(self, audit):
        got = attempt("import socket; socket.create_connection(('127.0.0.1', 9), 1)", audit)
        assert str(got).startswith("refused")
        assert str(attempt("import socket; socket.socket(socket.AF_UNIX)", audit)).startswith("refused")

    def test_other_processes(self, audit):
        for body in ("import os; return os.fork()",
                     "import subprocess; return subprocess.run(['id']).returncode",
                     "import os; os.execv('/bin/sh', ['sh'])", f"import os; os.kill({os.getpid()}, 9)",
                     "import os; os.setsid()",
                     "import multiprocessing as m; p = m.Process(target=print); p.start()",
                     f"import resource; resource.prlimit({os.getpid()}, resource.RLIMIT_CPU, (1, 1))",
                     "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))"):
            assert str(attempt(body, audit)).startswith("refused"), body

    def test_ctypes_does_not_lead_outside(self, audit, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("precious")
        code = ("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.unlink(%r)\nlibc.kill(%d, 9)\n"
                "fd = libc.open(%r, 0)\n"
                "return (libc.fork(), libc.socket(2, 1, 0), fd, libc.ptrace(16, %d, 0, 0))")
        got = attempt(code % (os.fsencode(victim), os.getpid(), b"/etc/passwd", os.getpid()), audit)
        assert str(got).startswith("refused") if audit else got == (-1, -1, -1, -1)
        assert victim.read_text() == "precious"


def own_network() -> bool:
    if sys.platform != "linux":
        return False
    with Sandbox("", TIGHT, doors=1) as program:
        return bool(program.doors)


SERVER = """
import os, socket, threading
server = socket.socket()
server.bind(('127.0.0.1', 8123))
server.listen()
def work():
    while True:
        client, _ = server.accept()
        client.sendall(b'from inside')
        client.close()
threading.Thread(target=work, daemon=True).start()
def f(body):
    space = {}
    exec("def f():\\n" + "".join("    " + line + "\\n" for line in body.split("\\n")), space)
    return space['f']()
"""


@pytest.mark.skipif(not own_network(),
                    reason="this system makes no network for one process (macOS, containers)")
@pytest.mark.parametrize("audit", WALLS, ids=lambda a: "all walls" if a else "kernel walls alone")
class TestALoopbackInterfaceOfItsOwn:
    def test_it_is_reached_through_doors_and_not_from_here(self, audit):
        with Sandbox(SERVER, TIGHT, audit=audit, doors=2) as program:
            for door in program.doors:
                door.settimeout(3)
                door.connect(("127.0.0.1", 8123))
                assert door.recv(99) == b"from inside"
            with socket.socket() as other, contextlib.suppress(OSError):
                other.settimeout(3)
                other.connect(("127.0.0.1", 8123))         # here another program may listen there
                assert other.recv(99) != b"from inside"
        assert [door.fileno() for door in program.doors] == [-1, -1]

    def test_what_listens_here_is_not_there_and_nothing_else_is(self, audit):
        with socket.socket() as here, Sandbox("", TIGHT, audit=audit, doors=2) as program:
            here.bind(("127.0.0.1", 0))
            here.listen()
            with pytest.raises(ConnectionRefusedError):
                program.doors[0].connect(here.getsockname())
            with pytest.raises(OSError, match="unreachable"):
                program.doors[1].connect(("192.0.2.1", 80))

    def test_no_other_socket_and_no_connection_can_be_made_in_there(self, audit):
        bodies = ["socket.socket(socket.AF_UNIX)", "socket.socket(socket.AF_INET6)", "socket.socketpair()",
                  "socket.socket(type=socket.SOCK_DGRAM)", "socket.socket(socket.AF_INET, 1, 262)",
                  "socket.socket().connect(('127.0.0.1', 8123))",
                  "socket.create_connection(('127.0.0.1', 8123), 1)"]
        if hasattr(socket, "AF_NETLINK"):
            bodies.append("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)")
        with Sandbox(SERVER, TIGHT, audit=audit, doors=1) as program:
            for body in bodies:
                with pytest.raises(Failed, match="PermissionError"):
                    program.call("f", f"import socket; {body}")
            assert program.call("f", "import socket; socket.socket(); return 1") == 1

    def test_the_other_walls_stand(self, audit, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("precious")
        with Sandbox(SERVER, TIGHT, audit=audit, doors=1) as program:
            for body in ("open('/etc/passwd')", f"open({str(victim)!r}, 'w')", "import os; os.fork()",
                         f"import os; os.kill({os.getpid()}, 9)",
                         "import os; os.execv('/bin/sh', ['sh'])"):
                with pytest.raises(Failed, match="PermissionError|sandbox"):
                    program.call("f", body)
        assert victim.read_text() == "precious"

    def test_the_program_holds_no_way_to_send_doors_of_its_own(self, audit):
        code = "import os, stat\n\n\ndef f():\n    found = []\n    for fd in range(32):\n        try:\n" \
               "            found += [fd] * stat.S_ISSOCK(os.fstat(fd).st_mode)\n        except OSError:\n" \
               "            pass\n    return found\n"
        with Sandbox(code, TIGHT, audit=audit, doors=1) as program:
            assert program.call("f") == [] and len(program.doors) == 1


def test_without_doors_there_is_no_socket_and_a_forged_wall_opens_none():
    said = b'{"walls": ["own network"], "value": 1}\n'
    forge = f"import os\nfor fd in range(20):\n    try:\n        os.write(fd, {said})\n" \
            "    except OSError:\n        pass\n"
    with Sandbox(forge, TIGHT) as program:
        assert program.doors == []
    if not own_network():
        with Sandbox(forge, TIGHT, doors=1) as program:
            assert program.doors == []


def test_time_out_kills_the_whole_group_and_leaves_nothing():
    box = Sandbox("def f():\n    import threading, time\n"
                  "    threading.Thread(target=time.sleep, args=(60,)).start()\n    time.sleep(60)",
                  Limits(wall_seconds=1.5))
    with pytest.raises(Failed, match="time limit"), box:
        box.call("f")
    assert box.process.returncode == -signal.SIGKILL and not Path(box.scratch).exists()


def test_what_a_program_prints_is_kept():
    with Sandbox("print('hello')\ndef f():\n    return 1", TIGHT) as program:
        assert program.call("f") == 1 and program.printed() == "hello\n"


@pytest.mark.parametrize("value", [None, True, 0, 10**30, 1.5, float("inf"), "é\n", b"\0\xff", 1 + 2j,
                                   [1, (2, [3])], {"a": {1: (2,)}}, {1, 2},
                                   frozenset({(1, 2)}), [], (), {}])
def test_plain_values_cross_the_wall_exactly(value):
    got = values.decode(values.encode(value))
    assert got == value and type(got) is type(value)
    with Sandbox("def same(x): return x") as program:
        assert program.call("same", value) == value


def test_nothing_but_plain_values_crosses():
    class Sly(list):
        pass
    for value in (Sly(), object(), print, [Sly()], {"x": object()}):
        with pytest.raises(TypeError, match="cannot leave"):
            values.encode(value)
    for data in ({"eval": "1"}, {"list": 5}, {"set": [{"list": []}]}, [1], {"a": 1, "b": 2}, {"bytes": 5}):
        with pytest.raises(ValueError):
            values.decode(data)


def test_what_a_dead_program_started_is_killed_too():
    with Sandbox("") as box:
        box.process.kill()
        box.process.wait()
        box.process.stdin.close()
        box.process = subprocess.Popen(["sh", "-c", "sleep 300 & echo $!"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True, start_new_session=True)
        orphan = int(box.process.stdout.readline())
        box.process.wait()
        os.kill(orphan, 0)                                   # it lives although its parent has ended
    for _ in range(100):
        try:
            os.kill(orphan, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{orphan}/stat").exists() and ") Z " in Path(f"/proc/{orphan}/stat").read_text():
            return                                           # dead, and nobody has collected it yet
        time.sleep(0.05)
    os.kill(orphan, signal.SIGKILL)
    pytest.fail("the child outlived the sandbox")
