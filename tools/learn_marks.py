"""What `grade` writes: results for Gradescope, a table, a page to read, tables for Canvas and Moodle.

Adds to learn_grade.py: totals, late days, and four formats. An answer that could not be judged has no points
yet: its cell is empty, and a hand-in with such an answer is left out of what a learning platform would
import.
"""

import csv
import html
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from learn_bodies import lines_of, text_of, write

FORMULA = ("=", "+", "-", "@", "\t", "\r")
PAGE = """<!doctype html><meta charset="utf-8"><title>Grades</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { border: 1px solid #999; padding: .2rem .6rem; text-align: left }
pre { background: #f4f4f4; color: #111; padding: .6rem; overflow-x: auto }
</style>"""


def total(results: list) -> float:
    """The points of a hand-in, as far as it was judged."""
    return round(sum(r.score or 0 for r in results), 1)


def most(results: list) -> int:
    """The points that it could have."""
    return sum(r.exercise.points for r in results)


def complete(results: list) -> bool:
    """Was every answer judged?"""
    return all(r.score is not None for r in results)


@dataclass
class Lateness:
    """Days late by hand-in; `free` of them cost nothing, each one more `percent` of the points."""

    days: dict = field(default_factory=dict)
    free: int = 0
    percent: float = 10

    @classmethod
    def read(cls, asked) -> "Lateness":
        """From --late FILE.csv (columns submission and days), --free-days and --late-percent."""
        days = {}
        for row in table_of(asked.late, "submission", "days") if asked.late else ():
            if not row["days"].strip().isdecimal():
                raise ValueError(f"{asked.late}: {row['days']!r} is no number of days for "
                                 f"{row['submission']}: write 0, 1, 2, ...")
            days[row["submission"]] = int(row["days"])
        return cls(days, asked.free_days, asked.late_percent)

    def factor(self, name: str) -> float:
        """What share of the points is left."""
        late = entry(self.days, name, 0)
        return max(0.0, 1 - max(0, late - self.free) * self.percent / 100)

    def final(self, name: str, results: list) -> float:
        """The points after late days."""
        return round(total(results) * self.factor(name) + 1e-9, 1)

    def summary(self, name: str, results: list) -> str:
        """One line about a hand-in."""
        late = "" if self.factor(name) == 1 else f", late: {self.final(name, results):g}"
        open_ = sum(r.score is None for r in results)
        missing = f", {open_} not judged" if open_ else ""
        return f"{name}: {total(results):g} of {most(results)}{late}{missing}"


def entry(known: dict, name: str, none):
    """What is known of a hand-in, whether its zip is called `ada` or `ada.zip` there."""
    stem = name.removesuffix(".zip")
    return next((known[key] for key in (name, stem, f"{stem}.zip") if key in known), none)


def table_of(file: str, *columns: str) -> list[dict]:
    """The rows of a CSV file with a header, a missing cell as "". ValueError: it lacks a column.

    Its cells are apart by comma, or by semicolon or tab, as Excel writes them in much of the world.
    """
    lines = lines_of(text_of(Path(file)))
    between = max(",;\t", key=(lines or [""])[0].count)
    rows = csv.DictReader(lines, delimiter=between, restval="", skipinitialspace=True)
    missing = [c for c in columns if c not in (rows.fieldnames or [])]
    if missing:
        raise ValueError(f"{file}: no column {missing[0]}: its first line must hold {', '.join(columns)}")
    return [{name: unguarded(cell) for name, cell in row.items()} for row in rows]


def page(rows: dict[str, list], about: str, lateness: Lateness) -> str:
    """The page to read: a table, then each answer with what its tests said."""
    def points(score) -> str:
        return "not judged" if score is None else f"{score:g}"

    ids = [r.exercise.id for r in next(iter(rows.values()))]
    head = "".join(f"<th>{html.escape(i)}" for i in ids)
    parts = [PAGE, f"<h1>Grades</h1><table><tr><th>hand-in<th>total{head}"]
    for name, results in rows.items():
        cells = "".join(f"<td>{points(r.score)}" for r in results)
        link = html.escape(name)
        far = "" if complete(results) else " so far"
        parts.append(f"<tr><td><a href='#{link}'>{link}</a><td>{lateness.final(name, results):g}{far}{cells}")
    parts.append(f"</table><p>{html.escape(about)}")
    for name, results in rows.items():
        about_it = html.escape(lateness.summary(name, results))
        parts.append(f"<h2 id='{html.escape(name)}'>{about_it} points</h2>")
        for r in results:
            title = f"{r.exercise.id} {r.exercise.title}: {points(r.score)} of {r.exercise.points}"
            said = html.escape("\n".join(r.lines))
            parts.append(f"<h3>{html.escape(title)}</h3><p>{html.escape(r.note)}<pre>{said}</pre>"
                         f"<details><summary>the answer</summary><pre>{html.escape(r.body)}</pre></details>")
    return "\n".join(parts)


def gradescope(name: str, results: list, about: str, lateness: Lateness) -> str:
    """results.json as Gradescope reads it."""
    tests = [{"name": f"{r.exercise.id} {r.exercise.title}", "score": r.score, "max_score": r.exercise.points,
              "status": "passed" if r.score == r.exercise.points else "failed",
              "output": "\n".join([r.note] * bool(r.note) + r.lines)} for r in results]
    said = {"score": lateness.final(name, results), "output": about, "output_format": "text", "tests": tests}
    if not complete(results):
        said["output"] = f"NOT EVERYTHING COULD BE JUDGED: run again before you take these points. {about}"
        del said["score"]
        for test in (t for t in tests if t["score"] is None):
            del test["score"]
    return json.dumps(said, indent=1)


def guarded(name: str) -> str:
    """A student's name for a table: Excel runs a cell that begins so as a formula, but not behind a quote."""
    return "'" + name if name.startswith(FORMULA) else name


def unguarded(cell):
    """The name that was guarded: a table that was copied from ours finds its hand-ins."""
    quoted = isinstance(cell, str) and cell.startswith("'") and cell[1:].startswith(FORMULA)
    return cell[1:] if quoted else cell


def table(header: list, rows: list) -> str:
    """CSV."""
    out = io.StringIO()
    csv.writer(out).writerows([header, *rows])
    return out.getvalue()


def roster_of(asked) -> dict[str, dict]:
    """Who is who, by hand-in, from --roster FILE.csv.

    Its columns are submission and any of name, id, login, email, section.
    """
    return {r["submission"]: r for r in table_of(asked.roster, "submission")} if asked.roster else {}


def platforms(rows: dict, lateness: Lateness, roster: dict, title: str) -> dict[str, str]:
    """canvas.csv and moodle.csv."""
    people = []
    for name, results in rows.items():
        if complete(results):
            who = entry(roster, name, {})
            login = who.get("login") or guarded(name.removesuffix(".zip"))
            people.append((who.get("name") or login, who.get("id") or "", login, who.get("email") or "",
                           who.get("section") or "", f"{lateness.final(name, results):g}"))
    possible = most(next(iter(rows.values())))
    canvas = [["    Points Possible", "", "", "", "", possible]]
    canvas += [[name, "", id, login, section, points] for name, id, login, _, section, points in people]
    moodle = [[login, id, email, points] for _, id, login, email, _, points in people]
    return {"canvas.csv": table(["Student", "ID", "SIS User ID", "SIS Login ID", "Section", title], canvas),
            "moodle.csv": table(["Username", "ID number", "Email address", title], moodle)}


def write_marks(out: Path, rows: dict, about: str, lateness: Lateness, roster: dict,
                asked) -> list[Path]:
    """Write all files below `out`; returns the ones to look at."""
    for name, results in rows.items():
        where = out / name if asked.many else out
        where.mkdir(parents=True, exist_ok=True)
        write(where / "results.json", gradescope(name, results, about, lateness))
    header = ["submission", "total", *(r.exercise.id for r in next(iter(rows.values()))), "after late days",
              "not judged"]
    lines = []
    for name, results in rows.items():
        scores = ["" if r.score is None else f"{r.score:g}" for r in results]
        lines.append([guarded(name), f"{total(results):g}" if any(scores) else "", *scores,
                      f"{lateness.final(name, results):g}" if complete(results) else "", scores.count("")])
    files = {"grades.csv": "\ufeff" + table(header, lines),   # the mark by which Excel knows UTF-8
             "grades.html": page(rows, about, lateness)}
    files |= platforms(rows, lateness, roster, asked.assignment) if asked.many else {}
    for name, text in files.items():
        write(out / name, text)
    return [out / name for name in files]
