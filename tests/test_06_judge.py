"""Chapter 6: right programs are judged right, in every shape in which the benchmarks ask for them."""
import json

import pytest

from benchmark_files import load_mbpp
from evaluate import programs
from sandbox import Failed, Limits, Sandbox, judge

TEST = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
LIMITS = Limits(cpu_seconds=2, wall_seconds=6)


@pytest.mark.parametrize("prompt, completion", [
    ("def add(a, b):\n\t'''The sum.'''\n", "\treturn a + b\n"),
    ("def add(a, b):\n  '''The sum.'''\n", "  return a + b\n"),
    ("def add(a, b):\n", "\treturn a + b\n"), ("def add(a, b):\n", "  return a + b\n"),
    ("def add(a, b):\n   # the sum\n", "   return a + b\n"),
    ("# add(a, b): the sum\n", "def add(a, b):\n  return a + b\n"),
    ("'''add(a, b): the sum.'''\n", "def add(a, b):\n\treturn a + b\n"),
    ("import math\nfrom typing import List", "\ndef add(a, b):\n    return a + b\n"),
    ("", "add = lambda a, b: a + b"),
    ("def add(a, b):\r\n    '''x'''\r\n", "    return a + b\r\n"),
    ("class Adder:\n\tdef __call__(self, a, b):\n\t\t'''x'''\n", "\t\treturn a + b\nadd = Adder()\n"),
    ("def add(a, b):\n    total = (", "a +\n        b)\n    return total\n"),
    ("def add(a, b): ", "return a + b"),
    ("def one():\n    return 1\n\n\n@staticmethod\n", "def add(a, b):\n    return a + b\n"),
    ("from __future__ import annotations\nfrom dataclasses import dataclass\n"
     "@dataclass\nclass P:\n    x: int\n",
     "def add(a, b):\n    return P(a).x + b\n")])
def test_a_right_program_passes_however_its_prompt_ends(prompt, completion):
    verdict = judge(prompt, completion, TEST, "add", LIMITS)
    assert verdict.passed, verdict.reason
    assert not judge(prompt, completion.replace("+", "-"), TEST, "add", LIMITS).passed


@pytest.mark.parametrize("body, call, holds", [
    ("return 10**5000", "f() == 10**5000", True), ("return -7**9000", "f() == -7**9000", True),
    ("return 10**5000", "f() == 10**5000 + 1", False),
    ("return str(2**20000)", "len(f()) == 6021", True), ("return 10**5000", "len(str(f())) == 5001", True),
    ("import decimal; return decimal.Decimal('1.20')", "str(f()) == '1.20'", True),
    ("from fractions import Fraction; return Fraction(1, 3)", "f() * 3 == 1", True),
    ("from collections import Counter; return Counter('aab')",
     "f() == {'a': 2, 'b': 1} and f().most_common(1) == [('a', 2)]", True),
    ("from collections import Counter; return [Counter(a=1)]", "f() == [{'a': 2}]", False),
    ("from collections import OrderedDict as O; return O(b=1, a=2)", "list(f()) == ['b', 'a']", True),
    ("from collections import defaultdict as D; d = D(list); d[1].append(2); return d", "f() == {1: [2]}",
     True),
    ("from collections import deque; return deque([1, 2])", "list(f()) == [1, 2]", True),
    ("from collections import namedtuple as N; return N('P', 'x y')(1, [2])",
     "f() == (1, [2]) and f().y == [2]",
     True),
    ("from typing import NamedTuple as N\n    class P(N):\n        x: int\n    return [P(3)]",
     "f() == [(3,)]", True),
    ("class P(tuple):\n        _fields = ('x',)\n        def __eq__(s, o): return True\n    return P([1])",
     "f() == (2,)", False),
    ("return 3", "f() == 3 and f.__name__ == 'f'", True),
    ("return range(3)", "list(f()) == [0, 1, 2]", True),
    ("return bytearray(b'x')", "f() == b'x'", True),
    ("return {1: 2}.keys()", "f() == {1} and list(f()) == [1]", True),
    ("return {1: 2}.values()", "list(f()) == [2]", True),
    ("return {1: 2}.items()", "list(f()) == [(1, 2)]", True),
    ("return map(abs, [-1, 2])", "list(f()) == [1, 2]", True),
    ("return (i * i for i in range(4))", "sum(f()) == 14", True),
    ("import itertools; return itertools.count(5)", "[x for x, _ in zip(f(), 'abc')] == [5, 6, 7]", True),
    ("return map(abs, [-1])", "f() == [1]", False),
    ("import datetime; return datetime.date(2020, 2, 29)", "f().year == 2020", True),
    ("return lambda x: x + 1", "f()(2) == 3", True),
    ("class A: v = 5\n    return A()", "f().v == 5", True), ("return float('nan')", "f() != f()", True),
    ("return frozenset([1])", "f() == {1}", True)])
def test_answers_are_taken_as_the_official_harness_takes_them(body, call, holds):
    verdict = judge("", f"def f():\n    {body}\n", f"def check(f):\n    assert {call}\n", "f", LIMITS)
    assert verdict.passed == holds, verdict.reason


MUTATING = {
    "a list is sorted": ("x.sort()", "x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]"),
    "a list within a list": ("x[1].append(x[0])",
                             "x = [[1], [2]]\nf(x)\nassert x == [[1], [2, [1]]] and x[1][1] is x[0]"),
    "an alias is the same list": ("x[0].append(5)",
                                  "a = [1]\nx = [a, a]\nf(x)\nassert a == [1, 5] and x[1] is x[0] is a"),
    "sorting only moves lists": ("x.sort()",
                                                     "a = [2]\nx = [a, [1]]\nf(x)\nassert x[1] is a == [2]"),
    "a dictionary": ("x['b'] = x.pop('a')",
                     "x = {'a': [1]}\ny = x['a']\nf(x)\nassert x == {'b': [1]} and x['b'] is y"),
    "a set": ("x.discard(1)", "x = {1, 2}\nf(x)\nassert x == {2}"),
    "a bytearray": ("x[0] = 65", "x = bytearray(b'ab')\nf(x)\nassert x == b'Ab'"),
    "a Counter": ("x.update('a')",
                  "from collections import Counter\nx = Counter('a')\nf(x)\nassert x == Counter('aa')"),
    "by keyword": ("x.clear()", "x = [1]\nf(x=x)\nassert x == []"),
    "the list itself is the answer": ("return x", "x = [1]\nassert f(x) is x"),
    "nothing changes": ("return [*x, 4]", "x = [1]\nassert f(x) == [1, 4] and x == [1]"),
    "before an exception": ("x.append(1); raise KeyError('k')",
                            "x = []\ntry:\n    f(x)\nexcept KeyError:\n    pass\nassert x == [1]"),
    "a list in itself": ("x.append(x)", "x = [1]\nf(x)\nassert x[1] is x")}


@pytest.mark.parametrize("name", MUTATING)
def test_a_call_changes_its_arguments(name):
    body, test = MUTATING[name]
    space: dict = {}
    exec(f"def f(x):\n    {body}\n{test}", space)            # the test holds in one process
    verdict = judge("", f"def f(x):\n    {body}\n", test, "f", LIMITS)
    assert verdict.passed, verdict.reason


@pytest.mark.parametrize("body, test, passes", [
    ("raise ValueError('bad x')",
     "try:\n    f()\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'bad x'", True),
    ("return 1", "try:\n    f()\n    assert False, 'no error'\nexcept ValueError:\n    pass", False),
    ("raise TypeError('x')", "try:\n    f()\nexcept ValueError:\n    pass", False),
    ("return {}['k']", "try:\n    f()\nexcept LookupError:\n    pass", True),
    ("raise Mine('x', 2)", "try:\n    f()\nexcept Mine as e:\n    assert e.args == ('x', 2)", True),
    ("class Own(ValueError): pass\n    raise Own('x')",
     "try:\n    f()\nexcept ValueError as e:\n    assert str(e) == 'x'", True),
    ("return 1 / 0", "import unittest\nunittest.TestCase().assertRaises(ZeroDivisionError, f)", True),
    ("raise SystemExit(0)", "try:\n    f()\nexcept BaseException:\n    raise", False),
    ("import os; os._exit(0)", "f()", False),
    ("b'\\xff'.decode()", "try:\n    f()\nexcept ValueError:\n    pass", True),
    ("f()", "try:\n    f()\nexcept RecursionError:\n    pass", True),
    ("assert False, 'inside'", "f()", False)])
def test_exceptions_reach_the_test_that_expects_them(body, test, passes):
    verdict = judge("class Mine(Exception):\n    pass\n", f"def f():\n    {body}\n", test, "f", LIMITS)
    assert verdict.passed == passes, verdict.reason
    assert passes or verdict.reason


def test_a_test_may_call_the_function_by_its_name_and_use_the_prompt_s_helpers():
    prompt = ("def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\n"
              "def sort_third(l):\n    '''x'''\n")
    test = ("def check(candidate):\n"
            "    assert tuple(candidate([3, 1])) == tuple(sort_third([3, 1])) == (1, 3)\n"
            "    assert poly([1, 2], 3) == 7\n    assert helper(2) == 4\n")
    right = "    return sorted(l)\n\ndef helper(x):\n    return 2 * x\n"
    assert judge(prompt, right, test, "sort_third", LIMITS).passed
    assert not judge(prompt, right.replace("sorted(l)", "l"), test, "sort_third", LIMITS).passed
    assert judge(prompt, "    return sorted(l)\n", test, "sort_third",
                 LIMITS).reason == "unusable answer: NameError"


CHEATS = {"equal": "def __eq__(s, o): return True", "unequal": "def __ne__(s, o): return False",
          "true": "def __bool__(s): return True",
          "long": "def __len__(s): return 3", "contains": "def __contains__(s, o): return True",
          "less": "def __lt__(s, o): return True",
          "hash": "def __hash__(s): return 3\n        def __eq__(s, o): return True",
          "reflected": "def __radd__(s, o): return 3",
          "getattr": "def __getattr__(s, n): return 3"}


BELIEF = ("f() == 3", "3 == f()", "f()", "f() in [3]", "3 in f()", "len(f()) == 3", "f() < 3", "f() in {3}",
          "not f() != 3",
          "{f(): 1}.get(3)", "f() + 0 == 3", "0 + f() == 3", "int(f()) == 3", "isinstance(f(), int)",
          "[*f()] == [3]", "str(f()) == '3'",
          "sorted([f(), 3])", "max(f(), 2) == 3", "f()[0] == 3", "abs(f() - 3) < 1", "f'{f()}' == '3'",
          "f() <= 3 <= f()")


@pytest.mark.parametrize("name", CHEATS)
def test_an_object_of_the_program_is_never_believed(name):
    source = f"class A:\n    {CHEATS[name]}\n    def __iter__(s): return iter([3])\ndef f(): return A()\n"
    with Sandbox(source.replace("\n        def", "\n    def"), LIMITS) as program:
        for test in BELIEF:
            try:
                believed = eval(f"bool({test})", {"f": lambda: program.call("f")})
            except (Failed, TypeError):
                continue
            assert not believed, test
    assert not judge("", source.replace("\n        def", "\n    def"), "assert f() == 3", "f", LIMITS).passed


def test_a_hostile_reply_is_refused():
    forge = ("import os, sys\ndef f(x):\n    for fd in range(3, 20):\n"
             "        try: os.write(fd, b'%s\\n')\n        except OSError: pass\n")
    for reply in (b'{"value": {"same": 7}}', b'{"changed": [[0, 5]], "value": 1}',
                  b'{"changed": 1, "value": 1}', b'{"changed": [[9, []]], "value": 1}',
                  b'{"value": {"ref": 1}}', b'{"value": {"iterator": "x"}}',
                  b'{"value": {"range": [0, 10000000000, 1]}}', b'{"raised": 5}',
                  b'{"value": {"namedtuple": ["P", ["a b", "def"], [1, 2]]}}',
                  b'{"value": {"namedtuple": ["P", ["a"], []]}}',
                  b'{"value": {"Decimal": "x"}}', b'{"value": {"int": 5}}', b'[]',
                  b'{"value": {"Fraction": ["0x1", "0x0"]}}'):
        with Sandbox(forge % reply.decode().replace("'", "\\'"), LIMITS) as program, pytest.raises(Failed):
            program.call("f", [1])


MBPP = [
    {"task_id": 11, "text": "Write a python function to remove \"\"\" first and last.\r\nReally.",
     "code": "def remove_Occ(s,ch): \r\n    return s.replace(ch, '')",
     "test_list": ["assert remove_Occ(\"hello\",\"l\") == \"heo\"",
                   "assert remove_Occ(\"a\\\\b\",\"\\\\\") == \"ab\""], "test_setup_code": "",
                   "challenge_test_list": []},
    {"task_id": 601, "text": "Pairs.",
     "code": "class Pair(object): \n\tdef __init__(self, a, b): \n\t\tself.a = a \n\t\tself.b = b \n"
     "def longest(arr, n): \n\treturn max(p.b - p.a for p in arr)",
     "test_list": ["assert longest([Pair(5, 24), Pair(15, 25)], 2) == 19"], "test_setup_code": ""},
    {"task_id": 927, "text": "Height.",
     "code": "class Node: \n\tdef __init__(self, data): \n\t\tself.data = data \n\t\tself.left = None \n"
     "\t\tself.right = None \n"
     "def height(node): \n\treturn 0 if node is None else 1 + max(height(node.left), height(node.right))",
     "test_list": ["assert (height(root)) == 3", "assert height(root.left) == 2"],
     "test_setup_code": "root = Node(1) \r\nroot.left = Node(2) \r\nroot.left.left = Node(3)"},
    {"task_id": 88, "prompt": "Sanitized.",
     "code": "from collections import Counter\ndef freq(x):\n  return Counter(x)",
     "test_imports": ["import math"],
     "test_list": ["assert freq([1, 1, 2]) == ({1: 2, 2: 1})", "assert math.isclose(freq([1])[1], 1)"]},
    {"task_id": 5, "text": "Sets.", "code": "def pairs(x):\n    return [(1, 2)]",
     "test_list": ["assert set(pairs([1])) == set([(1, 2)])"], "test_setup_code": ""}]


@pytest.mark.parametrize("shape", ["lines", "list"])
def test_mbpp_passes_whole_with_its_own_solutions(tmp_path, shape):
    path = tmp_path / "mbpp.jsonl"
    path.write_text(json.dumps(MBPP) if shape == "list" else "\n".join(map(json.dumps, MBPP)))
    tasks = load_mbpp(path)
    assert [t.task_id for t in tasks] == [f"MBPP/{row['task_id']}" for row in MBPP]
    assert [t.entry_point for t in tasks] == ["remove_Occ", "longest", "height", "freq", "pairs"]
    solutions = {t.prompt: t.solution for t in tasks}
    assert programs(lambda prompt: [solutions[prompt]], tasks).mean == 1
    assert programs(lambda prompt: [solutions[prompt].replace("return", "return None or [] and")],
                    tasks).mean == 0
