"""The page at /: what it asks the server, against plain calls of the model; the page itself in a browser."""
import math
import re
import time

import pytest
import torch

from browser import MISSING, Browser
from engine_cases import TOKENIZER, lively_model
from logit_lens import alternatives, lens, look_inside, surprise
from page_api import Page, label, page_html
from sampling import Sampling, filtered
from server_cases import EOS, Running, alone
from transformer import Transformer

IDS = [EOS, *b"def f(x):"]


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture(scope="module")
def running(model):
    it = Running()
    page = Page({"base": model, "grpo": model}, TOKENIZER, "grpo", ["Which module has glob?"])
    it.server.pages["/"], it.server.posts = ("text/html; charset=utf-8", page_html()), page.posts()
    yield it
    it.stop()


def test_the_lens_of_the_last_layer_is_the_model_and_that_of_the_first_reads_the_embedding(model):
    inside = look_inside(model, IDS)
    logits = model(torch.tensor([IDS]))[0]
    torch.testing.assert_close(inside.logits, logits)
    p, best = lens(model, inside, 3)
    assert p.shape == (model.config.n_layers + 1, len(IDS), 3)
    torch.testing.assert_close(p[-1], logits.softmax(-1).topk(3).values)
    plain = model.unembed(model.model.norm(model.model.embed_tokens(torch.tensor(IDS))))
    assert torch.equal(best[0], plain.topk(3).indices)


def test_the_attention_that_is_drawn_is_the_one_that_mixes_the_values(model):
    before = [layer.self_attn.attend for layer in model.model.layers]
    inside = look_inside(model, IDS)
    assert [layer.self_attn.attend for layer in model.model.layers] == before
    T, c = len(IDS), model.config
    for weights in inside.weights:
        assert weights.shape == (c.n_heads, T, T) and not weights.triu(1).any()
        torch.testing.assert_close(weights.sum(-1), torch.ones(c.n_heads, T).double())
    x = model.model.layers[0].input_layernorm(inside.stream[0])
    attention = model.model.layers[0].self_attn
    v = attention.v_proj(x).view(T, c.n_kv_heads, c.D).transpose(0, 1)
    mixed = inside.weights[0] @ v.repeat_interleave(c.n_heads // c.n_kv_heads, 0)
    wanted = attention(x[None], model.model.cos[:T].double(), model.model.sin[:T].double())[0]
    torch.testing.assert_close(attention.o_proj(mixed.transpose(0, 1).reshape(T, -1)), wanted)


def test_surprise_adds_up_to_the_loss_and_the_tree_holds_the_likeliest(model):
    logits = model(torch.tensor([IDS]))[0]
    bits = surprise(logits, IDS)
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(IDS[1:]), reduction="sum").item()
    assert bits[0] is None and math.isclose(sum(bits[1:]), loss / math.log(2), rel_tol=1e-6)
    for node in alternatives(model, IDS, 2, 2):
        below = model(torch.tensor([[*IDS, node["id"]]]))[0, -1].softmax(-1)
        assert node["p"] == pytest.approx(logits[-1].softmax(-1)[node["id"]].item())
        for child, p, i in zip(node["next"], *(t.tolist() for t in below.topk(2))):
            assert child["id"] == i and child["path"] == pytest.approx(node["p"] * p)


def test_the_server_answers_what_the_page_asks_and_says_what_it_cannot(running, model):
    status, found, _ = running.ask("/page/next", {"text": "def f(x):"})
    assert status == 200 and found["ids"] == IDS and found["at"] == len(IDS) - 1
    logits = model(torch.tensor([IDS]))[0, -1]
    assert found["order"] == logits.argsort(descending=True).tolist()
    assert found["logits"] == pytest.approx(logits.sort(descending=True).values.tolist(), abs=1e-4)
    _, found, _ = running.ask("/page/next", {"text": "<|user|>q<|bot|>", "model": "base", "at": 1})
    assert found["ids"] == [EOS, TOKENIZER.special["<|user|>"], ord("q"), TOKENIZER.special["<|bot|>"]]
    _, found, _ = running.ask("/page/layers", {"text": "ab", "layer": 1, "head": 3})
    assert [len(row) for row in found["attention"]] == [1, 2, 3] and len(found["best"]) == 3
    assert running.ask("/page/tokens", {"text": "é"})[1] == {"ids": [0xC3, 0xA9], "bytes": 2, "characters": 1}
    _, found, _ = running.ask("/page/chat", {"text": "1+2", "temperature": 0})
    assert found["asked"] == "<|user|>100+200<|bot|>" and found["is_sum"]
    greedy = [EOS, TOKENIZER.special["<|user|>"], *b"100+200", TOKENIZER.special["<|bot|>"]]
    said = alone(model, greedy, found["tokens"], Sampling(), 0)
    assert found["words"] == TOKENIZER.decode(said) and len(said) == found["tokens"] > 0
    cut = {"text": "1+2", "temperature": 1.5, "seed": 3, "min_p": 1.0}       # only the likeliest is left
    assert running.ask("/page/chat", cut)[1]["words"] == found["words"]
    for seed in (3, 4):
        _, found, _ = running.ask("/page/chat", {"text": "1+2", "temperature": 1.5, "seed": seed})
        said = alone(model, greedy, found["tokens"], Sampling(temperature=1.5), seed)
        assert found["words"] == TOKENIZER.decode(said)
    for path, body, field in (
            ("next", {"text": "x" * 200}, "text"), ("next", {"ids": [-1]}, "ids"), ("next", {"at": 9}, "at"),
            ("next", {"model": "other"}, "model"), ("next", {"model": ["grpo"]}, "model"),
            ("next", {"text": "\ud800"}, "text"),
            ("layers", {"text": "a", "layer": 2}, "layer"), ("chat", {"text": ""}, "text"),
            ("tree", {"text": "a", "width": 5, "depth": 5}, "depth"), ("tokens", {"text": 1}, "text"),
            ("chat", {"text": "a", "temperature": -1}, "temperature")):
        status, found, _ = running.ask("/page/" + path, body)
        assert status == 400 and found["error"]["param"] == field, (path, body, found)
    assert running.ask("/page/next")[0] == 405


def test_an_answer_that_goes_wrong_on_the_way_leaves_nothing_to_the_next(model, monkeypatch):
    page, asked = Page({"grpo": model}, TOKENIZER, "grpo"), {"text": "a", "temperature": 0}
    wanted = page.chat(asked)["words"]

    def broken(*_):
        raise RuntimeError("of the decoder")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="of the decoder"):
        patch.setattr("page_api.ends_at", broken)
        page.chat(asked)
    assert not page.engines["grpo"].busy and page.chat(asked)["words"] == wanted


def test_each_model_of_the_page_answers_for_itself(model):
    torch.manual_seed(1)
    other = Transformer(model.config).double().requires_grad_(False)
    page = Page({"grpo": model, "sft": other}, TOKENIZER, "grpo")
    ids = [EOS, TOKENIZER.special["<|user|>"], *b"a", TOKENIZER.special["<|bot|>"]]
    for name in ("sft", "grpo", "sft"):
        found = page.chat({"text": "a", "model": name, "temperature": 0})
        said = alone(page.models[name], ids, found["tokens"], Sampling(), 0)
        assert found["words"] == TOKENIZER.decode(said) and said


def test_a_key_locks_what_the_page_asks_but_not_the_page(model):
    it = Running(api_key="k")
    it.server.pages["/"] = ("text/html; charset=utf-8", page_html())
    it.server.posts = Page({"base": model}, TOKENIZER, "base").posts()
    try:
        assert it.ask("/")[0] == 200 and it.ask("/page/models", {})[0] == 401
        assert it.ask("/page/models", {}, headers={"Authorization": "Bearer k"})[0] == 200
    finally:
        it.stop()


def test_the_page_is_one_file_that_names_no_other_place():
    html = page_html().decode()
    assert "STYLE */" not in html and "SCRIPTS */" not in html and "connect-src 'self'" in html
    assert set(re.findall(r"https?://[^\s\"'`]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", html)
    assert label(b" a\n") == "␣a⏎" and label(b"\xc3(") == "\\xC3(" and label("é".encode()) == "é"


@pytest.fixture(scope="module")
def window(running):
    if MISSING:
        pytest.skip(MISSING)
    try:
        browser = Browser()
    except (RuntimeError, OSError) as error:    # installed and unable to start, as in some containers
        pytest.skip(f"chromium does not start here: {str(error)[:200]}")
    browser.open(f"http://127.0.0.1:{running.port}/")
    browser.until("document.body.dataset.ready")
    yield browser
    browser.close()


def bars(window) -> list[tuple[int, float]]:
    return window.run("return [...document.querySelectorAll('#bars button')]"
                      ".map(b => [+b.dataset.id, +b.dataset.p])")


def test_a_browser_reshapes_the_bars_and_takes_a_token(window, model):
    window.run("document.getElementById('text').value = ''")
    window.type("#text", "def f(x):")
    window.until("state.ids.length === 10 && document.querySelectorAll('#seen button').length === 10")
    logits = model(torch.tensor([IDS]))[:, -1]
    for temperature, top_p in ((1, 1), (0.5, 1), (1.5, 0.8), (0, 1)):
        window.run("const given = arguments; ['temperature', 'top-p'].forEach((id, i) => {"
                   "const e = document.getElementById(id); e.value = given[i];"
                   "e.dispatchEvent(new Event('input')) })", temperature, top_p)
        how = Sampling(temperature=max(temperature, 1e-6), top_p=top_p)
        wanted = filtered(logits, how)[0]
        for last in range(200):                     # a slow machine may still show the text before
            shown = [(i, p, wanted[i].item()) for i, p in bars(window)]
            if shown and all(abs(p - w) <= 1e-3 for _, p, w in shown) or last == 199:
                break
            time.sleep(0.1)
        assert shown and all(p == pytest.approx(w, abs=1e-3) for _, p, w in shown), shown
    best = bars(window)[0][0]
    assert best == logits.argmax().item()
    role, name = window.name("#bars li:first-child button")
    assert role == "button" and "100%" in name
    window.click("#bars li:first-child button")
    window.until("state.ids.length === 11")
    assert window.run("return state.ids.at(-1)") == best
    window.click("#undo")
    window.until("state.ids.length === 10 && state.at === null")
    window.click("#seen button:nth-child(3)")
    window.until("document.getElementById('barstitle').textContent.includes('after token 1')")
    window.click("#seen button:nth-child(3)")
    window.until("state.at === null && document.querySelectorAll('#tree li').length >= 9")


def test_a_browser_lets_it_run_and_stops(window):
    window.run("const e = document.getElementById('temperature'); e.value = 1;"
               "e.dispatchEvent(new Event('input'))")
    window.click("#run")
    window.until("state.ids.length >= 13 || !state.running")
    window.run("if (state.running) document.getElementById('run').click()")
    window.until("!state.running && document.getElementById('run').textContent === 'Run'")


def test_a_browser_asks_for_the_key_until_it_is_the_right_one(window, running, model):
    it = Running(api_key="the key")
    it.server.pages["/"] = ("text/html; charset=utf-8", page_html())
    it.server.posts = Page({"base": model}, TOKENIZER, "base").posts()
    try:
        window.open(f"http://127.0.0.1:{it.port}/")
        window.until("!document.getElementById('keyform').hidden")
        assert "Authorization: Bearer" in window.run("return document.getElementById('problem').textContent")
        assert window.name("#key")[1] == "The server's key"
        window.type("#key", "a wrong one\ue007")                   # the return key
        window.until("!document.getElementById('keyform').hidden && document.getElementById('key').value "
                     "=== ''")
        window.type("#key", "the key\ue007")
        window.until("document.body.dataset.ready && document.querySelectorAll('#bars button').length")
        assert window.run("return document.getElementById('keyform').hidden"
                          " && document.getElementById('problem').hidden")
        assert window.run("return !location.href.includes('key') && !localStorage.length"
                          " && !sessionStorage.length"), "the key is kept nowhere"
    finally:
        window.open(f"http://127.0.0.1:{running.port}/")
        window.until("document.body.dataset.ready")
        window.logs()                                              # of the 401 that were wanted
        it.stop()


def test_every_view_is_reached_by_the_keyboard_and_has_names(window):
    window.click("#tab-next")
    window.type("#tab-next", "\ue014")
    window.until("document.querySelectorAll('#lens tbody tr').length === 3"
                 " && document.querySelectorAll('#lines line').length")
    window.type("#lines .to:last-of-type", "\ue007")
    window.until("document.getElementById('looks').textContent.includes('looks at')")
    window.type("#tab-inside", "\ue014")
    window.run("document.getElementById('question').value = ''")
    window.type("#question", "1+2\ue007")
    window.until("document.querySelectorAll('#answers article').length === 2"
                 " && !document.getElementById('answers').innerText.includes('…')")
    assert "100+200=" in window.run("return document.getElementById('answers').innerText")
    window.type("#tab-chat", "\ue010")
    window.until("document.querySelectorAll('#pieces button').length > 20")
    for selector, role in (("#text", "textbox"), ("#model", "combobox"), ("#temperature", "slider"),
                           ("#lens", "table")):
        window.run("show('next')" if selector != "#lens" else "show('inside')")
        found, name = window.name(selector)
        assert found == role and name, selector
    unnamed = window.run("return [...document.querySelectorAll('button, input, select, textarea')]"
                         ".filter(e => !(e.textContent || e.getAttribute('aria-label') || e.labels?.length))"
                         ".map(e => e.outerHTML)")
    assert not unnamed


def test_a_browser_asks_nobody_else_and_complains_of_nothing(window, running):
    asked = window.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert asked and all(url.startswith(f"http://127.0.0.1:{running.port}/page/") for url in asked)
    assert window.logs() == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone_in_light_and_dark(running, dark):
    if MISSING:
        pytest.skip(MISSING)
    try:
        phone = Browser(390, 844, dark)
    except (RuntimeError, OSError) as error:
        pytest.skip(f"chromium does not start here: {str(error)[:200]}")
    try:
        phone.open(f"http://127.0.0.1:{running.port}/#chat")
        phone.until("document.body.dataset.ready")
        for view in ("next", "inside", "chat", "tokens"):
            phone.run("show(arguments[0])", view)
            phone.until("!document.getElementById('view-' + arguments[0]).hidden", view)
            assert phone.run("return document.documentElement.scrollWidth") <= 390
        light = phone.run("return +getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128")
        assert light != dark
    finally:
        phone.close()
