"""`make FULL=1` in chapter 3, on a small model: it says its estimate, shows samples, is killed, goes on."""
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from checkpoint import load_model
from workbench import read_json

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--d-model", "32", "--n-layers", "2", "--n-heads", "2", "--n-kv-heads", "2", "--d-ff", "64")
SHORT = ("--full", "--batch", "4", "--length", "64", "--epochs", "2", "--sum-steps", "20", "--sum-batch", "4",
         "--sum-rows", "1", "--watch", "100", "--matrix-lr", "0.01")


def command(folder: str, out: Path, *words: str) -> list[str]:
    """`python FOLDER/run.py` with its output in `out`."""
    return [sys.executable, "-u", str(ROOT / folder / "run.py"), "--out", str(out), *words]


def test_a_full_run_says_its_estimate_shows_samples_and_goes_on_after_a_kill(tmp_path):
    out, env = tmp_path / "out", {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for folder, words in (("01_tokenizer", ("--quick",)), ("02_transformer", SMALL)):
        subprocess.run(command(folder, out, *words), check=True, capture_output=True, env=env)
    victim = subprocess.Popen(command("03_training", out, *SHORT), stdout=subprocess.PIPE, text=True, env=env)
    first = []
    for line in victim.stdout:
        first.append(line)
        if re.match(r"\s+step 200:", line):
            victim.send_signal(signal.SIGKILL)
            break
    victim.wait(60)
    victim.stdout.close()
    assert not (out / "03_training" / "model.pt").exists(), "it was killed on the way"
    assert re.search(r"  [\d,]+ steps of 4 x 64 tokens, about \d+ minutes here", "".join(first))
    assert re.search(r"step 100: [\d.]+ bits a byte, the best so far   The ", "".join(first))

    again = subprocess.run(command("03_training", out, *SHORT), capture_output=True, text=True, env=env)
    assert again.returncode == 0, again.stderr[-500:]
    assert re.search(r"continuing at step 2\d\d", again.stdout) and "step 300: " in again.stdout
    log = read_json(out / "03_training" / "metrics.json")["log"]
    assert [row["step"] for row in log] == list(range(1, len(log) + 1)), "no step is missing, none is twice"
    assert log[-1]["loss"] < log[0]["loss"]
    for name in ("model.pt", "best.pt"):
        assert load_model(out / "03_training" / name).config.d_model == 32
