"""The exercises of chapter 3: the steps of AdamW and Muon, gradient accumulation."""
import pytest
import torch
import torch.nn.functional as F
from ex_compare import call, same, show
from torch import nn

from accumulation import accumulate
from adamw import AdamW
from cross_entropy import IGNORE
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
    (got,), _, _ = directions([grad.clone()], (0.9, 0.99), 1e-12)
    same(got, grad.sign(), f"gradient {grad.tolist()}, step 1, betas (0.9, 0.99)",
         "with both corrections m_hat = g and v_hat = g^2, so m_hat / sqrt(v_hat) = sign(g)",
         {"m is not corrected for starting at zero: divide by 1 - b1^t": 0.1 * grad.sign(),
          "v is not corrected for starting at zero: divide by 1 - b2^t": 10 * grad.sign(),
          "neither m nor v is corrected for starting at zero": grad.sign(),
          "the root of v is missing": 1 / grad, "the betas are swapped": 10 * grad.sign()}, rtol=1e-4)


@pytest.mark.ex("3.8")
def test_five_steps_are_those_of_torch():
    """five steps are those of torch.optim.AdamW"""
    grads = [torch.randn(4, dtype=torch.float64) for _ in range(5)]
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    torchs, want = torch.optim.AdamW([p], lr=1.0, betas=(0.7, 0.9), eps=0.3, weight_decay=0.0), []
    for grad in grads:
        before = p.detach().clone()
        p.grad = grad.clone()
        torchs.step()
        want.append(before - p.detach())
    got, _, _ = directions([g.clone() for g in grads], (0.7, 0.9), 0.3)
    for t, (a, b) in enumerate(zip(got, want), 1):
        same(a, b, f"5 random gradients, betas (0.7, 0.9), eps 0.3; step {t}",
             "m_hat / (sqrt(v_hat) + eps): corrections with the power t = self.steps, eps outside the root")


@pytest.mark.ex("3.8")
def test_moments_are_kept_in_place():
    """m and v are updated in place, the gradient is not touched"""
    grads = [torch.randn(3, dtype=torch.float64) for _ in range(3)]
    given = [g.clone() for g in grads]
    _, m, v = directions(given, (0.6, 0.8), 1e-8)
    want_m = sum(0.4 * 0.6**(2 - i) * g for i, g in enumerate(grads))
    want_v = sum(0.2 * 0.8**(2 - i) * g * g for i, g in enumerate(grads))
    same(m, want_m, "3 gradients, betas (0.6, 0.8); m", "m <- b1 m + (1 - b1) g, with in-place operations",
         {"m is still zero: `m = ...` makes a new tensor, m.mul_(...) changes the one that is kept": torch.zeros(3)})
    same(v, want_v, "3 gradients, betas (0.6, 0.8); v", "v <- b2 v + (1 - b2) g^2, with in-place operations",
         {"v is still zero: `v = ...` makes a new tensor": torch.zeros(3), "v averages the size of g, not its square":
          sum(0.2 * 0.8**(2 - i) * g.abs() for i, g in enumerate(grads))})
    same(given, grads, "3 gradients; the gradients afterwards", "an operation with an underscore wrote into the gradient")


@pytest.mark.ex("3.8")
def test_eps_is_added_after_the_root():
    """a vanishing gradient makes a vanishing step: eps is added after the root"""
    grad = torch.tensor([1e-6, -2e-6], dtype=torch.float64)
    (got,), _, _ = directions([grad.clone()], (0.9, 0.99), 1e-3)
    same(got, grad / (grad.abs() + 1e-3), f"gradient {grad.tolist()}, eps 0.001, step 1", "sqrt(v_hat) + eps",
         {"eps is inside the root": grad / (grad.square() + 1e-3).sqrt(), "eps is not used": grad.sign()})


# 3.10 gradient accumulation

class Table(nn.Module):
    """Logits of the next of five tokens, from two tables; one without a gradient of its own kind would show aliasing."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 5).double()), nn.Parameter(torch.randn(5).double())

    def forward(self, ids):
        return self.a[ids] * self.b


def mean_loss(model):
    """The mean loss over targets that count, by torch; 0 if none does."""
    def loss_of(x, y):
        total = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum")
        return total / (y != IGNORE).sum().clamp(min=1)
    return loss_of


def micro_batches(shapes, ignored):
    """Random (inputs, targets) of these shapes; the first `ignored[i]` targets of each piece do not count."""
    pieces = []
    for shape, n in zip(shapes, ignored):
        x, y = torch.randint(5, shape), torch.randint(5, shape)
        y.view(-1)[:n] = IGNORE
        pieces.append((x, y))
    return pieces


def one_large_batch(model, pieces):
    """Loss and gradients of all pieces at once."""
    model.zero_grad()
    x, y = (torch.cat([p[i].flatten() for p in pieces])[None] for i in (0, 1))
    loss = mean_loss(model)(x, y)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in model.parameters()]


def grads(model):
    """The gradients of a model, zeros where there is none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def compare(shapes, ignored, given):
    """accumulate() against one large batch."""
    model, pieces = Table(), micro_batches(shapes, ignored)
    loss, want = one_large_batch(model, pieces)
    parts = []
    for piece in pieces:
        parts.append(one_large_batch(model, [piece]))
    model.zero_grad()
    got = call(given, accumulate, model, mean_loss(model), pieces)
    rows = [x.numel() / sum(x.numel() for x, _ in pieces) for x, _ in pieces]

    def mixed(weights):
        return [sum(w * g[i] for w, (_, g) in zip(weights, parts)) for i in range(2)]
    same(grads(model), want, given + "; the gradients", "weigh each piece by its share of all counted targets",
         {"a mean of means: pieces that count more targets must weigh more": mixed([1 / len(parts)] * len(parts)),
          "the pieces are added up, not averaged": mixed([1] * len(parts)),
          "ignored targets count in the weights": mixed(rows), "only the last piece is left": parts[-1][1]})
    same(got, loss, given + "; the loss returned", "the mean over all counted targets, as a float",
         {"the loss of the last piece": parts[-1][0], "the sum of the pieces' losses": sum(p[0] for p in parts),
          "the mean of the pieces' means": sum(p[0] for p in parts) / len(parts)})


@pytest.mark.ex("3.10")
def test_equal_pieces_are_one_large_batch():
    """equal pieces give the gradient of one large batch"""
    compare([(2, 6)] * 4, [0] * 4, "4 micro-batches (2, 6)")


@pytest.mark.ex("3.10")
def test_pieces_weigh_what_they_count():
    """pieces with different numbers of counted targets weigh what they count"""
    compare([(2, 6)] * 3, [0, 7, 11], "3 micro-batches (2, 6) of which 12, 5 and 1 targets count")
    compare([(1, 4), (2, 6), (3, 2)], [0, 3, 6], "micro-batches of 4, 9 and 0 counted targets")


@pytest.mark.ex("3.10")
def test_earlier_gradients_are_dropped():
    """gradients of an earlier step are dropped"""
    model, pieces = Table(), micro_batches([(2, 6)] * 2, [0, 0])
    want = one_large_batch(model, pieces)[1]
    call("gradients left from before", accumulate, model, mean_loss(model), pieces)
    same(grads(model), want, "a model that still has gradients", "set p.grad = None before the first piece, not in between",
         {"the old gradients were added: set p.grad = None first": [2 * g for g in want]})


@pytest.mark.ex("3.10")
def test_one_graph_at_a_time():
    """each piece is differentiated before the next one runs, so that memory holds one"""
    model, pieces, seen = Table(), micro_batches([(2, 6)] * 3, [0, 0, 0]), []
    loss_of = mean_loss(model)

    def watched(x, y):
        seen.append(model.a.grad is not None)
        return loss_of(x, y)
    call("3 micro-batches", accumulate, model, watched, pieces)
    same(seen, [False, True, True], "3 micro-batches; had the model gradients when each began?",
         "call backward on each piece's loss inside the loop: adding losses up keeps all activations in memory")


@pytest.mark.ex("3.10")
def test_pieces_without_targets_give_zero():
    """micro-batches without any counted target give zeros, not NaN"""
    model, pieces = Table(), micro_batches([(1, 3), (1, 3)], [3, 3])
    got = call("2 micro-batches, all targets ignored", accumulate, model, mean_loss(model), pieces)
    same((got, grads(model)), (0.0, [torch.zeros(5, 5), torch.zeros(5)]), "2 micro-batches, all targets ignored",
         "0 / 0: divide by at least 1")


# 3.11 the iteration of Muon

def by_svd(G, steps=5):
    """The same by the singular value decomposition: the polynomial applied to each singular value."""
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    s = S / (S.square().sum(-1, keepdim=True).sqrt() + 1e-7)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return U @ (s[..., None] * Vh)


def check_iteration(G, given, **steps):
    """orthogonalize(G) against by_svd."""
    got = call(given, orthogonalize, G, **steps)
    same(got, by_svd(G, **steps), given, "X <- aX + (bA + cAA)X with A = XX^T, on X divided by its Frobenius norm",
         {"the number of steps is not used": by_svd(G), "nothing is iterated": G / G.norm(),
          "the result has the transposed shape: transpose it back": by_svd(G).mT.contiguous(),
          "all matrices share one norm: take it over the last two dimensions":
              torch.stack([by_svd(M / G.norm() * 1.0) for M in G]) if G.ndim == 3 else G}, rtol=1e-5, atol=1e-7)


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
def test_tall_matrices_use_the_small_product():
    """XX^T is the small product, also for a tall matrix"""
    sizes = []

    class Counting(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            out = super().__torch_function__(func, types, args, kwargs or {})
            if getattr(func, "__name__", "") in ("matmul", "__matmul__", "mm", "bmm", "einsum", "baddbmm", "addmm"):
                sizes.append(out.numel())
            return out
    call("a tall matrix (12, 2)", orthogonalize, torch.randn(12, 2).as_subclass(Counting), 1)
    if not sizes or max(sizes) > 24:
        pytest.fail(f"given a matrix (12, 2)\n got products of {sizes} elements\n wanted at most 24: transpose a tall matrix "
                    "first, so that XX^T is (2, 2) and not (12, 12)", pytrace=False)


@pytest.mark.ex("3.11")
def test_each_matrix_of_a_batch_is_on_its_own():
    """each matrix of a batch is treated on its own"""
    G = torch.randn(3, 4, 5, dtype=torch.float64) * torch.tensor([1.0, 30.0, 0.01]).double()[:, None, None]
    check_iteration(G, "three matrices (4, 5) of sizes 1, 30 and 0.01")


@pytest.mark.ex("3.11")
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_number_of_steps_is_an_argument(steps):
    """the number of steps is an argument"""
    check_iteration(torch.randn(3, 5, dtype=torch.float64), f"a random matrix (3, 5), {steps} steps", steps=steps)


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
