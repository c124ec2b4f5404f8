"""A run that is killed at fifty random moments in a row ends in the same bits as one that is never killed."""
import os
import random
import signal
import subprocess
import sys
import time

import torch

from checkpoint import load_model

RUN = """
import sys, torch
from pathlib import Path
from checkpoint import save_model
from cross_entropy import cross_entropy
from muon import muon_and_adamw
from train import train
from transformer import Config, Transformer

folder = Path(sys.argv[1])
torch.manual_seed(0)
model = Transformer(Config(vocab_size=64, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=48,
                           max_len=32))

def loss_of(step):
    ids = torch.randint(64, (8, 25), generator=torch.Generator().manual_seed(step))
    return cross_entropy(model(ids[:, :-1]), ids[:, 1:])

print("started", flush=True)
train(model, muon_and_adamw(model, 0.02, 0.01), loss_of, 2000, lambda i: 1 - i / 2500, "tiny",
      state=folder / "state.pt", key="tiny", save_every=10)
save_model(folder / "model.pt", model)
"""


def start(folder) -> subprocess.Popen:
    """The run, from where it stands; returns when it has begun to train."""
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen([sys.executable, "-c", RUN, folder], stdout=subprocess.PIPE,
                               text=True, env=env)
    assert process.stdout.readline() == "started\n"
    return process


def test_fifty_kills_at_random_moments_change_no_bit(tmp_path):
    straight = start(tmp_path / "straight")
    assert straight.wait(600) == 0
    rng, kills = random.Random(0), 0
    while kills < 50:
        victim = start(tmp_path / "killed")
        time.sleep(rng.expovariate(10))   # anywhere: in a step, in the write of a state, between two renames
        if victim.poll() is not None:
            break
        victim.send_signal(signal.SIGKILL)
        victim.wait(60)
        kills += 1
    assert kills == 50, f"the run was over after {kills} kills: make it longer"
    survivor = start(tmp_path / "killed")
    assert survivor.wait(600) == 0
    one, other = (load_model(tmp_path / name / "model.pt").state_dict() for name in ("straight", "killed"))
    assert all(torch.equal(one[k], other[k]) for k in one)
