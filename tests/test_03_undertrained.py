"""Tokens that were never trained on: what their embeddings have in common, and how they are found."""
import numpy as np
import pytest
import torch

from undertrained import NEVER_IN_UTF8, by_angle, by_length, share_found


def test_the_bytes_that_no_text_has_are_those():
    used = {byte for code in range(0x110000) if not 0xD800 <= code < 0xE000 for byte in chr(code).encode()}
    assert set(NEVER_IN_UTF8) == set(range(256)) - used


def test_orders_by_hand():
    embedding = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.5, 0.0], [0.0, 9.0]])
    assert by_length(embedding) == [2, 1, 0, 3]
    assert by_angle(embedding, [1]) == [1, 3, 0, 2], "cosines 1, 1, 0.8 and 0"


def test_the_share_is_of_tokens_that_never_occur_and_were_not_known():
    counts = np.array([9, 0, 0, 9, 0])
    assert share_found([1, 2, 4, 0, 3], counts, known=[1]) == 1
    assert share_found([1, 2, 0, 3, 4], counts, known=[1]) == 0.5
    assert share_found([0, 1], np.array([1, 1]), known=[]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_in_a_tied_softmax_unseen_tokens_grow_alike_and_the_angle_finds_them(seed):
    """Six of twenty tokens never occur; two of them are known. The gradient pushes all six the same way."""
    generator = torch.Generator().manual_seed(seed)
    embedding = (torch.randn(20, 8, generator=generator) * 0.02).requires_grad_()
    ids = torch.randint(14, (400,), generator=generator)
    for _ in range(200):
        logits = (embedding[ids[:-1]] + 1) @ embedding.T   # inputs with a common part, as behind a norm
        loss = (logits.logsumexp(1) - logits.gather(1, ids[1:, None])[:, 0]).mean()
        gradient, = torch.autograd.grad(loss, embedding)
        with torch.no_grad():
            embedding -= 0.5 * gradient
    embedding = embedding.detach()
    counts = np.bincount(ids.numpy(), minlength=20)
    assert share_found(by_angle(embedding, [14, 15]), counts, [14, 15]) == 1
    assert embedding[14:].norm(dim=1).mean() > embedding[:14].norm(dim=1).mean(), "long, not short"
