"""bench_gpu.py where there is no GPU: what it says and counts; and its tables, rehearsed on the emulator."""

import subprocess
import sys

import pytest
import torch

import bench_gpu
import kernels

pytestmark = pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")


@pytest.mark.skipif(not kernels.why_not("cuda"), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_prints_the_counts():
    command = [sys.executable, bench_gpu.__file__, "--widths", "32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("No times: no CUDA device found")
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("forward", "backward"))]
    assert len(rows) == 10 and "TFLOP/s on an H100" in done.stdout


def test_the_tables_of_a_gpu_can_be_filled(capsys):
    """Every rung, forward and backward, beside torch: the same calls, with meaningless times."""
    shape = (1, 2, 64, 32)
    times = bench_gpu.time_ours(shape, True, "cpu") + bench_gpu.time_torch(shape, True, "cpu")
    bench_gpu.print_times(shape, True, times, "cpu")
    table = capsys.readouterr().out
    names = {way: {x.name for x in times if x.way == way} for way in ("forward", "backward")}
    assert names["forward"] >= {"naive, three kernels", "rung 0", "rung 1", "rung 2", "rung 3", "rung 4"}
    assert names["backward"] >= {"rung 0", "rung 5", "rung 5, no atomics"}
    assert all(x.ms > 0 and x.name in table for x in times)


def test_a_rate_is_operations_over_time(capsys):
    """2 products of 2 T T D operations forward, 5 backward, half of them where causal."""
    one = [bench_gpu.Time("x", way, torch.float32, 1.0) for way in ("forward", "backward")]
    bench_gpu.print_times((4, 16, 2048, 64), True, one, "cpu")
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " x " in line]
    rates = [float(line[3]) for line in lines if line[1] == "x"]
    assert rates == [34.4, 85.9]  # 4 * 64 * 2048^2 * 64 / 2 = 34.4e9 in a millisecond


def test_a_shape_that_is_none_is_refused_with_a_sentence():
    with pytest.raises(SystemExit, match="4,16,2048 is no shape: write B,H,T,D"):
        bench_gpu.parse_shape("4,16,2048")
