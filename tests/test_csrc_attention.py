"""Attention by our CUDA kernels against torch in float64: values and gradients, emulated and on a GPU."""

import pytest
import torch

import cuda_build
import kernels

# (batch, query heads, key heads, length, head width): one token, ragged and full tiles, groups
SHAPES = [(1, 1, 1, 1, 16), (1, 1, 1, 2, 16), (2, 1, 1, 15, 16), (1, 2, 1, 31, 16), (1, 2, 2, 32, 16),
          (1, 4, 2, 33, 16), (1, 1, 1, 64, 16), (2, 2, 1, 65, 16), (1, 4, 1, 100, 16), (1, 1, 1, 129, 16),
          (1, 2, 1, 47, 24), (1, 1, 1, 70, 24), (1, 1, 1, 1, 32), (1, 4, 4, 63, 32), (2, 4, 2, 40, 32),
          (1, 6, 2, 66, 32), (1, 1, 1, 1, 64), (1, 2, 2, 65, 64), (1, 4, 2, 33, 64), (1, 2, 1, 96, 64),
          (1, 1, 1, 17, 128), (1, 2, 1, 50, 128), (2, 2, 2, 16, 128), (1, 2, 1, 34, 120)]
CASES = [(*shape, causal) for shape in SHAPES for causal in (False, True)]


def needs(device: str):
    """Skip where the kernels cannot run on this device."""
    return pytest.mark.skipif(bool(kernels.why_not(device)), reason=kernels.why_not(device) or "runs")


MODES = [pytest.param(m, marks=needs("cuda" if m == "gpu" else "cpu")) for m in ("fast", "check", "gpu")]


def tensors(B: int, H: int, K: int, T: int, D: int, mode: str, scale: float = 1.0) -> list:
    """q, k, v and the gradient of the output, on the device of the mode."""
    generator = torch.Generator().manual_seed(1000 * T + D)
    shapes = [(B, H, T, D), (B, K, T, D), (B, K, T, D), (B, H, T, D)]
    made = [scale * torch.randn(*shape, generator=generator) for shape in shapes]
    return [x.cuda() for x in made] if mode == "gpu" else made


def reference(q, k, v, d_o, causal: bool) -> tuple:
    """torch's own attention in float64 on the CPU: output and gradients."""
    q, k, v, d_o = (x.detach().cpu().double() for x in (q, k, v, d_o))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in leaves[1:])
    o = torch.nn.functional.scaled_dot_product_attention(leaves[0], k, v, is_causal=causal)
    return o.detach(), torch.autograd.grad(o, leaves, d_o)


def assert_near(got, wanted, what: str) -> None:
    torch.testing.assert_close(got.cpu().double(), wanted, atol=1e-5, rtol=1e-5,
                               msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("B,H,K,T,D,causal", CASES)
def test_flash_attention_and_its_gradients_equal_float64(B, H, K, T, D, causal, mode):
    q, k, v, d_o = tensors(B, H, K, T, D, mode)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    o = kernels.flash_attention(*leaves, causal=causal, mode=mode)
    gradients = torch.autograd.grad(o, leaves, d_o)
    wanted, wanted_gradients = reference(q, k, v, d_o, causal)
    assert_near(o.detach(), wanted, "output")
    for name, got, want in zip(("dQ", "dK", "dV"), gradients, wanted_gradients):
        assert_near(got, want, name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("B,H,K,T,D,causal", CASES[::3])
def test_naive_attention_equals_float64(B, H, K, T, D, causal, mode):
    q, k, v, d_o = tensors(B, H, K, T, D, mode)
    assert_near(kernels.naive_attention(q, k, v, causal, mode), reference(q, k, v, d_o, causal)[0], "output")


@pytest.mark.parametrize("mode", MODES)
def test_scores_too_large_for_exp_do_no_harm(mode):
    q, k, v, d_o = tensors(1, 2, 1, 40, 32, mode, scale=8.0)  # scores up to some hundreds: exp would overflow
    leaves = [x.requires_grad_() for x in (q, k, v)]
    o = kernels.flash_attention(*leaves, mode=mode)
    wanted, gradients = reference(q, k, v, d_o, True)
    torch.testing.assert_close(o.detach().cpu().double(), wanted, atol=1e-4, rtol=1e-4)
    for got, want in zip(torch.autograd.grad(o, leaves, d_o), gradients):
        torch.testing.assert_close(got.cpu().double(), want, atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_tensors_that_are_not_contiguous_work(mode):
    x = tensors(1, 33, 33, 4, 32, mode)[:3]
    q, k, v = (t.transpose(1, 2).requires_grad_() for t in x)  # (1, 4, 33, 32), strided
    o = kernels.flash_attention(q, k, v, mode=mode)
    d_o = torch.ones_like(o).transpose(2, 3).contiguous().transpose(2, 3)
    wanted, gradients = reference(q, k, v, d_o, True)
    assert_near(o.detach(), wanted, "output")
    for got, want in zip(torch.autograd.grad(o, (q, k, v), d_o), gradients):
        assert_near(got, want, "gradient")


@pytest.mark.skipif(bool(kernels.why_not()), reason=kernels.why_not() or "runs")
def test_the_log_sum_exp_is_that_of_the_scores():
    q, k, v, _ = tensors(1, 2, 2, 50, 16, "fast")
    _, lse = kernels.flash_forward(kernels.load("flash_attention.cu", "fast", ("-DHEAD_WIDTH=16",)), q, k, v,
                                   False)
    torch.testing.assert_close(lse.double(), (q.double() @ k.double().mT / 4).logsumexp(-1), atol=1e-5,
                               rtol=1e-5)


def test_wrong_shapes_and_types_are_refused_with_a_sentence():
    q, k = torch.zeros(1, 4, 8, 16), torch.zeros(1, 3, 8, 16)
    for args, sentence in [
        ((q, k, k), "choose a divisor of 4"),
        ((q, q[:, :, :4], q), "want \\(B, H, T, D\\)"),
        ((q[..., :12],) * 3, "multiples of 8 from 16 to 128"),
        ((q.double(),) * 3, "call .float\\(\\)"),
        ((q[:, :, :0],) * 3, "at least one token"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            kernels.flash_attention(*args)


def test_without_a_compiler_one_sentence_is_said_and_torch_computes(monkeypatch):
    monkeypatch.setenv("CXX", "g++ -O2")      # options are none of a name
    q, k, v, d_o = tensors(1, 4, 2, 9, 16, "fast")
    q.requires_grad_()
    with pytest.warns(UserWarning, match=r"CXX is 'g\+\+ -O2'.*unset it, or give the name of a "
                      r"C\+\+ compiler alone.*plain torch computes"):
        o = kernels.flash_attention(q, k, v)
    wanted, gradients = reference(q, k, v, d_o, True)
    assert_near(o.detach(), wanted, "output")
    assert_near(torch.autograd.grad(o, q, d_o)[0], gradients[0], "dQ")
    assert not kernels.available()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert kernels.why_not() == "no C++ compiler found: install g++ or clang++, or set CXX"


def test_a_library_that_cannot_be_loaded_is_one_sentence_and_made_anew(tmp_path):
    """As when CXX=gcc links it without C++'s own library, or another machine made it."""
    library = tmp_path / "vector_add-fast-0.so"
    library.write_bytes(b"not ELF")
    with pytest.raises(cuda_build.BuildError, match="^vector_add-fast-0.so cannot be loaded .*name a C"):
        cuda_build.load(library)
    assert not library.exists()


def test_a_compiler_that_makes_nothing_is_one_sentence(tmp_path, monkeypatch):
    """As CXX=/bin/true, or a wrapper that forgot to pass its words on."""
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\nexit 0\n")
    idle.chmod(0o755)
    monkeypatch.setenv("CXX", str(idle))
    monkeypatch.setattr(cuda_build, "CACHE", tmp_path / "kernels")
    for make in (lambda: cuda_build.build(cuda_build.HERE / "attention_naive.cu"),
                 lambda: cuda_build.build_host(cuda_build.HERE / "attention_naive.cu")):
        with pytest.raises(cuda_build.BuildError, match="idle ended well but made no .*is it a compiler"):
            make()
