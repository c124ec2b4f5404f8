"""The tables of the report: each turns one chapter's metrics into rows that a reader can take in at a glance.

    make                                   writes them into out/report.html
"""
import html
from collections.abc import Sequence
from statistics import mean


def table_html(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls by itself where the page is narrow; head and cells are text, escaped here."""
    top = "<thead><tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + "</tr></thead>"
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class=wide><table class="{kind}">{top}{"".join(lines)}</table></div>'


def funnel_table(stages: list[dict]) -> str:
    """What each stage of chapter 6 kept, and the most frequent reasons for what it did not keep."""
    rows = []
    for s in stages:
        reasons = sorted(s["reasons"].items(), key=lambda item: -item[1])
        said = ", ".join(f"{why} ({n})" for why, n in reasons[:3])
        rows.append([s["stage"], f"{s['documents_in']:,}", f"{s['documents_out']:,}",
                     f"{s['bytes_out'] / 1e6:.2f} MB", said + (" and others" if len(reasons) > 3 else "")])
    return table_html(["stage", "documents in", "out", "text out", "dropped most often"], rows, "why")


def ladder_table(ladder: dict[str, dict]) -> str:
    """Bits a byte and recall of one small model trained on each stage's text, mean over its seeds."""
    rows = [[name, f"{mean(r['bits_per_byte']):.3f}", f"{mean(r['recall']):.0%}"]
            for name, r in ladder.items()]
    return table_html(["trained on", "held-out bits a byte", "facts recalled"], rows)


def strategies_table(strategies: dict[str, dict]) -> str:
    """Chapter 4's ways to split a model: what a rank keeps and sends, predicted and measured."""
    def pair(values: Sequence[float]) -> str:
        predicted, measured = values
        return f"{predicted / 1e6:.2f} / {measured / 1e6:.2f}"
    rows = [[name.replace("_", " "), str(r["ranks"]), pair(r["state"]), pair(r["sent"]),
             f"{r['weight_error']:.0e}"] for name, r in strategies.items()]
    return table_html(["strategy", "ranks", "state, MB: predicted / real", "sent, MB: predicted / real",
                       "weights differ by"], rows)


def forecast_table(scaling: dict) -> str:
    """What chapter 5 said before the main model was trained, and what came."""
    real = scaling["real_text"]
    expected, low, high = real["forecast"]
    rows = [["this model, real text, bits a byte", f"{expected:.3f}", f"{low:.3f} to {high:.3f}",
             f"{real['measured']:.3f}", f"{expected / real['measured'] - 1:+.1%}"]]
    for one in scaling["known_source"]["forecasts"]:
        rows.append([f"{one['times']:.1f} times the compute, known source, seed {one['seed']}",
                     f"{one['loss']:.3f}", f"{one['low']:.3f} to {one['high']:.3f}",
                     f"{one['measured']:.3f}", f"{one['error']:+.1%}"])
    return table_html(["run", "forecast", "interval", "measured", "error"], rows)


def speed_table(inference: dict) -> str:
    """Chapter 8's ratios: how many times as fast, with the same output."""
    rows = [[name, f"{inference[key]['speedup']:.2f}", "yes" if inference[key]["same_output"] else "NO"]
            for key, name in (("cache", "decoding with a cache, without = 1"),
                              ("batching", "16 requests together, one by one = 1"),
                              ("speculation", "drafts from the prompt on text that repeats, without = 1"))]
    return table_html(["what", "times as fast", "same output"], rows)
