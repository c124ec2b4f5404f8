"""A made-up course of two tiny chapters and a C++ one, for the tests of the exercise tool.

It has what the tool must cope with (an exercise that another one calls, two in one file, a compiled one) and
runs in a fraction of a second a case, because nothing in it imports torch.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FILES = {
    ".gitignore": ".learn/\n__pycache__/\n.venv/\n*.tmp\n",
    "README.md": "# A tiny course\n\n[For teachers](TEACHING.md), [how to add](CONTRIBUTING.md)\n",
    "TEACHING.md": "# Teaching\n",
    "CONTRIBUTING.md": "# Adding\n",
    "AGENTS.md": "# For coding assistants\n\nExplain.\n\nFor authors [this](CONTRIBUTING.md#how) holds.\n",
    "pyproject.toml": """[tool.pytest.ini_options]
pythonpath = ["01_first", "02_second", "csrc"]
testpaths = ["tests"]
addopts = "-q --strict-markers"
markers = ["ex(id): the test belongs to the exercise with this id"]
""",
    "01_first/pairs.py": '''"""Pairs of neighbours."""


def count_pairs(ids):
    """How often each pair of neighbours occurs: count_pairs([1, 1, 1]) == {(1, 1): 2}."""
    # EXERCISE 1.1 count pairs
    counts = {}
    for pair in zip(ids, ids[1:]):
        counts[pair] = counts.get(pair, 0) + 1
    return counts
    # END EXERCISE 1.1


def most_common(ids):
    """The most frequent pair, the earliest of several."""
    # EXERCISE 1.2 most common pair
    counts = count_pairs(ids)
    return max(counts, key=counts.get) if counts else None
    # END EXERCISE 1.2
''',
    "02_second/blend.py": '''"""Weighted means."""


def blend(values, weights):
    """The mean of `values` weighted by `weights`, which need not sum to one."""
    # EXERCISE 2.1 weighted mean
    total = 0.0
    for value, weight in zip(values, weights):
        total += value * weight
    return total / sum(weights)
    # END EXERCISE 2.1
''',
    "csrc/sums.cu": """extern "C" int sum_to(int n) {
    // EXERCISE c.1 sum in C++
    int total = 0;
    for (int i = 0; i < n; i++) total += i;
    return total;
    // END EXERCISE c.1
}
""",
    "csrc/loader.py": '''"""Compiles sums.cu."""
import ctypes
import os
import subprocess
import tempfile
from pathlib import Path


# far side of the .cu files
def sum_to(n):
    """The sum of 0 to n - 1, computed by the C++ file next to this one."""
    library = os.path.join(tempfile.mkdtemp(), "sums.so")
    source = Path(__file__).with_name("sums.cu")
    compiler = ["g++", "-x", "c++", "-shared", "-fPIC", source, "-o", library]
    done = subprocess.run(compiler, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return ctypes.CDLL(library).sum_to(n)
''',
    "tests/test_ex01.py": '''import random

import pytest
from pairs import count_pairs, most_common


@pytest.mark.ex("1.1")
def test_a_pair_is_counted_each_time():
    """a pair is counted each time it occurs"""
    got = count_pairs([1, 2, 1, 2])
    assert got == {(1, 2): 2, (2, 1): 1}, f"given [1, 2, 1, 2], got {got}, wanted {{(1, 2): 2, (2, 1): 1}}"


@pytest.mark.ex("1.1")
def test_nothing_has_no_pairs(seed):
    """an empty list and a list of one have no pairs"""
    for ids in ([], [random.randrange(9)]):
        got = count_pairs(ids)
        assert got == {}, f"given {ids}, got {got}, wanted {{}}"


@pytest.mark.ex("1.2")
@pytest.mark.parametrize("ids, wanted", [([5, 6, 5, 6], (5, 6)), ([1, 1, 1, 2], (1, 1))])
def test_the_most_common_pair_wins(ids, wanted):
    """the most common pair wins"""
    got = most_common(ids)
    assert got == wanted, f"given {ids}, got {got}, wanted {wanted}"


@pytest.mark.ex("1.2")
def test_no_pair_is_none():
    """no pair at all gives None"""
    try:
        got = most_common([3])
    except ValueError as problem:
        pytest.fail(f"given [3], it raised '{problem}', wanted None: is there a case for no pairs?")
    assert got is None, f"given [3], got {got}, wanted None"
''',
    "tests/test_ex02.py": '''import random

import pytest
from blend import blend


@pytest.mark.ex("2.1")
def test_weights_need_not_sum_to_one():
    """weights need not sum to one"""
    values = [random.random() for _ in range(3)]
    got = blend(values, [2, 2, 2])
    wanted = sum(values) / 3
    assert abs(got - wanted) < 1e-9, f"got {got}, wanted {wanted}: divide by the sum of the weights?"


@pytest.mark.ex("2.1")
def test_a_heavier_value_counts_more():
    """a heavier value counts more"""
    got = blend([0, 1], [1, 3])
    assert got == 0.75, f"given values [0, 1] and weights [1, 3], got {got}, wanted 0.75"
''',
    "tests/test_ex_csrc.py": '''import pytest
from loader import sum_to


@pytest.mark.ex("c.1")
def test_the_sum_of_the_first_numbers():
    """the sum of 0 to 4 is 10"""
    got = sum_to(5)
    assert got == 10, f"given 5, got {got}, wanted 10"
''',
    "tests/test_01_pairs.py": """from pairs import most_common


def test_pairs_of_a_word():
    assert most_common("abab") == ("a", "b")
""",
    "tests/test_02_blend.py": """from blend import blend


def test_the_blend_of_equal_values_is_the_value():
    assert blend([2, 2], [1, 5]) == 2
""",
    "tests/mutants_01.py": """MUTANTS = [
    ("1.1", "counts each pair once", "counts.get(pair, 0) + 1", "1"),
    ("1.1", "counts pairs two apart", "ids[1:]", "ids[2:]"),
    ("1.1", "starts counting at one", "get(pair, 0)", "get(pair, 1)"),
    ("1.1", "gives None for nothing", "return counts", "return counts or None"),
    ("1.1", "never ends", "counts = {}", "counts = {}\\n    while True: pass"),
    ("1.2", "takes the rarest", "max(", "min("),
    ("1.2", "takes the largest pair", ", key=counts.get", ""),
    ("1.2", "fails on nothing", " if counts else None", ""),
    ("1.2", "gives a pair for nothing", "else None", "else (0, 0)"),
    ("1.2", "gives the count", "return max(counts, key=counts.get)", "return max(counts.values())"),
]
""",
    "tests/mutants_02.py": """MUTANTS = [
    ("2.1", "forgets to divide", " / sum(weights)", ""),
    ("2.1", "divides by the number of values", "sum(weights)", "len(values)"),
    ("2.1", "ignores the weights", "value * weight", "value"),
    ("2.1", "hard-coded", "total / sum(weights)", "0.75"),
    ("2.1", "gives NaN", "total = 0.0", "total = float('nan')"),
]
""",
    "tests/mutants_csrc.py": """MUTANTS = [
    ("c.1", "starts at one", "int total = 0", "int total = 1"),
    ("c.1", "goes one too far", "i < n", "i <= n"),
    ("c.1", "keeps the last only", "+=", "="),
    ("c.1", "subtracts", "+= i", "-= i"),
    ("c.1", "gives the number", "return total", "return n"),
]
""",
}


def page(chapter: str, *entries: tuple) -> str:
    """An EXERCISES.md: entries are (id, title, path, function, points)."""
    text = f"# Exercises of {chapter}\n"
    for id, title, path, function, points in entries:
        text += f"\n## {id} {title}\n`{path}` · `{function}` · 10 min · {points} points\n\nWrite it.\n\n"
        text += "**Worked example.** By hand.\n\n"
        for n, (what, says) in enumerate((("a question", f"What is {id}?"), ("the formula", "n"),
                                          ("pseudocode", "do it")), 1):
            text += f"<details><summary>Hint {n}: {what}</summary>\n\n{says}\n</details>\n"
    return text


FILES["01_first/EXERCISES.md"] = page("01_first",
                                      ("1.1", "count pairs", "01_first/pairs.py", "count_pairs", 2),
                                      ("1.2", "most common pair", "01_first/pairs.py", "most_common", 4))
FILES["02_second/EXERCISES.md"] = page("02_second",
                                       ("2.1", "weighted mean", "02_second/blend.py", "blend", 3))
FILES["csrc/EXERCISES.md"] = page("csrc", ("c.1", "sum in C++", "csrc/sums.cu", "sum_to", 1))
GOOD = {  # right answers, written differently from the reference
    "1.1": "    from collections import Counter\n    return dict(Counter(zip(ids, ids[1:])))\n",
    "1.2": "    best = None\n    counts = count_pairs(ids)\n    for pair in counts:\n"
    "        if best is None or counts[pair] > counts[best]:\n            best = pair\n    return best\n",
    "2.1": "    share = [w / sum(weights) for w in weights]\n"
    "    return sum(v * s for v, s in zip(values, share))\n",
    "c.1": "    return n * (n - 1) / 2;\n",
}


def make(place: Path, with_git: bool = True) -> Path:
    """Write the course and this repository's tool into `place`; a git repository with one commit if asked."""
    place.mkdir(parents=True)
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    for tool in [ROOT / "learn.py", *ROOT.glob("tools/learn_*.py"), ROOT / "conftest.py",
                 ROOT / "tests/mutants.py"]:
        (place / tool.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(tool, place / tool.relative_to(ROOT))
    if with_git:
        git(place, "init", "-q", "-b", "main")
        commit(place, "Begin")
    return place


def git(place: Path, *words: str) -> str:
    """Run git as a made-up person."""
    return subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=place, check=True,
                          capture_output=True, text=True).stdout


def commit(place: Path, message: str) -> None:
    """Commit everything."""
    git(place, "add", "-A")
    git(place, "commit", "-qm", message)


def learn(place: Path, *words: str, cwd: Path | None = None, code: int | None = 0, **env: str) -> str:
    """Run the tool of the tree `place` and return what it printed; `code` is the exit status it must have."""
    done = subprocess.run([sys.executable, str(place / "learn.py"), *words], cwd=cwd or place,
                          capture_output=True, text=True, timeout=300,
                          env={**os.environ, "COLUMNS": "80", **env})
    said = done.stdout + done.stderr
    assert code is None or done.returncode == code, (
        f"learn.py {' '.join(words)} ended with {done.returncode}:\n{said}")
    assert "Traceback" not in done.stderr, said
    return said


def put(place: Path, id: str, body: str) -> None:
    """Write `body` as the learner's answer to exercise `id`, by plain text replacement."""
    sign = "//" if id.startswith("c") else "#"
    for file in [*place.glob("0*/*.py"), *place.glob("csrc/*.cu")]:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        marks = f"{sign} EXERCISE {id} ", f"{sign} END EXERCISE {id}"
        at = [i for i, line in enumerate(lines) if line.strip().startswith(marks)]
        if at:
            file.write_text("".join(lines[: at[0] + 1]) + body + "".join(lines[at[1] :]), encoding="utf-8")
