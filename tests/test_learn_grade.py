"""`learn.py grade` on good, bad, broken and hostile hand-ins, and the guard on its own."""

import csv
import json
import shutil
import socket
import sys
import zipfile

import pytest
from tiny_course import GOOD, learn, make, put

from learn_bodies import course, graft
from learn_guard import available
from learn_run import Bench, copy_tree
from learn_screen import screen

HOSTILE = {  # how the answer to 1.1 cheats, and what the page says of it
    "loops": ("    while True: pass\n", "no points: its time was up|stopped"),
    "leaves": ("    import os\n    os._exit(0)\n", "the body uses import os, which"),
    "reads": ("    return eval(open('/etc/passwd').read())\n", "the body uses eval, open"),
    "patches": ("    import pytest\n    pytest.fail = print\n    return {}\n", "the body uses import pytest"),
    "lies": (
        "    class Any(dict):\n        def __eq__(self, other):\n            return True\n    return Any()\n",
        "class",
    ),
    "lies by type": (
        "    return type('A', (), {'_' + '_eq_' + '_': lambda a, b: True})()\n",
        "type() of three arguments",
    ),
    "digs": ("    return ().__class__.__base__.__subclasses__()\n", "__base__"),
    "matches": ("    match ids:\n        case object(__class__=c):\n            return c\n", "class"),
    "escapes": (
        "    return {}\nimport os\nos.abort()\ndef more(ids):\n    return 1\n",
        "leaves its function",
    ),
    "decorates": ("    return {}\n\n\ndef most_common(ids):\n    return (5, 6)\n", "leaves its function"),
    "is no Python": ("    return {\n", "the body is not Python: '{' was never closed (line 1 of the body)"),
    "frames": ("    return (lambda: 0).gi_frame.f_back\n", ".f_back"),
    "deletes": ("    global most_common\n    most_common = None\n    return {}\n", "global most_common"),
    "swaps math": ("    import math\n    math.floor = None\n    return {}\n", "math.floor ="),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course") / "reference")


@pytest.fixture(scope="module")
def class_of(reference, tmp_path_factory):
    """Everybody's hand-in, graded in one run: name to (exercise id to (score, output))."""
    place = tmp_path_factory.mktemp("class")

    def hand_in(name, **bodies):
        shutil.copytree(
            reference, place / "in" / name, ignore=shutil.ignore_patterns(".git", "learn*", "tools", "tests")
        )
        for id, body in {**GOOD, **{key.replace("_", "."): body for key, body in bodies.items()}}.items():
            put(place / "in" / name, id, body)
        return place / "in" / name

    hand_in("good")
    flat = place / "in" / "flat"
    flat.mkdir()
    for file in [*hand_in("tmp").rglob("*.py"), *(place / "in/tmp").rglob("*.cu")]:
        shutil.copy(file, flat)
    shutil.rmtree(place / "in/tmp")
    with zipfile.ZipFile(place / "in/zipped.zip", "w") as archive:
        archive.write(flat / "pairs.py", "hand-in/pairs.py")
    (place / "in/broken.zip").write_bytes(b"PK no zip")
    hand_in("blank", **{"1.1": '    raise NotImplementedError("exercise 1.1: count pairs")\n'})
    hand_in("half", **{"2.1": "    return 0.75\n"})
    hand_in("crash", **{"1.2": "    return 1 // 0\n", "c.1": "    int *p = 0; return *p;\n"})
    hand_in("memory", **{"1.1": "    return [0] * 10**10\n", "2.1": "    raise SystemExit(0)\n"})
    cpp = hand_in("cpp", **{"c.1": '    return 10;\n}\nextern "C" int more() { return 1;\n'})
    (cpp / "tests").mkdir()
    (cpp / "tests/test_ex01.py").write_text("")
    (cpp / "conftest.py").write_text("raise SystemExit")
    lost = hand_in("no_marker")
    text = (lost / "01_first/pairs.py").read_text()
    (lost / "01_first/pairs.py").write_text(
        text.replace("    # END EXERCISE 1.1\n", "").replace("def most", "import os\n\ndef most")
    )
    for name, (body, _) in HOSTILE.items():
        shutil.rmtree(hand_in(name, **{"1.1": body}) / "02_second")
        shutil.rmtree(place / "in" / name / "csrc")
    said = learn(
        reference,
        "grade",
        str(place / "in"),
        str(place / "out"),
        "--many",
        "--seconds",
        "2",
        "--memory",
        "1000",
    )
    results = {}
    for file in (place / "out").glob("*/results.json"):
        tests = json.loads(file.read_text())["tests"]
        results[file.parent.name] = {t["name"].split()[0]: (t["score"], t["output"]) for t in tests}
    return results, place / "out", said


def test_right_answers_written_differently_get_all_points(class_of):
    assert {id: score for id, (score, _) in class_of[0]["good"].items()} == {
        "1.1": 2,
        "1.2": 4,
        "2.1": 3,
        "c.1": 1,
    }


def test_files_are_found_by_name_in_a_flat_folder_and_in_a_zip(class_of):
    assert sum(score for score, _ in class_of[0]["flat"].values()) == 10
    zipped = class_of[0]["zipped.zip"]
    assert (zipped["1.1"][0], zipped["1.2"][0]) == (2, 4)
    assert zipped["2.1"] == (0, "02_second/blend.py was not handed in")


def test_one_broken_zip_does_not_stop_the_others(class_of):
    assert class_of[0]["broken.zip"]["1.1"] == (0, "broken.zip is neither a folder nor a zip file")


def test_a_blank_exercise_costs_its_own_points_only(class_of):
    assert class_of[0]["blank"]["1.1"] == (0, "left blank") and class_of[0]["blank"]["1.2"][0] == 4


def test_points_are_shared_over_the_tests_that_pass(class_of):
    score, output = class_of[0]["half"]["2.1"]
    assert (
        score == 1.5
        and "✓ a heavier value counts more" in output
        and "✗ weights need not sum to one" in output
    )


def test_a_crash_never_passes(class_of):
    got = class_of[0]["crash"]
    assert got["1.2"][0] == 0 and "division" in got["1.2"][1]
    assert got["c.1"][0] == 0 and "ended early" in got["c.1"][1] and got["1.1"][0] == 2


def test_memory_is_limited_and_leaving_is_a_failure(class_of):
    got = class_of[0]["memory"]
    assert got["1.1"][0] == 0 and "(error)\n    MemoryError" in got["1.1"][1]
    assert got["2.1"][0] == 0 and "SystemExit" in got["2.1"][1]


def test_edited_tests_and_settings_in_the_hand_in_do_not_matter(class_of):
    got = class_of[0]["cpp"]
    assert got["1.1"][0] == 2 and got["1.2"][0] == 4
    assert got["c.1"][0] == 0 and "closes a brace that it did not open" in got["c.1"][1]


def test_a_deleted_marker_costs_that_exercise_only(class_of):
    got = class_of[0]["no_marker"]
    assert got["1.1"][0] == 0 and "marker lines of exercise 1.1" in got["1.1"][1] and got["1.2"][0] == 4


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_gets_nothing_and_harms_nothing(class_of, name):
    score, output = class_of[0][name]["1.1"]
    assert score == 0 and any(says in output for says in HOSTILE[name][1].split("|")), output
    assert class_of[0][name]["1.2"][0] == 4


def test_the_table_and_the_page_have_a_row_a_hand_in(class_of):
    results, out, said = class_of
    rows = {row["submission"]: row for row in csv.DictReader((out / "grades.csv").open())}
    assert set(rows) == set(results) and rows["good"]["total"] == "10" and rows["half"]["2.1"] == "1.5"
    page = (out / "grades.html").read_text()
    assert "<h2 id='good'>good: 10 of 10 points</h2>" in page and "<script" not in page
    assert "Limits: 2 s a test and 1000 MB" in said


def test_a_single_hand_in_is_graded_for_some_chapters(reference, tmp_path):
    said = learn(reference, "grade", str(reference), str(tmp_path), "--chapters", "2")
    assert "3/3  2.1 weighted mean" in said and "1.1" not in said
    assert json.loads((tmp_path / "results.json").read_text())["score"] == 3


def test_a_missing_hand_in_is_named(reference, tmp_path):
    assert "there is no " in learn(reference, "grade", str(tmp_path / "none"), str(tmp_path / "out"), code=2)


# What a body could do if the screen let it through: the second line of defence, tried without the first.
ATTEMPTS = {
    "open the reference": "    return open('REFERENCE/01_first/pairs.py').read()\n",
    "write outside": "    open('REFERENCE/evil', 'w')\n",
    "connect": "    import socket\n    socket.create_connection(('127.0.0.1', PORT))\n    return {}\n",
    "start a program": "    import subprocess\n    subprocess.run(['touch', 'REFERENCE/evil'])\n",
    "fork": "    import os\n    os.fork()\n",
    "kill the checker": "    import os\n    os.kill(os.getppid(), 9)\n",
    "take all memory": "    return bytearray(4 << 30)\n",
    "leave as if done": "    import os\n    os._exit(0)\n",
    "answer for the checker": "    import os\n    for fd in range(3, 50):\n        try:\n"
    '            os.write(fd, b\'{"end": "finished"}\\n\')\n'
    "        except OSError: pass\n    os._exit(0)\n",
    "replace the runner": "    import _pytest.runner\n"
    "    _pytest.runner.pytest_runtest_call = lambda item: None\n    return {}\n",
    "replace the assertion": "    import builtins\n"
    "    builtins.AssertionError = type('E', (BaseException,), {})\n    return {}\n",
}


@pytest.fixture(scope="module")
def bench(reference, tmp_path_factory):
    base = tmp_path_factory.mktemp("bench") / "base"
    copy_tree(reference, base)
    with Bench(reference, base) as one:
        yield one


@pytest.mark.skipif(
    "files" not in available() or "calls" not in available(), reason="no seccomp or Landlock here"
)
@pytest.mark.parametrize("what", ATTEMPTS)
def test_the_guard_holds_without_the_screen(bench, reference, what):
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = (
            ATTEMPTS[what].replace("REFERENCE", str(reference)).replace("PORT", str(server.getsockname()[1]))
        )
        verdict = bench.run(
            "1.1", body, seconds=5, guard={"level": "alone", "memory_mb": 500, "has": available()}
        )
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not (reference / "evil").exists()
    assert not verdict.passed or verdict.replaced
    assert verdict.end != "finished" or verdict.replaced or set(verdict.outcomes.values()) == {"error"}
    assert bench.run(
        "1.1", GOOD["1.1"], guard={"level": "alone", "memory_mb": 500, "has": available()}
    ).passed


@pytest.mark.skipif("network" not in available(), reason="no network namespaces here")
def test_an_exercise_that_needs_connections_gets_a_network_with_nothing_in_it(bench):
    body = (
        "    import socket\n    with socket.create_server(('127.0.0.1', 0)) as here:\n"
        "        socket.create_connection(here.getsockname(), timeout=5).close()\n"
        "    try:\n        socket.create_connection(('127.0.0.1', PORT), timeout=1)\n"
        "    except OSError:\n        return {}\n    return {'reached': 1}\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        guard = {"level": "loopback", "memory_mb": 500, "has": available()}
        verdict = bench.run("1.1", body.replace("PORT", str(server.getsockname()[1])), guard=guard)
    assert verdict.outcomes["test_nothing_has_no_pairs"] == "passed", verdict.reports


def test_the_screen_lets_every_reference_and_every_right_answer_through(reference):
    for e in course(reference).values():
        text = (reference / e.path).read_text()
        assert screen(text, e, e.body) == screen(text, e, GOOD[e.id]) == ""


def test_the_screen_allows_ordinary_names_of_ones_own():
    text = "def f(x):\n    # EXERCISE 1.1 a\n    return x\n    # END EXERCISE 1.1\n"
    from learn_bodies import find

    ordinary = "    code = x.eval()\n    signal = [code, re.compile('a')]\n    return model.types + signal\n"
    assert screen(text, find(text)[0], ordinary) == ""
    assert graft(text, "1.1", ordinary).count("code") == 2


def test_the_interpreter_of_the_tests_is_the_one_that_runs(bench):
    verdict = bench.run(
        "1.1", f"    import sys\n    assert sys.version == {sys.version!r}, sys.version\n    return {{}}\n"
    )
    assert verdict.outcomes["test_nothing_has_no_pairs"] == "passed"
