"""The report: the story of one run, chapter by chapter, in one HTML file that loads nothing.

Each section says what was done, with this run's numbers and figures, and links the files that did it.
Readable in light and dark, on a phone and on paper.

    make                                   writes out/report.html
"""
import base64
import html
import os
import platform
import re
from datetime import date
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

from report_tables import (
    forecast_table,
    funnel_table,
    ladder_table,
    speed_table,
    strategies_table,
    table_html,
)
from scoreboard import collect, results_of_this_code, show
from workbench import atomic, read_json

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.15; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
a { color: inherit; } code { font-size: .9em; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); }
th, td { text-align: right; vertical-align: top; }
th:first-child, td:first-child, .talk th, .talk td { text-align: left; }
.board th:nth-child(2), .board td:nth-child(2), .why th:last-child, .why td:last-child { text-align: left; }
figure { margin: 1.5rem 0; } figure svg, figure img { max-width: 100%; height: auto; }
figure svg { fill: currentColor; } figure svg text { font-family: system-ui, sans-serif; }
figure img { background: white; }
figcaption, .small { font-size: .9rem; opacity: .8; }
.wide { overflow-x: auto; } .talk td { white-space: pre-wrap; }
@media print { body { max-width: none; margin: 0; font-size: 11pt; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } .wide { overflow: visible; }
  thead { break-after: avoid; } tbody tr:first-child { break-after: avoid; } }
"""
WATTS, PRICE = 15.0, 0.30   # what a laptop draws under load, and what a kilowatt-hour costs: assumptions


class Report:
    """The results of one run, and the pieces of the page that are made of them."""

    def __init__(self, out: Path):
        self.out = out
        self.metrics = {p.parent.name: read_json(p) for p in sorted(out.glob("0*/metrics.json"))}
        self.home = os.path.relpath(Path(__file__).resolve().parents[1], out.resolve())

    def files(self, *names: str) -> str:
        """Links to the files that made a claim, as they lie from the report."""
        links = ", ".join(f'<a href="{quote(self.home)}/{n}"><code>{n}</code></a>' for n in names)
        return f"<p class=small>Made by {links}</p>"

    def figure(self, name: str, caption: str) -> str:
        """A figure inside the page: SVG as it is, PNG as data; nothing where this run drew none."""
        svg, png = self.out / f"{name}.svg", self.out / f"{name}.png"
        if svg.exists():
            # Several figures on one page: the names inside each must differ from those of the others.
            one = name.replace("/", "-")
            drawn = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{one}-", svg.read_text(encoding="utf-8"))
            picture = drawn[max(drawn.find("<svg"), 0):]
        elif png.exists():
            data = base64.b64encode(png.read_bytes()).decode()
            picture = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        else:
            return ""
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"

    def spent(self) -> str:
        """Seconds by chapter, energy and cost."""
        seconds = {name: m["seconds"] for name, m in self.metrics.items()}
        total = sum(seconds.values())
        rows = [[name, f"{s:.0f} s", f"{s / total:.0%}"] for name, s in seconds.items()]
        watt_hours = total * WATTS / 3600
        return table_html(["chapter", "time", "share"], [*rows, ["all", f"{total:.0f} s", ""]]) + (
            f"<p class=small>An estimate: at {WATTS:.0f} W, a laptop under load, that is {watt_hours:.1f} "
            f"watt-hours, {watt_hours / 1000 * PRICE:.4f} euros at {PRICE:.2f} a kilowatt-hour.</p>")

    def data(self) -> str:
        """Chapter 6, where `make` begins."""
        m = self.metrics["06_data"]
        return f"""<h2>The text, from a crawl</h2>
<p>A crawler fetched {m["crawl"]["stored"]} pages of a small web. This is what became of them:</p>
{funnel_table(m["funnel"]["stages"])}
<p>What that is worth was measured by training one small model on the text of each stage:</p>
{ladder_table(m["ladder"])}
{self.files("06_data/crawl.py", "06_data/pipeline.py", "06_data/ladder.py")}"""

    def tokenizer(self) -> str:
        """Chapter 1."""
        m = self.metrics["01_tokenizer"]
        tokens, sizes = m["tokens"], m.get("bytes_per_token", {})
        last = f", {list(sizes.values())[-1]:.2f} bytes each on held-out text" if sizes else ""
        return f"""<h2>Bytes to tokens</h2>
<p>Byte-pair encoding turned the text into {sum(tokens.values()):,} tokens{last}:
{html.escape(", ".join(f"{n:,} of {name}" for name, n in tokens.items()))}.</p>
{self.figure("01_tokenizer/compression", "A token of a larger vocabulary covers more bytes, with diminishing "
             "returns.")}
{self.figure("01_tokenizer/languages", "The same sentence costs several times the tokens in a language "
             "that the vocabulary was not made from.")}
{self.files("01_tokenizer/bpe.py", "01_tokenizer/corpus.py")}"""

    def training(self) -> str:
        """Chapters 2 and 3."""
        m = self.metrics["03_training"]
        before, after = m["before"], m["after"]
        return f"""<h2>A transformer learns to predict</h2>
<p>{self.metrics["02_transformer"]["parameters"]:,} parameters. In {m["train_seconds"]:.0f} seconds the loss
on held-out text fell from {before["bits_per_byte"]:.2f} to {after["bits_per_byte"]:.2f} bits a byte, and
{after["recall"]:.0%} of the facts it read can be recalled.</p>
{self.figure("03_training/loss", "Training loss. The first phase shows sums only; the second starts high "
             "because text is new.")}
{self.figure("02_transformer/rope", "Rotary positions: how well a query matches a key depends on their "
             "distance alone.")}
{self.files("02_transformer/transformer.py", "03_training/train.py", "03_training/muon.py")}"""

    def systems(self) -> str:
        """Chapter 4."""
        m = self.metrics["04_systems"]["strategies"]
        worst = max(row["weight_error"] for row in m.values())
        return f"""<h2>The same steps on many processes</h2>
<p>{len(m)} ways to split the work over processes trained the same model; no weight differs by more than
{worst:.0e} of the largest from that of one process. Predicted and measured:</p>
{strategies_table(m)}
{self.figure("04_systems/pipelines", "Pipeline stages over time: what is idle is the bubble.")}
{self.figure("04_systems/roofline", "What each operation reaches of this machine's roof.")}
{self.files("04_systems/zero.py", "04_systems/tensor_parallel.py", "04_systems/pipeline_parallel.py")}"""

    def scaling(self) -> str:
        """Chapter 5."""
        m = self.metrics["05_scaling"]
        unseen = m["real_text"].get("unseen")
        when = "before the model was trained" if unseen else "without a look at the model"
        return f"""<h2>The loss, forecast {when}</h2>
{forecast_table(m)}
{self.figure("05_scaling/sweep", "Loss against tokens, one line for each model size: the fitted law.")}
{self.figure("05_scaling/forecast", "The forecast for larger runs, its interval, and what they reached.")}
{self.files("05_scaling/chinchilla.py", "05_scaling/predict.py")}"""

    def alignment(self) -> str:
        """Chapter 7."""
        samples = self.metrics["07_alignment"]["samples"]
        stages = [k for k in samples[0] if k != "question"]
        rows = [[s["question"], *(s[k].strip()[:80] for k in stages)] for s in samples]
        return f"""<h2>From text model to assistant</h2>
<p>The same questions, on names and sums never asked about, after each stage:</p>
{table_html(["asked", *stages], rows, "talk")}
<p class=small>Sums are written ones digit first: 163+423=5860 is 361 + 324 = 0685. The pretrained model has
never seen the chat form.</p>
{self.figure("07_alignment/reward", "Share of right answers among the samples of each GRPO step, on sums "
             "drawn fresh for the step.")}
{self.files("07_alignment/sft.py", "07_alignment/dpo.py", "07_alignment/grpo.py",
            "07_alignment/side_branches.py")}"""

    def inference(self) -> str:
        """Chapter 8."""
        m = self.metrics["08_inference"]
        int4 = m["int4"]
        return f"""<h2>Fast and small</h2>
{speed_table(m)}
<p>Four bits a weight: {int4["bytes_before"] / 1e6:.2f} MB became {int4["bytes_after"] / 1e6:.2f} MB.</p>
{self.files("08_inference/engine.py", "08_inference/speculative.py", "08_inference/gptq.py")}"""

    def scoreboard(self) -> str:
        """All rows."""
        rows = [[r["stage"], r["metric"], *(show(r[k], r) for k in ("before", "after", "control")),
                 "" if r["seconds"] is None else f"{r['seconds']:.1f}"] for r in collect(self.out)]
        return f"""<h2>Scoreboard</h2>
{table_html(["stage", "held-out metric", "before", "after", "control", "seconds"], rows, "board")}
<p class=small>Measured in this run on names whose questions, and on sums, that no training text contained.
Held-out names do occur in statements: this is recall of facts that were read but never asked about.</p>
{self.files("08_inference/scoreboard.py", "07_alignment/skills.py", "03_training/recall.py")}"""

    def page(self) -> str:
        """The whole document; chapters that this run left out are left out."""
        story = {"06_data": self.data, "01_tokenizer": self.tokenizer, "03_training": self.training,
                 "04_systems": self.systems, "05_scaling": self.scaling, "07_alignment": self.alignment,
                 "08_inference": self.inference}
        inference = self.metrics["08_inference"]
        made = (f"made with Python {platform.python_version()}, torch {torch.__version__}, numpy "
                f"{np.__version__} on {platform.system()} {platform.machine()}")
        return f"""<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width"><title>Five Pillars: the life of one small model</title>
<style>{STYLE}</style>
<h1>The life of one small model</h1>
<p>From raw text to an assistant that is served, on one machine. Seed {inference["seed"]}, {made},
{date.today().isoformat()}. Everything below was measured in this run; <code>make</code> makes it again.</p>
{"".join(part() for name, part in story.items() if name in self.metrics)}
{self.scoreboard()}
<h2>Where the time went</h2>{self.spent()}</html>
"""


@results_of_this_code()
def write_report(out: Path | str) -> None:
    """Write `out`/report.html from the results of all chapters. ValueError: they are of other code."""
    with atomic(Path(out) / "report.html") as temporary:
        temporary.write_text(Report(Path(out)).page(), encoding="utf-8")
