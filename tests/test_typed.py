"""What a page or a module's first lines show to type does what they say: Python, curl, a pipe."""
import argparse
import http.client
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse

import pytest
import torch

from test_commands import MODULES, PAGES, ROOT, WHOLE, shown

pytestmark = pytest.mark.skipif(not WHOLE, reason="a release has a part of what its pages name")
SNIPPETS = [(page.relative_to(ROOT).as_posix(), n, code) for page in PAGES if page.name != "EXERCISES.md"
            for n, code in enumerate(re.findall(r"^```python\n(.*?)```", page.read_text(encoding="utf-8"),
                                                re.DOTALL | re.MULTILINE))]


def toy_course(folder):
    """The files that snippets read, of a toy that says three words and <|eos|>; a Llama of Hugging Face's."""
    from bpe import EOS, Tokenizer
    from checkpoint import save_model
    from gguf_file import write_gguf
    from hf_format import save_hf
    from transformer import Config, Transformer

    t = Tokenizer([])
    model = Transformer(Config(vocab_size=t.vocab_size, d_model=64, n_layers=1, n_heads=2, n_kv_heads=1,
                               d_ff=64, max_len=128, tied=False))
    for p in model.parameters():
        p.data.zero_() if p.ndim == 2 else p.data.fill_(1)
    said = [t.special["<|bot|>"], *t.encode(" abc."), t.special[EOS], *t.encode("more")]
    assert len(set(said[:-1])) == len(said[:-1])
    for place, (token, following) in enumerate(zip(said, said[1:])):      # each names the next, by its place
        model.model.embed_tokens.weight.data[token, place] = 1
        model.lm_head.weight.data[following, place] = 1
    for name in ("01_tokenizer", "07_alignment", "08_inference"):
        (folder / "out" / name).mkdir(parents=True)
    t.save(folder / "out/01_tokenizer/tokenizer.json")
    save_model(folder / "out/07_alignment/grpo.pt", model)
    write_gguf(folder / "out/08_inference/model.Q8_0.gguf", model, t, "F32")
    save_hf(model, folder / "Qwen3-0.6B")


@pytest.mark.parametrize("page, n, code", SNIPPETS, ids=[f"{page}-{n}" for page, n, _ in SNIPPETS])
def test_the_python_of_a_page_runs(page, n, code, tmp_path, monkeypatch, capsys):
    toy_course(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, page, "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    if "stream(" in code:                            # and stops at <|eos|>, where `generate` goes on
        from generate import generate
        assert printed == [" abc."] * (2 if "read_gguf" in code else 1)
        prompt = torch.tensor([names["chat_prompt"](names["t"], "?")])
        assert names["t"].decode(generate(names["model"], prompt, 8)[0].tolist()).endswith(" abc.<|eos|>mo")
    elif "softmax(" in code:                         # the table above it
        text = (ROOT / page).read_text(encoding="utf-8")
        table = re.findall(r"^\| (\d+) \| (0\.\d\d) \| (0\.\d\d) \|$", text, re.MULTILINE)
        assert len(table) == 3
        got = [[float(x) for x in line.split()] for line in printed]
        torch.testing.assert_close(torch.tensor(got), torch.tensor([[float(x) for x in r] for r in table]),
                                   atol=0.02, rtol=0)


def curls() -> list[tuple[str, str]]:
    """(where, command) of every curl that is shown; a quotation may go on in the next lines."""
    found = []
    for path in PAGES + MODULES:
        lines = shown(path).splitlines()
        for n, line in enumerate(lines):
            if re.match(r"\s*(\$ )?curl ", line):
                command, rest = line.strip().removeprefix("$ "), lines[n + 1:]
                while command.count("'") % 2 and rest:
                    command += "\n" + rest.pop(0)
                found.append((path.relative_to(ROOT).as_posix(), command))
    return found


def sent_by_curl(words: list[str]):
    """(method, address, headers, body) as curl would send them."""
    curl = argparse.ArgumentParser()
    curl.add_argument("url")
    curl.add_argument("-s", action="store_true")
    curl.add_argument("-d")
    curl.add_argument("-H", action="append", default=[])
    asked = curl.parse_args(words)
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if asked.d else {}
    headers |= {name: value.strip() for name, value in (h.split(":", 1) for h in asked.H)}
    return "POST" if asked.d else "GET", urllib.parse.urlsplit(asked.url), headers, asked.d


def test_every_curl_that_is_shown_gets_an_answer():
    from server_cases import Running
    commands, server = curls(), Running(blocks=64)
    try:
        for where, command in commands:
            program, *words = shlex.split(command)
            method, url, headers, body = sent_by_curl(words)
            assert (program, url.scheme, url.netloc) == ("curl", "http", "127.0.0.1:8000"), where
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request(method, url.path, body, headers)
            answer = connection.getresponse()
            assert answer.status == 200, (where, answer.read())
            connection.close()
            if shutil.which("curl"):
                words = [word.replace(":8000", f":{server.port}") for word in words]
                subprocess.run(["curl", "--fail", "--noproxy", "*", *words], check=True, capture_output=True,
                               timeout=60)
    finally:
        server.stop()
    assert {where for where, _ in commands} >= {"08_inference/README.md", "08_inference/server.py"}


def test_what_is_piped_into_a_program_gives_what_the_page_prints():
    seen = 0
    for page in PAGES:
        pipes = re.findall(r"^\$ printf '%s\\n' (.+) \| python (\S+\.py)\n((?:.+\n)*?)```",
                           page.read_text(encoding="utf-8"), re.MULTILINE)
        for words, program, wanted in pipes:
            sent = "".join(line + "\n" for line in shlex.split(words))
            done = subprocess.run([sys.executable, ROOT / program], input=sent, capture_output=True,
                                  text=True, timeout=60)
            assert done.stdout == wanted, (page, done.stderr)
            seen += 1
    assert seen
