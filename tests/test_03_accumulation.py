"""Micro-batches of a real model give the gradient of one large batch."""
import pytest
import torch

from accumulation import accumulate
from cross_entropy import IGNORE, cross_entropy
from transformer import Config, Transformer


@pytest.mark.parametrize("counted", [[8, 8, 8, 8], [8, 1, 5, 0]])
def test_micro_batches_give_the_gradients_of_one_large_batch(counted):
    torch.manual_seed(0)
    config = Config(vocab_size=16, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8, max_len=8)
    model = Transformer(config).double()
    ids = torch.randint(16, (4, 9))
    x, y = ids[:, :-1], ids[:, 1:].clone()
    for row, n in zip(y, counted):
        row[n:] = IGNORE
    want = cross_entropy(model(x), y)
    want.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    pieces = [(x[i:i + 1], y[i:i + 1]) for i in range(4)]
    for _ in range(2):   # the second call starts afresh
        got = accumulate(model, lambda a, b: cross_entropy(model(a), b), pieces)
        torch.testing.assert_close(got, want.item(), rtol=1e-12, atol=0)
        torch.testing.assert_close([p.grad for p in model.parameters()], gradients, rtol=1e-9, atol=1e-12)
