"""The tokenizer on the command line: what it prints and refuses, and that nothing is written by halves."""
import io
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tokenizer_cli
from bpe import Tokenizer
from unigram import Unigram
from workbench import run_main

TEXT = "The lower, the newer: 12 naïve cafés\r\n\n  日本語 🙂 of the\ttown <|eos|>\n" * 6


@pytest.fixture
def run(tmp_path, monkeypatch, capsysbinary):
    """run("encode", "file", stdin=b"...") gives (output, errors), with the error that ended the command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    Path("text.txt").write_bytes(TEXT.encode())

    def call(*argv: str, stdin: bytes = b"") -> tuple[bytes, str]:
        monkeypatch.setattr(sys, "argv", ["tokenizer_cli.py", *argv])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        message = ""
        try:
            run_main(tokenizer_cli.main)
        except SystemExit as stopped:
            message = str(stopped.code)
        sys.stdout.flush()
        out, err = capsysbinary.readouterr()
        return out, err.decode() + message
    return call


@pytest.fixture
def trained(run):
    """The same, with t.json there."""
    run("train", "text.txt", "--vocab", "290", "--out", "t.json", "--processes", "1")
    return run


@pytest.mark.parametrize("kind, cls", [("bpe", Tokenizer), ("unigram", Unigram)])
def test_text_comes_back_byte_for_byte(run, kind, cls):
    out, err = run("train", "--vocab", "300", "--out", "t.json", "--kind", kind, "text.txt",
                   "--processes", "2")
    assert out == b"" and f"t.json: {cls.load('t.json').vocab_size} tokens" in err
    ids, _ = run("encode", "text.txt", "--tokenizer", "t.json")
    assert list(map(int, ids.split())) == cls.load("t.json").encode(TEXT) and ids.count(b"\n") == 1
    assert run("decode", "--tokenizer", "t.json", stdin=ids)[0] == TEXT.encode()
    assert run("encode", "--tokenizer", "t.json", stdin=TEXT.encode())[0] == ids
    assert run("encode", "text.txt", "text.txt", "--tokenizer", "t.json", "--out", "deep/ids")[0] == b""
    assert Path("deep/ids").read_bytes() == ids * 2
    assert run("decode", "deep/ids", "--tokenizer", "t.json", "--out", "back")[1] == ""
    assert Path("back").read_bytes() == TEXT.encode() * 2


def test_special_tokens_count_where_they_are_allowed(trained):
    eos = str(Tokenizer.load("t.json").special["<|eos|>"]).encode()
    assert trained("encode", "text.txt", "--tokenizer", "t.json")[0].split().count(eos) == 0
    assert trained("encode", "text.txt", "--tokenizer", "t.json", "--special")[0].split().count(eos) == 6
    trained("train", "text.txt", "--out", "u.json", "--special", "<a>,<b c>", "--vocab", "290")
    assert list(Tokenizer.load("u.json").special) == ["<a>", "<b c>"]
    trained("train", "text.txt", "--out", "u.json", "--special", "", "--vocab", "290")
    assert not Tokenizer.load("u.json").special


def test_each_token_has_a_background_of_its_own(trained):
    out, _ = trained("show", "--tokenizer", "t.json", stdin="the newer \x1b[2J日\tx\n".encode())
    shown = re.findall(r"\x1b\[30;48;5;(\d+)m(.*?)\x1b\[0m", out.decode())
    tokenizer = Tokenizer.load("t.json")
    assert len(shown) == len(tokenizer.encode("the newer \x1b[2J日\tx\n"))
    assert all(a != b for (a, _), (b, _) in zip(shown, shown[1:])), "neighbours differ"
    joined = "".join(text for _, text in shown)
    assert joined.startswith("the newer \\x1b[2J"), "a text cannot command the terminal"
    assert joined.endswith("→x⏎")
    assert re.search(r"\n\d+ tokens, 20 bytes, \d\.\d\d bytes a token\n$", out.decode())
    plain, _ = trained("show", "--plain", "--tokenizer", "t.json", stdin="the 語".encode())
    pieces = plain.decode().splitlines()[0].rstrip("|").split("|")
    assert "".join(pieces) == "the <E8><AA><9E>" and b"\x1b" not in plain


def test_a_stream_in_blocks_gives_the_same_ids(trained, monkeypatch):
    whole, _ = trained("encode", "text.txt", "--tokenizer", "t.json")
    monkeypatch.setattr(tokenizer_cli, "BLOCK", 5)   # cuts characters and numbers
    assert trained("encode", "text.txt", "--tokenizer", "t.json")[0] == whole
    assert trained("decode", "--tokenizer", "t.json", stdin=whole)[0] == TEXT.encode()


def test_a_converted_tokenizer_is_used_like_our_own(trained):
    ids, _ = trained("encode", "text.txt", "--tokenizer", "t.json")
    assert trained("convert", "t.json", "--out", "hf.json")[1] == ""
    assert trained("encode", "text.txt", "--tokenizer", "hf.json")[0] == ids
    assert trained("convert", "hf.json", "--to", "tiktoken", "--out", "ranks")[1] == ""
    assert len(Path("ranks").read_bytes().splitlines()) == 286


BAD_TEXT = "naïve".encode("latin-1")


@pytest.mark.parametrize("argv, stdin, message", [
    (["train", "--vocab", "200"], b"x",
     "--vocab 200 is smaller than 256 bytes and 4 special tokens: give 260"),
    (["train", "--vocab", "0"], b"x", "--vocab 0"),
    (["train"], b"", "corpus is empty"),
    (["train", "missing.txt"], b"", "missing.txt: no such file"),
    (["train"], b"ab" * 40_000 + BAD_TEXT, "standard input is not UTF-8: byte 0xef at 80002"),
    (["train", "--errors", "ignore"], b"x", "give strict or replace"),
    (["train", "--special", "<a>,<a>"], b"x", "'<a>' is there twice"),
    (["train", "--kind", "wordpiece"], b"x", "give bpe or unigram"),
    (["train", "--pattern", "("], b"x", "no regular expression"),
    (["encode", "--tokenizer", "t.json"], BAD_TEXT, "standard input is not UTF-8: byte 0xef at 2"),
    (["encode", "--tokenizer", "none.json"], b"x", "none.json: no such tokenizer"),
    (["encode", "--tokenizer", "text.txt"], b"x", "text.txt is no tokenizer that can be read"),
    (["decode", "--tokenizer", "t.json"], b"72 9999", "token id 9999 is outside the vocabulary"),
    (["decode", "--tokenizer", "t.json"], b"72 x3", "standard input: 'x3' is no token id"),
    (["decode", "--tokenizer", "t.json"], b"-1", "'-1' is no token id"),
    (["convert", "--to", "hf"], b"", "one tokenizer file"),
    (["convert", "t.json", "--to", "gguf"], b"", "give hf or tiktoken"),
    (["paint"], b"", "'paint' is none of train, encode")])
def test_bad_input_is_one_sentence_and_nothing_is_written(trained, argv, stdin, message):
    before = sorted(Path(".").rglob("*"))
    out, err = trained(*argv, *(["--out", "new"] if argv[0] in ("train", "encode", "decode") else []),
                       stdin=stdin)
    assert message in err and "Traceback" not in err and out == b""
    assert sorted(Path(".").rglob("*")) == before


def test_a_pipe_is_a_file_too(trained):
    read, write = os.pipe()
    os.write(write, b"lower")
    os.close(write)
    out, err = trained("encode", "--tokenizer", "t.json", f"/dev/fd/{read}")   # <(zcat book.gz) in a shell
    os.close(read)
    assert (out, err) == trained("encode", "--tokenizer", "t.json", stdin=b"lower")


def test_broken_bytes_are_replaced_on_demand(trained):
    out, _ = trained("encode", "--errors", "replace", "--tokenizer", "t.json", stdin=BAD_TEXT)
    assert trained("decode", "--tokenizer", "t.json", stdin=out)[0].decode() == "na\ufffdve"


def test_fewer_merges_than_asked_are_told(run):
    _, err = run("train", "--vocab", "500", "--out", "t.json", stdin=b"ab ab")
    assert "only 2 merges, not 240" in err and "t.json: 262 tokens" in err


def test_a_full_disk_ends_with_one_sentence(trained, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    _, err = trained("encode", "text.txt", "--tokenizer", "t.json", "--out", "ids")
    assert "the disk is full" in err and not Path("ids").exists() and not list(Path(".").glob("*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_standard_output_ends_with_one_sentence(trained):
    command = [sys.executable, tokenizer_cli.__file__, "encode", "text.txt", "--tokenizer", "t.json"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == ("error: the disk is full: free some space and run the "
                                                    "same command again, nothing is lost\n")


def test_random_bytes_as_ids_survive_the_way(trained):
    ids = [random.randrange(290) for _ in range(500)]
    out, _ = trained("decode", "--tokenizer", "t.json", stdin=" ".join(map(str, ids)).encode())
    assert out == Tokenizer.load("t.json").decode_bytes(ids)
