"""The exercises of chapter 3 about the direction of a step: AdamW and Muon."""

import pytest
import torch
from torch import nn

from adamw import AdamW
from ex_compare import call, same, show
from muon import orthogonalize

# 3.8 the direction of AdamW


def directions(grads, betas, eps, steps=None):
    """What direction() returns for gradients that come one after the other, and m and v at the end."""
    optimizer = AdamW([nn.Parameter(torch.zeros_like(grads[0]))], lr=1.0, betas=betas, eps=eps)
    m, v, out = torch.zeros_like(grads[0]), torch.zeros_like(grads[0]), []
    for i, grad in enumerate(grads):
        optimizer.steps = i + 1 if steps is None else steps[i]
        out.append(call(f"gradient {show(grad)} in step {optimizer.steps}", optimizer.direction, grad, m, v))
    return out, m, v


@pytest.mark.ex("3.8")
def test_the_first_step_is_the_sign():
    """the first step is the sign of the gradient, whatever its size"""
    grad = torch.tensor([3.0, -0.01, 1e-4, -500.0], dtype=torch.float64)
    (got,), _, _ = directions([grad.clone()], (0.9, 0.95), 1e-12)
    same(got, grad.sign(), f"gradient {grad.tolist()}, step 1, betas (0.9, 0.95)",
         "with both corrections m_hat = g and v_hat = g^2, so m_hat / sqrt(v_hat) = sign(g)",
         {"m is not corrected for starting at zero: divide by 1 - b1^t": 0.1 * grad.sign(),
          "v is not corrected for starting at zero: divide by 1 - b2^t": 0.05**-0.5 * grad.sign(),
          "neither m nor v is corrected for starting at zero": 0.1 * 0.05**-0.5 * grad.sign(),
          "the root of v is missing": 1 / grad}, rtol=1e-4)


@pytest.mark.ex("3.8")
@pytest.mark.parametrize("b1, b2", [(0.7, 0.9), (0.3, 0.4)])
def test_five_steps_follow_the_formula(b1, b2):
    """five steps follow the formula, each with its own correction"""
    eps = 0.3
    grads = [torch.randn(4, dtype=torch.float64) for _ in range(5)]
    got, _, _ = directions([g.clone() for g in grads], (b1, b2), eps)
    for t in range(1, 6):
        m = sum((1 - b1) * b1 ** (t - 1 - i) * grads[i] for i in range(t))
        v = sum((1 - b2) * b2 ** (t - 1 - i) * grads[i] ** 2 for i in range(t))
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        same(got[t - 1], m_hat / (v_hat.sqrt() + eps),
             f"5 random gradients, betas ({b1}, {b2}), eps {eps}; step {t}",
             "m_hat / (sqrt(v_hat) + eps), with the corrections 1 - b^t where t = self.steps",
             {"eps is inside the root": m_hat / (v_hat + eps).sqrt(),
              "the corrections are those of step 1 in every step":
                  m / (1 - b1) / ((v / (1 - b2)).sqrt() + eps),
              "m is not corrected": m / (v_hat.sqrt() + eps),
              "v is not corrected": m_hat / (v.sqrt() + eps),
              "v is corrected as in step 1 in every step": m_hat / ((v / (1 - b2)).sqrt() + eps)})


@pytest.mark.ex("3.8")
def test_moments_are_kept_in_place():
    """m and v are updated in place, the gradient is not touched"""
    grads = [torch.randn(3, dtype=torch.float64) for _ in range(3)]
    given = [g.clone() for g in grads]
    _, m, v = directions(given, (0.6, 0.8), 1e-8)
    want_m = sum(0.4 * 0.6 ** (2 - i) * g for i, g in enumerate(grads))
    want_v = sum(0.2 * 0.8 ** (2 - i) * g * g for i, g in enumerate(grads))
    same(m, want_m, "3 gradients, betas (0.6, 0.8); m", "m <- b1 m + (1 - b1) g, with in-place operations",
         {"m is still zero: `m = ...` makes a new tensor, m.mul_(...) changes the one that is kept":
              torch.zeros(3)})
    same(v, want_v, "3 gradients, betas (0.6, 0.8); v", "v <- b2 v + (1 - b2) g^2, with in-place operations",
         {"v is still zero: `v = ...` makes a new tensor": torch.zeros(3),
          "v averages the size of g, not its square": sum(0.2 * 0.8 ** (2 - i) * g.abs()
                                                          for i, g in enumerate(grads))})
    same(given, grads, "3 gradients; the gradients afterwards",
         "an operation with an underscore wrote into the gradient")


@pytest.mark.ex("3.8")
def test_eps_is_added_after_the_root():
    """a vanishing gradient makes a vanishing step: eps is added after the root"""
    grad = torch.tensor([1e-6, -2e-6], dtype=torch.float64)
    (got,), _, _ = directions([grad.clone()], (0.9, 0.95), 1e-3)
    same(got, grad / (grad.abs() + 1e-3), f"gradient {grad.tolist()}, eps 0.001, step 1", "sqrt(v_hat) + eps",
         {"eps is inside the root": grad / (grad.square() + 1e-3).sqrt(),
          "eps is not used": grad.sign(),
          "neither m nor v is corrected for starting at zero": 0.1 * grad / (0.05**0.5 * grad.abs() + 1e-3)})


# 3.11 the iteration of Muon


def by_svd(G, steps=5, norm=None, numbers=(3.4445, -4.7750, 2.0315), powers=(1, 3, 5)):
    """The same by the singular value decomposition: the polynomial applied to each singular value.

    Another norm, other numbers or powers give what a mistake would give.
    """
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    s = S / (S.square().sum(-1, keepdim=True).sqrt() + 1e-7 if norm is None else norm)
    for _ in range(steps):
        s = sum(n * s**power for n, power in zip(numbers, powers))
    return U @ (s[..., None] * Vh)


def check_iteration(G, given, **steps):
    """orthogonalize(G) against by_svd."""
    got = call(given, orthogonalize, G, **steps)
    if isinstance(got, torch.Tensor) and not got.isfinite().all():
        pytest.fail(f"given {given}\n got  {show(got)}\n likely: X is not divided by its norm first: "
                    "singular values above 1 grow without end", pytrace=False)
    same(got, by_svd(G, **steps), given,
         "X <- aX + (bA + cAA)X with A = XX^T, on X divided by its Frobenius norm",
         {"the number of steps is not used": by_svd(G),
          "nothing is iterated": G / G.norm(),
          "X is not divided by its norm first": by_svd(G, norm=1.0, **steps),
          "X is divided by its largest singular value, not by its Frobenius norm":
              by_svd(G, norm=torch.linalg.matrix_norm(G, 2).max(), **steps),
          "cA in place of cAA: the last term is of the fifth power":
              by_svd(G, powers=(1, 3, 3), **steps),
          "the term bA is missing": by_svd(G, numbers=(3.4445, 0, 2.0315), **steps),
          "b and c are exchanged": by_svd(G, numbers=(3.4445, 2.0315, -4.7750), **steps),
          "one step too many": by_svd(G, steps.get("steps", 5) + 1),
          "one step too few": by_svd(G, max(steps.get("steps", 5) - 1, 0)),
          "the result has the transposed shape: transpose it back": by_svd(G).mT.contiguous(),
          "all matrices share one norm: take it over the last two dimensions":
              by_svd(G, norm=G.norm(), **steps)}, rtol=1e-5, atol=1e-7)


@pytest.mark.ex("3.11")
def test_a_square_matrix_keeps_its_singular_vectors():
    """the singular vectors stay and the singular values follow the polynomial"""
    check_iteration(torch.randn(4, 4, dtype=torch.float64), "a random matrix (4, 4)")
    check_iteration(1e3 * torch.randn(3, 3, dtype=torch.float64), "a random matrix (3, 3) of size 1000")


@pytest.mark.ex("3.11")
@pytest.mark.parametrize("shape", [(3, 7), (7, 3)])
def test_wide_and_tall_matrices_keep_their_shape(shape):
    """wide and tall matrices keep their shape"""
    check_iteration(torch.randn(shape, dtype=torch.float64), f"a random matrix {shape}")


@pytest.mark.ex("3.11")
@pytest.mark.parametrize("shape", [(10**6, 1), (1, 10**6), (1, 10**6, 1)])
def test_the_small_product_is_used(shape):
    """XX^T is the small product, for tall and for wide matrices: the other one has 10^12 numbers here"""
    G = torch.randn(shape, dtype=torch.float64)
    try:
        got = orthogonalize(G, 2)
    except (RuntimeError, MemoryError) as error:
        said = str(error).partition("\n")[0]
        pytest.fail(f"given a tensor {shape}\n got  {type(error).__name__}: {said}\n wanted the product that "
                    "fits: transpose matrices that are taller than wide, and no others, so that XX^T is "
                    "small", pytrace=False)
    same(got, by_svd(G, 2), f"a random tensor {shape}, 2 steps", "X <- aX + (bA + cAA)X with A = XX^T",
         rtol=1e-5)


@pytest.mark.ex("3.11")
def test_each_matrix_of_a_batch_is_on_its_own():
    """each matrix of a batch is treated on its own"""
    G = torch.randn(3, 4, 5, dtype=torch.float64) * torch.tensor([1.0, 30.0, 0.01]).double()[:, None, None]
    check_iteration(G, "three matrices (4, 5) of sizes 1, 30 and 0.01")


@pytest.mark.ex("3.11")
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_number_of_steps_is_an_argument(steps):
    """the number of steps is an argument"""
    check_iteration(torch.randn(3, 5, dtype=torch.float64), f"a random matrix (3, 5), {steps} steps",
                    steps=steps)


@pytest.mark.ex("3.11")
def test_zeros_stay_zeros_and_the_gradient_is_not_touched():
    """a matrix of zeros gives zeros, and G itself stays as it was"""
    same(call("zeros (2, 3)", orthogonalize, torch.zeros(2, 3)), torch.zeros(2, 3), "zeros (2, 3)",
         "0 / 0 is NaN: add 1e-7 to the norm")
    for shape in ((2, 3), (3, 2)):
        G = torch.randn(shape)
        before = G.clone()
        call(f"a random matrix {shape}", orthogonalize, G)
        same(G, before, f"a random matrix {shape}; G afterwards", "`X /= ...` writes into G: use X = X / ...")
