"""Mutate the bodies of the exercises with cosmic-ray's operators and count the mutants that the tests reject.

Adds to `learn.py prove`: those wrong answers were thought of, these were not. cosmic-ray makes the mutants; the worker
of learn_run.py runs the tests, because a fork costs a tenth of a second and a new process with torch several seconds.
A survivor is a hole in the tests, or another way to write the same: EQUIVALENT says why.

    pip install cosmic-ray && python tests/peers/cosmic_bodies.py 3 7
"""

import sys
import tempfile
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from learn_bodies import course, find  # noqa: E402
from learn_run import Bench, copy_tree  # noqa: E402

EQUIVALENT = {}


def mutants(text: str, exercise) -> dict[str, str]:
    """The bodies that differ from the reference by one cosmic-ray mutation: {what changed: body}."""
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


def main(chapters: list[str]) -> int:
    """Print the survivors of each exercise and the score of each chapter."""
    unknown = 0
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        copy_tree(ROOT, base)
        exercises = course(ROOT)
        with Bench(ROOT, base) as bench:
            for chapter in chapters:
                ids = [id for id in exercises if id.split(".")[0] == chapter]
                bench.warm(ids)
                made = killed = same = 0
                for id in ids:
                    e = exercises[id]
                    for what, body in mutants((ROOT / e.path).read_text(encoding="utf-8"), e).items():
                        made += 1
                        if not bench.run(id, body, seconds=10, stops=1).passed:
                            killed += 1
                        elif (id, what) in EQUIVALENT:
                            same += 1
                        else:
                            unknown += 1
                            print(f" {id:<5} survives: {what}", flush=True)
                print(
                    f" chapter {chapter}: {made} mutants, {killed} rejected, {same} equivalent, "
                    f"{made - killed - same} survive: {killed / max(made - same, 1):.1%}",
                    flush=True,
                )
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["1", "2", "3", "7", "8"]))
