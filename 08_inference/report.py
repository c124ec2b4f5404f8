"""The report: one HTML file with the scoreboard, the figures and conversations, readable in light and dark, offline.

    make                                   writes out/report.html
"""
import html
from pathlib import Path

from scoreboard import collect, show
from workbench import atomic, read_json

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2), .talk th, .talk td { text-align: left; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption, .small { font-size: .9rem; opacity: .8; }
.wide { overflow-x: auto; } td.talk { white-space: pre-wrap; }
"""
CAPTIONS = {
    "01_tokenizer/compression": "A token of a larger vocabulary covers more bytes, with diminishing returns.",
    "03_training/loss": "Training loss. The first phase shows sums only; the second starts high because text is new.",
    "07_alignment/reward": "Share of right answers among the samples of each GRPO step, on sums drawn fresh for the step.",
}


def scoreboard_html(rows: list[dict]) -> str:
    """The rows as a table."""
    cells = ["<tr><th>stage</th><th>held-out metric</th><th>before</th><th>after</th><th>control</th><th>seconds</th></tr>"]
    for r in rows:
        numbers = [show(r[k], r) for k in ("before", "after", "control")] + ["" if r["seconds"] is None else f"{r['seconds']:.1f}"]
        cells.append(f"<tr><td>{r['stage']}</td><td>{html.escape(r['metric'])}</td>" + "".join(f"<td>{n}</td>" for n in numbers) + "</tr>")
    return f"<div class=wide><table>{''.join(cells)}</table></div>"


def conversations_html(samples: list[dict]) -> str:
    """What the model said to the same held-out questions before and after each stage."""
    stages = [k for k in samples[0] if k != "question"]
    head = "<tr><th>asked</th>" + "".join(f"<th>{s}</th>" for s in stages) + "</tr>"
    body = "".join(f"<tr><td>{html.escape(s['question'])}</td>" +
                   "".join(f"<td class=talk>{html.escape(s[k][:120])}</td>" for k in stages) + "</tr>" for s in samples)
    return f"<div class=wide><table class=talk>{head}{body}</table></div>"


def write_report(out: Path | str) -> None:
    """Write `out`/report.html from the results of all chapters."""
    out = Path(out)
    metrics = {p.parent.name: read_json(p) for p in sorted(out.glob("0*/metrics.json"))}
    int4, seed = metrics["08_inference"]["int4"], metrics["08_inference"]["seed"]
    tokens = metrics["01_tokenizer"]["tokens"]
    figures = "".join(f"<figure>{Path(out, f'{name}.svg').read_text(encoding='utf-8')}<figcaption>{caption}</figcaption></figure>"
                      for name, caption in CAPTIONS.items())
    times = "".join(f"<tr><td>{name}</td><td></td><td>{m['seconds']:.0f} s</td></tr>" for name, m in metrics.items())
    page = f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>Five Pillars: the life of one small model</title><style>{STYLE}</style>
<h1>The life of one small model</h1>
<p>{metrics["02_transformer"]["parameters"]:,} parameters, pretrained on {sum(tokens.values()):,} tokens
({", ".join(f"{n:,} {name}" for name, n in tokens.items())}) and on sums, then SFT, DPO and GRPO. Seed {seed}.
{int4["bytes_before"] / 1e6:.2f} MB in fp32, {int4["bytes_after"] / 1e6:.2f} MB in four bits.</p>
<h2>Scoreboard</h2>{scoreboard_html(collect(out))}
<p class=small>Measured in this run on names whose questions, and on sums, that no training text contained. Held-out names
do occur in statements: this is recall of facts that were read but never asked about.</p>
<h2>The same questions after each stage</h2>{conversations_html(metrics["07_alignment"]["samples"])}
<p class=small>Sums are written ones digit first: 163+423=5860 is 361 + 324 = 0685. The pretrained model has never seen the
chat form.</p>
<h2>Figures</h2>{figures}
<h2>Where the time went</h2><table>{times}</table></html>
"""
    with atomic(out / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
