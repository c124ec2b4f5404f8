"""Commands in processes of their own that need not import torch anew, which takes two CPU seconds each time.

On Linux a process that has imported torch once, and never computes, forks the one that becomes the command:
multiprocessing's fork server, which workbench.process_pool starts too. Elsewhere a command starts as from a
shell. What is read before torch is there (OMP_NUM_THREADS, PYTHONIOENCODING, MPLBACKEND) needs
`subprocess.run`, and so do the import of everything by a fresh Python (test_layout.py does that once) and
whatever shall not depend on the order of sets: all forked commands hash strings alike.
"""
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# The ranks of tests are forked from here too: backward(gradient) and dispatch modes import torch._dynamo.
SPARED = ["torch.distributed", "torch._dynamo", "matplotlib.pyplot"]


def command(file: Path | str, *words, cwd: Path | str = ".", env: dict | None = None, typed: bytes = b"",
            text: bool = True, seconds: float = 120) -> subprocess.CompletedProcess:
    """Run `python file words...` and return its exit status and all that it wrote, as text or as bytes.

    `env` holds the whole environment (None: this one's) and `typed` what it reads. AssertionError
    (TimeoutExpired where nothing is forked): it ran on for longer than `seconds`, and was ended.
    """
    env, words = dict(os.environ) if env is None else env, [str(word) for word in words]
    if sys.platform != "linux":
        return subprocess.run([sys.executable, file, *words], cwd=cwd, env=env, capture_output=True,
                              input=typed.decode() if text else typed, timeout=seconds,
                              encoding="utf-8" if text else None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SPARED)
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("in", "out", "err")]
        for stream in streams:   # all of them: a command may be ended before it has begun to write
            stream.write_bytes(typed if stream == streams[0] else b"")
        become_it = (str(Path(file)), words, str(Path(cwd).resolve()), env, streams)
        process = context.Process(target=become, args=become_it)
        process.start()
        try:
            process.join(seconds)
            ended = process.exitcode is not None
        finally:   # also after Ctrl-C: Python waits for processes that were forked before it ends
            process.kill()
            process.join()
        said = [stream.read_text(encoding="utf-8") if text else stream.read_bytes() for stream in streams[1:]]
    assert ended, f"{file} was still busy after {seconds} s; it had said {said}"
    return subprocess.CompletedProcess([sys.executable, file, *words], process.exitcode, *said)


def become(file: str, words: list[str], cwd: str, env: dict, streams: list[Path]) -> None:
    """Turn this forked process into `python file words...`. Nothing is undone, because it ends afterwards."""
    for number, (stream, mode) in enumerate(zip(streams, ("rb", "wb", "wb"))):
        with open(stream, mode) as opened:
            os.dup2(opened.fileno(), number)
    sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", encoding="utf-8")
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace")   # line by line
    np.random.seed()   # else all commands would go on from the numbers of the process that forked them
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv, sys.path[:0] = [file, *words], [str(Path(file).resolve().parent)]
    sys.orig_argv = [sys.executable, *sys.argv]
    runpy.run_path(file, run_name="__main__")
