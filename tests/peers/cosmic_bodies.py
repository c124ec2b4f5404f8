"""Mutate the bodies of the exercises with cosmic-ray's operators and count the mutants that the tests reject.

Adds to `learn.py prove`: those wrong answers were thought of, these were not. cosmic-ray makes the mutants; the
worker of learn_run.py runs the tests, because a fork costs a tenth of a second and a process with torch seconds.
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
sys.path.insert(0, str(ROOT / "tools"))

from learn_bodies import course, find  # noqa: E402
from learn_run import Bench, copy_tree  # noqa: E402

# Mutants that mean the same as the reference: (exercise, a piece of the mutated line that is new, why).
EQUIVALENT = [
    ("1.2", "while i !=", "i never passes the end"),
    ("1.2", "i + 1 !=", "i is below the length here"),
    ("1.6", "~counts", "~c is -c - 1: the same order"),
    ("1.6", "continue", "without pairs the other rounds do nothing"),
    ("1.8", "<= 0xC0", "no UTF-8 text has the byte C0"),
    ("1.8", "< 193", "no UTF-8 text has the byte C0"),
    ("1.8", "< 191", "bytes 80 to BF do not come here"),
    ("1.8", "[~3:]", "no character of four bytes is unfinished"),
    ("1.8", "[not 3:]", "no character of four bytes is unfinished"),
    ("1.8", "[- 4:]", "no character of four bytes is unfinished"),
    ("1.8", "length = 0", "the one byte is there"),
    ("1.8", "else 5", "it is compared with three at most"),
    ("2.4", "group <= 1", "a group is never smaller than 1"),
    ("2.7", "temperature <= 0", "a temperature is never below 0"),
    ("2.7", "argmax(+1", "the last axis of (B, V) is axis 1"),
    ("2.7", "argmax(1", "the last axis of (B, V) is axis 1"),
    ("2.10", ' is "', "the names are interned strings"),
    ("2.10", '<= "layer"', "the only other norm, rms, sorts after it"),
    ("2.10", '>= "swiglu"', "all other activations sort before it"),
    ("2.10", '>= "pre"', "the only other placement, post, sorts before it"),
    ("2.10", "2 * L |", "2 L is even, so adding one is setting the last bit"),
    ("2.10", "2 * L ^", "2 L is even, so adding one is flipping the last bit"),
    ("2.12", "T >= 1", "the mask of one newest query hides nothing"),
    ("2.12", "T > 0", "the mask of one newest query hides nothing"),
    ("2.12", "T != 1", "there is at least one query"),
    ("2.12", "shape[2]", "the last axis but one of four is axis 2"),
    ("2.12", "shape[+2]", "the last axis but one of four is axis 2"),
    ("2.12", "transpose(-1, 2)", "the last axis but one of four is axis 2"),
    ("2.12", "transpose(-1, +2)", "the last axis but one of four is axis 2"),
    ("2.13", ' is "', "the names are interned strings"),
    ("2.13", '<= "alibi"', "all other positions sort after it"),
    ("2.13", '>= "rope"', "all other positions sort before it"),
    ("3.3", "step <= n_warmup", "both branches give 1 at that step"),
    ("3.4", "norm >= max_norm", "at the limit the factor is 1"),
    ("3.5", "targets > IGNORE", "ids are never negative"),
    ("3.5", "logsumexp(+1", "the last axis of (N, V) is axis 1"),
    ("3.5", "logsumexp(1", "the last axis of (N, V) is axis 1"),
    ("3.5", "gather(+1", "the last axis of (N, V) is axis 1"),
    ("3.5", "gather(1", "the last axis of (N, V) is axis 1"),
    ("3.5", "[:, -1]", "the axis has length 1"),
    ("3.9", "scatter_add_(+1", "the last axis of (N, V) is axis 1"),
    ("3.9", "scatter_add_(1", "the last axis of (N, V) is axis 1"),
    ("3.9", "d[:, : 2]", "scatter_add_ reads as many columns as there are indices"),
    ("3.10", "targets > IGNORE", "ids are never negative"),
    ("3.11", "-2] >= G", "a square matrix may be transposed there and back"),
    ("7.2", "encode(c)[ -1]", "each of the three characters is one token"),
    ("7.5", ">= 3", "no preference is above 3"),
    ("7.5", "3 != min", "no preference is above 3"),
    ("7.5", "3 is not min", "no preference is above 3"),
    ("7.7", "y > IGNORE", "ids are never negative"),
    ("7.7", "[..., -1] -", "the axis has length 1"),
    ("8.1", "k == 0", "pick refuses a negative k"),
    ("8.1", "k > logits", "for k = V no logit is below the smallest"),
    ("8.1", "shape[+1]", "the last axis of (B, V) is axis 1"),
    ("8.1", "shape[1]", "the last axis of (B, V) is axis 1"),
    ("8.1", "dim=+1", "the last axis of (B, V) is axis 1"),
    ("8.1", "dim=1", "the last axis of (B, V) is axis 1"),
    ("8.3", "+ (unsigned", "the two halves share no bit"),
    ("8.3", "^ (unsigned", "the two halves share no bit"),
    ("8.5", "p == 1", "pick refuses a p above 1"),
    ("8.5", "dim=+1", "the last axis of (B, V) is axis 1"),
    ("8.5", "dim=1", "the last axis of (B, V) is axis 1"),
    ("8.5", "cumsum(+1", "the last axis of (B, V) is axis 1"),
    ("8.5", "cumsum(1", "the last axis of (B, V) is axis 1"),
    ("8.5", "scatter(+1", "the last axis of (B, V) is axis 1"),
    ("8.5", "scatter(1", "the last axis of (B, V) is axis 1"),
    ("8.7", "1 != T", "the position never passes the end"),
    ("8.7", "argmax(+1", "the last axis of (B, V) is axis 1"),
    ("8.7", "argmax(1", "the last axis of (B, V) is axis 1"),
    ("8.7", "[:, - 0]", "the axis has length 1"),
    ("8.8", "-top ^ 1", "top is odd, so this is -top - 1"),
    ("8.8", "<= best_error", "two scales with one error are as good"),
    ("8.8", "best[..., -1]", "the axis has length 1"),
]


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


def equivalent(id: str, what: str) -> bool:
    """Is this mutant known to mean the same as the reference?"""
    before, after = what.split("  ->  ")
    return any(id == e and piece in after and piece not in before for e, piece, _ in EQUIVALENT)


def main(names: list[str]) -> int:
    """Print the survivors and the score of each exercise named, or of all exercises of a chapter."""
    alive = 0
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "base"
        copy_tree(ROOT, base)
        exercises = course(ROOT)
        ids = [id for name in names or [""] for id in exercises if name in ("", id, id.split(".")[0])]
        with Bench(ROOT, base) as bench:
            bench.warm(ids)
            for id in ids:
                exercise, killed, same = exercises[id], 0, 0
                made = mutants((ROOT / exercise.path).read_text(encoding="utf-8"), exercise)
                for what, body in made.items():
                    if not bench.run(id, body, seconds=10, stops=1).passed:
                        killed += 1
                    elif equivalent(id, what):
                        same += 1
                    else:
                        alive += 1
                        print(f" {id:<5} survives: {what}", flush=True)
                print(
                    f" {id:<5} {len(made)} mutants, {killed} rejected, {same} equivalent, "
                    f"{len(made) - killed - same} survive",
                    flush=True,
                )
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
