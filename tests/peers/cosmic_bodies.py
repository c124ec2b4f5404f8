"""Mutate the bodies of the exercises with cosmic-ray's operators and count the mutants that the tests reject.

Adds to `learn.py prove`: those wrong answers were thought of, these were not. cosmic-ray makes the mutants;
the worker of learn_run.py runs the tests, because a fork costs a tenth of a second and a process with torch
seconds. A survivor is a hole in the tests, or another way to write the same: cosmic_equivalent.py says why.
cosmic-ray knows no CUDA C++, so the kernels' bodies get the same kinds of changes by text.

    pip install cosmic-ray && python tests/peers/cosmic_bodies.py 3 7 c

All 9,685 mutants take about two hours of a busy core. `--part 1/4` takes a random quarter of each
exercise's, and the four quarters are all of them.
"""

import argparse
import random
import re
import sys
import tempfile
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from cosmic_equivalent import EQUIVALENT  # noqa: E402
from learn_bodies import course, find  # noqa: E402
from learn_run import Bench  # noqa: E402
from learn_trees import copy_tree  # noqa: E402

SWAPS = [(" < ", " <= "), (" <= ", " < "), (" > ", " >= "), (" >= ", " > "), (" == ", " != "),
         (" != ", " == "), (" + ", " - "), (" - ", " + "), (" * ", " + "), (" / ", " * "), (" % ", " / "),
         (" += ", " -= "), (" -= ", " += "), (" *= ", " += "), (" && ", " || "), (" || ", " && "),
         ("fmaxf(", "fminf("), ("max(", "min("), ("min(", "max("), ("__syncthreads();", ";"),
         ("__syncwarp();", ";"),
         ("continue;", ";"), ("break;", ";"), ("++", "--")]


def kernel_mutants(body: str) -> dict[str, str]:
    """The bodies of CUDA C++ that differ by one operator, one call, or a whole number that is one larger."""
    found = {}
    for i, line in enumerate(lines := body.splitlines(keepends=True)):
        code = line.split("//")[0]
        places = [(m.start(), m.end(), new) for old, new in SWAPS for m in re.finditer(re.escape(old), code)]
        numbers = re.finditer(r"(?<![\w.])\d+(?![\w.])", code)
        places += [(m.start(), m.end(), str(int(m[0]) + 1)) for m in numbers]
        for start, end, new in places:
            changed = line[:start] + new + line[end:]
            found[f"{line.strip()}  ->  {changed.strip()}"] = "".join([*lines[:i], changed, *lines[i + 1:]])
    return found


def mutants(text: str, exercise) -> dict[str, str]:
    """The bodies that differ from the reference by one cosmic-ray mutation: {what changed: body}."""
    if exercise.comment != "#":
        return kernel_mutants(exercise.body)
    first, last = exercise.line + 1, exercise.line + len(exercise.body.splitlines())
    tree, found = get_ast(text), {}
    for name in cosmic_ray.plugins.operator_names():
        if cosmic_ray.plugins.get_operator(name).arguments():
            continue
        operator = cosmic_ray.plugins.get_operator(name)()
        places = [start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        for occurrence, (line, _) in enumerate(places):
            if first <= line <= last and (changed := mutate_code(text, operator, occurrence)):
                body = next(e.body for e in find(changed, exercise.path) if e.id == exercise.id)
                old, new = exercise.body.splitlines(), body.splitlines()
                at = [i for i, (a, b) in enumerate(zip(old, new)) if a != b]
                if at:
                    found[f"{old[at[0]].strip()}  ->  {new[at[0]].strip()}"] = body
    return found


def equivalent(id: str, what: str) -> list[str]:
    """The pieces of EQUIVALENT by which this mutant is known to mean the same as the reference."""
    before, after = what.split("  ->  ")
    return [piece for e, piece, _ in EQUIVALENT if id == e and piece in after and piece not in before]


def main(names: list[str], part: str) -> int:
    """Print the survivors and the score of each exercise named, or of all exercises of a chapter."""
    which, parts = map(int, part.split("/")) if re.fullmatch(r"\d+/\d+", part) else (0, 0)
    if not 1 <= which <= parts:
        raise SystemExit(f"error: --part {part}: give 2/4 for the second of four quarters")
    alive = 0
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        copy_tree(ROOT, base)
        exercises = course(ROOT)
        ids = [id for name in names or [""] for id in exercises if name in ("", id, id.split(".")[0])]
        with Bench(ROOT, base) as bench:
            bench.warm(ids)
            for id in ids:
                exercise, killed, same, needed = exercises[id], 0, 0, set()
                made = sorted(mutants((ROOT / exercise.path).read_text(encoding="utf-8"), exercise).items())
                fits = {piece for what, _ in made for piece in equivalent(id, what)}
                for piece in [p for e, p, _ in EQUIVALENT if e == id and p not in fits]:
                    print(f" {id:<5} has no mutant with {piece!r}: take it out of EQUIVALENT", flush=True)
                random.Random(0).shuffle(made)
                made = made[which - 1::parts]
                for what, body in made:
                    # most fall under the first seed: then the two others need not run
                    if not all(bench.run(id, body, seeds, seconds=10, stops=1).passed
                               for seeds in ([0], None)):
                        killed += 1
                    elif pieces := equivalent(id, what):
                        same += 1
                        needed.update(pieces)
                    else:
                        alive += 1
                        print(f" {id:<5} survives: {what}", flush=True)
                for piece in sorted(fits - needed) if parts == 1 else ():
                    print(f" {id:<5} rejects what has {piece!r}: take it out of EQUIVALENT", flush=True)
                print(f" {id:<5} {len(made)} mutants, {killed} rejected, {same} equivalent, "
                      f"{len(made) - killed - same} survive", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="exercises or chapters: 2.1 7 c; without them all")
    parser.add_argument("--part", default="1/1", help="2/4: the second of four random quarters")
    sys.exit(main(**vars(parser.parse_args())))
