"""A command line in the sandbox, and tasks on it: done by the script, not by doing nothing or by tricks."""
import json
import os
import random

import pytest

import terminal_machine
from agent_loop import do_nothing, play
from sandbox import Limits, Sandbox
from terminal_machine import Machine, ask, collect, pipe, run
from terminal_tasks import TASKS, build_task, find_task, rows_of, scripted, serve_task, whole_task


@pytest.mark.parametrize("make", TASKS, ids=lambda make: make.__name__)
def test_the_script_gets_each_task_done_and_doing_nothing_does_not(make):
    task = make(random.Random(1))
    machine = play(scripted(task), Machine(task.text, task.files))
    assert machine.submitted and task.done(machine), machine.transcript
    assert "error" not in machine.transcript.split("\n> submit")[0].split("> ")[-1]
    assert not task.done(play(do_nothing, Machine(task.text, task.files)))


def test_each_command_does_what_it_says_and_leaves_its_files():
    files = {"a.txt": "one\ntwo\n", "d/b.txt": "two\n"}
    for command, said, change in (
            ("ls", "a.txt\nd/", {}), ("cat a.txt", "one\ntwo\n", {}),
            ("grep two", "a.txt:2:two\nd/b.txt:1:two", {}),
            ("echo x y > c.txt", "", {"c.txt": "x y\n"}), ("sed s|one|1| a.txt", "", {"a.txt": "1\ntwo\n"}),
            ("mkdir e", "", {"e/": ""}), ("mv a.txt e.txt", "", {"a.txt": None, "e.txt": "one\ntwo\n"}),
            ("rm d/b.txt", "", {"d/b.txt": None, "d/": ""})):
        got, after = run(files, command)
        want = {path: text for path, text in {**files, **change}.items() if text is not None}
        assert (got, after) == (said, want)


@pytest.mark.parametrize("command", ["", "bash", "cat", "cat none", "echo", "sed s/a a.txt", "'",
                                     "serve none", "cat /none"])
def test_a_wrong_command_is_answered_with_one_line(command):
    said, files = run({"a.txt": "a\n"}, command)
    assert said.startswith("error: ") and "None" not in said and "\n" not in said
    assert files == {"a.txt": "a\n"}


def test_a_program_that_leaves_has_not_failed_and_one_that_fails_says_how():
    for line, said in (("exit()", "1"), ("exit(0)", "1"), ("exit(3)", "1\nexit 3"),
                       ("1 / 0", "1\nZeroDivisionError: division by zero"),
                       ("raise KeyboardInterrupt", "1\nKeyboardInterrupt: ")):
        assert run({"f.py": f"from sys import exit\nprint(1)\n{line}\n"}, "python f.py")[0] == said


def test_what_is_no_text_reaches_no_transcript():
    machine = Machine("text", {"f.py": "print('\\ud83d')\n"})
    machine.act("python f.py")
    machine.act("\ud83d")
    assert machine.transcript == ("text\n> python f.py\n?\n> ?\n"
                                  "error: a command is one line of at most 200 characters\n> ")


def test_data_that_a_check_puts_in_place_have_another_total_than_the_one_that_was_told():
    told = rows_of(random.Random(0))[1]
    other, total = rows_of(random.Random(0), told)     # the same dice: the first table has the told total
    assert total == sum(int(line.split(",")[1]) for line in other.split()[1:]) != told
    assert rows_of(random.Random(0), told + 1)[1] == told


def test_only_serve_serves():
    app = "def app(environ, start):\n    start('200 OK', [])\n    return [b'yes']\n"
    machine = Machine("text", {"my app.py": app, "notes": "serving nothing\n"})
    machine.act("serve 'my app.py'")
    machine.act("cat notes")
    assert machine.serving == "my app.py" and ask(machine.files, machine.serving, "/") == ["200 OK\n\nyes"]


@pytest.fixture
def impatient(monkeypatch):
    """Half the seconds, for programs that hang."""
    monkeypatch.setattr(terminal_machine, "LIMITS", Limits(cpu_seconds=1, wall_seconds=4.0))


def test_a_program_that_hangs_or_reaches_for_the_network_costs_a_step(impatient):
    assert run({"f.py": "while True: pass"}, "python f.py")[0].startswith("error: ")
    assert "Error" in run({"f.py": "import socket\nsocket.socket()"}, "python f.py")[0]
    assert "Error" in run({"f.py": "open('/etc/passwd').read()"}, "python f.py")[0]


def test_a_right_answer_written_by_hand_is_not_a_build_that_works():
    task = build_task(random.Random(1))
    pages = {f"site/{p[6:]}.html": f"<p>{t.strip()}</p>" for p, t in task.files.items()
             if p.startswith("pages/")}
    machine = Machine(task.text, {**task.files, **pages})
    assert not task.done(machine)
    whole = whole_task(random.Random(1))
    total = whole.text.split("sum, ")[1].split(".")[0]
    machine = Machine(whole.text, {**whole.files, "data.json": '{"total": ' + total + "}"})
    machine.act("serve app.py")
    assert machine.serving == "app.py" and not whole.done(machine)
    task = serve_task(random.Random(1))
    values = {"/" + k: str(v).encode() for k, v in json.loads(task.files["data.json"]).items()}
    machine = Machine(task.text, {**task.files, "app.py": f"""def app(environ, start):
    said = {values}.get(environ['PATH_INFO'])
    start('200 OK' if said else '404 Not Found', [])
    return [said or b'']
"""})
    machine.act("serve app.py")
    assert machine.serving == "app.py" and not task.done(machine)


@pytest.mark.parametrize("network", [True, False], ids=["loopback where there is one", "named pipes"])
def test_an_application_that_fails_answers_500_and_one_that_hangs_answers_nothing(network, monkeypatch,
                                                                                      impatient):
    if not network:
        monkeypatch.setattr(terminal_machine, "Sandbox",
                            lambda source, limits, doors: Sandbox(source, limits))
    app = ("def app(environ, start):\n    if environ['PATH_INFO'] == '/bad': 1 / 0\n    start('200 OK', [])\n"
           "    return [b'yes']\n")
    assert ask({"a.py": app}, "a.py", "/", "/bad", "/") == ["200 OK\n\nyes",
                                                           "500 Internal Server Error\n\nZeroDivisionError",
                                                           "200 OK\n\nyes"]
    assert ask({"a.py": "def app(environ, start):\n    while True: pass\n"}, "a.py", "/") == [""]
    assert ask({"a.py": "nothing = 1"}, "a.py", "/") == [""]


def test_no_link_is_followed_out_of_the_machine(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    os.mkfifo(tmp_path / "real")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    (folder / "requests").symlink_to(tmp_path / "real")
    (folder / "replies").write_text("no pipe")
    assert collect(str(folder)) == {"replies": "no pipe"}
    for name in ("requests", "replies"):
        with pytest.raises(OSError):
            pipe(str(folder), name, os.O_RDONLY)


def test_names_and_data_differ_from_seed_to_seed():
    for make in (find_task, serve_task, whole_task):
        assert len({str(sorted(make(random.Random(i)).files.items())) for i in range(5)}) == 5


def test_a_server_is_asked_over_the_loopback_interface_where_the_sandbox_has_one():
    app = ("import os\ndef app(environ, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n"
           "    return [repr((environ.get('REMOTE_ADDR'), sorted(os.listdir()))).encode()]\n")
    with Sandbox("", doors=1) as box:
        loopback = bool(box.doors)
    found = "'127.0.0.1', ['a.py']" if loopback else "None, ['a.py', 'replies', 'requests']"
    assert ask({"a.py": app}, "a.py", "/", "/") == [f"200 OK\n\n({found})"] * 2


def test_what_is_no_http_is_no_answer_and_an_endless_one_is_cut():
    for body in ("b'nothing'", "b'SSH-2.0-x\\r\\n\\r\\n'"):
        app = f"""import socket
server = socket.socket()
server.bind(('127.0.0.1', 8000))
server.listen()
def work():
    while True:
        client, _ = server.accept()
        client.sendall({body})
        client.close()
import threading
threading.Thread(target=work, daemon=True).start()
app = None
"""
        assert ask({"a.py": app}, "a.py", "/") == [""]
