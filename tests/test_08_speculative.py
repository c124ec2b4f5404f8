"""Speculative decoding: the same tokens when greedy, the same distribution when sampled, whatever the draft
is.
"""
import random
from dataclasses import replace

import pytest
import torch

from engine_cases import CONFIG, lively_model
from fused_model import FusedModel
from sampling import Sampling
from speculative import ModelDraft, Reader, accept, certain, distribution, look_up, speculate
from transformer import Transformer


def chi_squared(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """The statistic; with d degrees of freedom it is below d + 4 sqrt(2 d) in all but one of several thousand
    runs.
    """
    return ((counts - expected).square() / expected).sum().item()


def random_distributions(n: int, V: int) -> torch.Tensor:
    return torch.softmax(2 * torch.randn(n, V, dtype=torch.float64), -1)


@pytest.mark.parametrize("case", ["random", "equal", "certain", "disjoint"])
def test_accepted_tokens_are_distributed_as_the_model_says(case):
    n, V, k, dice = 6_000, 5, 2, random.Random(1)
    p, q = random_distributions(k + 1, V), random_distributions(k, V)
    if case == "equal":
        q = p[:k].clone()
    if case == "certain":
        q = certain([3, 0], V)
    if case == "disjoint":
        q[:, :3], p[:, 3:] = 0, 0
        q, p = q / q.sum(-1, keepdim=True), p / p.sum(-1, keepdim=True)
    counts = [torch.zeros(V, dtype=torch.float64) for _ in range(k + 1)]
    proposals = torch.multinomial(q, n, replacement=True).T.tolist()
    for proposed in proposals:
        for i, token in enumerate(accept(p, q, proposed, dice)):
            counts[i][token] += 1
    for i in range(k + 1):             # place i is drawn from p[i], however many came so far
        total, kept = counts[i].sum(), p[i] > 0
        assert counts[i][~kept].sum() == 0
        if total * p[i][kept].min() >= 5:      # fewer are too few for the statistic
            statistic = chi_squared(counts[i][kept], total * p[i][kept])
            assert statistic < 4 + 4 * 8**0.5, (i, counts[i], total * p[i])
    share = torch.minimum(p[:k], q).sum(-1).cumprod(0)     # Leviathan et al., corollary 3.6
    for i in range(k):
        got = counts[i + 1].sum() / n
        assert abs(got - share[i]) < 0.03, (i, got, share[i])


@pytest.fixture(scope="module")
def model():
    return lively_model()


def drafts(model):
    small = Transformer(replace(CONFIG, n_layers=1)).double()
    small.load_state_dict({k: v for k, v in model.state_dict().items() if k in small.state_dict()})
    return {"look-up": lambda how: lambda ids, k: look_up(ids, k, CONFIG.vocab_size),
            "small": lambda how: ModelDraft(small, how, 3), "itself": lambda how: ModelDraft(model, how, 3),
            "nonsense": lambda how: lambda ids, k: ([7] * k, certain([7] * k, CONFIG.vocab_size))}


@pytest.mark.parametrize("name", ["look-up", "small", "itself", "nonsense"])
def test_greedy_tokens_are_those_without_a_draft(model, name):
    draft = drafts(model)[name]
    for n in (1, 2, 5, 40):
        prompt = [random.randrange(250) for _ in range(20)] * 2
        wanted = list(prompt)
        for _ in range(n):
            wanted.append(model(torch.tensor([wanted]))[0, -1].argmax().item())
        for k in (0, 1, 3, 8):
            got = speculate(model, draft(Sampling()), prompt, n, k)
            assert got.tokens == wanted[40:], (n, k)
            assert name != "itself" or got.accepted == got.proposed
            assert got.calls + got.accepted == n
    eos = wanted[45]
    assert speculate(model, draft(Sampling()), prompt, 40, 4,
                     eos=eos).tokens == wanted[40:wanted.index(eos, 40)]


@pytest.mark.parametrize("name", ["look-up", "small"])
def test_sampled_pairs_of_tokens_follow_the_models_distribution(name):
    torch.manual_seed(0)
    config = replace(CONFIG, vocab_size=4, d_model=8, n_heads=2, n_kv_heads=1, n_layers=2)
    model = Transformer(config).double().requires_grad_(False)
    for p in model.parameters():
        p.mul_(3) if p.ndim == 2 else p
    model.model.embed_tokens.weight.normal_()
    small = Transformer(replace(config, n_layers=1)).double()
    how, prompt, n = Sampling(temperature=1.2), [0, 1, 2, 0, 1], 600
    first = distribution(model(torch.tensor([prompt]))[0, -1:], how)[0]
    second = torch.stack([distribution(model(torch.tensor([[*prompt, x]]))[0, -1:], how)[0]
                          for x in range(4)])
    counts, large = torch.zeros(4, 4, dtype=torch.float64), FusedModel(model)
    draft = ModelDraft(small, how) if name == "small" else lambda ids, k: look_up(ids, k, 4)
    for seed in range(n):
        a, b = speculate(large, draft, prompt, 2, 2, how, seed).tokens
        counts[a, b] += 1
    assert chi_squared(counts, n * first[:, None] * second) < 15 + 4 * 30**0.5


def test_look_up_proposes_what_followed_the_longest_match_last():
    assert look_up([1, 2, 3, 9, 1, 2, 3, 8, 5, 2, 3], 2, 10)[0] == [8, 5]
    assert look_up([4, 2, 3, 9, 7, 4, 2, 3], 9, 10)[0] == [9, 7, 4, 2, 3]
    assert look_up([1, 2, 3], 2, 10)[0] == [] and look_up([1], 2,
                                                          10)[0] == [] and look_up([5, 5], 0, 10)[0] == []
    tokens, q = look_up([5, 6, 5], 1, 10)
    assert tokens == [6] and q.tolist() == [[0, 0, 0, 0, 0, 0, 1, 0, 0, 0]]


def test_a_reader_that_is_cut_back_reads_as_if_it_had_never_gone_there(model):
    reader = Reader(model)
    for ids in ([1, 2, 3, 4, 5], [1, 2, 3], [1, 2, 9, 9, 9, 9], [1, 2, 9, 9, 9, 9], [8], [8, 1, 2]):
        got = reader.read(ids)
        torch.testing.assert_close(got, model(torch.tensor([ids]))[0, -len(got):])
