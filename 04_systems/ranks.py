"""Start ranks: the same program in N processes, each of which knows its number.

Everything else in this chapter is a function `f(team, ...)` that all ranks call together. Three ways to
start it:

    run_ranks(f, 4, *args)                                       here, from Python (as make, tests, run.py do)
    torchrun --nproc-per-node 4 04_systems/parallel_3d.py        here, started by torchrun
    torchrun --nnodes 2 --nproc-per-node 8 ... parallel_3d.py    on a cluster, with nccl where there are GPUs

A rank that raises, dies or hangs ends the job: in bounded time, with its number and traceback, and without
leaving a process.
"""
import contextlib
import errno
import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path

import torch
import torch.distributed as dist

from collectives import Team

# what run_main says in one sentence; a full disk is one more
MESSAGES = (ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class RankError(RuntimeError):
    """A rank failed; the message says which one and where."""


def run_ranks(function: Callable, n_ranks: int, *args, timeout: float = 120.0) -> list:
    """Run function(team, *args) in `n_ranks` processes with gloo; returns the ranks' results in order.

    `function`, `args` and the results travel by pickle. Raises RankError when a rank dies, raises or is still
    busy after `timeout` seconds; what is a message to the user (a ValueError, a full disk) is raised again as
    it is.
    """
    if n_ranks < 1:
        raise ValueError(f"{n_ranks} ranks cannot run anything: ask for at least 1")
    try:
        work = pickle.dumps((function, args))
    except Exception as error:   # pickle raises whatever the object raises
        raise ValueError(f"{function} or its arguments cannot be sent to other processes ({error}): "
                         "use functions and classes from the top of a module") from None
    # forks from a clean process that has imported once what costs seconds, sympy for backward(gradient) too
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "torch.fx.experimental.symbolic_shapes",
                                    "parallel_3d"])
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        try:
            for rank in range(n_ranks):
                mine, theirs = context.Pipe()
                arguments = (theirs, rank, n_ranks, folder, timeout, work)
                process = context.Process(target=_rank_main, args=arguments,
                                          name=f"rank {rank} of {n_ranks}", daemon=True)
                process.start()
                theirs.close()
                pipes.append(mine)
                processes.append(process)
            return _collect(pipes, processes, Path(folder), timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _rank_main(pipe, rank: int, n_ranks: int, folder: str, timeout: float, work: bytes) -> None:
    """What each process does: join the others, call the function, send back its result or its traceback."""
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    stack = open(Path(folder, f"stack{rank}"), "w")
    faulthandler.register(signal.SIGUSR1, file=stack)      # the parent asks a hanging rank where it is
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    torch.set_num_threads(1)                               # N ranks share the cores of one machine
    try:
        function, args = pickle.loads(work)
        patience = timedelta(seconds=2 * timeout)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=n_ranks,
                                timeout=patience)
        answer = (True, function(Team(dist.group.WORLD, patience), *args))
    except BaseException as error:
        answer = (False, (_message(error), traceback.format_exc()))
    try:
        packed = pickle.dumps(answer)
    except Exception as error:
        answer = (False, (None, f"its result cannot be sent back ({error}): return tensors, numbers, "
                                "strings, or lists and dictionaries of them"))
        packed = pickle.dumps(answer)
    pipe.send_bytes(packed)
    if answer[0]:
        dist.destroy_process_group()


def _message(error: BaseException) -> bytes | None:
    """An error that is a message to the user, not a fault, packed to be raised in the parent; else None.

    An exception whose constructor takes more than its text can be packed but not unpacked: its text goes.
    """
    if not isinstance(error, MESSAGES) and getattr(error, "errno", None) != errno.ENOSPC:
        return None
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)
    except Exception:
        packed = pickle.dumps(ValueError(str(error)))
    return packed


def _end_with_parent(pipe) -> None:
    """Wait until the parent's end of the pipe closes, however the parent ends, kill -9 included."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv_bytes()
    os._exit(1)


def _collect(pipes: list, processes: list, folder: Path, timeout: float) -> list:
    """Wait for all answers. After a first failure wait a moment: the cause and its victims fail together."""
    results, failures, n = {}, {}, len(pipes)
    deadline = time.monotonic() + timeout
    while len(results) + len(failures) < n:
        left = [p for i, p in enumerate(pipes) if i not in results and i not in failures]
        ready: list = wait(left, max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                fine, value = pickle.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                processes[rank].join(5)
                fine, value = False, (None, f"the process died with exit status {processes[rank].exitcode}")
            except Exception as error:   # whatever unpickling an object of the rank's raises
                fine, value = False, (None, f"what it sent back cannot be read here ({error!r})")
            (results if fine else failures)[rank] = value
        if failures:
            deadline = min(deadline, time.monotonic() + 1.0)
    if failures:
        rank = min(failures, key=lambda r: (_is_victim(failures[r][1]), r))
        message, text = failures[rank]
        raise _unpacked(message) or RankError(f"rank {rank} of {n} failed: {text}")
    if len(results) < n:
        raise RankError(_hang_report(processes, folder, timeout, done=set(results)))
    return [results[rank] for rank in range(n)]


def _unpacked(message: bytes | None) -> Exception | None:
    """What `_message` packed, if it can be unpacked here."""
    with contextlib.suppress(Exception):   # a class that only the rank knows
        error = pickle.loads(message) if message else None
        return error if isinstance(error, Exception) else None


def _is_victim(text: str) -> int:
    """1 for a rank that failed only because another one no longer answers, else 0."""
    return int(any(sign in text
                   for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")))


def _hang_report(processes: list, folder: Path, timeout: float, done: set[int]) -> str:
    """Ask every busy rank for its stack. Those inside a torch.distributed call wait for another one."""
    stacks = {}
    for rank, process in enumerate(processes):
        if rank not in done and process.is_alive():
            os.kill(process.pid, signal.SIGUSR1)
    time.sleep(0.5)
    for rank in set(range(len(processes))) - done:
        text = Path(folder, f"stack{rank}").read_text() if Path(folder, f"stack{rank}").exists() else ""
        stacks[rank] = text[max(0, text.rfind("Current thread")):] or "(no stack: it never started)"
    waiting = [r for r in stacks if " in exchange" in stacks[r] or "distributed_c10d" in stacks[r]]
    culprits = [r for r in stacks if r not in waiting] or waiting
    return (f"rank {culprits[0]} of {len(processes)} hangs: still busy after {timeout:g} s "
            f"(ranks {waiting} wait for others, ranks {sorted(done)} are done). It is here:\n"
            f"{stacks[culprits[0]]}")


def check_places() -> None:
    """ValueError unless the variables of the environment are as torchrun sets them: else torch waits."""
    names = ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK")
    said = {name: os.environ.get(name, "0" if name == "LOCAL_RANK" else "") for name in names}
    whole = all(text.isascii() and text.isdigit() for text in said.values()) and "MASTER_ADDR" in os.environ
    if not whole or int(said["RANK"]) >= int(said["WORLD_SIZE"]) or int(said["MASTER_PORT"]) > 65535:
        told = ", ".join(f"{name} is {os.environ.get(name)!r}" for name in (*names[:3], "MASTER_ADDR"))
        raise ValueError(f"{told}: start this with torchrun, which sets them all, or unset RANK")


@contextlib.contextmanager
def joined(timeout: float = 300.0) -> Iterator[Team]:
    """Join the ranks that torchrun started: nccl with one GPU a rank where there are GPUs, else gloo.

    A rank that waits longer than `timeout` seconds for another raises, and torchrun then ends the whole job.
    """
    check_places()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(1)
    patience = timedelta(seconds=timeout)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=patience)
    except dist.DistNetworkError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ValueError(f"the ranks cannot meet at {where} ({str(error).splitlines()[0]}): give torchrun "
                         "--standalone, or another --master-port") from None
    try:
        yield Team(dist.group.WORLD, patience)
    finally:
        dist.destroy_process_group()
