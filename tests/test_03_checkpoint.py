"""Runs that are killed for real and continued, and files that are damaged, foreign or half written."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoint import load_model, load_state, read, save_model, save_state, write
from commands import command
from transformer import Config, Transformer

CONFIG = Config(vocab_size=32, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=16, max_len=16)

RUN = f"""
import sys, time, torch
from pathlib import Path
from checkpoint import save_model
from cross_entropy import cross_entropy
from muon import muon_and_adamw
from train import train
from transformer import Config, Transformer
from workbench import write_json

folder, pause = Path(sys.argv[1]), float(sys.argv[2])
torch.manual_seed(0)
torch.set_num_threads(1)   # however this process was started, its sums have one order
model = Transformer({CONFIG!r})

def loss_of(step):
    print(step, flush=True)
    time.sleep(pause)
    ids = torch.randint(32, (4, 9), generator=torch.Generator().manual_seed(step))
    return cross_entropy(model(ids[:, :-1]), ids[:, 1:])

log = train(model, muon_and_adamw(model, 0.02, 0.01), loss_of, 30, lambda i: 1 - i / 40, "tiny",
            state=folder / "state.pt", key="tiny", save_every=4)
save_model(folder / "model.pt", model)
write_json(folder / "log.json", [{{k: v for k, v in row.items() if k != "seconds"}} for row in log])
"""


def start(folder: Path, pause: float) -> subprocess.Popen:
    """A training process that prints each step before it takes it."""
    return subprocess.Popen([sys.executable, folder / "run.py", folder, str(pause)], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1",
                                 "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})


def steps_of_whole(folder: Path) -> list[int]:
    """The steps that the same run says it takes when it may go on to its end."""
    done = command(folder / "run.py", folder, 0)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.splitlines() if line.strip().isdigit()]


def steps_of(run: subprocess.Popen):
    """The steps that a run says it takes, as it takes them; AssertionError with its last words if it ends."""
    words = []
    for line in run.stdout:
        if line.strip().isdigit():
            yield int(line)
        else:
            words.append(line)
    raise AssertionError("the run ended: " + "".join(words[-3:]))


def test_a_run_that_is_killed_twice_ends_with_the_bits_of_one_that_is_not(tmp_path):
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.py").write_text(RUN)
    began = []
    for last in (10, 21):   # a state is written after steps 4, 8, 12 ...
        victim = start(tmp_path / "killed", 0.05)
        steps = steps_of(victim)
        began.append(next(steps))
        while next(steps) < last:
            pass
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(60) == -signal.SIGKILL
        victim.stdout.close()
        assert not (tmp_path / "killed" / "model.pt").exists()
    began.append(steps_of_whole(tmp_path / "killed")[0])
    assert steps_of_whole(tmp_path / "straight") == list(range(30))
    assert began[0] == 0 and began[1] >= 8 and began[2] >= 20, f"the runs began at {began}"
    one, other = (load_model(tmp_path / name / "model.pt").state_dict() for name in ("straight", "killed"))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert (tmp_path / "straight/log.json").read_text() == (tmp_path / "killed/log.json").read_text()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Transformer(CONFIG)


def test_a_model_comes_back_as_it_was(tmp_path, model):
    save_model(tmp_path / "m.pt", model)
    again = load_model(tmp_path / "m.pt")
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("damage", ["empty", "cut in half", "one byte short", "other text", "other pickle"])
def test_a_damaged_file_is_one_sentence_that_names_it_and_the_way_out(tmp_path, model, damage):
    file = tmp_path / "m.pt"
    save_model(file, model)
    good = file.read_bytes()
    file.write_bytes({"empty": b"", "cut in half": good[:len(good) // 2], "one byte short": good[:-1],
                      "other text": b"no model at all\n" * 20, "other pickle": b"\x80\x04\x95junk"}[damage])
    for load in (load_model, lambda path: load_state(path, "key", model, [])):
        with pytest.raises(ValueError) as error:
            load(file)
        said = str(error.value)
        assert "m.pt" in said and "make" in said and "\n" not in said


def test_a_whole_file_that_is_no_model_is_one_sentence_too(tmp_path, model):
    wider = Transformer(Config(**{**vars(CONFIG), "d_ff": 24}))
    contents = [{"weights": {}}, [1, 2], {"config": vars(CONFIG), "weights": wider.state_dict()},
                {"config": {"no": "such field"}, "weights": {}}]
    for value in contents:
        write(tmp_path / "m.pt", value)
        with pytest.raises(ValueError, match="delete it and run make again") as error:
            load_model(tmp_path / "m.pt")
        assert "\n" not in str(error.value)


def test_a_state_of_other_code_or_settings_is_not_continued(tmp_path, model, capsys):
    save_state(tmp_path / "s.pt", "old key", 7, model, [], [{"step": 7}])
    other = Transformer(CONFIG)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    assert load_state(tmp_path / "s.pt", "new key", other, []) == (0, [])
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())
    said = capsys.readouterr().out.strip()
    assert "starting again" in said and "\n" not in said
    assert load_state(tmp_path / "s.pt", "old key", other, []) == (7, [{"step": 7}])
    assert load_state(tmp_path / "none.pt", "old key", other, []) == (0, [])


def test_a_checkpoint_of_another_configuration_says_which_field(tmp_path, model, capsys):
    save_state(tmp_path / "s.pt", "key", 7, model, [], [])
    wider = Transformer(Config(**{**vars(CONFIG), "d_ff": 24, "positions": "none"}))
    said = r"s.pt is of another model \(d_ff 16 in place of 24, positions rope in place of none\)"
    with pytest.raises(ValueError, match=said):
        load_state(tmp_path / "s.pt", "key", wider, [])
    assert load_state(tmp_path / "s.pt", "new key", wider, []) == (0, [])
    assert "other code or settings (d_ff 16 in place of 24, positions" in capsys.readouterr().out
    weights = model.state_dict()
    less = {name: w for name, w in weights.items() if name != "model.norm.weight"}
    more = {**weights, "extra": weights["model.norm.weight"]}
    for config, kept, said in (({**vars(CONFIG), "d_ff": 24}, weights,
                                r"down_proj.weight is \(16, 16\), by its configuration \(16, 24\)|"
                                r"gate_proj.weight is \(16, 16\), by its configuration \(24, 16\)"),
                               ({**vars(CONFIG), "colour": 1}, weights,
                                "a field 'colour', which is unknown here"),
                               ({**vars(CONFIG), "n_heads": 3}, weights, "n_heads"),
                               (vars(CONFIG), less, "weight model.norm.weight is missing"),
                               (vars(CONFIG), more, "weight extra is unknown here")):
        write(tmp_path / "m.pt", {"config": dict(config), "weights": kept})
        with pytest.raises(ValueError, match=said):
            load_model(tmp_path / "m.pt")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write(tmp_path / "s.pt", {"step": 1})

    class Refuses:
        def __reduce__(self):
            raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "s.pt", {"step": 2, "then": Refuses()})
    assert read(tmp_path / "s.pt") == {"step": 1} and os.listdir(tmp_path) == ["s.pt"]


def test_a_process_killed_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    write(tmp_path / "s.pt", {"step": 1})
    code = ("import sys, time, torch\nimport checkpoint\n"
            "def half(data):   # the data is written, its hash is not\n"
            "    print('half', flush=True)\n    time.sleep(60)\n"
            "checkpoint.hashlib.sha256 = half\ncheckpoint.write(sys.argv[1], {'step': 2})\n")
    victim = subprocess.Popen([sys.executable, "-c", code, tmp_path / "s.pt"], stdout=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    assert victim.stdout.readline() == b"half\n"
    victim.kill()
    victim.wait(60)
    victim.stdout.close()
    assert read(tmp_path / "s.pt") == {"step": 1}
    assert [f for f in os.listdir(tmp_path) if f != "s.pt"] == [f"s.pt.{victim.pid}.tmp"]
