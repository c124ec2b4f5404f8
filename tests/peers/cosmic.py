"""cosmic-ray on the exercise bodies: every change that it knows, one at a time, judged by the tests.

Adds to `learn.py prove`, whose wrong answers are written by hand. Too slow for CI: a second a mutant.

    .venv/bin/pip install cosmic-ray
    .venv/bin/python tests/peers/cosmic.py 2 3.1       chapters or ids; all without
"""

import sys
import tempfile
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from learn_bodies import Exercise, course, find  # noqa: E402
from learn_run import Bench, copy_tree  # noqa: E402


def mutated_bodies(file: Path, exercises: list[Exercise]):
    """Yield (exercise, changed body) for every change that cosmic-ray makes inside one of the bodies."""
    text = file.read_text(encoding="utf-8")
    spans = [(e, e.line, e.line + len(e.body.splitlines())) for e in exercises]
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = [
            start for node in ast_nodes(get_ast(text)) for start, _ in operator().mutation_positions(node)
        ]
        for occurrence, (row, _) in enumerate(places):
            for exercise, first, last in spans:
                if first < row <= last and (changed := mutate_code(text, operator(), occurrence)):
                    yield exercise, next(e.body for e in find(changed) if e.id == exercise.id)


def main() -> int:
    """Print each survivor and the score of each exercise; the exit status is 1 if anything survives."""
    asked = sys.argv[1:]
    exercises = [
        e
        for e in course(ROOT).values()
        if e.comment == "#" and (not asked or e.id in asked or e.id.split(".")[0] in asked)
    ]
    survived = total = 0
    with tempfile.TemporaryDirectory(prefix="cosmic-") as place:
        copy_tree(ROOT, Path(place) / "base")
        with Bench(ROOT, Path(place) / "base") as bench:
            for exercise in exercises:
                mine = dict.fromkeys(body for _, body in mutated_bodies(ROOT / exercise.path, [exercise]))
                mine.pop(exercise.body, None)
                alive = [body for body in mine if bench.run(exercise.id, body, seconds=10, stops=1).passed]
                for body in alive:
                    lines = zip(exercise.body.splitlines(), body.splitlines())
                    for line in (new.strip() for old, new in lines if old != new):
                        print(f"   survives: {line}", flush=True)
                killed = len(mine) - len(alive)
                print(f" {exercise.id:<5} {exercise.title:<32} {killed} of {len(mine)} rejected", flush=True)
                survived, total = survived + len(alive), total + len(mine)
    print(f" {total - survived} of {total} rejected")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
