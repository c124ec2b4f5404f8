"""The scoreboard and the report, on metrics written by hand."""
import json
import re
from urllib.parse import unquote

import pytest

from report import Report, write_report
from scoreboard import broken_promises, collect, main, seeds_table, table
from workbench import write_json


@pytest.fixture
def out(tmp_path):
    """Results of an imaginary run that keeps every promise."""
    def skills(facts, terse, addition, **more):
        return {"facts": facts, "terse": terse, "module": facts, "kind": facts, "parameter": facts,
                "addition": addition, **more}
    write_json(tmp_path / "01_tokenizer" / "metrics.json", {"tokens": {"real": 10}, "seconds": 1.0})
    write_json(tmp_path / "02_transformer" / "metrics.json", {"parameters": 1000, "seconds": 1.0})
    write_json(tmp_path / "03_training" / "metrics.json", {
        "before": {"bits_per_byte": 4.5, "recall": 0.0, "plain_answers": 0.0, "plain_addition": 0.0},
        "after": {"bits_per_byte": 2.5, "recall": 0.95, "plain_answers": 0.9, "plain_addition": 0.8},
        "train_seconds": 100.0, "seconds": 120.0})
    sampled = {"pass@16": 0.9, "majority@16": 0.3}
    write_json(tmp_path / "07_alignment" / "metrics.json", {
        "skills": {"chat_raw": skills(0.0, 0.0, 0.0), "token_init": skills(0.6, 0.1, 0.2),
                   "sft": skills(0.8, 0.1, 0.3, **sampled),
                   "dpo": skills(0.79, 1.0, 0.3), "grpo": skills(0.8, 0.99, 0.95, **sampled),
                   "control_random": skills(0.2, 0.2, 0.0), "control_more": skills(0.8, 0.1, 0.33),
                   "lora": skills(0.9, 0.1, 0.3), "student": skills(0.2, 1.0, 0.9),
                   "student_data": skills(0.2, 0.0, 0.2),
                   "tools": skills(0.8, 1.0, 0.94), "control_tools": skills(0.8, 1.0, 0.93),
                   "refusal": skills(0.6, 1.0, 0.9)},
        "products": {"grpo": 0.0, "tools": 0.95, "control_tools": 0.01},
        "refused": {"before": 0.0, "forbidden": 0.99, "look-alikes": 0.02},
        "logs": {"ppo": [{"pairs_right": 0.7, "raters_right": 0.8, "before": {"true": 2.0},
                          "after": {"true": 2.3}, "best_of": {"true": 2.4}}]},
        "stage_seconds": {"sft": 20.0, "dpo": 5.0, "grpo": 30.0, "lora": 9.0, "ppo": 20.0,
                          "student": 12.0, "tools": 9.0, "refusal": 4.0}, "seconds": 100.0,
        "samples": [{"question": "Which <module>?", "pretrained": "a\nb", "sft": " os.", "dpo": " os.",
                     "grpo": " os."}]})
    write_json(tmp_path / "08_inference" / "metrics.json", {
        "seed": 7, "seconds": 9.0, "cache": {"speedup": 3.0, "same_output": True, "seconds": 4.0},
        "batching": {"speedup": 5.0, "same_output": True, "seconds": 2.0},
        "speculation": {"speedup": 1.4, "same_output": True},
        "int4": {"bytes_before": 600, "bytes_after": 100, "seconds": 2.0,
                 "before": {"perplexity": 50.0, "facts": 0.8},
                 "after": {"perplexity": 50.5, "facts": 0.8}},
        "gguf": {"bytes": 200, "same_tokenizer": True, "facts": 0.8},
        "rag": {"bm25": 0.98, "vectors": 0.8, "chance": 0.01, "closed": 0.05, "found": 0.1, "wrong": 0.02,
                "seconds": 3.0}})
    for name in ("01_tokenizer/compression", "03_training/loss", "07_alignment/reward"):
        (tmp_path / f"{name}.svg").write_text("<svg></svg>")
    return tmp_path


def test_rows_have_the_six_fields_and_the_stages_in_order(out):
    rows = collect(out)
    assert {tuple(r) for r in rows} == {("stage", "metric", "before", "after", "control", "seconds")}
    assert list(dict.fromkeys(r["stage"] for r in rows)) == ["pretrain", "facts", "sft", "dpo", "grpo",
                                                             "lora", "ppo", "tool use", "refusal",
                                                             "distill", "cache", "int4", "gguf", "rag"]
    assert all(v is None or isinstance(v, (int, float)) for r in rows for k, v in r.items()
               if k not in ("stage", "metric"))
    assert broken_promises(rows) == []


def test_the_side_branches_stand_in_the_columns_that_their_words_name(out):
    found = [(r["before"], r["after"], r["control"], r["seconds"]) for r in collect(out)
             if r["stage"] in ("lora", "ppo", "tool use", "refusal", "distill", "rag")]
    assert found == [(0.0, 0.9, 0.8, 9.0),
                     (0.5, 0.7, 0.8, 20.0), (2.0, 2.3, 2.4, None),
                     (0.0, 0.95, 0.01, 9.0), (0.95, 0.94, 0.93, None),
                     (0.0, 0.99, 0.02, 4.0), (0.8, 0.6, None, None),
                     (0.95, 0.9, 0.2, 12.0),
                     (0.01, 0.98, 0.8, 3.0), (0.05, 0.1, 0.02, None)]


@pytest.mark.parametrize("stage, field, value", [
    ("pretrain", "after", 2.61), ("facts", "after", 0.89), ("sft", "after", 0.69), ("sft", "control", 0.31),
    ("dpo", "before", 0.51),
    ("dpo", "after", 0.94), ("grpo", "after", 0.89), ("grpo", "control", 0.36), ("cache", "after", 1.9),
    ("lora", "after", 0.76), ("tool use", "after", 0.79), ("tool use", "control", 0.06),
    ("refusal", "before", 0.01), ("refusal", "after", 0.89), ("refusal", "control", 0.06),
    ("distill", "after", 0.89), ("distill", "control", 0.51),
    ("int4", "after", 0.19), ("gguf", "after", 0.78), ("gguf", "after", None)])
def test_a_broken_promise_is_named(out, stage, field, value):
    rows = collect(out)
    next(r for r in rows if r["stage"] == stage)[field] = value
    assert len(broken_promises(rows)) == 1 and broken_promises(rows)[0].startswith(stage)


def test_a_skill_that_is_lost_on_the_way_is_named(out):
    rows = collect(out)
    for row in rows:
        if row["metric"] in ("  names never asked about", "  terse answers"):
            row["after"] = row["before"] - 0.035
    assert len(broken_promises(rows)) == 4


@pytest.mark.parametrize("way, says", [("cache", "decoding"), ("batching", "16 requests"),
                                       ("speculation", "prompt look-up")])
def test_different_output_is_no_speedup(out, way, says):
    path = out / "08_inference" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics[way]["same_output"] = False
    write_json(path, metrics)
    assert any(line.startswith(f"cache: {says}") for line in broken_promises(collect(out)))


def test_tables_fit_a_terminal(out):
    rows = collect(out)
    assert max(map(len, table(rows).splitlines())) <= 100
    assert "95.0%" in table(rows) and "4.500" in table(rows)
    next(r for r in rows if "forecast" in r["metric"]).update(before=2.3, after=2.2, control=2.6)
    lines = seeds_table([rows] * 3, [0, 1, 2]).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split("outcome")[1].split() for line in lines if "forecast" in line] == [
        3 * ["2.300>2.200", "(2.600)"]]


@pytest.mark.parametrize("board, metrics", [([], {"seed": 0}), ({}, {"seed": 0}), ([{}], {"seed": 0}),
                                            ([[]], {"seed": 0}),
                                            ("text", {"seed": 0}), ([{"stage": "sft"}], {}), (None, [])])
def test_results_of_another_kind_are_refused_with_a_sentence(out, monkeypatch, board, metrics):
    write_json(out / "scoreboard.json", board)
    write_json(out / "08_inference" / "metrics.json", metrics)
    monkeypatch.setattr("sys.argv", ["scoreboard.py", "--out", str(out), "--check"])
    with pytest.raises(ValueError, match="results are .*of other code.*: run make again"):
        main()


def test_results_of_an_older_version_are_named_with_what_they_lack(out, monkeypatch):
    rows = collect(out)
    write_json(out / "scoreboard.json", rows)
    write_json(out / "seed1" / "scoreboard.json", rows[:-1])
    write_json(out / "seed1" / "08_inference" / "metrics.json", {"seed": 1})
    monkeypatch.setattr("sys.argv", ["scoreboard.py", "--out", str(out), str(out / "seed1")])
    with pytest.raises(ValueError, match="seed1 and .* are of different code, their lines differ: run make"):
        main()
    older = [r for r in rows if r["stage"] != "tool use"]
    with pytest.raises(ValueError, match="of other code, they have no line 'tool use: products': run make"):
        broken_promises(older)
    path = out / "07_alignment" / "metrics.json"
    metrics = json.loads(path.read_text())
    kept = metrics["skills"]["sft"]
    metrics["skills"]["sft"] = {k: v for k, v in kept.items() if "@" not in k}
    write_json(path, metrics)
    with pytest.raises(ValueError, match="metrics.json is of other code, the SFT model has no pass@k there"):
        collect(out)
    del metrics["skills"]
    write_json(path, metrics)
    for read in (collect, write_report):
        with pytest.raises(ValueError, match="of other code .no 'skills'.: run make again"):
            read(out)


def test_the_report_is_one_file_that_loads_nothing(out):
    write_report(out)
    page = (out / "report.html").read_text()
    assert "Which &lt;module&gt;?" in page and "95.0%" in page and "color-scheme: light dark" in page
    assert not re.search(r'src=(?!"data:)|url\((?!#)|@import|href="(?!#)[^"]*//', page)
    assert page.count("<svg") == 3


def test_the_report_links_the_files_that_made_its_claims(out):
    write_report(out)
    links = re.findall(r'href="([^"#]+)"', (out / "report.html").read_text())
    assert len(links) > 10 and all((out / link).is_file() for link in links)
    report = Report(out)
    report.home = '../my #1 "course", 100% mine'
    [link] = re.findall(r'href="([^"#]+)"', report.files("x.py"))
    assert unquote(link) == report.home + "/x.py"


def test_two_figures_of_the_report_share_no_name(out):
    dot = '<svg><defs><path id="m1" d="M 0 0"/></defs><use href="#m1"/><g clip-path="url(#m1)"/></svg>'
    for name in ("01_tokenizer/compression", "03_training/loss"):
        (out / f"{name}.svg").write_text(dot)
    write_report(out)
    page = (out / "report.html").read_text()
    names = re.findall(r'<path id="([^"]+)"', page)
    assert len(set(names)) == 2
    assert all(f'href="#{n}"' in page and f"url(#{n})" in page for n in names)


def test_the_report_tells_of_every_chapter_that_has_results(out):
    write_json(out / "05_scaling" / "metrics.json", {
        "seconds": 3.0, "real_text": {"forecast": [2.5, 2.4, 2.8], "measured": 2.4}, "known_source": {
            "forecasts": [{"times": 4.0, "seed": 0, "loss": 1.5, "low": 1.4, "high": 1.6, "measured": 1.6,
                           "error": -0.0625}]}})
    write_json(out / "04_systems" / "metrics.json", {"seconds": 2.0, "strategies": {
        "zero_1": {"ranks": 2, "state": [8e6, 8e6], "sent": [1e6, 1.1e6], "weight_error": 2e-7}}})
    write_json(out / "06_data" / "metrics.json", {
        "seconds": 1.0, "crawl": {"stored": 12},
        "ladder": {"<raw>": {"bits_per_byte": [3.0, 3.2], "recall": [0.0, 0.5]}},
        "funnel": {"stages": [{"stage": "<language>", "documents_in": 12, "documents_out": 9,
                               "bytes_out": 2e6, "reasons": {"<b>": 1, "de": 2}}]}})
    results = json.loads((out / "01_tokenizer" / "metrics.json").read_text())
    write_json(out / "01_tokenizer" / "metrics.json", results | {"tokens": {"<text>": 7}})
    write_report(out)
    page = (out / "report.html").read_text()
    for said in ("fetched 12 pages", "de (2), &lt;b&gt; (1)", "<td>3.100</td><td>25%</td>", "2.400 to 2.800",
                 "+4.2%", "-6.2%", "8.00 / 8.00", "2e-07", "7 of &lt;text&gt;"):
        assert said in page, said
    assert not re.search("<(raw|language|b|text)>", page)
    results = json.loads((out / "05_scaling" / "metrics.json").read_text())
    for unseen, when in ((True, "before the model was trained"), (False, "without a look at the model")):
        results["real_text"]["unseen"] = unseen
        write_json(out / "05_scaling" / "metrics.json", results)
        assert f"<h2>The loss, forecast {when}</h2>" in Report(out).scaling()


def test_a_run_in_which_no_two_answers_differed_has_empty_cells_for_ppo(out):
    path = out / "07_alignment" / "metrics.json"
    results = json.loads(path.read_text())
    results["logs"] = {}
    path.write_text(json.dumps(results))
    rows = [r for r in collect(out) if r["stage"] == "ppo"]
    assert all(r["after"] is r["control"] is None for r in rows)
    assert "true reward" in table(collect(out))


def test_the_forecast_of_the_main_model_stands_beside_its_outcome_and_is_left_out_without_chapter_5(out):
    [row] = [r for r in collect(out) if "forecast" in r["metric"]]
    assert row["before"] is row["after"] is None and "forecast" not in table(collect(out))
    assert re.search(r"forecast > outcome +--$", seeds_table([collect(out)], [0]), re.MULTILINE)
    write_json(out / "05_scaling" / "metrics.json",
               {"real_text": {"forecast": [2.5, 2.4, 2.8], "measured": 2.4, "best_so_far": 2.9}})
    [row] = [r for r in collect(out) if "forecast" in r["metric"]]
    assert (row["before"], row["after"], row["control"]) == (2.5, 2.4, 2.9)
    assert re.search(r"forecast > outcome .*  2\.500   2\.400    2\.900", table(collect(out)))
