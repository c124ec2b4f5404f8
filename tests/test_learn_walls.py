"""The walls around a body, tried from inside: what it may not do fails, and what it may still works."""

import os
import tempfile
from pathlib import Path

import pytest

from learn_guard import available, new_user
from learn_run import Bench
from learn_trees import copy_tree
from tiny_course import make

HAS = available()   # found out by forks, which cost more the more this process has imported
EVIL = f"/dev/shm/evil-{os.getpid()}"   # of this process alone: the tests may run twice at a time
pytestmark = pytest.mark.skipif(not {"files", "calls"} <= set(HAS),
                                reason="no Landlock or seccomp here")
# What a body tries, with SECRET a file of the grader that everybody may read and write, and JUDGE a folder of
# it.
REFUSED = {
    "read a file": "open('SECRET').read()",
    "list a folder": "os.listdir('JUDGE')",
    "write a file": "open('SECRET', 'a')",
    "make a file": "open('JUDGE/evil', 'w')",
    "truncate a file": "os.truncate('SECRET', 0)",
    "change its mode": "os.chmod('SECRET', 0)",
    "change its time": "os.utime('SECRET')",
    "rename it": "os.rename('SECRET', 'SECRET2')",
    "take it away": "os.rename('SECRET', 'mine')",
    "remove it": "os.remove('SECRET')",
    "link to it": "os.link('SECRET', 'mine')",
    "follow a link to it": "os.symlink('SECRET', new); open(new).read()",
    "read passwords": "open('/etc/shadow').read()",
    "look at its parent": "open(f'/proc/{os.getppid()}/environ').read()",
    "look at itself": "open('/proc/self/maps').read()",
    "list all processes": "os.listdir('/proc')",
    "shared memory": f"open('{EVIL}', 'w')",
    "list shared memory": "os.listdir('/dev/shm')",
    "a socket": "__import__('socket').socket()",
    "a pair of sockets": "__import__('socket').socketpair()",
    "fork": "os.fork() or os._exit(0)",
    "a program": "os.execv('/bin/true', ['true'])",
    "a program by subprocess": "__import__('subprocess').run(['true'])",
    "a signal to its parent": "os.kill(os.getppid(), 0)",
    "a signal to a thread of it": "refuse(libc.syscall(234, os.getppid(), os.getppid(), 0))",
    "the limits of its parent": "__import__('resource').prlimit(os.getppid(), 7)",
    "higher limits": "__import__('resource').setrlimit(0, (10**6, 10**6))",
    "trace its parent": "refuse(libc.ptrace(16, os.getppid(), 0, 0))",
    "read its parent's memory": "refuse(libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0))",
    "a new namespace": "refuse(libc.unshare(0x10000000))",
    "become root": "os.setuid(0); open('/etc/shadow')",
    "a file that runs": "open('mine', 'w').write('#!/bin/sh'); os.execv('./mine', ['mine'])",
}
ALLOWED = {
    "files of its own": "open('mine', 'w').write('x'); os.mkdir(new); os.rename('mine', new + '/mine'); "
                        "os.remove(new + '/mine')",
    "imports": "import decimal, sqlite3, unittest",
    "threads": "import threading; t = threading.Thread(target=print); t.start(); t.join()",
    "random numbers": "os.urandom(4)",
    "temporary files": "import tempfile; tempfile.TemporaryFile().write(b'x')",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o711)
        copy_tree(make(tmp_path_factory.mktemp("course") / "reference", with_git=False), Path(place) / "base")
        secret = Path(place) / "secret"
        secret.write_text("whole")
        secret.chmod(0o666)
        with Bench(Path(place) / "base", Path(place) / "base") as one:
            one.secret = secret
            yield one


def answer(bench, does: str, has: list) -> str:
    """What came of `does` in a body: "done" or the name of the error."""
    does = does.replace("SECRET", str(bench.secret)).replace("JUDGE", str(bench.secret.parent))
    body = ("    import os, ctypes\n    libc, new = ctypes.CDLL(None), os.urandom(4).hex()\n"
            "    def refuse(code):\n        if code < 0:\n            raise PermissionError\n"
            f"    try:\n        {does}\n        print('done')\n    except OSError as e:\n"
            "        print(type(e).__name__)\n    except ValueError as e:\n"
            "        print(type(e).__name__)\n    return {}\n")
    verdict = bench.run("1.1", body, seeds=[0], guard={"has": has, "user": new_user()})
    return verdict.reports[-1]["prints"].split()[-1]


@pytest.mark.parametrize("what", REFUSED)
def test_a_body_cannot(bench, what):
    for has in (HAS, ["calls", "files"]):   # as another user, and as the one who grades
        said = answer(bench, REFUSED[what], has)
        assert said in ("PermissionError", "ValueError", "FileNotFoundError", "OSError"), said
    assert bench.secret.read_text() == "whole" and bench.secret.stat().st_mode & 0o777 == 0o666
    assert not os.path.exists(EVIL)


@pytest.mark.parametrize("what", ALLOWED)
def test_a_body_can_have(bench, what):
    for has in (HAS, ["calls", "files"]):
        assert answer(bench, ALLOWED[what], has) == "done"


def test_the_same_attempts_succeed_without_walls(bench):
    """So that a refusal above is the wall's doing."""
    for what in ("read a file", "list a folder", "look at itself", "shared memory", "fork",
                 "a pair of sockets"):
        said = bench.run("1.1", f"    import os\n    {REFUSED[what]}\n    return {{}}\n".replace(
            "SECRET", str(bench.secret)).replace("JUDGE", str(bench.secret.parent)), seeds=[0])
        assert said.outcomes["test_nothing_has_no_pairs"] == "passed", (what, said.reports)
    Path(EVIL).unlink()
