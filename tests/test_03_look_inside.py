"""What look_inside.py and ablations.py compute from models, on models small enough to check by hand."""
import copy
from dataclasses import replace

import pytest
import torch

from ablations import VARIANTS, Settings, config_for
from attention import attend
from attention_probe import attending, patterns, without
from count import active_parameters
from cross_entropy import cross_entropy
from induction import copying_loss, examine, induction_scores, pieces_of, random_pieces, teach_copying, twice
from look_inside import logit_lens
from transformer import Config, Transformer

SHAPE = dict(vocab_size=48, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=48, max_len=40)


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(Config(**SHAPE)).eval()


@pytest.mark.parametrize("options", [{}, dict(positions="alibi"), dict(attention="window", window=3)],
                         ids=str)
def test_patterns_are_the_weights_that_the_model_uses(options):
    model, ids = Transformer(Config(**SHAPE, **options)), torch.randint(48, (2, 9))
    weights, used = patterns(model, ids), []

    def keep(i, q, k, v, bias):
        used.append((v, attend(q, k, v, bias)))
        return used[-1][1]

    with torch.no_grad(), attending(model, keep):
        model(ids)
    assert weights.shape == (2, 2, 4, 9, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4, 9))
    assert not weights.triu(1).any()
    for layer, (v, out) in enumerate(used):
        torch.testing.assert_close(weights[layer] @ v, out)


def test_afterwards_the_model_is_as_it_was(model):
    ids = torch.randint(48, (1, 7))
    before = model(ids)
    with attending(model, without(0, [0, 1, 2, 3])):
        assert not torch.equal(model(ids), before)
    torch.testing.assert_close(model(ids), before, rtol=0, atol=0)


def test_a_silent_head_is_one_whose_output_columns_are_zero(model):
    other, ids = copy.deepcopy(model), torch.randint(48, (2, 7))
    other.model.layers[1].self_attn.o_proj.weight.data[:, 16:24] = 0   # head 2, of width 8
    with attending(model, without(1, [2])):
        torch.testing.assert_close(model(ids), other(ids))


def test_a_perfect_induction_head_scores_one():
    length = 5
    weights = torch.zeros(2, 3, 4, 11, 11)
    weights[..., 0] = 1                                     # all others look at the first token
    for t in range(1 + length, 11):
        weights[1, :, 2, t] = torch.eye(11)[t - length + 1]
    want = torch.zeros(2, 4)
    want[1, 2] = 1
    torch.testing.assert_close(induction_scores(weights, length), want)


def test_pieces_stand_twice_behind_the_first_token():
    pieces = random_pieces(48, 3, 6, seed=1)
    ids = twice(pieces, 7)
    assert ids.shape == (3, 13) and (ids[:, 0] == 7).all()
    assert torch.equal(ids[:, 1:7], pieces) and torch.equal(ids[:, 7:], pieces)
    stream = torch.arange(100).numpy().astype("uint16")
    cut = pieces_of(stream, 4, 10)
    assert cut[0, 0] == 0 and cut[-1, -1] == 98 and (cut.diff() == 1).all()


def test_copying_loss_is_the_loss_of_all_but_the_first_token_of_each_copy(model):
    ids = twice(random_pieces(48, 3, 6, seed=2), 0)
    first, second = copying_loss(model, ids)
    logits = model(ids)
    for got, targets in ((first, range(2, 7)), (second, range(8, 13))):
        losses = [cross_entropy(logits[:, t - 1], ids[:, t]).item() for t in targets]
        assert got == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_training_on_repetition_makes_the_second_copy_cheap(model):
    teach_copying(model, 0, steps=60, length=4, seed=0)
    found = examine(model, twice(random_pieces(48, 16, 4, seed=-1), 0))
    assert found["second"] < found["first"] - 0.3


def test_the_lens_ends_in_what_the_model_says(model):
    ids = torch.randint(48, (1, 6))
    lens = logit_lens(model, ids)
    assert lens.shape == (3, 48)
    torch.testing.assert_close(lens[-1], model(ids)[0, -1].softmax(-1))
    embedded = model.model.norm(model.model.embed_tokens(ids))
    torch.testing.assert_close(lens[0], model.unembed(embedded)[0, -1].softmax(-1))


def test_variants_differ_from_the_reference_and_from_each_other():
    runs = [replace(v, group="", name="") for v in VARIANTS]
    assert len({str(r) for r in runs}) == len(runs) == len({(v.group, v.name) for v in VARIANTS})
    for v in VARIANTS:
        config_for(v, Settings(), 64)   # every combination is possible


def test_experts_and_dense_layers_are_compared_at_equal_active_parameters():
    dense, *others = [active_parameters(config_for(v, Settings(), 1024)) for v in VARIANTS
                      if v.group in ("", "feed-forward")]
    assert len(others) == 6 and all(abs(n / dense - 1) < 0.01 for n in others)
