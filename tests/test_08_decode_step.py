"""A step in one call of C++ is the step of torch: same logits, same tokens, in any mix of requests."""
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import cuda_build
import decode_step
import engine as module
import workload
from cuda_build import cpu_compiler
from decode_step import DecodeStep
from engine import Engine
from engine_cases import CONFIG, families, lively_model, run_schedule
from fused_model import FusedModel
from kv_cache import generate_cached
from paged_attention import PagedMemory
from paged_cache import BLOCK
from scheduler import Request
from transformer import Config, Transformer

needs_compiler = pytest.mark.skipif(not cpu_compiler(), reason="no C++ compiler found")
KINDS = [{}, {"qk_norm": False}, {"tied": False}, {"n_kv_heads": 1}, {"n_kv_heads": 4}, {"d_ff": 23},
         {"head_width": 6}, {"rope_scaling": "yarn", "rope_factor": 2.0}]


@pytest.fixture
def load_again():
    decode_step.library.cache_clear()
    yield
    decode_step.library.cache_clear()


def noisy(**changes) -> Transformer:
    torch.manual_seed(1)
    model = Transformer(replace(CONFIG, **changes)).double().requires_grad_(False)
    for p in model.parameters():
        p.add_(0.3 * torch.randn_like(p))
    return model


def step_of(model: Transformer, n_blocks: int = 30) -> tuple[DecodeStep, PagedMemory, FusedModel]:
    fused = FusedModel(model)
    memory = PagedMemory(model.config, n_blocks, fused.head)
    step = DecodeStep(fused.embedding, fused.layers, fused.rotation, fused.eps, model.config.qk_norm,
                      memory.k, memory.v)
    return step, memory, fused


@needs_compiler
@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_chunks_and_single_tokens_of_three_texts_give_the_logits_of_the_plain_model(changes):
    model = noisy(**changes)
    step, _, fused = step_of(model)
    texts, tables = torch.randint(CONFIG.vocab_size, (3, 40)).tolist(), [[4, 9, 2], [0, 7, 1], [5, 3, 29]]
    done, rows = [0, 0, 0], [[], [], []]
    for counts in ((20, 1, 7), (1, 1, 1), (3, 30, 1), (16, 8, 31)):
        places = [(t, i) for t, n in enumerate(counts) for i in range(done[t], done[t] + n)]
        x = step.hidden([texts[t][i] for t, i in places], [i for _, i in places],
                        [tables[t] for t, _ in places])
        for (t, _), row in zip(places, fused.logits(x)):
            rows[t].append(row)
        done = [d + n for d, n in zip(done, counts)]
    assert done == [40, 40, 40]
    assert_close(torch.stack([torch.stack(r) for r in rows]), model(torch.tensor(texts)), atol=1e-9, rtol=0)


@needs_compiler
def test_scores_whose_exponentials_no_number_can_hold_give_the_logits_of_the_plain_model():
    model = noisy()
    for block in model.model.layers:
        block.self_attn.q_norm.weight.mul_(1e4)
    step, _, fused = step_of(model)
    text = torch.randint(CONFIG.vocab_size, (30,))
    x = step.hidden(text.tolist(), [*range(30)], [[4, 9]] * 30)
    assert_close(fused.logits(x), model(text[None])[0], atol=1e-6, rtol=0)


@needs_compiler
def test_a_step_writes_to_the_places_of_its_own_tokens_alone():
    step, memory, _ = step_of(noisy())
    memory.k.fill_(7.0), memory.v.fill_(7.0)
    step.hidden([1, 2], [17, 3], [[4, 9], [2]])
    written = (memory.k != 7.0).any(-1) | (memory.v != 7.0).any(-1)            # (L, n_blocks, K, BLOCK)
    wanted = torch.zeros_like(written)
    wanted[:, 9, :, 1] = wanted[:, 2, :, 3] = True
    assert torch.equal(written, wanted)


@needs_compiler
def test_every_request_gets_the_tokens_that_it_gets_alone():
    model = lively_model()
    known = families(model, 12, seed=50)
    engines = [run_schedule(model, known, 5000 + i, compiled=True) for i in range(12)]
    assert sum(e.scheduler.preemptions for e in engines) > 5 and sum(e.counts.shared for e in engines) > 100


@needs_compiler
@pytest.mark.parametrize("batch", (1, 4))
def test_in_float32_a_small_model_takes_it_unasked_and_writes_the_plain_tokens(monkeypatch, batch):
    torch.manual_seed(0)
    model = Transformer(Config()).requires_grad_(False)
    for p in model.parameters():
        p.mul_(3) if p.ndim == 2 else None
    prompts = torch.randint(model.config.vocab_size, (batch, 20))
    engine, rows = Engine(model, 64), []
    hidden = engine.compiled.hidden

    def counted(ids, *more):
        rows.append(len(ids))
        return hidden(ids, *more)
    monkeypatch.setattr(engine.compiled, "hidden", counted)
    done = engine.run([Request(p, 40) for p in prompts.tolist()])
    assert [r.ids for r in done] == generate_cached(model, prompts, 40).tolist()
    prompt_step = [20] if batch == 1 else []                # four prompts, 80 rows, are read by torch
    assert rows == prompt_step + [batch] * 39


@needs_compiler
def test_a_comparison_that_asks_for_torch_alone_gets_it(monkeypatch):
    made, model = [], Transformer(CONFIG).requires_grad_(False)

    def engine(*given, **named):
        made.append(Engine(*given, **named))
        return made[-1]
    monkeypatch.setattr(workload, "Engine", engine)
    for compiled in (False, None):
        assert len(workload.run_together(model, [Request([1, 2, 3], 5)], 1, compiled=compiled)["tokens"]) == 1
    assert [e.compiled is None for e in made] == [True, False]


def test_large_models_other_formats_and_a_no_take_torch(monkeypatch):
    model = Transformer(CONFIG).requires_grad_(False)
    assert Engine(model, 8, compiled=False).compiled is None
    assert Engine(lively_model(), 8).compiled is None
    monkeypatch.setattr(module, "SMALL", 1000)
    assert Engine(model, 8).compiled is None


@pytest.mark.parametrize("why, says", [
    ("no compiler", "no such program is here"),
    pytest.param("does not compile", "", marks=needs_compiler),
    pytest.param("no place to keep it", "Not a directory", marks=needs_compiler)])
def test_where_it_cannot_be_compiled_torch_does_it_after_one_sentence(monkeypatch, tmp_path, load_again, why,
                                                                      says):
    monkeypatch.setattr(cuda_build, "CACHE", tmp_path / "kernels")
    if why == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    elif why == "does not compile":
        (tmp_path / "bad.cpp").write_text("int f( {")
        monkeypatch.setattr(decode_step, "SOURCE", tmp_path / "bad.cpp")
    else:
        (tmp_path / "file").touch()
        monkeypatch.setattr(cuda_build, "CACHE", tmp_path / "file" / "kernels")
    model = lively_model().float()
    with pytest.warns(UserWarning, match=f"started by torch, slowly: .*{says}"):
        engine = Engine(model, 8)
    assert engine.compiled is None
    r, = engine.run([Request([1, 2, 3], 5)])
    assert r.ids == generate_cached(model, torch.tensor([[1, 2, 3]]), 5)[0].tolist()
    with pytest.raises(ValueError, match="install g.. or clang"):
        Engine(model, 8, compiled=True)


@needs_compiler
def test_a_processor_without_avx2_gets_the_same_from_the_same_text(monkeypatch, tmp_path, load_again):
    source = tmp_path / "decode_step.cpp"
    with_it = decode_step.SOURCE.read_text()
    source.write_text(with_it.replace("defined(__x86_64__)", "0"))
    assert source.read_text() != with_it
    monkeypatch.setattr(decode_step, "SOURCE", source)
    monkeypatch.setattr(cuda_build, "CACHE", tmp_path / "kernels")
    text = torch.randint(CONFIG.vocab_size, (30,))
    for model, near in ((noisy(), 1e-9), (noisy().float(), 1e-3)):
        step, _, fused = step_of(model)
        x = step.hidden(text.tolist(), [*range(30)], [[4, 9]] * 30)
        assert_close(fused.logits(x), model(text[None])[0], atol=near, rtol=near)


@needs_compiler
@pytest.mark.parametrize("given, says", [
    (([260], [0], [[0]]), "a token is outside 0 to 259"), (([-1], [0], [[0]]), "a token is outside"),
    (([1], [112], [[0] * 8]), "a position is outside 0 to 111"),
    (([1], [0], [[30]]), "a block is outside 0 to 29"),
    (([1], [BLOCK], [[3]]), "behind its sequence's last block"), (([1], [0, 1], [[3]]), "equally many")])
def test_what_would_lie_outside_the_memory_is_refused(given, says):
    step, _, _ = step_of(noisy())
    with pytest.raises(ValueError, match=says):
        step.hidden(*given)


def parts(H: int, K: int, D: int, C: int = 8, F: int = 7) -> dict:
    """One layer of shapes that agree with each other."""
    shapes = ((H + 2 * K) * D, C), (H + K, D), (C, H * D), (2 * F, C), (C, F)
    memory = dict(keys=torch.zeros(1, 4, K, BLOCK, D), values=torch.zeros(1, 4, K, BLOCK, D))
    return dict(embedding=torch.zeros(9, C), layers=[tuple(map(torch.zeros, shapes))], **memory,
                rotation=torch.zeros(20, D // 2, dtype=torch.complex64))


@needs_compiler
def test_parts_that_are_not_of_one_model_are_refused():
    DecodeStep(**parts(H=4, K=2, D=6), eps=1e-6, qk_norm=True)
    fused = FusedModel(noisy())
    memory = PagedMemory(CONFIG, 4, fused.head)
    good = dict(embedding=fused.embedding, layers=fused.layers, rotation=fused.rotation, eps=fused.eps,
                qk_norm=True, keys=memory.k, values=memory.v)
    for change, says in ((dict(layers=fused.layers[:1]), "of one model"),
                         (dict(values=memory.v[:, :2]), "of one model"),
                         (parts(H=3, K=2, D=6), "of one model"), (parts(H=4, K=2, D=5), "of one model"),
                         (dict(rotation=fused.rotation[:, :1]), "of one model"),
                         (dict(embedding=fused.embedding.float()), "float32 or float64 on the CPU"),
                         (dict(keys=memory.k.transpose(0, 1).contiguous().transpose(0, 1)), "contiguous")):
        with pytest.raises(ValueError, match=says):
            DecodeStep(**(good | change))
