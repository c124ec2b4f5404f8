"""Hostile answers: whatever one tries against the tests, it scores what it returns, and harms nothing
outside.
"""

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from learn_guard import available, new_user
from learn_run import Bench
from learn_trees import copy_tree
from tiny_course import GOOD, learn, make, put

HAS = available()   # found out by forks, which cost more the more this process has imported
EVIL = f"/dev/shm/evil-{os.getpid()}"   # of this process alone: the tests may run twice at a time
# Replace all that could decide a verdict, in every module of the process: what each of the ways below runs.
PAYLOAD = """import sys, builtins
for module in list(sys.modules.values()):
    for name in ("differs", "same", "agree", "fail", "assert_close", "pytest_runtest_call", "isnan"):
        try: setattr(module, name, lambda *a, **k: None)
        except Exception: pass
builtins.AssertionError = ZeroDivisionError
print("it ran")
"""
WAYS = {
    "exec under another name": "    run = exec\n    run('PAYLOAD')\n",
    "a walrus": "    (run := exec)('PAYLOAD')\n",
    "a nested function": "    def inner(f=exec):\n        return lambda text: f(text)\n"
                         "    inner()('PAYLOAD')\n",
    "timeit": "    import timeit\n    timeit.timeit('PAYLOAD', number=1)\n",
    "cProfile": "    import cProfile\n    cProfile.Profile().run('PAYLOAD')\n",
    "bdb": "    import bdb\n    bdb.Bdb().run('PAYLOAD')\n",
    "pydoc.locate": "    import pydoc\n    pydoc.locate('builtins.exec')('PAYLOAD')\n",
    "string.Formatter": "    import string\n    f = string.Formatter().get_field('0.__globals__', "
                        "[count_pairs], {})[0]\n    f['__builtins__']['exec']('PAYLOAD')\n",
    "new text at module level": "    return {}\nexec('PAYLOAD')\ndef more(ids):\n    return 1\n",
}
LIES = {
    "equals everything": "    class Any(dict):\n        def __eq__(self, other): return True\n"
                         "    return Any()\n",
    "equals everything inside": "    class Any(int):\n        def __eq__(self, other): return True\n"
                                "    return {(1, 2): Any(9)}\n",
    "by type()": "    return type('A', (), {'__eq__': lambda a, b: True})()\n",
    "leaves": "    import os\n    os._exit(0)\n",
    "raises SystemExit": "    raise SystemExit(0)\n",
    "skips": "    import pytest\n    pytest.skip('no need')\n",
    "floods the line": "    import os\n    for fd in range(3, 99):\n"
                       "        try: os.write(fd, b'{\"value\": 1}' * 9999)\n"
                       "        except OSError: pass\n    return {}\n",
    "forges an answer": "    import gc, json, struct\n    from learn_peer import Peer\n"
                        "    end = next(o for o in gc.get_objects() if isinstance(o, Peer))\n"
                        "    text = json.dumps({'value': ['dict', [], None], 'results': [], 'key': 0,\n"
                        "                       'state': {'ids': ['list', [1]]}, 'changed': [], 'printed': "
                        "''}).encode()\n    end.line.sendall(struct.pack('<II', len(text), 0) + text)\n"
                        "    os = __import__('os')\n    os._exit(0)\n",
    "asks the judge for what is not public": "    import gc\n    from learn_peer import Peer\n"
                        "    end = next(o for o in gc.get_objects() if isinstance(o, Peer))\n"
                        "    end.ask('use', [0, '__class__', [], {}])\n    return {}\n",
    "is too deep": "    x = []\n    for _ in range(9999): x = [x]\n    return x\n",
    "is no Python": "    return {\n",
}
GREEDY = {
    "loops": ("    while True: pass\n", "(stopped)"),
    "takes all memory": ("    return bytearray(4 << 30)\n", "MemoryError"),
    "prints without end": ("    while True: print('x' * 1000)\n", "(stopped)"),
    "writes without end": ("    import os\n    while True: os.write(1, b'x' * 99999)\n", "File too large"),
    "forks": ("    import os\n    while True: os.fork()\n", "PermissionError"),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course") / "reference")


@pytest.fixture(scope="module")
def bench(reference):
    # pytest closes its own folders to other users, such as bodies
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o711)
        copy_tree(reference, Path(place) / "base")
        with Bench(reference, Path(place) / "base") as one:
            yield one


def judged(bench, id, body, has=None, seconds=4):
    """The verdict on a body behind the walls."""
    guard = {"has": HAS if has is None else has, "user": new_user()}
    return bench.run(id, body, seeds=[0], seconds=seconds, guard=guard, memory=1000)


@pytest.mark.parametrize("way", WAYS)
def test_replacing_what_decides_a_verdict_reaches_no_verdict(bench, way):
    body = WAYS[way].replace("'PAYLOAD'", repr(PAYLOAD))
    verdict = judged(bench, "1.1", body if "module level" in way else body + "    return {(0, 0): 0}\n")
    assert verdict.end == "finished" and verdict.outcomes["test_a_pair_is_counted_each_time"] == "wrong"
    assert "it ran" in verdict.reports[0]["prints"]  # the way is open, and leads nowhere


@pytest.mark.parametrize("lie", LIES)
def test_what_lies_or_leaves_does_not_pass(bench, lie):
    verdict = judged(bench, "1.1", LIES[lie])
    assert verdict.end == "finished" and verdict.outcomes["test_a_pair_is_counted_each_time"] in ("wrong",
            "error")
    assert judged(bench, "1.1", GOOD["1.1"]).passed


def test_an_input_changed_in_place_is_a_failure(bench):
    """The test computes what it wants from its input after the call: zeros would make a zero right."""
    verdict = judged(bench, "2.1", "    values[:] = [0.0] * len(values)\n    return 0.0\n")
    said = verdict.reports[0]["message"]
    assert set(verdict.outcomes.values()) == {"wrong"} and "the call changes its argument `values`" in said


@pytest.mark.parametrize("how", GREEDY)
def test_what_is_greedy_is_stopped_and_costs_only_itself(bench, how):
    body, says = GREEDY[how]
    verdict = judged(bench, "1.1", body, seconds=0.5 if says == "(stopped)" else 4)
    assert not verdict.passed and "passed" not in verdict.outcomes.values()
    said = " ".join(f"{r['message']} {r.get('error')} ({r['outcome']})" for r in verdict.reports)
    assert says in said or how == "forks" and "calls" not in HAS, said
    assert judged(bench, "1.1", GOOD["1.1"]).passed


def test_a_worker_that_dies_is_started_again(bench):
    bench.worker.kill()
    assert judged(bench, "1.1", GOOD["1.1"]).passed


def compiled(attack: str) -> str:
    """A body that leaves its function, does `attack` at will and returns the right sum."""
    return ("int attack(int n);\nreturn attack(n);\n}\n#include <cstdio>\n#include <cstdlib>\n"
            "#include <fcntl.h>\n#include <unistd.h>\n#include <sys/stat.h>\nint attack(int n) "
            f"{{\n{attack}\nreturn n * (n - 1) / 2;\n")


COMPILED = {
    "a word cut in two": 'sys\\\ntem("touch OUTSIDE/evil; rm OUTSIDE/there; echo > OUTSIDE/there");',
    "digraphs": 'FILE *f = fopen("OUTSIDE/evil", "w"); if (f) <% fclose(f); %>',
    "a truncation": 'truncate("OUTSIDE/there", 0); open("OUTSIDE/there", O_WRONLY | O_TRUNC);',
    "another mode": 'chmod("OUTSIDE/there", 0); chown("OUTSIDE/there", 1, 1); rename("OUTSIDE/there", '
                    '"OUTSIDE/evil");',
    "shared memory": f'FILE *f = fopen("{EVIL}", "w"); if (f) fclose(f);',
}


@pytest.mark.skipif("files" not in HAS, reason="no Landlock here")
@pytest.mark.parametrize("how", COMPILED)
def test_compiled_code_runs_behind_the_same_walls(bench, tmp_path, how):
    (tmp_path / "there").write_text("whole")
    (tmp_path / "there").chmod(0o666)
    tmp_path.chmod(0o777)
    body = compiled(COMPILED[how].replace("OUTSIDE", str(tmp_path)))
    for has in (HAS, ["calls", "files"]):    # also where the grader is not root
        verdict = judged(bench, "c.1", body, has=has)
        assert verdict.passed, verdict.reports      # it has run to its end, and returned the right sum
        assert os.listdir(tmp_path) == ["there"] and (tmp_path / "there").read_text() == "whole"
        assert (tmp_path / "there").stat().st_mode & 0o777 == 0o666 and not os.path.exists(EVIL)


@pytest.mark.parametrize("attack", ["while (1);", 'while (1) puts("x");', "abort();"])
def test_a_hang_or_a_crash_in_compiled_code_costs_its_own_test(bench, attack):
    verdict = judged(bench, "c.1", compiled(attack), seconds=1)
    assert set(verdict.outcomes.values()) <= {"stopped", "error"} and judged(bench, "c.1", GOOD["c.1"],
            seconds=20).passed


@pytest.mark.skipif("user" not in HAS, reason="only root can give a body a user of its own")
def test_a_fork_bomb_in_compiled_code_ends_with_its_answer(bench):
    verdict = judged(bench, "c.1", compiled("for (;;) fork();"), seconds=1)
    assert not verdict.passed and judged(bench, "c.1", GOOD["c.1"], seconds=20).passed


def test_one_hostile_hand_in_does_not_spoil_the_next(reference, tmp_path):
    for name, body in (("a", "    import os\n    os.kill(os.getppid(), 9)\n    return {}\n"),
                       ("b", GOOD["1.1"])):
        shutil.copytree(reference / "01_first", tmp_path / "in" / name / "01_first")
        put(tmp_path / "in" / name, "1.1", body)
    said = learn(reference, "grade", str(tmp_path / "in"), str(tmp_path / "out"), "--many", "--only",
                 "1.1,1.2")
    assert " a: 4 of 6" in said and " b: 6 of 6" in said


def test_a_body_knows_neither_tests_nor_reference(bench):
    """Its tree has no tests and its own body in place of the reference's; the judge's is closed to it."""
    body = ("    import os, sys\n    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))\n"
            "    found = os.listdir(here) + [m for m in sys.modules if m.startswith(('test_', 'conftest'))]\n"
            "    assert not [f for f in found if 'test' in f], found\n    from collections import Counter\n"
            "    return dict(Counter(zip(ids, ids[1:])))\n")
    assert judged(bench, "1.1", body).passed


def test_the_interpreter_of_the_tests_is_the_one_that_runs(bench):
    body = f"    import sys\n    assert sys.version == {sys.version!r}, sys.version\n    return {{}}\n"
    assert judged(bench, "1.1", body).outcomes["test_nothing_has_no_pairs"] == "passed"


def test_no_connection_leaves(bench):
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = ("    import socket\n"
                f"    socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))\n    return {{}}\n")
        verdict = judged(bench, "1.1", body)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not verdict.passed
