"""Settings, atomic files, progress, and errors that end a command with one sentence."""
import dataclasses
import errno
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

import cells as cells_module
import streaming
from cells import Cells
from commands import command
from no_fork import after_backward
from settings import RunSettings, field_comments, parse_settings, setting
from workbench import (
    Progress,
    atomic,
    content_hash,
    fingerprint,
    pick_device,
    process_pool,
    read_json,
    run_main,
    wide,
    write_json,
)


@dataclasses.dataclass
class Settings(RunSettings):
    steps: int = 10       # optimizer steps, 100% of them
    fast: bool = True     # be fast
    name: str = "a"       # a name


def test_comments_become_help(capsys):
    assert field_comments(Settings)["steps"] == "optimizer steps, 100% of them"
    assert field_comments(Settings)["seed"] == "seed of every random choice"
    with pytest.raises(SystemExit):
        parse_settings(Settings, "what it does", argv=["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "optimizer steps, 100% of them (default 10; 1 or more)" in said


def test_flags_override_quick_which_overrides_defaults():
    assert parse_settings(Settings, "", {"steps": 2, "name": "q"}, argv=[]) == Settings()
    words = ["--quick", "--name", "b", "--no-fast"]
    quick = parse_settings(Settings, "", {"steps": 2, "name": "q"}, argv=words)
    assert quick == Settings(quick=True, steps=2, name="b", fast=False)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half of a fi")
        raise RuntimeError
    assert read_json(path) == {"x": 1} and [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("how", ["text", "json"])
def test_output_to_a_pipe_or_through_a_link_replaces_neither(tmp_path, how):
    pipe, real, link = tmp_path / "pipe", tmp_path / "real", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    real.write_text("old")
    link.symlink_to(real)
    for path in (pipe, link):
        if how == "json":
            write_json(path, [1])
        else:
            with atomic(path) as temporary:
                temporary.write_text("[\n 1\n]\n")
    assert os.read(reader, 99) == b"[\n 1\n]\n" and pipe.is_fifo(), "a device stays what it is"
    assert link.is_symlink() and read_json(real) == [1] and not list(tmp_path.glob("*.tmp"))
    os.close(reader)


def test_output_to_dev_null_leaves_it_a_device():
    write_json("/dev/null", {})
    assert not os.path.isfile("/dev/null") and os.path.exists("/dev/null")


@pytest.mark.parametrize("text", ['{"x": ', "[" * 100_000, "9" * 5000, '{"x": 1}\0'])
def test_damaged_json_is_named(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match="m.json is damaged .* delete it"):
        read_json(tmp_path / "m.json")


@dataclasses.dataclass
class Ranges:
    file: str                                      # a file
    steps: int = 3                                 # steps
    rate: float = 0.5                              # rate
    seed: int = setting(0, least=0, most=9)        # seed
    share: float = setting(1.0, above=0, most=1)   # share


@pytest.mark.parametrize("words, sentence", [
    ("--steps 0", "--steps 0: give 1 or more"), ("--steps=-1", "--steps -1: give 1 or more"),
    ("--rate 0", "--rate 0.0: give above 0"), ("--rate nan", "--rate nan: give above 0"),
    ("--rate inf", "--rate inf: give above 0"), ("--seed=-1", "--seed -1: give 0 to 9"),
    ("--seed 10", "--seed 10: give 0 to 9"), ("--share 0", "--share 0.0: give above 0, at most 1"),
    ("--share 1.1", "--share 1.1: give above 0, at most 1"),
    ("--share nan", "--share nan: give above 0, at most 1")])
def test_a_number_outside_its_range_is_refused_in_one_sentence(words, sentence):
    with pytest.raises(ValueError) as error:
        parse_settings(Ranges, "", argv=["x", *words.split()])
    assert str(error.value) == sentence


def test_the_ends_of_a_range_are_inside_and_help_shows_it(capsys):
    given = parse_settings(Ranges, "", argv="x --steps 1 --rate 1e-9 --seed 9 --share 1".split())
    assert given == Ranges("x", 1, 1e-9, 9, 1.0)
    with pytest.raises(SystemExit):
        parse_settings(Ranges, "", argv=["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("file a file", "steps (default 3; 1 or more)", "share (default 1.0; above 0, at most 1)"):
        assert words in text


def test_quick_values_are_held_to_the_ranges_too():
    with pytest.raises(ValueError, match="--steps 0: give 1 or more"):
        parse_settings(Settings, "", {"steps": 0}, argv=["--quick"])


def test_the_fingerprint_depends_on_settings_and_code(tmp_path, monkeypatch):
    for chapter in ("01_tokenizer", "02_transformer"):
        (tmp_path / chapter).mkdir()
        (tmp_path / chapter / "code.py").write_text("pass\n")
    monkeypatch.setattr("workbench.ROOT", tmp_path)
    assert fingerprint(Settings(), "01_tokenizer") == fingerprint(Settings(), "01_tokenizer")
    assert len({fingerprint(Settings(), "01_tokenizer"), fingerprint(Settings(steps=11), "01_tokenizer"),
                fingerprint(Settings(), "01_tokenizer", "02_transformer")}) == 3


@pytest.mark.parametrize("error, sentence", [
    (ValueError("d_model 65 is odd: choose 64"), "error: d_model 65 is odd: choose 64"),
    (FileNotFoundError(errno.ENOENT, "no", "out/x.bin"),
     "error: out/x.bin is missing, there is no folder out: look at its name, or run the earlier chapters "
     "first (`make` does it in order)"),
    (FileNotFoundError(errno.ENOENT, "no", "no/01_tokenizer/m.pt"),
     "error: no/01_tokenizer/m.pt is missing, there is no folder no: run the earlier chapters first (`make "
     "01` makes it)"),
    (FileNotFoundError("no program g++"), "error: no program g++"),
    (OSError(errno.ENOSPC, "full"),
     "error: the disk is full: free some space and run the same command again, nothing is lost")])
def test_expected_errors_end_with_one_sentence(error, sentence, monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def main():
        raise error
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_main(main)
    assert stopped.value.code == sentence


def test_numpys_words_for_a_full_disk_become_the_systems_and_no_temporary_file_is_left(tmp_path):
    with pytest.raises(OSError) as full, atomic(tmp_path / "x.npy") as temporary:
        temporary.write_bytes(b"half")
        raise OSError("106349 requested and 45056 written")   # as of np.save and tofile
    assert full.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error, sentence", [
    (NotImplementedError("The operator 'aten::foo' is not currently implemented for the MPS device. If\nyou"),
     "run with --device cpu (The operator 'aten::foo' is not"),
    (TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
     "run with --device cpu (Cannot convert a MPS Tensor to float64"),
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), "the memory of the GPU is full"),
    (PermissionError(errno.EACCES, "Permission denied", "/locked/out"),
     "error: /locked/out: permission denied"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "file/out"), "error: file/out: not a directory"),
    (FileExistsError(errno.EEXIST, "File exists", "out"), "error: out is there and no folder: name another"),
    (OSError(errno.EROFS, "Read-only file system", "/cdrom/out"), "error: /cdrom/out: read-only file system"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "a/b.tmp"), "error: a/b.tmp: file name too long"),
    (OSError(errno.ELOOP, "Too many levels of symbolic links", "out"), "error: out: too many levels of symb"),
    (OSError(errno.EMFILE, "Too many open files", "a.bin"), "error: a.bin: too many open files"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "error: the disk is full"),
    (MemoryError(), "error: the memory of this machine is full")])
def test_what_a_device_or_a_folder_cannot_do_is_one_sentence(error, sentence, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def main():
        raise error
    with pytest.raises(SystemExit) as stopped:
        run_main(main)
    assert sentence in stopped.value.code and "\n" not in stopped.value.code


def test_a_blank_exercise_is_no_lack_of_the_device(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def main():
        raise NotImplementedError("exercise 2.2: causal mask")
    with pytest.raises(NotImplementedError, match="exercise 2.2"):
        run_main(main)


@pytest.mark.parametrize("cuda", [False, True])
def test_the_device_is_the_one_that_is_asked_for_if_it_is_here(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device().type == pick_device("auto").type == ("cuda" if cuda else "cpu")
    assert pick_device("cpu").type == "cpu"
    for name in ("mps", "tpu", "") if cuda else ("mps", "cuda", "tpu", ""):
        with pytest.raises(ValueError, match=f"--device {name}"):
            pick_device(name)
    assert wide(torch.ones(1)).dtype == torch.float64


def test_the_hash_of_files_is_that_of_their_contents(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("xy"), b.write_text("z")
    both = content_hash(a, b)
    a.write_text("x"), b.write_text("yz")
    assert content_hash(a, b) != both
    a.write_text("xy"), b.write_text("z")
    assert content_hash(a, b) == both != content_hash(b, a)


def test_a_closed_stream_lends_its_number_to_no_file_and_no_character_is_too_much_for_one(tmp_path):
    script = tmp_path / "s.py"
    script.write_text("import os, sys\nfrom workbench import run_main\n"
                      "for number in (0, 2):\n    os.close(number)\n"
                      "sys.stdin = sys.stderr = None   # as Python has them after `<&- 2>&-`\n"
                      "sys.stdout.reconfigure(encoding='ascii', errors='strict')\n"
                      "def main():\n    print('\\u00b1 \\udcff', repr(sys.stdin.read()))\n"
                      "    print('lost', file=sys.stderr)\n    print(open('said', 'w').fileno() > 2)\n"
                      "run_main(main)\n")
    done = command(script, cwd=tmp_path, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    assert (done.returncode, done.stdout) == (0, "\\xb1 \\udcff ''\nTrue\n")


def test_what_is_still_in_the_buffer_when_the_reader_goes_shows_no_traceback_either(tmp_path):
    script = tmp_path / "s.py"
    script.write_text("import os, sys\nfrom workbench import run_main\nread, write = os.pipe()\n"
                      "os.close(read)\nsys.stdout = open(write, 'w')\n"
                      "run_main(lambda: print('a little'))\n")
    done = command(script, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    assert (done.returncode, done.stderr) == (1, "")


def test_a_command_under_a_debugger_does_not_start_again(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "execv", lambda program, words: pytest.fail("its breakpoints are gone"))
    before = sys.gettrace()
    sys.settrace(lambda *event: None)
    try:
        run_main(lambda: None)
    finally:
        sys.settrace(before)


def test_a_file_name_that_is_not_utf_8_comes_back_from_json(tmp_path):
    write_json(tmp_path / "m.json", {"corpus": "caf\udce9", "text": "\u00b1"})
    assert (tmp_path / "m.json").read_bytes().count(b"\\udce9") == 1
    assert read_json(tmp_path / "m.json") == {"corpus": "caf\udce9", "text": "\u00b1"}


def test_unexpected_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)


def test_a_command_started_without_make_sets_its_threads(tmp_path):
    script = tmp_path / "s.py"
    script.write_text("import os, torch\nfrom workbench import run_main\n"
                      "def main():\n    print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'], "
                      "torch.get_num_threads() <= 2)\n"
                      "run_main(main)\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP"))}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = command(script, env=env)
    assert done.stdout == "PASSIVE 1000 True\n", done.stderr
    script.write_text(script.read_text().replace("<= 2", "== 1"))      # a number that was given stays
    done = command(script, env=env | {"OMP_NUM_THREADS": "1"})
    assert done.stdout == "PASSIVE 1000 True\n", done.stderr


def test_a_command_starts_itself_again_by_the_words_that_started_it(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "execv", lambda program, words: asked.append((program, words)))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pdb", "s.py", "--seed", "1"])
    run_main(lambda: None)
    assert asked == [(sys.executable, [sys.executable, "-m", "pdb", "s.py", "--seed", "1"])]


def test_a_reader_who_has_seen_enough_is_no_fault_and_another_broken_pipe_is(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def worker_died():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with pytest.raises(BrokenPipeError):
        run_main(worker_died)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as stopped:
            run_main(lambda: print("a line", flush=True))
    assert stopped.value.code == 1


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "sys.exit('error: one sentence')", "1 / 0", "os._exit(4)",
                                 "os.kill(os.getpid(), 9)"])
def test_a_forked_command_says_and_ends_as_one_that_a_shell_starts(tmp_path, end):
    """The tests of commands rest on it (tests/commands.py)."""
    script = tmp_path / "s.py"
    script.write_text("import os, sys\nprint(sys.argv, os.getcwd(), os.environ.get('WORD'), __name__)\n"
                      "print(sys.path[0], flush=True)\nprint(sys.stdin.read(), file=sys.stderr)\n"
                      "print('\\udcff', file=sys.stderr)\nprint('in a buffer')\n" + end)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | {"WORD": "a word"}
    mine = command(script, "--flag", 1, cwd=tmp_path, env=env, typed=b"typed")
    shell = subprocess.run([sys.executable, script, "--flag", "1"], cwd=tmp_path, env=env, input="typed",
                           capture_output=True, text=True)
    assert (mine.returncode, mine.stdout) == (shell.returncode, shell.stdout)
    assert mine.stderr.splitlines()[:2] == shell.stderr.splitlines()[:2] == ["typed", r"\udcff"]
    assert mine.stderr.splitlines()[-1] == shell.stderr.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="commands are forked on Linux only")
def test_no_forked_command_outlives_its_test_and_each_draws_numbers_of_its_own(tmp_path, monkeypatch):
    script = tmp_path / "s.py"
    script.write_text("import random, numpy\nprint(random.random(), numpy.random.rand())")
    one, other = (command(script).stdout.split() for _ in range(2))
    assert len(one) == 2 and not set(one) & set(other)
    script.write_text("import time\ntime.sleep(600)")
    before, join = multiprocessing.active_children(), multiprocessing.process.BaseProcess.join
    with pytest.raises(AssertionError, match="still busy after 0.001 s"):
        command(script, seconds=0.001)   # it is ended before it has begun

    def interrupted(process, timeout=None):
        if timeout:
            raise KeyboardInterrupt
        join(process)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command(script)
    assert set(multiprocessing.active_children()) <= set(before)


def test_progress_tells_rate_and_time_left(capsys):
    bar = Progress("train", 4)
    bar.begin -= 8
    bar.last -= 100
    bar.update(2, "loss 1.0")
    bar.update(4)
    first, last = capsys.readouterr().err.splitlines()
    assert "2/4" in first and "0.25 step/s" in first and "8 s left" in first and "loss 1.0" in first
    assert "4/4" in last and "####################" in last


def slope(x: float) -> float:
    """The derivative of x squared."""
    t = torch.tensor(x, requires_grad=True)
    t.square().backward()
    return t.grad.item()


def test_a_pool_works_after_a_backward_pass(monkeypatch):
    after_backward(monkeypatch)
    with process_pool(2) as pool:
        assert list(pool.map(slope, [1.0, 2.0, 3.0])) == [2.0, 4.0, 6.0]


def test_a_cell_is_computed_once_until_its_settings_or_its_code_change(tmp_path):
    calls = []
    cells = Cells(tmp_path, [streaming])
    make = lambda: calls.append(1) or {"loss": 1.5}   # noqa: E731
    assert cells.get({"seed": 0}, make) == cells.get({"seed": 0}, make) == {"loss": 1.5} and len(calls) == 1
    cells.get({"seed": 1}, make)
    assert len(calls) == 2
    Cells(tmp_path, [streaming, cells_module]).get({"seed": 0}, make)
    assert len(calls) == 3
    with pytest.raises(ZeroDivisionError):
        cells.get({"seed": 2}, lambda: {"loss": 1 / 0})
    assert cells.get({"seed": 2}, make) == {"loss": 1.5}   # nothing was kept of the one that failed
