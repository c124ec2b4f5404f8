"""Values, gradients and helpers across the wall: as if there were none, and nothing else from the body's
side.
"""

import collections
import importlib
import math
import socket
import sys
import threading
import types

import numpy as np
import pytest
import torch

import learn_judge
from learn_body import BodyEnd
from learn_far import BodyError
from learn_judge import Body

CHAPTER = '''
import dataclasses
import torch


@dataclasses.dataclass
class Pair:
    a: float
    b: tuple


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.act, self.inner = torch.nn.Parameter(torch.ones(2)), torch.tanh, []

    def forward(self, x):
        return self.act(x * self.weight)


class Holder:
    def __init__(self):
        self.rows, self.other = [[1], [2]], 0

    def grow(self):
        self.rows[0].append(9)
        self.other = 5


def same(x): return x
def pair(a): return Pair(a, (a,))
def views(x): return x[1:], x[:1].clone()
def product(x, y): return (x * y).sum(), x.detach()
def spoils(x): x += 1; return x * 2
def extends(x): x.append(1); return len(x)
def calls(f, x): return f(x) * 2
def trains(f, x): (f(x) ** 2).sum().backward(); return x.grad
def steps(parameters, f):
    for p in parameters: p.grad = None
    f().backward()
    parameters[0].grad *= 10
def fills(team, x): team.exchange(x, 1, into := torch.zeros(2)); return into
def reads(helper, name): return getattr(helper, name)
def draws(): return torch.rand(3)
def fails(x): return 1 // x
def prints(x): print("said", x)
'''
HELPERS = '''
import torch


class Team:
    def __init__(self):
        self.size, self.seen, self._secret = 2, [], 7

    def exchange(self, out, to, into):
        self.seen.append((out.tolist(), to))
        into.copy_(out * 10)


def asserts(x):
    assert False, "a helper's own words"
'''


@pytest.fixture
def wall(tmp_path, monkeypatch):
    """call(function, arguments, contract) over a real line, and the two modules of a little tree."""
    for name, text in (("0_demo/wall_demo.py", CHAPTER), ("tests/wall_helpers.py", HELPERS)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
        monkeypatch.syspath_prepend(tmp_path / name.split("/")[0])
    modules = [importlib.import_module(name) for name in ("wall_demo", "wall_helpers")]
    near, far = socket.socketpair()
    out, end = sys.stdout, BodyEnd(far, str(tmp_path))
    sys.stdout = out

    def serve():
        try:
            while True:
                end.serve(*end.receive())
        except learn_judge.Gone:
            pass
    threading.Thread(target=serve, daemon=True).start()
    judge = Body(near, str(tmp_path), 0)

    def call(name, contract=(), /, **arguments):
        return judge.call("call", [["wall_demo", name], arguments], arguments, contract)
    call.judge = judge
    yield types.SimpleNamespace(call=call, demo=modules[0], helpers=modules[1], judge=judge)
    near.close()
    for name in ("wall_demo", "wall_helpers"):
        del sys.modules[name]


PLAIN = [None, True, 7, -(10**30), 0.1, math.inf, "ß\ud800\n", b"\x00\xff", [1, [2]], (1, (2,)), {1, 2},
         frozenset({"a"}),
         {(1, 2): [3]}, collections.Counter("aab"), collections.OrderedDict(a=1), 3 + 4j, range(2, 9, 3),
         slice(1, None), bytearray(b"x"), []]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_come_back_as_they_went(wall, value):
    got = wall.call("same", x=[value])[0]
    assert got == value and type(got) is type(value)


def test_numbers_that_equal_nothing_or_zero_come_back_exactly(wall):
    nan, zero = wall.call("same", x=(math.nan, -0.0))
    assert math.isnan(nan) and math.copysign(1, zero) == -1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool,
                                   torch.complex64])
def test_tensors_keep_type_shape_and_strides(wall, dtype):
    x = torch.arange(24).reshape(2, 3, 4).to(dtype).transpose(0, 2)[1:]
    got = wall.call("same", x=[x.clone(), x])
    assert all(g.dtype == dtype and torch.equal(g, x) for g in got) and got[1].stride() == x.stride()
    assert wall.call("same", x=[torch.tensor(math.nan)])[0].isnan()


@pytest.mark.parametrize("kind", ["<u8", ">i2", "<f4", "?", "<U3", "S2"])
def test_arrays_keep_type_and_shape(wall, kind):
    x = np.array([["1", "0"], ["1", "1"]]).astype(kind)
    got = wall.call("same", x=[x.T, x[0, 0]])
    assert np.array_equal(got[0], x.T) and got[0].dtype == x.dtype and got[1] == x[0,
            0] and got[1].dtype == x[0, 0].dtype


def test_what_is_the_callers_own_comes_back_as_the_callers_own(wall):
    given, x = [1, 2], torch.arange(4.0)
    assert wall.call("same", x=given) is given and wall.call("same", x=x) is x
    view, copy = wall.call("views", x=x)
    view[:] = 9
    copy[:] = 7
    assert x.tolist() == [0, 9, 9, 9]                # a view is a view of the judge's memory, a copy is not


def test_instances_of_the_chapters_cross_and_dataclasses_come_back(wall):
    got = wall.call("pair", a=0.5)
    assert got == wall.demo.Pair(0.5, (0.5,)) and type(got) is wall.demo.Pair
    layer, x = wall.demo.Layer(), torch.randn(3, 2)
    path = [["wall_demo", "Layer.forward"], {"self": layer, "x": x}]
    assert torch.equal(wall.judge.call("call", path, path[1], ()), layer(x))


def test_gradients_flow_back_through_the_wall(wall):
    x, y = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    total, detached = wall.call("product", x=x * 2, y=y)
    total.backward()
    assert torch.allclose(x.grad, 2 * y) and torch.allclose(y.grad,
                                                            2 * x.detach()) and not detached.requires_grad
    layer = wall.demo.Layer()
    path = [["wall_demo", "Layer.forward"], {"self": layer, "x": torch.ones(2)}]
    wall.judge.call("call", path, path[1], ()).sum().backward()
    assert torch.allclose(layer.weight.grad, 1 - torch.tanh(torch.ones(2)) ** 2)
    with torch.no_grad():
        assert not wall.call("product", x=x, y=y)[0].requires_grad


def test_a_change_in_place_is_refused_unless_it_is_what_the_call_is_for(wall):
    for given in (torch.zeros(2), [torch.zeros(2)]):
        with pytest.raises(AssertionError, match="changes its argument `x`"):
            wall.call("spoils", x=given) if isinstance(given, torch.Tensor) else wall.call("extends", x=given)
        assert len(given) == (2 if isinstance(given, torch.Tensor) else 1) and not given[0].any()
    x, rows = torch.zeros(2), [5]
    assert wall.call("spoils", ("x",), x=x).tolist() == [2, 2] and x.tolist() == [1, 1]
    assert wall.call("extends", ("x",), x=rows) == 2 and rows == [5, 1]
    for contract, wanted in (((), ([[1], [2]], 0)), (("self.rows",), ([[1, 9], [2]], 0)),
                             (("self.other",), ([[1], [2]], 5))):
        holder = wall.demo.Holder()
        path = [["wall_demo", "Holder.grow"], {"self": holder}]
        wall.judge.call("call", path, path[1], contract)
        assert (holder.rows, holder.other) == wanted


def test_helpers_of_a_test_are_called_where_the_test_is(wall):
    seen = []
    assert wall.call("calls", f=lambda x: seen.append(x) or x + 1, x=4) == 10 and seen == [4]
    team = wall.helpers.Team()
    assert wall.call("fills", team=team, x=torch.tensor([1.0, 2])).tolist() == [10,
            20] and team.seen == [([1, 2], 1)]
    assert wall.call("reads", helper=team, name="size") == 2


@pytest.mark.parametrize("name", ["_secret", "__class__", "__dict__", "__init__", "nothing"])
def test_only_what_is_public_of_a_helper_is_served(wall, name):
    with pytest.raises((TypeError, AttributeError, BodyError)):
        assert wall.call("reads", helper=wall.helpers.Team(), name=name) is None
    with pytest.raises(TypeError, match="no public"):
        wall.judge.served(wall.helpers.Team(), name)
    with pytest.raises(TypeError, match="no public"):
        wall.judge.served(wall.demo.Holder(), "grow")


def test_gradients_flow_through_a_helper_and_reach_what_it_holds(wall):
    w = torch.nn.Parameter(torch.tensor(3.0))
    x = torch.tensor([2.0], requires_grad=True)
    got = wall.call("trains", ("gradients",), f=lambda x: w * x, x=x)
    assert got.tolist() == [36] and w.grad == 24    # of (w x)^2, by x and by w
    w.grad = torch.tensor(100.0)
    wall.call("steps", ("gradients",), parameters=[w], f=lambda: w * w)
    assert w.grad == 60                             # dropped, made anew (2 w = 6), times ten


def test_errors_come_back_as_they_were(wall):
    with pytest.raises(ZeroDivisionError) as caught:
        wall.call("fails", x=0)
    assert caught.value.far[-1][1] == CHAPTER.splitlines().index("def fails(x): return 1 // x") + 1
    with pytest.raises(AssertionError, match="a helper's own words"):
        wall.call("calls", f=wall.helpers.asserts, x=1)


def test_the_judges_generator_is_the_bodys_and_moves_only_by_itself(wall):
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(wall.call("draws"), wanted) and not torch.equal(torch.rand(3), wanted)
    state = torch.get_rng_state()
    wall.call("same", x=1)
    assert torch.equal(torch.get_rng_state(), state)


HOSTILE = [{"value": ["object", "builtins", "object", ["dict", [], None]]},
           {"value": ["name", "os", "system"]},
           {"value": ["pattern", "re", "a", 0]}, {"value": ["method", 1, "x"]}, {"value": ["judge's", 99]},
           {"value": ["same", 99]},
           {"value": ["tensor", ["float32", [9], [1], 0, False, False, 4], None]},
           {"value": ["array", "|O", [1], 8]},
           {"value": ["array", "<f8", [1], 10**9]}, {"value": ["result", 0]}, {"value": {"x": 1}},
           {"value": [[]]}, {},
           {"value": 1, "state": {"x": 1}}, {"value": 1, "state": {"__class__": 1}},
           {"value": ["torch", "load", "x"]}]


@pytest.mark.parametrize("message", HOSTILE, ids=str)
def test_nothing_but_values_is_read_from_a_body(wall, message):
    end = wall.judge
    end.receive = lambda: ({"results": [], "key": 0, **message}, b"1234")
    end.send = lambda *words: None
    with pytest.raises((ValueError, TypeError, KeyError, IndexError, AttributeError)):
        end.call("call", [["wall_demo", "same"], {}], {}, ())
