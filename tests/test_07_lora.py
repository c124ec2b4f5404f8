"""LoRA: starts as the base, is the product beside the matrix, merges into it and comes out again."""
import pytest
import torch

from linear import Linear
from lora import MATRICES, LoRALinear, add_lora, merge_lora, ranks_of, unmerge_lora
from transformer import Config, Transformer


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Config(vocab_size=40, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24, max_len=32)
    return Transformer(config).double().eval()


def moved(adapters):
    """Adapters as if they had been trained."""
    for p in adapters:
        torch.nn.init.normal_(p.data)


IDS = torch.arange(14).view(2, 7)


def test_a_fresh_adapter_changes_nothing(model):
    before = model(IDS)
    add_lora(model, 2)
    assert torch.equal(model(IDS), before)


def test_the_adapter_is_the_product_times_alpha_over_rank():
    torch.manual_seed(1)
    base, x = Linear(5, 3).double(), torch.randn(4, 5).double()
    adapter = LoRALinear(base, 5, 3, 2, 6.0).double()
    moved([adapter.A, adapter.B])
    want = x @ (base.weight + 3 * adapter.B @ adapter.A).T
    torch.testing.assert_close(adapter(x), want)


def test_only_adapters_learn_and_their_gradient_is_that_of_the_full_matrix_seen_through_them(model):
    adapters = add_lora(model, 2, names=("v_proj",))
    moved(adapters)
    assert [p for p in model.parameters() if p.requires_grad] == adapters and len(adapters) == 4
    model(IDS).square().sum().backward()
    got = adapters[0].grad.clone()
    layer = model.model.layers[0].self_attn.v_proj
    merge_lora(model)
    model.zero_grad()
    model(IDS).square().sum().backward()
    torch.testing.assert_close(got,
                               layer.scale * layer.B.T @ model.model.layers[0].self_attn.v_proj.weight.grad)


@pytest.mark.parametrize("names", [MATRICES, ("q_proj", "v_proj")])
def test_merging_keeps_the_outputs_and_unmerging_gives_the_base_bit_for_bit(model, names):
    weights, plain = {k: v.clone() for k, v in model.state_dict().items()}, model(IDS)
    moved(add_lora(model, 3, names=names))
    with_adapters = model(IDS)
    assert not torch.allclose(with_adapters, plain)
    before = merge_lora(model)
    torch.testing.assert_close(model(IDS), with_adapters)
    assert model.state_dict().keys() == weights.keys()
    unmerge_lora(model, before)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_merged_models_can_be_trained_whole_again(model):
    add_lora(model, 1)
    merge_lora(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_an_impossible_rank_is_one_sentence(model, rank):
    with pytest.raises(ValueError, match="give 1 to 16"):
        add_lora(model, rank)


def test_unknown_matrices_and_a_second_set_of_adapters_are_refused(model):
    with pytest.raises(ValueError, match="q_proj"):
        add_lora(model, 1, names=("query",))
    add_lora(model, 1)
    with pytest.raises(ValueError, match="merge them first"):
        add_lora(model, 1)


@pytest.mark.parametrize("text", ["", "1,", "a", "0", "2,-1", "1.5"])
def test_ranks_are_whole_numbers_from_1(text):
    assert ranks_of("1,4, 16") == [1, 4, 16]
    with pytest.raises(ValueError, match="--ranks"):
        ranks_of(text)
