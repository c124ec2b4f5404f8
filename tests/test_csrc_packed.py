"""A matrix in 4 or 8 bits times vectors, against the unpacked matrix in float64: every way, many shapes."""

import os
import threading
import warnings

import pytest
import torch

import cuda_build
import packed_product as module
from packed_product import packed_product

# (vectors, rows, n)
SHAPES = [(1, 1, 16), (1, 3, 16), (2, 5, 48), (3, 1, 32), (4, 33, 80), (5, 7, 160), (9, 65, 112),
          (1, 701, 1040), (6, 300, 2064)]
needs_compiler = pytest.mark.skipif(not cuda_build.cpu_compiler(), reason="no C++ compiler found")


@pytest.fixture(autouse=True)
def load_again():
    module.library.cache_clear()
    yield
    module.library.cache_clear()


def matrix(rows: int, n: int, bits: int, seed: int = 0) -> tuple:
    """packed, codes, table, and the same matrix in float64, unpacked here by Python's own integers."""
    dice = torch.Generator().manual_seed(seed)
    top = 2 ** (bits - 1)
    integers = torch.randint(-top, top, (rows, n), dtype=torch.int8, generator=dice)
    integers[0, :8] = torch.tensor([-top, top - 1] * 4)
    codes = torch.randint(256, (rows, n // 16), dtype=torch.uint8, generator=dice)
    table = torch.rand(256, generator=dice)
    packed = integers
    if bits == 4:
        bytes_of = [[a + 8 | b + 8 << 4 for a, b in zip(row[::2], row[1::2])] for row in integers.tolist()]
        packed = torch.tensor(bytes_of, dtype=torch.uint8)
    whole = integers.double() * table.double()[codes.long()].repeat_interleave(16, 1)
    return packed, codes, table, whole


def assert_near(got, x, whole):
    """Within float32's rounding of the sum of the magnitudes."""
    bound = x.double().abs() @ whole.abs().T * 1e-6 + 1e-30
    assert got.shape == bound.shape and ((got.double() - x.double() @ whole.T).abs() <= bound).all()


@needs_compiler
@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("vectors,rows,n", SHAPES)
def test_every_way_gives_the_product_with_the_unpacked_matrix(vectors, rows, n, bits):
    *packed, whole = matrix(rows, n, bits)
    x = torch.randn(vectors, n, generator=torch.Generator().manual_seed(1))
    results = [packed_product(x, *packed, bits, threads=t) for t in (1, 2, 5)]
    for y in (*results, packed_product(x, *packed, bits, plain=True), module.product_torch(x, *packed, bits)):
        assert_near(y, x, whole)
    assert all(torch.equal(results[0], y) for y in results), "the number of threads changed the result"


@needs_compiler
def test_what_one_weight_or_one_scale_does_is_seen_at_its_place_alone():
    packed, codes, table, whole = matrix(9, 48, 4)
    for column in (0, 15, 16, 47, 33):
        unit = torch.zeros(48)
        unit[column] = 1
        y = packed_product(unit, packed, codes, table, 4)
        torch.testing.assert_close(y.double(), whole[:, column], atol=0, rtol=1e-7)


@needs_compiler
def test_a_view_that_begins_anywhere_and_strides_are_read_rightly():
    packed, codes, table, whole = matrix(21, 64, 4)
    room = torch.randn(3, 200)
    x = room[:, 3:67]
    assert_near(packed_product(x, packed.T.contiguous().T, codes, table, 4), x, whole)
    odd = torch.cat((torch.zeros(1, dtype=torch.uint8), packed.flatten()))[1:].view(21, 32)   # an odd address
    assert_near(packed_product(x, odd, codes, table, 4), x, whole)
    assert packed_product(x.view(3, 1, 64), packed, codes, table, 4).shape == (3, 1, 21)


@needs_compiler
def test_many_callers_at_once_and_a_changing_number_of_threads_disturb_nobody():
    cases = [(matrix(301 + i, 1024, 4, i), torch.randn(1, 1024)) for i in range(4)]
    wrong = []

    def work(i):
        (*packed, whole), x = cases[i]
        for k in range(40):
            y = packed_product(x, *packed, 4, threads=1 + (i + k) % 4)
            if not torch.equal(y, packed_product(x, *packed, 4, threads=1)):
                wrong.append((i, k))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_team_of_its_own():
    (*packed, _), x = matrix(600, 512, 8), torch.randn(1, 512)
    wanted = packed_product(x, *packed, 8, threads=3)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if torch.equal(packed_product(x, *packed, 8, threads=3), wanted) else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("why", ("no compiler", "does not compile"))
def test_without_a_compiler_torch_does_it_after_one_sentence(monkeypatch, tmp_path, why):
    monkeypatch.setattr(cuda_build, "CACHE", tmp_path / "kernels")
    if why == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        bad = tmp_path / "bad.cpp"
        bad.write_text("int f( {")
        monkeypatch.setattr(module, "SOURCE", bad)
    *packed, whole = matrix(10, 32, 4)
    x = torch.randn(2, 32)
    with pytest.warns(UserWarning, match="plain torch"):
        y = packed_product(x, *packed, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(packed_product(x, *packed, 4), y)
    assert_near(y, x, whole)


def test_gradients_and_other_formats_take_the_way_that_has_them():
    *packed, whole = matrix(6, 32, 8)
    x = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)
    y = packed_product(x, *packed, 8)
    torch.testing.assert_close(y, x @ whole.T)
    leaf = torch.randn(32, requires_grad=True)
    packed_product(leaf, *packed, 8).sum().backward()
    torch.testing.assert_close(leaf.grad, whole.sum(0).float())
    assert packed_product(torch.randn(0, 32), *packed, 8).shape == (0, 6)


@pytest.mark.parametrize("change, says", [
    (dict(bits=5), "4 bits as uint8"), (dict(packed=torch.zeros(3, 16, dtype=torch.int8)), "4 bits as uint8"),
    (dict(x=torch.zeros(1, 24)), "multiple of 16"), (dict(x=torch.zeros(1, 48)), "rows of 24 bytes"),
    (dict(codes=torch.zeros(3, 1, dtype=torch.uint8)), r"codes \(3, 1\)"),
    (dict(table=torch.ones(255)), "table"),
    (dict(codes=torch.zeros(3, 2, dtype=torch.uint8, device="meta")), "on cpu and meta"),
    (dict(codes=torch.zeros(3, 2, dtype=torch.int64)), "uint8")], ids=str)
def test_what_does_not_fit_together_is_refused(change, says):
    sound = dict(x=torch.zeros(1, 32), packed=torch.zeros(3, 16, dtype=torch.uint8),
                 codes=torch.zeros(3, 2, dtype=torch.uint8), table=torch.ones(256), bits=4)
    with pytest.raises(ValueError, match=says):
        packed_product(**(sound | change))


@needs_compiler
def test_a_processor_without_avx2_gets_the_same_from_the_same_text(monkeypatch, tmp_path):
    source = tmp_path / "packed_product.cpp"
    source.write_text(module.SOURCE.read_text().replace("defined(__x86_64__)", "0"))
    monkeypatch.setattr(module, "SOURCE", source)
    monkeypatch.setattr(cuda_build, "CACHE", tmp_path / "kernels")
    for bits in (4, 8):
        *packed, whole = matrix(37, 176, bits)
        x = torch.randn(5, 176)
        assert_near(packed_product(x, *packed, bits, threads=3), x, whole)
