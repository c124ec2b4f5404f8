"""Chapter 6: the pipeline resumes, verifies, skips trouble with a reason, and stays small."""
import concurrent.futures
import errno
import gzip
import json
import random
import sys
import tracemalloc
from pathlib import Path

import pytest

import across_shards
import deduplicate
import ladder
import pipeline
import planted
import workbench
from across_shards import read_documents
from bpe import Tokenizer
from commands import command
from facts import find_facts, questions
from no_fork import after_backward
from warc import Page, write_record
from workbench import process_pool

LEAK = "Which keyword begins the definition of a function in this programming language? It is def, of course."


class Here(concurrent.futures.Executor):
    """Runs each task at once, in this process."""

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    path = tmp_path_factory.mktemp("crawl") / "crawl.warc.gz"
    pages = planted.build(0, leak="\n".join([LEAK, *planted.articles()[0][:3]]))
    some = {kind: [p for p in pages if p.kind == kind][:n]
            for kind, n in (("article", 30), ("near copy", 8), ("exact copy", 5), ("private data", 3),
                            ("leak", 1), ("language", 12), ("spam", 9), ("facts", 8), ("broken", 13),
                            ("code", 3))}
    with open(path, "wb") as file:
        for page in (page for kind in some.values() for page in kind):
            write_record(file, Page("http://web.example" + page.path, 200,
                                    {"content-type": page.content_type}, page.body))
    (path.parent / "items.json").write_text(json.dumps([LEAK]))
    return path


def recipe(crawl):
    return pipeline.Recipe(items=str(crawl.parent / "items.json"))


@pytest.fixture(scope="module")
def done(crawl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    return folder, pipeline.run_pipeline(crawl, folder, recipe(crawl), Here(), records=25)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_funnel_adds_up_and_every_removal_has_a_reason(done):
    _, result = done
    for before, after in zip(result["stages"], result["stages"][1:]):
        assert before["documents_out"] == after["documents_in"]
    for stage in result["stages"]:
        gone = stage["documents_in"] - stage["documents_out"]
        assert gone == sum(stage["reasons"].values()), stage["stage"]
        assert set(stage["samples"]) == set(stage["reasons"])
    by_name = {s["stage"]: s["reasons"] for s in result["stages"]}
    assert by_name["extract"]["empty"] == 1 and by_name["extract"]["binary"] == 2
    assert by_name["near"] and by_name["exact"]
    assert by_name["decontaminate"] == {"contains evaluation items": 1}
    assert "shards" in result and pipeline.funnel_table(result).count("\n") == len(pipeline.STAGES)


def test_copies_go_and_the_first_of_them_stays(done):
    folder, result = done
    stage = {s["stage"]: folder / f"{i + 1}-{s['stage']}" for i, s in enumerate(result["stages"])}
    before, after = ([doc for p in sorted(stage[s].glob("*.jsonl.gz")) for doc in read_documents(p)]
                     for s in ("quality", "near"))
    gone = {doc["url"] for doc in before} - {doc["url"] for doc in after}
    assert len(gone) >= 8 and all("copy" in url for url in gone), (
        "the originals come first in this crawl, so they stay")
    texts = [deduplicate.shingles(doc["text"]) for doc in after]
    assert max(deduplicate.jaccard(a, b) for i, a in enumerate(texts) for b in texts[:i]) < 0.9


@pytest.mark.parametrize("stage, end", across_shards.PARTS.items())
def test_a_repeated_part_stays_where_it_came_first_and_short_ones_may_repeat(tmp_path, stage, end):
    long, short = "a sentence of more than forty characters, repeated", "short"
    other = "another sentence, also of more than forty"
    shards = [[end.join([long, short]), end.join([other, long.upper(), short])],
              [end.join([short, other, other, long])]]
    for i, texts in enumerate(shards):
        with gzip.open(tmp_path / f"{i}.gz", "wt") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        across_shards.shard_keys(stage, tmp_path / f"{i}.gz", tmp_path / f"{i}.npy")
    drops = across_shards.decide(stage, [tmp_path / "0.npy", tmp_path / "1.npy"], 0.8)
    assert drops == [{"1": [1]}, {"0": [1, 2, 3]}]


def test_private_data_is_masked_in_what_comes_out(done):
    _, result = done
    text = "".join(doc["text"] for path in result["output"] for doc in read_documents(Path(path)))
    assert "@example.org" not in text and "<email>" in text and "<phone>" in text


def test_a_second_run_does_nothing_and_changes_no_byte(crawl, done):
    folder, first = done
    before = contents(folder)
    again = pipeline.run_pipeline(crawl, folder, recipe(crawl), Here(), records=25)
    assert all(stage["skipped"] == first["shards"] for stage in again["stages"])
    assert contents(folder) == before
    assert [s["reasons"] for s in again["stages"]] == [s["reasons"] for s in first["stages"]]


def test_two_processes_give_the_same_bytes_as_one_also_after_a_backward_pass(crawl, done, tmp_path,
                                                                             monkeypatch):
    after_backward(monkeypatch)
    pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), records=25)
    here = {k: v for k, v in contents(tmp_path).items() if k.endswith(".jsonl.gz")}
    assert here == {k: v for k, v in contents(done[0]).items() if k.endswith(".jsonl.gz")}


def test_the_ladder_is_climbed_in_processes_after_a_backward_pass(monkeypatch):
    after_backward(monkeypatch)
    tokenizer, shape = Tokenizer([]), ladder.Shape(d_model=8, n_layers=1, steps=2, batch=2, length=64)
    asked = questions(find_facts(1, random.Random(0))[0])
    with process_pool(2) as executor:
        got = ladder.climb({"a": ["some text " * 30], "b": ["other words " * 30]}, tokenizer, ["test " * 9],
                           asked,
                           shape, range(1), executor)
    assert all(2 < got[name]["bits_per_byte"][0] < 9 for name in "ab")


def test_documents_of_a_stage_that_has_not_run_are_one_sentence(done):
    assert len(ladder.stage_documents(done[0], "extract")) == done[1]["stages"][0]["documents_out"]
    for folder, stage in ((done[0], "translate"), (done[0] / "nowhere", "extract")):
        with pytest.raises(ValueError, match=f"has no stage '{stage}': run `make 06` first"):
            ladder.stage_documents(folder, stage)


def test_other_sentences_to_learn_languages_from_redo_what_they_decide(tmp_path, monkeypatch):
    with gzip.open(tmp_path / "in.gz", "wt") as file:
        file.write(json.dumps({"url": "", "text": "This is the language of these words."}) + "\n")
    step = "language", str(tmp_path / "in.gz"), str(tmp_path / "out.gz"), pipeline.Recipe()
    assert "cpu" in pipeline.run_shard(*step) and "cpu" not in pipeline.run_shard(*step)
    more = tmp_path / "languages.txt"
    more.write_text(planted.LANGUAGES.read_text("utf-8") + "en train One more sentence.\n", "utf-8")
    monkeypatch.setattr(planted, "LANGUAGES", more)
    assert "cpu" in pipeline.run_shard(*step)


def test_a_run_that_dies_continues_and_ends_with_the_same_bytes(crawl, done, tmp_path):
    class Dies(Here):
        left = 9

        def submit(self, function, *args):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().submit(function, *args)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), Dies(), records=25)
    result = pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), Here(), records=25)
    assert result["stages"][0]["skipped"] > 0
    wanted = {k: v for k, v in contents(done[0]).items() if k.endswith(".jsonl.gz")}
    assert {k: v for k, v in contents(tmp_path).items() if k.endswith(".jsonl.gz")} == wanted


def test_a_damaged_file_is_found_and_made_again_and_a_new_setting_redoes_the_work(crawl, tmp_path):
    pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), Here(), 25, ("extract", "language"))
    victim = sorted((tmp_path / "2-language").glob("*.jsonl.gz"))[0]
    wanted = victim.read_bytes()
    victim.write_bytes(b"half a file")
    assert pipeline.verify(tmp_path) == [str(victim)]
    result = pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), Here(), 25, ("extract", "language"))
    assert victim.read_bytes() == wanted and pipeline.verify(tmp_path) == []
    assert result["stages"][1]["skipped"] == result["shards"] - 1
    german = pipeline.run_pipeline(crawl, tmp_path, pipeline.Recipe(language="de"), Here(), 25,
                                   ("extract", "language"))
    assert german["stages"][1]["skipped"] == 0 and "language: en" in german["stages"][1]["reasons"]


def test_shards_of_an_earlier_longer_crawl_are_gone(crawl, tmp_path):
    pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), Here(), 10, ("extract",))
    result = pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), Here(), 25, ("extract",))
    assert sorted(map(str, (tmp_path / "1-extract").glob("*.jsonl.gz"))) == result["output"]
    assert len(list((tmp_path / "warc").iterdir())) == result["shards"]


def test_a_full_disk_stops_clearly_and_leaves_no_half_file(crawl, tmp_path, monkeypatch):
    real = workbench.os.replace

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    pipeline.shard(crawl, tmp_path, 25)
    monkeypatch.setattr(workbench.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), Here(), 25, ("extract",))
    assert not list(tmp_path.glob("1-extract/*"))
    monkeypatch.setattr(workbench.os, "replace", real)
    assert pipeline.run_pipeline(crawl, tmp_path, recipe(crawl), Here(), 25,
                                 ("extract",))["stages"][0]["documents_out"] > 0


def test_the_command_ends_a_full_disk_with_one_sentence(crawl, tmp_path):
    code = ("import errno, sys, workbench, pipeline\n"
            "def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')\n"
            "workbench.os.replace = full\n"
            f"sys.argv = ['pipeline.py', {str(crawl)!r}, {str(tmp_path)!r}]\n"
            "workbench.run_main(pipeline.main)")
    (tmp_path / "full.py").write_text(code)
    env = {"PYTHONPATH": ":".join(p for p in sys.path if p), "OMP_WAIT_POLICY": "PASSIVE"}
    run = command(tmp_path / "full.py", env=env)
    assert run.returncode == 1 and "the disk is full" in run.stderr and "Traceback" not in run.stderr


def test_broken_members_and_missing_files_are_reported(crawl, tmp_path):
    data = bytearray(crawl.read_bytes())
    data[5000:5100] = b"\0" * 100
    (tmp_path / "bad.warc.gz").write_bytes(data)
    result = pipeline.run_pipeline(tmp_path / "bad.warc.gz", tmp_path / "out", recipe(crawl), Here(), 25,
                                   ("extract",))
    assert result["problems"]["broken gzip member"] >= 1 and result["stages"][0]["documents_in"] > 80
    with pytest.raises(FileNotFoundError):
        pipeline.run_pipeline(tmp_path / "none.warc.gz", tmp_path / "out2", recipe(crawl), Here())


@pytest.mark.parametrize("content", [b"", gzip.compress(b""), b"<html>no WARC at all</html>",
                                     b"\x28\xb5\x2f\xfd",
                                     b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"])
def test_a_file_without_a_page_is_said_in_one_sentence(tmp_path, content):
    (tmp_path / "a.warc").write_bytes(content)
    with pytest.raises(ValueError, match="a.warc holds no page .*: name a WARC file"):
        pipeline.run_pipeline(tmp_path / "a.warc", tmp_path / "out", executor=Here())


def test_a_crawl_of_which_nothing_is_left_goes_through_all_stages(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        for url in ("http://[no-host/x", "http://a.example:port/y/z?q", "urn:x"):
            write_record(file, Page(url, 200, {"content-type": "text/html"}, b"<p>short"))
    result = pipeline.run_pipeline(tmp_path / "a", tmp_path / "out", executor=Here())
    assert result["stages"][0]["reasons"] == {"no main text": 3}
    assert [s["documents_out"] for s in result["stages"]] == [0] * len(pipeline.STAGES)


def test_memory_stays_flat_when_the_corpus_grows(tmp_path):
    peaks = []
    for n in (30, 30, 240):                                # the first fills caches
        source = tmp_path / f"{n}.jsonl.gz"
        with gzip.open(source, "wt") as file:
            for i in range(n):
                file.write(json.dumps({"url": f"u{i}", "domain": "d", "raw": 1,
                                       "text": f"The words of text {i} and more of it. " * 20}) + "\n")
        tracemalloc.start()
        for stage in ("language", "rules", "private"):
            pipeline.run_shard(stage, str(source), str(tmp_path / f"{n}-{stage}.jsonl.gz"), pipeline.Recipe())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        for old in tmp_path.glob("*"):
            old.unlink()
    assert peaks[2] < 1.3 * peaks[1], f"8 times the documents took {peaks[2] / peaks[1]:.2f} times the memory"


def test_a_count_of_zero_is_refused_before_the_work_begins():
    done = command(Path(pipeline.__file__).with_name("run.py"), "--ladder-seeds", 0)
    assert done.returncode == 1 and "--ladder-seeds 0: give 1 or more" in done.stderr
    assert "Traceback" not in done.stderr
