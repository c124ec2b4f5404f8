"""QLoRA: starts as the 4-bit model, trains adapters alone, keeps no float32 matrix, merges at a price."""
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from lora import LoRALinear, add_lora, merge_lora
from qlora import FrozenWeight, QLoRA, UnpackTwice, kept_for_backward, merge_qlora
from quantize import QuantizedWeight, quantize_matrix, quantize_model
from transformer import Config, Transformer

IDS = torch.arange(14).view(2, 7)


@pytest.fixture
def small():
    torch.manual_seed(0)
    config = Config(vocab_size=40, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_len=32)
    return quantize_model(Transformer(config)).eval()


def learned(small, rank=2):
    """Adapters as if they had been trained."""
    model = QLoRA(small, rank)
    torch.manual_seed(1)
    for p in model.adapters:
        torch.nn.init.normal_(p, std=0.3)
    return model


def test_a_fresh_one_is_the_quantized_model_bit_for_bit(small):
    assert torch.equal(QLoRA(small, 4)(IDS), small(IDS))
    capped = quantize_model(Transformer(replace(small.config, softcap=0.1)))
    assert torch.equal(QLoRA(capped, 4)(IDS), capped(IDS)) and capped(IDS).abs().max() <= 0.1


def test_the_gradient_through_a_packed_matrix_is_that_through_its_unpacked_one():
    torch.manual_seed(0)
    packed = QuantizedWeight(*quantize_matrix(torch.randn(5, 32), 4), 4, is_table=False)
    x = torch.randn(2, 3, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: UnpackTwice.apply(x, packed), x)
    grad = torch.randn(2, 3, 5, dtype=torch.float64)
    assert_close(torch.autograd.grad(UnpackTwice.apply(x, packed), x, grad)[0], grad @ packed.weight.double())


def test_adapters_learn_what_they_would_on_the_unpacked_weights(small):
    model = learned(small)
    model(IDS).square().sum().backward()
    plain = Transformer(small.config)
    with torch.no_grad():
        for name, p in plain.named_parameters():
            layer = small.get_submodule(name.removesuffix(".weight"))
            p.copy_(layer.weight)
    theirs = add_lora(plain, 2)
    with torch.no_grad():
        for p, q in zip(theirs, model.adapters, strict=True):
            p.copy_(q)
    plain(IDS).square().sum().backward()
    for p, q in zip(theirs, model.adapters, strict=True):
        assert_close(q.grad, p.grad, atol=1e-4, rtol=1e-4)


def test_a_step_moves_the_adapters_and_no_packed_bit(small):
    model, before = learned(small), {k: v.clone() for k, v in small.state_dict().items()}
    model(IDS).square().sum().backward()
    assert {p for p in model.parameters() if p.grad is not None} == set(model.adapters)
    with torch.no_grad():
        for p in model.adapters:
            p -= 0.1 * p.grad
    inside = [m for m in model.modules() if isinstance(m, QuantizedWeight)]
    theirs = [m for m in small.modules() if isinstance(m, QuantizedWeight)]
    assert len(inside) == len(theirs) == 15
    for a in inside:
        assert not any(p.requires_grad for p in a.parameters()) and not a.weight.requires_grad
    assert {t.data_ptr() for m in inside for t in m.buffers()}.isdisjoint(
        {t.data_ptr() for m in theirs for t in m.buffers()})
    for layer in (p for p in model.modules() if isinstance(p, LoRALinear)):
        layer.B.data.zero_()
    assert torch.equal(model(IDS), small(IDS))
    assert all(torch.equal(v, before[k]) for k, v in small.state_dict().items())


def test_nothing_of_the_size_of_a_matrix_is_kept_between_the_passes(small):
    matrices = {name: m.weight for name, m in small.named_modules() if isinstance(m, QuantizedWeight)}
    # nobody asks for the gradient of what the first layer reads: three of its matrices are not needed again
    needed = [w for name, w in matrices.items() if not name.startswith("model.layers.0.self_attn.")
              or name.endswith("o_proj")]

    def kept(model):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
            model(IDS[:, :3])
        sizes = {w.numel() for w in matrices.values()}
        return sorted(t.numel() for t in found if t.numel() in sizes and t.ndim == 2)
    model, once = learned(small), quantize_model(Transformer(small.config))
    add_lora(once, 2)
    assert kept(once) == sorted(w.numel() for w in needed) and kept(model) == []
    saved = kept_for_backward(once, lambda: once(IDS)) - kept_for_backward(model, lambda: model(IDS))
    assert saved == 4 * sum(w.numel() for w in needed)


def test_merged_it_is_a_plain_model_with_the_same_outputs_to_rounding_and_the_adapted_one_stays(small):
    model = learned(small)
    with_adapters = model(IDS)
    plain = merge_qlora(model)
    assert type(plain) is Transformer and not torch.allclose(with_adapters, small(IDS), atol=0.1)
    assert_close(plain(IDS), with_adapters, atol=2e-5, rtol=2e-5)
    assert torch.equal(model(IDS), with_adapters)
    again = quantize_model(plain)(IDS)
    assert (again - with_adapters).abs().max() > 100 * (plain(IDS) - with_adapters).abs().max()


def test_what_would_be_lost_is_refused(small):
    with pytest.raises(ValueError, match="packed"):
        merge_lora(learned(small))
    config = dict(vocab_size=40, d_model=32, n_layers=1, n_heads=4, d_ff=48, max_len=32)
    with pytest.raises(ValueError, match="tied"):
        QLoRA(quantize_model(Transformer(Config(**config, tied=False))), 2)
    with pytest.raises(ValueError, match="biases"):
        FrozenWeight(QuantizedWeight(*quantize_matrix(torch.ones(2, 16), 4), 4, False, torch.ones(2)))
