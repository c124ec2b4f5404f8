"""Chapter 5: the source of known entropy, the n-gram model, exact evaluation, the cached sweep."""
import math

import numpy as np
import pytest
import torch

import ngram
import sweep
from muon import Muon
from no_fork import after_backward
from source import MarkovSource, entropy_rate, to_symbols
from sweep import RATES, rate_for
from transformer_sweep import answer_log_probability, config_for


def small_source(order: int = 2, n_symbols: int = 5, length: int = 400) -> MarkovSource:
    rng = np.random.default_rng(0)
    symbols = np.cumsum(rng.integers(0, 2, size=length)) % n_symbols      # next symbol: the same or one more
    return MarkovSource(symbols, order, n_symbols)


def test_the_entropy_is_the_expected_surprise_counted_window_by_window():
    symbols = np.random.default_rng(1).integers(0, 4, size=200)
    circular = list(symbols) + list(symbols[:3])
    surprise = 0.0
    for i in range(200):
        same = [circular[j + 3] for j in range(200) if circular[j:j + 3] == circular[i:i + 3]]
        surprise -= math.log(same.count(circular[i + 3]) / len(same)) / 200
    assert entropy_rate(symbols, 3, 4) == pytest.approx(surprise, abs=1e-12)


def test_the_source_knows_the_entropy_of_its_own_table():
    source = small_source()
    p = source.table.astype(np.float64)
    conditional = -(source.weight[:, None] * p * np.log(np.where(p > 0, p, 1))).sum()
    assert conditional == pytest.approx(source.entropy, abs=1e-6)
    assert source.weight.sum() == pytest.approx(1) and np.allclose(source.table.sum(1), 1)


def test_the_contexts_are_stationary_so_that_windows_of_the_text_are_draws_from_the_chain():
    source = small_source()
    number = {tuple(c): i for i, c in enumerate(source.contexts)}
    after = np.zeros(len(number))
    for i, context in enumerate(source.contexts):
        for v in np.flatnonzero(source.table[i]):
            after[number[(*context[1:], v)]] += source.weight[i] * source.table[i, v]
    np.testing.assert_allclose(after, source.weight, atol=1e-7)


def test_a_long_sample_has_the_frequencies_of_the_table():
    source = small_source(order=1)
    text = source.sample(np.random.default_rng(0), 20_000)
    for i, (context,) in enumerate(source.contexts):
        follow = np.bincount(text[1:][text[:-1] == context], minlength=5)
        assert np.abs(follow / follow.sum() - source.table[i]).max() < 0.03


def test_symbols_are_the_most_frequent_characters_in_lower_case():
    symbols, alphabet = to_symbols("Aaaa bbb cc d e" * 10, n_symbols=4)
    assert set(alphabet[:3]) == {"a", " ", "b"} and alphabet[3] == "~"
    assert "".join(alphabet[s] for s in symbols[:15]) == "aaaa bbb ~~ ~ ~"


def test_impossible_sources_are_refused():
    with pytest.raises(ValueError, match="outside 1 to 8"):
        MarkovSource(np.zeros(50, dtype=int), order=12)
    with pytest.raises(ValueError, match="all from 0 to 3"):
        MarkovSource(np.array([0, 1, 4, 2, 3, 1]), order=1, n_symbols=4)


def test_the_source_itself_as_a_model_has_no_reducible_loss_and_a_uniform_one_the_rest():
    source = small_source()
    table, weight = torch.from_numpy(source.table), torch.from_numpy(source.weight)
    perfect = torch.where(table > 0, table, 1e-30).log() + 3.0            # logits may be shifted
    assert ngram.reducible_loss(perfect, table, weight).item() == pytest.approx(0, abs=1e-7)
    uniform = ngram.reducible_loss(torch.zeros_like(table), table, weight).item()
    assert uniform == pytest.approx(math.log(5) - source.entropy, abs=1e-6)


def test_the_exact_loss_is_what_a_very_large_test_sample_would_show():
    source = small_source(order=2)
    torch.manual_seed(0)
    model = ngram.NgramModel(2, 5, 8, [3])
    with torch.no_grad():
        model.head.normal_()
        # every place of the text: the whole law
        windows = torch.from_numpy(source.windows)
        log_q = torch.log_softmax(model(windows[:, :2])[0].double(), -1)
    sampled = -log_q.gather(1, windows[:, 2:]).mean().item()
    assert ngram.evaluate(model, source, chunk=3)[0] == pytest.approx(sampled - source.entropy, abs=1e-5)


def test_seeds_trained_side_by_side_are_the_seeds_trained_alone():
    source = small_source()
    together = ngram.train(source, 8, 2_000, [0, 5], batch=100)
    alone = ngram.train(source, 8, 2_000, [5], batch=100)
    assert together[1]["seed"] == 5
    assert together[1]["reducible"] == pytest.approx(alone[0]["reducible"], rel=1e-3)
    assert abs(together[0]["reducible"] - alone[0]["reducible"]) > 1e-4      # other seeds are other runs


def test_training_learns_and_an_unfinished_run_is_worse_than_a_finished_one():
    source = small_source()
    long = ngram.train(source, 8, 40_000, [0], batch=100, checkpoints=(10_000,))[0]
    short = ngram.train(source, 8, 10_000, [0], batch=100)[0]
    untrained = math.log(5) - source.entropy
    assert long["reducible"] < short["reducible"] < 0.2 * untrained
    assert short["reducible"] < long["unfinished"]["10000"]


def test_a_muon_step_on_a_stack_is_chapter_3s_step_on_every_slice():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(2, 3, 6))                     # (S, in, out)
    singles = [torch.nn.Parameter(stack[s].detach().T.clone()) for s in range(2)]      # Muon holds (out, in)
    muon, momentum = Muon(singles, lr=0.1), [torch.zeros_like(stack)]
    for _ in range(3):
        stack.grad = torch.randn(2, 3, 6)
        for s in range(2):
            singles[s].grad = stack.grad[s].T.clone()
        ngram.muon_step([stack], momentum, 0.1)
        muon.step()
    for s in range(2):
        torch.testing.assert_close(stack[s].detach().T, singles[s].detach(), rtol=1e-4, atol=1e-5)


def test_each_seed_is_clipped_by_its_own_gradient():
    p = torch.nn.Parameter(torch.zeros(2, 1, 2))
    p.grad = torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]]])
    ngram.clip_each([p])
    torch.testing.assert_close(p.grad, torch.tensor([[[0.6, 0.8]], [[0.3, 0.4]]]))


calls = []


def counted_job(width: int, tokens: int) -> list[dict]:
    calls.append(width)
    if width == 13:
        raise RuntimeError("killed")
    return [dict(width=width, tokens=tokens)]


def slope_job(width: int, tokens: int) -> list[dict]:
    """A cell that needs a backward pass."""
    x = torch.tensor(float(width), requires_grad=True)
    x.square().backward()
    return [dict(width=width, slope=x.grad.item())]


def test_a_sweep_runs_in_processes_after_a_backward_pass(monkeypatch, tmp_path):
    after_backward(monkeypatch)
    rows = sweep.run_cells(slope_job, [dict(width=w, tokens=1) for w in (1, 2)], [ngram], tmp_path, 2, "test")
    assert [row["slope"] for row in rows] == [2.0, 4.0]


def test_a_sweep_continues_where_it_was_stopped_and_repeats_nothing(tmp_path):
    calls.clear()
    cells = [dict(width=w, tokens=10) for w in (20, 13, 5)]
    with pytest.raises(RuntimeError):
        sweep.run_cells(counted_job, cells, [ngram], tmp_path, 1, "test")
    cells[1]["width"] = 12
    rows = sweep.run_cells(counted_job, cells, [ngram], tmp_path, 1, "test")
    # 20 was kept, the failed cell was not
    assert calls == [20, 13, 12, 5]
    assert [r["width"] for r in rows] == [20, 12, 5] and all(r["cpu_seconds"] >= 0 for r in rows)
    assert sweep.run_cells(counted_job, cells, [ngram], tmp_path, 1, "test") == rows and len(calls) == 4


def test_a_cell_trains_on_the_symbols_in_its_file(tmp_path):
    source = small_source(order=2)
    np.save(tmp_path / "symbols.npy", source.symbols)
    rows = sweep.train_cell(str(tmp_path / "symbols.npy"), 2, 8, 1_000, [0])
    again = ngram.train(MarkovSource(source.symbols, 2), 8, 1_000, [0])
    assert rows[0]["reducible"] == again[0]["reducible"] and rows[0]["order"] == 2


def test_a_cell_of_other_settings_or_other_code_is_another_cell():
    key = sweep.cell_key(dict(width=8), [ngram])
    assert key == sweep.cell_key(dict(width=8), [ngram])
    assert key != sweep.cell_key(dict(width=9), [ngram]) and key != sweep.cell_key(dict(width=8), [sweep])


def test_a_width_takes_the_step_size_of_the_nearest_tuned_one_below():
    for width, tuned in ((4, 8), (8, 8), (23, 16), (24, 24), (94, 64)):
        assert rate_for(width) == RATES[tuned], width


def test_the_answer_probability_is_the_product_over_its_tokens():
    from bpe import EOS, Tokenizer
    from facts import Question
    from transformer import Transformer
    torch.manual_seed(0)
    tokenizer = Tokenizer([])
    model = Transformer(config_for(32, tokenizer.vocab_size)).eval()
    question = Question("", "os", "module", "The module of walk is")
    ids = [tokenizer.special[EOS]] + tokenizer.encode("The module of walk is")
    expected = 0.0
    for token in tokenizer.encode(" os."):                               # one token at a time
        with torch.no_grad():
            expected += torch.log_softmax(model(torch.tensor([ids]))[0, -1].double(), -1)[token].item()
        ids.append(token)
    assert answer_log_probability(model, tokenizer, [question, question]) == pytest.approx(expected, abs=1e-3)


def test_a_width_that_head_width_32_cannot_divide_is_refused():
    with pytest.raises(ValueError, match="choose 64"):
        config_for(48, 512)
