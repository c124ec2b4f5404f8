"""Chapter 4, the long tests: eight ranks of everything, torchrun, kills and hangs, two machines.

    .venv/bin/python -m pytest tests/slow
"""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from parallel_3d import Layout  # noqa: E402
from parallel_cases import equality, layouts  # noqa: E402
from ranks import run_ranks  # noqa: E402
from strategies import STRATEGIES  # noqa: E402

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
SCRIPT = str(ROOT / "04_systems" / "parallel_3d.py")


def torchrun(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *arguments, SCRIPT]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def world(tmp_path):
    """Artifacts of chapters 1 and 2 for a tiny model, and the arguments that train on them."""
    from token_file import write_tokens
    tokens = np.random.default_rng(0).integers(0, 64, 5000)
    (tmp_path / "out/01_tokenizer").mkdir(parents=True)
    (tmp_path / "out/02_transformer").mkdir(parents=True)
    write_tokens(tmp_path / "out/01_tokenizer/train.bin", tokens)
    shape = dict(vocab_size=64, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=48, max_len=32)
    (tmp_path / "out/02_transformer/config.json").write_text(json.dumps(shape))
    return ["--out", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "checkpoint"), "--batch", "8",
            "--length", "16", "--save-every", "2"]


def losses_of(text: str) -> dict[int, str]:
    """Step number to loss, from the lines `step 3  loss 4.1234`."""
    lines = [line.split() for line in text.splitlines() if "loss" in line and "step" in line]
    return {int(w[w.index("step") + 1]): w[w.index("loss") + 1] for w in lines}


def leftovers(mark: str) -> list[str]:
    """Processes that were started, directly or not, with the environment variable RUN_MARK=mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"RUN_MARK={mark}\0".encode() in entry.read_bytes() + b"\0":
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_eight_ranks_train_like_one_process(dtype, tolerance):
    results = run_ranks(equality, 8, STRATEGIES, dtype, 8, 3, timeout=500)
    for name in STRATEGIES:
        lines = [r[name] for r in results]
        for i, wanted in enumerate(lines[0]["wanted losses"]):
            assert abs(sum(r["losses"][i] for r in lines) / 8 - wanted) <= tolerance, name
        assert max(r["gradients"] for r in lines) <= tolerance, name
        assert max(r["weights"] for r in lines) <= tolerance, name


def test_every_mesh_of_eight_ranks_trains_like_one_process():
    which = [Layout(2, 4, 1, 4), Layout(4, 2, 1, 2, "gpipe"), Layout(2, 1, 4, 1, sequence=True),
             Layout(1, 2, 4, 8), Layout(1, 4, 2, 4, sequence=True), Layout(4, 1, 2, 2)]
    for layout, lines in zip(which, zip(*run_ranks(layouts, 8, which, timeout=500))):
        for i, wanted in enumerate(lines[0]["wanted losses"]):
            assert abs(sum(r["losses"][i] for r in lines) / 8 - wanted) <= 1e-10, layout
        assert max(max(r["gradients"], r["weights"]) for r in lines) <= 1e-10, layout


def test_a_run_killed_by_kill_9_leaves_nothing_and_resumes_on_other_ranks(world):
    straight = subprocess.run([sys.executable, SCRIPT, *world, "--steps", "8", "--checkpoint",
                               world[1] + "/straight"],
                              env=ENV, capture_output=True, text=True, timeout=300, check=True)
    job = subprocess.Popen([sys.executable, SCRIPT, *world, "--steps", "100000", "--data", "2",
                            "--tensor", "2"],
                           env={**ENV, "RUN_MARK": world[1]}, stdout=subprocess.PIPE, text=True)
    for line in job.stdout:
        if "step 5" in line:
            break
    assert len(leftovers(world[1])) >= 5   # the command and its four ranks
    job.kill()
    job.wait()
    deadline = time.monotonic() + 30
    while leftovers(world[1]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert leftovers(world[1]) == []
    resumed = subprocess.run([sys.executable, SCRIPT, *world, "--steps", "8", "--pipeline", "2",
                              "--micro-batches", "4"],
                             env=ENV, capture_output=True, text=True, timeout=300, check=True)
    got, want = losses_of(resumed.stdout), losses_of(straight.stdout)
    if "continuing at step" not in resumed.stdout or not got:
        pytest.fail(f"did not resume: {resumed.stdout}")
    for step, loss in got.items():
        assert abs(float(loss) - float(want[step])) <= 2e-4


def test_under_torchrun_the_death_of_a_rank_ends_the_job(world):
    job = subprocess.Popen([*torchrun("--standalone", "--nproc-per-node", "3"), *world, "--steps", "100000",
                            "--data", "1", "--pipeline", "1", "--tensor", "1"], env=ENV,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # a mesh of 1 on 3 ranks: refused by every rank, with the sentence
    text, _ = job.communicate(timeout=120)
    assert job.returncode != 0 and "needs 1 ranks, but 3 were started" in text
    job = subprocess.Popen([*torchrun("--standalone", "--nproc-per-node", "2"), *world, "--steps", "100000",
                            "--data", "2"],
                           env={**ENV, "RUN_MARK": world[1]}, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    for line in job.stdout:
        if "step 3" in line:
            break
    ranks = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if _is_rank(p, world[1])]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    text, _ = job.communicate(timeout=120)
    assert job.returncode != 0 and "SIGKILL" in text or "exitcode" in text
    assert leftovers(world[1]) == []


def _is_rank(cmdline: Path, mark: str) -> bool:
    try:
        line = cmdline.read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return False
    return mark in line and "torch.distributed.run" not in line


def test_under_torchrun_a_hanging_rank_ends_the_job_in_bounded_time(world):
    job = subprocess.Popen([*torchrun("--standalone", "--nproc-per-node", "2"), *world, "--steps", "100000",
                            "--data", "2",
                            "--patience", "8"], env={**ENV, "RUN_MARK": world[1]}, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    for line in job.stdout:
        if "step 3" in line:
            break
    ranks = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if _is_rank(p, world[1])]
    os.kill(ranks[0], signal.SIGSTOP)
    text, _ = job.communicate(timeout=120)
    assert job.returncode != 0 and "Traceback" in text and "ring_reduce_scatter" in text
    assert leftovers(world[1]) == []


def two_nodes(world, enter: list[list[str]], address: list[str], interface: str) -> str:
    """Run 2 x 2 ranks as two nodes, each started by its own command prefix; returns what node 0 printed."""
    port = free_port()
    jobs = []
    for node in (0, 1):
        command = [*enter[node], *torchrun("--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "2",
                                           "--master-addr", address[0], "--master-port", str(port),
                                           "--local-addr", address[node]),
                   *world, "--steps", "4", "--data", "2", "--pipeline", "2", "--micro-batches", "2"]
        jobs.append(subprocess.Popen(command, env={**ENV, "GLOO_SOCKET_IFNAME": interface},
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        texts = [job.communicate(timeout=200)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(texts)
    return texts[0]


def one_node(world) -> dict[int, str]:
    done = subprocess.run([sys.executable, SCRIPT, *world, "--steps", "4", "--checkpoint", world[1] + "/one"],
                          env=ENV, capture_output=True, text=True, timeout=200, check=True)
    return losses_of(done.stdout)


def test_two_nodes_on_two_loopback_addresses_train_like_one_process(world):
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.2", 0))
    except OSError:
        pytest.skip("this machine has no second loopback address 127.0.0.2")
    text = two_nodes(world, [[], []], ["127.0.0.1", "127.0.0.2"], "lo")
    got, want = losses_of(text), one_node(world)
    assert got.keys() == want.keys() == {1, 2, 3, 4}
    assert all(abs(float(got[s]) - float(want[s])) <= 2e-4 for s in want)


@contextmanager
def two_network_namespaces():
    """Two network namespaces joined by a cable, 10.77.0.1 and 10.77.0.2; skips where that is forbidden."""
    names = [f"pillars{os.getpid()}{x}" for x in "ab"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True)
    try:
        for name in names:
            try:
                made = ip("netns", "add", name)
            except FileNotFoundError:
                pytest.skip("network namespaces need the `ip` command (package iproute2)")
            if made.returncode:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        made = ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable",
                  "netns", names[1])
        if made.returncode:
            pytest.skip(f"virtual network cables are not permitted here: {made.stderr.strip()}")
        for i, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def test_two_machines_with_networks_of_their_own_train_like_one_process(world):
    with two_network_namespaces() as names:
        text = two_nodes(world, [["ip", "netns", "exec", name] for name in names],
                         ["10.77.0.1", "10.77.0.2"], "cable")
    got, want = losses_of(text), one_node(world)
    assert got.keys() == want.keys() == {1, 2, 3, 4}
    assert all(abs(float(got[s]) - float(want[s])) <= 2e-4 for s in want)
